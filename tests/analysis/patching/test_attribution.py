"""Planted circuits are found exactly; gradients agree with exact patching where they should."""

from collections import defaultdict
from itertools import pairwise

import numpy as np
import planted
import pytest
import torch
from patching_cases import WORLD, first_slot_pairs, model_of, only_here, some_pairs

from cwr_mech.analysis.patching.attribution import LARGE, attribute, compare, saturated
from cwr_mech.analysis.patching.cells import COMPONENTS, Cell, grid
from cwr_mech.analysis.patching.layout import layouts
from cwr_mech.analysis.patching.metrics import Answers
from cwr_mech.analysis.patching.paths import (
    Path,
    all_paths,
    edge_attribution,
    patch_paths,
)
from cwr_mech.analysis.patching.sweep import sweep

assert WORLD.n >= 64


@torch.no_grad()
def test_the_planted_relay_is_found_and_nothing_else():
    model, pairs = planted.relay(), first_slot_pairs(40, only_here)
    assert len(pairs) >= 10
    places = ["swapped_digits", "swapped_delimiter", "later_digits", "later_delimiter", "equals"]
    cells = grid(model.cfg, COMPONENTS, places)
    found = sweep(model, pairs, cells)
    gap = (found.clean - found.corrupt).mean()
    assert gap > 1, "the planted model must tell the pairs apart"
    recovered = {}
    for sign, base, values in ((1, found.corrupt, found.patched[0]), (-1, found.clean, found.patched[1])):
        for cell, each in zip(cells, values, strict=True):
            recovered[cell, sign] = sign * (each - base).mean() / gap
    carrier = set()
    for layer, (here, there) in enumerate(pairwise(["swapped_digits", "swapped_delimiter", "equals"])):
        carrier |= {("resid_pre", layer, None, here), ("v", layer, layer, here), ("z", layer, layer, there)}
        carrier |= {(name, layer, None, there) for name in ("attn_out", "resid_mid", "resid_post")}
    for (cell, _), share in recovered.items():
        expected = 1.0 if (cell.component, cell.layer, cell.head, cell.span) in carrier else 0.0
        assert share == pytest.approx(expected, abs=0.02), cell


@torch.no_grad()
def test_paths_of_the_planted_relay():
    model, pairs = planted.relay(), first_slot_pairs(40, only_here)
    paths = all_paths(model, "swapped_delimiter")
    scores = patch_paths(model, pairs, paths)[0]
    found = sweep(model, pairs, [Cell("resid_pre", 0, None, "swapped")])
    gap = (found.clean - found.corrupt).mean()
    recovered = (scores - found.corrupt[0]).mean(1) / gap
    carrying = Path((0, 0), "swapped_delimiter", (1, 1), "v")
    assert Path((0, 0), "swapped_delimiter", (0, None), "mlp") in paths
    for path, share in zip(paths, recovered, strict=True):
        assert share == pytest.approx(1.0 if path == carrying else 0.0, abs=0.02), path
    to_answer = patch_paths(model, pairs, [Path((1, 1), "equals"), Path((1, 0), "equals")])[0]
    np.testing.assert_allclose((to_answer - found.corrupt[0]).mean(1) / gap, [1.0, 0.0], atol=0.02)


def test_a_saturated_softmax_fools_plain_attribution_and_is_flagged():
    """The changed key moves all attention, but the gradient of a hard softmax is 0."""
    model = planted.largest_digit()
    pairs = first_slot_pairs(60, lambda mine, _: max(mine))
    assert len(pairs) >= 5
    cells = grid(model.cfg, ("q", "k", "v", "z"), ["swapped_digits", "equals"])
    cells = [cell for cell in cells if cell.layer == 0]
    found = sweep(model, pairs, cells)
    exact = (found.patched[0, :, 0] - found.corrupt[0]).mean(1)
    gap = float((found.clean - found.corrupt).mean())
    plain, fixed = (attribute(model, pairs, cells, mode=mode)[0].mean(1) for mode in ("linear", "exact"))
    key = cells.index(Cell("k", 0, 0, "swapped_digits"))
    assert key in compare(exact, plain, gap).misses
    assert key in saturated(cells, plain, fixed, LARGE * abs(gap))
    assert key not in compare(exact, fixed, gap).misses
    assert not saturated(cells, fixed, fixed, LARGE * abs(gap))


def test_estimates_are_the_derivative_of_exact_patching():
    """Towards a source moved only a little, the estimate is exact to first order; control: far away."""
    model, pairs = model_of(), some_pairs(n=4)
    cells = grid(model.cfg, [c for c in COMPONENTS if c != "pattern"], ["swapped_last", "equals"])
    cells = [cell for cell in cells if cell.layer < 2]
    with torch.no_grad():
        kept = model.embed.W_E.clone()
        errors = []
        for scale in (0.003, 1.0):
            middle = kept.mean(0)
            model.embed.W_E.copy_(middle + scale * (kept - middle))
            found = sweep(model, pairs, cells)
            exact = found.patched[0, :, 0] - found.corrupt[0]
            estimate = attribute(model, pairs, cells)[0]
            errors.append(np.abs(estimate - exact).sum() / np.abs(exact).sum())
    assert errors[0] < 0.05 < errors[1]


def test_integrated_gradients_are_complete():
    """Along the whole path the attributions of all tokens add up to the whole change (Sundararajan 2017)."""
    model, pairs = model_of(), some_pairs(n=4)
    cells = [Cell("resid_pre", 0, None, "swapped")]
    found = sweep(model, pairs, cells)
    change = (found.clean - found.corrupt)[0]
    one, many = (attribute(model, pairs, cells, steps=steps)[0, 0] for steps in (1, 64))
    assert np.abs(many - change).max() < 0.02 * np.abs(change).max()
    assert np.abs(one - change).max() > 0.1 * np.abs(change).max()


