"""One name for a site, and one reader of the residual stream at cities."""

import numpy as np
import pytest
import torch
from patching_cases import WORLD, model_of

from cwr_mech.activations.cities import city_prompts, residual_at, residual_stream
from cwr_mech.activations.site import Site
from cwr_mech.data.mentions import mentions
from cwr_mech.data.rows import generate
from cwr_mech.errors import AnalysisError, UnknownName
from cwr_mech.tasks.registry import TASKS
from cwr_mech.tasks.tokenizer import Tokenizer

PARSED = (
    ("L1", "blocks.1.hook_resid_post", "L1", 1),
    (2, "blocks.2.hook_resid_post", "L2", 2),
    ("3", "blocks.3.hook_resid_post", "L3", 3),
    (-1, "hook_embed", "embed", -1),
    ("embed", "hook_embed", "embed", -1),
    ("hook_embed", "hook_embed", "embed", -1),
    ("final", "unembed.hook_in", "final", 4),
    (4, "unembed.hook_in", "final", 4),
    ("unembed.hook_in", "unembed.hook_in", "final", 4),
    ("blocks.0.attn.hook_z", "blocks.0.attn.hook_z", "L0 z", 0),
    ("blocks.1.ln1.hook_scale", "blocks.1.ln1.hook_scale", "L1 ln1.hook_scale", 1),
)


@pytest.mark.parametrize(("text", "hook", "label", "number"), PARSED)
def test_every_name_of_a_layer_is_one_site(text: str | int, hook: str, label: str, number: int) -> None:
    site = Site.parse(text, 4)
    assert (site.hook, site.label, site.number(4)) == (hook, label, number)
    assert Site.parse(site.hook, 4) == site
    assert Site.parse(site) is site


@pytest.mark.parametrize("text", ["L4.5", "last", "blocks.9.hook_resid_post", "9", "-2"])
def test_no_layer_of_the_model(text: str) -> None:
    with pytest.raises(UnknownName, match="embed"):
        Site.parse(text, 4)


def test_the_depth_of_final_must_be_known() -> None:
    assert Site.parse("final").hook == "unembed.hook_in"
    with pytest.raises(AnalysisError, match="depth"):
        Site.parse("final").number()


@torch.no_grad()
def test_reader_gives_what_the_hooks_see() -> None:
    """Every mention of every city, in small batches; control: another position holds something else."""
    model, rows = model_of(), generate(WORLD, "perimeter", 40, split="train")
    found = mentions(rows, "delimiter")
    read = residual_at(model, rows.tokens, found.row, found.position, batch=7)
    _, cache = model.run_with_cache(torch.from_numpy(rows.tokens.astype(np.int64)))
    assert list(read) == [-1, 0, 1, 2]
    for layer, values in read.items():
        seen = cache[Site.parse(layer, 3).hook].numpy()
        assert values == pytest.approx(seen[found.row, found.position], abs=1e-5 * float(np.abs(seen).max()))
        assert np.abs(values - seen[found.row, found.position - 1]).max() > 0.1
    assert list(residual_at(model, rows.tokens, found.row, found.position, [0])) == [0]


@torch.no_grad()
def test_a_bare_city_prompt_holds_what_every_question_holds_at_its_first_city() -> None:
    model = model_of()
    tokens, position = city_prompts("distance", WORLD.ids[:5], "last_digit")
    question = TASKS["distance"].prompt(np.column_stack([WORLD.ids[:5], WORLD.ids[5:10]]), 4)
    whole = torch.tensor([Tokenizer().encode_prompt(text) for text in question])
    bare = dict(residual_stream(model, torch.from_numpy(tokens)))
    for layer, resid in residual_stream(model, whole):
        assert (resid[:, position] - bare[layer][:, position]).abs().max() < 1e-6 * resid.abs().max()
        assert (resid[:, position] - bare[layer][:, position - 1]).abs().max() > 0.1
