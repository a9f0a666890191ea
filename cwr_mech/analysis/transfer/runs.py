"""Which fine-tuned runs a study is about, and what they started from."""

from collections.abc import Iterable, Mapping, Sequence

from cwr_mech.errors import AnalysisError
from cwr_mech.experiments.finetuning import PLAIN, condition_of
from cwr_mech.experiments.zoo import zoo_models
from cwr_mech.training.folders import RUNS
from cwr_mech.training.runs import Run, load_run, readable_runs


def fine_tunings(names: Sequence[str] | None) -> list[Run]:
    """The finished fine-tuned runs named, or those whose base is named, or all in runs/.

    A base is known by its weights: it may have been trained here or have come with the zoo. One of the zoo
    stands for its fine-tunings in the zoo, too. Raises AnalysisError when there is none.
    """
    done = [run for run in readable_runs(RUNS) if run.parent and run.state == "done"]
    found: list[Run] = []
    given = [load_run(name) for name in names] if names else done
    if any(run.from_zoo and not run.parent for run in given):
        done += [run for run in zoo_models() if run.parent]
    for run in given:
        weights = set(run.manifest["checkpoints"].values())
        children = (child for child in done if child.manifest["parent"].get("sha256") in weights)
        found += [run] if run.parent else children
    if not found:
        raise AnalysisError("no finished fine-tuning found", "make one with: cwr-mech finetune RUN")
    return list({run.folder: run for run in found}.values())


def check_worlds(tuned: Iterable[Run]) -> None:
    """Raises AnalysisError when two fine-tunings of one base were taught other new cities: a base is asked
    about one set of them, and there the other fine-tuning would seem to have learned nothing.
    """
    first: dict[str | None, Run] = {}
    for run in tuned:
        other = first.setdefault(run.parent, run)
        if other.world().sha256 != run.world().sha256:
            taught = " and ".join(f"'{one.config.world.new}'" for one in (other, run))
            raise AnalysisError(
                f"{other.name} and {run.name} were taught different new cities: {taught}",
                "analyse them apart",
            )


def usual_fine_tunings(
    names: Sequence[str] | None, tasks: Sequence[str]
) -> list[tuple[Run, Mapping[str, Run]]]:
    """Bases with their usual fine-tunings on each of `tasks` alone.

    Raises AnalysisError where one lacks, and as `check_worlds` does.
    """
    alone = {(task,) for task in tasks}
    usual = [run for run in fine_tunings(names) if condition_of(run.config) == PLAIN]
    usual = [run for run in usual if run.config.data.tasks in alone]
    check_worlds(usual)
    bases: dict[str, tuple[Run, dict[str, Run]]] = {}
    for run in usual:
        parent = run.base()
        bases.setdefault(parent.name, (parent, {}))[1].setdefault(run.config.data.tasks[0], run)
    for base, found in bases.values():
        if missing := [task for task in tasks if task not in found]:
            raise AnalysisError(
                f"base {base.name} has no usual fine-tuning on {', '.join(missing)}",
                f"make one with: cwr-mech finetune {base.name} --tasks {missing[0]}",
            )
    if not bases:
        raise AnalysisError(f"no fine-tuning on one of {', '.join(tasks)} alone is among these runs")
    return [(base, {task: found[task] for task in tasks}) for base, found in bases.values()]
