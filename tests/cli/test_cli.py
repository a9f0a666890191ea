"""The command line's shell: what is loaded, what an error looks like, how an interruption ends."""

import ast
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from cwr_mech_cli import common
from cwr_mech_cli import main as cli
from paths import ROOT
from typer.testing import CliRunner

from cwr_mech import errors
from cwr_mech.errors import CorruptArtifact, CwrError, MissingArtifact, TrainingDiverged, UnknownName

CLI = ROOT / "cli"
HEAVY = ("torch", "matplotlib", "scipy", "sklearn", "h5py", "transformers")
LIGHT = {"typer", "rich", "cwr_mech.artifacts", "cwr_mech.errors", "cwr_mech.training.folders"}
LIGHT |= {"cwr_mech.render.numbers", "cwr_mech.render.columns"}
LIGHT |= {"cwr_mech.analysis.registry", "cwr_mech.analysis.study"}
LIGHT |= {"cwr_mech.experiments", "cwr_mech.experiments.processes"}

ENDINGS = (
    (MissingArtifact("no such file: x", "cwr-mech cache-acts"), 2, ["error: no such file: x", "hint: cwr"]),
    (CorruptArtifact("x.h5 is truncated"), 2, ["error: x.h5 is truncated"]),
    (UnknownName("task", "angel", ["distance", "angle"]), 2, ["unknown task 'angel'", "mean 'angle'?"]),
    (TrainingDiverged("the loss is no longer a number"), 1, ["error: the loss is no longer a number"]),
    (CwrError("[bold] is not markup here"), 1, ["error: [bold] is not markup here"]),
    (KeyboardInterrupt(), 130, ["error: interrupted"]),
    (ZeroDivisionError("division"), 1, ["Traceback", "ZeroDivisionError", "this is a bug in cwr-mech"]),
)  # fmt: skip


def raising(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(("error", "code", "words"), ENDINGS)
def test_errors_become_one_line_and_a_code(error: BaseException, code: int, words: list[str]) -> None:
    app = typer.Typer()
    app.command()(cli.guarded(raising(error)))
    done = CliRunner().invoke(app, [])
    assert done.exit_code == code
    assert done.stdout == ""
    assert all(word in done.stderr for word in words), done.stderr
    if not isinstance(error, ZeroDivisionError):
        assert "Traceback" not in done.stderr
        assert len(done.stderr.strip().splitlines()) <= 2


def test_every_library_error_has_an_exit_code() -> None:
    classes = [
        value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, CwrError)
    ]
    assert len(classes) > 8
    for kind in classes:
        error = kind("thing", "x", []) if kind is UnknownName else kind("message")
        assert cli.explain(error) == (2 if isinstance(error, errors.UserError) else 1)


def run(*args: str, code: str = "") -> subprocess.CompletedProcess[str]:
    command = ["-c", code] if code else ["-m", "cwr_mech_cli.main"]
    return subprocess.run([sys.executable, *command, *args], capture_output=True, text=True)


def test_unknown_commands_and_options_exit_with_2() -> None:
    done = run("tarin")
    assert done.returncode == 2
    assert "unknown command 'tarin'" in done.stderr
    assert "did you mean 'train'?" in done.stderr
    assert run("--no-such-option").returncode == 2


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from cwr_mech_cli.main import COMMANDS, build_app\n"
        "for args in [[], *([row.name] for row in COMMANDS)]:\n"
        "    done = CliRunner().invoke(build_app(args), [*args, '--help'])\n"
        "    assert done.exit_code == 0 and 'Usage' in done.output, (args, done.output)\n"
        f"    print(args, [name for name in {HEAVY} if name in sys.modules])\n"
    )
    done = run(code=code)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(cli.COMMANDS) + 1
    assert [line for line in lines if not line.endswith("[]")] == []


def test_one_idea_has_one_name() -> None:
    """--tasks is understood wherever tasks are taken, and so are --layers and --sites."""
    for command, options in {"patch": ("--tasks", "--task"), "data": ("--tasks", "--task"),
                             "probe": ("--prompts", "--tasks", "--layers", "--sites")}.items():  # fmt: skip
        shown = (
            CliRunner().invoke(cli.build_app([command]), [command, "--help"], env={"COLUMNS": "200"}).output
        )
        assert [option for option in options if option not in shown] == [], command


def test_flags_are_shown_as_flags() -> None:
    shown = CliRunner().invoke(cli.build_app(["train"]), ["train", "--help"], env={"COLUMNS": "200"}).output
    lines = {line.split()[1]: line for line in shown.splitlines() if len(line.split()) > 1}
    assert "<" not in lines["--resume"]
    assert "<int" in lines["--seed"]  # control: what takes a value says so


