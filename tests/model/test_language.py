"""Text in and out, stacked weights and circuits, as TransformerLens users call them."""

import numpy as np
import pytest
import torch
from qwen_cases import bpe, qwen2
from transformer_lens.model_bridge import TransformerBridge

from cwr_mech.config import ModelConfig
from cwr_mech.errors import ConfigError, UnknownName
from cwr_mech.model.qwen2 import HookedQwen2, next_token_loss
from cwr_mech.tasks.tokenizer import VOCAB

TOKENIZER = bpe(whole=False)
TEXT = "The town of Bavoru lies at"


@pytest.fixture(scope="module")
def ours() -> HookedQwen2:
    return HookedQwen2(ModelConfig(n_layers=1, d_model=8, n_heads=2, d_mlp=8), seed=0).eval()


@pytest.fixture(scope="module")
def other() -> HookedQwen2:
    return HookedQwen2.from_hf(qwen2(TOKENIZER), TOKENIZER)


def test_texts_are_read_by_the_models_own_tokenizer(ours: HookedQwen2, other: HookedQwen2) -> None:
    assert ours.to_str_tokens("dist(c_1") == ["<bos>", *"dist(c_1"]
    assert ours.to_tokens("dist", prepend_bos=False).shape == (1, 4)
    assert ours.to_string(ours.to_tokens("dist(c_1")) == ["<bos>dist(c_1"]
    assert len(ours.tokenizer) == len(VOCAB)
    tokens = TOKENIZER(TEXT)["input_ids"]
    assert other.to_tokens(TEXT).tolist() == [tokens]
    assert other.to_string(other.to_tokens(TEXT)[0]) == TEXT
    assert "".join(other.to_str_tokens(TEXT)) == TEXT
    assert other.to_str_tokens(np.array(tokens)) == other.to_str_tokens(TEXT)
    assert other.to_str_tokens([TEXT, "The"]) == [other.to_str_tokens(TEXT), ["The"]]
    assert other.to_single_token("The") == tokens[0]
    assert other.to_single_str_token(tokens[0]) == "The"
    assert torch.equal(other(TEXT), other(other.to_tokens(TEXT)))
    with pytest.raises(ConfigError, match=r'"Bavoru" is [2-9] tokens'):
        other.to_single_token("Bavoru")
    with pytest.raises(UnknownName, match="unknown token '12'"):
        ours.to_single_token("12")
    with pytest.raises(ConfigError, match="no token for the beginning"):
        other.to_tokens(TEXT, prepend_bos=True)


def test_generate_is_that_of_transformers(other: HookedQwen2) -> None:
    theirs, tokens = other.to_hf(), other.to_tokens(TEXT)
    asked = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = theirs.generate(tokens, attention_mask=torch.ones_like(tokens), **asked)
    found = other.generate(tokens, 8, stop_at_eos=False, do_sample=False)
    assert torch.equal(found, expected)
    text = other.generate(TEXT, 8, stop_at_eos=False, do_sample=False)
    assert text == TEXT + other.to_string(expected[0, tokens.shape[1] :])
    assert other.generate([TEXT], 8, stop_at_eos=False, do_sample=False) == [text]
    end = int(expected[0, tokens.shape[1] + 2])
    until = (expected[0, tokens.shape[1] :] == end).nonzero()[0, 0]
    ended = other.generate(tokens, 8, eos_token_id=end, do_sample=False)
    assert torch.equal(ended, expected[:, : tokens.shape[1] + int(until) + 1])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = {str(other.generate(TEXT, 4, stop_at_eos=False)) for _ in range(5)}
    assert len(draws) > 1, "control: sampling differs from draw to draw"


def test_weights_and_circuits_are_those_of_the_bridge(other: HookedQwen2, tmp_path: object) -> None:
    TOKENIZER.save_pretrained(str(tmp_path))
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(tmp_path))
    bridge = TransformerBridge.boot_transformers(str(tmp_path), hf_model=other.to_hf(), tokenizer=tokenizer)
    for name in (
        "W_E",
        "W_U",
        "W_Q",
        "W_K",
        "W_V",
        "W_O",
        "W_in",
        "W_out",
        "W_gate",
        "b_Q",
        "b_K",
        "b_V",
    ):
        mine, theirs = getattr(other, name), getattr(bridge, name)
        assert mine.shape == theirs.shape, name
        assert torch.equal(mine, theirs), name
    for name in ("QK", "OV"):
        mine, theirs = getattr(other, name).AB, getattr(bridge, name).AB
        assert torch.allclose(mine, theirs, atol=1e-6), name
        assert mine.abs().max() > 1e-3, "control"
    head = other.blocks[1].attn.W_V[0] @ other.blocks[1].attn.W_O[1]
    assert torch.allclose(other.OV[1, 1].AB, head, atol=1e-6), "heads 0 and 1 share the first values"
    assert not torch.allclose(other.OV[1, 2].AB, other.blocks[1].attn.W_V[0] @ other.blocks[1].attn.W_O[2])
    assert other.all_head_labels()[:5] == ["L0H0", "L0H1", "L0H2", "L0H3", "L1H0"]
    assert not other.b_in.any()
    assert other.b_out.shape == (2, other.cfg.d_model)


def test_loss_of_each_token(other: HookedQwen2) -> None:
    tokens = torch.cat([other.to_tokens(TEXT), other.to_tokens(TEXT).flip(1)])
    each = other(tokens, return_type="loss", loss_per_token=True)
    logits = other(tokens).log_softmax(-1)
    assert each.shape == (2, tokens.shape[1] - 1)
    expected = -logits[:, :-1].gather(2, tokens[:, 1:, None])[..., 0]
    assert torch.allclose(each, expected, atol=1e-5)
    assert torch.allclose(each.mean(), other(tokens, return_type="loss"), atol=1e-6)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[0, 2] = False
    masked = next_token_loss(other(tokens), tokens, mask, per_token=True)
    assert masked[0, 1] == 0
    assert each[0, 1] != 0
