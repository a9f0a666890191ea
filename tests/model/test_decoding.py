"""Greedy decoding with a cache against plain argmax without one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cwr_mech.config import ModelConfig
from cwr_mech.model.decoding import decode_prompts, decode_text, greedy_decode
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.tasks.tokenizer import EOS, Tokenizer

SMALL = {"n_layers": 2, "d_model": 32, "d_mlp": 48}


def build(seed=0, eos_bias=0.0, **changes):
    """A model of random weights; with `eos_bias`, <eos> is likelier and rows end at different times."""
    model = HookedQwen2(ModelConfig(**SMALL, **changes), seed=seed).eval()
    with torch.no_grad():
        model.unembed.W_U[:, EOS] += eos_bias * torch.randn(32, generator=torch.Generator().manual_seed(9))
    return model


def prompts(n, pos, seed=0):
    return torch.randint(4, 98, (n, pos), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def plain(model, rows, new):
    """No cache, no early stop: the whole sequence again for every token; after eos, eos."""
    length = rows.shape[1]
    for _ in range(new):
        best = model(rows)[:, -1].argmax(-1)
        ended = (rows[:, length:] == EOS).any(1)
        rows = torch.cat([rows, best.masked_fill(ended, EOS)[:, None]], 1)
    return rows[:, length:]


@pytest.mark.parametrize("changes", [{}, {"n_key_value_heads": 2}, {"n_key_value_heads": 1}])
def test_equals_decoding_without_a_cache(changes):
    model, rows = build(eos_bias=0.6, **changes), prompts(40, 9)
    expected, decoded = plain(model, rows, 12), greedy_decode(model, rows, 12)
    assert torch.equal(decoded, expected[:, : decoded.shape[1]])
    assert (expected[:, decoded.shape[1] :] == EOS).all()
    ends = (expected == EOS).int().argmax(1)[(expected == EOS).any(1)]
    assert len(set(ends.tolist())) > 2, "control: rows end at different times"
    assert len({tuple(row) for row in expected.tolist()}) > 10, "control: answers differ"


def test_equals_transformers_generate():
    model, rows = build(eos_bias=0.6), prompts(40, 9)
    theirs = model.to_hf().generate(
        rows, attention_mask=torch.ones_like(rows), max_new_tokens=12, do_sample=False, pad_token_id=EOS
    )
    decoded = greedy_decode(model, rows, 12)
    assert torch.equal(theirs[:, 9:], decoded)
    assert (decoded == EOS).any()


def test_stops_when_every_row_has_ended():
    model, rows = build(), prompts(6, 9)
    first = model(rows)[:, -1].argmax(-1)
    with torch.no_grad():
        model.unembed.W_U[:, EOS] = model.unembed.W_U[:, first[0]] * 2
    forwards = []
    model.embed.register_forward_hook(lambda module, inputs, output: forwards.append(inputs[0].shape[1]))
    decoded = greedy_decode(model, rows[:1], 50)
    assert decoded.tolist() == [[EOS]]
    assert forwards == [9]
    forwards.clear()
    other = greedy_decode(build(), rows, 5)
    assert other.shape == (6, 5)
    assert greedy_decode(model, rows[:0], 5).shape == (0, 0)
    assert greedy_decode(model, rows, 0).shape == (6, 0)


def test_each_new_token_costs_one_position():
    model, seen = build(), []
    model.embed.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[1]))
    greedy_decode(model, prompts(3, 9), 4)
    assert seen == [9, 1, 1, 1]


def test_a_cache_works_from_a_later_layer_too():
    model, rows = build(), prompts(3, 9)
    stream = model(rows, stop_at_layer=1)
    past = model.new_past()
    pieces = [model(stream[:, a:b], start_at_layer=1, past=past) for a, b in ((0, 4), (4, 7), (7, 8), (8, 9))]
    assert float((torch.cat(pieces, 1) - model(rows)).detach().abs().max()) < 1e-5
    assert [layer.length for layer in past] == [0, 9]


def test_hooks_act_at_every_token():
    model, rows = build(), prompts(5, 9)
    shift = torch.randn(32, generator=torch.Generator().manual_seed(3))
    name = "blocks.0.hook_resid_post"
    with model.hooks(fwd_hooks=[(name, lambda resid, hook: resid + shift)]):
        decoded, expected = greedy_decode(model, rows, 6), plain(model, rows, 6)
    assert torch.equal(decoded, expected[:, : decoded.shape[1]])
    assert not torch.equal(decoded, greedy_decode(model, rows, 6)), "control: the hook matters"
    with model.hooks(fwd_hooks=[("blocks.1.attn.hook_pattern", lambda pattern, hook: pattern)]):
        assert torch.equal(greedy_decode(model, rows, 6), plain(model, rows, 6)[:, :6]), "explicit attention"


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(1, 6), max_size=8), st.integers(1, 4), st.integers(0, 3))
def test_prompts_of_any_lengths_come_back_in_their_order(lengths, batch, seed):
    model = build(eos_bias=0.6)
    rows = [prompts(1, length, seed=seed + i)[0].tolist() for i, length in enumerate(lengths)]
    answers = decode_prompts(model, rows, 5, batch=batch)
    for row, answer in zip(rows, answers, strict=True):
        alone = plain(model, torch.tensor([row]), 5)[0].tolist()
        assert answer == (alone[: alone.index(EOS)] if EOS in alone else alone)


def test_text_in_text_out():
    model, tokenizer = build(), Tokenizer()
    texts = ["dist(c_1234,c_5678)=", "compass(c_1234,c_5678)=", "dist(c_4321,c_8765)="]
    answers = decode_text(model, texts, 6)
    for text, answer in zip(texts, answers, strict=True):
        row = torch.tensor([tokenizer.encode_prompt(text)])
        assert answer == tokenizer.decode(plain(model, row, 6)[0].tolist())
    assert decode_text(model, [], 6) == []
