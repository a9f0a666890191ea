"""nnsight, pyvene and circuitsvis on our checkpoints: the interchange that hooks make, the pattern shown.

None of them is a dependency; each test runs where the package is installed (nnsight 0.8, pyvene 0.1.8,
circuitsvis 1.43).
"""

import json
import re

import pytest
import torch
from transformers import AutoModelForCausalLM

from cwr_mech.config import ModelConfig
from cwr_mech.model.qwen2 import HookedQwen2

QUESTION, SOURCE = "dist(c_1234,c_5678)=", "dist(c_1234,c_9012)="
LAYER = 0
CLOSE = 1e-5
"""Two layers in float32, logits of a few units."""


@pytest.fixture(scope="module")
def model() -> HookedQwen2:
    settings = {"n_layers": 2, "d_model": 32, "n_heads": 4, "n_key_value_heads": 2, "d_mlp": 48}
    return HookedQwen2(ModelConfig(**settings), seed=0).eval()


@pytest.fixture(scope="module")
def theirs(model: HookedQwen2, tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    """What transformers loads from a checkpoint of ours."""
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def expected(model: HookedQwen2) -> torch.Tensor:
    """Logits of the question with the source's residual stream after LAYER, at every token."""
    hook = f"blocks.{LAYER}.hook_resid_post"
    with torch.no_grad():
        _, cache = model.run_with_cache(SOURCE, names_filter=hook)
        found = model.run_with_hooks(QUESTION, fwd_hooks=[(hook, lambda act, hook: cache[hook.name])])
        assert (found - model(QUESTION)).abs().max() > 100 * CLOSE, "control: the interchange changes logits"
    return found


def test_nnsight(model: HookedQwen2, theirs: torch.nn.Module, expected: torch.Tensor) -> None:
    nnsight = pytest.importorskip("nnsight")
    question, source = model.to_tokens(QUESTION), model.to_tokens(SOURCE)
    lens = nnsight.NNsight(theirs)
    with torch.no_grad():
        with lens.trace(source):
            state = lens.model.layers[LAYER].output.save()
        with lens.trace(question):
            lens.model.layers[LAYER].output = state
            logits = lens.output.logits.save()
    assert (logits - expected).abs().max() < CLOSE


def test_pyvene(model: HookedQwen2, theirs: torch.nn.Module, expected: torch.Tensor) -> None:
    pyvene = pytest.importorskip("pyvene")
    question, source = ({"input_ids": model.to_tokens(text)} for text in (QUESTION, SOURCE))
    config = pyvene.IntervenableConfig(
        representations=[{"layer": LAYER, "component": "block_output", "unit": "pos"}],
        intervention_types=pyvene.VanillaIntervention,
    )
    everywhere = [[list(range(question["input_ids"].shape[1]))]]
    with torch.no_grad():
        patched = pyvene.IntervenableModel(config, model=theirs)
        _, found = patched(question, [source], {"sources->base": (everywhere, everywhere)})
    assert (found.logits - expected).abs().max() < CLOSE


def test_circuitsvis(model: HookedQwen2) -> None:
    circuitsvis = pytest.importorskip("circuitsvis")
    _, cache = model.run_with_cache(QUESTION, names_filter="blocks.1.attn.hook_pattern")
    pattern = cache["pattern", 1][0]
    shown = str(circuitsvis.attention.attention_patterns(model.to_str_tokens(QUESTION), pattern))
    assert '"<bos>", "d", "i", "s", "t"' in shown
    written = re.search(r'"attention": (\[\[\[.*?\]\]\])', shown)
    assert written is not None
    assert torch.allclose(torch.tensor(json.loads(written[1])), pattern, atol=1e-6)
