"""HookedQwen2: a Qwen2 transformer one can look into, with HookedTransformer's hook names.

It equals transformers' Qwen2ForCausalLM in logits and gradients, has exactly its parameters, and equals
HookedTransformer 3.9 at every hook. `layer` L means after block L (`blocks.L.hook_resid_post`), counted
from 0. Attention runs fused unless somebody listens to its scores or pattern.
"""

from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from cwr_mech.config import ModelConfig
from cwr_mech.errors import ConfigError
from cwr_mech.model.checkpoint import (
    SavesPretrained,
    from_hf_state,
    pad_token,
    read_folder,
    to_hf_state,
    untied,
    write_folder,
)
from cwr_mech.model.embedding import Embed, TiedUnembed, Unembed
from cwr_mech.model.hooks import HookedBase
from cwr_mech.model.layers import Block, HookedConfig, LayerCache, RMSNorm
from cwr_mech.model.memory import keep_memory
from cwr_mech.model.rotary import rotary_tables
from cwr_mech.model.settings import ForeignConfig, hf_settings, model_config
from cwr_mech.tasks.tokenizer import BOS, PAD

ReturnType = Literal["logits", "loss", "both"] | None


class Output(NamedTuple):
    """What `return_type="both"` gives."""

    logits: Tensor
    loss: Tensor


def next_token_loss(
    logits: Float[Tensor, "batch pos d_vocab"],
    tokens: Int[Tensor, "batch pos"],
    loss_mask: Bool[Tensor, "batch pos"] | None = None,
    *,
    per_token: bool = False,
) -> Float[Tensor, "*batch"]:
    """Mean cross-entropy, in nats, of every token but the first given those before it.

    `loss_mask[b, p]` says whether predicting `tokens[b, p]` counts; None counts all, padding included.
    `per_token`: all of them instead of the mean, `[batch pos-1]`, 0 where one does not count.
    """
    targets = tokens[:, 1:]
    if loss_mask is not None:
        targets = targets.masked_fill(~loss_mask[:, 1:], -100)
    reduction = "none" if per_token else "mean"
    found = F.cross_entropy(
        logits[:, :-1].flatten(0, 1), targets.flatten(), ignore_index=-100, reduction=reduction
    )
    return found.view(targets.shape) if per_token else found


