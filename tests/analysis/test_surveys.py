"""Similarity, manifold, read-out and timeline results and their commands, on planted activation files."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from unittest.mock import Mock

import h5py
import numpy as np
import pytest
from command_line import Cli

from cwr_mech.activations.reader import ActivationStore
from cwr_mech.activations.writer import write_store
from cwr_mech.analysis.manifold import tables
from cwr_mech.analysis.manifold.placement import place_each
from cwr_mech.analysis.manifold.tables import manifold_result
from cwr_mech.analysis.manifold.timeline import timeline_result
from cwr_mech.analysis.probing.generalisation import best_sites, readout_result
from cwr_mech.analysis.probing.places import State, places_result
from cwr_mech.analysis.probing.surfacing import surfacing_result
from cwr_mech.analysis.probing.tables import probe_result
from cwr_mech.analysis.selection import (
    Item,
    choose_hooks,
    layer_number,
    run_label,
    shared_ids,
)
from cwr_mech.analysis.similarity.cka_tables import cka_result
from cwr_mech.analysis.similarity.measures import (
    MEASURES,
    Measure,
    choose_measures,
    compare_all,
    sample_cities,
)
from cwr_mech.analysis.similarity.tables import similarity_result
from cwr_mech.analysis.stats.models import Member
from cwr_mech.errors import AnalysisError, UnknownName
from cwr_mech.report.contents import all_shows
from cwr_mech.report.figures import draw
from cwr_mech.results import load_result
from cwr_mech.world.cities import World, load_world

HOOKS = ("hook_embed", "blocks.0.hook_resid_post", "blocks.1.hook_resid_post", "unembed.hook_in")
MAP = {
    "hook_embed": 0.0,
    "blocks.0.hook_resid_post": 0.4,
    "blocks.1.hook_resid_post": 1.0,
    "unembed.hook_in": 1.0,
}
LAST = "blocks.1.hook_resid_post"


def a_world(seed: int = 42) -> World:
    return load_world(n_cities=60, new="atlantis", n_new=8, seed=seed)


def plant(
    path: Path,
    run: str,
    world: World,
    *,
    seed: int,
    tasks: tuple[str, ...] = ("distance", "angle"),
    gain: float = 1.0,
) -> ActivationStore:
    """A model that learns the map over its layers, in the same code for both prompts; new cities lie on
    it.
    """
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(2, 12))
    places = (world.xy - world.xy.mean(axis=0)) / 1000
    arrays = {}
    for hook in HOOKS:
        for task in tasks:
            for site in ("last_digit", "delimiter"):
                noise = 0.15 * rng.normal(size=(world.n, 12))
                arrays[hook, task, site] = gain * MAP[hook] * places @ directions + noise
    write_store(path, world, arrays, attrs={"run": run, "step": 10})
    return ActivationStore(path)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ActivationStore]:
    folder = tmp_path_factory.mktemp("activations")
    world = a_world()
    found = {
        name: plant(folder / f"{name}-step10.h5", name, world, seed=seed)
        for seed, name in enumerate(("one", "two", "three"))
    }
    found["untrained"] = plant(folder / "one-untrained.h5", "one", world, seed=9, gain=0.0)
    return found


def items(stores: dict[str, ActivationStore], *names: str, hook: str = LAST) -> list[Item]:
    return [Item(stores[name], hook, "distance", "last_digit") for name in names]


def test_layers_have_numbers_and_runs_have_labels(stores: dict[str, ActivationStore]) -> None:
    assert [layer_number(hook, HOOKS) for hook in HOOKS] == [-1, 0, 1, 2]
    assert run_label(stores["untrained"]) == "one (untrained)"
    assert choose_hooks(stores["one"], None) == list(HOOKS)
    assert choose_hooks(stores["one"], ["final", "0"]) == [HOOKS[3], HOOKS[1]]
    with pytest.raises(UnknownName, match=r"unknown layer in one-step10\.h5 '7'"):
        choose_hooks(stores["one"], ["7"])
    with pytest.raises(AnalysisError, match="belongs to no layer"):
        layer_number("hook_pos_embed")


def test_shared_ids_are_old_new_or_all(stores: dict[str, ActivationStore]) -> None:
    both = [stores["one"], stores["two"]]
    assert [len(shared_ids(both, group)) for group in ("old", "new", "all")] == [60, 8, 68]
    with pytest.raises(UnknownName, match="group of cities 'some'"):
        shared_ids(both, "some")


def test_cka_finds_the_map_and_its_controls_do_not(stores: dict[str, ActivationStore]) -> None:
    chosen = [*items(stores, "one", "two"), *items(stores, "one", "two", hook="hook_embed")]
    result = cka_result(chosen, draws=10)
    matrix = result.arrays["matrix"]
    assert matrix[0, 1] > 0.9
    assert abs(matrix[2, 3]) < 0.15
    assert result.arrays["lo"][0, 1] <= matrix[0, 1] <= result.arrays["hi"][0, 1]
    control = {row["control"]: row for row in result.tables["control"]}
    assert abs(control["shuffled cities"]["mean"]) < 0.02
    assert abs(control["bag of id digits"]["mean"]) < 0.1
    with pytest.raises(AnalysisError, match="at least two"):
        cka_result(chosen[:1])


def test_cka_knows_ceilings_and_the_model_before_training(stores: dict[str, ActivationStore]) -> None:
    members = {
        "one": Member("one", ("distance",), 0, 10, 10),
        "two": Member("two", ("distance",), 1, 10, 10),
        "three": Member("three", ("angle",), 0, 10, 10),
        "four": Member("four", ("angle",), 1, 10, 10),
    }
    chosen = items(stores, "one", "two", "three")
    chosen.append(Item(stores["three"], HOOKS[3], "distance", "last_digit", label="four"))
    before = [(chosen[0], Item(stores["untrained"], LAST, "distance", "last_digit"))]
    result = cka_result(chosen, members, before, draws=3)
    same = next(row for row in result.tables["cells"] if {row["run_a"], row["run_b"]} == {"one", "two"})
    assert same["ceiling"] is None  # it is the ceiling itself
    assert same["published"] == 0.64
    control = {row["control"]: row for row in result.tables["control"]}
    assert abs(control["the model untrained"]["mean"]) < 0.2
    groups = {(row["layer"], row["group"]): row for row in result.tables["groups"]}
    # "four" stands at another layer than the others, so no layer holds every model once.
    assert groups == {}
    at_one_layer = cka_result(
        [*chosen[:3], Item(stores["one"], LAST, "angle", "last_digit", "four")], members
    )
    found = {row["group"]: row for row in at_one_layer.tables["groups"]}
    assert found["same tasks, other seed"]["ceiling"] is None
    assert found["disjoint tasks"]["ceiling"] > 0.9
    assert abs(found["disjoint tasks"]["null"]) < 0.1
    assert found["disjoint, 1 task(s) each"]["published"] == 0.655
    share = found["disjoint, of the ceiling"]
    assert share["value"] == pytest.approx(
        found["disjoint tasks"]["value"] / found["disjoint tasks"]["ceiling"]
    )
    assert share["lo"] is None  # without one of four models a set of tasks has no ceiling


def test_surfacing_by_number_of_tasks(stores: dict[str, ActivationStore]) -> None:
    members = {
        "one": Member("one", ("distance",), 0, 10, 10),
        "two": Member("two", ("distance", "angle"), 0, 10, 10),
        "untrained": Member("untrained", ("distance",), 1, 10, 10),
    }
    chosen = [
        *items(stores, "one", "two"),
        Item(stores["untrained"], LAST, "distance", "last_digit", "untrained"),
    ]
    result = surfacing_result(chosen, members)
    by_run = {(row["run"], row["k"]): row for row in result.tables["components"]}
    assert by_run["one", 2]["r2"] > 0.9 > 0.3 > by_run["untrained", 2]["r2"]
    assert by_run["one", 2]["r2_shuffled"] < 0.2
    assert by_run["one", 2]["r2_lo"] <= by_run["one", 2]["r2"] <= by_run["one", 2]["r2_hi"]
    means = {(row["n_tasks"], row["k"]): row for row in result.tables["by_tasks"]}
    assert (means[1, 2]["models"], means[2, 2]["models"]) == (2, 1)
    assert means[1, 2]["r2"] == pytest.approx((by_run["one", 2]["r2"] + by_run["untrained", 2]["r2"]) / 2)
    assert {row["k"] for row in result.tables["trend"]} == {row["k"] for row in result.tables["by_tasks"]}
    # A model read in two prompts counts once, with their mean.
    twice = surfacing_result([*chosen, Item(stores["two"], LAST, "angle", "last_digit")], members)
    each = [row["r2"] for row in twice.tables["components"] if (row["run"], row["k"]) == ("two", 2)]
    again = {(row["n_tasks"], row["k"]): row for row in twice.tables["by_tasks"]}
    assert len(each) == 2
    assert again[2, 2]["models"] == 1
    assert again[2, 2]["r2"] == pytest.approx(np.mean(each))
    assert len(twice.tables["by_model"]) == len(result.tables["by_model"]) == len(result.tables["components"])


def test_probe_and_readout_results(stores: dict[str, ActivationStore]) -> None:
    found = probe_result(
        stores["one"], HOOKS, ["distance", "angle"], ["last_digit"], untrained=stores["untrained"], draws=3
    )
    rows = {(row["layer"], row["task"]): row for row in found.tables["layers"]}
    assert rows[1, "distance"]["r2"] > 0.9 > rows[-1, "distance"]["r2"]
    for row in found.tables["layers"]:
        assert row["lo"] <= row["r2"] <= row["hi"]
        controls = ("shuffled", "random", "digits", "untrained")
        assert max(row[f"control_r2_{name}"] for name in controls) < 0.25
    assert {row["n_new"] for row in found.tables["new"]} == {8}
    assert found.arrays["decoded"].shape == (68, 2)
    readout = readout_result(
        stores["one"], best_sites(stores["one"], HOOKS, ["distance", "angle"], ["last_digit"])
    )
    first = readout.tables["prompts"][0]
    assert first["bits"] < first["bits_shuffled"] - 1
    assert readout.arrays["transfer"].min() > 0.8  # one code for both prompts
    assert len(readout.tables["new"]) == 2


def test_manifold_result_tells_place_from_noise(stores: dict[str, ActivationStore]) -> None:
    result = manifold_result(stores["one"], ["hook_embed", LAST], ["distance"], "last_digit", folds=3)
    embed, last = result.tables["layers"]
    assert last["variance"] > 0.8 > 0.1 > embed["variance"]
    assert last["variance_shuffled"] < 0.1
    # New cities are written where they are, on the map: neither interval may claim a displacement.
    assert last["excess_off_lo"] <= 0.05
    assert last["along_new"] < 400
    ks = [row for row in result.tables["surfacing"] if row["layer"] == 1]
    assert next(row["r2"] for row in ks if row["k"] == 2) > 0.9
    spectra = {row["layer"]: row["participation"] for row in result.tables["spectrum"]}
    assert spectra[1] < 3 < spectra[-1]


def test_every_map_of_a_manifold_result_is_fitted_with_its_seed(
    stores: dict[str, ActivationStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    placing = Mock(wraps=place_each)
    monkeypatch.setattr(tables, "place_each", placing)
    manifold_result(stores["one"], [LAST], ["distance"], "last_digit", folds=3, seed=5)
    assert [call.kwargs["seed"] for call in placing.call_args_list] == [5, 5]  # by city, by region


def test_every_measure_sees_the_map_and_not_shuffled_cities(stores: dict[str, ActivationStore]) -> None:
    ids = shared_ids([stores["one"], stores["two"]], "old")
    x, y = (item.get(ids) for item in items(stores, "one", "two"))
    for measure in MEASURES.values():
        found = compare_all(measure, [x, y], np.random.default_rng(0), draws=20, shuffles=5)[0, 1]
        assert found["reason"] is None or measure.needs_more_cities
        towards = 1 if measure.alike else -1
        assert towards * (found["value"] - found["null_best"]) > 0, measure.name
    assert [measure.name for measure in choose_measures(["rsa"])] == ["rsa"]
    with pytest.raises(UnknownName, match="did you mean 'cka'"):
        choose_measures(["ckka"])
    constant = compare_all(MEASURES["rsa"], [np.ones_like(x), y], np.random.default_rng(0))[0, 1]
    assert constant["reason"] == "a representation has the same features for every city"
    assert sample_cities(50, 20, np.random.default_rng(0)).size == 20


@pytest.mark.parametrize("measure", MEASURES.values(), ids=list(MEASURES))
def test_many_representations_at_once_are_compared_as_two_at_a_time(measure: Measure) -> None:
    rng = np.random.default_rng(3)
    first = rng.normal(size=(40, 6))
    others = [first[:, :4] + 0.3 * rng.normal(size=(40, 4)), rng.normal(size=(40, 5)), np.ones((40, 3))]
    sides = [first, *others]
    found = compare_all(measure, sides, np.random.default_rng(0), draws=20, shuffles=3)
    assert list(found) == list(combinations(range(4), 2))
    for (i, j), comparison in found.items():
        if j == 3:
            assert np.isnan(comparison["value"])
            assert "same" in str(comparison["reason"]) or "no structure" in str(comparison["reason"])
        else:
            expected = measure.value(sides[i], sides[j])
            assert comparison["value"] == pytest.approx(expected, abs=1e-12)
            assert np.isfinite([comparison["null_mean"], comparison["null_best"]]).all()
    # A reordered side is the side of reordered cities.
    order = rng.permutation(40)
    moved = measure.reorder(measure.prepare(sides[1]), order)
    expected = measure.value(first, sides[1][order])
    assert sum(measure.both_ways(measure.prepare(first), moved)) / 2 == pytest.approx(expected, abs=1e-12)


def test_similarity_result_has_nulls_references_and_groups(stores: dict[str, ActivationStore]) -> None:
    members = {
        "one": Member("one", ("distance",), 0, 10, 10, {"distance": 0.9}),
        "two": Member("two", ("distance",), 1, 10, 10, {"distance": 0.8}),
        "three": Member("three", ("angle",), 0, 10, 10, {"angle": 0.1}),
    }
    result = similarity_result(
        {0: items(stores, *members, hook=HOOKS[1]), 1: items(stores, *members)},
        choose_measures(["cka", "mutual_knn"]),
        members,
        {"one 1": Item(stores["untrained"], LAST, "distance", "last_digit")},
        draws=20,
    )
    assert len(result.tables["pairs"]) == 2 * 2 * 3
    for row in result.tables["pairs"]:
        assert row["lo"] <= row["value"] <= row["hi"]
        assert row["null_mean"] < row["value"]
    references = {
        row["reference"]: row["value"]
        for row in result.tables["references"]
        if (row["measure"], row["layer"], row["run"]) == ("cka", 1, "one")
    }
    assert references["true map"] > 0.9
    assert abs(references["itself untrained"]) < 0.2
    assert {row["group"] for row in result.tables["groups"]} >= {"same tasks, other seed", "disjoint tasks"}
    assert {row["models"] for row in result.tables["groups"]} == {"all models", "without failed models"}
    assert any("failed: three." in note for note in result.notes)
    with pytest.raises(AnalysisError, match="at least two runs"):
        similarity_result({1: items(stores, "one")}, choose_measures(["cka"]), {"one": members["one"]})


def test_timeline_compares_with_the_last_step(stores: dict[str, ActivationStore]) -> None:
    steps = {0: stores["untrained"], 10: stores["one"]}
    result = timeline_result("one", steps, LAST, "distance", "last_digit", rows_a_step=8, draws=5, seed=0)
    first, last = result.tables["steps"]
    assert (first["rows"], last["rows"]) == (0, 80)
    assert first["r2"] < 0.2 < 0.9 < last["r2"]
    assert abs(first["cka_final"]) < 0.2
    assert last["cka_final"] == pytest.approx(1)
    assert last["twonn"] < first["twonn"]


def test_places_are_decoded_state_by_state(stores: dict[str, ActivationStore]) -> None:
    states = [State("one", 0, stores["untrained"]), State("one", 10, stores["one"])]
    result = places_result(states, HOOKS, ["distance", "angle"], "last_digit")
    decoded, true = result.arrays["decoded"].astype(float), result.arrays["true"]
    assert decoded.shape == (2, 2, len(HOOKS), len(stores["one"]), 2)
    rows = {(row["step"], row["task"], row["hook"]): row for row in result.tables["scores"]}
    assert rows[10, "distance", LAST]["r2"] > 0.9 > 0.2 > rows[0, "distance", LAST]["r2"]  # planted, absent
    assert max(row["r2_shuffled"] for row in rows.values()) < 0.2
    is_new = result.arrays["is_new"]
    assert is_new.sum() == 8
    for step, row in ((0, 0), (1, 10)):
        away = np.linalg.norm(decoded[step, 1, HOOKS.index(LAST)] - true, axis=1)
        told = rows[row, "angle", LAST]
        assert away[~is_new].mean() == pytest.approx(told["error_mean"], rel=1e-5)
        assert away[is_new].mean() == pytest.approx(told["error_new"], rel=1e-5)
    with pytest.raises(AnalysisError, match="has no nothing"):
        places_result(states, [*HOOKS], ["distance", "nothing"], "last_digit")


@pytest.fixture(name="cli")
def cli_beside_two_files(cli: Cli, tmp_path: Path) -> Cli:
    for name, seed in (("one", 0), ("two", 1)):
        plant(tmp_path / f"{name}.h5", name, a_world(), seed=seed)
    return cli


BOTH = ("--activations", "one.h5", "--activations", "two.h5")
COMMANDS = [
    # command, kinds of the results it saves
    (("cka", *BOTH, "--draws", "3"), ("cka",)),
    (("cka", *BOTH, "--prompts", "all", "--biased", "--draws", "1"), ("cka",)),
    (("probe", "--activations", "one.h5", "--prompts", "angle", "--draws", "2"), ("probe",)),
    (("readout", "--activations", "one.h5", "--prompts", "angle"), ("readout",)),
    (("manifold", "--activations", "one.h5", "--layers", "0,1", "--folds", "2"), ("manifold",)),
    (("surfacing", *BOTH, "--layers", "1"), ("surfacing",)),
    (("similarity", *BOTH, "--layers", "1", "--measures", "cka,rsa", "--draws", "20"), ("similarity",)),
]


@pytest.mark.parametrize(("args", "kinds"), COMMANDS, ids=lambda part: part[0] if len(part) > 2 else None)
def test_commands_save_results_with_figures_and_a_section(
    cli: Cli, args: tuple[str, ...], kinds: tuple[str]
) -> None:
    code, out, err = cli(*args)
    assert code == 0, err
    for kind in kinds:
        result = load_result(Path("reports/one/results") / f"{kind}.json")
        assert result.command.startswith("cwr-mech " + args[0])
        assert all(len(digest) == 64 for digest in result.inputs.values())
        assert list(Path("reports/one/figures").glob(f"{kind}*.png"))
        assert out.count(f"results/{kind}.json") == 1
        section = all_shows()[kind]
        assert "|" in section.body(result)
        assert draw(result, Path("again"), kind)


def broken(path: str, how: str) -> None:
    """Spoil a file: values that are NaN, another world, or the second half cut off."""
    if how == "nan":
        with h5py.File(path, "r+") as file:
            file[f"acts/{LAST}/distance/last_digit"][3, 0] = np.nan
    elif how == "constant":
        with h5py.File(path, "r+") as file:
            file[f"acts/{LAST}/distance/last_digit"][:] = 0.7
            file[f"acts/{LAST}/distance/delimiter"][:] = 0.2
    elif how == "no common city":
        plant(Path(path), "two", replace(a_world(), ids=a_world().ids + 5000), seed=1)
    elif how == "moved":
        plant(Path(path), "two", replace(a_world(), xy=a_world().xy + 3), seed=1)
    elif how == "few":
        plant(Path(path), "two", load_world(n_cities=3, new="none"), seed=1)
    elif how == "one city":
        with h5py.File(path, "r+") as file:
            file["cities/x"][5] += 40
            file.attrs["world_sha256"] = "0" * 64


BAD = [
    # what is done first, command, exit code, what the one line says
    (None, ("cka", "--activations", "none.h5"), "no such activation file: none.h5"),
    (None, ("cka", *BOTH, "--layers", "9"), "unknown layer in one.h5 '9'"),
    (None, ("cka", *BOTH, "--prompts", "walk"), "unknown task 'walk'"),
    (None, ("cka", *BOTH, "--site", "middle"), "unknown site in one.h5 'middle'"),
    (None, ("cka", *BOTH, "--cities", "far"), "unknown group of cities 'far'"),
    (None, ("cka", "--activations", "one.h5", "--layers", "1"), "at least two representations"),
    (None, ("similarity", *BOTH, "--measures", "likeness"), "unknown measure 'likeness'"),
    (None, ("similarity", "--activations", "one.h5"), "similarity compares models"),
    (None, ("probe", "--activations", "one.h5", "--folds", "40"), "60 cities are too few for 40 folds"),
    (None, ("probe", "--activations", "one.h5", "--method", "forest"), "'forest' is not one of"),
    ("nan", ("cka", *BOTH), "not finite"),
    ("nan", ("manifold", "--activations", "two.h5", "--layers", "1"), "not finite"),
    ("constant", ("manifold", "--activations", "two.h5", "--layers", "1"), "the same for every city"),
    ("constant", ("surfacing", "--activations", "two.h5", "--layers", "1"), "same features for every city"),
    ("no common city", ("cka", *BOTH), "one.h5 and two.h5 have no city in common"),
    ("moved", ("cka", *BOTH), "one.h5 and two.h5 are about different worlds: city [0-9]+ lies elsewhere"),
    ("one city", ("cka", *BOTH), "holds other cities than its world_sha256 says"),
    ("few", ("cka", "--activations", "two.h5"), "3 cities are too few for CKA"),
    ("few", ("probe", "--activations", "two.h5"), "3 cities are too few for 5 folds"),
    ("few", ("manifold", "--activations", "two.h5"), "3 cities are too few for 5 folds"),
    (
        None,
        ("cka", "--activations", "one.h5", "--activations", "one.h5"),
        "one.h5 was given twice|one@10 was given",
    ),
]


@pytest.mark.parametrize(("how", "args", "message"), BAD)
def test_bad_input_gives_one_line_and_exit_code_2(
    cli: Cli, how: str | None, args: tuple[str, ...], message: str
) -> None:
    import re

    if how:
        broken("two.h5", how)
    code, _, err = cli(*args)
    assert code == 2, err
    assert re.search(message, err.replace("\n", " ")), err
    assert "Traceback" not in err
