"""Train a plan on a GPU: runs of one shape that could begin now go into one batched model, group by group."""

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

from cwr_mech.errors import UserError
from cwr_mech.experiments.planned import Planned
from cwr_mech.experiments.sweep import Outcome, require_base, standing, state_of
from cwr_mech.training.batched import alike
from cwr_mech.training.compute import Compute
from cwr_mech.training.runs import load_run
from cwr_mech.training.together import Job, Listener, train_together


def sweep_together(
    plan: Sequence[Planned],
    root: Path,
    compute: Compute,
    most: int,
    *,
    begun: Callable[[Sequence[str]], object] = lambda names: None,
    listener: Listener | None = None,
) -> list[Outcome]:
    """Train what can be, at most `most` runs at once, longest first; how every run of the plan stands then.

    begun: told the names of a group when it begins. What changes its gradients is left for another sweep.
    """
    tried: set[str] = set()
    while group := next_group(plan, root, most, tried):
        begun([planned.name for planned in group])
        tried |= {planned.name for planned in group}
        bases = [load_run(root / planned.base) if planned.base else None for planned in group]
        jobs = [Job(run.config, root / run.name, base) for run, base in zip(group, bases, strict=True)]
        train_together(jobs, resume=True, compute=compute, listener=listener)
    return [standing(planned, root) for planned in plan]


def next_group(plan: Sequence[Planned], root: Path, most: int, tried: set[str]) -> list[Planned]:
    """Runs that can be trained as one batch now: the largest group of one shape, of it the longest runs.

    They have much the same number of steps then, so that few end early.
    """
    ready = [planned for planned in plan if planned.name not in tried and _ready(planned, root)]
    kind = {planned.name: repr((planned.config.model, *alike(planned.config.train))) for planned in ready}
    ready.sort(key=lambda planned: kind[planned.name])
    groups = [list(group) for _, group in groupby(ready, key=lambda planned: kind[planned.name])]
    largest = max(groups, key=len, default=[])
    return sorted(largest, key=lambda planned: -planned.config.train.steps)[:most]


def _ready(planned: Planned, root: Path) -> bool:
    """Whether a run is not done, not held by another process, unprojected, and its base is there."""
    if planned.config.route.changes:
        return False
    try:
        require_base(planned, root)
        return state_of(planned, root) in ("todo", "begun")
    except UserError:
        return False
