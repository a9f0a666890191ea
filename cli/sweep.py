"""`cwr-mech sweep`: train a named plan of models."""

import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cwr_mech.analysis.registry import Opt
from cwr_mech.artifacts import atomic_file, folder_lock
from cwr_mech.errors import ConfigError, CwrError, MissingArtifact, one_of
from cwr_mech.experiments.processes import ends_with_parent
from cwr_mech.training.folders import RUNS, run_folders, zoo_models

from .common import command_line, duration, say, show_table
from .options import DryRun, Settings
from .train import announce, display

if TYPE_CHECKING:
    from cwr_mech.config import RunConfig
    from cwr_mech.experiments.planned import Planned
    from cwr_mech.experiments.sweep import Outcome


def command(
    plan: Annotated[
        str,
        Opt("singles, pairs, seeds, tune, routing, zoo, ripe, paper, trial, or your TOML or JSON file."),
    ],
    *,
    preset: Annotated[str | None, Opt("Settings of the models; the plan's by default.")] = None,
    seeds: Annotated[str | None, Opt("Seeds, separated by commas; the plan's by default.")] = None,
    settings: Settings = None,
    jobs: Annotated[int, Opt("Processes, one thread each.", min=1, short="-j")] = 1,
    out: Annotated[Path, Opt("Folder of the runs.")] = Path("runs"),
    dry_run: DryRun = False,
    measure: Annotated[bool, Opt("With --dry-run: measure the speed of this machine.")] = False,
    engine: Annotated[str, Opt("local, or snakemake (installed separately).")] = "local",
    emit: Annotated[Path | None, Opt("Write the Snakemake workflow to this file and stop.")] = None,
    snakemake: Annotated[str, Opt("More options for Snakemake, as in --snakemake '--executor slurm'.")] = "",
    only: Annotated[str | None, Opt("Train this run of the plan and no other.")] = None,
    together: Annotated[
        int | None, Opt("Train up to so many runs of one shape as one batched model, for a GPU.", min=1)
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], Opt("With --together; auto takes a GPU where there is one.")
    ] = "auto",
) -> None:
    """Train all models of a plan, bases before what starts from them.

    A plan of your own is a file with a table "run" for each; cwr_mech.experiments.files has an example.
    Stopped at any moment, the same command goes on where it was: finished runs are left alone, begun ones
    resumed. A failed run is reported and does not stop the others.
    """
    one_of("engine", engine, ("local", "snakemake"))
    ways = {
        "--only": only is not None,
        "--emit": emit is not None,
        "--together": together is not None,
        "--engine snakemake": engine == "snakemake" and emit is None,
    }
    asked = [way for way, given in ways.items() if given]
    if len(asked) > 1:
        raise ConfigError(f"{' and '.join(asked)} exclude each other", "take one of them")
    if device == "cuda" and together is None:
        raise ConfigError("--device cuda goes with --together", "as in --together 32")
    planned = make_plan(plan, preset, seeds, settings or [])
    options = [plan]
    options += ["--preset", preset] if preset else []
    options += ["--seeds", seeds] if seeds else []
    options += [word for setting in settings or [] for word in ("--set", setting)]
    argv = [sys.executable, "-m", "cwr_mech_cli.main", "sweep", *options, "--out", str(out)]
    if dry_run:
        show_costs(plan, planned, out, jobs, measure)
        return
    if only is not None:
        train_one(planned, only, out)
        return
    if emit is not None:
        write_workflow(planned, out, argv, emit)
        say(f"workflow {emit}")
        return
    with folder_lock(out / ".sweep" / Path(plan).stem):
        if together is not None:
            outcomes = go_together(planned, out, together, device)
        elif engine == "local":
            outcomes = go(planned, out, argv, jobs)
        else:
            outcomes = by_snakemake(planned, out, argv, jobs, snakemake)
    report(plan, outcomes, out)


