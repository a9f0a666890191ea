"""`cwr-mech demo`: from nothing to a report on a model trained here, one line a stage."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

from rich.text import Text

from cwr_mech.analysis.registry import Opt
from cwr_mech.errors import ArtifactExists, CwrError
from cwr_mech.experiments import processes
from cwr_mech.training.folders import PREFIX, RUNS, find_run, zoo_models

from .common import console, duration, err_console, report_folder, say
from .options import LogResult
from .train import configure

if TYPE_CHECKING:
    from subprocess import Popen

Argv = tuple[str, ...]

PRESET, TASK, STEPS = "ripe", "distance", 5000
"""What is trained: one model, on one task, in the cities of the zoo's models."""
ZOO_MODELS = ("zoo:ripe-seed2", "zoo:ripe")
"""Models of all seven tasks that it is compared with: what they have in common is the yardstick, and the
first is probed beside it.
"""
SHORT_STEPS = 150
STILL_SECONDS = 60.0
"""Without a terminal, a long stage says this often how far it is."""


class Stage(NamedTuple):
    """One line of the demo. Lanes run side by side, the commands of a lane one after the other."""

    name: str
    what: str
    lanes: tuple[tuple[Argv, ...], ...]


def stages(
    name: str, models: Sequence[str] = ZOO_MODELS, *, short: bool = False, log: str | None = None
) -> tuple[Stage, ...]:
    """The demo's stages for a run and a report called `name`, beside `models`; no patching when short.

    `log` names a tracker that gets the report's numbers and figures.
    """
    to, runs = ("--report", name), (name, *models)
    logged = ("--log", log) if log else ()
    steps, rows = (SHORT_STEPS, "40") if short else (STEPS, "200")
    patch = Stage("patch", "what carries a city to the answer", ((("patch", name, "--task", TASK, *to),),))
    return (
        Stage("train", f"one model on {TASK} alone", ((train(name, PRESET, TASK, f"steps={steps}"),),)),
        Stage("eval", "answers to fresh questions", ((("eval", name, models[0], "-n", rows, *to),),)),
        Stage(
            "cache-acts",
            "what the models hold about every city",
            (
                (("cache-acts", name), ("cache-acts", models[0], "--untrained")),
                tuple(("cache-acts", model) for model in models),
            ),
        ),
        Stage("cka", "how alike the models arrange the cities", ((("cka", *runs, *to),),)),
        Stage(
            "probe",
            "is there a map with all tasks, and here",
            ((("probe", models[0], *to),), (("readout", name, "--prompts", "own", *to),)),
        ),
        Stage(
            "places", "the map in motion, for report --html", ((("places", name, "--steps", "all", *to),),)
        ),
        *(() if short else (patch,)),
        Stage("report", "results, figures and words", ((("report", name, *logged),),)),
    )


def train(run: str, preset: str, tasks: str, *settings: str) -> Argv:
    """The command that trains the demo's model."""
    options = [word for setting in settings for word in ("--set", setting)]
    return ("train", "--preset", preset, "--tasks", tasks, "--out", f"runs/{run}", *options)


def command(
    *,
    name: Annotated[str, Opt("Name of the run and of the report.")] = "demo",
    short: Annotated[
        bool, Opt("About two minutes: a few steps, no patching. The model learns no map.")
    ] = False,
    log: LogResult = None,
) -> None:
    """Everything this program does, once, on this machine: train a model on one task, score it, keep its
    activations, compare it with models of all seven tasks from the zoo, probe and patch it, and write a
    report.

    A model that is there already is kept; an interrupted one is continued.
    """
    from cwr_mech.experiments.presets import preset
    from cwr_mech.world.cities import load_world

    began = time.monotonic()
    world = load_world(preset(PRESET).world)
    find_run(ZOO_MODELS[0])
    models = [model for model in ZOO_MODELS if model.removeprefix(PREFIX) in zoo_models()]
    folder = report_folder(name)
    logs = RUNS / f"{name}-logs"
    logs.mkdir(parents=True, exist_ok=True)
    line("world", f"{len(world.old()):,} cities and {len(world.new())} new ones", began)
    failed = []
    for stage in stages(name, models, short=short, log=log):
        start = time.monotonic()
        if run_stage(stage, logs):
            line(stage.name, stage.what, start)
        elif stage.name == "train":
            raise CwrError("training failed", f"its output is in {logs}/")
        else:
            failed.append(stage.name)
            line(stage.name, "failed; see the error above", start)
    say(f"all done in {duration(time.monotonic() - began)}")
    if (path := folder / "report.md").is_file():  # terminals that can will let it be clicked
        link = (str(path), f"link {path.resolve().as_uri()}")
        console.print(Text.assemble("report: ", link), soft_wrap=True)
    if failed:
        raise CwrError(f"{', '.join(failed)} failed", f"the output of every stage is in {logs}/")


