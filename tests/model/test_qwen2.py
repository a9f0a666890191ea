"""HookedQwen2 against HookedTransformer's recordings, transformers' Qwen2, and itself by another route."""

import paths
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from transformer_lens.tools.analysis.interchange import reinitialized

from cwr_mech.config import ModelConfig
from cwr_mech.errors import ConfigError
from cwr_mech.model.checkpoint import from_hf_state
from cwr_mech.model.qwen2 import HookedQwen2, next_token_loss
from cwr_mech.model.settings import ForeignConfig

SMALL = {"n_layers": 3, "d_model": 32, "d_mlp": 48}
SHAPES = {
    "heads": ModelConfig(**SMALL),
    "grouped": ModelConfig(**SMALL, n_key_value_heads=2),
    "one key/value head": ModelConfig(**SMALL, n_key_value_heads=1, rope_theta=1e6),
    "tied": ModelConfig(**SMALL, tied=True),
    "grouped and tied": ModelConfig(**SMALL, n_key_value_heads=2, tied=True, rms_eps=1e-5),
}
GOLDEN = ("mha", "gqa")
SCORES, PATTERN = "blocks.1.attn.hook_attn_scores", "blocks.1.attn.hook_pattern"


def tokens(batch=3, pos=11, seed=0):
    return torch.randint(4, 98, (batch, pos), generator=torch.Generator().manual_seed(seed))


def trained_like(config, seed=0):
    """A model whose biases and norms are not at their start values, where a mistake in them would hide."""
    model = HookedQwen2(config, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def gap(a, b):
    return float((a - b).detach().abs().max())


def golden(name, **changes):
    file = paths.GOLDEN / f"hooked_transformer_{name}.safetensors"
    arrays = load_file(file)
    with safe_open(file, "pt") as opened:
        made = opened.metadata()
    config = ModelConfig(
        n_layers=int(made["layers"]),
        d_model=int(made["hidden_size"]),
        n_heads=int(made["heads"]),
        n_key_value_heads=int(made["kv_heads"]),
        d_mlp=int(made["intermediate"]),
        **{"rope_theta": float(made["rope_theta"]), "rms_eps": float(made["rms_eps"])} | changes,
    )
    weights = {key[8:]: array for key, array in arrays.items() if key.startswith("weights.")}
    acts = {key[12:]: array for key, array in arrays.items() if key.startswith("activations.")}
    model = HookedQwen2(config, seed=None)
    model.load_state_dict(from_hf_state(weights, config))
    return model, arrays["tokens"], arrays["logits"], acts


@pytest.mark.parametrize("name", GOLDEN)
def test_every_hook_equals_hooked_transformer(name):
    model, rows, logits, acts = golden(name)
    out, cache = model.run_with_cache(rows)
    assert len(acts) == 45
    assert set(cache) == set(acts)
    lowest = torch.finfo(torch.float32).min  # where HookedTransformer masks with -inf; so does the bridge
    for hook, recorded in acts.items():
        recorded = recorded.clamp(min=lowest)
        torch.testing.assert_close(
            cache[hook], recorded, atol=1e-5, rtol=0, msg=lambda m, h=hook: f"{h}: {m}"
        )
    assert gap(out, logits) < 1e-5
    assert gap(model(rows), logits) < 1e-5, "the fused route"
    for changes in ({"rope_theta": 5e5}, {"rms_eps": 1e-2}):
        other, *_ = golden(name, **changes)
        assert gap(other(rows), logits) > 1e-3, "control: the recordings tell these settings apart"


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_logits_loss_and_every_gradient_equal_qwen2(config):
    ours, rows = trained_like(config), tokens()
    theirs = ours.to_hf()
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    logits, loss = ours(rows, return_type="both")
    out = theirs(rows, labels=rows)
    assert gap(logits, out.logits) < 1e-5
    assert gap(loss, out.loss) < 1e-5
    loss.backward()
    out.loss.backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    converted = from_hf_state(gradients, config)
    assert set(converted) == {name for name, _ in ours.named_parameters()}
    for name, parameter in ours.named_parameters():
        assert parameter.grad.abs().max() > 1e-6, f"control: {name} is used"
        assert gap(parameter.grad, converted[name]) < 1e-5, name


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_both_attention_routes_agree_with_their_gradients(config, monkeypatch):
    calls = []
    fused = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or fused(*a, **k))
    model, rows = trained_like(config), tokens()
    seen, grads, used = [], [], []
    for watched in ([], [SCORES], [PATTERN]):
        model.zero_grad()
        calls.clear()
        with model.hooks(fwd_hooks=[(name, lambda tensor, hook: None) for name in watched]):
            logits, loss = model(rows, return_type="both")
        loss.backward()
        used.append(len(calls))
        seen.append(logits.detach())
        grads.append([parameter.grad.clone() for parameter in model.parameters()])
    assert used == [3, 2, 2], "only the layer that is watched leaves the fused route"
    for other in (1, 2):
        assert gap(seen[0], seen[other]) < 1e-5
        assert max(gap(a, b) for a, b in zip(grads[0], grads[other], strict=True)) < 1e-5

    model(rows)
    with model.hooks(bwd_hooks=[(PATTERN, lambda grad, hook: None)]):
        calls.clear()
        model(rows, return_type="loss").backward()
        assert len(calls) == 2, "a backward hook counts as watching"
    handle = model.hook_dict[SCORES].register_forward_hook(lambda module, inputs, output: None)
    calls.clear()
    model(rows)
    handle.remove()
    assert len(calls) == 2, "so does a plain torch hook"

    knocked = model.run_with_hooks(rows, fwd_hooks=[(PATTERN, lambda tensor, hook: tensor * 0)])
    assert gap(knocked, seen[0]) > 1e-3, "control: what a hook returns is used"


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(),
        ModelConfig(n_layers=2, d_model=48, n_heads=6, n_key_value_heads=2, d_mlp=40, d_vocab=30, tied=True),
        ForeignConfig(n_layers=1, d_model=32, n_heads=2, head_dim=24, d_mlp=64),
    ],
)
def test_the_number_of_parameters_follows_from_the_settings(config):
    model = HookedQwen2(config, seed=0)
    assert config.n_parameters == sum(parameter.numel() for parameter in model.parameters())


