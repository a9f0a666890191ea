"""Processes that do not outlive the one that started them."""

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

FORCE_SECONDS = 60.0
"""A process that was asked to stop is killed after this time; its last saved state is kept anyway."""
PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that the kernel sends to a process when the thread that started it ends."""


def ends_with_parent(wish: int = signal.SIGTERM) -> Callable[[], None]:
    """A `preexec_fn` of `subprocess`: the new process gets `wish` when this one ends, by SIGKILL too.

    The kernel does it, so that nothing needs to be alive to tell. Only Linux can; elsewhere nothing happens.
    """
    parent = os.getpid()
    prctl = getattr(ctypes.CDLL(None), "prctl", None)

    def begin() -> None:
        if prctl is not None:
            prctl(PR_SET_PDEATHSIG, int(wish), 0, 0, 0)
            if os.getppid() != parent:  # it ended before the kernel was told
                os.kill(os.getpid(), wish)

    return begin


def start(argv: Sequence[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a command that appends what it says to `log`, `environment` added to ours.

    It has a session of its own, so that Ctrl-C is told to it once, by `stop`, and not amid the saving of its
    state again; and it is told to end when this process ends, however that happens.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as output:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=os.environ | environment,
            start_new_session=True,
            preexec_fn=ends_with_parent(),
        )


def stop(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """Ask commands that still run to save what they must and end, and wait for them."""
    left = [process for process in processes if process.poll() is None]
    for process in left:
        process.send_signal(signal.SIGTERM)
    for process in left:
        try:
            process.wait(FORCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
