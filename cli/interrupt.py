"""Ctrl-C, SIGTERM and SIGHUP end a command within two seconds, also amid a long native computation.

Python runs a signal's handler between two of its own instructions, so a call into BLAS or HDF5 of a minute
would be waited for. A thread hears of the signal at once; when the main thread has not noticed in time, it
removes the temporary files of this process and ends it. Nothing is lost by that which a kill would not lose:
every file is whole or absent. Only native code that keeps Python's global lock can still delay the end.
"""

import os
import signal
import sys
import threading
from types import FrameType

PATIENCE = 1.0
"""Seconds until the main thread must have noticed."""
AGAIN = 0.1
"""Seconds until an interruption that was swallowed comes again."""
LONG_PATIENCE = 60.0
"""The same for commands that save the state of a training, after the step at hand."""
TRAINING = ("train", "finetune", "sweep", "demo")
EXIT_INTERRUPTED = 130
KEPT = "what was finished is kept, nothing is half-written; train, finetune and patch go on with --resume"
SAID = f"error: interrupted\nhint: {KEPT}\n".encode()

_noticed = threading.Event()


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    _noticed.set()
    raise KeyboardInterrupt


def _not_raised(event: "sys.UnraisableHookArgs") -> None:
    """Interrupt again where Python dropped the exception: a signal came amid a finaliser or a callback of a
    library, which can raise nothing.
    """
    if isinstance(event.exc_value, KeyboardInterrupt):
        again = threading.Timer(AGAIN, os.kill, (os.getpid(), signal.SIGINT))
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(event)


def _watch(pipe: int, patience: float) -> None:
    os.read(pipe, 1)
    if _noticed.wait(patience):
        return
    artifacts = sys.modules.get("cwr_mech.artifacts")
    if artifacts is not None:
        artifacts.remove_own_parts()
    os.write(2, SAID)
    os._exit(EXIT_INTERRUPTED)


def answer_signals(command: str | None) -> None:
    """Let the signals that end a command raise KeyboardInterrupt in the main thread, or end the process.

    SIGINT is taken back from shells, which start background jobs deaf to it.
    Under nohup SIGHUP stays ignored.
    """
    for wish in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if wish != signal.SIGHUP or signal.getsignal(wish) != signal.SIG_IGN:
            signal.signal(wish, _interrupt)
    sys.unraisablehook = _not_raised
    heard, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    patience = LONG_PATIENCE if command in TRAINING else PATIENCE
    threading.Thread(target=_watch, args=(heard, patience), daemon=True).start()
