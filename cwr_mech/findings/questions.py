"""The questions of a report of many models, and the result of kind "findings" that answers them.

Everything is computed from saved results and the published tables. A new question is a row of QUESTIONS; a
new claim is a row of CLAIMS in the module of its question.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cwr_mech.analysis.stats.intervals import LEAST_UNITS
from cwr_mech.artifacts import sha256_file
from cwr_mech.errors import AnalysisError
from cwr_mech.experiments.ripe import NOISY
from cwr_mech.findings import conditions, exposure, finetuned, pretrained, relations, routing, variants
from cwr_mech.findings.claims import VERDICTS, Claim, judge
from cwr_mech.findings.evidence import Saved
from cwr_mech.findings.tables import agreement_rows, value_rows
from cwr_mech.results import Result, Row, load_results


class Question(NamedTuple):
    """What a chapter of a report asks: kinds of results that it needs and that it shows, the claims that
    answer it (the first of which there is a number), and what it cannot say. `there`: whether any model is
    there that it is about.
    """

    id: str
    title: str
    needs: tuple[str, ...]
    shows: tuple[str, ...]
    headline: tuple[str, ...]
    limits: str
    there: Callable[[Saved], bool] = lambda saved: True


MOST_REPLAY_FIRST = [name for name, _, _ in finetuned.REPLAYED][::-1]
QUESTIONS = (
    Question(
        "tasks",
        "Which tasks do the models learn?",
        ("zoo", "maps"),
        ("zoo", "eval", "train", "curves"),
        (),
        "Learned: half of the gap between constant prediction and perfect answers is closed. Not learned "
        "within this budget does not mean not learnable.",
    ),
    Question(
        "maps",
        "Do models hold a linear map of the cities?",
        ("zoo", "maps"),
        ("maps", "probe", "readout", "timeline", "manifold", "erasure"),
        ("map-all-tasks",),
        "What a probe decodes need not be what answers use; the best layer and prompt of each model are "
        "taken.",
    ),
    Question(
        "surfaced",
        "Is the map in the first components, more so with more tasks?",
        ("zoo", "surfacing"),
        ("surfacing",),
        ("surfaced",),
        "Models of all tasks have seen more rows than models of one.",
    ),
    Question(
        "similarity",
        "Do models of different tasks arrive at similar representations?",
        ("zoo", "similarity"),
        ("similarity", "cka"),
        ("convergence",),
        "Only over models that have learned their task, after the last block but one; a task with one model "
        "stands or falls with it.",
    ),
    Question(
        "transfer",
        "What does fine-tuning on one task teach about new cities in others?",
        ("zoo", "maps", "transfer"),
        ("transfer", "course"),
        tuple(f"{name}distance-teaches-less" for name in MOST_REPLAY_FIRST),
        "Compared at the end of fine-tunings that have learned their own tasks unequally well; the "
        "comparison at matched competence stands beside it.",
    ),
    Question(
        "relation",
        "Does representational similarity predict transfer?",
        ("zoo", "similarity", "transfer"),
        (),
        ("half-rehearsed-similarity-predicts-transfer", "similarity-predicts-transfer"),
        "Tasks are the units, and few are learned alone.",
    ),
    Question(
        "beforehand",
        "Can transfer be told beforehand, from the tasks' gradients?",
        ("zoo", "transfer", "prediction"),
        ("prediction",),
        ("half-rehearsed-gradients-predict-transfer", "gradients-predict-transfer"),
        "Without replay forgetting has a part in transfer; with it, there are three bases.",
    ),
    Question(
        "places",
        "Do different tasks' answers put a new city in the same place?",
        ("zoo", "locate"),
        ("locate",),
        tuple(f"{name}divergence-distance" for name in MOST_REPLAY_FIRST),
        "Distance, compass and perimeter only: angle and area determine coordinates too poorly.",
    ),
    Question(
        "sides",
        "Which side of the network carries what fine-tuning teaches?",
        ("zoo", "anatomy"),
        ("anatomy", "sites"),
        ("city-side-distance-own",),
        "Grafts of one side leave the other side as it was before; the two together are not the sum of both.",
    ),
    Question(
        "conditions",
        "Are new cities learned when gradients are kept on or off the manifold?",
        ("zoo", "transfer", "locate"),
        ("transfer", "trajectory", "patch_parts"),
        ("off-manifold-own-distance",),
        "Gradients are projected at tokens of new cities after the blocks that a condition names; all other "
        "gradients are free.",
    ),
    Question(
        "cut",
        "Where updates have no way round, do they run off-manifold?",
        ("zoo", "transfer", "sites"),
        ("transfer",),
        ("cut-route-distance-more",),
        "The embedding and blocks 0 and 1 alone are trained, by a gradient that comes from new cities by way "
        "of the last two digits after block 1 and of no other token from the first id on; what later blocks "
        "could learn is left out.",
    ),
    Question(
        "shares",
        "Where cities are read, do updates on distance leave the manifold?",
        ("zoo", "subspace"),
        ("subspace", "conflict"),
        ("share-step",),
        "The manifold's span is that of a few leading directions; a point in the span may lie off the curved "
        "manifold. A share says where an update points, not what answers use.",
    ),
    Question(
        "noise",
        "Does divergence survive label noise?",
        ("transfer", "locate", "places"),
        ("curves", "places", "locate", "transfer", "similarity"),
        tuple(f"noise-divergence-distance-{100 * share:g}" for share in sorted(NOISY, reverse=True)),
        "One base a share of noise: n counts the bases without, from whose spread the interval is.",
        variants.noise,
    ),
    Question(
        "size",
        "Does divergence fall as models grow?",
        ("transfer", "locate", "places"),
        ("transfer", "locate"),
        ("size-divergence",),
        "One recipe for all sizes: rate and steps are those that suit the usual one.",
        variants.sizes,
    ),
)
"""The questions in the order of a report."""

CLAIMS: tuple[Claim, ...] = (
    *pretrained.CLAIMS,
    *exposure.CLAIMS,
    *finetuned.CLAIMS,
    *relations.CLAIMS,
    *routing.CLAIMS,
    *conditions.CLAIMS,
    *variants.CLAIMS,
)

READ = (*dict.fromkeys(kind for question in QUESTIONS for kind in (*question.needs, *question.shows)),)
"""Kinds of results that claims read."""


def findings(results: Mapping[str, Result], inputs: Mapping[str, str], command: str) -> Result:
    """The result of kind "findings": tables `claims`, `agreement` (ours with each published table, cell by
    cell), and `values` (these cells). Questions whose results are not there are left out. Raises
    AnalysisError without any.
    """
    saved = Saved(results)
    here = {result.kind for result in results.values()}
    asked = {question.id for question in QUESTIONS if set(question.needs) <= here and question.there(saved)}
    if not asked:
        raise AnalysisError("no question can be asked of these results", "cwr-mech zoo analyse makes them")
    rows = judge([claim for claim in CLAIMS if claim.question in asked], saved)
    rows = [row for row in rows if row["role"] == "exploratory" or row["n"]]
    rows = [row for row in rows if not row["reason"].startswith(variants.ABSENT)]
    findings = [row for row in rows if row["kind"] == "finding"]
    values = value_rows(saved)
    models = [result for result in results.values() if result.kind == "zoo"] or [*results.values()]
    runs = [run for result in models for run in result.params.get("runs", [])]
    return Result(
        kind="findings",
        command=command,
        inputs=dict(inputs),
        params={"runs": list(dict.fromkeys(runs))},
        values={"claims": len(findings)}
        | {name: sum(row["verdict"] == name for row in findings) for name in VERDICTS},
        tables={"claims": rows, "agreement": agreement_rows(values), "values": values},
    )


def sources(folder: Path, kinds: Sequence[str] = READ) -> tuple[dict[str, Result], dict[str, str]]:
    """The results of these kinds in `folder`/results, and the hashes of their files."""
    results = load_results(folder / "results")
    own = {name: result for name, result in results.items() if result.kind in kinds}
    paths = [folder / "results" / f"{name}.json" for name in own]
    return own, {path.as_posix(): sha256_file(path) for path in paths}


def write_findings(folder: Path, command: str) -> Path:
    """Compute the findings from `folder`/results and save them there; returns the path."""
    return findings(*sources(folder), command).save(folder / "results", "findings")


def asked(result: Result) -> list[Question]:
    """The questions that a result of kind "findings" answers."""
    here = {row["question"] for row in result.tables["claims"]}
    return [question for question in QUESTIONS if question.id in here]


def headline(rows: Sequence[Row], question: Question) -> Row | None:
    """Of the headline claims the first with enough units for an interval, else with a number; confirmatory
    bases before others."""
    found = {row["id"]: row for row in rows}
    named = [*(f"{claim}-confirmed" for claim in question.headline), *question.headline]
    here = [found[name] for name in named if name in found]
    enough = [row for row in here if (row["n"] or 0) >= LEAST_UNITS]
    return next(iter([*enough, *(row for row in here if row["n"]), *here]), None)
