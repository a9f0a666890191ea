"""What the report of the zoo says: its chapters, models, maps, and the paper's claims and values."""

from collections.abc import Sequence
from typing import NamedTuple

from cwr_mech.experiments.plans import find_plan
from cwr_mech.experiments.presets import preset
from cwr_mech.experiments.zoo import family
from cwr_mech.findings.claims import VERDICTS
from cwr_mech.render.markdown import interval, markdown_table
from cwr_mech.render.numbers import number
from cwr_mech.render.style import layer_name
from cwr_mech.results import Result, Row
from cwr_mech.tasks.registry import ordered
from cwr_mech.training.parameters import FlatParameters


def models(result: Result) -> str:
    """What there is of the plan, and how far each task is learned by which models."""
    plan = {"family": "models", "planned": "planned", "here": "here"}
    scores = [row for row in result.tables["scores"] if row["trained"] and row["group"] == "old"]
    family = {row["run"]: row["family"] for row in result.tables["models"]}
    rows = []
    for name in dict.fromkeys(family.values()):
        for task in ordered(row["task"] for row in scores):
            mine = [row for row in scores if family[row["run"]] == name and row["task"] == task]
            if mine:
                gains = [row["gain"] for row in mine]
                rows.append(
                    {"family": name, "task": task, "models": len(mine), "metric": mine[0]["metric"]}
                    | {"value": _mean(mine, "value"), "baseline": _mean(mine, "baseline")}
                    | {"gain": _mean(mine, "gain"), "least": min(gains), "most": max(gains)}
                )
    heads = {
        "family": "models",
        "task": "task",
        "models": "n",
        "metric": "metric",
        "value": "mean score",
        "baseline": "best constant answer",
        "gain": "share of the gap closed",
        "least": "least",
        "most": "most",
    }
    return (
        f"What the plan (`cwr-mech sweep zoo`) asks for, and what is here:\n\n"
        f"{markdown_table(result.tables['plan'], plan)}\n\nScores on ordinary cities in the tasks a model "
        "was trained on; the share of the gap is 0 for the best constant answer and 1 for perfect ones. "
        "Every model's own scores are in the result file and in [zoo/README.md](../../zoo/README.md).\n\n"
        f"{markdown_table(rows, heads)}"
    )


def _mean(rows: Sequence[Row], column: str) -> float:
    return sum(row[column] for row in rows) / len(rows)


def maps(result: Result) -> str:
    """R² by prompt and layer, and the best layer with its controls and the new cities, by kind of model."""
    rows = result.tables["layers"]
    places = {(row["layer"], row["hook"]): layer_name(row["layer"], row["hook"]) for row in rows}
    names = [places[place] for place in sorted(places)]
    by_layer, best = [], []
    new = {(row["run"], row["task"], row["hook"]): row for row in result.tables["new"]}
    for kind in dict.fromkeys(row["family"] for row in rows):
        for task in ordered(row["task"] for row in rows):
            mine = [row for row in rows if (row["family"], row["task"]) == (kind, task)]
            if not mine:
                continue
            head = {"family": kind, "task": task, "models": len({row["run"] for row in mine})}
            means = {
                hook: _mean([row for row in mine if row["hook"] == hook], "r2") for _, hook in sorted(places)
            }
            by_layer.append(head | dict(zip(names, means.values(), strict=True)))
            top = max(means, key=lambda hook: means[hook])
            chosen = [row for row in mine if row["hook"] == top]
            placed = [new[key] for row in chosen if (key := (row["run"], task, top)) in new]
            best.append(
                head
                | {"where": names[list(means).index(top)], "r2": means[top]}
                | {"shuffled": max(row["control_r2_shuffled"] for row in chosen)}
                | {"digits": max(row["control_r2_digits"] for row in chosen)}
                | {"error": _mean(chosen, "error_mean")}
                | {"new": _mean(placed, "error_mean") if placed else None}
            )
    heads = {"family": "models", "task": "prompt", "models": "n"}
    controls = {
        "where": "best layer",
        "r2": "R²",
        "shuffled": "R², shuffled places",
        "digits": "R², digits of the id",
        "error": "mean error",
        "new": "of new cities",
    }
    return "\n\n".join(
        [
            "R² on held-out cities, means over models:",
            markdown_table(by_layer, heads | {name: name for name in names}),
            "The best layer, with the largest control of any model:",
            markdown_table(best, heads | controls),
        ]
    )