def make_plan(
    name: str, preset: str | None, seeds: str | None, settings: Sequence[str]
) -> "tuple[Planned, ...]":
    """The runs of a plan, by its name or from the user's own file. Raises UnknownName or ConfigError."""
    from cwr_mech.experiments.plans import find_plan
    from cwr_mech.experiments.presets import preset as find_preset

    try:
        numbers = tuple(int(seed) for seed in seeds.split(",")) if seeds else None
    except ValueError as error:
        raise ConfigError(f"'{seeds}' are no seeds", "give numbers, as in --seeds 42,1,2") from error
    if Path(name).suffix.lower() in (".toml", ".json"):
        from cwr_mech.experiments.files import read_plan

        return read_plan(name, preset=preset, seeds=numbers, settings=settings)
    plan = find_plan(name)
    return plan.runs(find_preset(preset or plan.preset).with_settings(settings), numbers)


def train_one(planned: "Sequence[Planned]", name: str, root: Path) -> None:
    """Train or resume one run of a plan."""
    import torch

    from cwr_mech.analysis.routing.interventions import condition_hook
    from cwr_mech.experiments.sweep import require_base
    from cwr_mech.training.loop import train
    from cwr_mech.training.runs import load_run
    from cwr_mech.world.cities import load_world

    known = {run.name: run for run in planned}
    one_of("run of this plan", name, known)
    run, config = known[name], known[name].config
    require_base(run, root)
    base = load_run(root / run.base) if run.base else None
    torch.set_num_threads(1)
    hook = None
    if base is not None:
        hook = condition_hook(config.route, base.model(), load_world(config.world), config.data.parts)
    folder = root / name
    resume = (folder / "manifest.json").exists()
    with display(config) as listener:
        train(config, folder, resume=resume, base=base, begun=announce, listener=listener, hook=hook)


def show_costs(plan: str, planned: "Sequence[Planned]", root: Path, jobs: int, measure: bool) -> None:
    """Print the plan: what each run starts from and holds, how long it will take, and how it stands."""
    from cwr_mech.experiments.costs import papers_gpu_seconds, row_lengths, seconds_of
    from cwr_mech.experiments.finetuning import total_rows
    from cwr_mech.experiments.sweep import standing

    lengths = row_lengths(rows=100)
    speeds: dict[tuple[object, ...], tuple[float, str] | None] = {}
    rows: list[list[object]] = []
    failed: list[str] = []
    left, gpu = 0.0, 0.0
    for run in planned:
        config = run.config
        shape = (config.model, config.train.batch_size, config.train.optimizer)
        if shape not in speeds:
            speeds[shape] = speed_of(config, lengths, measure)
        speed = speeds[shape]
        seconds = seconds_of(config, speed[0], lengths) if speed else None
        stands = standing(run, root)
        if stands.state != "done":
            left += seconds or 0.0
            gpu += papers_gpu_seconds(config, lengths) or 0.0
        fixed = total_rows(config.data.parts) or (config.data.rows_per_task or 0) * len(config.data.tasks)
        takes = duration(seconds) if seconds is not None else None
        rows.append([run.name, run.base, fixed or None, config.train.steps, takes, stands.state])
        if stands.state == "failed" and stands.details:
            failed.append(f"{run.name}: {stands.details}")
    columns = ["run", "starts from", "rows of set", "steps", "time", "state"]
    show_table(f"plan {plan}", columns, rows)
    for line in failed:
        say(f"failed: {line}")
    found = [speed for speed in speeds.values() if speed]
    if len(found) < len(speeds):
        say(f"{len(planned)} runs; no run of such a model is here to tell the speed; --measure does")
    else:
        spoken = "; ".join(f"{value:,.0f} tokens a second {source}" for value, source in found)
        say(f"{len(planned)} runs; about {duration(left)} of one core left, {duration(left / jobs)} "
            f"with {jobs} processes; {spoken}")  # fmt: skip
    if gpu:
        say(f"on a GPU like the paper's, at the speed its authors report: about {duration(gpu)}")


