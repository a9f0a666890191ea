"""`cwr-mech cache-acts` and `cwr-mech eval` on a run folder, by what they print and leave behind."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from command_line import caller, failed, said
from cwr_mech_cli import cache_acts
from cwr_mech_cli.analyses import command_of, commands

from cwr_mech.activations.reader import ActivationStore
from cwr_mech.analysis import sources
from cwr_mech.analysis.sources import open_sources
from cwr_mech.config import RunConfig, parse
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.results import load_result
from cwr_mech.training.begin import create_run
from cwr_mech.training.runs import Run, checkpoint_path, load_run

FILE = Path("activations/demo-step3.h5")

call = caller({"cache-acts": cache_acts.command, "eval": command_of(commands()["eval"])})


def save(run: Run, step: int, seed: int) -> None:
    HookedQwen2(run.config.model, seed=seed).save_pretrained(checkpoint_path(run.folder, step))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run with two checkpoints whose weights were only drawn; two of its fifteen cities are new."""
    monkeypatch.chdir(tmp_path)
    settings = {
        "name": "demo",
        "world": {"source": "uniform", "n_cities": 60, "new": "scattered", "n_new": 3},
        "model": {"n_layers": 2, "d_model": 16, "n_heads": 2, "d_mlp": 32},
        "data": {"tasks": ["distance", "compass"]},
    }
    config = parse(RunConfig, settings)
    save(create_run(Path("runs/demo"), config, HookedQwen2(config.model, seed=0)), 3, 1)
    return load_run("demo")


def test_cache_acts_needs_no_argument_and_does_nothing_twice(run: Run) -> None:
    assert "63 cities x 4 hooks x 7 prompts x 2 places" in said(call("cache-acts"))
    store = ActivationStore(FILE, world=run.world(), model_sha256=run.sha256())
    assert (store.attrs["run"], store.attrs["step"]) == ("demo", 3)
    before = FILE.stat().st_mtime_ns
    assert "is up to date" in said(call("cache-acts", "demo"))
    assert FILE.stat().st_mtime_ns == before
    said(call("cache-acts", "demo", "--force"))
    assert FILE.stat().st_mtime_ns > before


def test_runs_of_one_name_in_two_folders_have_files_of_their_own(run: Run) -> None:
    save(create_run(Path("others/demo"), run.config, HookedQwen2(run.config.model, seed=2)), 3, 4)
    for name in ("demo", "others/demo"):
        said(call("cache-acts", name, "--tasks", "angle"))
    other = load_run("others/demo")
    own, theirs = ActivationStore(FILE), ActivationStore("activations/others%2Fdemo-step3.h5")
    assert (own.attrs["model_sha256"], theirs.attrs["model_sha256"]) == (run.sha256(), other.sha256())
    assert "is up to date" in said(call("cache-acts", "demo", "--tasks", "angle"))
    # Both in one analysis: each is read from its own file, under a name that tells them apart.
    sources = open_sources(["demo", "others/demo"])
    assert [source.label for source in sources] == ["demo", "others/demo"]
    assert load_run(sources[1].run).sha256() == other.sha256()
    values = [source.store.get(0, "angle") for source in sources]
    assert not np.allclose(values[0], values[1])


def test_other_weights_make_it_anew_and_more_places_are_added(run: Run) -> None:
    said(call("cache-acts", "--tasks", "angle", "--layers", "0"))
    first = ActivationStore(FILE).get(0, "angle")
    said(call("cache-acts", "--tasks", "distance", "--layers", "final", "--sites", "equals"))
    both = ActivationStore(FILE)
    assert both.hooks == ("blocks.0.hook_resid_post", "unembed.hook_in")
    assert (both.tasks, both.sites) == (("angle", "distance"), ("last_digit", "delimiter", "equals"))
    np.testing.assert_allclose(both.get(0, "angle"), first, rtol=1e-4, atol=1e-5)
    save(run, 3, 2)
    said(call("cache-acts", "--tasks", "angle", "--layers", "0", "--sites", "delimiter"))
    anew = ActivationStore(FILE, model_sha256=run.sha256())
    assert (anew.tasks, anew.sites) == (("angle",), ("delimiter",))


def test_an_analysis_makes_files_of_other_weights_anew(run: Run) -> None:
    (first,) = open_sources("demo")
    drawn = first.untrained()
    assert drawn is not None
    save(run, 3, 2)  # trained anew, under the same name and to the same step
    (again,) = open_sources("demo")
    assert again.store.attrs["model_sha256"] == run.sha256() != first.store.attrs["model_sha256"]
    shutil.rmtree("runs/demo")
    town = parse(RunConfig, {**run.config.model_dump(), "world": {"source": "grid", "n_cities": 30}})
    save(create_run(Path("runs/demo"), town, HookedQwen2(town.model, seed=0)), 3, 2)
    (other,) = open_sources("demo")
    fresh = other.untrained()
    assert fresh is not None
    assert len(other.store) == len(fresh) == 30 != len(drawn), "the same weights, in another world"


def test_controls_are_the_first_checkpoint_and_a_fresh_model(run: Run) -> None:
    options = ("--tasks", "angle", "--hooks", "blocks.1.attn.hook_z")
    said(call("cache-acts", "--step", 0, *options))
    said(call("cache-acts", "--untrained", *options))
    first, fresh = (ActivationStore(f"activations/demo-{name}.h5") for name in ("step0", "untrained"))
    hook = "blocks.1.attn.hook_z"
    assert first.hooks == fresh.hooks == (hook,)
    assert np.abs(first.get(hook, "angle") - fresh.get(hook, "angle")).max() > 1e-3  # seed 0 and seed 42
    assert "is up to date" in said(call("cache-acts", "--untrained", *options))


