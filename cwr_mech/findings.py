"""Findings: what the paper published beside what the models of the zoo show, claim by claim.

Everything is computed from saved results (kinds "zoo", "maps", "cka", "transfer") and from
`data/findings.json` by `cwr_mech.claims`. A claim with a single model is undecided however large the effect;
one whose models are not there yet is a row with 0 models, so that nobody takes silence for agreement.
"""

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from cwr_mech.artifacts import sha256_file
from cwr_mech.claims import GROUPS, VERDICTS, Saved
from cwr_mech.results import Result, load_results


def published() -> dict[str, Any]:
    """The paper's numbers that have a counterpart here, rows and columns in the order of the tasks."""
    text = files("cwr_mech").joinpath("data/findings.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def findings(results: Mapping[str, Result], inputs: Mapping[str, str], command: str) -> Result:
    """The result of kind "findings" from the saved results of a report."""
    saved, paper = Saved(results), published()
    rows = [row for group in GROUPS for row in group(saved, paper)]
    counts = {name: sum(row["verdict"] == name for row in rows) for name in VERDICTS}
    return Result(
        kind="findings",
        command=command,
        inputs=dict(inputs),
        params={"runs": list(saved.tasks_of)},
        values={"claims": len(rows)} | counts,
        tables={"claims": rows},
        notes=[
            "Supported: the 95 % interval over models lies on the paper's side of 'held against'; not "
            "supported: on the other side; undecided: it holds both, or there is a single model and so no "
            "interval. Direction looks at the value alone.",
            "Published improvements come from sets with elicitation rows and are cut to [0, 1.5]; ours have "
            "no elicitation rows and are not cut. Only tasks count that the base had learned (share of the "
            "gap at least 0.5): elsewhere old cities are hardly better than new ones.",
        ],
    )


def write_findings(folder: Path, command: str) -> Path:
    """Compute the findings from `folder`/results and save them there; returns the path."""
    results = load_results(folder / "results")
    own = {name: result for name, result in results.items() if result.kind in KINDS}
    inputs = {
        (folder / "results" / f"{name}.json").as_posix(): sha256_file(folder / "results" / f"{name}.json")
        for name in own
    }
    return findings(own, inputs, command).save(folder / "results", "findings")


KINDS = ("zoo", "maps", "cka", "transfer")
"""Kinds of results that the claims read."""
