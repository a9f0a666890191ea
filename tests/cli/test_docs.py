"""The documentation follows from the program: generated pages, pictures, and tutorials that run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import docs_pages
from cwr_mech_cli.main import COMMANDS

DOCS = ROOT / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.py"))
NAVIGATION = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]


def test_every_command_has_its_options() -> None:
    text = docs_pages.commands()
    assert [row.name for row in COMMANDS if f"## `cwr-mech {row.name}`" not in text] == []
    probe = text.split("## `cwr-mech probe`")[1].split("\n## ")[0]
    for option in ("--layers", "--folds", "--report"):
        assert option in probe
    assert "--no-such-option" not in probe


def test_the_tables_of_the_readme_follow_from_the_program() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert docs_pages.readme(text) == text, "make readme"
    assert docs_pages.linked_verdicts(["ripe"]) != docs_pages.linked_verdicts()  # control: of both reports
    assert docs_pages.readme(text.replace("| `cwr-mech probe` |", "| `cwr-mech prob` |")) == text  # control


def test_reports_linked_from_the_readme_are_part_of_the_repository() -> None:
    """A new report is ignored like a user's own, and missing from every clone, until .gitignore names it."""
    text, reports = ((ROOT / folder / "README.md").read_text(encoding="utf-8") for folder in (".", "reports"))
    linked = re.findall(r"\]\((reports/[^)#\s]+)", text)
    assert [path for path in linked if not (ROOT / path).is_file()] == []
    within = re.findall(r"\]\((?!\.\.|#)([^)#\s]+)", reports)
    assert [path for path in within if not (ROOT / "reports" / path).is_file()] == []
    kept = re.findall(r"^!/reports/(\w+)/$", (ROOT / ".gitignore").read_text(encoding="utf-8"), re.MULTILINE)
    assert kept == sorted({path.split("/")[0] for path in within if "/" in path})
    assert {path.split("/")[1] for path in linked if path.count("/") > 1} <= set(kept)


def test_every_public_name_has_a_place() -> None:
    import cwr_mech

    found = re.findall(r"^::: cwr_mech\.[\w.]+\.(\w+)$", docs_pages.library(), flags=re.MULTILINE)
    assert found == cwr_mech.__all__


def test_pages_and_pictures_are_there() -> None:
    pages = {path.relative_to(DOCS).as_posix() for path in [*DOCS.rglob("*.md"), *TUTORIALS]}
    named = re.findall(r": ([\w/-]+\.(?:md|py))$", NAVIGATION, flags=re.MULTILINE)
    assert set(named) == pages | set(docs_pages.PAGES)
    for path in DOCS.rglob("*.md"):
        text = docs_pages.filled(path.read_text(encoding="utf-8"))
        assert "<!--" not in text
        for report, picture in re.findall(r"figures/(\w+)/([\w-]+\.png)", text):
            assert (ROOT / "reports" / report / "figures" / picture).is_file()
    with pytest.raises(KeyError):
        docs_pages.filled("<!-- generated: nothing -->")


def test_commands_named_in_pages_exist() -> None:
    known = {row.name for row in COMMANDS}
    for path in [*DOCS.rglob("*.md"), *TUTORIALS]:
        text = path.read_text(encoding="utf-8")
        named = set(re.findall(r"(?:`|^)cwr-mech ([a-z][a-z-]+)", text, flags=re.MULTILINE))
        assert named <= known, path.name
    assert "no-such-command" not in known


def test_what_is_written_by_hand_is_there_and_so_are_its_tests() -> None:
    lines = (DOCS / "by-hand.md").read_text(encoding="utf-8").splitlines()
    rows = lines[lines.index("|---|---|---|---|") + 1 :]
    assert len(rows) > 10
    for line in rows:
        code, _, _, held = line.strip("|").split(" | ")
        first, *others = re.findall(r"`([\w/.-]+\.py|[\w/-]+/)`", code) or [""]
        folder = Path(first).parent if first.endswith(".py") else Path(first)
        for name in filter(None, [first, *(f"{folder}/{other}" for other in others if "/" not in other)]):
            assert any((ROOT / top / name).exists() for top in ("cwr_mech", ".")), name
        tests = re.findall(r"`(tests/[\w/.-]+)`", held)
        assert tests, line
        for name in tests:
            assert (ROOT / name).exists(), name


@pytest.mark.slow
@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_runs(tutorial: Path, tmp_path: Path) -> None:
    """In an empty folder, from beginning to end; its own assertions say what must come out."""
    done = subprocess.run(
        [sys.executable, str(tutorial)],
        cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout
