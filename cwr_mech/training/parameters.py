"""All parameters of a model in one vector, so that clipping, AdamW and a sum over processes are few calls."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cwr_mech.config import ModelConfig
from cwr_mech.errors import ConfigError
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.model.settings import ForeignConfig


def module_of(name: str) -> str:
    """The module (`ModelConfig.modules`) of a parameter, by its name here or in a HookedQwen2."""
    first, _, rest = name.removeprefix("blocks.").partition(".")
    return f"L{first}" if rest and first.isdigit() else "E" if first == "embed" else "U"


def check_trainable(cfg: ModelConfig) -> None:
    """Raise ConfigError for a model whose attention the training step does not have."""
    if isinstance(cfg, ForeignConfig):
        raise ConfigError(
            "rotary scaling, sliding windows and heads of another width are read, but not trained",
            "fine-tune it with transformers",
        )


class FlatParameters:
    """All parameters of a Qwen2 in one vector: embedding and unembedding (the first `n_embed` numbers), the
    blocks' matrices (up to `n_decay`: all matrices decay), gains and biases.
    """

    def __init__(self, cfg: ModelConfig, device: torch.device | str = "cpu") -> None:
        """Raises ConfigError, see `check_trainable`."""
        check_trainable(cfg)
        self.cfg = cfg
        d, m, v = cfg.d_model, cfg.d_mlp, cfg.d_vocab
        qkv = (cfg.n_heads + 2 * cfg.n_kv) * cfg.d_head
        matrices = {"embed": (v, d)} | ({} if cfg.tied else {"unembed": (d, v)})
        self.n_embed = sum(map(math.prod, matrices.values()))
        vectors: dict[str, tuple[int, ...]] = {"ln_final": (d,)}
        for i in range(cfg.n_layers):
            matrices |= {f"{i}.qkv": (d, qkv), f"{i}.o": (cfg.n_heads * cfg.d_head, d)}
            matrices |= {f"{i}.gate_up": (d, 2 * m), f"{i}.down": (m, d)}
            vectors |= {f"{i}.ln1": (d,), f"{i}.ln2": (d,), f"{i}.qkv_bias": (qkv,)}
        self.shapes = matrices | vectors
        self.sizes = list(map(math.prod, self.shapes.values()))
        self.n_decay = sum(map(math.prod, matrices.values()))
        self.values = torch.zeros(sum(self.sizes), device=device)
        self.grads = torch.zeros_like(self.values)
        self.p, self.g = self.views(self.values), self.views(self.grads)

    def views(self, flat: Float[Tensor, "*models parameter"]) -> dict[str, Tensor]:
        """The parameters by name, of one vector or of several."""
        parts = zip(self.shapes.items(), flat.split(self.sizes, -1), strict=True)
        return {name: part.unflatten(-1, shape) for (name, shape), part in parts}

    def within(self, modules: Collection[str]) -> Bool[Tensor, " parameter"]:
        """Which numbers of the flat vector belong to the modules named."""
        inside = torch.tensor([module_of(name) in modules for name in self.shapes])
        return inside.repeat_interleave(torch.tensor(self.sizes)).to(self.values.device)

    def hidden(self, views: Mapping[str, Tensor]) -> Iterator[Tensor]:
        """The blocks' matrices among `views` one by one: q, k, v, o, gate, up, down of each block."""
        cfg = self.cfg
        q, kv = cfg.n_heads * cfg.d_head, cfg.n_kv * cfg.d_head
        widths = {"qkv": [q, kv, kv], "o": [cfg.d_model], "gate_up": [cfg.d_mlp] * 2, "down": [cfg.d_model]}
        for i in range(cfg.n_layers):
            for name, parts in widths.items():
                yield from views[f"{i}.{name}"].split(parts, -1)

    def load(self, model: HookedQwen2) -> None:
        """Copy a model's weights in."""
        self._exchange(model, lambda flat, weight: flat.copy_(weight))

    def store(self, model: HookedQwen2) -> None:
        """Copy the weights out into a model of the same shape."""
        self._exchange(model, lambda flat, weight: weight.copy_(flat))

    def store_grads(self, model: HookedQwen2) -> None:
        """Write the gradients into the model's `.grad` fields."""
        gradients = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
        self._exchange(model, lambda flat, weight: weight.copy_(flat), self.g, gradients)
        for name, parameter in model.named_parameters():
            parameter.grad = gradients[name]

    def attach(self, model: HookedQwen2) -> list[tuple[Tensor, Tensor]]:
        """Make the model's parameters, which are on the same device, views of the flat vector.

        Returns each of them with the view that its gradient belongs into.
        """
        pairs: list[tuple[Tensor, Tensor]] = []
        self._exchange(model, lambda flat, weight: setattr(weight, "data", flat))
        self._exchange(model, lambda flat, weight: pairs.append((weight, flat)), self.g)
        return pairs

    @torch.no_grad()
    def _exchange(
        self,
        model: HookedQwen2,
        copy: Callable[[Tensor, Tensor], object],
        flat: dict[str, Tensor] | None = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Call `copy(view of the flat vector, view of the model's tensor)` for every parameter."""
        f = self.p if flat is None else flat
        w: Mapping[str, Tensor] = dict(model.named_parameters()) if weights is None else weights
        cfg, k = self.cfg, self.cfg.d_head
        copy(f["embed"], w["embed.W_E"])
        if not cfg.tied:
            copy(f["unembed"], w["unembed.W_U"])
        copy(f["ln_final"], w["ln_final.w"])
        for i in range(cfg.n_layers):
            at = 0
            for letter, heads in (("Q", cfg.n_heads), ("K", cfg.n_kv), ("V", cfg.n_kv)):
                part = slice(at, at + heads * k)
                matrix = f[f"{i}.qkv"][:, part].unflatten(1, (heads, k)).permute(1, 0, 2)
                copy(matrix, w[f"blocks.{i}.attn.W_{letter}"])
                copy(f[f"{i}.qkv_bias"][part].unflatten(0, (heads, k)), w[f"blocks.{i}.attn.b_{letter}"])
                at += heads * k
            copy(f[f"{i}.o"].unflatten(0, (cfg.n_heads, k)), w[f"blocks.{i}.attn.W_O"])
            copy(f[f"{i}.gate_up"][:, : cfg.d_mlp], w[f"blocks.{i}.mlp.W_gate"])
            copy(f[f"{i}.gate_up"][:, cfg.d_mlp :], w[f"blocks.{i}.mlp.W_in"])
            copy(f[f"{i}.down"], w[f"blocks.{i}.mlp.W_out"])
            copy(f[f"{i}.ln1"], w[f"blocks.{i}.ln1.w"])
            copy(f[f"{i}.ln2"], w[f"blocks.{i}.ln2.w"])
