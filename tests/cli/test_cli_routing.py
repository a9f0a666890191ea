"""The routing commands on made-up runs: from updates to a checked report, and what they refuse."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from command_line import Cli
from cwr_mech_cli.finetune import routing

from cwr_mech.activations.extract import extract
from cwr_mech.activations.site import Site
from cwr_mech.analysis.routing.planted import moved_by
from cwr_mech.analysis.routing.trajectory import trajectory_result
from cwr_mech.config import RouteConfig, RunConfig, parse
from cwr_mech.experiments.finetuning import finetuning_config
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.results import load_result
from cwr_mech.training.begin import create_run, update_manifest
from cwr_mech.training.runs import Run, checkpoint_path, load_run

TASKS = ("distance", "angle")


def base(name: str = "base", data: Mapping[str, object] = MappingProxyType({}), **world: object) -> Run:
    """An untrained model of two tasks, as a finished run."""
    settings = {
        "name": name,
        "world": {"n_cities": 60, "new": "atlantis", "n_new": 6} | world,
        "model": {"n_layers": 2, "d_model": 16, "n_heads": 2, "d_mlp": 16, "init_std": 0.3},
        "data": {"tasks": TASKS} | dict(data),
        "train": {"steps": 9, "batch_size": 16},
    }
    config = parse(RunConfig, settings)
    run = create_run(Path("runs") / name, config, HookedQwen2(config.model, seed=1))
    return update_manifest(run, state="done")


def tuned(parent: Run, task: str, condition: str = "unprojected", new: str | None = None) -> Run:
    """A fine-tuning of it, on its new cities or on others, whose last weights are other ones."""
    config = finetuning_config(parent.config, (task,), new_cities=new)
    if condition != "unprojected":
        route = RouteConfig(condition=condition, layers=(0,))
        config = config.model_copy(update={"route": route, "name": config.name + route.suffix})
    run = create_run(Path("runs") / config.name, config, parent.model(), parent=parent)
    model = parent.model()
    with torch.no_grad():
        model.embed.W_E += 0.1 * torch.randn(
            model.embed.W_E.shape, generator=torch.manual_seed(len(condition))
        )
    model.save_pretrained(checkpoint_path(run.folder, 5))
    return update_manifest(run, state="done")


UPDATES = ("subspace", "base", "--rows", "128", "--rank", "3", "--layers", "0", "--sites", "last_digit")


def test_the_chain_ends_in_a_report_that_checks_itself(cli: Cli) -> None:
    parent = base()
    for task, condition in (
        ("distance", "unprojected"),
        ("angle", "unprojected"),
        ("distance", "on-manifold"),
    ):
        tuned(parent, task, condition)
    commands = (
        (*UPDATES, "--report", "r"),
        ("trajectory", "base", "--prompts", "distance,angle", "--report", "r"),
        ("predict", "base", "--layer", "0", "--rows", "600", "--report", "r"),
        ("report", "r"),
        ("report", "--check", "r"),
    )
    for command in commands:
        code, _, err = cli(*command)
        assert code == 0, err
    results = Path("reports/r/results")
    shares = load_result(results / "subspace-base.json").tables["shares"]
    assert {row["task"] for row in shares} == set(TASKS)
    assert {row["layer"] for row in shares} == {0}
    rows = load_result(results / "trajectory.json").tables["trajectory"]
    assert {(row["set"], row["route"]) for row in rows} == {
        ("distance", "unprojected"),
        ("angle", "unprojected"),
        ("distance", "on-manifold"),
    }
    start = [row["along_new"] for row in rows if row["step"] == 0 and row["prompt"] == "angle"]
    assert len(set(start)) == 1  # conditions start from one base
    text = Path("reports/r/report.md").read_text()
    assert text.index("## Summary") < text.index("## Contents") < text.index("### trajectory")


BAD = [
    # the run's world, command, what the one line says
    ({"new": "none"}, UPDATES, "no new cities"),
    ({"n_cities": 30}, UPDATES, "30 training cities are too few to split in two"),
    ({}, (*UPDATES[:4], "--rank", "17", *UPDATES[6:]), "rank 17 was asked for"),
    ({}, (*UPDATES[:6], "--layers", "9"), "unknown layer '9'"),
    ({}, (*UPDATES[:6], "--layers", "final"), "after the final norm"),
    ({}, (*UPDATES, "--tasks", "walking"), "unknown task 'walking'"),
    ({}, (*UPDATES, "--activations", "other.h5"), "made from another state of the model"),
    ({}, (*UPDATES, "--activations", "moved.h5"), "moved.h5 was made with another world"),
    ({}, (*UPDATES[:6], "--layers", "1", "--activations", "own.h5"), "blocks.1.hook_resid_post"),
    ({}, (*UPDATES, "--step", "7"), "no checkpoint at step 7"),
    ({}, ("trajectory", "base"), "no finished fine-tuning found"),
    ({}, ("predict", "base", "--layer", "1"), "no gradient reaches a city after block 1"),
    ({}, ("predict", "base", "--layer", "0", "--rows", "64"), "named first by all tasks"),
    ({}, ("report", "base", "--claims"), "there are no results in reports/base/results"),
    ({}, ("finetune", "base", "--route", "sideways"), "unknown route 'sideways'"),
    ({}, ("finetune", "base", "--route", "manifold", "--route-layers", "1"), "layer with a gradient '1'"),
    ({"new": "none"}, ("finetune", "base", "--route", "manifold"), "holds no new cities"),
]


@pytest.mark.parametrize(("settings", "command", "message"), BAD)
def test_bad_input_gives_one_line_and_exit_code_2(
    cli: Cli, settings: dict[str, object], command: tuple[str, ...], message: str
) -> None:
    run = base(**settings)
    if "--activations" in command:
        other = HookedQwen2(run.config.model, seed=2)
        about = {"model_sha256": run.sha256()}
        sites = ("last_digit",)
        extract(other, run.world(), "other.h5", hooks=[Site(0).hook], tasks=TASKS, sites=sites)
        moved = replace(run.world(), xy=run.world().xy + 3)
        for world, path in ((run.world(), "own.h5"), (moved, "moved.h5")):
            extract(run.model(), world, path, hooks=[Site(0).hook], tasks=TASKS, sites=sites, attrs=about)
    code, _, err = cli(*command)
    assert code == 2, err
    assert re.search(message, " ".join(err.split())), err
    assert "Traceback" not in err
    assert load_run(run.folder).state == "done"


@pytest.mark.parametrize("command", ["transfer", "trajectory", "anatomy", "routing-power --others angle"])
def test_fine_tunings_of_one_base_taught_other_new_cities_are_not_mixed(cli: Cli, command: str) -> None:
    """A base is asked about one set of new cities, to which one of the two would be compared wrongly."""
    parent = base()
    both = {tuned(parent, "distance").name, tuned(parent, "angle", new="scattered").name}
    code, _, err = cli(*command.split(), "base")
    assert code == 2, err
    told = re.fullmatch(r"error: (.+) and (.+) were taught different new cities: .*\nhint: analyse.*\n", err)
    assert told, err
    assert {*told.groups()} == both


def test_where_a_run_starts_is_read_once_for_all_its_spots(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    run, loaded = tuned(base(), "distance"), []
    plain = Run.model

    def model(self: Run, step: int | None = None) -> HookedQwen2:
        loaded.append((self.name, step))
        return plain(self, step)

    monkeypatch.setattr(Run, "model", model)
    result = trajectory_result([run], TASKS)
    assert len(result.tables["spots"]) > 1
    assert [step for name, step in loaded if name == run.name] == [0, 5]


def test_displacements_are_those_of_the_cities_that_were_taught(cli: Cli) -> None:
    parent = base()
    run = tuned(parent, "distance", new="scattered")
    for of in (run, tuned(parent, "angle")):
        moved, world = moved_by(parent, {"distance": of}, Site.parse("L0")), of.world()
        assert np.array_equal(moved.xy, world.xy[world.new()])
        assert np.array_equal(moved.xy, run.world().xy[world.new()]) == (of is run)


def test_an_unprojected_route_keeps_the_layers_that_were_named() -> None:
    """Where gradients are cut and not projected, the layers say where."""
    config = parse(RunConfig, {"model": {"n_layers": 3}})
    assert routing("unprojected", None, "new-cities", 4, config) == RouteConfig()
    cut = routing("unprojected", "1", "all", 4, config)
    assert (cut.layers, cut.cities) == ((1,), "all")