def speed_of(config: "RunConfig", lengths: Mapping[str, float], measure: bool) -> tuple[float, str] | None:
    """Tokens a second for models of this shape, measured now or recorded, and where it is from."""
    from cwr_mech.experiments.costs import recorded_speed, tokens_per_second

    if measure:
        import torch

        torch.set_num_threads(1)
        return tokens_per_second(config.model, config.train), "measured now on one thread"
    known = recorded_speed(config, lengths, [*run_folders(RUNS), *zoo_models().values()])
    said = "when {} was trained (--measure: on this machine, now)"
    return (known[0], said.format(known[1].name)) if known else None


def write_workflow(planned: "Sequence[Planned]", root: Path, argv: Sequence[str], path: Path) -> None:
    """Write the Snakefile."""
    from cwr_mech.experiments.workflow import snakefile

    with atomic_file(path) as part:
        part.write_text(snakefile(planned, root, argv, command_line()), encoding="utf-8")


def by_snakemake(
    planned: "Sequence[Planned]", root: Path, command: Sequence[str], jobs: int, more: str
) -> "list[Outcome]":
    """Train the plan through Snakemake. Raises MissingArtifact when it is not installed."""
    from cwr_mech.experiments.sweep import standing
    from cwr_mech.experiments.workflow import snakemake_argv

    program = shutil.which("snakemake")
    if program is None:
        raise MissingArtifact("there is no command 'snakemake'", "install it: pip install 'snakemake>=9'")
    file = root / ".sweep" / "Snakefile"
    write_workflow(planned, root, command, file)
    # The plan's lock is ours, so a lock of Snakemake's can only be left over from a killed one.
    subprocess.run([program, "--snakefile", file, "--unlock"], capture_output=True, check=False)
    argv = snakemake_argv(program, file, jobs, shlex.split(more))
    subprocess.run(argv, check=False, preexec_fn=ends_with_parent())
    return [standing(run, root) for run in planned]


def go(planned: "Sequence[Planned]", root: Path, argv: Sequence[str], jobs: int) -> "list[Outcome]":
    """Train what is not done yet with processes of this machine."""
    from cwr_mech.experiments.sweep import Sweep

    said = {"busy": "waiting for"}

    def event(name: str, what: str, details: str) -> None:
        count = f"[{len(sweep.outcomes)}/{len(planned)}]"
        say(f"{count} {said.get(what, what)} {name}" + (f": {details}" if details else ""))

    sweep = Sweep(planned, root, lambda name: [*argv, "--only", name], jobs, event)
    return sweep.run()


def go_together(planned: "Sequence[Planned]", root: Path, most: int, device: str) -> "list[Outcome]":
    """Train a plan group by group, each as one batched model."""
    from cwr_mech.experiments.together import sweep_together
    from cwr_mech.training.compute import choose

    told = 0.0

    def begun(names: Sequence[str]) -> None:
        say(f"training {len(names)} together: {', '.join(names)}")

    def listen(record: Mapping[str, float]) -> None:
        nonlocal told
        if time.monotonic() - told > 10:
            told = time.monotonic()
            left = record["left"]
            say(f"  {record['models']} models from step {record['step']:,} on; in all {left:,} steps left  "
                f"{record['rows_per_second']:,.0f} rows/s")  # fmt: skip

    compute = choose(device, "float32", "off")
    return sweep_together(planned, root, compute, most, begun=begun, listener=listen)


def report(plan: str, outcomes: "Sequence[Outcome]", root: Path) -> None:
    """Say how every run stands. Raises CwrError when some are not done."""
    bad = [outcome for outcome in outcomes if outcome.state != "done"]
    if bad:
        show_table("not done", ["run", "state", "why"], [[run.name, run.state, run.details] for run in bad])
        raise CwrError(f"{len(bad)} of {len(outcomes)} runs are not done", f"what they said: {root}/.sweep/")
    say(f"all {len(outcomes)} runs of plan {plan} are done")
