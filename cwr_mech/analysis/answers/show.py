"""How results are shown: sections of a report."""

from cwr_mech.analysis.answers.lines import curves_figure, eval_figure, learning_figure
from cwr_mech.data.summary import gain
from cwr_mech.render.markdown import table_of
from cwr_mech.render.numbers import number
from cwr_mech.render.shown import Show, Table, by_kind
from cwr_mech.results import Result, Row, groups, where


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
    last = where(rows, step=rows[-1]["step"])
    return f"{text}\n\n{table_of(last, 'task metric unit value baseline', value='last score')}"


def _last(result: Result) -> list[Row]:
    """Where the answers of several runs ended."""
    return list({(row["run"], row["group"], row["task"]): row for row in result.tables["tasks"]}.values())


def answered(result: Result) -> str:
    """In how many tasks each model closes half or more of the gap to perfect answers (training cities)."""
    rows = where(result.tables["tasks"], group="old") or result.tables["tasks"]
    told = []
    for run, mine in groups(rows, "run").items():
        closed = {
            row["task"]: gain(row["metric"], float(row["value_mean"]), float(row["baseline"])) for row in mine
        }
        good = [task for task, share in closed.items() if share >= 0.5]
        told.append(f"{run} in {len(good)} of {len(mine)} tasks" + (f" ({', '.join(good)})" if good else ""))
    return (
        "Half or more of the gap between the best constant answer and perfect answers is closed by "
        + "; ".join(told)
        + f". n = {min(row['n'] for row in rows)} questions a task."
    )


SCORES = Table(
    "answers to fresh questions",
    "run task group n parse_rate metric value_mean value_median baseline unit",
    "tasks",
    {"group": "questions"},
)
LAST_SCORES = Table(
    "scores at the end",
    "run task group rows metric value baseline unit",
    _last,
    {"group": "cities", "rows": "examples seen", "value": "last score"},
)
BREAKOUT = Table(
    "when tasks are learned",
    "run task rows_half published_rows rows closed",
    lambda result: result.tables.get("breakout", []),
    {"rows": "examples seen in all"},
)
SHOWS = by_kind(
    Show("eval", "Answers by task",
        "Fresh test questions, answered greedily, beside the best constant-prediction baseline.",
        figures=(eval_figure,), tables=(SCORES,), finding=answered),
    Show("train", "Learning curves",
        "Loss and validation scores on the way.",
        training, (learning_figure,)),
    Show("curves", "Learning curves side by side",
        "Loss and validation scores of several runs against the examples they have seen.",
        figures=(curves_figure,), tables=(BREAKOUT, LAST_SCORES)),
)  # fmt: skip
