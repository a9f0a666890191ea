"""Extraction against run_with_cache and transformers, prompt by prompt; and what it must not do."""

import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from cwr_mech.activations.extract import (
    default_hooks,
    draw_partners,
    extract,
    model_digest,
)
from cwr_mech.activations.reader import ActivationStore
from cwr_mech.config import ModelConfig
from cwr_mech.errors import AnalysisError, UnknownName
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.tasks.grammar import find_span, spans
from cwr_mech.tasks.registry import TASKS
from cwr_mech.tasks.tokenizer import Tokenizer
from cwr_mech.world.cities import load_world

WORLD = load_world(source="uniform", n_cities=30, new="scattered", n_new=4)
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def small_model(seed: int = 0, **changes: int) -> HookedQwen2:
    settings = {"n_layers": 3, "d_model": 16, "n_heads": 4, "n_key_value_heads": 2, "d_mlp": 32} | changes
    return HookedQwen2(ModelConfig(**settings), seed=seed).eval()


MODEL = small_model()


def cached(text: str, hook: str) -> np.ndarray:
    """[pos width]: one prompt, everything kept, nothing shared or skipped."""
    tokens = torch.tensor([Tokenizer().encode_prompt(text)])
    with torch.no_grad():
        _, cache = MODEL.run_with_cache(tokens, names_filter=[hook])
    return cache[hook][0].flatten(1).numpy()


@pytest.mark.parametrize("task", TASKS)
def test_equals_the_cache_of_each_prompt(tmp_path: Path, task: str) -> None:
    extract(MODEL, WORLD, tmp_path / "a.h5", tasks=[task], batch=16)
    store = ActivationStore(tmp_path / "a.h5", world=WORLD)
    assert store.hooks == default_hooks(3)
    for row in (0, 17, 33):
        text = TASKS[task].city_prompt(WORLD.ids[row : row + 1])[0]
        for hook in store.hooks:
            whole = cached(text, hook)
            for site, position in (("last_digit", -2), ("delimiter", -1)):
                np.testing.assert_allclose(store.get(hook, task, site)[row], whole[position], **CLOSE)
                assert np.abs(store.get(hook, task, site)[row] - whole[position - 1]).max() > 1e-2


def test_layers_are_the_papers(tmp_path: Path) -> None:
    """transformers' hidden_states: index 0 the embedding, l after block l, the last after the final norm."""
    extract(MODEL, WORLD, tmp_path / "a.h5", tasks=["compass"])
    store = ActivationStore(tmp_path / "a.h5")
    prompts = TASKS["compass"].city_prompt(WORLD.ids)
    tokens = torch.tensor([Tokenizer().encode_prompt(text) for text in prompts])
    with torch.no_grad():
        hidden = MODEL.to_hf()(tokens, output_hidden_states=True).hidden_states
    for index, layer in enumerate(("embed", 0, 1, "final")):
        vectors = torch.cat([hidden[index][:, 14], hidden[index][:, 15]], dim=1).numpy()
        np.testing.assert_allclose(store.get(layer, "compass", "last_digit+delimiter"), vectors, **CLOSE)


def test_whole_questions_and_their_partners(tmp_path: Path) -> None:
    sites = ("last_digit", "equals", "city1_digits", "city2_last", "open")
    hook = "blocks.2.hook_resid_post"
    extract(MODEL, WORLD, tmp_path / "a.h5", hooks=[2], tasks=["inside", "distance"], sites=sites)
    extract(MODEL, WORLD, tmp_path / "b.h5", hooks=[2], tasks=["inside", "distance"])
    store, short = (ActivationStore(tmp_path / name) for name in ("a.h5", "b.h5"))
    assert not short.partners
    for task in store.tasks:
        np.testing.assert_allclose(store.get(2, task), short.get(2, task), **CLOSE)  # the model is causal
        for row in (0, 33):
            ids = np.concatenate([WORLD.ids[row : row + 1], store.partners[task][row]])
            text = TASKS[task].prompt(ids[None])[0]
            whole = cached(text, hook)
            for site in sites:
                mean = whole[find_span(task, site, len(ids))].mean(axis=0)
                np.testing.assert_allclose(store.get(2, task, site)[row], mean, **CLOSE)
    assert json.loads(store.attrs["prompts"])["distance"].endswith(")=")
    found = {name: slice(*span) for name, span in json.loads(store.attrs["positions"])["inside"].items()}
    assert found == {site: find_span("inside", site, 4) for site in sites}
    assert spans("inside", 4)["equals"] == found["equals"]


def test_partners_are_old_distinct_and_fixed() -> None:
    world = load_world(source="uniform", n_cities=5, new="scattered", n_new=200)
    for task, definition in TASKS.items():
        partners = draw_partners(world, task, 3)
        assert partners.shape == (world.n, definition.n_min - 1)
        assert np.isin(partners, world.ids[world.old()]).all()
        together = np.column_stack([world.ids, partners])
        assert all(len(set(row)) == definition.n_min for row in together.tolist())
        np.testing.assert_array_equal(partners, draw_partners(world, task, 3))
        assert (partners != draw_partners(world, task, 4)).any()
    with pytest.raises(AnalysisError, match="crossing needs 3 other training cities, and this world has 3"):
        draw_partners(load_world(source="uniform", n_cities=3), "crossing", 0)


