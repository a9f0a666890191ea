"""Claims: verdicts follow from planted models, and the published numbers are those of the paper."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cwr_mech.analysis.stats.intervals import mean_interval
from cwr_mech.experiments.finetuning import PLAIN
from cwr_mech.findings import show as report_zoo
from cwr_mech.findings.claims import (
    CKA,
    MEASURES,
    Saved,
    claim,
    verdict,
)
from cwr_mech.findings.counterparts import against
from cwr_mech.findings.findings import findings, published, write_findings
from cwr_mech.findings.finetuned import followed
from cwr_mech.findings.pretrained import (
    ceiling,
    level,
    outlier_gap,
    published_pairs,
)
from cwr_mech.findings.relation import known_tasks, relation_result
from cwr_mech.results import Result, Row, load_result
from cwr_mech.tasks.registry import PAPER_TASKS

# Values of three models, what they are held against, verdict.
VERDICT_CASES = (
    ([0.9, 0.91, 0.92], 0.5, "supported"),
    ([0.1, 0.11, 0.12], 0.5, "not supported"),
    ([0.1, 0.5, 0.9], 0.5, "undecided"),
    ([0.99], 0.5, "undecided"),
)


@pytest.mark.parametrize(("values", "null", "expected"), VERDICT_CASES)
def test_a_verdict_needs_an_interval_over_models(values: list[float], null: float, expected: str) -> None:
    found = mean_interval(np.array(values))
    assert verdict(found, null) == expected
    row = claim("s", "text", 0.5, found, null=null)
    assert (row["models"], row["verdict"]) == (len(values), expected)
    assert row["direction"] == ("same" if np.mean(values) > null else "opposite")


def result(kind: str, **tables: list[Row]) -> Result:
    return Result(kind, "made for a test", {}, {}, tables=tables)


def model(run: str, tasks: str, family: str, base: str | None = None) -> Row:
    return {"run": run, "tasks": tasks, "base": base, "family": family, "route": "unprojected"}


def planted(
    *, outlier: float = 0.3, harm: float = 0.4, seeds: int = 3, single: float = 0.9, copies: int = 3
) -> dict[str, Result]:
    """Results of `seeds` seven-task models, `copies` of each task alone, and fine-tunings of each base.

    CKA of different tasks is 0.8, `outlier` less with distance; distance teaches others 0.05, the rest 0.5;
    pairs with distance miss the better teacher by `harm`.
    """
    bases = [f"zoo:all-{seed}" for seed in range(seeds)]
    alone = {f"zoo:{task}-{copy}": task for task in PAPER_TASKS for copy in range(copies)}
    models = [model(run, "+".join(PAPER_TASKS), "all seven tasks") for run in bases]
    models += [model(run, task, "1 task") for run, task in alone.items()]
    models += [
        model(f"{base}-{task}", task, "fine-tuned on 1 task", base) for base in bases for task in PAPER_TASKS
    ]

    def score(run: str, task: str, gain: float) -> Row:
        return {"run": run, "task": task, "group": "old", "gain": gain, "value": 1 - gain}

    scores = [score(run, task, 0.9 + 0.01 * i) for i, run in enumerate(bases) for task in PAPER_TASKS]
    scores += [score(run, task, 0.0 if task == "crossing" else single) for run, task in alone.items()]
    maps = [
        {"run": run, "task": "distance", "hook": hook, "r2": r2 + 0.001 * i}
        for i, run in enumerate([*bases, *alone])
        for hook, r2 in (("a", 0.5), ("b", 0.97))
    ]
    new: list[Row] = []
    for i, base in enumerate(bases):
        for task in PAPER_TASKS:
            run = f"{base}-{task}"
            maps.append({"run": run, "task": task, "hook": "b", "r2": 0.9})
            error = 400.0 + i if task == "distance" else 100.0
            new.append({"run": run, "task": task, "hook": "b", "error_mean": error})
    pairs = []
    names = list(alone)
    for i, first in enumerate(names):
        for j, second in enumerate(names[:i]):
            value = 0.8 + 0.001 * ((i * 5 + j * 3) % 7)
            value -= outlier if "distance" in (alone[first], alone[second]) else 0.0
            for measure in MEASURES:
                # By shared neighbours distance is no outlier.
                local = 0.2 + 0.001 * ((i + j) % 5)
                chosen = value if measure != "mutual_knn" else local
                pairs.append({"run_a": first, "run_b": second, "measure": measure, "value": chosen})
    taught = [
        {"base": base, "set": task, "task": other, "trained": task == other, "arm": PLAIN, "retention": 0.0}
        | {"ni": 0.8 if task == other else (0.05 if task == "distance" else 0.5) + 0.01 * i}
        for i, base in enumerate(bases)
        for task in PAPER_TASKS
        for other in PAPER_TASKS
    ]
    deviation = [
        {"base": base, "set": "distance+angle", "task": "compass", "arm": PLAIN, "deviation": 0.01 * i - harm}
        for i, base in enumerate(bases)
    ]
    return {
        "models": result("zoo", models=models, scores=scores),
        "maps": result("maps", layers=maps, new=new),
        "similarity": result("similarity", pairs=pairs),
        "transfer": result("transfer", scores=taught, deviation=deviation),
    }


def row_of(results: dict[str, Result], text: str) -> Row:
    rows = findings(results, {}, "test").tables["claims"]
    found = [row for row in rows if text in row["claim"]]
    assert len(found) == 1, [row["claim"] for row in rows]
    return found[0]


# Words of the claim, how the planted truth is turned round, verdict with it and without.
PLANTED: tuple[tuple[str, dict[str, Any], str, str], ...] = (
    ("distance is the outlier by cka (", {"outlier": -0.3}, "supported", "not supported"),
    ("distance is the outlier by mutual_knn", {"outlier": -0.3}, "undecided", "undecided"),
    ("makes untrained tasks worse", {"harm": -0.4}, "supported", "not supported"),
    ("holds a map", {"seeds": 1}, "supported", "undecided"),
    ("distance teaches the other tasks less", {"seeds": 1}, "supported", "undecided"),
    ("further from their places", {"seeds": 0}, "supported", "no models yet"),
    ("angle is learned by a model of all", {"seeds": 0}, "supported", "no models yet"),
    ("angle is learned alone", {"single": 0.1}, "supported", "not supported"),
    ("crossing is not learned alone", {"copies": 1}, "supported", "undecided"),
    # With one distance model the gap cannot be told from what is peculiar to that model.
    ("distance is the outlier by rsa", {"copies": 1}, "supported", "undecided"),
)


@pytest.mark.parametrize(("text", "turned", "verdict_with", "verdict_without"), PLANTED)
def test_planted_truths_are_found(
    text: str, turned: dict[str, Any], verdict_with: str, verdict_without: str
) -> None:
    assert row_of(planted(), text)["verdict"] == verdict_with
    assert row_of(planted(**turned), text)["verdict"] == verdict_without


def test_values_are_those_planted() -> None:
    results = planted()
    assert row_of(results, "distance is the outlier by svcca")["ours"] == pytest.approx(0.3, abs=0.01)
    assert row_of(results, "further from")["ours"] == pytest.approx(math.log(401 / 100), abs=1e-4)
    less = row_of(results, "teaches the other tasks less")
    assert (less["ours"], less["models"]) == (pytest.approx(0.45), 3)
    assert row_of(results, "angle is learned alone")["direction"] == "same"
    assert row_of(planted(single=0.1), "angle is learned alone")["direction"] == "opposite"


@pytest.mark.parametrize(("low", "verdict"), [(0.05, "supported"), (-0.05, "undecided")])
def test_the_trend_is_judged_by_its_interval_with_the_relabelling_beside_it(low: float, verdict: str) -> None:
    keys = {"group": "disjoint, change per task", "measure": "cka", "models": "all models", "p": 0.0015}
    rows = [keys | {"value": 0.18, "lo": low, "hi": 0.38, "n": 35}]
    rows.append({**keys, "models": "without failed models", "value": 0.9, "lo": 0.8, "hi": 1.0, "n": 9})
    found = row_of({**planted(), "trend": result("similarity", groups=rows)}, "more tasks, none in common")
    assert (found["ours"], found["models"], found["verdict"]) == (0.18, 35, verdict)
    assert found["against"].endswith("relabelled, p = 0.002")
    assert float(found["published"]) == pytest.approx((0.851 - 0.655) / 2, abs=0.001)


def test_published_values_are_those_of_the_paper() -> None:
    paper = published()
    assert tuple(paper["tasks"]) == PAPER_TASKS
    matrix, taught = np.array(paper["cka"]["matrix"]), np.array(paper["ft1"]["ni"])
    assert matrix.shape == taught.shape == (7, 7)
    np.testing.assert_array_equal(matrix, matrix.T)
    # Averages that the paper or its repository states about these very matrices.
    kept = matrix[:6, :6][~np.eye(6, dtype=bool)]
    assert kept.mean() == pytest.approx(0.699, abs=0.002)
    assert taught.diagonal().mean() == pytest.approx(0.838, abs=0.002)
    assert taught[~np.eye(7, dtype=bool)].mean() == pytest.approx(0.474, abs=0.002)
    assert len(paper["ft2"]["sets"]) == len(paper["ft2"]["deviation"]) == 21
    pairs = published_pairs(paper["cka"]["matrix"])
    assert outlier_gap(pairs) > 0.2
    assert level(pairs) == pytest.approx(0.699, abs=0.002)
    assert ceiling(pairs) == pytest.approx(matrix.diagonal()[:6].mean())


def test_a_value_has_the_direction_of_its_side() -> None:
    def ours(value: float) -> Any:
        return mean_interval(np.array([value, value + 0.01]))

    cells = [("a", 0.9, ours(0.5)), ("b", 0.1, ours(0.2)), ("c", 0.8, ours(0.1)), ("d", 0.5, None)]
    rows = list(against("group", cells))
    assert [row["direction"] for row in rows] == ["same", "same", "opposite", "-"]
    # Against a constant below everything, all have the same direction.
    assert {row["direction"] for row in against("group", cells[:3], 0.0)} == {"same"}
    assert (rows[3]["ours"], rows[3]["models"]) == (None, 0)
    (single,) = against("group", cells[:1])
    assert single["direction"] == "-"  # a value alone lies on no side of its mean


def test_every_published_value_is_a_row_once() -> None:
    full, empty = findings(planted(), {}, "test"), findings({}, {}, "test")
    for found in (full, empty):
        rows = found.tables["values"]
        keys = [(row["group"], row["quantity"]) for row in rows]
        assert len(keys) == len(set(keys))
    assert len(full.tables["values"]) == len(empty.tables["values"]) > 500
    assert all(row["ours"] is None for row in empty.tables["values"])
    by_name = {(row["group"].split(",")[0], row["quantity"]): row for row in full.tables["values"]}
    row = by_name["improvement", "distance -> angle"]
    assert (row["published"], row["ours"], row["models"]) == (0.0, pytest.approx(0.06), 3)
    assert row["direction"] == "same"  # distance teaches little in both
    pair = by_name["similarity of single-task models", "distance with angle"]
    assert pair["published"] in (0.61, 0.56, 0.79, 0.22)


def test_similarity_that_makes_transfer_is_found() -> None:
    rng = np.random.default_rng(0)
    symmetric = rng.uniform(0, 1, (7, 7))
    symmetric = (symmetric + symmetric.T) / 2
    for noise, expected in ((0.0, True), (50.0, False)):
        results = planted()
        outcome = symmetric + noise * rng.normal(size=(7, 7))
        taught = [
            row | {"ni": outcome[PAPER_TASKS.index(row["set"]), PAPER_TASKS.index(row["task"])]}
            for row in results["transfer"].tables["scores"]
        ]
        alike = [
            {"run_a": f"zoo:{a}-0", "run_b": f"zoo:{b}-1", "measure": CKA, "value": symmetric[i, j]}
            for i, a in enumerate(PAPER_TASKS)
            for j, b in enumerate(PAPER_TASKS)
        ]
        results |= {"transfer": result("transfer", scores=taught, deviation=[])}
        results |= {"similarity": result("similarity", pairs=alike)}
        made = relation_result(Saved(results), {}, "test")
        rows = {(r["similarity"], r["transfer"], r["pairs"]): r for r in made.tables["correlations"]}
        own = rows["own", "here", "all seven tasks"]
        assert (own["r"] > 0.99 and own["p"] < 0.001) == expected
        published_row = rows["published", "published", "without crossing (as published)"]
        assert published_row["r2"] == pytest.approx(0.19, abs=0.01)
        claims = findings(results | {"relation": made}, {}, "test").tables["claims"]
        found = [r for r in claims if r["claim"].startswith("own similarity goes with transfer here: all")]
        assert [r["verdict"] == "supported" for r in found] == [expected]


def test_the_same_tasks_are_correlated_once() -> None:
    results = planted()
    taught = [row for row in results["transfer"].tables["scores"] if row["set"] != "crossing"]
    taught = [row | {"ni": row["ni"] + 0.01 * (7 * i % 11)} for i, row in enumerate(taught)]
    made = relation_result(Saved(results | {"transfer": result("transfer", scores=taught)}), {}, "test")
    rows = [row for row in made.tables["correlations"] if row["transfer"] == "here"]
    # Crossing is not known here, so "all seven tasks" are those without crossing.
    assert [row["without"] for row in rows if row["similarity"] == "own"] == [
        "crossing",
        "distance, crossing",
    ]


def test_tasks_with_gaps_are_left_out() -> None:
    whole = np.ones((7, 7))
    gappy = whole.copy()
    gappy[2, :] = np.nan
    assert known_tasks(whole, gappy, ("crossing",)) == [0, 1, 3, 4, 5]
    assert known_tasks(whole, whole, ()) == list(range(7))
    assert known_tasks(np.full((7, 7), np.nan), whole, ()) in ([], [0], [6])


def test_what_answers_follow() -> None:
    rows = [
        {"layer": layer, "subspace": name, "follow": value}
        for layer, values in ((0, (0.9, 0.6, 0.1)), (2, (0.3, 0.3, 0.3)))
        for name, value in zip((None, "manifold", "random"), values, strict=True)
    ]
    assert followed(rows) == pytest.approx(0.5)


def test_findings_follow_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("reports/zoo")
    source = result("zoo", models=[model("zoo:a", "angle", "1 task")], scores=[])
    source.save(folder / "results", "models")
    found = load_result(write_findings(folder, "cwr-mech report zoo"))
    assert list(found.inputs) == ["reports/zoo/results/models.json"]
    assert found.values["no models yet"] == found.values["claims"]
    text = report_zoo.findings(found)
    assert "What this scale cannot say" in text
    shown = "".join(report_zoo.claims(found, chapter.section) for chapter in report_zoo.CHAPTERS)
    assert all(row["claim"] in shown for row in found.tables["claims"])
    # Control: findings of other results have other inputs, which a check of the report notices.
    result("zoo", models=[], scores=[]).save(folder / "results", "models")
    assert load_result(write_findings(folder, "cwr-mech report zoo")).inputs != found.inputs