class HookedQwen2(HookedBase):
    """Qwen2 with hooks. `config` holds our settings, `cfg` the view of them TransformerLens' tools read."""

    def __init__(self, config: ModelConfig, *, seed: int | None) -> None:
        """Build a model with weights drawn from N(0, init_std^2) by `seed`, biases 0 and norms 1.

        With `seed` None all weights are 0, to be filled by `load_state_dict`. No global generator is used.
        From then on the process keeps what forward passes free (`cwr_mech.model.memory`).
        """
        super().__init__()
        keep_memory()
        self.config = config
        self.cfg = hooked_config(config)
        self.embed, self.hook_embed = Embed(self.cfg), HookPoint()
        self.blocks = nn.ModuleList(
            Block(self.cfg, self.cfg.window if layer in self.cfg.windowed else None)
            for layer in range(config.n_layers)
        )
        self.ln_final = RMSNorm(self.cfg)
        self.unembed = TiedUnembed(self.embed) if config.tied else Unembed(self.cfg)
        self.pad_token: int | None = PAD
        self.register_buffer("rotary_cos", None, persistent=False)
        self.register_buffer("rotary_sin", None, persistent=False)
        self._make_tables()
        self.setup()
        if seed is not None:
            generator = np.random.default_rng(seed)
            for module in self.modules():
                if callable(reset := getattr(module, "reset_parameters", None)):
                    reset(generator)

    def _make_tables(self) -> None:
        """Rotary tables in float32 on the weights' device. They are no parameters: nothing restores them."""
        self.rotary_cos, self.rotary_sin = (table.to(self.W_E.device) for table in rotary_tables(self.cfg))

    def _apply(self, fn: Any, recurse: bool = True) -> "HookedQwen2":
        """As torch's; `cfg` follows the model to another device or type.

        The rotary tables are made anew: rounded to bfloat16, or empty after `to_empty`, they would give other
        logits without a word.
        """
        super()._apply(fn, recurse)
        self._make_tables()
        self.cfg.device, self.cfg.dtype = str(self.W_E.device), self.W_E.dtype
        return self

    def forward(
        self,
        tokens: Integer[Tensor, "batch pos"]
        | Integer[Tensor, " pos"]
        | Float[Tensor, "batch pos d_model"]
        | str
        | list[str],
        return_type: ReturnType = "logits",
        start_at_layer: int | None = None,
        stop_at_layer: int | None = None,
        loss_mask: Bool[Tensor, "batch pos"] | None = None,
        positions: Int[Tensor, "batch read"] | None = None,
        past: list[LayerCache] | None = None,
        loss_per_token: bool = False,
    ) -> Any:
        """Run the layers from `start_at_layer` (inclusive) to `stop_at_layer` (exclusive), no others.

        With `start_at_layer`, `tokens` is the residual stream before that layer. With `stop_at_layer` the
        residual stream `[batch pos d_model]` is returned (0: the embeddings), or with `return_type` "loss" or
        "both" what the final norm and the unembedding make of it. Negative layers count from the end.
        `return_type`: "logits" `[batch pos d_vocab]`, "loss" (see `next_token_loss`; `loss_per_token` gives
        each token's `[batch pos-1]`), "both" (Output) or None, which skips the unembedding. `positions`
        computes logits at these positions only, `[batch read d_vocab]`. `past` (from `new_past`) holds
        earlier positions, and these are appended to it.

        Texts are read by `to_tokens`, a row of tokens without its batch axis is a batch of one. Padding needs
        no mask when it is on the right: no real position looks at it.
        Raises ConfigError for layers out of range, too many positions, a loss without its tokens, tokens that
        the vocabulary does not have, and rows that are padded on the left.
        """
        first = past is None or not past[0].length
        given = self._as_rows(tokens, first=first) if start_at_layer is None else cast(Tensor, tokens)
        layers = self._layers(start_at_layer, stop_at_layer)
        if return_type in ("loss", "both"):
            if start_at_layer is not None:
                raise ConfigError("a loss needs tokens, but start_at_layer is given a residual stream")
            if positions is not None or past is not None:
                raise ConfigError("a loss needs the logits at all positions")
        seen = past[layers[0]].length if past and layers else 0
        end = seen + given.shape[1]
        if end > self.cfg.n_ctx:
            raise ConfigError(f"{end} tokens are more than this model's {self.cfg.n_ctx} positions (n_ctx)")
        resid = self.hook_embed(self.embed(given)) if start_at_layer is None else given
        if self.rotary_cos.device != self.W_E.device:  # load_state_dict(assign=True) moves parameters alone
            self._make_tables()
        cos, sin = (table[seen:end].to(resid.dtype) for table in (self.rotary_cos, self.rotary_sin))
        for layer in layers:
            resid = self.blocks[layer](resid, cos, sin, past[layer] if past else None)
        if stop_at_layer is not None and return_type in ("logits", None):
            return resid
        if return_type is None:
            return None
        if positions is not None:
            resid = resid.gather(1, positions[:, :, None].expand(-1, -1, resid.shape[2]))
        logits = self.unembed(self.ln_final(resid))
        if return_type == "logits":
            return logits
        loss = next_token_loss(logits, given, loss_mask, per_token=loss_per_token)
        return Output(logits, loss) if return_type == "both" else loss

    def _as_rows(self, tokens: Any, *, first: bool) -> Int[Tensor, "batch pos"]:
        """Tokens `[batch pos]` from what `forward` takes. `first`: the rows begin here, not in a cache."""
        if isinstance(tokens, str | list):
            return self.to_tokens(tokens)
        if tokens.is_floating_point() or tokens.dtype == torch.bool:
            raise ConfigError(f"tokens are {tokens.dtype}, not whole numbers", "streams need start_at_layer")
        rows = tokens[None] if tokens.ndim == 1 else tokens
        rows = rows if rows.dtype in (torch.int64, torch.int32) else rows.long()
        checked = first and self.pad_token is not None and not torch.compiler.is_compiling()
        if checked and _padded_on_the_left(rows, cast(int, self.pad_token)):
            raise ConfigError("rows padded on the left have shifted positions", "pad on the right")
        return rows

    def _layers(self, start: int | None, stop: int | None) -> range:
        n = self.cfg.n_layers
        for given in (start, stop):
            if given is not None and not -n <= given <= n:
                raise ConfigError(f"layer {given} is out of range for a model of {n} layers")
        return range(n)[start:stop]

    @property
    def settings(self) -> str:
        """`config` as JSON."""
        return self.config.model_dump_json()

    def new_past(self) -> list[LayerCache]:
        """An empty key/value cache, one entry a layer, for `forward(..., past=...)`."""
        return [LayerCache() for _ in self.blocks]

    @classmethod
    def from_hf(cls, model: Any, tokenizer: Any = None) -> "HookedQwen2":
        """Copy a transformers Qwen2ForCausalLM into float32, in evaluation mode; `tokenizer` reads its texts.

        Raises ConfigError for another kind of model or an option Qwen2 here does not have.
        """
        settings, state = model.config.to_dict(), model.state_dict()
        embed, head = state.get("model.embed_tokens.weight"), state.get("lm_head.weight")
        config = model_config(settings)
        config = config if embed is None else untied(config, embed, head)
        ours = cls(config, seed=None)
        ours.load_state_dict(from_hf_state(state, config))
        ours.pad_token, ours.tokenizer = pad_token(settings), tokenizer
        return ours.to(model.device).eval()

    def to_hf(self) -> Any:
        """Copy into a transformers Qwen2ForCausalLM on the same device, in evaluation mode."""
        from transformers import Qwen2Config, Qwen2ForCausalLM

        with torch.random.fork_rng(devices=[]):  # its constructor draws weights that are then overwritten
            theirs = Qwen2ForCausalLM(Qwen2Config(**hf_settings(self.config)))
        state = to_hf_state(self.state_dict(), self.config)
        state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
        theirs.load_state_dict(state)
        return theirs.to(self.cfg.device).eval()

    @classmethod
    def from_pretrained(cls, folder: Path | str, *, device: str = "cpu") -> "HookedQwen2":
        """Load a checkpoint folder into float32, in evaluation mode.

        Raises MissingArtifact, or CorruptArtifact for truncated or unfitting files; see
        `cwr_mech.model.checkpoint.read_folder`.
        """
        found = read_folder(folder)
        model = cls(found.config, seed=None)
        model.load_state_dict(found.state)
        model.pad_token = found.pad
        model._reads_from(Path(folder))
        return model.to(device).eval()

    def save_pretrained(
        self,
        folder: Path | str,
        *,
        tokenizer: SavesPretrained | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Write a Hugging Face folder, beside whatever else it holds.

        With `tokenizer` None, this package's tokenizer goes in.
        `dtype` is the type on disk; `from_pretrained` always returns float32.
        """
        write_folder(folder, self.state_dict(), self.config, tokenizer, dtype)


def _padded_on_the_left(rows: Int[Tensor, "batch pos"], pad: int) -> bool:
    """Whether a row begins with padding that a text follows: two pads, or one before `<bos>`."""
    try:
        if not bool((rows[:, :1] == pad).any()):
            return False
    except RuntimeError:  # inside vmap or on the meta device no value can be looked at
        return False
    lead = (rows == pad).cumprod(1).sum(1)
    text = rows.gather(1, lead.clamp(max=rows.shape[1] - 1)[:, None].long())[:, 0]
    return bool(((lead > 0) & (lead < rows.shape[1]) & ((lead > 1) | (text == BOS))).any())


def hooked_config(config: ModelConfig) -> HookedConfig:
    """The `cfg` of a model with these settings."""
    foreign = config if isinstance(config, ForeignConfig) else ForeignConfig()
    return HookedConfig(
        n_layers=config.n_layers,
        d_model=config.d_model,
        n_heads=config.n_heads,
        d_head=config.d_head,
        n_key_value_heads=None if config.n_kv == config.n_heads else config.n_kv,
        d_mlp=config.d_mlp,
        d_vocab=config.d_vocab,
        n_ctx=config.n_ctx,
        eps=config.rms_eps,
        rope_theta=config.rope_theta,
        rope_scaling=foreign.rope_scaling,
        window=foreign.window,
        windowed=foreign.windowed,
        init_std=config.init_std,
        tied=config.tied,
        device="cpu",
        act_fn="silu",
        gated_mlp=True,
        normalization_type="RMS",
        uses_rms_norm=True,
        final_rms=True,
        positional_embedding_type="rotary",
        default_prepend_bos=False,
    )
