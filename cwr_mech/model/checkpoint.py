"""Qwen2 weights and settings between TransformerLens' names and Hugging Face's, and checkpoint folders.

A checkpoint is a Hugging Face folder: `config.json`, `model.safetensors` and the tokenizer's files;
`AutoModelForCausalLM.from_pretrained(folder)` reads it.
"""

import math
import re
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from einops import rearrange
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from cwr_mech.artifacts import atomic_folder, one_line, read_json, require_file
from cwr_mech.config import ModelConfig
from cwr_mech.errors import ConfigError, CorruptArtifact, MissingArtifact
from cwr_mech.model.settings import hf_settings, model_config

LAYER_NAMES = (
    ("ln1.w", "input_layernorm.weight", "d -> d"),
    ("attn.W_Q", "self_attn.q_proj.weight", "head d d_head -> (head d_head) d"),
    ("attn.b_Q", "self_attn.q_proj.bias", "head d_head -> (head d_head)"),
    ("attn.W_K", "self_attn.k_proj.weight", "kv d d_head -> (kv d_head) d"),
    ("attn.b_K", "self_attn.k_proj.bias", "kv d_head -> (kv d_head)"),
    ("attn.W_V", "self_attn.v_proj.weight", "kv d d_head -> (kv d_head) d"),
    ("attn.b_V", "self_attn.v_proj.bias", "kv d_head -> (kv d_head)"),
    ("attn.W_O", "self_attn.o_proj.weight", "head d_head d -> d (head d_head)"),
    ("ln2.w", "post_attention_layernorm.weight", "d -> d"),
    ("mlp.W_gate", "mlp.gate_proj.weight", "d d_mlp -> d_mlp d"),
    ("mlp.W_in", "mlp.up_proj.weight", "d d_mlp -> d_mlp d"),
    ("mlp.W_out", "mlp.down_proj.weight", "d_mlp d -> d d_mlp"),
)
"""Rows: TransformerLens name within a block, Hugging Face name within a layer, axes of both."""

IGNORED = re.compile(r"(.*\.)?rotary_emb\.inv_freq")
"""Entries of older transformers: the rotary frequencies, which follow from the settings."""

FLOATS = {"F64", "F32", "F16", "BF16"}
"""Types of weights by their name in a safetensors file; anything shorter needs scales that are not there."""


@runtime_checkable
class SavesPretrained(Protocol):
    """Anything that can put tokenizer files into a folder."""

    def save_pretrained(self, folder: Path) -> Any:
        """Write the files."""


def names(config: ModelConfig) -> Iterator[tuple[str, str, str]]:
    """All parameters as (TransformerLens name, Hugging Face name, axes of both)."""
    yield "embed.W_E", "model.embed_tokens.weight", "v d -> v d"
    for layer in range(config.n_layers):
        for own, theirs, axes in LAYER_NAMES:
            yield f"blocks.{layer}.{own}", f"model.layers.{layer}.{theirs}", axes
    yield "ln_final.w", "model.norm.weight", "d -> d"
    if not config.tied:
        yield "unembed.W_U", "lm_head.weight", "d v -> v d"


