"""Files of texts about entities, and templates over cities: what is read, and what is said of mistakes."""

from pathlib import Path

import numpy as np
import pytest

from cwr_mech.activations.prompts import Prompts, city_prompts, read_prompts
from cwr_mech.errors import AnalysisError, MissingArtifact, WorldError
from cwr_mech.world.sources import shipped

GOOD = """entity,lon,lat,text,span,group,prompt
Rome,12.48,41.89,The city of Rome is in,,south,short
Oslo,10.75,59.91,The city of Oslo is in,,north,short
Rome,12.48,41.89,"Rome, they say, is not Rome",0:4,south,odd
Oslo,10.75,59.91,Oslo is cold,is,north,odd
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "prompts.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_texts_spans_and_places(tmp_path: Path) -> None:
    found = read_prompts(written(tmp_path, GOOD))
    assert list(found.texts) == ["short", "odd"]
    assert found.entities.names == ("Rome", "Oslo")
    assert found.entities.xy.tolist() == [[125, 419], [108, 599]]
    assert found.entities.region.tolist() == ["south", "north"]
    read = {
        prompt: [
            text[slice(*span)] for text, span in zip(found.texts[prompt], found.spans[prompt], strict=True)
        ]
        for prompt in found.texts
    }
    assert read == {"short": ["Rome", "Oslo"], "odd": ["Rome", "is"]}


def test_templates_take_the_place_of_texts(tmp_path: Path) -> None:
    path = written(tmp_path, "name,x,y\nred,700000,-3\nblue,4,5\n")
    found = read_prompts(path, ["A {name} thing", "{name}"])
    assert found.texts == {"template1": ("A red thing", "A blue thing"), "template2": ("red", "blue")}
    assert found.spans["template1"] == ((2, 5), (2, 6))
    assert found.entities.xy.tolist() == [[700000, -3], [4, 5]]
    assert found.entities.region.tolist() == ["no group", "no group"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("entity,", "thing,"), "names the column 'name' not at all"),
        (("lon,lat", "lon,lon"), "names the column 'lon' twice"),
        (("12.48,41.89,The", "east,41.89,The"), 'line 2: lon "east" is not a number'),
        (("10.75,59.91,The", "190,59.91,The"), 'line 3: lon "190" is outside -180..180 degrees'),
        (("Oslo,10.75,59.91,Oslo", "Oslo,10.7,59.91,Oslo"), 'line 5: "Oslo" has other coordinates'),
        (("0:4", ""), 'line 4: "Rome" occurs 2 times'),
        (("0:4", "3:99"), "line 4: the span 3:99 is not in a text of 27 characters"),
        (("cold,is", "cold,warm"), '"warm" occurs 0 times'),
        (("north,odd", "north,short"), 'line 5: a second text about "Oslo"'),
        (("Oslo,10.75,59.91,Oslo is cold,is,north,odd\n", ""), '"Oslo" has no text for the prompt \'odd\''),
        (("north,odd", "north,a/b"), 'prompt "a/b" must be a word'),
        (("cold,is,north,odd", "cold,is,north"), "line 5: 6 fields, but the first line names 7"),
    ],
)  # fmt: skip
def test_mistakes_name_the_line(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    text = GOOD.replace(*change)
    assert text != GOOD
    with pytest.raises(WorldError) as error:
        read_prompts(written(tmp_path, text))
    assert said in error.value.message
    assert "\n" not in str(error.value)


def test_places_in_units_are_whole_numbers(tmp_path: Path) -> None:
    with pytest.raises(WorldError, match=r'x "0.5" is not a whole number \(multiply'):
        read_prompts(written(tmp_path, "entity,x,y,text\nred,0.5,1,red\n"))
    with pytest.raises(WorldError, match="holds no text"):
        read_prompts(written(tmp_path, "entity,x,y,text\n"))
    with pytest.raises(MissingArtifact, match=r"no such file of prompts: .*nothing\.csv"):
        read_prompts(tmp_path / "nothing.csv")


def test_real_cities_are_named_once_the_most_populous_first() -> None:
    found = city_prompts(["In {name}"], 300)
    cities = shipped()
    assert len(set(found.entities.names)) == 300
    first = [cities.names.index(name) for name in found.entities.names]
    assert first == sorted(first)
    assert (found.entities.xy == cities.xy[first]).all()
    assert len(set(cities.names[: first[-1] + 1])) == 300, "control: the names before are all there"
    everyone = city_prompts(["{name}"])
    assert everyone.entities.n == len(set(cities.names)) < len(cities.names)


@pytest.mark.parametrize("template", ["no place for it", "{name} and {name}", "{Name}"])
def test_a_template_holds_the_name_once(template: str) -> None:
    with pytest.raises(AnalysisError, match=r"must hold \{name\} once"):
        Prompts.from_templates(city_prompts(["{name}"], 5).entities, [template])
    with pytest.raises(AnalysisError, match="2 cities were asked for"):
        city_prompts(["{name}"], 2)
    assert np.array_equal(city_prompts(["{name}"], 5).entities.ids, np.arange(5))
