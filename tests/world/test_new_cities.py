"""New cities: what is held back, and that it changes nothing else."""

from pathlib import Path

import numpy as np
import pytest
from world_cases import cities_of, write

from cwr_mech.config import WorldConfig
from cwr_mech.errors import WorldError
from cwr_mech.world.cities import load_world
from cwr_mech.world.new_cities import shown_regions
from cwr_mech.world.sources import N_SHIPPED


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


def test_withholding_everything_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "id,name,x,y,region\n1001,Aba,1,2,Here\n")
    with pytest.raises(WorldError, match="all 1 cities lie in 'here'"):
        load_world(source=path, new="holdout:here")


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