def relation(result: Result) -> str:
    """Correlations of similarity with transfer, published and here."""
    columns = {
        "similarity": "similarity",
        "transfer": "transfer",
        "pairs": "pairs of tasks",
        "without": "left out",
        "n": "pairs",
        "r": "r",
        "r2": "R²",
        "p": "p",
        "r_adjusted": "r within asked tasks",
    }
    return markdown_table(result.tables["correlations"], columns)


def stretch(result: Result) -> str:
    """Where two trainings of the same model stand after some steps, and what they cost."""
    values = result.values
    return (
        f"{number(values['steps'])} steps, {number(values['rows'])} rows: loss {number(values['loss'], 5)} "
        f"here, {number(values['loss_peer'], 5)} under the Trainer; at no step were they further apart than "
        f"{number(values['largest_difference'])}. Processor seconds a step: "
        f"{number(values['seconds_a_step'])} here, {number(values['seconds_a_step_peer'])} there."
    )


class Chapter(NamedTuple):
    """A part of the report of a zoo: its heading, what it asks, the section of the claims that answer it, and
    the kinds of results it shows."""

    title: str
    question: str
    section: str
    kinds: tuple[str, ...]


CHAPTERS = (
    Chapter(
        "1. Which tasks are learned",
        "Beside the best constant answer; learned means that half of the gap to perfect is closed.",
        "tasks",
        ("zoo", "eval", "train", "curves"),
    ),
    Chapter(
        "2. Maps in the representations",
        "Is a city's place read from what the model holds about it, by task and layer?",
        "maps",
        ("maps", "probe", "readout", "timeline", "manifold", "surfacing", "erasure"),
    ),
    Chapter(
        "3. Do tasks arrive at the same representation",
        "Similarity between models beside its ceiling (the same task, another seed), by global and local "
        "measures, and its trend with the number of tasks.",
        "similarity",
        ("cka", "similarity"),
    ),
    Chapter(
        "4. What fine-tuning teaches about new cities",
        "Which task teaches which, what is forgotten, and where new cities are put.",
        "fine-tuning",
        ("transfer",),
    ),
    Chapter(
        "5. Does similarity predict transfer",
        "The published correlation, with and without distance, and within each asked task.",
        "similarity and transfer",
        ("relation",),
    ),
    Chapter(
        "6. Routing and patching",
        "Do divergent tasks write new cities off the map? Shares of updates, arms, and what answers follow.",
        "routing and patching",
        ("routing", "subspace", "conflict", "trajectory", "patch", "patch_tasks", "patch_parts"),
    ),
    Chapter(
        "7. Prediction before training",
        "Can divergence be told from the tasks and their gradients alone?",
        "prediction",
        ("prediction",),
    ),
    Chapter(
        "8. Published and found, value by value",
        "Every published value that has a counterpart here, and what this scale cannot say.",
        "values",
        ("findings",),
    ),
)
"""A report that holds findings is written in these chapters."""


VERDICT_NOTE = (
    "Supported: the 95 % interval over models lies on the paper's side of what it is held against; not "
    "supported: on the other side; undecided: it holds both, or there is one model and no interval. "
    "Direction looks at the value alone."
)


def claims(result: Result, section: str) -> str:
    """The claims of one chapter."""
    columns = {
        "claim": "claim",
        "published": "published",
        "ours": "here",
        "interval": "95 %",
        "models": "models",
        "against": "held against",
        "direction": "direction",
        "verdict": "verdict",
    }
    rows = [row for row in result.tables["claims"] if row["section"] == section]
    return markdown_table([row | {"interval": interval(row)} for row in rows], columns) if rows else ""


