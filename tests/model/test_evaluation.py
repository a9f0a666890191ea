"""Scores against models whose answers are known: real ones, with weights that make a chain of characters."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cwr_mech.config import PAPER, STRICT, ModelConfig
from cwr_mech.data.rows import concat, generate
from cwr_mech.data.summary import baseline
from cwr_mech.errors import AnalysisError, UnknownName, WorldError
from cwr_mech.model.evaluation import (
    Answers,
    answer_rows,
    evaluate,
    normalised_improvement,
    read_answers,
    score_answers,
)
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.tasks.registry import TASKS
from cwr_mech.tasks.tokenizer import (
    CHAR_ID,
    EOS,
    VOCAB,
    Tokenizer,
)
from cwr_mech.world.cities import load_world

WORLD = load_world(source="uniform", n_cities=60, new="scattered", n_new=6)
N = 150


def chain(text: str, *, end: bool = True) -> HookedQwen2:
    """A model that writes `text` after '=' and then ends (or repeats its last character for ever).

    Attention and MLP write nothing, so each token alone decides the next; characters must differ.
    """
    config = ModelConfig(n_layers=1, d_model=len(VOCAB), n_heads=1, d_mlp=2, n_ctx=80)
    model = HookedQwen2(config, seed=None)
    ids = [CHAR_ID[char] for char in "=" + text]
    with torch.no_grad():
        model.embed.W_E.copy_(torch.eye(len(VOCAB)))
        model.ln_final.w.fill_(1.0)
        for token, following in zip(ids, [*ids[1:], EOS if end else ids[-1]], strict=True):
            model.unembed.W_U[token, following] = 1.0
    return model.eval()


def rows(task: str, n: int = N):
    return generate(WORLD, task, n, split="test")


@pytest.mark.parametrize("task", ["distance", "trianglearea", "angle", "perimeter"])
@pytest.mark.parametrize("answer", [7, 36, 120])
def test_a_constant_number_scores_its_own_error(task: str, answer: int) -> None:
    values = rows(task).values
    score = evaluate(chain(str(answer)), WORLD, [task], N).score(task)
    assert (score.parse_rate, score.lenient_parse_rate, score.n) == (1.0, 1.0, N)
    errors = np.abs(values - answer)
    assert (
        score.value_mean
        == score.value_mean_parsed
        == score.value_mean_lenient
        == pytest.approx(errors.mean())
    )
    assert score.value_median == score.value_median_parsed == np.median(errors)
    assert score.exact == (values == answer).mean()
    assert (score.metric, score.unit) == ("error", TASKS[task].unit)
    assert score.baseline <= score.value_mean
    assert (
        score.baseline
        == baseline(rows(task)).score
        == pytest.approx(np.abs(values - np.median(values)).mean(), abs=1)
    )


def test_the_best_constant_is_what_a_model_of_it_scores() -> None:
    seed = next(seed for seed in range(100) if _distinct(_best_angle(seed)))
    best = _best_angle(seed)
    score = evaluate(chain(best), WORLD, ["angle"], N, seed=seed).score("angle")
    assert (score.value_mean, score.value_median) == pytest.approx((score.baseline, score.baseline_median))
    off = next(str(angle) for angle in range(int(best) + 15, 180) if _distinct(str(angle)))
    worse = evaluate(chain(off), WORLD, ["angle"], N, seed=seed).score("angle")
    assert worse.value_mean > worse.baseline == score.baseline


def _best_angle(seed: int) -> str:
    return baseline(generate(WORLD, "angle", N, split="test", seed=seed)).answer


def _distinct(text: str) -> bool:
    """Whether a chain can write it: each character decides the next."""
    return len(set(text)) == len(text)


@pytest.mark.parametrize(("task", "label"), [("compass", "SW"), ("inside", "TRU"), ("crossing", "TRUE")])
def test_a_constant_label_scores_its_share(task: str, label: str) -> None:
    score = evaluate(chain(label), WORLD, [task], N).score(task)
    known = label in TASKS[task].labels
    share = (rows(task).values == TASKS[task].labels.index(label)).mean() if known else 0.0
    assert (score.parse_rate, score.value_mean, score.exact) == (float(known), share, share)
    assert (score.metric, score.value_median, score.value_mean_parsed) == ("accuracy", None, None)
    assert score.value_mean <= score.baseline


SLOPPY = [
    ("7x", True, 7.0),  # rubbish after the number
    ("7", False, 7_777.0),  # no end; a distance has at most four digits
    ("x7", True, None),  # rubbish before it
    ("-7", True, None),
    ("7,8", True, 7.0),
]


@pytest.mark.parametrize(("text", "end", "lenient"), SLOPPY)
def test_sloppy_answers_are_not_read_and_cost_the_failure_value(
    text: str, end: bool, lenient: float | None
) -> None:
    score = evaluate(chain(text, end=end), WORLD, ["distance"], N).score("distance")
    failure = math.hypot(3600, 1800)
    assert (score.parse_rate, score.value_mean_parsed, score.value_median_parsed) == (0.0, None, None)
    assert (score.value_mean, score.value_median) == pytest.approx((failure, failure))
    assert score.lenient_parse_rate == (0.0 if lenient is None else 1.0)
    # The longest answer is four digits and the end, so a number that never ends is cut after five.
    expected = 77_777.0 if lenient == 7_777.0 else lenient
    values = rows("distance").values
    assert score.value_mean_lenient == pytest.approx(
        failure if lenient is None else np.abs(values - expected).mean()
    )


def test_errors_of_read_answers_stand_apart_from_failures() -> None:
    asked = rows("distance", 4)
    answers = Answers(("",) * 4, asked.values + np.array([3.0, np.nan, -5.0, np.nan]), asked.values + 1.0)
    score = score_answers(asked, answers, "old")
    failure = TASKS["distance"].failure_value
    assert score.parse_rate == 0.5
    assert (score.value_mean_parsed, score.value_median_parsed) == (4.0, 4.0)
    assert score.value_mean == pytest.approx((8 + 2 * failure) / 4)
    assert score.value_mean_lenient == 1.0


@given(
    st.lists(st.text(alphabet="0123456789TRUEFALSNW=x", max_size=5), min_size=1, max_size=8), st.booleans()
)
def test_reading_is_parsing_plus_an_end(texts: list[str], end: bool) -> None:
    tokens = np.zeros((len(texts), 6), dtype=np.uint8)
    for row, text in zip(tokens, texts, strict=True):
        encoded = Tokenizer().encode(text)[1:]
        row[: len(encoded)] = encoded
        row[len(encoded) :] = EOS
        if not end:
            row[row == EOS] = CHAR_ID["x"]
    for task in TASKS.values():
        answers = read_answers(task, tokens)
        expected = [task.parse(text) if end else None for text in texts]
        np.testing.assert_array_equal(answers.strict, np.array(expected, dtype=float))
        strict = np.isfinite(answers.strict) & ~np.array(["=" in text for text in texts])
        np.testing.assert_array_equal(answers.lenient[strict], answers.strict[strict])


def test_an_untrained_model_is_scored_the_same_in_any_batches() -> None:
    model = HookedQwen2(ModelConfig(n_layers=2, d_model=16, n_heads=2, d_mlp=32), seed=3).eval()
    asked = rows("perimeter", 60)
    assert len(set(asked.answer_start.tolist())) == 4
    one, other = (answer_rows(model, asked, batch=batch) for batch in (60, 7))
    assert one.texts == other.texts
    assert len(set(one.texts)) > 1
    assert evaluate(model, WORLD, ["inside"], 40) == evaluate(model, WORLD, ["inside"], 40)
    assert evaluate(model, WORLD, ["inside"], 40, seed=1) != evaluate(model, WORLD, ["inside"], 40)


@pytest.mark.parametrize("group", ["old", "new", "all"])
def test_groups_ask_about_their_cities(group: str) -> None:
    found = evaluate(chain("7"), WORLD, ["distance", "inside"], N, group=group)
    asked = generate(WORLD, "distance", N, split="test", group=group)
    new = np.isin(asked.cities, WORLD.ids[WORLD.new()]).any(axis=1)
    assert (new.any(), new.all()) == {"old": (False, False), "new": (True, True), "all": (True, False)}[group]
    assert found.score("distance").value_mean == pytest.approx(np.abs(asked.values - 7).mean())
    assert [record["task"] for record in found.table()] == ["distance", "inside"]
    assert {record["group"] for record in found.table()} == {group}


def test_the_papers_protocol_has_its_own_rows() -> None:
    strict, paper = (
        evaluate(chain("TRUE"), WORLD, ["crossing"], 600, protocol=protocol).score("crossing").value_mean
        for protocol in (STRICT, PAPER)
    )
    assert strict == pytest.approx(0.5, abs=0.06)
    assert paper < 0.35


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(UnknownName, match="unknown task 'area'"):
        evaluate(chain("7"), WORLD, ["area"], 5)
    with pytest.raises(WorldError, match="needs new cities"):
        evaluate(chain("7"), load_world(source="uniform", n_cities=60), ["distance"], 5, group="new")
    with pytest.raises(AnalysisError, match="'angle' was not evaluated"):
        evaluate(chain("7"), WORLD, ["distance"], 5).score("angle")
    with pytest.raises(AnalysisError, match="rows of one task, got 10 rows of 2 tasks"):
        answer_rows(chain("7"), concat([rows("distance", 5), rows("angle", 5)]))


# v, b_new, b_old, metric, as it is, with the reference's rules
IMPROVEMENTS = [
    (100.0, 100.0, 10.0, "error", 0.0, 0.0),
    (10.0, 100.0, 10.0, "error", 1.0, 1.0),
    (1000.0, 100.0, 10.0, "error", -1.0, 0.0),
    (0.1, 100.0, 10.0, "error", 3.0, 1.5),
    (math.sqrt(1000), 100.0, 10.0, "error", 0.5, 0.5),
    (0.0, 100.0, 10.0, "error", math.inf, 100 / 90),
    (50.0, 100.0, 0.0, "error", math.nan, 0.5),
    (5.0, 10.0, 10.0, "error", math.nan, 0.0),
    (5.0, 10.0, 20.0, "error", math.nan, 0.0),
    (0.5, 0.5, 0.9, "accuracy", 0.0, 0.0),
    (0.9, 0.5, 0.9, "accuracy", 1.0, 1.0),
    (0.3, 0.5, 0.9, "accuracy", -0.5, 0.0),
    (0.9, 0.9, 0.9, "accuracy", math.nan, 0.0),
    (0.9, 0.9, 0.5, "accuracy", math.nan, 0.0),
]


@pytest.mark.parametrize(("v", "b_new", "b_old", "metric", "plain", "paper"), IMPROVEMENTS)
def test_normalised_improvement(
    v: float, b_new: float, b_old: float, metric: str, plain: float, paper: float
) -> None:
    assert normalised_improvement(v, b_new, b_old, metric) == pytest.approx(plain, nan_ok=True)
    assert normalised_improvement(v, b_new, b_old, metric, clip="paper") == pytest.approx(paper)


POSITIVE = st.floats(1e-3, 1e6)


@given(v=POSITIVE, better=POSITIVE, b_old=POSITIVE, gap=st.floats(1.01, 1e3), unit=st.floats(1e-3, 1e3))
def test_improvement_of_errors_has_no_unit_and_rises_as_they_fall(
    v: float, better: float, b_old: float, gap: float, unit: float
) -> None:
    b_new = b_old * gap
    here = normalised_improvement(v, b_new, b_old, "error")
    assert here == pytest.approx(
        normalised_improvement(v * unit, b_new * unit, b_old * unit, "error"), rel=1e-6, abs=1e-6
    )
    there = normalised_improvement(better, b_new, b_old, "error")
    assert (here >= there) == (v <= better) or here == pytest.approx(there)
    assert normalised_improvement(v, b_new, b_old, "error", clip="paper") == pytest.approx(
        min(max(here, 0.0), 1.5)
    )


def test_improvement_refuses_what_it_cannot_mean() -> None:
    with pytest.raises(AnalysisError, match="not 'loss'"):
        normalised_improvement(1.0, 2.0, 1.0, "loss")
    with pytest.raises(AnalysisError, match="not negative, got -1"):
        normalised_improvement(-1.0, 2.0, 1.0, "error")
