"""The whole study of one model and task, from sweep to figures and words, on a tiny model."""

from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.text import Text
from patching_cases import WORLD, model_of, some_pairs, truth_of
from paths import ROOT

from cwr_mech.analysis.patching import examine as patch_examine
from cwr_mech.analysis.patching import parts
from cwr_mech.analysis.patching import show as report_patching
from cwr_mech.analysis.patching.cells import grid
from cwr_mech.analysis.patching.examine import Extras, examine
from cwr_mech.analysis.patching.figures import tasks_figure
from cwr_mech.analysis.patching.layout import CONDITIONS
from cwr_mech.analysis.patching.pairs import NoPairs
from cwr_mech.analysis.patching.parts import Question
from cwr_mech.analysis.patching.study import _answered, patch, patch_parts
from cwr_mech.analysis.patching.subspaces import SUBSPACES, check_subspaces
from cwr_mech.analysis.patching.survey import pooled_result, tasks_result
from cwr_mech.analysis.patching.swaps import steps_figure, swap_map_figure
from cwr_mech.analysis.patching.sweep import sweep
from cwr_mech.errors import AnalysisError, UnknownName
from cwr_mech.report.contents import show_of
from cwr_mech.report.figures import draw
from cwr_mech.results import load_result
from cwr_mech.tasks.registry import TASKS


def studied(task, monkeypatch):
    """The result of a study in which the model is taken to answer truly."""
    monkeypatch.setattr(parts, "decode_text", lambda _, prompts, max_new_tokens: truth_of(task)(prompts))
    model, pairs = model_of(), some_pairs(task, 8)
    cells = grid(model.cfg, ("resid_post", "z"), ["swapped_last", "equals"])
    swept = sweep(model, pairs, cells, metrics=("logit_diff", "digit1", "digit2"), conditions=CONDITIONS)
    extras = Extras(("manifold", "random"))
    return examine(model, WORLD, Question(task, 8), pairs, swept, "tiny", extras)


def test_study_figures_and_words(tmp_path, monkeypatch):
    result = studied("distance", monkeypatch)
    assert load_result(result.save(tmp_path, "one")) == result
    drawn = {path.stem for path in draw(result, tmp_path, "one")}
    parts = ("answers", "steps", "map", "subspaces", "digits", "paths")
    assert drawn == {"one", *(f"one-{part}" for part in parts)}
    text = report_patching.patching(result)
    for phrase in ("Sources moved by known steps", "edges", "Answers decoded", "a part of the first city"):
        assert phrase in text
    assert len(result.arrays["map_true"]) == WORLD.n - 2
    assert np.isfinite([row["estimate"] for row in result.tables["paths"]]).all()
    pooled = pooled_result([result, result], seed=0)
    assert {row["n"] for row in pooled.tables["interchange"] if row["iia"] is not None} == {2}
    assert {path.stem for path in draw(pooled, tmp_path, "two")} == {"two", "two-answers", "two-subspaces"}


def test_labels_have_no_slope_but_a_map(monkeypatch):
    result = studied("compass", monkeypatch)
    assert all(row["slope"] is None for row in result.tables["steps"])
    (panel,) = steps_figure(result).axes
    assert "share of answers right" in panel.get_ylabel()
    drawn = swap_map_figure(result)
    drawn.draw_without_rendering()
    assert {text.get_text() for text in drawn.findobj(Text)} >= set(TASKS["compass"].labels)
    compared = tasks_result([result, result])
    assert len(tasks_figure(compared).axes) == 2
    assert "compass" in show_of(compared).body(compared)


def test_only_models_that_answer_too_little_are_left_out():
    """Any other complaint is the user's to hear, whatever the other models did."""
    runs, complaint = (
        [SimpleNamespace(name=name) for name in "ab"],
        NoPairs("only 3 usable pairs", "train it"),
    )

    def ask(run, task):
        if (run.name, task) in refused:
            raise refused[run.name, task]
        return run.name

    refused = {("a", "angle"): complaint}
    found, lost = _answered(runs, ["angle", "compass"], ask)
    assert (found, lost) == ([["b"], ["a", "b"]], ["Left out: a, angle: only 3 usable pairs."])
    refused["b", "angle"] = NoPairs("only 4 usable pairs", "some other advice")
    with pytest.raises(
        NoPairs, match=r"no pairs of angle to patch: Left out: a, .* usable pairs.* \(train it\)"
    ):
        _answered(runs, ["angle"], ask)
    refused["b", "angle"] = AnalysisError("DAS needs 48 pairs")
    with pytest.raises(AnalysisError, match="DAS needs 48 pairs"):
        _answered(runs, ["angle", "compass"], ask)


def test_an_unknown_subspace_is_refused_before_anything_is_asked(monkeypatch):
    for module in (patch_examine, parts):
        monkeypatch.setattr(module, "ask", lambda *_: pytest.fail("a model was asked"))
    for study in (patch, patch_parts):
        with pytest.raises(UnknownName, match="unknown subspace 'manifolt'"):
            study((ROOT / "zoo/small").as_posix(), subspace="manifold,manifolt")
    assert check_subspaces(["all"]) == SUBSPACES
    assert check_subspaces([]) == ()


def test_a_subspace_that_cannot_be_learned_costs_nothing_else(monkeypatch):
    def few(*_):
        raise NoPairs("9 pairs differ in the answer's first token; DAS needs 48")

    monkeypatch.setattr(patch_examine, "das_part", few)
    small = (ROOT / "zoo/small").as_posix()
    result = patch(small, task="compass", components="resid_post", spans="equals", pairs=16, das=1)
    assert "das" not in result.tables
    assert result.tables["subspaces"]
    assert any("No subspace was learned: 9 pairs" in note for note in result.notes)
