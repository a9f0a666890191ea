"""New cities put in the wrong place, off the map, or where they belong, are told apart at each checkpoint."""

from functools import lru_cache

import numpy as np
import pytest
import torch

from cwr_mech.activations.site import POSITIONS, Site
from cwr_mech.analysis.routing.displacement import Origin, displaced
from cwr_mech.analysis.routing.trajectory import (
    ChosenSite,
    chosen_sites,
    clearest,
    placed,
    read,
    trajectory,
)
from cwr_mech.config import ModelConfig, WorldConfig
from cwr_mech.errors import AnalysisError
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.training.runs import load_run
from cwr_mech.world.cities import World, load_world

P = 16


@lru_cache
def world() -> World:
    return load_world(WorldConfig(source="uniform", n_cities=140, new="scattered", n_new=20))


@lru_cache
def model(seed: int = 3) -> HookedQwen2:
    config = ModelConfig(n_layers=3, d_model=P, n_heads=2, d_mlp=24, init_std=0.3)
    return HookedQwen2(config, seed=seed).eval()


def activations(how: str) -> np.ndarray:
    """Ordinary cities on a curved surface; new ones on it, on it at another's place, or beside it."""
    rng = np.random.default_rng(0)
    mix = np.linalg.qr(rng.standard_normal((P, P)))[0]
    is_new = np.asarray(world().is_new)
    xy = world().xy.astype(float)
    if how == "misplaced":
        xy[is_new] = np.roll(xy[is_new], 7, axis=0)
    unit = (xy - xy.mean(axis=0)) / 1000
    x = np.c_[unit, 0.3 * unit**2] @ mix[:4] + 0.03 * rng.standard_normal((len(xy), P))
    if how == "off":
        x[is_new] += 1.5 * mix[10]
    return x


# how, error along the map in tenths of a degree, distance off it in ordinary cities', similarity to the map
CASES = [
    ("there", (0, 150), (0.7, 1.6), (0.9, 1.01)),
    ("misplaced", (400, 4000), (0.7, 1.6), (-0.5, 0.5)),
    ("off", (0, 400), (5, 50), (0.9, 1.01)),
]


@pytest.mark.parametrize(("how", "along", "off", "similar"), CASES)
def test_misplaced_and_off_the_map_are_told_apart(
    how: str, along: tuple[float, float], off: tuple[float, float], similar: tuple[float, float]
) -> None:
    found = placed(activations(how), world(), np.random.default_rng(1))
    assert found["n_new"] == 20
    assert along[0] <= found["along_new"] <= along[1]
    assert off[0] <= found["off_new"] <= off[1]
    assert similar[0] <= found["cka_new"] <= similar[1]
    assert found["along_old"] < 150  # ordinary cities stay where they are whatever happens to new ones
    assert 0.7 < found["off_old"] < 1.6
    assert (found["excess_along_lo"] > 100) == (how == "misplaced")
    assert (found["excess_off_lo"] > 1) == (how == "off")
    assert (found["probe_new"] > 2 * found["probe_old"]) == (how == "misplaced")


def test_a_map_that_turns_as_a_whole_displaces_nobody() -> None:
    turn = np.linalg.qr(np.random.default_rng(9).standard_normal((P, P)))[0]
    plain, turned = (
        placed(x, world(), np.random.default_rng(1))
        for x in (activations("off"), 3 * activations("off") @ turn + 5)
    )
    for key in ("along_new", "off_new", "cka_new", "excess_along", "probe_old"):
        assert turned[key] == pytest.approx(plain[key], rel=0.02), key


def test_the_clearest_place_is_where_place_explains_most() -> None:
    spot = clearest(model(), world(), "distance")
    tried = [clearest(model(), world(), "distance", [position]).variance for position in POSITIONS]
    assert spot.variance == max(tried)
    assert spot.layer < 2  # the last block's output at a city is read by no answer
    assert spot.at.hook == f"blocks.{spot.layer}.hook_resid_post"
    alike = HookedQwen2(model().config, seed=3)
    with torch.no_grad():
        alike.embed.W_E[:] = alike.embed.W_E[:1]
    with pytest.raises(AnalysisError, match="cannot be told apart"):
        clearest(alike, world(), "distance")


