"""What fine-tuning did, from scores made up so that the answer is known."""

import math
from dataclasses import replace

import numpy as np
import pytest

from cwr_mech.analysis.transfer import answers
from cwr_mech.analysis.transfer.show import transfer as section
from cwr_mech.analysis.transfer.show import transfer_figure
from cwr_mech.analysis.transfer.study import transfer
from cwr_mech.analysis.transfer.transfer import (
    Base,
    Transfer,
    Tuned,
    compared,
    retention,
)
from cwr_mech.errors import AnalysisError
from cwr_mech.experiments.zoo_files import QUESTIONS
from cwr_mech.model.evaluation import Evaluation, TaskScore
from cwr_mech.report.figures import draw
from cwr_mech.tasks.registry import PAPER_TASKS, TASKS

OLD, NEW = 10.0, 1000.0
"""Errors of the base; accuracies are 0.9 and 0.3."""
CONSTANT = 500.0
"""Error of the best constant answer; no label is right by chance."""
CONDITION = "replay trained, elicitation none"


def evaluation(errors: dict[str, float], group: str) -> Evaluation:
    """Scores of all tasks; for labels an error e stands for the accuracy that closes the same share."""
    scores = []
    for task in PAPER_TASKS:
        is_label = bool(TASKS[task].labels)
        share = math.log(NEW / errors[task]) / math.log(NEW / OLD)
        scores.append(
            TaskScore(
                task=task,
                group=group,
                n=50,
                parse_rate=1.0,
                lenient_parse_rate=1.0,
                metric="accuracy" if is_label else "error",
                unit=TASKS[task].unit,
                value_mean=0.3 + 0.6 * share if is_label else errors[task],
                value_median=None,
                value_mean_parsed=None,
                value_median_parsed=None,
                value_mean_lenient=0.0,
                exact=0.0,
                baseline=0.0 if is_label else CONSTANT,
                baseline_median=None,
                baseline_answer="",
                baseline_by_size=0.0,
            )
        )
    return Evaluation(tuple(scores), group, "test", 42)


def all_tasks(error: float, **others: float) -> dict[str, float]:
    """The same error for all tasks but those named."""
    return dict.fromkeys(PAPER_TASKS, error) | others


def base(name: str = "b0", **unlearned: float) -> Base:
    """A base that answers old cities well but for the tasks named, whose errors are given."""
    new = evaluation(all_tasks(NEW), "new")
    return Base(name, evaluation(all_tasks(OLD, **unlearned), "old"), new, new)


def tuned(name: str, trained: str, new: dict[str, float], *, of: str = "b0", seed: int = 0) -> Tuned:
    return Tuned(
        run=name,
        base=of,
        seed=seed,
        trained=tuple(trained.split("+")),
        condition=CONDITION,
        steps=100,
        lr=1e-4,
        old=evaluation(all_tasks(OLD), "old"),
        new=evaluation(new, "new"),
    )


def cell(found: Transfer, label: str, task: str, column: str) -> float:
    return next(row[column] for row in found.matrix if (row["set"], row["task"]) == (label, task))


def at(share: float) -> float:
    """The error that closes this share of the gap."""
    return NEW * (OLD / NEW) ** share


# share of the gap closed -> improvement, as in the paper
SHARES = [(0.0, 0.0), (1.0, 1.0), (0.5, 0.5), (-0.25, 0.0), (1.9, 1.5)]


@pytest.mark.parametrize(("share", "clipped"), SHARES)
@pytest.mark.parametrize("task", ["distance", "compass"])
def test_improvement_is_the_share_of_the_gap_closed(share: float, clipped: float, task: str) -> None:
    found = compared([tuned("r", "distance", all_tasks(NEW, **{task: at(share)}))], [base()])
    assert cell(found, "distance", task, "ni") == pytest.approx(share)
    assert cell(found, "distance", task, "ni_paper") == pytest.approx(clipped)
    assert all(row["ni_control"] == 0 for row in found.scores)


def test_averages_are_over_models_and_have_their_intervals() -> None:
    shares = [0.2, 0.4, 0.9]
    models = [
        tuned(f"r{i}", "angle", all_tasks(at(share)), of=f"b{i}", seed=i) for i, share in enumerate(shares)
    ]
    found = compared(models, [base(f"b{i}") for i in range(3)])
    assert cell(found, "angle", "distance", "ni") == pytest.approx(0.5)
    assert cell(found, "angle", "distance", "models") == 3
    low, high = (cell(found, "angle", "distance", f"ni_{end}") for end in ("lo", "hi"))
    assert low < 0.2 < 0.9 < high  # three models say little
    assert found.sets[0]["ni_transfer"] == pytest.approx(0.5)
    one = compared(models[:1], [base()])
    assert cell(one, "angle", "distance", "ni_lo") is None


def test_the_arm_of_most_models_is_the_one_that_is_drawn() -> None:
    models = [tuned(f"r{i}", "angle", all_tasks(at(0.5)), of=f"b{i}", seed=i) for i in range(3)]
    rare = replace(tuned("r3", "angle", all_tasks(at(0.1))), condition="a rare condition")
    found = compared([rare, *models], [base(f"b{i}") for i in range(3)])
    result = found.to_result({})
    assert (result.values["condition"], result.values["n_models"], result.values["n_bases"]) == (
        CONDITION,
        3,
        3,
    )
    assert result.arrays["ni"] == pytest.approx(0.5)


