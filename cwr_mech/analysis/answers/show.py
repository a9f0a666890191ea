"""How results are shown: sections of a report."""

from cwr_mech.analysis.answers.figures import curves_figure
from cwr_mech.analysis.answers.lines import eval_figure, learning_figure
from cwr_mech.render.markdown import markdown_table
from cwr_mech.render.numbers import number
from cwr_mech.render.shown import Plot, Section, Show, Table
from cwr_mech.results import Result


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


SHOWS = {
    "eval": Show(
        Section(
            "eval",
            "Answers by task",
            "Fresh test questions, answered greedily, beside the best constant-prediction baseline.",
            evaluation,
        ),
        (Plot("", "Scores by task", eval_figure),),
        (
            Table(
                "answers to fresh questions",
                (
                    *("run", "task", "group", "n", "parse_rate", "value_mean", "value_median", "baseline"),
                    *("metric", "unit"),
                ),
                lambda result: result.tables["tasks"],
            ),
        ),
    ),
    "train": Show(
        Section("train", "Learning curves", "Loss and validation scores on the way.", training),
        (Plot("", "Learning curves", learning_figure),),
    ),
    "curves": Show(
        Section(
            "curves",
            "Learning curves side by side",
            "Loss and validation scores of several runs against the examples they have seen.",
            curves,
        ),
        (Plot("", "Learning curves", curves_figure),),
    ),
}
