"""The parts of the zoo's reports, made from whatever models there are: `cwr-mech zoo analyse`."""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TYPE_CHECKING

from rich.console import Console

from cwr_mech.errors import AnalysisError, one_of

from . import analyses, cache_acts, common
from .common import ACTIVATIONS, duration, log_report, progress, report_folder, save_result, say

if TYPE_CHECKING:
    from cwr_mech.findings.parts import Family, Part
    from cwr_mech.training.runs import Run

COMMAND = "cwr-mech zoo analyse"


FIRST = ("models", "maps")
"""Parts that are made before the others: `maps` makes the activation files that these read."""


def analyse(
    names: Sequence[str] | None = None,
    preset: str | None = None,
    log: str | None = None,
    processes: int | None = None,
) -> None:
    """Run the analyses that the reports are made of (all, or the parts named), and write these.

    Models of one preset share a world and are analysed together; `preset` names the only one wanted. `log`
    names a tracker that gets the reports' results and figures. Parts are made side by side in `processes`
    processes, one a processor by default.

    Each part is saved when it is done; a part that the models here do not allow yet is named and left out.
    Raises AnalysisError without models or parts about them, UnknownName for another part.
    """
    from cwr_mech.experiments.zoo import zoo_models
    from cwr_mech.findings.parts import PARTS, families

    from .zoo import NONE_HERE

    for name in names or ():
        one_of("part", name, PARTS)
    found = zoo_models()
    if not found:
        raise AnalysisError(*NONE_HERE.split("; "))
    chosen = [
        (family, [name for name in family.parts if names is None or name in names])
        for family in families(found, preset)
    ]
    if not any(wanted for _, wanted in chosen):
        which = f"models of preset {preset}" if preset else "the models here"
        raise AnalysisError(f"no part of a report is about {which}", "cwr-mech zoo lists what there is")
    for family, wanted in chosen:
        if wanted:
            _analyse(family, wanted, log, processes or len(os.sched_getaffinity(0)))


def _analyse(family: "Family", names: Sequence[str], log: str | None, processes: int) -> None:
    """These parts of the reports about a family."""
    from cwr_mech.findings.parts import PARTS
    from cwr_mech.findings.questions import write_findings
    from cwr_mech.report.write import write_report

    began = time.monotonic()
    reports = dict.fromkeys(getattr(family, part.report) for name in names for part in PARTS[name])
    say(f"{len(family.models)} models into reports {', '.join(reports)}")
    for line in _made(family, names, processes):
        say(line)
    for report in reports:
        folder = report_folder(report)
        try:
            say(f"result  {write_findings(folder, COMMAND)}")
        except AnalysisError as error:
            say(f"findings left out: {error.message}")
        say(f"report  {write_report(folder)}, {duration(time.monotonic() - began)} in all")
        if log:
            log_report(log, folder)


def _made(family: "Family", names: Sequence[str], processes: int) -> Iterator[str]:
    """Make these parts of a family; what to say of each as it is done."""
    early = [name for name in names if name in FIRST]
    late = [name for name in names if name not in FIRST]
    if processes == 1 or len(late) < 2:
        early, late = list(names), []
    for name in early:
        yield _part(family, name)
    if late:
        server, count = multiprocessing.get_context("forkserver"), min(processes, len(late))
        threads = max(1, len(os.sched_getaffinity(0)) // count)
        with ProcessPoolExecutor(count, server, initializer=_worker, initargs=(threads,)) as pool:
            for done in as_completed([pool.submit(_part, family, name) for name in late]):
                yield done.result()


def _worker(threads: int) -> None:
    """Several processes share a terminal: progress is told in lines, and Ctrl-C ends them without a word.
    They share the processors, too: threads beyond these wait for each other, spinning.
    """
    from threadpoolctl import threadpool_limits

    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # read when torch is loaded, which is later
    threadpool_limits(threads, user_api="blas")  # of numpy, which is there
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    common.console = Console(force_terminal=False, width=common.console.width, highlight=False)


def _part(family: "Family", name: str) -> str:
    """Make one part; returns what to say of it."""
    from cwr_mech.findings.parts import PARTS

    start = time.monotonic()
    try:
        for part in PARTS[name]:
            make(part, family.models, getattr(family, part.report))
    except AnalysisError as error:
        return f"{name} left out: {error.message}"
    return f"{name:<12} {duration(time.monotonic() - start):>8}"


def make(part: "Part", models: "list[Run]", report: str) -> None:
    """Save the result of a part, or one for each of its models, in a report, which shows its tables: those of
    parts made side by side would mix on the screen, thousands of lines.
    """
    from cwr_mech.analysis.answers.curves import curves_result
    from cwr_mech.findings.zoo import maps_result, models_result

    chosen = part.of(models)
    if part.study == "models":
        save_result(models_result(chosen, COMMAND), report, "models")
    elif part.study == "curves":
        save_result(curves_result(chosen, COMMAND), report, "curves")
    elif part.study == "maps":
        for model in chosen:
            cache_acts.command(model.name)
        with progress("probes", len(chosen), "models") as advance:
            save_result(maps_result(chosen, ACTIVATIONS, COMMAND, advance), report, "maps")
    else:
        options = part.options(chosen) if callable(part.options) else part.options
        folders = [model.folder.as_posix() for model in chosen]
        for given in [{"run": folder} for folder in folders] if part.each else [{"runs": folders}]:
            analyses.run(part.study, report, said=COMMAND, tables=False, **given, **options)
