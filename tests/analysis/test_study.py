"""Studies: one signature for library and command line, one record of how a result was made."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import pytest

import cwr_mech
from cwr_mech.analysis.registry import ANALYSES, shows
from cwr_mech.analysis.study import Opt, RunsArg, each, followed_by, names, stage, study, uses
from cwr_mech.errors import AnalysisError
from cwr_mech.results import Result


@study("measure")
def measure(
    runs: RunsArg = None,
    *,
    layers: Annotated[str | None, Opt("Layers.")] = None,
    draws: Annotated[int, Opt("Draws.", min=1)] = 10,
    biased: Annotated[bool, Opt("Biased.")] = False,
) -> Result:
    """Measure nothing."""
    uses("a.h5", "0" * 64)
    with stage("draws", draws) as advance:
        for _ in range(draws):
            advance(1)
    return Result("measure", "", {}, {"layers": names(layers)})


CALLS = [
    ((), {}, "cwr-mech measure"),
    (("one,two",), {}, "cwr-mech measure one two"),
    ((["one", "two"],), {"draws": 10}, "cwr-mech measure one two"),
    (("one",), {"layers": "embed,2", "draws": 3}, "cwr-mech measure one --layers embed,2 --draws 3"),
    (("a run",), {"layers": ["0", "1"], "biased": True}, "cwr-mech measure 'a run' --layers 0,1 --biased"),
]


@pytest.mark.parametrize(
    ("args", "options", "command"), CALLS, ids=lambda part: part if isinstance(part, str) else ""
)
def test_the_command_of_a_call_makes_it_again(args: tuple, options: dict, command: str) -> None:
    found = measure(*args, **options)
    assert found.command == command
    assert found.inputs == {"a.h5": "0" * 64}


def test_a_list_of_names_holds_each_once() -> None:
    assert names(" one, two,") == names(["one", "two"]) == ["one", "two"]  # control
    assert names(None) is None
    for value in ("one,two,one", ["one", " one"]):
        with pytest.raises(AnalysisError, match="one was given twice"):
            names(value)
    for value in ("", ",", " , "):
        with pytest.raises(AnalysisError, match="names nothing"):
            names(value)


def test_inputs_belong_to_the_study_that_used_them() -> None:
    @study("outer")
    def outer() -> Result:
        """A study that calls another."""
        uses("outer.h5", "1" * 64)
        inner = measure()
        assert list(inner.inputs) == ["a.h5"]
        return Result("outer", "", {}, {})

    assert list(outer().inputs) == ["outer.h5"]


def test_stages_are_silent_unless_followed() -> None:
    from contextlib import contextmanager

    seen: list[object] = []

    @contextmanager
    def reporter(title: str, total: int, unit: str):
        seen.append((title, total, unit))
        yield lambda n=1: seen.append(n)

    measure(draws=2)
    assert seen == []
    with followed_by(reporter):
        measure(draws=2)
    assert seen == [("draws", 2, "steps"), 1, 1]


@pytest.mark.parametrize("row", ANALYSES, ids=lambda row: row.name)
def test_every_analysis_is_a_function_whose_options_say_what_they_are(row) -> None:
    function = getattr(cwr_mech, row.function_name)
    assert function is row.function
    assert function.__doc__
    for parameter in inspect.signature(function).parameters.values():
        metadata = getattr(parameter.annotation, "__metadata__", ())
        assert any(isinstance(extra, Opt) and extra.help.endswith(".") for extra in metadata), parameter
        assert parameter.default is not inspect.Parameter.empty


def test_kinds_of_results_are_shown_once() -> None:
    for kind, show in shows().items():
        assert show.kind == kind
        suffixes = [plot.suffix for plot in show.figures]
        assert len(set(suffixes)) == len(suffixes)


def test_each_is_a_stage_that_advances_after_every_item() -> None:
    events: list[object] = []

    @contextmanager
    def reporter(title: str, total: int, unit: str) -> Iterator[Callable[..., object]]:
        events.append((title, total, unit))
        yield lambda n=1: events.append(n)

    with followed_by(reporter):
        for item in each((letter for letter in "ab"), "letters", "letters"):
            events.append(item)
    assert events == [("letters", 2, "letters"), "a", 1, "b", 1]
    assert list(each("ab", "letters")) == ["a", "b"]
    assert len(events) == 5  # control: nobody follows
