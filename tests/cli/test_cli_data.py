"""`cwr-mech data`: rows as text, statistics as tables, one line for each mistake."""

import re

import numpy as np
import pytest
import typer
from cwr_mech_cli.data import command
from cwr_mech_cli.main import guarded
from typer.testing import CliRunner

from cwr_mech.data.rows import generate
from cwr_mech.tasks.registry import BLOCK_ROWS
from cwr_mech.world.cities import load_world

app = typer.Typer()
app.command()(guarded(command))

SMALL = ["--n-cities", "200"]


def run(*args):
    return CliRunner().invoke(app, [*SMALL, *args], env={"COLUMNS": "100"})


def test_rows():
    found = run("--task", "crossing", "-n", "5")
    assert found.exit_code == 0
    lines = found.stdout.splitlines()
    assert lines == generate(load_world(n_cities=200), "crossing", 5).texts()
    more = BLOCK_ROWS + 2  # printed block by block
    assert run("--task", "compass", "-n", str(more), "--start", "7").stdout.splitlines() == (
        generate(load_world(n_cities=200), "compass", more, start=7).texts()
    )
    assert all(re.fullmatch(r"cross\(c_\d{4},c_\d{4};c_\d{4},c_\d{4}\)=(TRUE|FALSE)", line) for line in lines)


def test_several_tasks_and_ranges():
    found = run(
        "-t",
        "distance,inside",
        "-n",
        "2",
        "--start",
        "3",
        "--split",
        "test",
        "--new",
        "atlantis",
        "--group",
        "new",
    )
    world = load_world(n_cities=200, new="atlantis")
    expected = [
        text
        for name in ("distance", "inside")
        for text in generate(world, name, 2, start=3, split="test", group="new").texts()
    ]
    assert found.stdout.splitlines() == expected


def test_stats():
    out = run("--stats", "-n", "600").stdout
    assert "FALSE 50.0%  TRUE 50.0%" in out
    assert re.search(r"inside +FALSE +0\.50* +0\.50* +accuracy", out)
    assert re.search(r"crossing +0 +0 +0", out)
    paper = run("--stats", "-n", "2000", "--protocol", "paper", "-t", "compass").stdout
    assert re.search(r"compass +[1-9]\d* +[1-9]\d* +[1-9]\d*", paper)  # the control: splits that meet


MISTAKES = [
    (["-t", "distanse"], "unknown task 'distanse'"),
    (["--protocol", "sloppy"], "unknown protocol 'sloppy'"),
    (["--split", "dev"], "unknown split 'dev'"),
    (["--group", "new"], "this world has none"),
    (["-n", "0"], "at least one row"),
    (["--new", "holdout:Atlantis"], "Atlantis"),
]


@pytest.mark.parametrize(("args", "message"), MISTAKES)
def test_mistakes(args, message):
    found = run(*args)
    assert found.exit_code == 2
    errors = found.stderr.splitlines()
    assert errors[0].startswith("error: ")
    assert message in errors[0]
    assert len(errors) <= 2


def test_places_of_a_town_are_told_apart_by_a_finer_unit(tmp_path):
    """What the command says of a file whose places coincide is an option that mends it."""
    rng = np.random.default_rng(0)
    places = rng.uniform((8.45, 47.35), (8.55, 47.45), (60, 2))
    path = tmp_path / "town.csv"
    path.write_text("name,lon,lat\n" + "".join(f"P{i},{x:.5f},{y:.5f}\n" for i, (x, y) in enumerate(places)))
    ask = ["--world", str(path), "-t", "distance", "-n", "2"]
    coarse = CliRunner().invoke(app, ask, env={"COLUMNS": "200"})
    assert coarse.exit_code == 0
    first, *rows = coarse.stdout.splitlines()
    found = re.search(r"% of the places in .* share .*(--unit \S+) tells", first)
    assert found is not None, first
    fine = CliRunner().invoke(app, [*ask, *found[1].split()], env={"COLUMNS": "200"})
    assert fine.exit_code == 0
    assert len(fine.stdout.splitlines()) == len(rows) == 2  # and nothing more is said
    assert load_world(source=str(path), unit=float(found[1].split()[1])).shared <= 0.01
