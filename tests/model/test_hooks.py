"""TransformerLens' own tools on HookedQwen2, next to the same tools on its TransformerBridge."""

import pytest
import torch
from transformer_lens import ActivationCache, patching
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.tools.analysis import attribution_patching as attribution
from transformer_lens.tools.analysis import interchange
from transformer_lens.tools.analysis.logit_lens import logit_lens
from transformer_lens.tools.analysis.projection_kernel import attention_head_subspace_affinity
from transformers import AutoTokenizer

from cwr_mech.config import ModelConfig
from cwr_mech.errors import ConfigError, UnknownName
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.tasks.tokenizer import Tokenizer

SIZE = {"n_layers": 2, "d_model": 32, "n_heads": 4, "d_mlp": 48}
CLEAN, CORRUPT = "dist(c_1234,c_5678)=", "dist(c_1234,c_9012)="
GATED = {
    "blocks.1.attn.hook_result": "use_attn_result",
    "blocks.0.attn.hook_q_input": "use_split_qkv_input",
    "blocks.1.hook_mlp_in": "use_hook_mlp_in",
}
SWEEPS = {
    "resid_pre": patching.get_act_patch_resid_pre,
    "resid_mid": patching.get_act_patch_resid_mid,
    "attn_out": patching.get_act_patch_attn_out,
    "mlp_out": patching.get_act_patch_mlp_out,
    "head by position": patching.get_act_patch_attn_head_out_by_pos,
    "heads": patching.get_act_patch_attn_head_all_pos_every,
}


