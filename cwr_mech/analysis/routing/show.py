"""What a report says about updates, conditions and predictions."""

from cwr_mech.analysis.patching.sites import HALF
from cwr_mech.analysis.transfer.means import mean_of
from cwr_mech.experiments.finetuning import PLAIN
from cwr_mech.render.markdown import best_rows, markdown_table
from cwr_mech.render.numbers import layer_name, number
from cwr_mech.render.shown import Section, Show, Table
from cwr_mech.results import Result, Row


def subspace(result: Result) -> str:
    """Shares and movement of new cities' steps at the site at which each task reads a city, and beside it at
    the site with the clearest map.
    """
    parts = []
    for column, words in (
        ("cause", "where interchange says that the task's answers read a city"),
        ("decodable", "at the best-decodable site, whether answers read it or not"),
    ):
        spots = {row["task"]: row for row in result.tables["spaces"] if row.get(column)}
        if not spots and column == "decodable":  # results without sites by cause
            spots = {row["task"]: row for row in best_rows(result.tables["spaces"], "task", "map_variance")}
        if spots:
            parts.append(f"Updates of {result.values['n_new']} new cities {words}:")
            parts += [_shares_at(result, spots), _weak(spots), _ways_at(result, spots)]
    return "\n\n".join(part for part in parts if part)


def _shares_at(result: Result, spots: dict[str, Row]) -> str:
    columns = {
        "task": "task",
        "where": "site",
        "update": "update",
        "basis": "basis",
        "rank": "rank",
        "share": "share",
        "range": "95 % over cities",
        "null": "random directions",
        "null_hi": "97.5 % of random",
        "like": "covariance-matched (a level, no null: it moves with the share)",
    }
    rows = [
        row | {"range": f"{number(row['lo'])} to {number(row['hi'])}", "where": _where(row)}
        for row in _rows_at(result, "shares", spots)
        if row["basis"] in ("manifold", "tangent") and row["update"] in ("gradient", "adam")
    ]
    return markdown_table(rows, columns)


def _ways_at(result: Result, spots: dict[str, Row]) -> str:
    columns = {
        "task": "task",
        "where": "site",
        "cosine": "cosine with the target displacement",
        "cosine_shuffled": "shuffled targets",
        "gain": "error reduction per step",
        "gain_on": "on-manifold",
        "gain_off": "off-manifold",
        "target": "cosine with the target in the whole space",
    }
    rows = [row for row in _rows_at(result, "directions", spots) if row["update"] == "adam"]
    return (
        "Movement of the decoded coordinates by one Adam step. Where shuffled targets give as much, the step "
        "moves all new cities together and does not tell them apart:\n\n"
    ) + markdown_table([row | {"where": _where(row)} for row in rows], columns)


def _rows_at(result: Result, table: str, spots: dict[str, Row]) -> list[Row]:
    """Rows about new cities at each task's own site."""
    return [
        row
        for row in result.tables[table]
        if row["group"] == "new" and (spot := spots.get(row["task"]))
        if (row["site"], row["layer"]) == (spot["site"], spot["layer"])
    ]


def _where(row: Row) -> str:
    return f"{layer_name(row['layer'])}, {row['site'].replace('_', ' ')}"


def _weak(spots: dict[str, Row]) -> str:
    """Which of the sites are causally weak."""
    weak = [task for task, row in spots.items() if "iia" in row and (row["iia"] is None or row["iia"] < HALF)]
    return (
        f"Causally weak (interchange there moves less than half of the answers): {', '.join(weak)}. These "
        "rows are no outcome."
        if weak
        else ""
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


def routing_power(result: Result) -> str:
    """The share of each base and task, and how often each planted code is found."""
    value, lo, hi = (result.values[key] for key in ("contrast", "contrast_lo", "contrast_hi"))
    columns = {
        "code": "planted",
        "off_manifold": "off-manifold",
        "found": "found",
        "lo": "95 % from",
        "hi": "to",
        "share_before": "mean share before",
        "share_after": "after",
        "least": "least",
        "most": "most",
    }
    shares = {"base": "base", "task": "fine-tuned on", "layer": "block", "position": "position"}
    return "\n\n".join(
        [
            markdown_table(result.tables["power"], columns),
            f"In the models as they are, {result.params['task']} differs from the other tasks by "
            f"{number(value)} (90 %: {number(lo)} to {number(hi)}):",
            markdown_table(result.tables["shares"], shares | {"share": "share in the manifold's directions"}),
        ]
    )


SHOWS = {
    "routing_power": Show(
        Section(
            "routing_power",
            "Would the routing test see a hidden route?",
            "Codes written off the manifold into the displacements of real fine-tunings, at the site at "
            "which the base reads a city.",
            routing_power,
        ),
        (),
        (
            Table(
                "planted codes, share of draws in which the test finds them",
                ("code", "off_manifold", "draws", "found", "lo", "hi", "share_before", "share_after"),
                lambda result: result.tables["power"],
            ),
        ),
    ),
}
