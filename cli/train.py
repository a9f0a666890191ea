"""`cwr-mech train`: train one model, or go on with one."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table as Grid
from rich.text import Text

from cwr_mech.analysis.registry import Opt
from cwr_mech.errors import ConfigError
from cwr_mech.render.numbers import number
from cwr_mech.training.folders import RUNS, latest_run

from .common import console, duration, say, show_table
from .data import say_if_crowded
from .options import (
    COMPUTE,
    WORLD,
    DryRun,
    LabelNoise,
    LabelNoiseKind,
    Log,
    Resume,
    RunFolder,
    Settings,
    Threads,
    taking,
)
from .tables import Table

if TYPE_CHECKING:
    from cwr_mech.config import RunConfig
    from cwr_mech.training.compute import Compute
    from cwr_mech.training.distributed import Processes
    from cwr_mech.training.runs import Run
    from cwr_mech.world.cities import World as Cities

PLAIN_SECONDS = 15.0
"""Where the output is not a terminal: at most one line of progress in this time."""


@taking(world=WORLD, compute=COMPUTE)
def command(
    *,
    preset: Annotated[
        str | None, Opt("Settings to start from: tiny, quick (the default), small, ripe, paper, large.")
    ] = None,
    tasks: Annotated[
        str | None, Opt("Tasks by name, separated by commas, or 'all'. The preset's by default.")
    ] = None,
    protocol: Annotated[
        str | None, Opt("strict (the default), or paper: the reference's data, quirks included.")
    ] = None,
    seed: Annotated[int | None, Opt("Seed of the model's first weights.", min=0)] = None,
    settings: Settings = None,
    config_file: Annotated[
        Path | None,
        Opt(
            "Settings from a TOML or JSON file: any part of what a run's manifest.json holds. The other "
            "options come on top.",
            flags=("--config",),
        ),
    ] = None,
    label_noise: LabelNoise = None,
    label_noise_kind: LabelNoiseKind = "uniform",
    out: RunFolder = None,
    resume: Resume = False,
    show_settings: Annotated[bool, Opt("Print every setting with its meaning and stop.")] = False,
    dry_run: DryRun = False,
    log: Log = None,
    threads: Threads = 1,
    world: Mapping[str, Any],
    compute: Mapping[str, str],
) -> None:
    """Train a model and keep it, with its checkpoints and metrics, in a run folder.

    Without options: the quick preset, all seven tasks. Ctrl-C saves the state; --resume goes on from there
    and ends with the same weights as if nothing had happened. Several processes train one model when started
    by accelerate launch.
    """
    from cwr_mech.experiments.presets import preset as find_preset
    from cwr_mech.experiments.presets import with_label_noise
    from cwr_mech.training.begin import require_free
    from cwr_mech.training.runs import load_run
    from cwr_mech.world.cities import load_world

    if resume:
        given = (preset, tasks, protocol, seed, label_noise, *world.values(), *(settings or []))
        if config_file is not None or any(one is not None for one in given):
            raise ConfigError("--resume goes on with the settings of the run", "give --out at most")
        folder = out or latest_run()
        config = load_run(folder).config
    else:
        words = [f"world.{key}={value}" for key, value in world.items() if value is not None]
        words += settings or []
        start = find_preset(preset or "quick")
        if config_file is not None:
            from cwr_mech.experiments.files import with_file

            start = with_file(start, config_file)
        config = configure(start, tasks, protocol, seed, words)
        if label_noise is not None:
            config = with_label_noise(config, label_noise, label_noise_kind)
        folder = out or RUNS / config.name
        config = config.called(folder.name or str(folder))
    if show_settings:
        print_settings(config)
        return
    cities = load_world(config.world)
    if not resume:
        require_free(folder)
    if dry_run:
        say(f"would train {folder}: {describe(config, cities)}")
        return
    carry_out(config, folder, log, threads, placed(**compute), resume=resume)


def carry_out(
    config: "RunConfig",
    folder: Path,
    log: str | None,
    threads: int,
    place: "tuple[Compute, Processes]",
    **more: Any,
) -> None:
    """Train on the device and processes of `place`, show how it goes, and say where the run is."""
    import torch

    from cwr_mech.training.loop import train
    from cwr_mech.training.trackers import tracked

    torch.set_num_threads(threads)
    compute, processes = place
    with display(config) as shown, tracked(log, config, folder, shown) as listener:
        run = train(
            config, folder, begun=announce, listener=listener, compute=compute, processes=processes, **more
        )
    say(f"run     {run.folder}")


def print_settings(config: "RunConfig") -> None:
    """Print every setting, section by section: its value (marked where it is not the default) and meaning."""
    from cwr_mech.config import setting_rows

    sections: dict[str, list[list[object]]] = {}
    for row in setting_rows(config):
        section = row["setting"].rpartition(".")[0] or "run"
        changed = "" if row["value"] == row["default"] else row["default"]
        cells = [row["setting"], row["value"].replace(",", ", "), changed, row["meaning"]]
        sections.setdefault(section, []).append(cells)
    for section, rows in sections.items():
        show_table(section, ["setting", "value", "default", "meaning"], rows)
    say("change one with --set NAME=VALUE; the last word of a name will do where it is the only one")


def placed(device: str, precision: str, compile: str) -> "tuple[Compute, Processes]":
    """What the options say, and this process among those that the launcher started; the main one speaks."""
    from cwr_mech.training.compute import choose
    from cwr_mech.training.distributed import launched

    compute = choose(device, precision, compile)
    processes = launched(os.environ, compute.device)
    console.quiet = not processes.is_main
    if compute.slower:
        say("this processor has no instructions for bfloat16: --precision float32 is faster here")
    return replace(compute, device=processes.device), processes


def configure(
    config: "RunConfig", tasks: str | None, protocol: str | None, seed: int | None, settings: list[str]
) -> "RunConfig":
    """The preset with the options of the command line applied; the name says what differs."""
    from cwr_mech.experiments.presets import for_tasks, under_protocol
    from cwr_mech.tasks.registry import TASKS

    if protocol is not None:
        config = under_protocol(config, protocol)
    config = config.with_settings(settings)
    if tasks is not None:
        names = tuple(TASKS) if tasks == "all" else tuple(name.strip() for name in tasks.split(","))
        config = for_tasks(config, names)
    if seed is not None:
        config = config.with_settings([f"train.seed={seed}", f"name={config.name}-seed{seed}"])
    return config


def describe(config: "RunConfig", world: "Cities") -> str:
    """One line on what is trained: tasks and which come first, cities and which are new, model, steps."""
    data, model, train = config.data, config.model, config.train
    tasks = ", ".join(data.tasks)
    if data.first_tasks:
        tasks += f" ({', '.join(data.first_tasks)} alone for the first {data.first_steps:,} steps)"
    new = f" and {len(world.new()):,} new ones ({config.world.new})" if len(world.new()) else ""
    where = "" if config.world.source == "cities" else f" of {config.world.source}"
    return (
        f"{tasks}; {len(world.old()):,} cities{where}{new}; {model.n_layers} layers of width "
        f"{model.d_model}; {train.steps:,} steps of {train.batch_size} rows"
    )


def announce(run: "Run") -> None:
    """Say what is being trained, and from where a training goes on."""
    from cwr_mech.training.state import find_state

    say(f"training {run.name}: {describe(run.config, run.world())}")
    say_if_crowded(run.world())
    state, broken = find_state(run.folder)
    for path in broken:
        say(f"  {path} is broken and left out")
    if state is not None:
        say(f"  going on from step {state.step:,}")
    elif broken:
        say("  no whole state is left: beginning again with step 0")


@contextmanager
def display(config: "RunConfig") -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield a listener for `train`: a live table on a terminal, a plain line now and then elsewhere."""
    state = Progress(config)
    if not console.is_terminal:
        yield state.plain
        return
    with Live(state.table(), console=console, refresh_per_second=4) as live:

        def listener(record: Mapping[str, Any]) -> None:
            state.update(record)
            live.update(state.table())

        yield listener


