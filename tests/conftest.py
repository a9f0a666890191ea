"""Settings every test runs under: no network, no trackers, one thread (two workers share two cores)."""

import os

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "WANDB_MODE": "disabled",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

import torch
from hypothesis import settings

torch.set_num_threads(1)

# A busy machine is slow, not wrong: no time limit a property.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
