"""Findings: what the paper published beside what the models of the zoo show, claim by claim, value by value.

Everything is computed from saved results and from `data/published.json`. A claim with a single model is
undecided however large the effect; one whose models are not there yet is a row with 0 models, so that nobody
takes silence for agreement.
"""

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from cwr_mech.artifacts import sha256_file
from cwr_mech.findings.claims import VERDICTS, Saved
from cwr_mech.findings.counterparts import counterparts
from cwr_mech.findings.finetuned import (
    place_claims,
    prediction_claims,
    relation_claims,
    routing_claims,
    transfer_claims,
)
from cwr_mech.findings.pretrained import answers_claims, map_claims, similarity_claims
from cwr_mech.results import Result, load_results

GROUPS = (
    answers_claims,
    map_claims,
    similarity_claims,
    transfer_claims,
    place_claims,
    relation_claims,
    routing_claims,
    prediction_claims,
)
"""The claims, in the order of the report. A new group is one row here."""
KINDS = (
    "zoo",
    "maps",
    "similarity",
    "transfer",
    "relation",
    "routing",
    "conflict",
    "prediction",
    "patch_parts",
)
"""Kinds of results that claims and counterparts read."""


def published() -> dict[str, Any]:
    """The paper's numbers that have a counterpart here, rows and columns in the order of the tasks."""
    text = files("cwr_mech").joinpath("data/published.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def findings(results: Mapping[str, Result], inputs: Mapping[str, str], command: str) -> Result:
    """The result of kind "findings" from the saved results of a report: tables `claims` and `values`."""
    saved, paper = Saved(results), published()
    rows = [row for group in GROUPS for row in group(saved, paper)]
    counts = {name: sum(row["verdict"] == name for row in rows) for name in VERDICTS}
    return Result(
        kind="findings",
        command=command,
        inputs=dict(inputs),
        params={"runs": list(saved.tasks_of)},
        values={"claims": len(rows)} | counts,
        tables={"claims": rows, "values": list(counterparts(saved, paper))},
        notes=[
            "Published improvements come from sets with elicitation rows and are cut to [0, 1.5]; ours have "
            "no elicitation rows and are not cut. Only tasks count that the base had learned (share of the "
            "gap at least 0.5): elsewhere old cities are hardly better than new ones.",
        ],
    )


def sources(folder: Path, kinds: tuple[str, ...]) -> tuple[dict[str, Result], dict[str, str]]:
    """The results of these kinds in `folder`/results, and the hashes of their files."""
    results = load_results(folder / "results")
    own = {name: result for name, result in results.items() if result.kind in kinds}
    paths = [folder / "results" / f"{name}.json" for name in own]
    return own, {path.as_posix(): sha256_file(path) for path in paths}


def write_findings(folder: Path, command: str) -> Path:
    """Compute the findings from `folder`/results and save them there; returns the path."""
    return findings(*sources(folder, KINDS), command).save(folder / "results", "findings")