def line(name: str, what: str, start: float) -> None:
    """Print a finished stage."""
    say(f"{name:<11} {what:<42} {duration(time.monotonic() - start):>8}")


def run_stage(stage: Stage, logs: Path) -> bool:
    """Run all lanes of a stage; True when every command succeeded. Output goes to logs; errors are shown."""
    queues = [[now for argv in lane if (now := due(argv))] for lane in stage.lanes]
    files = [logs / f"{stage.name}{'' if index == 0 else f'-{index}'}.log" for index in range(len(queues))]
    running: dict[int, Popen[bytes]] = {}
    good = True
    for file in files:
        file.write_bytes(b"")
    try:
        with watch(stage, files) as tick:
            while running or any(queues):
                for index, queue in enumerate(queues):
                    if index not in running and queue:
                        running[index] = start(queue.pop(0), files[index])
                for index, process in list(running.items()):
                    if process.poll() is not None:
                        del running[index]
                        good &= process.returncode == 0
                        if process.returncode:
                            queues[index].clear()
                tick()
                time.sleep(0.1)
    finally:
        processes.stop(running.values())
    if not good:
        show_errors(files)
    return good


def due(argv: Argv) -> Argv | None:
    """`argv` as it must be run now: None for a model that is there, with --resume for one that is half done.

    Raises ArtifactExists when the run there was made with other settings.
    """
    if argv[0] != "train":
        return argv
    from cwr_mech.experiments.presets import preset
    from cwr_mech.training.runs import load_run

    _, _, preset_name, _, tasks, _, out, *options = argv
    if not (Path(out) / "manifest.json").is_file():
        return argv
    run = load_run(out)
    wanted = configure(preset(preset_name), tasks, None, None, options[1::2])
    if run.config != wanted.model_copy(update={"name": run.config.name}):
        raise ArtifactExists(f"{out} was trained with other settings", "choose another --name, or remove it")
    return None if run.state == "done" else ("train", "--resume", "--out", out)


def start(argv: Argv, log: Path) -> "Popen[bytes]":
    """Run a command of this program."""
    return processes.start([sys.executable, "-m", f"{__package__}.main", *argv], log, {"COLUMNS": "100"})


@contextmanager
def watch(stage: Stage, logs: Sequence[Path]) -> Iterator[Callable[[], None]]:
    """Yield a function to call often; it shows the stage's time and last words."""
    began = said = time.monotonic()

    def text() -> str:
        words = " | ".join(word for word in map(last_line, logs) if word)
        return f"{stage.name:<11} {duration(time.monotonic() - began):>8}  {words}"

    def plain() -> None:
        nonlocal said
        if time.monotonic() - said >= STILL_SECONDS:
            said = time.monotonic()
            say(f"  {text()}")

    if not console.is_terminal:
        yield plain
        return
    with console.status(stage.name) as status:
        yield lambda: status.update(text()[: max(console.width - 4, 20)])


def last_line(log: Path) -> str:
    """The last line of a log that is not empty."""
    lines = log.read_bytes()[-2000:].decode("utf-8", "replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def show_errors(logs: Sequence[Path]) -> None:
    """Print the last lines of the logs on stderr."""
    for log in logs:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:]
        err_console.print(Text("\n".join(lines), style="dim"), soft_wrap=True)
