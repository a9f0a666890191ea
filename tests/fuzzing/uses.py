"""What a command does with each kind of file."""

from pathlib import Path

import torch

from cwr_mech.activations.reader import ActivationStore
from cwr_mech.analysis.answers.curves import training_result
from cwr_mech.config import WorldConfig
from cwr_mech.errors import CorruptArtifact
from cwr_mech.experiments.files import read_plan
from cwr_mech.experiments.zoo import models_and_faults
from cwr_mech.experiments.zoo_files import problems, recorded, recorded_answers
from cwr_mech.findings.models import described
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.results import load_result
from cwr_mech.training.runs import load_run
from cwr_mech.training.state import find_state
from cwr_mech.world.cities import load_world


def use_h5(folder: Path) -> None:
    """Open a file, read all it holds, print what is inside."""
    from cwr_mech_cli.cache_acts import describe

    store = ActivationStore(folder / "a.h5")
    for hook in store.hooks:
        for task in store.tasks:
            store.get(hook, task, "+".join(store.sites))
    describe(store)


def use_result(folder: Path) -> None:
    """Load a result."""
    load_result(folder / "r.json").sha256  # noqa: B018


def use_run(folder: Path) -> None:
    """Everything that a command asks of a run."""
    from cwr_mech_cli.runs import row

    row(folder / "tiny")
    run = load_run(folder / "tiny")
    run.metrics()
    run.world()
    find_state(run.folder)
    run.model()
    if (run.folder / "metrics.jsonl").exists():
        training_result(run, "cwr-mech plot")


def use_zoo(folder: Path) -> None:
    """List the models of a zoo and check their files."""
    models, faults = models_and_faults(folder)
    for model in models:
        described(model)
        if found := problems(model, ask=False):
            faults[model.folder] = found[0]
        recorded(model, "old")
        recorded_answers(model.folder)
    if faults:
        raise CorruptArtifact(next(iter(faults.values())))


def use_hf(folder: Path) -> None:
    """Load a checkpoint and run it."""
    HookedQwen2.from_pretrained(folder / "m")(torch.arange(4, 30)[None])


def use_csv(folder: Path) -> None:
    """Make a world of a user's cities."""
    load_world(WorldConfig(source=str(folder / "w.csv"))).sha256  # noqa: B018


def use_plan(folder: Path) -> None:
    """Read a user's plan."""
    read_plan(folder / "p.json")


USES = {
    "h5": use_h5,
    "result": use_result,
    "run": use_run,
    "zoo": use_zoo,
    "hf": use_hf,
    "csv": use_csv,
    "plan": use_plan,
}
