"""What `cwr-mech report --routing` adds to a report: predictions, arms and verdicts, from its own results."""

from pathlib import Path


def add_routing(folder: Path) -> None:
    """Compute the routing result of `folder` from its saved results, and save it there.

    Raises AnalysisError when the report holds no trajectory of a fine-tuned model.
    """
    from cwr_mech.artifacts import sha256_file
    from cwr_mech.findings.routing import routing_result
    from cwr_mech.results import load_results

    from .common import console, rows_of, table

    results = load_results(folder / "results")
    used = {name: result for name, result in results.items() if result.kind in ("trajectory", "subspace")}
    paths = [folder / "results" / f"{name}.json" for name in used]
    inputs = {path.as_posix(): sha256_file(path) for path in paths}
    result = routing_result(used, inputs, f"cwr-mech report {folder.name} --routing")
    columns = ["prediction", "says", "effect", "lo", "hi", "models", "verdict"]
    console.print(table("predictions", columns, rows_of(result.tables["predictions"], columns)))
    columns = ["hypothesis", "verdict", "reason"]
    console.print(table("verdicts", columns, rows_of(result.tables["hypotheses"], columns)))
    result.save(folder / "results", "routing")
