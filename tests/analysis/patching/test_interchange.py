"""Decoding under a patch: the source's answer where everything is replaced, scored by the truth."""

from functools import partial

import numpy as np
import pytest
import torch
from patching_cases import WORLD, model_of, some_pairs

from cwr_mech.analysis.patching.cells import Cell
from cwr_mech.analysis.patching.interchange import (
    DIGITS,
    Interchange,
    interchange,
    interchange_rows,
    swapped_answers,
)
from cwr_mech.analysis.patching.layout import INTERCHANGE
from cwr_mech.model.decoding import decode_text
from cwr_mech.tasks.registry import TASKS


@torch.no_grad()
@pytest.mark.parametrize("task", ["distance", "compass", "perimeter"])
def test_replacing_the_whole_question_decodes_the_sources_answer(task):
    """Control: a patch that cannot reach the answer leaves the base's."""
    model, pairs = model_of("gqa"), some_pairs(task, 5)
    ends = [Cell("resid_pre", 0, None, "swapped"), Cell("resid_post", 2, None, "swapped_last")]
    found = interchange(model, pairs, ends)
    answer = partial(decode_text, model, max_new_tokens=TASKS[task].max_answer_tokens)
    own = {role: np.array(answer(TASKS[task].prompt(getattr(pairs, role)))) for role in ("clean", "corrupt")}
    np.testing.assert_array_equal(found.answer[0, 0], own["clean"])
    np.testing.assert_array_equal(found.answer[1, 0], own["corrupt"])
    np.testing.assert_array_equal(found.answer[0, 1], own["corrupt"])
    assert found.applies.all()
    assert (own["clean"] != own["corrupt"]).any()


@torch.no_grad()
def test_cells_at_answer_tokens_do_not_apply():
    found = interchange(model_of(), some_pairs(n=3), [Cell("resid_post", 1, None, "answer1")])
    assert not found.applies.any()


@torch.no_grad()
def test_expected_value_of_a_model_sure_of_its_digits_is_its_answer():
    model, pairs = model_of(), some_pairs(n=4)
    digits = torch.zeros(98, dtype=torch.bool)
    digits[[*DIGITS, 3]] = True
    model.unembed.W_U.mul_(400)  # so sure of every token that nothing is left to average
    model.unembed.W_U[:, ~digits] = 0
    found = interchange(model, pairs, [Cell("resid_pre", 0, None, "swapped")])
    numbers = [TASKS["distance"].parse(str(word)) for word in found.answer[1, 0]]
    for number, expected in zip(numbers, found.expected[1, 0], strict=True):
        assert (number is None) == np.isnan(expected)
        if number is not None:
            assert expected == pytest.approx(number, abs=0.5)


def test_rows_count_who_the_answer_follows():
    """Answers made up: half follow the source exactly, half stay; the slope of half a way is a half."""
    pairs = some_pairs("distance", 8)
    follow, half = Cell("z", 0, 0, "equals"), Cell("z", 0, 1, "equals")
    to, start = pairs.corrupt_truth, pairs.clean_truth
    mixed = np.where(np.arange(8) % 2, to, start).astype("<U16")
    between = ((to + start) // 2).astype("<U16")
    answer = np.stack([mixed, between])[None]
    found = Interchange(
        (follow, half), INTERCHANGE[1:], np.ones((1, 2, 8), bool), answer, np.zeros((1, 2, 8))
    )
    first, second = interchange_rows(found, pairs, np.random.default_rng(0))
    assert (first["iia"], first["unchanged"], first["neither"]) == (0.5, 0.5, 0.0)
    assert first["lo"] < 0.5 < first["hi"]
    assert second["slope"] == pytest.approx(0.5, abs=0.02)
    assert second["error_to_source"] == pytest.approx(np.abs(to - start).mean() / 2, rel=0.01)
    given = swapped_answers(found, pairs, 1)
    np.testing.assert_array_equal(given["source"], to)
    assert WORLD.n >= 64