def test_a_base_is_read_where_its_answers_read_and_where_its_map_is_clearest() -> None:
    run = load_run("zoo:small-seed2")
    cause, decodable = chosen_sites(run.model(), run.world(), "distance", run.config.data.tasks)
    assert (cause.chosen, str(cause.at)) == ("cause", "L1, last digit")
    assert cause.iia > 0.8
    assert not cause.weak
    assert (decodable.chosen, decodable.at.position) == ("decodability", "delimiter")
    assert decodable.variance > cause.variance  # the map is clearer there,
    assert decodable.iia < 0.1  # and nothing of it is read
    assert decodable.weak
    row = trajectory({8000: run.model}, run.world(), [cause, decodable])
    assert [(r["chosen"], r["weak"]) for r in row] == [("cause", False), ("decodability", True)]
    untrained = chosen_sites(model(), world(), "distance", ("distance", "angle"))  # reads no city anywhere
    assert [(spot.chosen, spot.weak) for spot in untrained] == [("decodability", True)]


def test_followed_prompts_are_read_everywhere_and_others_at_the_end() -> None:
    spots = [ChosenSite("distance", Site(1), 0.5), ChosenSite("angle", Site(0, position="delimiter"), 0.5)]
    loads: list[int] = []

    def loader(step: int):
        def load() -> HookedQwen2:
            loads.append(step)
            return model(step)

        return load

    steps = {step: loader(step) for step in (0, 5, 9)}
    rows = trajectory(steps, world(), spots, followed=["angle"])
    assert [(row["step"], row["prompt"]) for row in rows] == [
        (0, "angle"),
        (5, "angle"),
        (9, "distance"),
        (9, "angle"),
    ]
    assert {(row["layer"], row["site"]) for row in rows} == {(1, "last_digit"), (0, "delimiter")}
    assert loads == [0, 5, 9]
    again = trajectory({9: steps[9]}, world(), spots)
    assert again == rows[2:]  # what a checkpoint shows does not depend on the others asked for
    with pytest.raises(AnalysisError, match="no new cities"):
        trajectory(steps, load_world(WorldConfig(n_cities=60)), spots)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_planted_share_of_the_displacement_is_recovered(share: float) -> None:
    rng = np.random.default_rng(0)
    mix = np.linalg.qr(rng.standard_normal((P, P)))[0]  # as in `activations`: the first two carry the places
    x, noise = activations("misplaced"), rng.standard_normal((world().n, P))
    inside, outside = noise[:, :2] @ mix[:2] / np.sqrt(2), noise[:, 4:] @ mix[4:] / np.sqrt(P - 4)
    after = x + 0.5 * (np.sqrt(share) * inside + np.sqrt(1 - share) * outside)
    found = displaced(Origin.fit(x, world()), after, world(), np.random.default_rng(2))
    for group in ("new", "old"):
        value, low, high = (found[f"moved_{group}{end}"] for end in ("", "_lo", "_hi"))
        assert low - 0.02 <= share <= high + 0.02
        assert abs(value - share) < 0.1
        assert 0.1 < found[f"moved_{group}_null"] < 0.3  # three or four of sixteen directions
        assert found[f"moved_{group}_like"] == pytest.approx(share, abs=0.15)  # as cities vary: on the map
    turn = np.linalg.qr(np.random.default_rng(9).standard_normal((P, P)))[0]
    turned = displaced(Origin.fit(x @ turn, world()), after @ turn, world(), np.random.default_rng(2))
    assert turned["moved_new"] == pytest.approx(found["moved_new"], abs=1e-6)


def test_displacements_are_told_from_the_origin_and_only_where_there_is_one() -> None:
    spots = [ChosenSite("distance", Site(1), 0.5), ChosenSite("angle", Site(0, position="delimiter"), 0.5)]
    origin = {spots[0]: Origin.fit(read(model(0), world(), spots[0]), world())}
    (plain, other), (first, second) = (
        trajectory({9: lambda: model(1)}, world(), spots, origins=given) for given in ({}, origin)
    )
    assert second == other
    moved = {key for key in first if key.startswith("moved_")}
    assert {plain[key] for key in moved} == {None}
    assert {key: first[key] for key in plain if key not in moved} == {
        key: value for key, value in plain.items() if key not in moved
    }
    assert 0 < first["moved_new"] < 1
    unmoved = trajectory({0: lambda: model(0)}, world(), spots[:1], origins=origin)
    assert {unmoved[0][key] for key in moved} == {None}
