"""What an update consists of, against updates that are known."""

import pytest

from cwr_mech.analysis.anatomy.modules import named_modules, reading_layer, sides
from cwr_mech.config import ModelConfig
from cwr_mech.errors import AnalysisError, UnknownName
from cwr_mech.training.runs import load_run

CFG = ModelConfig(n_layers=4, d_model=16, n_heads=2, d_mlp=24)


def never() -> int:
    raise AssertionError("the reading layer is not needed")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("embed", ("E",)),
        ("U,L0,embed", ("E", "L0", "U")),
        ("L3", ("L3",)),
        ("city", ("E", "L0", "L1")),
        ("answer", ("L2", "L3", "U")),
    ],
)
def test_modules_are_named_alone_or_by_side(text: str, expected: tuple[str, ...]) -> None:
    assert named_modules(text, CFG, (lambda: 1) if text in ("city", "answer") else never) == expected
    with pytest.raises(UnknownName, match="unknown module 'L4'"):
        named_modules("E,L4", CFG, never)


def test_sides_are_all_modules_once() -> None:
    for layer in range(-1, 4):
        both = sides(CFG, layer)
        assert (*both["city"], *both["answer"]) == CFG.modules
    assert sides(CFG, -1)["city"] == ("E",)


def test_the_zoos_cities_are_read_after_block_1() -> None:
    run = load_run("zoo:small")
    assert reading_layer(run.model(), run.world(), ["distance"]) == 1
    untaught = load_run("zoo:small-angle")
    with pytest.raises(AnalysisError):
        reading_layer(untaught.model(), untaught.world(), ["angle"])
