"""Where a training computes and how exactly; what is refused, and why."""

from dataclasses import dataclass

import torch

from cwr_mech.errors import ConfigError, one_of
from cwr_mech.training.autograd import AutogradEngine
from cwr_mech.training.engine import Engine
from cwr_mech.training.parameters import FlatParameters

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "float32", "bfloat16")
COMPILED = ("auto", "off", "default", "reduce-overhead")


@dataclass(frozen=True)
class Compute:
    """How steps are computed. No setting of the model: a run may be resumed with another.

    device: as torch names it. precision "bfloat16": matrix products in bfloat16 (with autograd: under
    autocast); parameters, moments and losses stay float32. compiled: torch.compile's mode ("reduce-overhead"
    records CUDA graphs) or "off". by_hand: the gradient of `cwr_mech.training.engine`, which is for a
    processor, uncompiled, and the same to the bit in every run on one machine; else autograd's.
    """

    device: str = "cpu"
    precision: str = "float32"
    compiled: str = "off"
    by_hand: bool = True

    def engine(self, flat: FlatParameters) -> Engine | AutogradEngine:
        """What computes loss and gradient for these parameters, which are on `device`."""
        if self.by_hand:
            return Engine(flat, bfloat16=self.precision == "bfloat16")
        return AutogradEngine(flat, bfloat16=self.precision == "bfloat16", compiled=self.compiled)

    @property
    def slower(self) -> bool:
        """Whether bfloat16 costs time here: the processor has no instructions for it."""
        return self.precision == "bfloat16" and not quick_bfloat16(self.device)

    def described(self) -> dict[str, str]:
        """What the weights of a run hang on beside its settings, for the manifest."""
        cuda = self.device.startswith("cuda")
        return {
            "device": torch.cuda.get_device_name(self.device) if cuda else self.device,
            "gradient": "by hand" if self.by_hand else "autograd",
            "precision": self.precision,
            "compiled": self.compiled,
        }


def quick_bfloat16(device: str) -> bool:
    """Whether products in bfloat16 are quick there: on a processor without instructions for them they take
    some twenty times as long as in float32 (measured, AVX2).
    """
    known = torch.cpu.get_capabilities()
    return device != "cpu" or any(known.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def choose(device: str = "auto", precision: str = "auto", compiled: str = "auto") -> Compute:
    """What the options name. "auto" is CUDA with bfloat16 and compiled where there is a GPU, else the CPU in
    float32. Raises UnknownName, or ConfigError for a device that is not there or cannot be trusted.

    MPS is never taken: https://github.com/pytorch/pytorch/issues/177116 (backward passes over more than
    32,768 tokens), https://github.com/pytorch/pytorch/issues/153957 (large shapes), and
    https://github.com/TransformerLensOrg/TransformerLens/issues/1178 (logits) are wrong without an error.
    """
    if device == "mps":
        raise ConfigError(
            "device 'mps' is refused: it computes wrong gradients without saying so (pytorch issue 177116)",
            "take --device cpu",
        )
    given = (("device", device, DEVICES), ("precision", precision, PRECISIONS))
    for kind, name, choices in (*given, ("way to compile", compiled, COMPILED)):
        one_of(kind, name, choices)
    cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if cuda and not torch.cuda.is_available():
        raise ConfigError(*_why_no_cuda())
    if precision == "auto":
        precision = "bfloat16" if cuda else "float32"
    if compiled == "auto":
        compiled = "default" if cuda else "off"
    by_hand = not cuda and compiled == "off"
    return Compute("cuda" if cuda else "cpu", precision, compiled, by_hand)


def _why_no_cuda() -> tuple[str, str]:
    if torch.version.cuda is None:
        return (
            f"device 'cuda' needs a CUDA build of torch, and {torch.__version__} is for the CPU only",
            f"install one with: make env TORCH=torch=={torch.__version__.split('+')[0]}",
        )
    return (
        f"device 'cuda': torch {torch.__version__} finds no GPU",
        "see whether nvidia-smi lists one, and whether CUDA_VISIBLE_DEVICES hides it",
    )
