"""What a report says about updates, gradients and where fine-tuning puts new cities."""

from collections.abc import Callable

from cwr_mech.analysis.best import EXPLAINED, HALF, best_of_each
from cwr_mech.analysis.routing.figures import conflict_figure, directions_figure, subspace_figure
from cwr_mech.analysis.stats.means import mean_of
from cwr_mech.experiments.finetuning import PLAIN
from cwr_mech.render.markdown import paragraphs, table_of
from cwr_mech.render.numbers import number
from cwr_mech.render.shown import Show, Table, by_kind
from cwr_mech.results import Result, Row, groups, where


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
            clearest = best_of_each(result.tables["spaces"], "task", EXPLAINED)
            spots = {row["task"]: row for row in clearest}
        if spots:
            parts.append(f"Updates of {result.values['n_new']} new cities {words}:")
            parts += [_shares_at(result, spots), _weak(spots), _ways_at(result, spots)]
    return paragraphs(*parts)


def _shares_at(result: Result, spots: dict[str, Row]) -> str:
    rows = [row for row in _rows_at(result, "shares", spots) if row["basis"] in ("manifold", "tangent")]
    return table_of(
        [row for row in rows if row["update"] in ("gradient", "adam")],
        "task layer site update basis rank share interval null null_hi like",
        interval="95 % over cities",
        null="random directions",
        null_hi="97.5 % of random",
        like="covariance-matched (a level, no null: it moves with the share)",
    )


def _ways_at(result: Result, spots: dict[str, Row]) -> str:
    rows = where(_rows_at(result, "directions", spots), update="adam")
    columns = "task layer site cosine cosine_shuffled gain gain_on gain_off target"
    return (
        "Movement of the decoded coordinates by one Adam step. Where shuffled targets give as much, the step "
        "moves all new cities together and does not tell them apart:\n\n"
    ) + table_of(rows, columns)


def _rows_at(result: Result, table: str, spots: dict[str, Row]) -> list[Row]:
    """Rows about new cities at each task's own site."""
    at = {(task, spot["site"], spot["layer"]) for task, spot in spots.items()}
    rows = where(result.tables[table], group="new")
    return [row for row in rows if (row["task"], row["site"], row["layer"]) in at]


def _weak(spots: dict[str, Row]) -> str:
    """Which of the sites are causally weak."""
    weak = [task for task, row in spots.items() if "iia" in row and (row["iia"] is None or row["iia"] < HALF)]
    told = f"Causally weak (interchange there moves less than half of the answers): {', '.join(weak)}."
    return f"{told} These rows are no outcome." if weak else ""


PLACED = "along_new along_old off_new moved_new moved_new_like moved_old probe_new probe_old"
"""Columns of a trajectory's rows that a report shows."""
FEW = 12
"""Models up to which each has rows of its own."""


def trajectory(result: Result) -> str:
    """Where new cities end, beside training cities: model by model, or means over the bases of many.

    Read where answers read a city; prompts whose reading site is weak are left out.
    """
    several = (result.tables["trajectory"], _ends(result))
    rows, ends = (where(table, chosen="cause", weak=False) for table in several)
    shown = [row for row in ends if row["prompt"] in row["set"].split("+")] or ends
    values = result.values
    text = (
        f"{values['n_models']} models from {values['n_bases']} bases, trained prompts, at the end, read "
        "where interchange says that the base's answers read a city."
    )
    if values["n_models"] > FEW:
        text += " Means over models and prompts; before: the base, which never met the new cities."
        columns = f"rows set route models {PLACED}"
        return f"{text}\n\n{table_of(_placed(rows, shown), columns, rows='rows beside the new ones')}"
    return f"{text}\n\n{table_of(shown, f'base set route step {PLACED}')}"


def _placed(rows: list[Row], ends: list[Row]) -> list[Row]:
    """Means of PLACED by what was trained and how, after those of the bases before any of it."""

    def means(mine: list[Row], of: str) -> Row:
        return {"models": len({row[of] for row in mine})} | {
            column: mean_of(row[column] for row in mine) for column in PLACED.split()
        }

    ends = [row | {"rows": str(row["condition"]).removesuffix(f", {row['route']}")} for row in ends]
    kinds = groups(ends, "route", "rows", "set")
    order = sorted(kinds, key=lambda of: (of[0] != "unprojected", of[0], of[1] != PLAIN, of[2].count("+")))
    before = [row for row in rows if row["step"] == 0]
    found = [{"set": "nothing yet"} | means(before, "base")] if before else []
    for of in order:
        found.append(dict(zip(("route", "rows", "set"), of, strict=True)) | means(kinds[of], "run"))
    return found


