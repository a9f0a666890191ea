"""Where in the model a city is read, one name for it, and the one reader of the residual stream there.

A layer has one number everywhere: -1 is the embedding, L the residual stream after block L, counted from 0 as
in TransformerLens (the paper's layer L is our L - 1), and `n_layers` the output of the final norm.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Integer
from torch import Tensor

from cwr_mech.errors import AnalysisError, UnknownName
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.tasks.grammar import find_span
from cwr_mech.tasks.registry import get_task
from cwr_mech.tasks.tokenizer import Tokenizer

EMBED, FINAL = "embed", "final"

HOOKS: Mapping[str, str] = MappingProxyType(
    {
        EMBED: "hook_embed",
        FINAL: "unembed.hook_in",
        "resid_pre": "blocks.L.hook_resid_pre",
        "resid_mid": "blocks.L.hook_resid_mid",
        "resid_post": "blocks.L.hook_resid_post",
        "attn_out": "blocks.L.hook_attn_out",
        "mlp_out": "blocks.L.hook_mlp_out",
        "z": "blocks.L.attn.hook_z",
        "q": "blocks.L.attn.hook_q",
        "k": "blocks.L.attn.hook_k",
        "v": "blocks.L.attn.hook_v",
        "pattern": "blocks.L.attn.hook_pattern",
        "neurons": "blocks.L.mlp.hook_post",
    }
)
"""Component -> TransformerLens' hook name, with L for the layer. Any other component is the part of a hook
name after `blocks.L.`."""

POSITIONS = ("last_digit", "delimiter")
"""Token positions of a city at which it is read by default; `digit1`, `digit2`, ... are those of its id."""


@dataclass(frozen=True)
class Site:
    """A place in the network: a layer, a component there, and a token position relative to a city.

    `layer`: -1 for the embedding, None after the final norm of a model whose depth is not known here.
    `position`: `last_digit`, `delimiter`, `digitN` or a span of `tasks.grammar.spans`.
    """

    layer: int | None
    component: str = "resid_post"
    position: str = "last_digit"

    @classmethod
    def parse(
        cls, layer: "str | int | Site", n_layers: int | None = None, *, position: str = "last_digit"
    ) -> "Site":
        """The site that a user or a file names: "L1", "1" or 1, "embed" or -1, "final", or a hook name.

        With `n_layers`, "final" gets that number, and a layer the model does not have raises UnknownName,
        as does a word that names no layer.
        """
        if isinstance(layer, Site):
            return layer
        text = str(layer)
        number = re.fullmatch(r"[Ll]?(-?\d+)", text)
        if text in (EMBED, HOOKS[EMBED], "-1", "L-1"):
            return cls(-1, EMBED, position)
        if text in (FINAL, HOOKS[FINAL], "ln_final.hook_normalized"):
            return cls(n_layers, FINAL, position)
        if number and int(number[1]) >= 0:
            found = cls(int(number[1]), position=position)
        elif block := re.fullmatch(r"blocks\.(\d+)\.(.+)", text):
            templates = {hook.removeprefix("blocks.L."): name for name, hook in HOOKS.items()}
            found = cls(int(block[1]), templates.get(block[2], block[2]), position)
        else:
            raise UnknownName("layer", text, [EMBED, *(f"L{n}" for n in range(n_layers or 4)), FINAL])
        if n_layers is not None and found.layer == n_layers and number:
            return cls(n_layers, FINAL, position)
        if n_layers is not None and found.layer is not None and found.layer >= n_layers:
            raise UnknownName("layer", text, [EMBED, *(f"L{n}" for n in range(n_layers)), FINAL])
        return found

    @property
    def hook(self) -> str:
        """TransformerLens' name of the hook."""
        return HOOKS.get(self.component, f"blocks.L.{self.component}").replace(".L.", f".{self.layer}.", 1)

    @property
    def label(self) -> str:
        """`embed`, `L1` or `final`, with the component where that is not the stream after the block."""
        if self.component in (EMBED, FINAL):
            return self.component
        return f"L{self.layer}" + ("" if self.component == "resid_post" else f" {self.component}")

    def number(self, n_layers: int | None = None) -> int:
        """The layer as a number for tables and axes. Raises AnalysisError for "final" of unknown depth."""
        if self.component == FINAL and n_layers is not None:
            return n_layers
        if self.layer is None:
            raise AnalysisError(f"the layer of '{self.label}' depends on the depth of the model")
        return self.layer

    def at(self, position: str) -> "Site":
        """The same layer at another token position."""
        return replace(self, position=position)

    def __str__(self) -> str:
        return f"{self.label}, {self.position.replace('_', ' ')}"


def layer_label(layer: int | float, n_layers: int | None = None) -> str:
    """`embed` for -1, `final` for `n_layers`, else `L3`."""
    return EMBED if layer < 0 else FINAL if layer == n_layers else f"L{int(layer)}"


def residual_stream(
    model: HookedQwen2, tokens: Int[Tensor, "row pos"], layers: Iterable[int] | None = None
) -> Iterator[tuple[int, Float[Tensor, "row pos d_model"]]]:
    """(layer, residual stream after it) for some layers in ascending order; all from the embedding (-1) up by
    default. Runs no block above the last one asked for, and keeps gradients where they are on.
    """
    resid, done = model(tokens, stop_at_layer=0), 0
    for layer in sorted(set(range(-1, model.cfg.n_layers) if layers is None else layers)):
        if layer >= done:
            resid = model(resid, start_at_layer=done, stop_at_layer=layer + 1)
            done = layer + 1
        yield layer, resid


@torch.no_grad()
def residual_at(
    model: HookedQwen2,
    tokens: Integer[np.ndarray, "row pos"],
    row: Integer[np.ndarray, " mention"],
    position: Integer[np.ndarray, " mention"],
    layers: Iterable[int] | None = None,
    *,
    batch: int = 512,
) -> dict[int, Float32[np.ndarray, "mention d_model"]]:
    """The residual stream after each of some layers (see `residual_stream`) at mentions of cities.

    `row` (ascending) and `position` say where each mention stands in `tokens`: see `data.mentions`, and
    `city_prompts` for cities outside of questions.
    """
    wanted = sorted(set(range(-1, model.cfg.n_layers) if layers is None else layers))
    values = {layer: np.empty((len(row), model.cfg.d_model), dtype=np.float32) for layer in wanted}
    for start in range(0, len(tokens), batch):
        here = slice(*np.searchsorted(row, (start, start + batch)))
        at = row[here] - start, position[here]
        part = torch.from_numpy(tokens[start : start + batch].astype(np.int64)).to(model.W_E.device)
        for layer, resid in residual_stream(model, part, wanted):
            values[layer][here] = resid[at].cpu().numpy()
    return values


def city_prompts(
    task: str, ids: Integer[np.ndarray, " city"], position: str = "last_digit", id_digits: int = 4
) -> tuple[Int[np.ndarray, "city pos"], int]:
    """The beginning of a question about each city, `dist(c_1234,`, as tokens, and where the city is read.

    Nothing before a question's first city differs from one question to another, so what a model holds there
    is what it holds at the first city of every question. Raises UnknownName for another position.
    """
    tokens = Tokenizer().encode_rows(get_task(task).city_prompt(ids, id_digits), end=False)[0]
    return tokens.astype(np.int64), find_span(task, position, get_task(task).n_min, id_digits).start