def build(**changes):
    model = HookedQwen2(ModelConfig(**SIZE, **changes), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture(scope="module")
def bridge(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bridge")
    Tokenizer().save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return TransformerBridge.boot_transformers(
        str(folder), hf_model=model.to_hf(), tokenizer=tokenizer
    ).eval()


def prompts(model):
    return model.to_tokens(CLEAN), model.to_tokens(CORRUPT)


def metric(logits):
    return logits[0, -1, 95] - logits[0, -1, 90]


def gap(a, b):
    return float((a - b).detach().abs().max())


def test_the_bridge_sees_the_same_model(model, bridge):
    rows = model.to_tokens([CLEAN, CORRUPT])
    (ours, cache), (theirs, other) = model.run_with_cache(rows), bridge.run_with_cache(rows)
    assert isinstance(cache, ActivationCache)
    assert gap(ours, theirs) < 1e-5
    for name in cache:
        assert gap(cache[name], other[name]) < 1e-5, name


def test_gated_hooks_fire_behind_their_flags_and_equal_the_bridge(model, bridge):
    rows = model.to_tokens([CLEAN, CORRUPT])
    plain, silent = model.run_with_cache(rows)
    assert not set(GATED) & set(silent)
    with model.flags(use_attn_result=True, use_split_qkv_input=True, use_hook_mlp_in=True):
        logits, cache = model.run_with_cache(rows)
    for flag in set(GATED.values()):
        getattr(bridge, f"set_{flag}")(True)
    _, other = bridge.run_with_cache(rows, names_filter=list(GATED))
    for flag in set(GATED.values()):
        getattr(bridge, f"set_{flag}")(False)
    assert gap(logits, plain) < 1e-5
    for name in GATED:
        assert cache[name].shape == other[name].shape
        assert gap(cache[name], other[name]) < 1e-5, name
    assert gap(cache["blocks.1.attn.hook_result"].sum(2), cache["blocks.1.hook_attn_out"]) < 1e-5
    assert not any(getattr(model.cfg, flag) for flag in GATED.values())


def test_grouped_heads_read_their_own_inputs():
    model = build(n_key_value_heads=2)
    rows = model.to_tokens(CLEAN)
    plain = model(rows)
    with model.flags(use_split_qkv_input=True):
        logits, cache = model.run_with_cache(rows)
    assert gap(logits, plain) < 1e-5
    assert cache["blocks.0.attn.hook_q_input"].shape == (1, rows.shape[1], 4, 32)
    assert cache["blocks.0.attn.hook_k_input"].shape == (1, rows.shape[1], 2, 32)


def test_flags_come_back_after_an_error(model):
    def fail():
        with model.flags(use_attn_result=True):
            assert model.cfg.use_attn_result
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not model.cfg.use_attn_result
    with pytest.raises(UnknownName, match="unknown flag 'use_attn_results'"):
        model.flags(use_attn_results=True).__enter__()


@pytest.mark.parametrize(
    "use",
    [
        lambda model, name: model.run_with_cache(model.to_tokens(CLEAN), names_filter=name),
        lambda model, name: model.run_with_cache(model.to_tokens(CLEAN), names_filter=["hook_embed", name]),
        lambda model, name: model.run_with_hooks(model.to_tokens(CLEAN), fwd_hooks=[(name, print)]),
        lambda model, name: model.add_hook(name, print),
    ],
    ids=["cache", "cache list", "run_with_hooks", "add_hook"],
)
def test_a_hook_that_would_never_fire_is_an_error(model, use):
    with pytest.raises(UnknownName, match=r"unknown hook 'blocks\.0\.hook_resid_pst' \(did you mean"):
        use(model, "blocks.0.hook_resid_pst")
    with pytest.raises(ConfigError, match=r"stays silent \(switch it on with model\.set_use_attn_result"):
        use(model, "blocks.0.attn.hook_result")
    assert not any(point.has_hooks() for point in model.hook_points())


def test_positions_are_cut_at_every_hook(model):
    rows = model.to_tokens([CLEAN, CORRUPT])
    (_, whole), (_, cut) = model.run_with_cache(rows), model.run_with_cache(rows, pos_slice=(2, 5))
    assert set(cut) == set(whole)
    for name, value in whole.items():
        attention = name.endswith(("attn_scores", "pattern"))
        expected = value[:, :, 2:5] if attention else value[:, 2:5]
        assert torch.equal(cut[name], expected), name


def test_gradients_can_be_cached_and_hooks_may_write_in_place(model):
    rows = model.to_tokens([CLEAN, CORRUPT])
    _, cache = model.run_with_cache(rows, return_type="loss", incl_bwd=True)
    stream = model(rows, stop_at_layer=1).detach().requires_grad_()
    logits = model(stream, start_at_layer=1)
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), rows[:, 1:].flatten())
    (gradient,) = torch.autograd.grad(loss, stream)
    assert gap(cache["blocks.1.hook_resid_pre_grad"], gradient) < 1e-6
    model.zero_grad()

    def silence(z, hook):
        z[:, :, 2] = 0
        return z

    name = "blocks.1.attn.hook_z"
    edited = model.run_with_hooks(rows, fwd_hooks=[(name, silence)])
    copied = model.run_with_hooks(
        rows, fwd_hooks=[(name, lambda z, hook: z * (torch.arange(4)[:, None] != 2))]
    )
    assert gap(edited, copied) < 1e-6
    assert gap(edited, model(rows)) > 1e-3, "control"


@pytest.mark.parametrize("sweep", SWEEPS.values(), ids=SWEEPS)
def test_activation_patching(model, bridge, sweep):
    clean, corrupt = prompts(model)
    results = []
    for subject in (model, bridge):
        with torch.no_grad():
            _, cache = subject.run_with_cache(clean)
            results.append(sweep(subject, corrupt, cache, metric))
    assert gap(*results) < 1e-4
    assert float(results[0].std()) > 1e-3, "control: patches differ in effect"


