"""Exact patching: equal to one full forward a cell, and the invariants that any patching must keep."""

import numpy as np
import pytest
import torch

from cwr_mech.analysis.pairs import find_pairs
from cwr_mech.analysis.patch_cells import COMPONENTS, Cell, check_places, grid, span_positions
from cwr_mech.analysis.patch_forward import Tree
from cwr_mech.analysis.patching import ARMS, sweep
from cwr_mech.config import ModelConfig
from cwr_mech.model import HookedQwen2
from cwr_mech.tasks import TASKS
from cwr_mech.tokenizer import CHAR_ID, EOS, Tokenizer
from cwr_mech.world import load_world

WORLD = load_world(n_cities=64, seed=1)
TINY = {"n_layers": 3, "d_model": 32, "n_heads": 4, "d_mlp": 48, "init_std": 0.3}
MODELS = {
    "mha": ModelConfig(**TINY),
    "gqa": ModelConfig(**TINY, n_key_value_heads=2),
    "tied": ModelConfig(**TINY, tied=True),
}
ALL = (*(name for name in COMPONENTS if name != "neurons"), "neurons")
METRICS = ("logit_diff", "logprob_diff", "kl", "digit1", "digit2")


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


def one_forward(model, cell, base, donor, positions, basis=None):
    """Logits of prompt-and-answer tokens `base` [pos] with the cell's activation from `donor`, by hooks."""
    name = COMPONENTS[cell.component].hook.replace("L", str(cell.layer))
    _, cache = model.run_with_cache(donor[None], names_filter=name)
    theirs = cache[name].clone()

    def patch(value, hook):
        value = value.clone()
        if cell.component == "pattern":
            value[:, cell.head, positions] = theirs[:, cell.head, positions]
        elif cell.head is not None:
            value[:, positions, cell.head] = theirs[:, positions, cell.head]
        elif cell.neurons is not None:
            for p in positions:
                value[:, p, list(cell.neurons)] = theirs[:, p, list(cell.neurons)]
        elif basis is not None:
            value[:, positions] += (theirs - value)[:, positions] @ basis @ basis.T
        else:
            value[:, positions] = theirs[:, positions]
        return value

    return model.run_with_hooks(base[None], fwd_hooks=[(name, patch)])[0]


def slow_scores(model, pairs, row, arm, cell, basis=None):
    """All METRICS of one cell in one pair, each from full forwards over plain sequences."""
    task, tokenizer = TASKS[pairs.task], Tokenizer()
    prompt = {
        role: tokenizer.encode_prompt(task.prompt(getattr(pairs, role)[row : row + 1])[0])
        for role in ("clean", arm.base, arm.source)
    }
    sides = [pairs.clean_answer[row], pairs.corrupt_answer[row]]
    answers = [[*(CHAR_ID[c] for c in text), EOS] for text in sides]
    size = int((pairs.clean[row] >= 0).sum())
    logits, plain = [], []
    for answer in answers:
        tree = Tree(len(prompt["clean"]), (len(answer) - 1,))
        places = span_positions(pairs.task, size, int(pairs.slot[row]), 4, tree)[cell.span]
        runs = {role: torch.tensor(tokens + answer[:-1]) for role, tokens in prompt.items()}
        if places:
            logits.append(one_forward(model, cell, runs[arm.base], runs[arm.source], list(places), basis))
        else:
            logits.append(model(runs[arm.base][None])[0])
        plain.append(model(runs["clean"][None])[0])
    start = len(prompt["clean"]) - 1
    first = next(i for i in range(9) if answers[0][i] != answers[1][i])
    parts = np.zeros(16)
    for sign, side, answer in zip((1, -1), logits, answers, strict=True):
        for k, token in enumerate(answer):
            parts[k] += sign * side[start + k].log_softmax(-1)[token].item()
    here = logits[0][start + first]
    p, q = plain[0][start + first].log_softmax(-1), here.log_softmax(-1)
    diff = (here[answers[0][first]] - here[answers[1][first]]).item()
    return np.array([diff, parts.sum(), (p.exp() * (p - q)).sum().item(), parts[0], parts[1]])


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("task", ["distance", "compass", "perimeter"])
@torch.no_grad()
def test_every_component_equals_one_full_forward_a_cell(kind, task):
    model, pairs = model_of(kind), some_pairs(task, 4)
    rng = np.random.default_rng(0)
    places = check_places(["default", "swapped", "pos3"], task, 4)
    cells = grid(model.cfg, ALL, places)
    checked = [cells[i] for i in rng.choice(len(cells), 60, replace=False)]
    checked += [Cell("neurons", 1, None, "swapped_last", neurons=(0, 5, 7))]
    found = sweep(model, pairs, checked, metrics=METRICS, arms=ARMS)
    size = found.patched[:, :, 0]
    for _ in range(60):
        a, c, row = rng.integers(len(ARMS)), rng.integers(len(checked)), rng.integers(len(pairs))
        if np.isfinite(size[a, c, row]):
            slow = slow_scores(model, pairs, row, ARMS[a], checked[c])
            np.testing.assert_allclose(found.patched[a, c, :, row], slow, atol=1e-5, rtol=1e-5)
    assert np.isfinite(size[0]).mean() > 0.5
    assert np.nanmax(np.abs(size[0] - found.corrupt[0])) > 0.1, "nothing moved: the comparison shows nothing"
