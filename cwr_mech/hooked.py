"""What TransformerLens' tools expect of a model, beyond running forwards.

`HookedBase` adds to HookedRootModule: hook names that are checked, flags for the hooks that cost memory,
`run_with_cache` that returns an ActivationCache, and the few weight and token helpers the tools call.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache, HookedRootModule

from cwr_mech.blocks import HookedConfig
from cwr_mech.errors import ConfigError, UnknownName
from cwr_mech.tokenizer import VOCAB, Tokenizer

GATES = {
    "attn.hook_result": "use_attn_result",
    "attn.hook_q_input": "use_split_qkv_input",
    "attn.hook_k_input": "use_split_qkv_input",
    "attn.hook_v_input": "use_split_qkv_input",
    "hook_mlp_in": "use_hook_mlp_in",
}
"""Hook within a block -> the flag of `cfg` without which it stays silent."""

NamesFilter = str | list[str] | Callable[[str], bool] | None


class HookedBase(HookedRootModule):
    """HookedRootModule whose mistakes are errors: an unknown hook, or one that would never fire."""

    cfg: HookedConfig

    def closed_gate(self, name: str) -> str | None:
        """The flag that hook `name` waits for, or None when it fires."""
        flag = GATES.get(name.split(".", 2)[2]) if name.startswith("blocks.") else None
        return flag if flag and not getattr(self.cfg, flag) else None

    def check_hook(self, name: str) -> None:
        """Raise UnknownName for a hook that does not exist, ConfigError for one that would stay silent."""
        if name not in self.hook_dict:
            raise UnknownName("hook", name, self.hook_dict)
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

    def get_caching_hooks(self, names_filter: NamesFilter = None, *args: Any, **kwargs: Any) -> Any:
        """As HookedRootModule's, but named hooks are checked, and a predicate (or None, for all) passes over
        the hooks whose flag is off.

        Raises UnknownName or ConfigError, see `check_hook`.
        """
        if isinstance(names_filter, str | list):
            for name in [names_filter] if isinstance(names_filter, str) else names_filter:
                self.check_hook(name)
            return super().get_caching_hooks(names_filter, *args, **kwargs)
        if names_filter is not None and not callable(names_filter):
            raise ConfigError(f"names_filter must be a name, a list or a function, got {names_filter!r}")

        def wanted(name: str) -> bool:
            return self.closed_gate(name) is None and (names_filter is None or names_filter(name))

        return super().get_caching_hooks(wanted, *args, **kwargs)

    def run_with_cache(
        self, *model_args: Any, remove_batch_dim: bool = False, **kwargs: Any
    ) -> tuple[Any, ActivationCache]:
        """As HookedRootModule's (`names_filter`, `incl_bwd`, `pos_slice`, ...), with an ActivationCache."""
        out, cache = super().run_with_cache(*model_args, remove_batch_dim=remove_batch_dim, **kwargs)
        return out, ActivationCache(cache, self, has_batch_dim=not remove_batch_dim)

    @contextmanager
    def flags(self, **values: bool) -> Iterator[None]:
        """Set flags such as `use_attn_result=True` and put them back at the end, also after an error."""
        before = {name: getattr(self.cfg, name) for name in values}
        if unknown := set(values) - set(GATES.values()):
            raise UnknownName("flag", min(unknown), sorted(set(GATES.values())))
        try:
            for name, value in values.items():
                setattr(self.cfg, name, value)
            yield
        finally:
            for name, value in before.items():
                setattr(self.cfg, name, value)

    def set_use_attn_result(self, use: bool) -> None:
        """Whether `attn.hook_result [batch pos head d_model]` is computed and fires."""
        self.cfg.use_attn_result = use

    def set_use_split_qkv_input(self, use: bool) -> None:
        """Whether each head reads its own copy, `attn.hook_{q,k,v}_input [batch pos head d_model]`."""
        self.cfg.use_split_qkv_input = use

    def set_use_hook_mlp_in(self, use: bool) -> None:
        """Whether the MLP reads its own copy of the stream at `hook_mlp_in [batch pos d_model]`."""
        self.cfg.use_hook_mlp_in = use

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
        return torch.zeros(self.cfg.d_vocab, device=self.W_E.device, dtype=self.W_E.dtype)

    def accumulated_bias(
        self, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True
    ) -> Float[Tensor, "d_model"]:
        """Zeros: nothing in Qwen2 adds a constant to the residual stream."""
        return torch.zeros(self.cfg.d_model, device=self.W_E.device, dtype=self.W_E.dtype)

    def to_single_token(self, text: str) -> int:
        """Id of one character or special token. Raises UnknownName."""
        if text not in VOCAB:
            raise UnknownName("token", text, VOCAB)
        return VOCAB.index(text)

    def to_tokens(self, text: str | Iterable[str]) -> Int[Tensor, "batch pos"]:
        """Prompts as tokens, `<bos>` first. Raises ConfigError when their lengths differ."""
        tokenizer = Tokenizer()
        rows = [tokenizer.encode_prompt(prompt) for prompt in ([text] if isinstance(text, str) else text)]
        if len({len(row) for row in rows}) > 1:
            raise ConfigError("prompts of different lengths cannot share a batch", "group them by length")
        return torch.tensor(rows, dtype=torch.int64, device=self.W_E.device)

    def tokens_to_residual_directions(
        self, tokens: str | int | Int[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch d_model"]:
        """The direction of the residual stream that raises each token's logit: a column of `W_U`."""
        index = self.to_single_token(tokens) if isinstance(tokens, str) else tokens
        return self.W_U.T[index]
