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
from jaxtyping import Bool, Float64
from scipy.stats import binomtest

from cwr_mech.activations.cities import EMBED, Site
from cwr_mech.activations.extract import model_digest
from cwr_mech.analysis.patching.cells import Cell
from cwr_mech.analysis.patching.interchange import answer_values, interchange
from cwr_mech.analysis.patching.layout import SWAP
from cwr_mech.analysis.patching.pairs import TOLERANCE, Pairs, correct, find_pairs
from cwr_mech.analysis.patching.table import resample
from cwr_mech.errors import UnknownName
from cwr_mech.model.decoding import decode_text
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.results import Result
from cwr_mech.tasks.registry import get_task
from cwr_mech.world.cities import World

Row = dict[str, Any]

HALF = 0.5
"""A site whose interchange moves a smaller share of the answers is causally weak."""

FULL = 0.9
"""A site carries the whole effect when it moves at least this share of what the strongest site moves."""

NEAR = 0.05
"""Default tolerance of an interchange, as a share of the constant-prediction baseline's mean error."""


@dataclass(frozen=True)
class CausalSites:
    """What interchanging each site of a city does to the answers of one task in one model.

    `rows`: slot (which city of the question, from 0), layer, component, position, n, iia with its 95 %
    interval lo to hi over pairs (Wilson), truth, slope with slope_lo and slope_hi (bootstrap over swapped
    cities), weak. `tolerance` is in the task's unit.
    """

    task: str
    cities: str
    n_layers: int
    tolerance: float
    rows: tuple[Mapping[str, Any], ...]

    def row(
        self, layer: str | int | Site, position: str = "last_digit", *, slot: int = 0
    ) -> Mapping[str, Any]:
        """The row of a site. Raises UnknownName for a layer or position that was not interchanged."""
        site = layer if isinstance(layer, Site) else Site.parse(layer, self.n_layers, position=position)
        found = {str(_site(row)): row for row in self.rows if row["slot"] == slot}
        if str(site) not in found:
            raise UnknownName("site", str(site), found)
        return found[str(site)]

    def flag(self, layer: str | int | Site, position: str = "last_digit", *, slot: int = 0) -> bool:
        """Whether a site is causally weak: interchanging it moves less than half of the answers.

        A site after the final norm is weak: what stands there at a city is read by no answer.
        """
        site = layer if isinstance(layer, Site) else Site.parse(layer, self.n_layers, position=position)
        return site.number(self.n_layers) >= self.n_layers or bool(self.row(site, slot=slot)["weak"])

    def reading(self, slot: int = 0) -> Site:
        """Where city `slot` is read: the last site that carries the whole effect.

        Up to there the answer takes what it needs of the city from this one state; above it, other positions
        have read it. "Whole" is FULL of the strongest site's iia; the last is the highest layer, then the
        last position. A model that reads the city nowhere gets a site that `flag` calls weak.
        """
        rows = [row for row in self.rows if row["slot"] == slot]
        most = max(row["iia"] for row in rows)
        return _site([row for row in rows if row["iia"] >= FULL * most][-1])

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
    Layers are the embedding and the residual stream after every block; positions each digit of the id and
    the delimiter after it. Pairs are test questions that the model answers well (see `find_pairs`).
    Raises UnknownName, or AnalysisError when the model answers too few of them.
    """
    definition = get_task(task)
    answerer = partial(decode_text, model, max_new_tokens=definition.max_answer_tokens)
    rows: list[Row] = []
    near = 0.0
    for slot in slots:
        pairs = find_pairs(answerer, world, task, n_pairs, seed=seed, group=cities, slot=slot)
        near = tolerance * pairs.tolerance / TOLERANCE
        rows += _interchanged(model, pairs, near, slot, np.random.default_rng([seed, 13]))
    return CausalSites(task, cities, model.cfg.n_layers, near, tuple(rows))


def _interchanged(
    model: HookedQwen2, pairs: Pairs, near: float, slot: int, rng: np.random.Generator
) -> list[Row]:
    """Rows of all sites of one city, layer by layer and position by position."""
    digits = [f"digit{n}" for n in range(1, pairs.id_digits)]
    sites = [
        Site(layer, EMBED if layer < 0 else "resid_post", position)
        for layer in range(-1, model.cfg.n_layers)
        for position in (*digits, "last_digit", "delimiter")
    ]
    found = interchange(model, pairs, [_cell(site) for site in sites], arms=SWAP[1:])
    task, boot = get_task(pairs.task), resample(pairs.cluster, rng).boot
    clean, source = answer_values(task, pairs.clean_answer), answer_values(task, pairs.corrupt_answer)
    true = (pairs.corrupt_truth - pairs.clean_truth).astype(np.float64)
    rows = []
    for site, words in zip(sites, found.answer[0], strict=True):
        given = answer_values(task, words)
        hit = moved(given, source, clean, near)
        interval = binomtest(int(hit.sum()), len(hit)).proportion_ci(method="wilson")
        slopes = through_origin(true, given - clean, boot) if not task.labels else (float("nan"),) * 3
        rows.append(
            {
                "slot": slot,
                "layer": site.layer,
                "component": site.component,
                "position": site.position,
                "n": len(hit),
                "iia": float(hit.mean()),
                "lo": float(interval.low),
                "hi": float(interval.high),
                "truth": float(correct(task, words, pairs.corrupt_truth, pairs.tolerance).mean()),
                **dict(zip(("slope", "slope_lo", "slope_hi"), slopes, strict=True)),
                "weak": bool(hit.mean() < HALF),
            }
        )
    return rows


def _cell(site: Site) -> Cell:
    """The patch of a site of the swapped city."""
    span = {"last_digit": "swapped_last"}.get(site.position, f"swapped_{site.position}")
    if site.component == EMBED:
        return Cell("resid_pre", 0, None, span)
    return Cell(site.component, site.number(), None, span)


def moved(
    given: Float64[np.ndarray, " pair"],
    source: Float64[np.ndarray, " pair"],
    clean: Float64[np.ndarray, " pair"],
    near: float,
) -> Bool[np.ndarray, " pair"]:
    """Whether each answer became the source's: within `near` of it, and nearer to it than to the clean one.

    An answer that cannot be read (NaN) has not.
    """
    with np.errstate(invalid="ignore"):
        return (np.abs(given - source) <= near) & (np.abs(given - source) < np.abs(given - clean))


def through_origin(
    true: Float64[np.ndarray, " pair"],
    change: Float64[np.ndarray, " pair"],
    boot: Float64[np.ndarray, "draw pair"],
) -> tuple[float, float, float]:
    """sum(true * change) / sum(true ** 2) over readable answers, and its 95 % bootstrap interval.

    `boot` holds counts of the pairs, a row a draw. NaN when no answer can be read.
    """
    use = np.isfinite(change)
    product, square = np.where(use, true * np.nan_to_num(change), 0.0), np.where(use, true**2, 0.0)
    if not square.sum() > 0:
        return (float("nan"),) * 3
    low, high = np.quantile((boot @ product) / np.maximum(boot @ square, 1e-9), [0.025, 0.975])
    return float(product.sum() / square.sum()), float(low), float(high)


_KNOWN: dict[tuple[Any, ...], CausalSites] = {}


def known_sites(
    model: HookedQwen2, world: World, task: str, *, n_pairs: int = 64, seed: int = 0, cities: str = "old"
) -> CausalSites:
    """`causal_sites`, computed once for equal weights, world and question in one process."""
    key = (model_digest(model), world.sha256, task, n_pairs, seed, cities)
    if key not in _KNOWN:
        _KNOWN[key] = causal_sites(model, world, task, n_pairs=n_pairs, seed=seed, cities=cities)
    return _KNOWN[key]


def reading_site(
    model: HookedQwen2, world: World, task: str, *, n_pairs: int = 64, seed: int = 0, cities: str = "old"
) -> Site:
    """Where a task reads the first city of its questions in this model: see `CausalSites.reading`."""
    return known_sites(model, world, task, n_pairs=n_pairs, seed=seed, cities=cities).primary


def sites_result(
    found: Sequence[CausalSites],
    *,
    run: str,
    command: str = "",
    inputs: Mapping[str, str] | None = None,
    params: Mapping[str, Any] | None = None,
) -> Result:
    """Kind "sites": table `sites` (rows of `CausalSites` with their task) and `reading` (one row a task)."""
    reading = []
    for each in found:
        for slot in dict.fromkeys(row["slot"] for row in each.rows):
            site = each.reading(slot)
            kept = ("n", "iia", "lo", "hi", "slope", "slope_lo", "slope_hi", "weak")
            row = each.row(site, slot=slot)
            where = {"layer": site.layer, "component": site.component, "position": site.position}
            reading.append({"task": each.task, "slot": slot} | where | {name: row[name] for name in kept})
    weak = [row["task"] for row in reading if row["weak"]]
    notes = [
        f"A city is read at {Site(row['layer'], row['component'], row['position'])} in {row['task']} "
        f"(city {row['slot'] + 1}): interchanging that state gives the source's answer in {row['iia']:.2f} "
        f"[{row['lo']:.2f}, {row['hi']:.2f}] of {row['n']} pairs."
        for row in reading
        if not row["weak"]
    ]
    if weak:
        notes.append(
            f"No site carries a city in {', '.join(dict.fromkeys(weak))}: even the strongest moves less than "
            "half of the answers."
        )
    return Result(
        kind="sites",
        command=command,
        inputs=dict(inputs or {}),
        params={"run": run, "n_layers": found[0].n_layers, **(params or {})},
        tables={
            "sites": [
                {"task": each.task, "cities": each.cities, **row} for each in found for row in each.rows
            ],
            "reading": reading,
        },
        notes=notes,
    )
