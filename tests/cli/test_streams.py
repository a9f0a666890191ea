"""What a daemon, cron, a full disk or an old terminal gives for standard streams; and signals."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

CLI = f"{sys.executable} -m cwr_mech_cli.main"
ASCII = "LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 PYTHONIOENCODING=ascii"

STREAMS = [
    ("data --task distance -n 2 >&-", 0, ""),
    ("data --task distance -n 100000000000 | head -n 1", 0, ""),
    ("data --task distance -n 100000000000 --stats", 2, "at most 10,000,000 rows"),
    ("--help >&-", 0, ""),
    ("data --task distance -n 2 >&- 2>&-", 0, ""),
    ("data --task nothing >&- 2>&-", 2, ""),
    ("data --task distance -n 2 <&-", 0, ""),
    ("data --task distance -n 2 >/dev/full", 2, "No space left"),
    ("--help >/dev/full", 2, ""),
    ("data --help >/dev/full", 2, ""),
    ("data --task nothing 2>/dev/full", 2, ""),
]


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of shell, its errors kept apart from the program's own redirections."""
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=folder)


@pytest.mark.parametrize(("rest", "code", "said"), STREAMS)
def test_streams_that_are_closed_or_full(rest: str, code: int, said: str, tmp_path: Path) -> None:
    done = shell(f"{CLI} {rest}", tmp_path)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_file_never_becomes_a_closed_standard_stream(tmp_path: Path) -> None:
    """With stdout closed the next file opened would be number 1, and every print would land in it."""
    code = (
        "from cwr_mech_cli import main as cli; cli._open_streams(); f = open('x', 'w'); print('print'); "
        "import os; os.write(1, b'low'); f.close(); assert f.name == 'x'"
    )
    done = shell(f'{sys.executable} -c "{code}" >&- 2>&- <&-', tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "x").read_text() == ""


@pytest.mark.parametrize("command", ["patch --help", "finetune --help", "runs", "data --task nöthing"])
def test_a_terminal_that_knows_only_ascii(command: str, tmp_path: Path) -> None:
    done = shell(f"{ASCII} {CLI} {command}", tmp_path)
    assert done.returncode == (2 if "ö" in command else 0)
    assert "Traceback" not in done.stderr
    done.stdout.encode("ascii")


def test_words_that_are_no_utf8_are_refused(tmp_path: Path) -> None:
    done = shell(f"{CLI} cache-acts --show $'caf\\xe9.h5'", tmp_path)
    assert done.returncode == 2
    assert "not valid UTF-8" in done.stderr


AMID_A_CALLBACK = """
import os, signal, sys, time, weakref
from cwr_mech_cli.interrupt import answer_signals
if sys.argv[1] == "answered":
    answer_signals(None)
else:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
thing = type("Thing", (), {})()
kept = weakref.ref(thing, lambda gone: os.kill(os.getpid(), signal.SIGTERM) or len("here"))
try:
    del thing
    time.sleep(1)
    print("went on")
except KeyboardInterrupt:
    print("ended")
"""


@pytest.mark.parametrize(("how", "end"), [("answered", "ended"), ("as Python does", "went on")])
def test_a_signal_amid_a_callback_is_not_lost(how: str, end: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(AMID_A_CALLBACK)
    done = shell(f"{sys.executable} program.py '{how}'", tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, end)
    assert ("Exception ignored" in done.stderr) == (end == "went on")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("eval tiny --tasks ''", "--tasks"),
        ("probe tiny --report=", "--report"),
        ("eval tiny --tasks , -n 4", "--tasks"),
        ("probe tiny --layers=,", "--layers"),
        ("runs ' '", "a word"),
        ("plot -- ''", "a word"),
    ],
)
def test_an_empty_word_is_no_way_to_ask_for_the_default(words: str, named: str, tmp_path: Path) -> None:
    done = shell(f"{CLI} {words}", tmp_path)
    assert done.returncode == 2
    assert f"error: {named} is empty" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_settings_of_matplotlib_that_it_cannot_read_are_no_bug_of_ours(tmp_path: Path) -> None:
    code = (
        "import sys; from cwr_mech_cli import main as cli\n"
        "try: import matplotlib\nexcept Exception as error: sys.exit(cli.explain(error))"
    )
    (tmp_path / "program.py").write_text(code)
    command = f"{sys.executable} program.py"
    assert shell(command, tmp_path).returncode == 0  # control
    (tmp_path / "matplotlibrc").write_text("font.family: Größe", encoding="latin-1")
    done = shell(command, tmp_path)
    assert done.returncode == 2
    assert "error: matplotlib cannot read its settings" in done.stderr
    assert "Traceback" not in done.stderr


BUSY = """
import sys
from pathlib import Path
from threading import Timer
import numpy as np
from cwr_mech.artifacts import atomic_file
from cwr_mech_cli.interrupt import answer_signals
answer_signals(sys.argv[1])
x = np.random.default_rng(0).normal(size=(int(sys.argv[2]),) * 2)
with atomic_file("half.txt") as part:
    part.write_text("half")
    Timer(1.0, lambda: print("ready", flush=True)).start()  # by then the decomposition has begun
    np.linalg.svd(x)
print("computed", flush=True)
"""


@pytest.mark.parametrize(("command", "size", "computes"), [("cka", 6000, False), ("cka", 2, True)])
def test_a_signal_does_not_wait_for_native_code(
    command: str, size: int, computes: bool, tmp_path: Path
) -> None:
    """A decomposition of minutes is left; control: a short one is done when nobody interrupts it."""
    argv = [sys.executable, "-c", BUSY, command, str(size)]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as busy:
        assert busy.stdout is not None
        if not computes:
            assert busy.stdout.readline() == "ready\n"
            busy.send_signal(signal.SIGTERM)
        out, err = busy.communicate()
    assert ("computed" in out) == computes
    assert busy.returncode == (0 if computes else 130)
    assert ("error: interrupted" in err) != computes
    assert [path.name for path in tmp_path.iterdir()] == (["half.txt"] if computes else [])


NOHUP = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_IGN if sys.argv[1] == "nohup" else signal.SIG_DFL)
from cwr_mech_cli.interrupt import answer_signals
answer_signals(None)
try:
    os.kill(os.getpid(), signal.SIGHUP)
    print("goes on")
except KeyboardInterrupt:
    print("ends")
"""


@pytest.mark.parametrize(("start", "said"), [("nohup", "goes on"), ("plain", "ends")])
def test_a_hang_up_ends_a_command_but_not_under_nohup(start: str, said: str) -> None:
    done = subprocess.run([sys.executable, "-c", NOHUP, start], capture_output=True, text=True)
    assert done.stdout.strip() == said, done.stderr
