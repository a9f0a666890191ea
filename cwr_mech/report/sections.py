"""What a report says about each kind of result: Markdown that goes below its figures."""

from cwr_mech.render.markdown import best_rows, interval, markdown_table
from cwr_mech.render.numbers import number
from cwr_mech.render.style import layer_name
from cwr_mech.results import Result, Row

MOST_ROWS = 40
"""Longer tables are left to the result file."""
MOST_CELLS = 70
"""Longer matrices of sets by tasks are, too."""


def training(result: Result) -> str:
    """How the model was made, and where its scores on the way ended."""
    values = result.values
    minutes = None if values["seconds"] is None else values["seconds"] / 60
    text = (
        f"{result.params['runs'][0]}: {number(values['n_parameters'])} parameters, {number(values['steps'])} "
        f"steps, {number(values['rows'])} rows in {number(minutes)} minutes of training "
        f"({number(values['rows_per_second'])} rows a second); state: {values['state']}; last loss "
        f"{number(values['loss'])} nats a predicted token."
    )
    rows = result.tables["tasks"]
    if not rows:
        return text
    last = [row for row in rows if row["step"] == rows[-1]["step"]]
    columns = {"task": "task", "metric": "metric", "unit": "unit", "value": "last score"}
    return f"{text}\n\n{markdown_table(last, columns | {'baseline': 'best constant answer'})}"


def curves(result: Result) -> str:
    """Where the answers of several runs ended, beside the best constant answers."""
    last = {(row["run"], row["group"], row["task"]): row for row in result.tables["tasks"]}
    columns = {
        "run": "model",
        "task": "task",
        "group": "cities",
        "rows": "examples seen",
        "metric": "metric",
        "value": "last score",
        "baseline": "best constant answer",
        "unit": "unit",
    }
    return markdown_table(list(last.values()), columns)


def evaluation(result: Result) -> str:
    """Scores by model, task and kind of question."""
    columns = {
        "run": "model",
        "task": "task",
        "group": "questions",
        "n": "n",
        "parse_rate": "read",
        "metric": "metric",
        "value_mean": "mean",
        "value_median": "median",
        "baseline": "best constant answer",
        "unit": "unit",
    }
    return markdown_table(result.tables["tasks"], columns)


def probes(result: Result) -> str:
    """Best layer for each prompt with its controls, and the new cities."""
    rows = best_rows(result.tables["layers"], "task", "r2")
    shown = [
        row
        | {"where": layer_name(row["layer"], row["hook"]), "interval": interval(row)}
        | {"transformer_lens": row["hook"]}
        for row in rows
    ]
    columns = {
        "task": "prompt",
        "where": "best layer",
        "transformer_lens": "hook",
        "r2": "R²",
        "interval": "95 % over cities",
        "error_mean": "mean error",
        "error_median": "median error",
        "control_r2_shuffled": "R², shuffled places",
        "selectivity": "above random but fixed places",
        "control_r2_digits": "R², digits of the id",
        "control_r2_untrained": "R², untrained model",
    }
    parts = []
    if rows:
        least = number(min(row["r2"] for row in rows))
        null = number(max(row["control_r2_shuffled"] for row in rows))
        parts.append(
            f"At its best layer every prompt reaches an R² of at least {least} on held-out cities; with "
            f"shuffled places the same probe reaches at most {null}. Errors are in tenths of a degree."
        )
    parts.append(markdown_table(shown, {key: head for key, head in columns.items() if _any(shown, key)}))
    if result.tables.get("new"):
        parts.append(_new_cities(result, rows))
    return "\n\n".join(parts)


def _any(rows: list[Row], key: str) -> bool:
    return any(row.get(key) is not None for row in rows)


def _new_cities(result: Result, best: list[Row]) -> str:
    at_best = {(row["task"], row["layer"], row["site"]) for row in best}
    rows = [
        row | {"interval": interval(row)}
        for row in result.tables["new"]
        if (row["task"], row["layer"], row["site"]) in at_best
    ]
    columns = {
        "task": "prompt",
        "n_new": "new cities",
        "error_mean": "mean error",
        "interval": "95 % over new cities",
        "error_median": "median error",
        "error_old": "mean error of held-out old cities",
        "error_shuffled": "shuffled places",
        "error_constant": "mean place of old cities",
    }
    return (
        "New cities, decoded at the same layers by a probe fitted on old cities only:\n\n"
        + markdown_table(rows, {key: head for key, head in columns.items() if _any(rows, key)})
    )


def transfer(result: Result) -> str:
    """Averages over tasks for every set, with intervals over models; then the matrix with its raw scores."""
    averages = {
        "ni_trained": "improvement, trained tasks",
        "ni_transfer": "improvement, other tasks",
        "ni_transfer_learned": "other tasks that the base had learned",
        "deviation_transfer": "other tasks, beyond the best teacher",
        "deviation_transfer_learned": "the same, learned tasks",
    }
    rows = [row | {name: _mean_interval(row, name) for name in averages} for row in result.tables["sets"]]
    beside = {"arm": "rows beside the new ones", "set": "trained on", "models": "models"}
    text = markdown_table(rows, beside | averages)
    cells = [row for row in result.tables["matrix"] if row["arm"] == result.values["arm"]]
    if len(cells) > MOST_CELLS:
        return f"{text}\n\nTable `matrix` of the result file has {len(cells):,} rows of raw scores."
    columns = {
        "set": "trained on",
        "task": "asked",
        "models_learned": "bases that had learned it",
        "ni": "improvement",
        "ni_paper": "cut as in the paper",
        "base_new": "new cities before",
        "new": "after",
        "new_read": "read",
        "retention": "retention",
        "base_old": "old cities before",
        "old": "after",
        "old_read": "read",
        "deviation": "beyond the best teacher",
    }
    return f"{text}\n\nScores, {result.values['arm']}:\n\n{markdown_table(cells, columns)}"


def _mean_interval(row: Row, name: str) -> str:
    """A mean with its 95 % interval where there is one."""
    if row.get(name) is None:
        return "-"
    if row[f"{name}_lo"] is None:
        return number(row[name])
    return f"{number(row[name])} ({number(row[f'{name}_lo'])} to {number(row[f'{name}_hi'])})"


def plain(result: Result) -> str:
    """Any result: its values and its short tables as they are."""
    parts = []
    if result.values:
        rows: list[Row] = [{"name": name, "value": value} for name, value in result.values.items()]
        parts.append(markdown_table(rows, {"name": "value", "value": ""}))
    for name, table in result.tables.items():
        if table and len(table) <= MOST_ROWS:
            parts.append(f"{name}:\n\n{markdown_table(table, {key: key for key in table[0]})}")
        elif table:
            parts.append(f"Table `{name}` has {len(table):,} rows; they are in the result file.")
    return "\n\n".join(parts)