def test_paper_size_and_drawing_of_weights():
    before = torch.random.get_rng_state()
    model = HookedQwen2(ModelConfig(), seed=7)
    assert torch.equal(before, torch.random.get_rng_state())
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_601_920
    again, other = HookedQwen2(ModelConfig(), seed=7), HookedQwen2(ModelConfig(), seed=8)
    for (name, drawn), same, different in zip(
        model.named_parameters(), again.parameters(), other.parameters(), strict=True
    ):
        drawn = drawn.detach()
        assert torch.equal(drawn, same)
        kind = name.rsplit(".", 1)[1]
        if kind.startswith("W_"):
            assert not torch.equal(drawn, different)
            tolerance = 4 * 0.1 / (2 * drawn.numel()) ** 0.5
            assert abs(float(drawn.std()) - 0.1) < tolerance, name
            assert abs(float(drawn.mean())) < 4 * 0.1 / drawn.numel() ** 0.5, name
        else:
            assert torch.equal(drawn, torch.full_like(drawn, 1.0 if kind == "w" else 0.0)), name
    blank = HookedQwen2(ModelConfig(), seed=None)
    assert all(not parameter.any() for name, parameter in blank.named_parameters() if ".W_" in name)


@pytest.mark.parametrize("config", [SHAPES["heads"], SHAPES["tied"]])
def test_an_untrained_copy_can_be_drawn(config):
    model = trained_like(config)
    fresh = reinitialized(model, seed=3)
    changed = [not torch.equal(a, b) for a, b in zip(model.parameters(), fresh.parameters(), strict=True)]
    assert all(changed)
    assert fresh.ln_final.w.eq(1).all()
    assert gap(fresh.W_U, model.W_U) > 0.01


