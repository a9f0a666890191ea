"""Checkpoint folders: what Hugging Face reads, what comes back, and what is said about broken ones."""

import json
import shutil

import pytest
import torch
from paths import ROOT
from safetensors.torch import load_file, save_file
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from cwr_mech.config import ModelConfig
from cwr_mech.data.rows import generate
from cwr_mech.errors import ConfigError, CorruptArtifact, MissingArtifact
from cwr_mech.model.checkpoint import from_hf_state, model_config, to_hf_state
from cwr_mech.model.evaluation import answer_rows
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.training.runs import load_run

SMALL = {"n_layers": 2, "d_model": 32, "d_mlp": 48, "rope_theta": 20000.0, "n_ctx": 128, "init_std": 0.05}
SHAPES = {
    "heads": ModelConfig(**SMALL),
    "grouped": ModelConfig(**SMALL, n_key_value_heads=2),
    "tied": ModelConfig(**SMALL, tied=True),
    "grouped and tied": ModelConfig(**SMALL, n_key_value_heads=1, tied=True, rms_eps=1e-5),
}
ROWS = torch.randint(4, 98, (2, 20), generator=torch.Generator().manual_seed(0))


def gap(a, b):
    return float((a - b).detach().abs().max())


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_a_folder_is_read_by_us_by_transformers_and_by_the_bridge(config, tmp_path):
    model = HookedQwen2(config, seed=0)
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    assert {path.name for path in folder.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"], "no temporary folder is left"

    again = HookedQwen2.from_pretrained(folder)
    assert again.config == config
    assert not again.training
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name)), name

    theirs = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert type(theirs).__name__ == "Qwen2ForCausalLM"
    assert theirs.dtype == torch.float32
    assert gap(theirs(ROWS).logits, model(ROWS)) < 1e-5
    assert tokenizer("dist").input_ids == [2, *tokenizer.convert_tokens_to_ids(["d", "i", "s", "t"])]
    bridge = TransformerBridge.boot_transformers(str(folder), hf_model=theirs, tokenizer=tokenizer)
    assert gap(bridge(ROWS), model(ROWS)) < 1e-5


@pytest.mark.parametrize("saved", ["in the zoo", "again, as float32", "again, as float16"])
def test_plain_transformers_scores_the_same(tmp_path, saved):
    """AutoTokenizer puts <bos> first, generation is greedy and in float32: nothing of it has to be known."""
    run = load_run(ROOT / "zoo" / "small")
    folder = run.checkpoint(run.last_step)
    if saved.startswith("again"):
        run.model().save_pretrained(tmp_path / "small", dtype=getattr(torch, saved.split()[-1]))
        folder = tmp_path / "small"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    rows = generate(run.world(), "distance", 40, split="test")
    asked = [text.partition("=")[0] + "=" for text in rows.texts()]
    answers = []
    for text in asked:
        found = theirs.generate(**tokenizer(text, return_tensors="pt"))[0]
        answers.append(tokenizer.decode(found, skip_special_tokens=True).removeprefix(text))
    assert answers == list(answer_rows(run.model(), rows).texts)
    # Control: without <bos> the same model answers otherwise.
    others = [
        tokenizer.decode(
            theirs.generate(**tokenizer(text, return_tensors="pt", add_special_tokens=False))[0],
            skip_special_tokens=True,
        ).removeprefix(text)
        for text in asked
    ]
    assert others != answers


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_to_transformers_and_back_is_the_same_model(config, tmp_path):
    before = torch.random.get_rng_state()
    model = HookedQwen2(config, seed=0)
    theirs = model.to_hf()
    back = HookedQwen2.from_hf(theirs)
    assert torch.equal(before, torch.random.get_rng_state()), "the global generator is left alone"
    assert back.config == config
    assert gap(back(ROWS), model(ROWS)) == 0
    names = {name for name, _ in theirs.named_parameters()}
    assert set(to_hf_state(model.state_dict(), config)) == names, "every parameter and no other"
    # What transformers itself saves, tied weights included, is read too.
    theirs.save_pretrained(tmp_path / "theirs")
    assert gap(HookedQwen2.from_pretrained(tmp_path / "theirs")(ROWS), model(ROWS)) == 0


