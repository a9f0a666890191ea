"""The README's table of verdicts is that of the committed reports."""

from pathlib import Path

from cwr_mech.findings.show import readme_rows
from cwr_mech.results import load_result

ROOT = Path(__file__).parents[2]
REPORTS = ("zoo", "routing")


def test_the_table_of_verdicts_follows_from_the_reports() -> None:
    found = {name: load_result(ROOT / "reports" / name / "results" / "findings.json") for name in REPORTS}
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.partition("<!-- verdicts -->\n")[2].partition("\n<!-- /verdicts -->")[0]
    assert table == readme_rows(found), "paste what cwr_mech.findings.show.readme_rows gives"
    assert readme_rows({"zoo": found["zoo"]}) != table  # control: of both reports
