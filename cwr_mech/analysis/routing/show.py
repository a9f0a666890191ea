"""What a report says about updates, conditions and predictions."""

from cwr_mech.analysis.transfer.means import mean_of
from cwr_mech.experiments.finetuning import PLAIN
from cwr_mech.render.markdown import markdown_table
from cwr_mech.render.numbers import layer_name, number
from cwr_mech.results import Result, Row


def subspace(result: Result) -> str:
    """Shares of new cities' steps at the layer with the clearest map, beside their nulls."""
    spaces = result.tables["spaces"]
    site = result.params["sites"][0]
    best = max(
        (row for row in spaces if row["site"] == site), key=lambda row: row["map_variance"], default=None
    )
    if best is None:
        return ""
    layer = best["layer"]
    chosen = [
        row | {"range": f"{number(row['lo'])} to {number(row['hi'])}"}
        for row in result.tables["shares"]
        if row["site"] == site and row["layer"] == layer and row["group"] == "new"
        if row["basis"] in ("manifold", "tangent") and row["update"] in ("gradient", "adam")
    ]
    columns = {
        "task": "task",
        "update": "update",
        "basis": "basis",
        "rank": "rank",
        "share": "share",
        "range": "95 % over cities",
        "null": "random",
        "null_hi": "97.5 % of random",
        "like": "random, like activations",
        "like_hi": "97.5 %",
    }
    ways: list[Row] = [
        row
        for row in result.tables["directions"]
        if row["site"] == site and row["layer"] == layer and row["group"] == "new" and row["update"] == "adam"
    ]
    way_columns = {
        "task": "task",
        "cosine": "cosine with the way",
        "cosine_shuffled": "ways exchanged",
        "gain": "gained a step",
        "gain_on": "on the map",
        "gain_off": "off the map",
        "target": "cosine with the way in the whole space",
    }
    return "\n\n".join(
        [
            f"At {layer_name(layer)}, {site.replace('_', ' ')}, where place explains most of the activations "
            f"({number(best['map_variance'])} of their variance, held out), for {result.values['n_new']} new "
            f"cities in {result.values['d_model']} dimensions:",
            markdown_table(chosen, columns),
            "Movement of the decoded place by one Adam step. Where the ways exchanged between cities give as "
            "much, the step moves all new cities together and does not tell them apart:",
            markdown_table(ways, way_columns),
        ]
    )


def _range(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{number(low)} to {number(high)}"


PLACED = {
    "along_new": "along, new",
    "along_old": "along, ordinary",
    "off_new": "off, new",
    "moved_new": "moved in the map's directions, new",
    "moved_new_like": "random, like activations",
    "moved_old": "ordinary",
    "probe_new": "probe, new",
    "probe_old": "probe, ordinary",
}
"""Columns of a trajectory's rows that a report shows, and their headings."""
FEW = 12
"""Models up to which each has rows of its own."""


def trajectory(result: Result) -> str:
    """Where new cities end, beside ordinary cities: model by model, or means over the bases of many."""
    rows = result.tables["trajectory"]
    ends = [row for row in rows if row["step"] == max(r["step"] for r in rows if r["run"] == row["run"])]
    shown = [row for row in ends if row["prompt"] in row["set"].split("+")] or ends
    values = result.values
    text = f"{values['n_models']} models from {values['n_bases']} bases, trained prompts, at the end."
    if values["n_models"] > FEW:
        text += " Means over models and prompts; before: the base, which never met the new cities."
        return f"{text}\n\n{markdown_table(_placed(rows, shown), {**OF_SETS, **PLACED})}"
    columns = {"base": "base", "set": "trained on", "route": "condition", "step": "step", **PLACED}
    return f"{text}\n\n{markdown_table(shown, columns)}"


OF_SETS = {"rows": "rows beside the new ones", "set": "trained on", "route": "condition", "models": "models"}


def _placed(rows: list[Row], ends: list[Row]) -> list[Row]:
    """Means of PLACED by what was trained and how, after those of the bases before any of it."""

    def means(mine: list[Row], of: str) -> Row:
        return {"models": len({row[of] for row in mine})} | {
            column: mean_of(row[column] for row in mine) for column in PLACED
        }

    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in ends:
        beside = str(row["arm"]).partition(", route")[0]
        groups.setdefault((row["route"], beside, row["set"]), []).append(row)
    order = sorted(groups, key=lambda of: (of[0] != "unprojected", of[0], of[1] != PLAIN, of[2].count("+")))
    before = [row for row in rows if row["step"] == 0]
    found = [{"set": "nothing yet"} | means(before, "base")] if before else []
    for route, beside, trained in order:
        how = {"rows": beside, "set": trained, "route": route}
        found.append(how | means(groups[route, beside, trained], "run"))
    return found


def conflict(result: Result) -> str:
    """Extremes of the cosines, and how low-dimensional the gradients are."""
    spaces = [row for row in result.tables["spaces"] if row["matrix"] == "all"]
    columns = {
        "task": "task",
        "effective_directions": "effective directions of batches",
        "own": "share in own leading directions, held out",
        "own_in_sample": "the same in sample",
        "others": "in other tasks' directions",
        "null": "random",
    }
    whole = [row | {"range": _range(row["lo"], row["hi"])} for row in result.tables["cosines"]]
    whole = sorted((row for row in whole if row["matrix"] == "all"), key=lambda row: row["cosine"] or 0.0)
    ends = whole if len(whole) <= 6 else [*whole[:3], *whole[-3:]]
    heads = {"task_a": "task", "task_b": "task ", "cosine": "cosine", "range": "95 % over batches"}
    written = [
        {"task": task} | {key: _mean_of(result, task, key) for key in ("share", "null", "like", "like_hi")}
        for task in result.params["tasks"]
    ]
    into = {"task": "task", "share": "share", "null": "random", "like": "random, like activations"}
    return "\n\n".join(
        [
            f"All {number(result.values['n_parameters'])} weights together; lowest and highest cosines:",
            markdown_table(ends, heads),
            markdown_table(spaces, columns),
            "Of the gradients of matrices that write into the residual stream, what goes into the map's "
            "directions, mean over matrices:",
            markdown_table(written, into | {"like_hi": "97.5 %"}),
        ]
    )


def _mean_of(result: Result, task: str, key: str) -> float:
    values = [row[key] for row in result.tables["written"] if row["task"] == task]
    return sum(values) / len(values)


def prediction(result: Result) -> str:
    """Strongest predictors, and whether any of them outlives leaving tasks out."""
    tests = [row for row in result.tables["tests"] if row["r"] is not None]
    early = [row for row in tests if row["from"] in ("untrained", "the tasks")]
    passed = [row for row in early if row["p"] < 0.05]
    steady = [row for row in passed if row["r_lo"] > 0]
    said = (
        f"Of {len(early)} tests of what can be known before training, {len(passed)} have p below 0.05 "
        f"({len(early) / 20:.1f} expected by chance), {len(steady)} of them with a positive correlation "
        "whichever task is left out."
    )
    verdict = "No predictor tried here foretells divergence." if len(steady) < 2 else ""
    columns = {
        "from": "from",
        "predictor": "predictor",
        "outcome": "outcome",
        "left_out": "left out",
        "n": "pairs",
        "r": "r",
        "p": "p",
        "r_lo": "least r",
        "without": "without",
        "r_hi": "largest r",
    }
    best = sorted(tests, key=lambda row: row["p"])[:12]
    return "\n\n".join(part for part in (f"{said} {verdict}".strip(), markdown_table(best, columns)) if part)