def test_help_is_wrapped_once() -> None:
    text = "One line,\nwrapped in the source.\n\n    Another paragraph.\n    "
    assert cli.unwrapped(text) == "One line, wrapped in the source.\n\nAnother paragraph."


def test_a_backend_that_is_not_here_stops_no_command(tmp_path: Path) -> None:
    """As in a notebook's `!cwr-mech plot`, whose backend need not be installed where cwr-mech is."""
    code = (
        "import sys; from cwr_mech_cli.main import main; sys.argv = ['cwr-mech', *sys.argv[1:]]\n"
        "if sys.argv[1:]:\n    try: main()\n    except SystemExit: pass\n"
        "import matplotlib.figure; print(matplotlib.get_backend())"
    )
    environment = os.environ | {"MPLBACKEND": "nosuch"}
    for words, ended in ((["runs"], 0), ([], 1)):  # control: without our own settings it fails
        done = subprocess.run(
            [sys.executable, "-c", code, *words], cwd=tmp_path, env=environment, capture_output=True
        )
        assert done.returncode == ended, done.stderr
        assert ended or done.stdout.split()[-1] == b"agg"


def test_help_lists_every_command_with_its_line() -> None:
    done = CliRunner().invoke(cli.build_app(["--help"]), ["--help"], env={"COLUMNS": "160"})
    for row in cli.COMMANDS:
        assert row.name in done.output
        assert row.help in done.output


def test_command_modules_import_only_light_things() -> None:
    for path in CLI.glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            else:
                continue
            for name in names:
                light = name.split(".")[0] in (sys.stdlib_module_names | LIGHT) or name in LIGHT
                assert light, f"{path.name}:{node.lineno} imports {name} at its top"


SLEEPER = (
    "import sys, time\n"
    "import cwr_mech_cli.main as cli\n"
    "def command():\n"
    "    print('ready', flush=True)\n"
    "    time.sleep(60)\n"
    "cli._load = lambda row: command\n"
    "sys.argv = ['cwr-mech', 'runs']\n"
    "cli.main()\n"
)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_a_command_with_one_line_and_130(number: signal.Signals) -> None:
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=pipe, stderr=pipe, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "error: interrupted" in stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize("printer", ["print(line)", "say(line)"])
def test_a_closed_pipe_is_quiet(printer: str) -> None:
    code = (
        SLEEPER.replace("print('ready', flush=True)", f"[{printer} for line in ['x' * 99] * 9999]")
        .replace("time.sleep(60)", "pass")
        .replace("import sys, time", "import sys\nfrom cwr_mech_cli.common import say")
    )
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=30) == 1


NAMES = (
    ("a", True),
    ("demo-2.b_c+d", True),
    ("über", True),
    ("a b", False),
    ("", False),
    ("../x", False),
    ("a/b", False),
    (".x", False),
)


@pytest.mark.parametrize(("name", "good"), NAMES)
def test_report_names(name: str, good: bool) -> None:
    if good:
        assert common.report_folder(name) == Path("reports") / name
    else:
        with pytest.raises(errors.ConfigError, match="cannot name a report"):
            common.report_folder(name)


def test_plain_progress_says_little_and_ends(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    advance = common._plain_progress("probes", 100, "probes", lambda: now[0])
    for _ in range(100):
        now[0] += 0.25
        advance(1)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0] == "probes: 40/100 probes, 4.00/s, 15.0s left"
    assert lines[-1] == "probes: 100/100 probes, 4.00/s"


def test_tables_align_numbers_and_fit_100_columns(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [["distance", 12345, 0.98765, None], ["trianglearea", 7, 123.456, 1.0]]
    common.show_table("scores", ["task", "n", "r2", "none"], rows)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    first, second = lines[-2:]
    assert "12,345" in first
    assert first.index("12,345") + 6 == second.index(" 7 ") + 2
    assert "0.988" in first
    assert "123" in second
    assert "-" in first


DURATIONS = ((4.23, "4.2s"), (59.94, "59.9s"), (60, "1m 00s"), (190.4, "3m 10s"), (7500, "2h 05m"))


@pytest.mark.parametrize(("seconds", "text"), DURATIONS)
def test_durations(seconds: float, text: str) -> None:
    assert common.duration(seconds) == text


def test_an_impossible_report_name_is_refused_before_any_work() -> None:
    """The group is unknown, too: had the command begun, that would be the complaint."""
    done = run("eval", "zoo:small", "--cities", "nothing", "--report", "../elsewhere")
    assert done.returncode == 2
    assert "'../elsewhere' cannot name a report" in done.stderr
    assert "nothing" not in done.stderr
