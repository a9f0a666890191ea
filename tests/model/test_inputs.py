"""What users put into HookedQwen2: devices and types that come and go, and tokens of every shape and type."""

import hashlib

import numpy as np
import pytest
import torch

from cwr_mech.config import ModelConfig
from cwr_mech.errors import ConfigError
from cwr_mech.model import HookedQwen2
from cwr_mech.tasks.tokenizer import BOS, EOS, PAD, Tokenizer

CONFIG = ModelConfig(n_layers=2, d_model=32, n_heads=4, n_key_value_heads=2, d_mlp=64)
TOKENS = torch.randint(4, 98, (3, 9), generator=torch.Generator().manual_seed(1))
PROMPT = "dist(c_1234,"

FIRST_WEIGHTS = "980af58cf74d2971c0bc2caea56148354f5224b6ffe0362a02c5c604fad08059"
"""Digest of the first weights of seed 0. Drawn by numpy, number by number: the same on every processor."""


@pytest.fixture
def model() -> HookedQwen2:
    return HookedQwen2(CONFIG, seed=0).eval()


def digest(model: HookedQwen2) -> str:
    parts = (value.detach().numpy().astype("<f4").tobytes() for _, value in sorted(model.named_parameters()))
    return hashlib.sha256(b"".join(parts)).hexdigest()


def test_a_seed_means_the_same_first_weights_everywhere(model: HookedQwen2) -> None:
    assert digest(model) == FIRST_WEIGHTS
    assert digest(HookedQwen2(CONFIG, seed=1)) != FIRST_WEIGHTS


def from_meta(model: HookedQwen2) -> HookedQwen2:
    with torch.device("meta"):
        other = HookedQwen2(CONFIG, seed=None)
    other = other.to_empty(device="cpu")
    other.load_state_dict(model.state_dict())
    return other


def assigned(model: HookedQwen2) -> HookedQwen2:
    with torch.device("meta"):
        other = HookedQwen2(CONFIG, seed=None)
    other.load_state_dict(model.state_dict(), assign=True)
    return other


def through_bfloat16(model: HookedQwen2) -> HookedQwen2:
    other = HookedQwen2(CONFIG, seed=1).to(torch.bfloat16).float()
    other.load_state_dict(model.state_dict())
    return other


@pytest.mark.parametrize("way", [from_meta, assigned, through_bfloat16])
def test_rotary_tables_survive_devices_and_types(way, model: HookedQwen2) -> None:
    assert torch.equal(way(model).eval()(TOKENS), model(TOKENS))


def test_bfloat16_runs_and_its_tables_are_rounded_at_use(model: HookedQwen2) -> None:
    wide, narrow = model(TOKENS), HookedQwen2(CONFIG, seed=0).to(torch.bfloat16).eval()
    logits, cache = narrow.run_with_cache(TOKENS)
    assert cache["resid_post", 1].dtype == torch.bfloat16
    assert narrow.rotary_cos.dtype == torch.float32
    # bfloat16 keeps 8 bits: two layers of it lose a few per cent of the largest logit.
    assert (logits.float() - wide).abs().max() < 0.1 * wide.abs().max()


@pytest.mark.parametrize("kind", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_tokens_of_any_whole_type(kind: torch.dtype, model: HookedQwen2) -> None:
    assert torch.equal(model(TOKENS.to(kind)), model(TOKENS))


def test_one_row_and_texts(model: HookedQwen2) -> None:
    assert torch.equal(model(TOKENS[0]), model(TOKENS[:1]))
    row = torch.tensor([Tokenizer().encode_prompt(PROMPT)])
    assert torch.equal(model(PROMPT), model(row))
    assert torch.equal(model([PROMPT, PROMPT]), model(row.repeat(2, 1)))
    tokens, _ = Tokenizer().encode_rows([f"{PROMPT}c_2345)=1"])
    assert model(torch.from_numpy(tokens)).shape == (1, tokens.shape[1], 98)


WRONG = {
    "too large": (torch.full((1, 4), 500), "token 500 is not one of this model's 0 to 97"),
    "negative": (torch.full((1, 4), -3), "token -3"),
    "floats": (torch.zeros(1, 4, 32), "float32, not whole numbers"),
    "padded on the left": (torch.tensor([[PAD, BOS, 70, 75], [BOS, 70, 75, 80]]), "padded on the left"),
    "padded on the left without bos": (torch.tensor([[PAD, PAD, 70, 75]]), "padded on the left"),
}
RIGHT = {
    "padded on the right": torch.tensor([[BOS, 70, PAD, PAD], [BOS, 70, 75, EOS]]),
    "padding alone": torch.full((2, 4), PAD),
    "one token 0 at the start, by chance": torch.tensor([[PAD, 70, 75]]),
}


@pytest.mark.parametrize(("tokens", "said"), WRONG.values(), ids=WRONG)
def test_wrong_tokens_are_named(tokens: torch.Tensor, said: str, model: HookedQwen2) -> None:
    with pytest.raises(ConfigError, match=said):
        model(tokens)


@pytest.mark.parametrize("tokens", RIGHT.values(), ids=RIGHT)
def test_right_tokens_are_not_refused(tokens: torch.Tensor, model: HookedQwen2) -> None:
    assert torch.isfinite(model(tokens)).all()


def test_a_model_without_a_padding_token_has_no_padded_rows(model: HookedQwen2) -> None:
    model.pad_token = None
    assert model(WRONG["padded on the left"][0]).shape == (2, 4, 98)


def test_differences_of_masked_scores_are_zero(model: HookedQwen2) -> None:
    """Attribution multiplies (clean - corrupted) by a gradient: with -inf in both it would be NaN."""
    name = "blocks.1.attn.hook_attn_scores"
    clean, corrupted = (model.run_with_cache(t, names_filter=name)[1][name] for t in (TOKENS, TOKENS.flip(0)))
    difference = clean - corrupted
    assert torch.isfinite(difference).all()
    assert difference.triu(1).abs().max() == 0
    assert difference.tril().abs().max() > 0
    _, cache = model.run_with_cache(TOKENS)
    assert cache["pattern", 1].triu(1).abs().max() == 0


def test_loss_of_an_early_layer_is_that_of_its_logit_lens(model: HookedQwen2) -> None:
    stream = model(TOKENS, stop_at_layer=1)
    logits = model.unembed(model.ln_final(stream)).detach().double()
    chosen = torch.log_softmax(logits[:, :-1], -1).gather(2, TOKENS[:, 1:, None])
    loss = model(TOKENS, stop_at_layer=1, return_type="loss")
    np.testing.assert_allclose(loss.item(), -chosen.mean().item(), rtol=1e-5)
    assert abs(loss.item() - model(TOKENS, return_type="loss").item()) > 1e-3