def test_edges_add_up_to_their_senders():
    """All edges out of a sender add up to its node attribution: gradients split over readers."""
    model, pairs = model_of(), some_pairs(n=3)
    edges = edge_attribution(model, pairs)
    assert ("0.0", "1.0.q") in edges
    assert ("1.0", "0.0.q") not in edges
    cells = [Cell("z", 1, head, "everywhere") for head in range(4)]
    node = attribute(model, pairs, cells)[0].mean(1)
    summed = [sum(effect for (sender, _), effect in edges.items() if sender == f"1.{h}") for h in range(4)]
    np.testing.assert_allclose(summed, node, atol=1e-5, rtol=1e-4)


def test_edge_attribution_that_fails_leaves_flags_and_hooks_as_they_were(monkeypatch):
    model, pairs = model_of(), some_pairs(n=1)
    monkeypatch.setattr(Answers, "score", lambda *_: (_ for _ in ()).throw(RuntimeError("stopped")))
    with pytest.raises(RuntimeError, match="stopped"):
        edge_attribution(model, pairs)
    flags = ("use_attn_result", "use_split_qkv_input", "use_hook_mlp_in")
    assert not any(getattr(model.cfg, flag) for flag in flags)
    assert not any(hook.fwd_hooks or hook.bwd_hooks for hook in model.hook_dict.values())


def test_edges_equal_transformerlens():
    """Its `attribution_patch` scores edges position by position; ours are summed over positions."""
    from transformer_lens.tools.analysis.attribution_patching import EdgeAttributionConfig, attribution_patch

    model, pairs = model_of(), some_pairs(n=1)
    layout = next(layouts(pairs, ("logit_diff",), roles=("clean", "corrupt")))
    clean, corrupt = (layout.tokens[torch.from_numpy(layout.runs(role))] for role in ("clean", "corrupt"))

    def metric(logits):
        read = logits[:, list(layout.answers.reads)]
        return layout.answers.score(
            ("logit_diff",), read, torch.arange(1), layout.answers.at_first(read)
        ).mean()

    theirs = attribution_patch(model, clean, corrupt, metric, EdgeAttributionConfig("edge")).edge_scores
    kinds = {"q_input": ".q", "k_input": ".k", "v_input": ".v"}
    names = {"embed": "embed", "logits": "answer"}
    summed = defaultdict(float)
    for (sender, reader), score in theirs.items():
        labels = [
            names.get(node.kind)
            or (
                f"mlp{node.layer}"
                if node.head is None
                else f"{node.layer}.{node.head}{kinds.get(node.kind, '')}"
            )
            for node in (sender, reader)
        ]
        summed[tuple(labels)] += score
    edges = edge_attribution(model, pairs)
    assert edges == pytest.approx(dict(summed), abs=1e-5)


@torch.no_grad()
def test_paths_equal_transformerlens_direct_path_patching(monkeypatch):
    """Head to head through queries, at every position at once: their edge is added at all positions."""
    from transformer_lens import patching

    monkeypatch.setenv("TQDM_DISABLE", "1")
    model, pairs = model_of(), some_pairs(n=3, slot=0)
    layout = next(layouts(pairs, ("logit_diff",), roles=("clean", "corrupt")))
    clean, corrupt = (layout.tokens[torch.from_numpy(layout.runs(role))] for role in ("clean", "corrupt"))
    _, clean_cache = model.run_with_cache(clean)
    _, corrupt_cache = model.run_with_cache(corrupt)

    def metric(logits):
        read = logits[:, list(layout.answers.reads)]
        return layout.answers.score(
            ("logit_diff",), read, torch.arange(len(pairs)), layout.answers.at_first(read)
        ).mean()

    for reader in "qkv":
        theirs = patching.get_act_patch_direct_path(
            model, corrupt, clean_cache, corrupt_cache, metric, 0, 1, reader, verbose=False
        )
        paths = [Path((0, 1), "everywhere", (to, head), reader) for to in (1, 2) for head in range(4)]
        ours = patch_paths(model, pairs, paths)[0].mean(1).reshape(2, 4)
        np.testing.assert_allclose(ours, theirs[1:].numpy(), atol=1e-5)


@torch.no_grad()
def test_a_path_into_an_mlp_equals_hooks_on_what_it_reads():
    """The last layer's MLP, so that nothing downstream but the answer can hear of it."""
    model, pairs = model_of(), some_pairs(n=3, slot=0)
    layout = next(layouts(pairs, ("logit_diff",), roles=("clean", "corrupt")))
    clean, corrupt = (layout.tokens[torch.from_numpy(layout.runs(role))] for role in ("clean", "corrupt"))
    name = "blocks.1.attn.hook_result"
    place = list(layout.spans["equals"])
    with model.flags(use_attn_result=True, use_hook_mlp_in=True):
        clean_cache, corrupt_cache = (model.run_with_cache(x, names_filter=name)[1] for x in (clean, corrupt))
        change = (clean_cache[name] - corrupt_cache[name])[:, place, 2]

        def add(value, hook):
            value[:, place] += change
            return value

        logits = model.run_with_hooks(corrupt, fwd_hooks=[("blocks.2.hook_mlp_in", add)])
    read = logits[:, list(layout.answers.reads)]
    pair = torch.arange(len(pairs))
    slow = layout.answers.score(("logit_diff",), read, pair, layout.answers.at_first(read))[0]
    ours = patch_paths(model, pairs, [Path((1, 2), "equals", (2, None), "mlp")])[0, 0]
    np.testing.assert_allclose(ours, slow.numpy(), atol=1e-5)
