"""Synthetic worlds, and worlds that users register."""

from typing import Any

import numpy as np
import pytest

from cwr_mech.errors import ConfigError, UnknownName, WorldError
from cwr_mech.world.cities import load_world
from cwr_mech.world.patterns import SYNTHETIC, WORLDS, register_world
from cwr_mech.world.places import X_MAX, Y_MAX


@pytest.mark.parametrize("source", SYNTHETIC)
@pytest.mark.parametrize("n", [1, 7, 900])
def test_synthetic_worlds(source: str, n: int) -> None:
    world = load_world(source=source, n_cities=n, id_digits=3)
    assert world.n == n == len(np.unique(world.ids))
    assert (np.abs(world.xy) <= (X_MAX, Y_MAX)).all()
    assert load_world(source=source, n_cities=n, id_digits=3).sha256 == world.sha256
    if n == 900:
        assert 8 <= len(set(world.region.tolist())) <= 20


def test_synthetic_worlds_have_their_shape() -> None:
    uniform, grid, clusters, ring = (load_world(source=source, n_cities=800).xy for source in SYNTHETIC)
    radius = np.hypot(*ring.T)
    assert radius.min() > 799
    assert radius.max() < 801
    np.testing.assert_array_equal(np.unique(np.diff(np.unique(grid[:, 0]))), [90])
    np.testing.assert_array_equal(np.unique(np.diff(np.unique(grid[:, 1]))), [90])

    def nearest(xy: np.ndarray) -> float:
        distance = np.hypot(*(xy[:, None] - xy[None]).T).astype(float)
        np.fill_diagonal(distance, np.inf)
        return float(np.median(distance.min(axis=0)))

    assert nearest(clusters) < 0.6 * nearest(uniform) < 0.6 * nearest(grid)


def spiral(n: int, rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    turn = np.linspace(0.5, 4 * np.pi, n) + rng.uniform(0, 0.01, n)
    xy = np.rint(60 * turn[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1)).astype(np.int64)
    return xy, ["inner" if angle < 6 else "outer" for angle in turn]


@pytest.fixture
def own_worlds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    list(WORLDS)
    monkeypatch.setattr(WORLDS, "_things", dict(WORLDS._things))


@pytest.mark.usefixtures("own_worlds")
def test_a_registered_world() -> None:
    with pytest.raises(UnknownName, match="unknown world 'spiral'"):
        load_world(source="spiral", n_cities=50)
    register_world("spiral", spiral)
    world = load_world(source="spiral", n_cities=50, seed=3, new="holdout:outer")
    again = load_world(source="spiral", n_cities=50, seed=3, new="holdout:outer")
    assert world.sha256 == again.sha256
    assert world.sha256 != load_world(source="spiral", n_cities=50, seed=4, new="holdout:outer").sha256
    assert set(world.region[world.new()]) == {"outer"}
    assert len(world.old()) == sum(region == "inner" for region in world.region) > 5
    for name, what in (("ring", "there is a world 'ring' already"), ("cities", "cannot be called 'cities'")):
        with pytest.raises(ConfigError, match=what):
            register_world(name, spiral)


@pytest.mark.usefixtures("own_worlds")
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda n, rng: (np.zeros((n, 2)), ["r"] * n), "gave float64 coordinates"),
        (lambda n, rng: (np.zeros((n, 3), dtype=int), ["r"] * n), r"coordinates \(9, 3\)"),
        (lambda n, rng: (np.zeros((n, 2), dtype=int), ["r"]), "and 1 regions for 9 cities"),
        (lambda n, rng: (np.full((n, 2), 901), ["r"] * n), "outside -1800..1800 by -900..900"),
    ],
)
def test_a_world_function_that_gives_no_cities(function: Any, message: str) -> None:
    register_world("own", function)
    with pytest.raises(WorldError, match=message):
        load_world(source="own", n_cities=9)
