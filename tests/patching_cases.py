"""Small random models, and question pairs that an answerer who is always right tells apart."""

from dataclasses import replace

import numpy as np

from cwr_mech.analysis.patching.pairs import find_pairs
from cwr_mech.config import ModelConfig
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.tasks.registry import TASKS
from cwr_mech.world.cities import load_world

WORLD = load_world(n_cities=64, seed=1)
TINY = {"n_layers": 3, "d_model": 32, "n_heads": 4, "d_mlp": 48, "init_std": 0.3}
MODELS = {
    "mha": ModelConfig(**TINY),
    "gqa": ModelConfig(**TINY, n_key_value_heads=2),
    "tied": ModelConfig(**TINY, tied=True),
}


def truth_of(task):
    """An answerer that is always right: a tiny random model has no answers of its own worth pairing."""

    def answer(prompts):
        ids = [[int(part[:4]) for part in prompt.split("c_")[1:]] for prompt in prompts]
        return [TASKS[task].answer(WORLD.xy_of(np.array([row])))[0] for row in ids]

    return answer


def some_pairs(task="distance", n=6, **settings):
    return find_pairs(truth_of(task), WORLD, task, n, least=1, **settings)


def model_of(name="mha", seed=0):
    return HookedQwen2(MODELS[name], seed=seed).eval()


def first_slot_pairs(n, answer):
    """Pairs that swap the first city, answered by `answer(digits of both cities)`, where answers differ."""
    pairs = some_pairs("distance", n, slot=0)
    digits = [[f"{int(a):04d}{int(b):04d}" for a, b in ids[:, :2]] for ids in (pairs.clean, pairs.corrupt)]
    words = [np.array([answer(mine, other) for mine, other in zip(*order, strict=True)])
             for order in (digits, digits[::-1])]  # fmt: skip
    found = replace(pairs, clean_answer=words[0], corrupt_answer=words[1])
    return found.take((words[0] != words[1]) & (words[0] != "") & (words[1] != ""))


def only_here(mine, other):
    """A digit of the first city that the other question's first city does not have."""
    return next((digit for digit in mine[:4] if digit not in other[:4]), "")
