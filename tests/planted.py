"""Hand-built models whose mechanism is known, head by head and place by place.

Residual stream: one flag a kind of token, then the digits as they are read (`SOURCE`), as they are carried
(`CARRIED`) and as they are answered (`OUT`). All heads but the named ones write nothing, the MLPs are 0.
Queries and keys use the two slowest pairs of rotary dimensions, which hardly turn within a prompt, so
attention goes by kind of token and not by position.
"""

import torch

from cwr_mech.config import ModelConfig
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.tasks.tokenizer import BOS, CHAR_ID

FLAGS = {"bos": 0, "digit": 1, "comma": 2, "equals": 3, "other": 4, "size": 5}
SOURCE, CARRIED, OUT = 6, 16, 26
CONFIG = ModelConfig(n_layers=2, d_model=36, n_heads=2, d_mlp=4)
DEFAULT, CONTENT = 8, 7
"""Dimension of a head that holds what is attended to when nothing else is, and the one for what is sought."""


def empty() -> HookedQwen2:
    """A model that embeds tokens by kind and digit and reads answers from OUT, and does nothing between."""
    model = HookedQwen2(CONFIG, seed=None).eval()
    with torch.no_grad():
        for module in (*model.blocks, model):
            for norm in ("ln1", "ln2", "ln_final"):
                if hasattr(module, norm):
                    getattr(module, norm).w.fill_(1.0)
        embedding, unembedding = model.W_E, model.W_U
        embedding[:, FLAGS["other"]] = 1
        for char, kind in ((",", "comma"), ("=", "equals"), *((str(d), "digit") for d in range(10))):
            embedding[CHAR_ID[char], FLAGS["other"]] = 0
            embedding[CHAR_ID[char], FLAGS[kind]] = 1
        embedding[BOS] = 0
        embedding[BOS, FLAGS["bos"]] = 1
        for digit in range(10):
            embedding[CHAR_ID[str(digit)], SOURCE + digit] = 1
            unembedding[OUT + digit, CHAR_ID[str(digit)]] = 8
    return model


def attend(
    model: HookedQwen2, layer: int, head: int, asking: str, sought: str, strength: float = 4.0
) -> None:
    """Make tokens of kind `asking` look at those of kind `sought`; all other tokens look at <bos>."""
    attn = model.blocks[layer].attn
    with torch.no_grad():
        attn.b_Q[head, DEFAULT] = strength
        attn.W_K[head, FLAGS["bos"], DEFAULT] = strength
        attn.W_Q[head, FLAGS[asking], DEFAULT] = -strength
        attn.W_Q[head, FLAGS[asking], CONTENT] = strength
        attn.W_K[head, FLAGS[sought], CONTENT] = strength


def copy(model: HookedQwen2, layer: int, head: int, start: int, end: int) -> None:
    """Make a head move ten digit dimensions from `start` to `end`."""
    attn = model.blocks[layer].attn
    with torch.no_grad():
        for digit in range(10):
            dimension = digit if digit < 7 else digit + 2  # DEFAULT and CONTENT stay free of values
            attn.W_V[head, start + digit, dimension] = 1
            attn.W_O[head, dimension, end + digit] = 1


def relay() -> HookedQwen2:
    """Head 0 of layer 0 gathers the first city's digits at the comma, head 1 of layer 1 takes them to '='."""
    model = empty()
    attend(model, 0, 0, "comma", "digit")
    copy(model, 0, 0, SOURCE, CARRIED)
    attend(model, 1, 1, "equals", "comma")
    copy(model, 1, 1, CARRIED, OUT)
    return model


def largest_digit() -> HookedQwen2:
    """Head 0 of layer 0 lets '=' look at the largest digit of all, with a softmax as hard as stone."""
    model = empty()
    attend(model, 0, 0, "equals", "digit", 8.0)
    with torch.no_grad():
        for digit in range(10):
            model.W_E[CHAR_ID[str(digit)], FLAGS["size"]] = digit / 10
        model.blocks[0].attn.W_K[0, FLAGS["size"], CONTENT] = 60.0
    copy(model, 0, 0, SOURCE, OUT)
    return model
