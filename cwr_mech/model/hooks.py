"""What TransformerLens' tools expect of a model, beyond running forwards.

`HookedBase` adds to HookedRootModule: hook names that are checked, flags for the hooks that cost memory,
`run_with_cache` that returns an ActivationCache, and the few weight and token helpers the tools call.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial, partialmethod
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens import ActivationCache, HookedRootModule
from transformer_lens.utilities import Slice

from cwr_mech.errors import ConfigError, UnknownName, one_of
from cwr_mech.model.language import ReadsText
from cwr_mech.model.layers import HookedConfig
from cwr_mech.model.weights import StackedWeights

GATES = {
    "attn.hook_result": "use_attn_result",
    "attn.hook_q_input": "use_split_qkv_input",
    "attn.hook_k_input": "use_split_qkv_input",
    "attn.hook_v_input": "use_split_qkv_input",
    "hook_mlp_in": "use_hook_mlp_in",
}
"""Hook within a block -> the flag of `cfg` without which it stays silent."""

EMBED = "hook_embed"
Hooks = Mapping[str, Callable[[Tensor], Tensor | None]]
"""Hook name -> what is done with the activation there; a tensor takes its place."""
Start = tuple[int, Float[Tensor, "text pos d_model"]] | None
"""A layer and the residual stream before it, from where a forward pass may go on; None: the tokens."""

NamesFilter = str | Iterable[str] | Callable[[str], bool] | None


def stop_layer(hooks: Iterable[str]) -> int | None:
    """Number of blocks that must run for these hooks; None where the final norm is needed, too."""
    deepest = 0
    for hook in hooks:
        if hook.startswith("blocks."):
            deepest = max(deepest, int(hook.split(".")[1]) + 1)
        elif hook != EMBED:
            return None
    return deepest


def _sliced(save: Any, cut: Slice, name: str) -> Any:
    # HookedRootModule's own slicing takes the head axis of hook_rot_q and its like for positions.
    axis = -2 if name.endswith(("hook_attn_scores", "hook_pattern")) else 1
    return lambda tensor, hook: save(cut.apply(tensor, dim=axis), hook=hook)


class HookedBase(ReadsText, StackedWeights, HookedRootModule):
    """HookedRootModule whose mistakes are errors: an unknown hook, or one that would never fire."""

    cfg: HookedConfig

    def closed_gate(self, name: str) -> str | None:
        """The flag that hook `name` waits for, or None when it fires."""
        flag = GATES.get(".".join(name.split(".")[2:]))
        return flag if flag and not getattr(self.cfg, flag) else None

    def check_hook(self, name: str) -> None:
        """Raise UnknownName for a hook that does not exist, ConfigError for one that would stay silent."""
        one_of("hook", name, self.hook_dict)
        if flag := self.closed_gate(name):
            raise ConfigError(f"hook '{name}' stays silent", f"switch it on with model.set_{flag}(True)")

    def add_hook(self, name: str | Callable[[str], bool], *args: Any, **kwargs: Any) -> None:
        """As HookedRootModule's. Raises UnknownName or ConfigError, see `check_hook`."""
        if isinstance(name, str):
            self.check_hook(name)
        super().add_hook(name, *args, **kwargs)

    def _enable_hook_with_name(self, name: str, hook: Any, dir: Any) -> None:
        self.check_hook(name)
        super()._enable_hook_with_name(name, hook, dir)

    def get_caching_hooks(
        self,
        names_filter: NamesFilter = None,
        incl_bwd: bool = False,
        device: Any = None,
        remove_batch_dim: bool = False,
        cache: dict[str, Tensor] | None = None,
        pos_slice: Any = None,
    ) -> tuple[dict[str, Tensor], list[Any], list[Any]]:
        """As HookedRootModule's, but hooks given by name are checked.

        A predicate, or None for all, passes over hooks whose flag is off. `pos_slice` cuts every hook along
        its (query) positions.

        Raises UnknownName or ConfigError, see `check_hook`.
        """
        if callable(names_filter) or names_filter is None:
            chosen = [name for name in self.hook_dict if self.closed_gate(name) is None]
            chosen = [name for name in chosen if names_filter is None or names_filter(name)]
        else:
            chosen = [names_filter] if isinstance(names_filter, str) else list(names_filter)
            for name in chosen:
                self.check_hook(name)
        cut = Slice.unwrap(pos_slice)
        cache, *both = super().get_caching_hooks(chosen, incl_bwd, device, remove_batch_dim, cache)
        forward, backward = ([(name, _sliced(hook, cut, name)) for name, hook in hooks] for hooks in both)
        return cache, forward, backward

    def run_with_cache(
        self, *model_args: Any, remove_batch_dim: bool = False, **kwargs: Any
    ) -> tuple[Any, ActivationCache]:
        """As HookedRootModule's (`names_filter`, `incl_bwd`, `pos_slice`, ...), with an ActivationCache."""
        out, cache = super().run_with_cache(*model_args, remove_batch_dim=remove_batch_dim, **kwargs)
        return out, ActivationCache(cache, self, has_batch_dim=not remove_batch_dim)

    @contextmanager
    def flags(self, **values: bool) -> Iterator[None]:
        """Set flags such as `use_attn_result=True` and put them back at the end, also after an error."""
        if unknown := set(values) - set(GATES.values()):
            raise UnknownName("flag", min(unknown), sorted(set(GATES.values())))
        before = {name: getattr(self.cfg, name) for name in values}
        try:
            for name, value in values.items():
                setattr(self.cfg, name, value)
            yield
        finally:
            for name, value in before.items():
                setattr(self.cfg, name, value)

    @contextmanager
    def _listening(self, hooks: Hooks) -> Iterator[None]:
        """Call these functions at their hooks, silent ones switched on."""

        def call(activation: Tensor, hook: Any, act: Callable[[Tensor], Tensor | None]) -> Tensor | None:
            return act(activation)

        gates = {flag: True for name in hooks if (flag := self.closed_gate(name))}
        listening = [(name, partial(call, act=act)) for name, act in hooks.items()]
        with self.flags(**gates), self.hooks(fwd_hooks=listening):
            yield

    def read(self, tokens: Int[Tensor, "text pos"], hooks: Hooks) -> None:
        """Run texts as deep as the hooks lie. Raises UnknownName, or ConfigError for a silent hook."""
        stop = stop_layer(hooks)
        with self._listening(hooks):
            resid = self(tokens, stop_at_layer=self.cfg.n_layers if stop is None else stop)
            if stop is None:  # not through forward: logits of a whole batch would take gigabytes
                self.unembed.hook_in(self.ln_final(resid))

    def predict(
        self, tokens: Int[Tensor, "text pos"], hooks: Hooks, start: Start = None
    ) -> Float[Tensor, "text d_vocab"]:
        """Logits of the token after each text, all of one length.

        start: a layer and the residual stream before it, as these texts have it, from where to go on. Raises
        UnknownName, or ConfigError for a hook that stays silent.
        """
        layer, given = (None, tokens) if start is None else start
        end = torch.full((len(tokens), 1), tokens.shape[1] - 1, device=tokens.device)
        with self._listening(hooks):
            logits: Tensor = self(given, start_at_layer=layer, positions=end)
        return logits[:, 0].float()

    def _set(self, flag: str, use: bool) -> None:
        setattr(self.cfg, flag, use)

    set_use_attn_result = partialmethod(_set, "use_attn_result")
    """Whether `attn.hook_result [batch pos head d_model]` is computed and fires."""
    set_use_split_qkv_input = partialmethod(_set, "use_split_qkv_input")
    """Whether each head reads its own copy, `attn.hook_{q,k,v}_input [batch pos head d_model]`."""
    set_use_hook_mlp_in = partialmethod(_set, "use_hook_mlp_in")
    """Whether the MLP reads its own copy of the stream at `hook_mlp_in [batch pos d_model]`."""

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.W_E.device

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        """Token embedding."""
        return self.embed.W_E

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        """Unembedding; the embedding's transpose where they are tied."""
        return self.unembed.W_U

    @property
    def b_U(self) -> Float[Tensor, "d_vocab"]:
        """Zeros: Qwen2's unembedding has no bias."""
        return self.W_E.new_zeros(self.cfg.d_vocab)

    def blocks_with(self, part: str) -> list[tuple[int, nn.Module]]:
        """Layers and blocks that have a part of this name, such as "attn"."""
        return [(layer, block) for layer, block in enumerate(self.blocks) if hasattr(block, part)]

    def accumulated_bias(
        self, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True
    ) -> Float[Tensor, "d_model"]:
        """Zeros: nothing in Qwen2 adds a constant to the residual stream."""
        return self.W_E.new_zeros(self.cfg.d_model)

    def tokens_to_residual_directions(
        self, tokens: str | int | Int[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch d_model"]:
        """The direction of the residual stream that raises each token's logit.

        A column of `W_U` times the gains of the final norm, so that `ActivationCache.logit_attrs`, which
        divides by the norm's scale alone, splits a logit exactly.
        """
        index = self.to_single_token(tokens) if isinstance(tokens, str) else tokens
        return self.W_U.T[index] * self.ln_final.w