def to_hf_state(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Tensors by TransformerLens name to tensors by Hugging Face name (contiguous copies)."""
    return {theirs: rearrange(state[own], axes).contiguous() for own, theirs, axes in names(config)}


def from_hf_state(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Tensors by Hugging Face name to float32 tensors by TransformerLens name.

    Raises ConfigError when a parameter is missing, unknown, quantised, not finite, or has a shape that does
    not fit `config`.
    """
    check_shapes({name: tuple(value.shape) for name, value in state.items()}, config)
    converted = {}
    for own, theirs, axes in names(config):
        value, (ours, hf) = state[theirs], axes.split(" -> ")
        if not value.is_floating_point() or value.dtype.itemsize < 2:
            raise ConfigError(f"weight {theirs} is {value.dtype}: quantised weights are not supported")
        known = {axis: size for axis, size in _axes(config).items() if axis in ours.split()}
        converted[own] = rearrange(value.detach().float(), f"{hf} -> {ours}", **known).contiguous()
        if not torch.isfinite(converted[own]).all():
            raise ConfigError(f"weight {theirs} holds values that are not finite numbers")
    return converted


def check_shapes(shapes: Mapping[str, tuple[int, ...]], config: ModelConfig) -> None:
    """Raise ConfigError unless these are the parameters of a model with these settings, in their shapes."""
    if config.n_layers > len(shapes):
        raise ConfigError(f"the weights lack {config.n_layers} layers: they are {len(shapes)} tensors")
    expected = {theirs: _hf_shape(axes, config) for _, theirs, axes in names(config)}
    if missing := [name for name in expected if name not in shapes]:
        raise ConfigError(f"the weights lack {some_of(missing)}")
    # Saved by transformers, a tied model may still hold the copy that shares the embedding's memory.
    spare = {"lm_head.weight"} if config.tied else set()
    strange = [name for name in shapes if name not in expected and name not in spare]
    if unknown := sorted(name for name in strange if not IGNORED.fullmatch(name)):
        raise ConfigError(f"the weights hold {some_of(unknown)}, which this model has no place for")
    for name, shape in expected.items():
        if shapes[name] != shape:
            raise ConfigError(f"weight {name} has shape {shapes[name]}, the settings say {shape}")


def untied(config: ModelConfig, embed: Tensor, head: Tensor | None) -> ModelConfig:
    """`config`, no longer tied where a file holds a head of its own: transformers keeps that one, too."""
    own = config.tied and head is not None and not torch.equal(embed, head)
    return config.model_copy(update={"tied": False}) if own else config


def _axes(config: ModelConfig) -> dict[str, int]:
    return {
        "v": config.d_vocab,
        "d": config.d_model,
        "d_mlp": config.d_mlp,
        "d_head": config.d_head,
        "head": config.n_heads,
        "kv": config.n_kv,
    }


def _hf_shape(axes: str, config: ModelConfig) -> tuple[int, ...]:
    """Shape in a Hugging Face file: an entry an axis, those in brackets being one axis."""
    sizes = _axes(config)
    groups = re.findall(r"\(.*?\)|\S+", axes.split(" -> ")[1])
    return tuple(math.prod(sizes[axis] for axis in group.strip("()").split()) for group in groups)


def some_of(found: list[str]) -> str:
    """The first name, and how many more there are."""
    return found[0] + (f" and {len(found) - 1} more" if len(found) > 1 else "")


LONGEST_ANSWER = 16
"""Tokens that plain transformers generates at most: more than any answer of the paper's tasks has."""


def write_folder(
    folder: Path | str,
    state: Mapping[str, Tensor],
    config: ModelConfig,
    tokenizer: SavesPretrained | None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a checkpoint folder: whole or not at all where there was none, else file by file.

    In a folder that is there already, other files stay as they are. `state` has TransformerLens names;
    `tokenizer` None writes this package's. `dtype` is that of the file; config.json names float32, so that
    transformers computes as this package does, whatever the file holds.
    """
    # Imported here: writing a checkpoint is the only thing that needs them.
    from transformers import GenerationConfig, Qwen2Config

    from cwr_mech.tasks.tokenizer import BOS, EOS, PAD, Tokenizer

    tensors = {name: tensor.detach().to("cpu", dtype) for name, tensor in to_hf_state(state, config).items()}
    settings = Qwen2Config(**hf_settings(config), dtype=torch.float32, architectures=["Qwen2ForCausalLM"])
    with atomic_folder(folder, last="config.json") as part:
        (tokenizer or Tokenizer()).save_pretrained(part)
        settings.save_pretrained(part)
        if tokenizer is None or isinstance(tokenizer, Tokenizer):  # transformers would draw answers at random
            ends = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
            GenerationConfig(do_sample=False, max_new_tokens=LONGEST_ANSWER, **ends).save_pretrained(part)
        save_file(tensors, part / "model.safetensors", metadata={"format": "pt"})


class Checkpoint(NamedTuple):
    """Settings and float32 weights (TransformerLens names) of a checkpoint folder, and its padding token."""

    config: ModelConfig
    state: dict[str, Tensor]
    pad: int | None


def read_folder(folder: Path | str) -> Checkpoint:
    """Read a checkpoint folder of ours or of transformers, in one safetensors file or in shards.

    Raises MissingArtifact, or CorruptArtifact when a file is truncated, belongs to another kind of model,
    or holds weights that do not fit the settings. Sizes are checked before anything is loaded.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingArtifact(f"no such checkpoint folder: {folder}", "train one with: cwr-mech train")
    files = weight_files(folder)
    try:
        settings = read_json(folder / "config.json")
        if (folder / "config.json").read_bytes().startswith(BOM_UTF8):  # or it would be a folder for us alone
            raise ConfigError(
                "config.json begins with a byte order mark, which transformers refuses",
                "save it as UTF-8 without one",
            )
        config = model_config(settings)
        shapes = _shapes(files)
        if config.tied and shapes.get("lm_head.weight") not in (
            None,
            shapes.get("model.embed_tokens.weight"),
        ):
            raise ConfigError("weight lm_head.weight has another shape than the embedding it is tied to")
        check_shapes(shapes, config)
        state = {name: value for file in files for name, value in load_file(file).items()}
        config = untied(config, state["model.embed_tokens.weight"], state.get("lm_head.weight"))
        return Checkpoint(config, from_hf_state(state, config), pad_token(settings))
    except ConfigError as error:
        raise CorruptArtifact(f"{folder} cannot be read as a model: {error.message}", error.hint) from error
    except (SafetensorError, ValueError, OSError) as error:
        raise CorruptArtifact(
            f"{folder} holds weights that are truncated or not safetensors ({one_line(error)})",
            "take another --step, or train the run anew",
        ) from error


def pad_token(settings: Mapping[str, Any]) -> int | None:
    """The token that only ever pads; None where it also begins or ends a text, as in published models."""
    pad = settings.get("pad_token_id")
    other = [settings.get(key) for key in ("bos_token_id", "eos_token_id")]
    taken = [token for one in other for token in (one if isinstance(one, list) else [one])]
    return pad if isinstance(pad, int) and pad not in taken else None


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint. Raises MissingArtifact or CorruptArtifact."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        require_file(single)
        return [single]
    if not index.exists():
        other = any(folder.glob("*.bin"))
        raise MissingArtifact(
            f"{folder} holds no model.safetensors, so it is not a checkpoint",
            "save it with transformers' save_pretrained, which writes safetensors" if other else None,
        )
    placed = read_json(index).get("weight_map")
    shards = sorted({str(name) for name in placed.values()}) if isinstance(placed, dict) else []
    if not shards or any(Path(name).name != name for name in shards):
        raise CorruptArtifact(f"{index} does not say which files of its folder hold the weights")
    for name in shards:
        require_file(folder / name)
    return [folder / name for name in shards]


def _shapes(files: Sequence[Path]) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor, from the files' headers. Raises ConfigError for types that hold no weights."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        with safe_open(file, "pt") as handle:
            for name in handle.keys():  # noqa: SIM118  (no mapping)
                part = handle.get_slice(name)
                if part.get_dtype() not in FLOATS and not IGNORED.fullmatch(name):
                    raise ConfigError(
                        f"weight {name} is {part.get_dtype()}: quantised weights are not supported",
                        "save them in float32, float16 or bfloat16",
                    )
                shapes[name] = tuple(part.get_shape())
    return shapes
