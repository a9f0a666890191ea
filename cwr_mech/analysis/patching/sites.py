"""Where does a task read a city? The site chosen by cause: interchange interventions on the residual stream.

For a pair of questions that differ in one city, the residual stream of the clean run at one layer and token
position is replaced by that of the source (counterfactual) run, and the answer decoded. Where the answer
becomes that of the source, everything that the answer takes from the city passes through that site (Geiger
et al. 2021, arXiv 2106.02997; Heimersheim & Nanda, arXiv 2404.15255). What a probe can decode at a site says
nothing of this: places are decoded best where no answer reads them any more.

iia     share of pairs whose answer is the model's own answer to the source question, within `tolerance`
        (a share of the constant-prediction baseline's mean error; 0 for labels) and nearer to it than to the
        clean answer. The model's own answer, not the truth: a model's error is not the intervention's
truth   the same against the true answer, within the tolerance by which the pairs were chosen
slope   sum(dt * da) / sum(dt ** 2), where dt is the change of the true answer from clean to source and da
        the change of the decoded answer: 1 when answers go all the way, 0 when they stay; numbers only
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.stats import binomtest

from cwr_mech.activations.extract import model_digest
from cwr_mech.activations.site import EMBED, Site
from cwr_mech.analysis.best import HALF, carrying
from cwr_mech.analysis.patching.cells import Cell, ends_of_id, swapped_span
from cwr_mech.analysis.patching.interchange import NEAR, interchange, interchange_rows
from cwr_mech.analysis.patching.layout import INTERCHANGE
from cwr_mech.analysis.patching.pairs import NoPairs, Pairs, find_pairs
from cwr_mech.errors import AnalysisError, UnknownName
from cwr_mech.model.decoding import decode_text
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.results import Result, Row
from cwr_mech.tasks.registry import get_task
from cwr_mech.world.cities import World


@dataclass(frozen=True)
class CausalSites:
    """What interchanging each site of a city does to the answers of one task in one model.

    `rows`: slot (which city of the question, from 0), layer, component, position, n, iia with its 95 %
    interval lo to hi over pairs (Wilson), truth, slope with slope_lo and slope_hi (bootstrap over swapped
    cities), weak. `tolerance` is a share of the constant-prediction baseline's mean error.
    """

    task: str
    cities: str
    n_layers: int
    tolerance: float
    rows: tuple[Mapping[str, Any], ...]

    def row(self, site: Site, *, slot: int = 0) -> Mapping[str, Any]:
        """The row of a site. Raises UnknownName for one that was not interchanged."""
        found = {str(_site(row)): row for row in self.rows if row["slot"] == slot}
        if str(site) not in found:
            raise UnknownName("site", str(site), found)
        return found[str(site)]

    def flag(self, site: Site) -> bool:
        """Whether a site is causally weak: interchanging it moves less than half of the answers.

        A site after the final norm is weak: what stands there at a city is read by no answer.
        """
        return site.number(self.n_layers) >= self.n_layers or bool(self.row(site)["weak"])

    def reading(self, slot: int = 0) -> Site:
        """Where city `slot` is read: the last site that carries the whole effect.

        Up to there the answer takes what it needs of the city from this state, or from these states side by
        side; above it, other positions have read it. "Whole" is FULL of the strongest site's iia (see
        `best.carrying`); the last is the highest layer, there the fewest positions, then the last position. A
        model that reads the city nowhere gets a site that `flag` calls weak.
        """
        whole = carrying(row for row in self.rows if row["slot"] == slot)
        top = [row for row in whole if row["layer"] == whole[-1]["layer"]]
        fewest = min(row["position"].count("+") for row in top)
        return _site([row for row in top if row["position"].count("+") == fewest][-1])

    @property
    def primary(self) -> Site:
        """Where the first city of a question is read."""
        return self.reading(min(row["slot"] for row in self.rows))


def _site(row: Mapping[str, Any]) -> Site:
    return Site(row["layer"], row["component"], row["position"])


def causal_sites(
    model: HookedQwen2,
    world: World,
    task: str,
    *,
    n_pairs: int = 64,
    seed: int = 0,
    cities: str = "old",
    slots: Sequence[int] = (0,),
    tolerance: float = NEAR,
) -> CausalSites:
    """Interchange every layer and token position of the cities `slots` (from 0) of a task's questions.

    `cities`: "old" swaps one training city for another, "new" puts a training city in a new one's place.
    Layers are the embedding and the residual stream after every block; positions each digit of the id, the
    delimiter after it, and the last two digits, three, ... together: a model may hold apart what the first
    and the second half of an id say, and put them together only where it answers. Pairs are test questions
    that the model answers well (see `find_pairs`).
    Raises UnknownName, or NoPairs when the model answers too few of them.
    """
    definition = get_task(task)
    answerer = partial(decode_text, model, max_new_tokens=definition.max_answer_tokens)
    rows: list[Row] = []
    for slot in slots:
        pairs = find_pairs(answerer, world, task, n_pairs, seed=seed, group=cities, slot=slot)
        rows += _interchanged(model, pairs, tolerance, slot, np.random.default_rng([seed, 13]))
    return CausalSites(task, cities, model.cfg.n_layers, tolerance, tuple(rows))


def _interchanged(
    model: HookedQwen2, pairs: Pairs, near: float, slot: int, rng: np.random.Generator
) -> list[Row]:
    """Rows of all sites of one city, layer by layer and position by position."""
    digits = [f"digit{n}" for n in range(1, pairs.id_digits)]
    sites = [
        Site(layer, EMBED if layer < 0 else "resid_post", position)
        for layer in range(-1, model.cfg.n_layers)
        for position in (*ends_of_id(pairs.id_digits), *digits, "last_digit", "delimiter")
    ]
    found = interchange(model, pairs, [_cell(site) for site in sites], conditions=INTERCHANGE[1:])
    measured = interchange_rows(found, pairs, rng, near=near)
    rows = []
    for site, row in zip(sites, measured, strict=True):
        interval = binomtest(round(row["iia"] * row["n"]), row["n"]).proportion_ci(method="wilson")
        kept = ("n", "iia", "lo", "hi", "truth", "slope", "slope_lo", "slope_hi")
        ends = {"lo": float(interval.low), "hi": float(interval.high), "weak": row["iia"] < HALF}
        rows.append({"slot": slot} | vars(site) | {name: row[name] for name in kept} | ends)
    return rows


def _cell(site: Site) -> Cell:
    """The patch of a site of the swapped city."""
    span = swapped_span(site.position)
    if site.component == EMBED:
        return Cell("resid_pre", 0, None, span)
    return Cell(site.component, site.number(), None, span)


_KNOWN: dict[tuple[Any, ...], CausalSites | NoPairs] = {}
"""What was found, or why it cannot be: that takes as many answers to learn."""


def known_sites(model: HookedQwen2, world: World, task: str) -> CausalSites:
    """`causal_sites`, computed once for equal weights, world and task in one process, refusals too."""
    key = (model_digest(model), world.sha256, task)
    if key not in _KNOWN:
        try:
            _KNOWN[key] = causal_sites(model, world, task)
        except NoPairs as error:
            _KNOWN[key] = NoPairs(error.message, error.hint)  # without the frames that it was raised in
    known = _KNOWN[key]
    if isinstance(known, NoPairs):
        raise NoPairs(known.message, known.hint)
    return known


def first_read(model: HookedQwen2, world: World, tasks: Sequence[str]) -> CausalSites:
    """The sites of the first of `tasks` in which the model reads a city at one site, by moving at least half
    of its answers. Raises AnalysisError where there is none.
    """
    for task in tasks:
        try:
            found = known_sites(model, world, task)
        except NoPairs:
            continue
        if not found.flag(found.primary):
            return found
    raise AnalysisError(
        f"no site of this model moves half of its answers about {', '.join(tasks)}: it reads a city nowhere"
    )


def sites_result(
    found: Sequence[CausalSites], *, run: str, params: Mapping[str, Any] | None = None
) -> Result:
    """Kind "sites": table `sites` (rows of `CausalSites` with their task) and `reading` (one row a task)."""
    reading = []
    for each in found:
        for slot in dict.fromkeys(row["slot"] for row in each.rows):
            row = each.row(each.reading(slot), slot=slot)
            reading.append({"task": each.task} | {name: row[name] for name in row if name != "truth"})
    weak = [row["task"] for row in reading if row["weak"]]
    notes = [
        f"A city is read at {Site(row['layer'], row['component'], row['position'])} in {row['task']} (city "
        f"{row['slot'] + 1}): interchanging that state gives the source's answer in {row['iia']:.2f} "
        f"[{row['lo']:.2f}, {row['hi']:.2f}] of {row['n']} pairs."
        for row in reading
        if not row["weak"]
    ]
    if weak:
        notes.append(
            f"No site carries a city in {', '.join(dict.fromkeys(weak))}: even the strongest moves less than "
            "half of the answers."
        )
    rows = [{"task": each.task, "cities": each.cities, **row} for each in found for row in each.rows]
    return Result(
        kind="sites",
        params={"run": run, "runs": [run], "n_layers": found[0].n_layers, **(params or {})},
        tables={"sites": rows, "reading": reading},
        notes=notes,
    )