def test_layers_outside_the_range_are_not_computed():
    model, rows = trained_like(SHAPES["heads"]), tokens()
    ran = []
    for layer, block in enumerate(model.blocks):
        block.register_forward_hook(lambda module, inputs, output, layer=layer: ran.append(layer))
    full, cache = model.run_with_cache(rows)
    assert ran == [0, 1, 2]
    for layer in range(3):
        ran.clear()
        resid = model(rows, stop_at_layer=layer)
        assert ran == list(range(layer))
        assert gap(resid, cache[f"blocks.{layer}.hook_resid_pre"]) < 1e-5
        ran.clear()
        assert gap(model(resid, start_at_layer=layer), full) < 1e-5
        assert ran == list(range(layer, 3))
        assert gap(model(rows, stop_at_layer=layer - 3), resid) == 0, "negative layers count from the end"
    assert gap(model(rows, stop_at_layer=3), cache["blocks.2.hook_resid_post"]) < 1e-5
    assert gap(model(rows, stop_at_layer=0), model.embed(rows)) == 0
    middle = model(cache["blocks.1.hook_resid_pre"], start_at_layer=1, stop_at_layer=2)
    assert gap(middle, cache["blocks.2.hook_resid_pre"]) < 1e-5
    assert gap(model(cache["blocks.0.hook_resid_pre"], start_at_layer=1), full) > 1e-3, "control"


def test_return_types_and_positions():
    model, rows = trained_like(SHAPES["grouped"]), tokens()
    logits, loss = model(rows, return_type="both")
    assert gap(model(rows, return_type="loss"), loss) == 0
    assert model(rows, return_type=None) is None
    read = torch.tensor([[3, 5], [0, 10], [7, 7]])
    some = model(rows, positions=read)
    assert gap(some, torch.stack([logits[row, read[row]] for row in range(3)])) < 1e-6


def test_loss_counts_exactly_the_masked_tokens():
    model, rows = trained_like(SHAPES["heads"]), tokens()
    mask = torch.zeros(3, 11, dtype=torch.bool)
    mask[0, 4], mask[2, 9] = True, True
    log_prob = model(rows).log_softmax(-1)
    expected = -(log_prob[0, 3, rows[0, 4]] + log_prob[2, 8, rows[2, 9]]) / 2
    assert gap(model(rows, return_type="loss", loss_mask=mask), expected) < 1e-6
    everything = next_token_loss(model(rows), rows, torch.ones_like(mask))
    assert gap(model(rows, return_type="loss"), everything) < 1e-6


def test_padding_on_the_right_changes_nothing_before_it():
    model, rows = trained_like(SHAPES["heads"]), tokens()
    padded = F.pad(rows, (0, 5))
    assert gap(model(padded)[:, :11], model(rows)) < 1e-5
    changed = rows.clone()
    changed[:, 5] = (changed[:, 5] + 1 - 4) % 94 + 4
    assert gap(model(changed)[:, :5], model(rows)[:, :5]) < 1e-5
    assert gap(model(changed)[:, 5:], model(rows)[:, 5:]) > 1e-3, "control: later positions do see it"


def test_other_types_and_devices_are_followed():
    model, rows = trained_like(SHAPES["heads"]), tokens()
    wide = HookedQwen2(SHAPES["heads"], seed=None).double()
    wide.load_state_dict(model.state_dict())
    assert wide.cfg.dtype == torch.float64
    assert wide(rows).dtype == torch.float64
    assert gap(wide(rows), model(rows)) < 1e-5
    short = HookedQwen2(SHAPES["heads"], seed=None).bfloat16()
    short.load_state_dict(model.state_dict())
    assert short(rows).dtype == torch.bfloat16
    assert gap(short(rows).float(), model(rows)) < 0.5


STREAM, READ = torch.zeros(1, 3, 32), torch.zeros(3, 1, dtype=torch.int64)
WRONG = {
    "layer": ({"stop_at_layer": 4}, "layer 4 is out of range for a model of 3 layers"),
    "too long": ({"tokens": tokens(1, 300)}, "300 tokens are more than this model's 256 positions"),
    "stream": ({"tokens": STREAM, "start_at_layer": 1, "return_type": "loss"}, "a loss needs tokens"),
    "some positions": ({"positions": READ, "return_type": "loss"}, "a loss needs the logits at all"),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG)
def test_wrong_use_is_said_in_one_line(arguments, message):
    model = HookedQwen2(SHAPES["heads"], seed=0)
    with pytest.raises(ConfigError, match=message) as error:
        model(**{"tokens": tokens()} | arguments)
    assert "\n" not in str(error.value)