def test_half_precision_on_disk_comes_back_in_float32(tmp_path):
    model = HookedQwen2(SHAPES["grouped"], seed=0)
    model.save_pretrained(tmp_path / "half", dtype=torch.float16)
    assert {t.dtype for t in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.float16}
    again = HookedQwen2.from_pretrained(tmp_path / "half")
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.half().float(), again.get_parameter(name))
    # transformers computes in float32 too: in float16 it would answer some questions otherwise.
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "half").dtype == torch.float32


def test_another_tokenizer_can_go_along(tmp_path):
    class Note:
        def save_pretrained(self, folder):
            (folder / "note.txt").write_text("mine")

    HookedQwen2(SHAPES["heads"], seed=0).save_pretrained(tmp_path / "m", tokenizer=Note())
    assert (tmp_path / "m" / "note.txt").read_text() == "mine"
    assert not (tmp_path / "m" / "tokenizer.json").exists()


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def truncate(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


FULL = "full_attention"

Q, HEAD = "model.layers.1.self_attn.q_proj.weight", "lm_head.weight"
MISSING = {
    "no folder": (shutil.rmtree, "no such checkpoint folder"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "holds no model.safetensors"),
    "no config": (lambda f: (f / "config.json").unlink(), "no such file: .*config.json"),
}
CORRUPT = {
    "config cut short": (lambda f: truncate(f / "config.json", 0.5), "not valid JSON"),
    "weights cut short": (lambda f: truncate(f / "model.safetensors", 0.7), "truncated"),
    "header cut short": (lambda f: truncate(f / "model.safetensors", 0.001), "truncated"),
    "no safetensors": (lambda f: (f / "model.safetensors").write_text("hello"), "truncated or not"),
    "another architecture": (lambda f: edit_config(f, model_type="llama"), "'llama', not 'qwen2'"),
    "other attention": (lambda f: edit_config(f, layer_types=[FULL, "linear_attention"]), "layer_types is"),
    "other activation": (lambda f: edit_config(f, hidden_act="gelu"), "hidden_act is 'gelu'"),
    "other width": (lambda f: edit_config(f, intermediate_size=64), r"has shape \(48, 32\), the"),
    "more layers": (
        lambda f: edit_config(f, num_hidden_layers=3, layer_types=[FULL] * 3),
        "lack .* and 11 more",
    ),
    "fewer layers": (lambda f: edit_config(f, num_hidden_layers=1, layer_types=[FULL]), "no place for"),
    "impossible heads": (lambda f: edit_config(f, num_attention_heads=5), "d_model 32"),
    "no width": (lambda f: edit_config(f, hidden_size="wide"), "'d_model' cannot be 'wide'"),
    "tensor missing": (lambda f: edit_weights(f, lambda t: t.pop(HEAD)), "lack lm_head.weight"),
    "unknown tensor": (lambda f: edit_weights(f, lambda t: t.update(extra=t[HEAD] + 1)), "hold extra, w"),
    "other shape": (lambda f: edit_weights(f, lambda t: t.update({Q: t[Q][:, 1:] + 1})), r"\(32, 31\)"),
}
BROKEN = {
    name: (damage, kind, message)
    for table, kind in ((MISSING, MissingArtifact), (CORRUPT, CorruptArtifact))
    for name, (damage, message) in table.items()
}


@pytest.mark.parametrize(("damage", "kind", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_folder_is_named_in_one_line(damage, kind, message, tmp_path):
    folder = tmp_path / "model"
    HookedQwen2(SHAPES["heads"], seed=0).save_pretrained(folder)
    HookedQwen2.from_pretrained(folder)
    damage(folder)
    with pytest.raises(kind, match=message) as error:
        HookedQwen2.from_pretrained(folder)
    assert "\n" not in str(error.value)


def test_only_qwen2_models_are_converted():
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    other = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=98))
    with pytest.raises(ConfigError, match="'llama', not 'qwen2'"):
        HookedQwen2.from_hf(other)


def test_older_config_files_name_the_rope_base_differently():
    settings = {"model_type": "qwen2", "hidden_size": 32, "num_attention_heads": 4, "rope_theta": 5e5}
    assert model_config(settings).rope_theta == 5e5
    scaled = settings | {"rope_scaling": {"rope_type": "longrope", "factor": 4.0}}
    with pytest.raises(ConfigError, match="rope type is 'longrope'"):
        model_config(scaled)


def test_names_convert_without_loss():
    config = SHAPES["grouped"]
    state = HookedQwen2(config, seed=0).state_dict()
    back = from_hf_state(to_hf_state(state, config), config)
    assert set(back) == set(state)
    assert all(torch.equal(back[name], state[name]) for name in state)