def test_batches_change_nothing_and_bytes_repeat(tmp_path: Path) -> None:
    tasks = ("distance", "crossing")
    for name, batch in (("a", 15), ("b", 15), ("c", 512)):
        extract(MODEL, WORLD, tmp_path / name, batch=batch, tasks=tasks, sites=("city1", "equals"))
    a, b, c = (tmp_path / name for name in "abc")
    assert a.read_bytes() == b.read_bytes()
    with h5py.File(a) as first, h5py.File(c) as second:
        for task in tasks:
            for site in ("city1", "equals"):
                path = f"acts/unembed.hook_in/{task}/{site}"
                np.testing.assert_allclose(first[path][:], second[path][:], **CLOSE)


def test_only_the_layers_needed_are_run(tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("block 1 was run")

    model = small_model()
    handle = model.blocks[1].register_forward_pre_hook(refuse)
    extract(model, WORLD, tmp_path / "a.h5", hooks=["embed", 0, "blocks.0.attn.hook_z"], tasks=["distance"])
    with pytest.raises(RuntimeError, match="block 1 was run"):
        extract(model, WORLD, tmp_path / "b.h5", hooks=[1], tasks=["distance"])
    handle.remove()


def test_hooks_with_heads_and_gated_hooks(tmp_path: Path) -> None:
    model = small_model()
    hooks = ("blocks.1.attn.hook_z", "blocks.1.attn.hook_result", "blocks.1.hook_attn_out")
    extract(model, WORLD, tmp_path / "a.h5", hooks=hooks, tasks=["angle"])
    store = ActivationStore(tmp_path / "a.h5")
    z, result, out = (store.get(hook, "angle") for hook in hooks)
    assert (z.shape, result.shape, out.shape) == ((34, 16), (34, 64), (34, 16))
    np.testing.assert_allclose(result.reshape(34, 4, 16).sum(axis=1), out, **CLOSE)
    weights = model.blocks[1].attn.W_O.detach().numpy().reshape(16, 16)
    np.testing.assert_allclose(z @ weights, out, **CLOSE)
    assert not model.cfg.use_attn_result
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_attributes_say_what_it_was_made_from(tmp_path: Path) -> None:
    extract(MODEL, WORLD, tmp_path / "a.h5", hooks=[0], tasks=["angle"], attrs={"run": "r", "step": 5})
    attrs = ActivationStore(tmp_path / "a.h5", world=WORLD, model_sha256=model_digest(MODEL)).attrs
    assert (attrs["run"], attrs["step"]) == ("r", 5)
    assert attrs["tokenizer_sha256"] == Tokenizer().sha256
    assert ModelConfig(**json.loads(attrs["model"])) == MODEL.config
    assert json.loads(attrs["prompts"]) == {"angle": f"angle(c_{WORLD.ids[0]},"}
    other = small_model()
    assert model_digest(other) == model_digest(MODEL)
    with torch.no_grad():
        other.blocks[2].ln2.w[3] += 1e-6
    assert model_digest(other) != model_digest(MODEL)


REFUSED = [
    ({"hooks": ["blocks.9.hook_resid_post"]}, UnknownName, "unknown hook 'blocks.9.hook_resid_post'"),
    ({"hooks": ["blocks.0.attn.hook_pattern"]}, AnalysisError, "no vector for each position"),
    ({"hooks": [0, "0"]}, AnalysisError, "each hook must be given once"),
    ({"hooks": []}, AnalysisError, "each hook must be given once, got none"),
    ({"tasks": ["dist"]}, UnknownName, "unknown task 'dist'"),
    ({"sites": ["city7"]}, UnknownName, "unknown place in a distance question of 2 cities 'city7'"),
    ({"sites": ["answer1"]}, AnalysisError, "'answer1' lies behind the question"),
]


@pytest.mark.parametrize(("options", "error", "words"), REFUSED)
def test_impossible_requests_are_refused_before_any_work(
    tmp_path: Path, options: dict[str, list[str]], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=re.escape(words)):
        extract(MODEL, WORLD, tmp_path / "a.h5", **options)
    assert not list(tmp_path.iterdir())


def test_a_broken_model_leaves_no_file(tmp_path: Path) -> None:
    model = small_model()
    with torch.no_grad():
        model.blocks[1].mlp.W_out[0, 0] = torch.nan
    with pytest.raises(AnalysisError, match=r"blocks\.1\.hook_resid_post"):
        extract(model, WORLD, tmp_path / "a.h5")
    assert not list(tmp_path.iterdir())
    extract(model, WORLD, tmp_path / "a.h5", hooks=["embed", 0])