def test_an_untrained_model_is_drawn_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Run] = []
    plain = sources.untrained_state
    monkeypatch.setattr(sources, "untrained_state", lambda run: drawn.append(run) or plain(run))
    (source,) = open_sources("demo")
    first = source.untrained()
    assert first is not None
    again = source.untrained()
    assert again is not None
    assert len(drawn) == 1
    assert again.attrs == first.attrs
    with h5py.File(first.path, "a") as file:
        file.attrs["drawn"] = "other settings"
    source.untrained()
    assert len(drawn) == 2, "control: a file of other settings is not believed"
    said(call("cache-acts", "--untrained", "--force"))
    made = len(drawn)
    source.untrained()
    assert len(drawn) == made, "the command's own file is believed, too"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused(run: Run) -> None:
    assert "device 'cuda'" in failed(call("cache-acts", "--device", "cuda"))
    assert not FILE.exists()
    said(call("cache-acts", "--device", "cpu"))


def test_show_prints_what_is_inside(run: Run) -> None:
    said(call("cache-acts", "--layers", "embed,1"))
    shown = said(call("cache-acts", "--show", FILE))
    for words in (
        "made from run demo, step 3",
        run.sha256()[:16],
        "63 cities, 3 of them new",
        "2 hooks",
        "blocks.1.hook_resid_post 16 numbers a city",
        f"inside inside(c_{run.world().ids[0]};",
        "delimiter",
    ):
        assert words in shown


def test_mistakes_are_one_line_and_change_nothing(run: Run) -> None:
    for arguments, words in (
        (("cache-acts", "nope"), "no such run: 'nope'"),
        (("cache-acts", "--step", 4), "run demo has no checkpoint at step 4 hint: steps: 0, 3"),
        (("cache-acts", "--layers", "2"), "unknown hook 'blocks.2.hook_resid_post'"),
        (("cache-acts", "--tasks", "dist"), "unknown task 'dist'"),
        (("cache-acts", "--device", "mps"), "device 'mps' is refused"),
        (("cache-acts", "--batch-tokens", 64), "--batch-tokens is about texts"),
        (("cache-acts", "--n-cities", 9), "--n-cities is about --template without --prompts"),
        (("cache-acts", "--sites", "city1_lst"), "'city1_lst' hint: did you mean 'city1_last'?"),
        (
            ("cache-acts", "--show", FILE),
            f"no such activation file: {FILE} hint: make it with: cwr-mech cache-acts",
        ),
        (("eval", "--tasks", "area"), "unknown task 'area'"),
        (("eval", "--protocol", "lax"), "unknown protocol 'lax'"),
        (("eval", "--cities", "fresh"), "unknown group 'fresh'"),
    ):
        assert words in failed(call(*arguments))
    assert not FILE.exists()
    assert not Path("reports").exists()


def test_a_file_of_somebody_else_is_not_overwritten(run: Run) -> None:
    with h5py.File("mine.h5", "w") as file:
        file["data"] = 1
    before = Path("mine.h5").read_bytes()
    assert "not overwritten: mine.h5 is an HDF5 file of another program" in failed(
        call("cache-acts", "--out", "mine.h5")
    )
    assert Path("mine.h5").read_bytes() == before
    said(call("cache-acts", "--out", "mine.h5", "--force", "--tasks", "angle"))
    assert ActivationStore("mine.h5").tasks == ("angle",)
    held = Path("mine.h5").read_bytes()
    refused = failed(call("cache-acts", "--untrained", "--out", "mine.h5"))
    assert "not overwritten: mine.h5 was made from another state of the model" in refused
    assert Path("mine.h5").read_bytes() == held
    FILE.parent.mkdir()
    FILE.write_bytes(b"cut short")  # the default place is ours: a broken file there is mended
    said(call("cache-acts", "--tasks", "angle"))
    assert ActivationStore(FILE).tasks == ("angle",)


def test_scores_of_a_world_of_another_unit_are_in_that_unit(run: Run) -> None:
    assert " tenths of a degree" in said(call("eval", "-n", 5))  # control
    config = run.config.model_copy(
        update={"name": "town", "world": run.config.world.model_copy(update={"unit": 0.01})}
    )
    save(create_run(Path("runs/town"), config, HookedQwen2(config.model, seed=0)), 3, 1)
    shown = said(call("eval", "town", "-n", 5))
    assert "hundredths of a degree" in shown
    assert " tenths of a degree" not in shown
    assert load_result(Path("reports/town/results/eval.json")).params["unit"] == 0.01


def test_eval_scores_a_run_on_its_own_tasks(run: Run) -> None:
    shown = said(call("eval", "-n", 12))
    assert "answers to fresh questions" in shown
    result = load_result(Path("reports/demo/results/eval.json"))
    records = result.tables["tasks"]
    assert [(record["task"], record["group"]) for record in records] == [
        (task, group) for group in ("old", "new", "all") for task in ("distance", "compass")
    ]
    assert {record["n"] for record in records} == {12}
    assert result.inputs == {"runs/demo": run.sha256()}
    assert {"run", "metric", "unit", "value_mean", "value_median", "value_mean_parsed", "baseline"} <= set(
        records[0]
    )
    said(call("eval", "-n", 5, "--tasks", "all", "--cities", "old", "--step", 0))
    again = load_result(Path("reports/demo/results/eval.json"))
    assert len(again.tables["tasks"]) == 7
    assert again.inputs == {"runs/demo": run.sha256(0)} != result.inputs
