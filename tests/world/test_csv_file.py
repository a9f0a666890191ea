"""Worlds from a user's CSV file, and the faults of such files."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from world_cases import cities_of, write

from cwr_mech.config import RunConfig, WorldConfig
from cwr_mech.errors import UserError, WorldError
from cwr_mech.world.cities import load_world
from cwr_mech.world.csv_file import finer_unit
from cwr_mech.world.places import X_MAX, Y_MAX, tenths
from cwr_mech.world.sources import N_SHIPPED

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


def test_a_path_that_no_file_can_have(tmp_path: Path) -> None:
    with pytest.raises(WorldError, match="cannot read the world file"):
        load_world(source=f"{tmp_path}/a\0b.csv")


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
