"""Train a plan with several processes: bases first, failures reported, what is done left alone.

Nothing about a sweep is stored but its runs and their logs, so it may be stopped in any way and begun again:
a run that is done is left alone, one that was begun is resumed, one that another process holds is waited for.
"""

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cwr_mech.artifacts import is_locked
from cwr_mech.errors import ConfigError, CwrError, MissingArtifact
from cwr_mech.experiments import processes
from cwr_mech.experiments.planned import Planned
from cwr_mech.training.runs import load_run

State = Literal["todo", "begun", "done", "busy", "failed", "waiting"]
"""todo: not begun; begun: to be resumed; busy: held by another process; waiting: its base failed."""
POLL_SECONDS = 0.2

Event = Callable[[str, str, str], None]
"""Called with (run, "started" | "resumed" | "done" | "failed" | "waiting" | "busy", details)."""


@dataclass
class Outcome:
    """How a planned run stands at the end of a sweep. `details`: the last line it said, when it failed."""

    name: str
    state: State
    details: str = ""


def state_of(planned: Planned, root: Path) -> State:
    """Where a planned run stands on disk.

    Raises ConfigError when its folder holds a run with other settings, and what `load_run` raises for broken
    ones.
    """
    folder = root / planned.name
    if not (folder / "manifest.json").exists():
        return "busy" if is_locked(folder) else "todo"
    run = load_run(folder)
    if not run.has_settings(planned.config):
        raise ConfigError(f"{folder} was trained with other settings", "move it away, or change --out")
    if run.state == "done":
        return "done"
    if run.state == "diverged":
        return "failed"
    return "busy" if run.state == "running" else "begun"


@dataclass
class Sweep:
    """One pass over a plan. `argv(name)` is the command that trains (or resumes) one run."""

    plan: Sequence[Planned]
    root: Path
    argv: Callable[[str], Sequence[str]]
    jobs: int = 1
    event: Event = lambda name, what, details: None
    outcomes: dict[str, Outcome] = field(default_factory=dict, init=False)
    _running: dict[str, tuple[subprocess.Popen[bytes], int]] = field(default_factory=dict, init=False)
    _busy: set[str] = field(default_factory=set, init=False)

    def run(self) -> list[Outcome]:
        """Train until nothing is left to do. On KeyboardInterrupt the processes are stopped, each saving its
        state, before the exception goes on. Killed itself, it leaves none of them behind."""
        try:
            while len(self.outcomes) < len(self.plan):
                self._collect()
                self._start_ready()
                time.sleep(POLL_SECONDS)
        finally:
            processes.stop(process for process, _ in self._running.values())
        return [self.outcomes[planned.name] for planned in self.plan]

    def _start_ready(self) -> None:
        for planned in self.plan:
            name = planned.name
            if name in self.outcomes or name in self._running:
                continue
            base = self.outcomes.get(planned.base) if planned.base else None
            if base is not None and base.state in ("failed", "waiting"):
                self._end(name, "waiting", f"its base {base.name} is not done")
            elif planned.base is None or base is not None:
                self._consider(planned)

    def _consider(self, planned: Planned) -> None:
        """Start a run whose base is done, unless it is done, busy, or there is no free place."""
        name = planned.name
        try:
            state = state_of(planned, self.root)
        except CwrError as error:
            self._end(name, "failed", str(error))
            return
        if state == "done":
            self._end(name, "done")
        elif state == "failed":
            self._end(name, "failed", "its training diverged")
        elif state == "busy":
            if name not in self._busy:
                self._busy.add(name)
                self.event(name, "busy", "another process trains it")
        elif len(self._running) < self.jobs:
            self._start(name, resumed=state == "begun")

    def _start(self, name: str, *, resumed: bool) -> None:
        place = min(set(range(self.jobs)) - {place for _, place in self._running.values()})
        environment = {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        process = processes.start(self.argv(name), log_path(name, self.root), environment)
        cores = sorted(os.sched_getaffinity(0))
        if self.jobs <= len(cores):
            os.sched_setaffinity(process.pid, {cores[place]})
        self._running[name] = (process, place)
        self.event(name, "resumed" if resumed else "started", "")

    def _collect(self) -> None:
        for name, (process, _) in list(self._running.items()):
            if process.poll() is None:
                continue
            del self._running[name]
            if process.returncode == 0:
                self._end(name, "done")
            else:
                self._end(name, "failed", f"{_said(log_path(name, self.root))} (exit {process.returncode})")

    def _end(self, name: str, state: State, details: str = "") -> None:
        self.outcomes[name] = Outcome(name, state, details)
        self.event(name, state, details)


def log_path(name: str, root: Path) -> Path:
    """What a run of a sweep printed."""
    return root / ".sweep" / f"{name}.log"


def standing(planned: Planned, root: Path) -> Outcome:
    """How a run stands now, after some other engine has worked on the plan."""
    try:
        state = state_of(planned, root)
    except CwrError as error:
        return Outcome(planned.name, "failed", str(error))
    log = log_path(planned.name, root)
    details = "" if state == "done" or not log.exists() else _said(log)
    return Outcome(planned.name, state, details)


def require_base(planned: Planned, root: Path) -> None:
    """Raises MissingArtifact when the run that `planned` starts from is not done."""
    if planned.base is None:
        return
    folder = root / planned.base
    if not (folder / "manifest.json").exists() or load_run(folder).state != "done":
        raise MissingArtifact(f"run {planned.name} starts from {planned.base}, which is not done")


def _said(log: Path) -> str:
    """The last error line of a log, or its last line."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or ["it said nothing"])[-1]