def summary(result: Result) -> str:
    """How many claims of each verdict, by chapter."""
    rows = []
    for chapter in CHAPTERS:
        mine = [row for row in result.tables["claims"] if row["section"] == chapter.section]
        if mine:
            counts = {name: sum(row["verdict"] == name for row in mine) for name in VERDICTS}
            rows.append({"chapter": chapter.title, "claims": len(mine)} | counts)
    table = markdown_table(rows, {name: name for name in ("chapter", "claims", *VERDICTS)})
    return f"{VERDICT_NOTE}\n\n{table}"


def findings(result: Result) -> str:
    """The table of values, how many of each group have no counterpart, and what this scale cannot say."""
    rows = result.tables["values"]
    found = [row | {"interval": interval(row)} for row in rows if row["ours"] is not None]
    same = sum(row["direction"] == "same" for row in found)
    columns = {
        "quantity": "quantity",
        "published": "published",
        "ours": "here",
        "interval": "95 % over models",
        "models": "models",
        "against": "held against",
        "direction": "direction",
    }
    parts = [
        f"{len(found)} of {len(rows)} published values have a counterpart; {same} have the same direction."
    ]
    groups = dict.fromkeys(row["group"] for row in rows)
    for group in groups:
        mine = [row for row in found if row["group"] == group]
        if mine:
            parts += [f"**{group}**", markdown_table(mine, columns)]
    missing = {group: sum(row["group"] == group and row["ours"] is None for row in rows) for group in groups}
    lines = [f"- {group}: {count} values" for group, count in missing.items() if count]
    parts += ["**Published, without a model here yet:**\n\n" + "\n".join(lines)] if lines else []
    return "\n\n".join([*parts, limits()])


def limits() -> str:
    """What the settings of the small models and of the plan leave open."""
    plan = find_plan("zoo")
    config = preset(plan.preset)
    few = [run.config for run in plan.runs(config) if run.base is None]
    rows = {family(one, False): one.train.steps * one.train.batch_size for one in few}
    model, world = config.model, config.world
    size = FlatParameters(model, "meta").values.numel()
    return f"""**What this scale cannot say**

- The models know {world.n_cities} cities and {world.n_new} new ones, the paper's 5,075 and 100. With so few,
  ids and places can be learned by heart: a task may be answered without a map, and neighbourhoods of 10
  cities span continents.
- They are {model.n_layers} layers of width {model.d_model} ({size:,} parameters) against 6 of width 128
  (1.6 million), trained on {rows["all seven tasks"]:,} rows against 42 million, and by Muon where the
  paper has AdamW; fine-tunings are by AdamW. A task that is not learned here may need longer, as triangle
  area and angle do in the paper; "not learned" is a statement about this budget.
- Models of several tasks of which compass is one begin with compass alone, because that opens the plateau
  soonest, and those of all seven are asked for triangle areas twice as often. The paper's begin with all
  tasks, equally. What depends on the order of learning is not comparable, and the start in common is one
  more reason why models with compass may be alike.
- Models of one task have {rows["1 task"]:,} rows, all others {rows["2 tasks"]:,}. Neither the rows of a model
  nor the rows of a task are held fixed between them.
- Layers do not correspond. The paper reads after block 5 of 6; we compare the last but one block here too
  (block 3 of 4, our L2), and name the best layer where a best layer is taken.
- New cities stand in one cluster in the ocean. Whether scattered new cities do the same is not tested here.
- Fine-tunings take 8.7 % of the base's steps, as in the paper, but at a batch of {config.train.batch_size}:
  few rows a new city. Improvement depends on the budget, so its level is not comparable, only the order of
  tasks.
- With three seeds an interval over models is wide (Student's t with 2 degrees of freedom): only large effects
  can be supported, and "undecided" is not "absent"."""
