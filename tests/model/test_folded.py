"""Decoding without hooks against the model's own forward: the same answers, the same logits to rounding."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Qwen2Config, Qwen2ForCausalLM

from cwr_mech.config import ModelConfig
from cwr_mech.errors import ConfigError
from cwr_mech.model import decoding
from cwr_mech.model.decoding import _through_hooks, greedy_decode
from cwr_mech.model.folded import Folded, Reading, foldable, sections
from cwr_mech.model.qwen2 import HookedQwen2, hooked_config
from cwr_mech.model.threads import few_threads
from cwr_mech.tasks.tokenizer import EOS

SMALL = {"n_layers": 3, "d_model": 32, "d_mlp": 48, "init_std": 0.3}
FOREIGN = {
    "vocab_size": 1500, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 64,
    "initializer_range": 0.2, "tie_word_embeddings": True,
}  # fmt: skip
WINDOWED = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}
SCALED = {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0}}
KINDS = {
    "own": {},
    "grouped": {"n_key_value_heads": 2},
    "tied": {"tied": True},
    "one head": {"n_heads": 1, "n_layers": 1},
    "foreign": FOREIGN,
    "windowed": FOREIGN | WINDOWED,
    "scaled": FOREIGN | SCALED,
}


def build(kind):
    """A model of random weights, gains and biases; <eos> is likely, so that rows end at different times."""
    changes, draw = KINDS[kind], torch.Generator().manual_seed(4)
    if "vocab_size" in changes:
        with torch.random.fork_rng():
            torch.manual_seed(2)
            model = HookedQwen2.from_hf(Qwen2ForCausalLM(Qwen2Config(**changes)))
    else:
        model = HookedQwen2(ModelConfig(**SMALL | changes), seed=0).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 3 and ("ln" in name or ".b_" in name):
                parameter += 0.3 * torch.randn(parameter.shape, generator=draw)
        model.W_U[:, EOS] += 0.3 * torch.randn(len(model.W_U), generator=draw)
    return model


def prompts(n=300, pos=12, shared=4, seed=0):
    """Random rows that begin alike; the next token has few values, and rows occur twice."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randint(4, 98, (n, pos), generator=draw)
    rows[:, :shared] = rows[0, :shared]
    rows[:, shared] = rows[:, shared] % 3 + 5
    rows[-1] = rows[0]
    return rows


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_the_model_itself(kind):
    # In float64 no two logits of random weights agree to rounding: no answer may differ.
    model, rows = build(kind).double(), prompts()
    assert foldable(model)
    with torch.no_grad():
        expected = _through_hooks(model, rows, 6, EOS)
    found = greedy_decode(model, rows, 6)
    assert torch.equal(found, expected)
    ends = (expected == EOS).int().argmax(1)
    assert len(ends.unique()) > 2, "control: rows end at different times"
    assert len(expected.unique(dim=0)) > 20, "control: answers differ"


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_model_itself_in_float32(kind):
    model, rows = build(kind), prompts(40)
    weights = Folded(model)
    with torch.no_grad():
        expected = model(rows)[:, -1]
        whole = Reading(weights, 40, 12).read(rows)
        parts = Reading(weights, 40, 12)
        parts.read(rows[:, :5], predict=False)
        there = parts.take(torch.arange(39, -1, -1), Reading(weights, 40, 12)).read(rows.flip(0)[:, 5:])
    size = expected.abs().max()
    assert float((whole - expected).abs().max() / size) < 1e-5
    assert float((there.flip(0) - expected).abs().max() / size) < 1e-5
    assert float((there - expected).abs().max() / size) > 1e-2, "control: the order of rows matters"


def test_float32_answers_differ_at_most_where_logits_agree_to_rounding():
    model, rows = build("own"), prompts(600)
    with torch.no_grad():
        expected = _through_hooks(model, rows, 6, EOS)
        found = greedy_decode(model, rows, 6)
        for row in (found != expected).any(1).nonzero()[:, 0].tolist():
            at = int((found[row] != expected[row]).nonzero()[0, 0])
            logits = model(torch.cat([rows[row], expected[row, :at]])[None])[0, -1]
            best = logits.topk(2).values
            assert float(best[0] - best[1]) < 1e-5 * float(logits.abs().max())


def test_windows_matter():
    """Control of the windowed kind: without its window the same weights answer otherwise."""
    model, rows = build("windowed"), prompts()
    before = greedy_decode(model, rows, 6)
    for block in model.blocks:
        block.attn.window = None
    assert not torch.equal(greedy_decode(model, rows, 6), before)


def test_a_model_somebody_listens_to_is_not_folded():
    model = build("own")
    assert foldable(model)
    with model.hooks(fwd_hooks=[("blocks.1.hook_resid_mid", lambda resid, hook: resid)]):
        assert not foldable(model)
    assert foldable(model)
    handle = model.blocks[0].mlp.register_forward_pre_hook(lambda module, inputs: None)
    assert not foldable(model)
    handle.remove()
    assert not foldable(build("own").bfloat16())


def test_mistakes_are_named():
    model = build("foreign")
    with pytest.raises(ConfigError, match="token 1500 is not one of this model's 0 to 1499"):
        greedy_decode(model, torch.full((2, 5), 1500), 3)
    with pytest.raises(ConfigError, match="65 tokens are more than this model's 64 positions"):
        greedy_decode(model, prompts(3, 60), 9)
    with pytest.raises(ConfigError, match="padded on the left"):
        greedy_decode(build("own"), torch.tensor([[0, 2, 5, 6]]), 3)


LETTERS = st.lists(st.integers(0, 2), min_size=6, max_size=6)


@given(st.lists(LETTERS, min_size=1, max_size=40), st.integers(1, 6))
def test_sections_reach_every_prompt(rows, length):
    texts = torch.tensor(sorted(rows))[:, :length]
    cut, known = sections(texts), torch.zeros(1, 0, dtype=torch.int64)
    assert [part.start for part in cut] == [0, *(part.stop for part in cut[:-1])]
    assert cut[-1].stop == length
    for part in cut:
        known = torch.cat([known[part.parent], texts[part.first, part.start : part.stop]], 1)
        assert len(known.unique(dim=0)) == len(known), "each beginning is read once"
        assert torch.equal(known[part.number], texts[:, : part.stop])


def test_what_prompts_share_is_read_once(monkeypatch):
    read, plain = [], Reading.read

    def counted(self, tokens, *, predict=True):
        read.append(tokens.numel())
        return plain(self, tokens, predict=predict)

    monkeypatch.setattr(Reading, "read", counted)
    model, rows = build("own"), prompts(300, 20, shared=12)
    greedy_decode(model, rows, 1)
    assert sum(read) <= 12 + 300 * 8
    read.clear()
    greedy_decode(model, prompts(300, 20, shared=0), 1)
    assert sum(read) > 300 * 16, "control: nothing is shared"


def test_chunks_change_no_answer(monkeypatch):
    model, rows = build("grouped").double(), prompts(100)
    whole = greedy_decode(model, rows, 6)
    monkeypatch.setattr(decoding, "CHUNK", 7)
    assert torch.equal(greedy_decode(model, rows, 6), whole)


@pytest.mark.parametrize(("d_model", "inside"), [(32, 1), (1024, 2)])
def test_a_narrow_model_runs_in_one_thread(d_model, inside):
    torch.set_num_threads(2)
    try:
        with few_threads(hooked_config(ModelConfig(d_model=d_model))):
            assert torch.get_num_threads() == inside
        assert torch.get_num_threads() == 2, "others get theirs back"
    finally:
        torch.set_num_threads(1)