def unread(task: str, value: float | None) -> str:
    """What is added to a score that only says that no answer could be read: the task's failure value."""
    from cwr_mech.tasks.registry import TASKS

    failure = TASKS[task].failure_value
    return (
        " (none readable)" if failure and value is not None and abs(value - failure) < 1e-6 * failure else ""
    )


class Progress:
    """The last losses, scores and rates of a training."""

    def __init__(self, config: "RunConfig") -> None:
        from cwr_mech.tasks.registry import TASKS

        self.shown = float("-inf")
        self.steps = config.train.steps
        self.units = {task: TASKS[task].unit for task in config.data.tasks}
        self.record: Mapping[str, Any] = {}
        self.scores: Mapping[str, float] = {}

    def update(self, record: Mapping[str, Any]) -> None:
        """Take in a metrics line."""
        if "scores" in record:
            self.scores = record["scores"]
        else:
            self.record = record

    def left(self) -> str:
        """Time left at the present rate."""
        rate = self.record.get("rows_per_second")
        if not rate:
            return ""
        steps = self.steps - self.record["step"]
        return duration(steps * self.record["rows"] / self.record["step"] / rate)

    def plain(self, record: Mapping[str, Any]) -> None:
        """Print a line when scores come in or some time has passed."""
        self.update(record)
        now = time.monotonic()
        if "scores" in record:
            parts = [
                f"{task} {number(float(value))}{unread(task, value)}" for task, value in self.scores.items()
            ]
            say(f"  step {record['step']:,}  answers: " + ", ".join(parts))
        elif now - self.shown >= PLAIN_SECONDS or record["step"] == self.steps:
            self.shown = now
            rate = number(float(record["rows_per_second"]))
            say(
                f"  step {record['step']:,}/{self.steps:,}  loss {record['loss']:.3f}  {rate} rows/s  "
                f"{self.left()} left"
            )

    def table(self) -> RenderableType:
        """Bar, rates and a row a task."""
        step = self.record.get("step", 0)
        head = Grid.grid(padding=(0, 2))
        rate = self.record.get("rows_per_second")
        head.add_row(
            ProgressBar(total=self.steps, completed=step, width=28),
            Text(f"{step:,}/{self.steps:,} steps"),
            Text(f"{number(float(rate))} rows/s" if rate else "", style="dim"),
            Text(f"{self.left()} left" if rate else "", style="dim"),
        )
        losses = self.record.get("losses", {})
        rows = [
            [task, losses.get(task), self.scores.get(task), unit + unread(task, self.scores.get(task))]
            for task, unit in self.units.items()
        ]
        return Group(head, Table("", ["task", "loss (nats a token)", "error or accuracy", "unit"], rows))
