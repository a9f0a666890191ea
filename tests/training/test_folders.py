"""One place turns names into folders: paths, runs/NAME, and `zoo:NAME` on the search path."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cwr_mech.errors import MissingArtifact
from cwr_mech.training import folders
from cwr_mech.training.folders import SHIPPED, find_run, own_zoo, zoo_models

Make = Callable[[str], Path]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A function that makes an empty run below a folder which holds a clone, a home and a package."""
    monkeypatch.setattr(folders, "PACKAGE", tmp_path / "package")
    monkeypatch.delenv(folders.HOME, raising=False)
    (tmp_path / "clone" / "notebooks").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "clone" / "notebooks")

    def made(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
        return folder

    return made


def test_paths_and_names(make: Make) -> None:
    run = make("clone/notebooks/runs/first")
    assert find_run("first") == find_run("runs/first") == Path("runs/first")
    assert find_run(run) == run
    assert find_run() == Path("runs/first")


def test_the_zoo_is_searched_in_order(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a folder inside the clone; each further place is seen, and an earlier one hides it."""
    clone = make("clone/zoo/a")
    assert find_run("zoo:a") == clone
    home = make("home/zoo/a")
    assert find_run("zoo:a") == clone  # control: not before it is named
    monkeypatch.setenv(folders.HOME, str(tmp_path / "home"))
    assert find_run("zoo:a") == home
    package = make("package/zoo/a")
    assert find_run("zoo:a") == package
    only = make("clone/zoo/b")
    assert zoo_models() == {"a": package, "b": only}


def test_the_checkout_of_an_editable_install(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make("checkout/zoo/c")
    monkeypatch.setattr(folders, "PACKAGE", tmp_path / "checkout" / "package")
    with pytest.raises(MissingArtifact):  # control: a folder without pyproject.toml is no checkout
        find_run("zoo:c")
    (tmp_path / "checkout" / "pyproject.toml").touch()
    assert find_run("zoo:c") == model


def test_models_are_added_to_the_home_the_clone_or_here(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("package/zoo/a")
    assert own_zoo() == Path("zoo")  # never into the installed package
    make("clone/zoo/a")
    assert own_zoo() == tmp_path / "clone" / "zoo"
    monkeypatch.setenv(folders.HOME, str(tmp_path / "home"))
    assert own_zoo() == tmp_path / "home" / "zoo"


MISTAKES = (
    ("small", "did you mean 'zoo:small'?"),
    ("smal", "did you mean 'zoo:small'?"),
    ("zoo:smal", "did you mean 'zoo:small'?"),
    ("frist", "did you mean 'first'?"),
    ("zoo:first", "did you mean 'first'?"),
    ("zoo:else", "models here: zoo:small; the other models come with the repository"),
    ("nothing-like-it", "runs in runs/: first; cwr-mech zoo list names trained models"),
    ("zoo:", "models here: zoo:small"),
    ("a\0b", "runs in runs/: first"),
    ("a" * 5000, "runs in runs/: first"),
)


@pytest.mark.parametrize(("name", "hint"), MISTAKES)
def test_hints_name_what_is_here(make: Make, name: str, hint: str) -> None:
    make("clone/notebooks/runs/first")
    make("clone/zoo/small")
    with pytest.raises(MissingArtifact) as caught:
        find_run(name)
    assert hint in str(caught.value)


def test_hints_where_there_is_nothing(make: Make) -> None:
    with pytest.raises(MissingArtifact, match=f"inside a clone of it, or set {folders.HOME}"):
        find_run("zoo:small")
    for name in (None, "first"):
        with pytest.raises(MissingArtifact, match="cwr-mech train, or name a model such as zoo:small"):
            find_run(name)


def test_the_shipped_models_are_in_this_repository() -> None:
    for name in SHIPPED:
        assert (Path(__file__).parents[2] / "zoo" / name / "manifest.json").is_file()