def test_averages_come_with_and_without_tasks_the_base_had_not_learned() -> None:
    model = tuned("r", "distance", all_tasks(at(0.5), angle=CONSTANT))
    known, half = base(), base(angle=0.51 * CONSTANT)
    for start, learned in ((known, True), (half, False)):
        found = compared([model], [start])
        rows = {row["task"]: row for row in found.scores}
        assert rows["angle"]["learned"] is learned
        assert all(row["learned"] for task, row in rows.items() if task != "angle")
        every, kept = found.sets[0]["ni_transfer"], found.sets[0]["ni_transfer_learned"]
        assert kept == pytest.approx(every if learned else 0.5)
        assert every != pytest.approx(0.5)
    arrays = compared([model, replace(model, run="s", base="b1")], [known, replace(half, run="b1")])
    result = arrays.to_result({})
    assert result.arrays["learned"][PAPER_TASKS.index("angle")] == 0.5
    assert result.values["ni_transfer_learned"] != result.values["ni_transfer"]


def test_deviation_is_from_the_best_teacher_of_the_same_base() -> None:
    teachers = [
        tuned("d", "distance", all_tasks(at(0.1), angle=at(0.6))),
        tuned("c", "compass", all_tasks(at(0.3))),
        tuned("other", "compass", all_tasks(at(0.99)), of="b1", seed=1),
    ]
    both = tuned("dc", "distance+compass", all_tasks(at(0.2)))
    found = compared([*teachers, both], [base(), base("b1")])
    rows = {row["task"]: row for row in found.deviation}
    assert rows["angle"]["teacher"] == "d"
    assert rows["angle"]["deviation"] == pytest.approx(-0.4)
    assert rows["inside"]["teacher"] == "c"
    assert rows["inside"]["deviation"] == pytest.approx(-0.1)
    label = found.sets[-1]
    assert label["set"] == "distance+compass"
    assert label["deviation_transfer"] == pytest.approx((-0.4 - 4 * 0.1) / 5)


def test_teachers_of_other_steps_count_only_when_asked_for() -> None:
    teachers = [tuned("d", "distance", all_tasks(at(0.1))), tuned("c", "compass", all_tasks(at(0.3)))]
    both = replace(tuned("dc", "distance+compass", all_tasks(at(0.2))), steps=200)
    assert not compared([*teachers, both], [base()]).deviation
    found = compared([*teachers, both], [base()], match_steps=False)
    assert [row["step_matched"] for row in found.deviation] == [False] * 7
    assert not compared([teachers[0], replace(both, steps=100)], [base()]).deviation


def test_retention_has_a_sign() -> None:
    before, after = (evaluation(all_tasks(error), "old") for error in (OLD, 40.0))
    assert retention(before.score("distance"), after.score("distance")) == pytest.approx(-math.log(4))
    assert retention(before.score("compass"), after.score("compass")) < 0
    assert retention(before.score("distance"), before.score("distance")) == 0
    assert retention(before.score("compass"), before.score("compass")) == 0


def test_a_scale_without_ends_gives_no_number() -> None:
    flat = replace(base(), new=evaluation(all_tasks(OLD), "new"), again=evaluation(all_tasks(OLD), "new"))
    found = compared([tuned("r", "distance", all_tasks(5.0))], [flat])
    assert cell(found, "distance", "distance", "ni") is None
    assert cell(found, "distance", "distance", "ni_paper") == 0


def test_what_cannot_be_compared_is_refused() -> None:
    one = tuned("r", "distance", all_tasks(NEW))
    with pytest.raises(AnalysisError, match="no fine-tuned model"):
        compared([], [base()])
    with pytest.raises(AnalysisError, match="base b0"):
        compared([one], [base("b9")])
    with pytest.raises(AnalysisError, match="cannot be averaged"):
        compared([one, replace(one, run="s", steps=7)], [base()])


def test_result_figure_and_section(tmp_path: object) -> None:
    singles = [tuned(task, task, all_tasks(at(0.3))) for task in ("distance", "compass")]
    both = tuned("dc", "distance+compass", all_tasks(at(0.2)))
    found = compared([*singles, both], [base()])
    result = found.to_result({"runs": ["dc"], "seed": 42})
    assert result.arrays["sets"].tolist() == ["distance", "compass", "distance+compass"]
    assert result.arrays["ni"].shape == (3, 7)
    assert result.values["ni_control"] == 0
    assert len(draw(result, tmp_path, "transfer")) == 1
    assert "distance+compass" in section(result)


def test_every_condition_has_a_row_of_the_figure() -> None:
    cut = "replay trained, elicitation none, off-manifold"
    usual = [tuned(task, task, all_tasks(at(0.3))) for task in ("distance", "compass")]
    models = [*usual, replace(tuned("cut", "distance", all_tasks(at(0.2))), condition=cut)]
    figure = transfer_figure(compared(models, [base()]).to_result({}))
    panel = figure.axes[0]
    rows = [label.get_text() for label in panel.get_yticklabels()]
    assert rows == ["distance", "distance: off-manifold", "compass"]
    drawn = np.asarray(panel.images[0].get_array())[:, PAPER_TASKS.index("perimeter")]
    assert drawn == pytest.approx([0.3, 0.2, 0.3])
    told = " ".join(figure.get_supxlabel().split())
    assert told.startswith("3 models fine-tuned from 1 base; replay trained, elicitation none. ")
    models[-1] = replace(models[-1], condition="replay all, elicitation new")
    told = transfer_figure(compared(models, [base()]).to_result({})).get_supxlabel()
    assert told.startswith("3 models fine-tuned from 1 base. ")  # nothing in common


@pytest.mark.parametrize(("rows", "asked"), [(None, QUESTIONS), (30, 30)])
def test_models_of_the_zoo_are_scored_by_what_they_have_answered(
    rows: int | None, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asked(Exception):
        pass

    def ask(*given: object, n: int, **others: object) -> None:
        raise Asked(n)

    monkeypatch.setattr(answers, "asked_of", ask)
    with pytest.raises(Asked, match=f"^{asked}$"):
        transfer("zoo:small-ft-distance", rows=rows)
