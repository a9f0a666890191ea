"""Presets: the sizes that the paper and the documentation state."""

import pytest
import torch

from cwr_mech.experiments.presets import preset
from cwr_mech.model.qwen2 import HookedQwen2

SIZES = {"paper": 1_601_920, "large": 402_977_792}
"""Preset -> parameters."""


@pytest.mark.parametrize("name", SIZES)
def test_numbers_of_parameters(name: str) -> None:
    with torch.device("meta"):  # shapes only: the large one would take 1.6 GB
        model = HookedQwen2(preset(name).model, seed=None)
    assert sum(parameter.numel() for parameter in model.parameters()) == SIZES[name]
