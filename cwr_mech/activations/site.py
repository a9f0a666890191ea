"""One name for a place in the network: layer, component, token position.

A layer has one number everywhere: -1 is the embedding, L the residual stream after block L, counted from 0 as
in TransformerLens (the paper's layer L is our L - 1), and `n_layers` the output of the final norm.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from cwr_mech.errors import AnalysisError, UnknownName

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

    `layer`: -1 for the embedding, None for a hook outside of the blocks, and after the final norm of a model
    whose depth is not known here.
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
        elif "hook_" in text:
            return cls(None, text, position)
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
        if self.layer is None and self.component != FINAL:
            return self.component
        return HOOKS.get(self.component, f"blocks.L.{self.component}").replace(".L.", f".{self.layer}.", 1)

    @property
    def label(self) -> str:
        """`embed`, `L1` or `final`, with the component where that is not the stream after the block."""
        if self.component in (EMBED, FINAL) or self.layer is None:
            return self.component
        return f"L{self.layer}" + ("" if self.component == "resid_post" else f" {self.component}")

    def number(self, n_layers: int | None = None) -> int:
        """The layer as a number for tables and axes. Raises AnalysisError for "final" of unknown depth."""
        if self.component == FINAL and n_layers is not None:
            return n_layers
        if self.layer is None:
            raise AnalysisError(f"'{self.label}' belongs to no layer, or the depth of the model is not known")
        return self.layer

    def at(self, position: str) -> "Site":
        """The same layer at another token position."""
        return replace(self, position=position)

    def __str__(self) -> str:
        return f"{self.label}, {self.position.replace('_', ' ')}"