def test_path_patching_attribution_and_faithfulness(model, bridge):
    clean, corrupt = prompts(model)
    direct, nodes, edges, kept = [], [], [], []
    for subject in (model, bridge):
        with torch.no_grad():
            (_, one), (_, two) = subject.run_with_cache(clean), subject.run_with_cache(corrupt)
            direct.append(
                patching.get_act_patch_direct_path(
                    subject, corrupt, one, two, metric, src_layer=0, src_head=1
                )
            )
        nodes.append(attribution.attribution_patch(subject, clean, corrupt, metric))
        config = attribution.EdgeAttributionConfig(granularity="edge")
        edges.append(attribution.attribution_patch(subject, clean, corrupt, metric, config))
        circuit = edges[0].top_edges(k=20)
        kept.append(attribution.faithfulness(subject, clean, corrupt, metric, circuit).recovered)
    assert gap(*direct) < 1e-4
    assert float(direct[0][1].std()) > 1e-3
    for ours, theirs in (
        (nodes[0].node_scores, nodes[1].node_scores),
        (edges[0].edge_scores, edges[1].edge_scores),
    ):
        assert set(ours) == set(theirs)
        assert max(abs(ours[key] - theirs[key]) for key in ours) < 1e-4
        assert max(map(abs, ours.values())) > 1e-2, "control"
    assert abs(kept[0] - kept[1]) < 1e-3
    assert not any(getattr(model.cfg, flag) for flag in GATED.values())


def test_interchange_and_distributed_alignment_search(model):
    rows = torch.stack([row for prompt in (CLEAN, CORRUPT) for row in model.to_tokens(prompt)])
    last = torch.full((2,), rows.shape[1] - 1)
    name = "blocks.1.hook_resid_post"

    def answer(inputs):
        return model(inputs)[:, -1]

    acts = interchange.collect_activations(model, name, rows, answer, positions=last)
    whole = interchange.SubspaceInterchange(interchange.random_basis(32, 32, seed=0))
    swapped = interchange.intervened_logits(model, name, whole, rows, acts.flip(0), answer, positions=last)
    assert gap(swapped, answer(rows).flip(0)) < 1e-4, "swapping the whole stream swaps the answers"
    some = interchange.SubspaceInterchange(interchange.random_basis(32, 4, seed=0))
    partly = interchange.intervened_logits(model, name, some, rows, acts.flip(0), answer, positions=last)
    assert gap(partly, answer(rows).flip(0)) > 1e-2, "control: a small subspace does not"
    found = interchange.fit_das(
        model, name, rows, rows.flip(0), answer(rows).flip(0).argmax(-1), answer,
        rank=2, base_positions=last, source_positions=last, epochs=15, lr=0.05,
    )  # fmt: skip
    assert found.losses[-1] < found.losses[0]


@pytest.mark.parametrize(
    "changes", [{}, {"n_key_value_heads": 2}, {"tied": True}], ids=["heads", "grouped", "tied"]
)
def test_cache_helpers_and_lenses(changes):
    model = build(**changes)
    rows = model.to_tokens([CLEAN, CORRUPT])
    with torch.no_grad():
        logits, cache = model.run_with_cache(rows)
    final = cache["resid_post", -1]
    assert gap(cache.decompose_resid(layer=2).sum(0), final) < 1e-5
    assert gap(cache.stack_head_results(layer=2, incl_remainder=True).sum(0), final) < 1e-5
    assert gap(cache.get_full_resid_decomposition(expand_neurons=True).sum(0), final) < 1e-4
    parts = cache.decompose_resid(layer=2, pos_slice=-1)
    attributed = cache.logit_attrs(parts, tokens=rows[:, -1], pos_slice=-1)
    assert gap(attributed.sum(0), logits[[0, 1], -1, rows[:, -1]]) < 1e-5
    lens = logit_lens(model, rows)
    assert gap(lens.readout.values[-1], logits[:, -1]) < 1e-4
    affinity = attention_head_subspace_affinity(model, target_role="K")
    assert affinity.scores.shape[-1] == model.config.n_kv


def test_tokens_from_text(model):
    assert model.to_tokens([CLEAN, CORRUPT]).shape == (2, len(CLEAN) + 1)
    assert model.to_single_token("9") == 97
    assert gap(model.tokens_to_residual_directions("9"), model.W_U[:, 97] * model.ln_final.w) == 0
    with pytest.raises(ConfigError, match="different lengths"):
        model.to_tokens([CLEAN, CLEAN + "1"])
    with pytest.raises(UnknownName, match="unknown token '12'"):
        model.to_single_token("12")
