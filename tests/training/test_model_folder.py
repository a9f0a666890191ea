"""A checkpoint folder in the place of a run: asked about cities only where its tokenizer is ours."""

from pathlib import Path

import pytest
import torch
from qwen_cases import bpe, qwen2, saved

from cwr_mech.config import ModelConfig, RunConfig, WorldConfig
from cwr_mech.errors import AnalysisError, ConfigError, CwrError, MissingArtifact, SchemaMismatch
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.training.begin import create_run
from cwr_mech.training.model_folder import ModelFolder, _world_of_run
from cwr_mech.training.runs import checkpoint_path, load_run

SMALL = ModelConfig(n_layers=1, d_model=8, n_heads=2, d_mlp=8)


def test_a_folder_with_our_tokenizer_is_asked_about_cities(tmp_path: Path) -> None:
    model = HookedQwen2(SMALL, seed=1)
    model.save_pretrained(tmp_path / "my model")
    run = load_run(tmp_path / "my model")
    assert isinstance(run, ModelFolder)
    assert (run.name, run.steps, run.state, run.parent, run.metrics()) == ("my-model", (0,), "done", None, [])
    assert run.world().n == WorldConfig().n_cities
    for name, value in run.model().state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
    assert run.model()("dist(c_1234,").shape == (1, 13, 98)
    wider = SMALL.model_copy(update={"d_vocab": 104})
    HookedQwen2(wider, seed=1).save_pretrained(tmp_path / "wider")
    more = load_run(tmp_path / "wider").model()
    assert torch.equal(more.to_tokens("dist(c_1"), model.to_tokens("dist(c_1")), "tokens added to ours"
    with pytest.raises(MissingArtifact, match="without step 7"):
        run.model(7)
    with pytest.raises(ConfigError, match="not fine-tuned"):
        run.base()


def test_a_checkpoint_of_a_run_has_the_world_of_its_run(tmp_path: Path) -> None:
    config = RunConfig(name="r", world=WorldConfig(n_cities=20), model=SMALL)
    run = create_run(tmp_path / "r", config, HookedQwen2(SMALL, seed=0))
    folder = load_run(checkpoint_path(run.folder, 0))
    assert folder.name == "r-step-0000000"
    assert folder.world().sha256 == run.world().sha256
    assert folder.sha256() == run.sha256(0)
    (run.folder / "manifest.json").write_text("{}")
    with pytest.raises(SchemaMismatch):
        load_run(checkpoint_path(run.folder, 0))
    assert _world_of_run(Path("/model")) == WorldConfig()  # mounted at the root, it has no run above it


def test_a_folder_with_another_tokenizer_is_never_fed_with_our_characters(tmp_path: Path) -> None:
    tokenizer = bpe()
    theirs = qwen2(tokenizer)
    one = load_run(saved(tmp_path / "one", theirs, tokenizer))
    several = load_run(saved(tmp_path / "several", theirs, tokenizer, max_shard_size="20KB"))
    for run in (one, several):
        with pytest.raises(AnalysisError, match=r"tokenizer of its own.*cache-acts .* --prompts"):
            run.world()
    assert one.sha256() != several.sha256()
    assert several.sha256() == load_run(tmp_path / "several").sha256()
    text = "The town of Oslo"
    assert several.model().to_tokens(text).tolist() == [tokenizer(text)["input_ids"]]
    (tmp_path / "one" / "tokenizer.json").unlink()
    bare = load_run(tmp_path / "one").model()
    with pytest.raises(MissingArtifact, match="holds no tokenizer"):
        bare.to_tokens(text)
    with pytest.raises(ConfigError, match="no tokenizer, so it reads no text"):
        HookedQwen2.from_hf(theirs)(text)


def test_what_is_no_qwen2_is_named(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", qwen2(bpe()), bpe())
    (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CwrError, match="bert"):
        load_run(folder).model()
    (folder / "model.safetensors").unlink()
    with pytest.raises(MissingArtifact, match="no such run"):
        load_run(folder)


def test_a_model_too_small_for_questions_is_not_trained(tmp_path: Path) -> None:
    tiny = SMALL.model_copy(update={"d_vocab": 97})
    with pytest.raises(ConfigError, match="d_vocab 97 and n_ctx 256 are too few"):
        create_run(tmp_path / "r", RunConfig(model=tiny), HookedQwen2(tiny, seed=0))
    assert not (tmp_path / "r").exists()
