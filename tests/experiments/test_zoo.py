"""The zoo: what is added answers as before, reads as a run everywhere, and changes are noticed."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import caller, said
from cwr_mech_cli import cache_acts, finetune
from cwr_mech_cli import zoo as zoo_command
from cwr_mech_cli.analyses import command_of, commands
from paths import ROOT
from safetensors.torch import load_file

from cwr_mech.analysis.transfer.runs import fine_tunings
from cwr_mech.config import RunConfig, parse
from cwr_mech.errors import ArtifactExists, ConfigError, CorruptArtifact
from cwr_mech.experiments import zoo_files as zoo
from cwr_mech.experiments.finetuning import NEW_ROWS, finetuning_config
from cwr_mech.experiments.planned import in_pretraining
from cwr_mech.experiments.presets import for_tasks, preset
from cwr_mech.experiments.zoo import family, folder_bytes, zoo_models
from cwr_mech.experiments.zoo_files import (
    ANSWERS,
    MOST_BYTES,
    add,
    answers,
    base_in_zoo,
    curve,
    differing,
    half,
    problems,
    recorded,
    recorded_answers,
)
from cwr_mech.findings.models import described, readme, write_readme
from cwr_mech.model import evaluation
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.training.begin import create_run, update_manifest
from cwr_mech.training.runs import Run, load_run

N = 20
SHIPPED = ROOT / "zoo"

call = caller(
    {
        "zoo": zoo_command.command,
        "cache-acts": cache_acts.command,
        "eval": command_of(commands()["eval"]),
        "finetune": finetune.command,
    },
    columns=160,
)


def made(name: str, *, shrink: float = 1.0, tasks: tuple[str, ...] = ("distance", "compass")) -> Run:
    """A finished run whose weights are float16 numbers, except that the last layer is shrunk."""
    settings = {
        "name": name,
        "world": {"source": "uniform", "n_cities": 60, "new": "scattered", "n_new": 3},
        "model": {"n_layers": 1, "d_model": 16, "n_heads": 2, "d_mlp": 16},
        "data": {"tasks": tasks},
        "train": {"steps": 2, "batch_size": 4, "checkpoints": 0},
    }
    config = parse(RunConfig, settings)
    model = half(HookedQwen2(config.model, seed=0))
    with torch.no_grad():
        model.unembed.W_U *= shrink
    run = create_run(Path("runs") / name, config, model)
    lines = [{"step": step, "loss": 1.0 / (step + 1)} for step in range(200)] + [{"step": 200, "scores": {}}]
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return update_manifest(run, state="done")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cwr_mech.training.folders.PACKAGE", tmp_path / "elsewhere")


def test_float16_only_where_no_answer_changes() -> None:
    for name, shrink, dtype in (("plain", 1.0, torch.float16), ("fine", 1e-9, torch.float32)):
        run = made(name, shrink=shrink)
        model = add(run, n=N)
        tensors = load_file(model.checkpoint() / "model.safetensors")
        assert {tensor.dtype for tensor in tensors.values()} == {dtype}
        about = model.manifest["zoo"]
        # Shrunk a thousand million times the last layer is 0 in float16, and the first answers are others.
        assert (about["changed"] == 0) == (dtype == torch.float16)
        assert about["asked"] == 2 * 2 * N
        assert differing(answers(run.model(), run, n=N)[0], answers(model.model(), model, n=N)[0]) == 0
        assert "answers changed" not in described(model)["dtype"]


def test_float16_on_demand_says_how_many_answers_change() -> None:
    run = made("fine", shrink=1e-9)
    model = add(run, n=N, halve=True)
    about, (exact, _), (kept, scores) = (
        model.manifest["zoo"],
        answers(run.model(), run, n=N),
        answers(model.model(), model, n=N),
    )
    assert about["dtype"] == "float16"
    assert about["changed"] == differing(exact, kept) > 0
    assert about["scores"] == [vars(score) for score in scores]  # of the weights that are kept
    assert problems(model) == []
    assert described(model)["dtype"] == f"float16, {about['changed']} of {4 * N} answers changed"


def test_a_model_of_the_zoo_is_a_run() -> None:
    run = made("plain")
    added = add(run, n=N)
    model = load_run("zoo:plain")
    assert model.folder == added.folder == Path("zoo/plain")
    assert (model.name, model.state, model.steps) == ("zoo:plain", "done", run.steps)
    assert (model.config, model.world().sha256) == (run.config, run.world().sha256)
    assert model.manifest["zoo"]["source"] == {"run": "plain", "step": 0, "sha256": run.sha256()}
    assert 24 < len(model.metrics()) < 32
    assert model.metrics()[-1] == {"step": 200, "scores": {}}
    assert run.name == "plain"  # control: outside the zoo nothing changes


def test_only_finished_runs_once_each() -> None:
    run = made("plain")
    add(run, n=N)
    with pytest.raises(ArtifactExists, match="--force"):
        add(run, n=N)
    before = load_run("zoo:plain").sha256()
    assert add(run, n=N, replace=True).sha256() == before
    renamed = add(run, name="other", n=N)
    assert (renamed.name, renamed.config.name) == ("zoo:other", "other")
    with pytest.raises(ConfigError, match="interrupted"):
        add(update_manifest(run, state="interrupted"), n=N)
    with pytest.raises(ConfigError, match="from the zoo"):
        add(load_run("zoo:plain"), n=N)


def test_changes_are_noticed() -> None:
    model = add(made("plain"), n=N)
    assert problems(model) == []
    stored = model.folder / ANSWERS
    recorded = recorded_answers(model.folder) | {"distance/old": ["x"] * N}
    stored.write_bytes(gzip.compress(json.dumps(recorded).encode()))
    assert problems(model) == [f"{stored} is not the file that was added"]
    from cwr_mech.artifacts import sha256_file

    about = model.manifest["zoo"]
    files = about["files"] | {ANSWERS: sha256_file(stored)}
    changed = update_manifest(model, zoo=about | {"files": files})
    assert problems(changed, ask=False) == []
    assert problems(changed) == [f"zoo:plain answers {N} of {4 * N} questions otherwise than recorded"]
    stored.write_bytes(stored.read_bytes()[:-20])
    files = files | {ANSWERS: sha256_file(stored)}
    changed = update_manifest(model, zoo=about | {"files": files})
    assert problems(changed) == [f"{stored} holds no answers: it is missing, cut short or another file"]
    (model.checkpoint() / "model.safetensors").unlink()
    assert "model.safetensors is missing" in " ".join(problems(changed))


def test_damaged_weights_of_a_zoo_model_are_to_be_brought_back() -> None:
    run = made("plain")
    model = add(run, n=N)
    for place, hint in ((model, "git checkout zoo"), (run, "cwr-mech train --config")):
        weights = place.checkpoint() / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-8])
        with pytest.raises(CorruptArtifact, match="not those that were written") as caught:
            load_run(place.folder).model()
        assert hint in str(caught.value.hint)


def test_a_fine_tuned_model_names_its_base_in_the_zoo() -> None:
    run = made("plain")
    parent = {"run": "plain", "folder": "runs/plain", "step": 0, "sha256": run.sha256()}
    assert base_in_zoo(parent, Path("zoo")) == parent
    base = add(run, n=N)
    place = {"run": "zoo:plain", "folder": "zoo/plain", "step": 0, "sha256": base.sha256()}
    assert base_in_zoo(parent, Path("zoo")) == place
    assert base_in_zoo({}, Path("zoo")) == {}
    tuned = update_manifest(made("plain-ft-angle", tasks=("angle",)), parent=parent)
    model = add(tuned, n=N)
    assert model.parent == "zoo:plain"
    # All tasks are asked of it, not only the one it was trained on.
    assert len({score["task"] for score in model.manifest["zoo"]["scores"]}) == 7
    assert [found.name for found in zoo_models()] == ["zoo:plain", "zoo:plain-ft-angle"]
    text = write_readme("zoo").read_text()
    assert "| zoo:plain-ft-angle | angle | zoo:plain |" in text


def test_recorded_scores_are_those_of_the_model() -> None:
    model = add(made("plain"), n=N)
    tasks = ("distance", "compass")

    def asked(seed: int) -> evaluation.Evaluation:
        return evaluation.evaluate(model.model(), model.world(), tasks, N, group="new", seed=seed)

    assert recorded(model, "new") == asked(zoo.SEED)
    assert recorded(model, "new") != asked(zoo.SEED + 1)  # control: other questions
    row = described(model)
    assert row["least_learned"] <= row["learned"]
    assert row["least"] in ("distance", "compass")


def test_the_zoo_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    size = folder_bytes(add(made("plain"), n=N).folder)
    monkeypatch.setattr(zoo, "MOST_BYTES", int(1.5 * size))
    with pytest.raises(ConfigError, match=r"with other the zoo has .* MB, more than"):
        add(load_run("runs/plain"), name="other", n=N)
    assert not Path("zoo/other").exists()
    add(load_run("runs/plain"), n=N, replace=True)  # the model that is replaced does not count


BASE = preset("tiny")
# Settings, whether they start from a trained model, what the list calls them.
FAMILIES = (
    (BASE, False, "all seven tasks"),
    (for_tasks(BASE, ("angle",)), False, "1 task"),
    (in_pretraining(BASE, [42])[0].config, False, "all seven tasks, new cities in pretraining"),
    (finetuning_config(BASE, ("angle",)), True, "fine-tuned on 1 task"),
    (finetuning_config(BASE, ("angle", "compass")), True, "fine-tuned on 2 tasks"),
    (finetuning_config(BASE, ("angle",), elicitation="new"), True, "fine-tuned on 1 task, elicitation new"),
    (finetuning_config(BASE, ("angle",), replay="all"), True, "fine-tuned on 1 task, replay all"),
    (
        finetuning_config(BASE, ("angle",), replay="all", replay_rows=NEW_ROWS),
        True,
        "fine-tuned on 1 task, replay all (half of the rows)",
    ),
    (
        finetuning_config(BASE, ("angle",)).with_settings(["route.condition=on-manifold"]),
        True,
        "fine-tuned on 1 task, on-manifold",
    ),
    (BASE.with_settings(["data.label_noise=0.05"]), False, "all seven tasks, 5 % of answers wrong"),
    (
        finetuning_config(BASE.with_settings(["data.label_noise=0.05"]), ("angle",)),
        True,
        "fine-tuned on 1 task, 5 % of answers wrong",
    ),
)


@pytest.mark.parametrize(("config", "tuned", "expected"), FAMILIES)
def test_families(config: RunConfig, tuned: bool, expected: str) -> None:
    assert family(config, tuned) == expected


def test_a_curve_keeps_scores_and_ends() -> None:
    lines = [{"step": step} for step in range(1000)] + [{"step": 7, "scores": {}}, {"step": 1000}]
    kept = curve(lines, 50)
    assert lines[0] in kept
    assert kept[-1] == {"step": 1000}
    assert {"step": 7, "scores": {}} in kept
    assert len(kept) < 60
    assert curve(lines[:3], 50) == lines[:3]


def test_commands_take_models_of_the_zoo() -> None:
    assert "no models of the zoo are found here" in said(call("zoo"))
    run = made("plain")
    assert "added zoo/plain float16" in said(call("zoo", "add", "plain"))
    assert "1 models" in said(call("zoo", "list"))
    assert "zoo:plain: as added" in said(call("zoo", "check"))
    assert "zoo:plain: as added" in said(call("zoo", "check", "plain"))
    assert "activations/zoo-plain-step0.h5" in said(call("cache-acts", "zoo:plain"))
    assert "activations/plain-step0.h5" in said(call("cache-acts", "plain"))
    assert "is up to date" in said(call("cache-acts", "zoo:plain"))
    said(call("eval", "zoo:plain", "-n", 10))
    assert Path("reports/zoo-plain/results/eval.json").is_file()
    said(call("finetune", "zoo:plain", "--tasks", "distance", "--steps", 1))
    tuned = load_run("plain-ft-distance")
    assert tuned.parent == "zoo:plain"
    assert tuned.manifest["parent"]["sha256"] == load_run("zoo:plain").sha256()
    assert run.state == "done"
    shutil.copytree("zoo/plain", "runs/copy")  # a base is known by its weights, wherever it lies
    shutil.rmtree("runs/plain")
    assert fine_tunings(["copy"]) == fine_tunings(["zoo:plain"]) == [tuned]


BROKEN = (
    (lambda zoo: zoo.pop("scores"), "zoo.scores"),
    (lambda zoo: zoo["scores"][0].update(metric="luck"), "zoo.scores.0.metric"),
    (lambda zoo: zoo.update(scores=[]), "no score of a trained task"),
    (lambda zoo: zoo.update(files=["x"]), "zoo.files"),
    (lambda zoo: zoo.update(questions=3), "zoo.questions"),
)


@pytest.mark.parametrize(("change", "said_of_it"), BROKEN)
def test_a_damaged_model_is_named_and_hides_no_other(
    change: Callable[[Any], object], said_of_it: str
) -> None:
    add(made("whole"), n=N)
    model = add(made("plain"), n=N)
    write_readme("zoo")
    assert said(call("zoo", "check", "--quick"))  # control
    about = json.loads(json.dumps(model.manifest["zoo"]))
    change(about)
    update_manifest(model, zoo=about)
    shown = said(call("zoo", "list"))
    assert ("zoo:whole" in shown, said_of_it in shown) == (True, True)
    outcome = call("zoo", "check", "--quick")
    assert (outcome.exit_code, "1 of 2 models" in outcome.stderr) == (2, True)
    assert "zoo:whole: as added" in outcome.stdout
    assert said_of_it in problems(load_run("zoo:plain"))[0]
    (model.folder / "manifest.json").unlink()
    assert "zoo/plain: there are checkpoints and no manifest.json" in said(call("zoo", "list"))
    assert call("zoo", "check", "--quick").exit_code == 2
    assert "zoo:plain" in Path("zoo/README.md").read_text()  # what can be restored stays in the list


def test_scores_that_lack_a_number_are_named() -> None:
    model = add(made("plain"), n=N)
    assert [score.task for score in recorded(model, "old").scores] == ["distance", "compass"]  # control
    about = json.loads(json.dumps(model.manifest["zoo"]))
    del about["scores"][0]["parse_rate"]
    with pytest.raises(CorruptArtifact, match="'parse_rate'"):
        recorded(update_manifest(model, zoo=about), "old")


def test_packed_answers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = add(made("plain"), n=N)
    stored = model.folder / ANSWERS
    assert recorded_answers(model.folder)  # control
    with monkeypatch.context() as patched:
        patched.setattr("cwr_mech.experiments.zoo_files.MOST_ANSWER_BYTES", 100)
        with pytest.raises(CorruptArtifact, match="holds no answers"):
            recorded_answers(model.folder)
    for texts in ([], {"distance/old": 3}, {"distance/old": [1]}):
        stored.write_bytes(gzip.compress(json.dumps(texts).encode()))
        with pytest.raises(CorruptArtifact, match="holds no answers"):
            recorded_answers(model.folder)
    with pytest.raises(CorruptArtifact, match="other questions"):
        differing({"distance/old": ["1"]}, {"distance/old": ["1", "2"]})


def test_a_list_left_behind_by_a_stopped_adding_is_written_anew() -> None:
    add(made("plain"), n=N)
    path = write_readme("zoo")
    whole = path.read_text()
    add(made("later"), n=N)  # as if killed before the list was written
    assert "zoo:later" not in path.read_text()
    assert "list zoo/README.md, which was an old one" in said(call("zoo", "list"))
    assert "zoo:later" in path.read_text()
    said(call("zoo", "add", "later", "--force"))
    shutil.rmtree("zoo/later")
    assert "list zoo/README.md, which was an old one" in said(call("zoo", "check", "--quick"))
    assert path.read_text() == whole
    before = path.stat().st_mtime_ns
    assert "old one" not in said(call("zoo", "list")) + said(call("zoo", "check", "plain", "--quick"))
    assert path.stat().st_mtime_ns == before  # control: a list that is right is let alone


def test_a_home_that_is_a_link_to_itself_hides_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(made("plain"), n=N)
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.setenv("CWR_MECH_HOME", str(tmp_path / "loop"))
    assert "zoo:plain" in said(call("zoo", "list"))


def test_mistakes_are_one_line() -> None:
    for arguments, text in (
        (("zoo", "feed"), "feed"),
        (("zoo", "add"), "no run was named"),
        (("zoo", "add", "nothing"), "no such run"),
        (("zoo", "check", "zoo:lion"), "no such run: 'zoo:lion'"),
    ):
        outcome = call(*arguments)
        assert outcome.exit_code == 2, outcome.output
        assert text in " ".join(outcome.stderr.split())


def test_the_zoo_in_the_repository() -> None:
    models = zoo_models(SHIPPED)
    assert models
    assert sum(folder_bytes(model.folder) for model in models) <= MOST_BYTES
    assert (SHIPPED / "README.md").read_text() == readme(models), "cwr-mech zoo list writes it anew"
    for model in models:
        assert problems(model, ask=False) == []
        assert set(answered(model)) == {score["task"] for score in model.manifest["zoo"]["scores"]}
        if model.parent is not None:  # its base is here too, in the very state it started from
            base = load_run(SHIPPED / model.parent.removeprefix("zoo:"))
            assert base.sha256() == model.manifest["parent"]["sha256"]


TEXTS = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
"""Files of a checkpoint that are the same for every model."""


def contents(folder: Path) -> dict[str, object]:
    """TEXTS and the type in which transformers computes, without the version that wrote them."""
    texts = {name: json.loads((folder / name).read_text()) for name in (*TEXTS, "config.json")}
    dtype = texts.pop("config.json")["dtype"]
    return {name: text | {"transformers_version": None} for name, text in texts.items()} | {"dtype": dtype}


def test_the_zoo_s_checkpoints_are_as_they_are_written_today(tmp_path: Path) -> None:
    """So that what plain transformers does with a checkpoint written today, it does with the zoo's."""
    config = preset("tiny").model
    HookedQwen2(config, seed=0).save_pretrained(tmp_path / "today")
    today = contents(tmp_path / "today")
    for model in zoo_models(SHIPPED):
        for step in model.steps:
            assert contents(model.checkpoint(step)) == today, model.name


def answered(model: Run) -> list[str]:
    """Tasks of which a model of the zoo has recorded answers."""
    return [key.split("/")[0] for key in recorded_answers(model.folder)]
