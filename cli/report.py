"""`cwr-mech report`: results, figures and words in one Markdown file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cwr_mech.analysis.registry import Opt
from cwr_mech.errors import CorruptArtifact, MissingArtifact
from cwr_mech.training.folders import RUNS, find_run

from .common import log_report, plain_name, report_folder, say, say_if_published
from .options import LogResult

if TYPE_CHECKING:
    from cwr_mech.results import Result


def command(
    name: Annotated[str | None, Opt("The report; the latest run's by default.")] = None,
    *,
    check: Annotated[bool, Opt("Change nothing: rebuild the report aside and compare.")] = False,
    claims: Annotated[bool, Opt("Judge the claims of the paper on the report's results.")] = False,
    html: Annotated[bool, Opt("Write report.html instead: one file to explore in a browser.")] = False,
    log: LogResult = None,
) -> None:
    """Write reports/NAME/report.md with its figures from the results saved there, and the learning curves of
    their runs, if these are few. With --check: rebuild it aside, compare, and fail if anything differs.
    With --html: one page without a network, with sortable tables and figures that answer to the mouse.
    """
    folder = report_folder(name or plain_name(find_run().name))
    if not any((folder / "results").glob("*.json")):
        raise MissingArtifact(
            f"there are no results in {folder / 'results'}",
            "analyses save them there: cwr-mech eval, probe, cka, patch",
        )
    from cwr_mech.report.write import check_report, other_floats, write_report

    if check:
        problems = check_report(folder)
        for problem in problems:
            say(problem)
        if problems:
            raise CorruptArtifact(
                f"report {folder.name} does not follow from its results: {len(problems)} differences",
                f"rewrite it with: cwr-mech report {folder.name}",
            )
        for line in other_floats(folder):
            say(line)
        say(f"{folder}/report.md follows from its results")
        return
    if html:
        from cwr_mech.report.html import write_html

        say(f"report  {write_html(folder)}")
        return
    say_if_published(folder)
    add_learning_curves(folder)
    if claims or (folder / "results" / "findings.json").is_file():
        from cwr_mech.findings.questions import write_findings

        write_findings(folder, f"cwr-mech report {folder.name}")
    say(f"report  {write_report(folder)}")
    if log:
        log_report(log, folder)


CURVES = 12
"""Runs up to which a report shows how each was trained."""


def add_learning_curves(folder: Path) -> None:
    """Save a train-RUN result for every run that the report is about and that lies here, if they are few."""
    from cwr_mech.analysis.answers.curves import training_result
    from cwr_mech.results import load_results
    from cwr_mech.training.runs import load_run

    runs = runs_of(folder.name, load_results(folder / "results"))
    for run in runs if len(runs) <= CURVES else ():
        if (RUNS / run / "metrics.jsonl").is_file():
            result = training_result(load_run(RUNS / run), f"cwr-mech report {folder.name}")
            result.save(folder / "results", f"train-{plain_name(run)}")


def runs_of(name: str, results: "dict[str, Result]") -> list[str]:
    """Runs the results name, in order; the run called like the report when they name none."""
    named = [str(run) for result in results.values() for run in result.params.get("runs", [])]
    return list(dict.fromkeys(named or [name]))