def conflict(result: Result) -> str:
    """Extremes of the cosines, and how low-dimensional the gradients are."""
    spaces, cosines = (where(result.tables[name], matrix="all") for name in ("spaces", "cosines"))
    whole = sorted(cosines, key=lambda row: row["cosine"] or 0.0)
    ends = whole if len(whole) <= 6 else [*whole[:3], *whole[-3:]]
    written = [
        {"task": task}
        | {key: mean_of(row[key] for row in mine) for key in ("share", "null", "like", "like_hi")}
        for task, mine in groups(result.tables["written"], "task").items()
    ]
    return paragraphs(
        f"All {number(result.values['n_parameters'])} weights together; lowest and highest cosines:",
        table_of(ends, "task_a task_b cosine interval", cosine="cosine", interval="95 % over batches"),
        table_of(
            spaces,
            "task effective_directions own own_in_sample others null",
            own="share in own leading directions, held out",
            own_in_sample="the same in sample",
            others="in other tasks' directions",
            null="random",
        ),
        "Of the gradients of matrices that write into the residual stream, what goes into the map's "
        "directions, mean over matrices:",
        table_of(written, "task share null like like_hi", null="random"),
    )


def routing_power(result: Result) -> str:
    """The share of each base and task, and how often each planted code is found."""
    value, lo, hi = (result.values[key] for key in ("contrast", "contrast_lo", "contrast_hi"))
    return paragraphs(
        table_of(
            result.tables["power"],
            "code off_manifold found interval share_before share_after least most",
            off_manifold="off-manifold",
        ),
        f"In the models as they are, {result.params['task']} differs from the other tasks by "
        f"{number(value)} (90 %: {number(lo)} to {number(hi)}):",
        table_of(
            result.tables["shares"],
            "base task layer position share",
            task="fine-tuned on",
            share="share in the manifold's directions",
        ),
    )


def _new_cities_one_step(table: str) -> Callable[[Result], list[Row]]:
    """Rows of a table of updates about one Adam step of new cities, of shares those in the manifold."""

    def rows(result: Result) -> list[Row]:
        found = where(result.tables[table], group="new", update="adam")
        return [row for row in found if row.get("basis", "manifold") == "manifold"]

    return rows


def _ends(result: Result) -> list[Row]:
    """The last checkpoint of every run."""
    rows = result.tables["trajectory"]
    last = {run: max(row["step"] for row in mine) for run, mine in groups(rows, "run").items()}
    return [row for row in rows if row["step"] == last[row["run"]]]


SHOWS = by_kind(
    Show("subspace", "Where updates go",
        "The change of a city's activation that a task asks for or makes: how much of it lies in the few "
        "directions in which training cities differ because of their coordinates, and where it moves the "
        "city.",
        subspace, (subspace_figure, directions_figure),
        (
            Table("share of one Adam step inside the manifold's directions, new cities",
                "task site layer rank share lo hi null null_hi like like_hi", _new_cities_one_step("shares")),
            Table("movement towards the true coordinates, new cities",
                "task site layer cosine lo hi cosine_shuffled gain gain_on target",
                _new_cities_one_step("directions")),
        )),
    Show("conflict", "Do tasks pull the weights the same way?",
        "Gradients of every weight matrix, task by task.",
        conflict, (conflict_figure,),
        (Table("cosines of the tasks' gradients, all weights", "task_a task_b cosine lo hi",
             lambda result: where(result.tables["cosines"], matrix="all")),)),
    Show("trajectory", "Where fine-tuning puts new cities",
        "On-manifold error (wrong coordinates) and off-manifold distance, beside training cities.",
        trajectory, (),
        (Table("new cities at the end",
             "base set route prompt chosen weak along_new along_old off_new probe_new moved_new", _ends),)),
    Show("routing_power", "Would the routing test see a hidden route?",
        "Codes written off the manifold into the displacements of real fine-tunings, at the site at which "
        "the base reads a city.",
        routing_power, (),
        (Table("planted codes, share of draws in which the test finds them",
             "code off_manifold draws found lo hi share_before share_after", "power"),)),
)  # fmt: skip
