"""What the report of the zoo says: its models, their maps, and the paper's claims one by one."""

from cwr_mech.claims import VERDICTS
from cwr_mech.config import TASK_NAMES
from cwr_mech.formats import number
from cwr_mech.report_text import interval, markdown_table
from cwr_mech.results import Result, Row


def models(result: Result) -> str:
    """What there is, and how each model answers beside the best constant answer."""
    columns = {
        "run": "model",
        "tasks": "trained on",
        "base": "from",
        "seed": "seed",
        "steps": "steps",
        "rows": "rows seen",
        "dtype": "weights",
    }
    scores = [row for row in result.tables["scores"] if row["trained"]]
    heads = {
        "run": "model",
        "task": "task",
        "group": "questions",
        "metric": "metric",
        "value": "score",
        "baseline": "best constant answer",
        "gain": "share of the gap closed",
        "unit": "unit",
    }
    table = [
        row | {"tasks": "all seven"} if row["tasks"] == "+".join(TASK_NAMES) else row
        for row in result.tables["models"]
    ]
    return (
        f"{markdown_table(table, columns)}\n\nScores on the tasks a model was trained on; "
        "the share of the gap is 0 for the best constant answer and 1 for perfect ones.\n\n"
        f"{markdown_table(scores, heads)}"
    )


def maps(result: Result) -> str:
    """The best layer of each model, with the control, and where new cities are put there."""
    new = {(row["run"], row["task"], row["hook"]): row for row in result.tables.get("new", [])}
    best: dict[str, Row] = {}
    for row in result.tables["layers"]:
        known = best.get(row["run"])
        if known is None or row["r2"] > known["r2"]:
            best[row["run"]] = row
    shown = []
    for run, row in best.items():
        place = new.get((run, row["task"], row["hook"]), {})
        extra = {"interval": interval(row), "new": place.get("error_mean"), "n_new": place.get("n_new")}
        shown.append(row | extra)
    columns = {
        "run": "model",
        "task": "prompt",
        "hook": "best layer",
        "r2": "R²",
        "interval": "95 % over cities",
        "control_r2_shuffled": "R², shuffled places",
        "control_r2_digits": "R², digits of the id",
        "error_mean": "mean error",
        "n_new": "new cities",
        "new": "their mean error",
    }
    return markdown_table(shown, columns)


def findings(result: Result) -> str:
    """The table of claims, section by section, and how many of each verdict."""
    values = result.values
    counts = ", ".join(f"{values[name]} {name}" for name in VERDICTS)
    parts = [f"{number(values['claims'])} claims: {counts}."]
    columns = {
        "claim": "claim",
        "published": "published",
        "ours": "here",
        "interval": "95 % over models",
        "models": "models",
        "against": "held against",
        "direction": "direction",
        "verdict": "verdict",
    }
    rows = result.tables["claims"]
    for section in dict.fromkeys(row["section"] for row in rows):
        mine = [row | {"interval": interval(row)} for row in rows if row["section"] == section]
        parts += [f"#### {section}", markdown_table(mine, columns)]
    return "\n\n".join([*parts, LIMITS])


LIMITS = """### What this scale cannot say

- The models know 256 cities and 16 new ones, the paper's 5,075 and 100. With so few, ids and places can be
  learned by heart: a task may be answered without a map, and neighbourhoods of 10 cities span continents.
- They are 4 layers of width 64 (276,000 parameters) against 6 of width 128 (1.6 million), trained on some
  hundred thousand rows against 42 million. A task that is not learned here may need longer, as triangle area
  and angle do in the paper; "not learned" is a statement about this budget.
- The seven-task models begin with compass alone, because that opens the plateau soonest. The paper's begin
  with all tasks. What depends on the order of learning is not comparable.
- Single-task models, where there are any, have the steps of the seven-task ones: an equal number of rows in
  all, so seven times as many of their own task, as in the paper.
- Layers do not correspond. The paper reads after block 5 of 6; we compare the last but one block here too
  (block 3 of 4, our L2), and name the best layer where a best layer is taken.
- New cities stand in one cluster in the ocean. Whether scattered new cities do the same is not tested here.
- Fine-tunings take 8.7 % of the base's steps, as in the paper, but at a batch of 56: few rows a new city.
  Improvement depends on the budget, so its level is not comparable, only the order of tasks.
- With three seeds an interval over models is wide (Student's t with 2 degrees of freedom): only large effects
  can be supported, and "undecided" is not "absent"."""
