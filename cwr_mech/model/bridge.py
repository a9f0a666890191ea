"""Models of other architectures than Qwen2: read by transformers, hooked by TransformerLens' bridge.

They are asked about texts alone (`TextModel`), under TransformerLens' hook names, and nothing here trains
them. Weights are never guessed: a parameter that the files lack, which transformers would draw at random, is
refused, and so is code that a folder brings along.
"""

import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cwr_mech.artifacts import one_line, read_json
from cwr_mech.config import parse
from cwr_mech.errors import ConfigError, CorruptArtifact, UserError
from cwr_mech.model.checkpoint import some_of, weight_files
from cwr_mech.model.hooks import Hooks, Start
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.model.settings import ForeignConfig, refuse_quantised

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

FINAL, FINAL_OUT = "unembed.hook_in", "ln_final.hook_out"
"""The output of the final norm; TransformerBridge unembeds positions that are asked for alone, so it is read
before them."""


class BridgedModel:
    """A TransformerBridge, with what analyses of texts ask of a HookedQwen2."""

    def __init__(self, model: "PreTrainedModel") -> None:
        """Hook a causal language model. Raises ConfigError for an architecture that cannot be hooked."""
        from transformer_lens.model_bridge.sources import build_bridge_from_module

        self.architecture = type(model).__name__
        self._settings = settings_text(model.config)
        try:
            self.bridge = build_bridge_from_module(model, self.architecture, hf_config=model.config)
        except Exception as error:  # an adapter meets a shape that its authors did not
            raise ConfigError(f"{self.architecture} cannot be hooked ({one_line(error)})") from error
        if not self.bridge.adapter.supports_causal_loss:
            raise ConfigError(f"{self.architecture} does not predict a token from those before it")
        self.cfg = self.bridge.cfg
        keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._short: dict[str, Any] = {"logits_to_keep": 1} if keeps else {}

    @property
    def hook_dict(self) -> Mapping[str, Any]:
        """Its hooks by name, aliases included."""
        return self.bridge.hook_dict

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.bridge.parameters()).device

    @property
    def settings(self) -> str:
        """transformers' settings as JSON, from which `untrained` makes a model of this shape."""
        return self._settings

    def state_dict(self) -> Mapping[str, Tensor]:
        """transformers' parameters and buffers."""
        return self.bridge.original_model.state_dict()

    def to(self, device: str | torch.device) -> "BridgedModel":
        """Move the model."""
        self.bridge.to(device, print_details=False)
        return self

    def read(self, tokens: Int[Tensor, "text pos"], hooks: Hooks) -> None:
        """Run texts whole; logits are computed at their end only. Raises ConfigError, see `predict`."""
        self.predict(tokens, hooks)

    def predict(
        self, tokens: Int[Tensor, "text pos"], hooks: Hooks, start: Start = None
    ) -> Float[Tensor, "text d_vocab"]:
        """Logits of the token after each text, all of one length; run from the tokens, whatever `start`.

        Raises ConfigError for a hook that is not there or stays silent.
        """
        fired: set[str] = set()

        def call(activation: Tensor, hook: Any, name: str) -> Tensor | None:
            fired.add(name)
            return hooks[name](activation)

        known = self.hook_dict
        named = {name: FINAL_OUT if name == FINAL else name for name in hooks}
        if strange := [name for name in hooks if named[name] not in known]:
            raise ConfigError(f"{self.architecture} has no hook '{strange[0]}' in TransformerBridge")
        listening = [(named[name], partial(call, name=name)) for name in hooks]
        with self.bridge.hooks(fwd_hooks=listening):
            logits = self.bridge(tokens, **self._short)
        if silent := [name for name in hooks if name not in fired]:
            raise ConfigError(f"hook '{silent[0]}' stays silent in {self.architecture}")
        return logits[:, -1].float()


TextModel = HookedQwen2 | BridgedModel
"""A model that analyses of texts ask, by the members that the two have in common."""


def foreign_config(folder: Path) -> "PreTrainedConfig":
    """transformers' settings of a folder that holds a causal language model, from the disk alone.

    Raises CorruptArtifact for settings that cannot be read, another kind of model, quantised weights, and an
    architecture that TransformerBridge does not know.
    """
    import transformers
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    try:
        content = read_json(folder / "config.json")
        refuse_quantised(content)
        if (kind := content.get("model_type")) not in CONFIG_MAPPING_NAMES:
            code = ", whose code the folder brings along; it is not run" if "auto_map" in content else ""
            raise ConfigError(f"transformers {transformers.__version__} knows no model type {kind!r}{code}")
        config = AutoConfig.from_pretrained(folder.as_posix(), local_files_only=True, trust_remote_code=False)
        named = config.architectures or [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type, "no model")]
        if named[0] not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
            raise ConfigError(f"{named[0]} is not a language model that predicts the next token")
        if named[0] not in SUPPORTED_ARCHITECTURES:
            raise ConfigError(f"TransformerLens' TransformerBridge does not know {named[0]}")
    except UserError as error:
        raise CorruptArtifact(f"{folder} cannot be read as a model: {error.message}", error.hint) from error
    except Exception as error:  # transformers and huggingface_hub raise whatever they please
        raise CorruptArtifact(f"{folder} cannot be read as a model: {one_line(error)[:200]}") from error
    return config


def settings_text(config: "PreTrainedConfig") -> str:
    """The settings as JSON, without where they were read from."""
    content = config.to_dict()
    content.pop("_name_or_path", None)
    return json.dumps(content, default=str, sort_keys=True)


def sizes(config: "PreTrainedConfig") -> tuple[int, int]:
    """Tokens of the vocabulary, and positions; as many as 2,048 where a model has no limit of its own."""
    text = config.get_text_config()
    return int(text.vocab_size), int(getattr(text, "max_position_embeddings", None) or 2048)


def read_bridged(folder: Path) -> BridgedModel:
    """The causal language model in a folder, in float32 and evaluation mode, with its hooks.

    Raises MissingArtifact, or CorruptArtifact, see `foreign_config`, and where files lack parameters.
    """
    from transformers import AutoModelForCausalLM

    config = foreign_config(folder)
    weight_files(folder)
    try:
        with _no_bars():
            model, about = AutoModelForCausalLM.from_pretrained(
                folder.as_posix(),
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        for name, found, wanted in sorted(about["mismatched_keys"]):
            raise ConfigError(f"weight {name} has shape {tuple(found)}, the settings say {tuple(wanted)}")
        if missing := sorted(about["missing_keys"]):
            raise ConfigError(f"the weights lack {some_of(missing)}")
        return BridgedModel(model.eval())
    except UserError as error:
        raise CorruptArtifact(f"{folder} cannot be read as a model: {error.message}", error.hint) from error
    except Exception as error:  # truncated files, weights of other shapes
        raise CorruptArtifact(
            f"{folder} has weights that cannot be read ({one_line(error)[:200]})"
        ) from error


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keep transformers from drawing a bar of its own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def untrained(settings: str) -> TextModel:
    """A model of `TextModel.settings` with weights drawn by seed 0. Raises ConfigError."""
    content = json.loads(settings)
    if "model_type" not in content:
        return HookedQwen2(parse(ForeignConfig, content), seed=0).eval()
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**content)
    config.dtype = torch.float32
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BridgedModel(AutoModelForCausalLM.from_config(config).eval())
