"""What a report of many models says: its summary, the claims of each question, models and maps."""

from collections.abc import Mapping, Sequence
from itertools import product

from cwr_mech.analysis.stats.intervals import LEAST_UNITS
from cwr_mech.analysis.stats.models import FAILED_BELOW
from cwr_mech.findings.claims import CONFIRMED, CONTROL
from cwr_mech.findings.figures import claims_figure, maps_figure, overview_figure, stretch_figure
from cwr_mech.findings.questions import QUESTIONS, Question, asked, headline
from cwr_mech.render.markdown import ends, paragraphs, table_of
from cwr_mech.render.numbers import layer_name, number
from cwr_mech.render.shown import Show, by_kind
from cwr_mech.results import Result, Row, groups
from cwr_mech.tasks.registry import ordered

ANSWERS: Mapping[str, str] = {
    "supported": "Yes",
    "refuted": "No, the opposite of",
    "no effect of that size": "No, not by as much as is of interest",
    "inconclusive": "Open whether",
}
"""The first word of the answer that a verdict gives to a claim."""
VERDICT_NOTE = (
    "Verdicts: *supported*, the contrast differs from its reference (adjusted p below 0.05) on the "
    "predicted side; *refuted*, on the other side; *no effect of that size*, it is smaller than the "
    "smallest effect of interest (two one-sided tests); *inconclusive*, none of these, fewer than three "
    "models, or a control that fails. Tests are Student's t over models, p values adjusted over the "
    "findings of this report (Benjamini-Hochberg). Intervals are 95 % and not adjusted, so one that "
    "excludes the reference may still be inconclusive. Controls and manipulation checks are listed apart "
    "and support nothing."
)


def anchor(title: str) -> str:
    """The link that Markdown makes of a heading."""
    kept = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -_")
    return "#" + kept.replace(" ", "-")


def answer(row: Row) -> str:
    """The answer to a claim in one sentence of the field's words."""
    statement = row["statement"]
    if row["verdict"] != "supported":
        statement = statement[:1].lower() + statement[1:]
    joint = " " if row["verdict"] in ("inconclusive", "refuted") else ": "
    return f"{ANSWERS[row['verdict']]}{joint}{statement}."


def here(row: Row) -> str:
    """Our value with its interval."""
    found = ends(row)
    return number(row["value"]) if found == "-" else f"{number(row['value'])} ({found})"


def summary(result: Result) -> str:
    """One page: each question with its answer, number, interval, what the paper has, verdict and limits."""
    rows = []
    for question in asked(result):
        row = headline(result.tables["claims"], question)
        link = f"[{question.title}]({anchor(question.title)})"
        if row is None:
            rows.append({"question": link, "answer": checks(result, question), "limits": question.limits})
            continue
        stands = "cannot be compared" if row["value"] is None else row["agreement"]
        paper = "-" if row["published"] is None else f"{number(row['published'])}: {stands}"
        rows.append(
            {
                "question": link,
                "answer": answer(row),
                "here": "-" if row["value"] is None else f"{here(row)}, n = {row['n']} {row['units']}",
                "paper": paper,
                "verdict": f"**{row['verdict']}**" + (f": {row['reason']}" if row["reason"] else ""),
                "limits": question.limits,
            }
        )
    return f"{table_of(rows, 'question answer verdict here paper limits')}\n\n{VERDICT_NOTE}"


def checks(result: Result, question: Question) -> str:
    """Which tasks are learned, with all others and alone, of a question without a headline."""
    words = "learned", "learned by the one or two models there are", "not, or not surely"
    found: dict[str, dict[str, list[str]]] = {}
    for row in result.tables["claims"]:
        if row["question"] == question.id and row.get("n") != 0:
            task, _, how = row["statement"].removeprefix("Models learn ").partition(" ")
            few = row["n"] < 3 and row["value"] >= FAILED_BELOW
            which = 0 if row["verdict"] == "supported" else 1 if few else 2
            found.setdefault(how, {word: [] for word in words})[words[which]].append(task)
    return " ".join(
        f"{how[:1].upper()}{how[1:]}: "
        + "; ".join(f"{', '.join(tasks)} {word}" for word, tasks in lists.items() if tasks)
        + "."
        for how, lists in found.items()
    )


def claims(result: Result, question: str) -> str:
    """The claims of one question: findings, then controls and manipulation checks."""
    rows = [row for row in result.tables["claims"] if row["question"] == question]
    parts = []
    others = "Controls and manipulation checks, which support nothing by themselves"
    for title, finding in (("Findings", True), (others, False)):
        if mine := [row for row in rows if (row["kind"] == "finding") == finding]:
            parts += [f"**{title}**", _claims_table(mine)]
    return "\n\n".join(parts)


def _claims_table(rows: Sequence[Row]) -> str:
    """Claims, a row each: what first bases say beside later ones. Reasons are numbered and stand below."""
    reasons: dict[str, int] = {}

    def mark(reason: str) -> str:
        return f" ({reasons.setdefault(reason, len(reasons) + 1)})" if reason else ""

    def told(row: Row | None) -> str:
        if row is None:
            return "-"
        verdict = f"{row['verdict']}{mark(row['reason'])}"
        return verdict if row["value"] is None else f"{here(row)}, n = {row['n']}: {verdict}"

    def paper(row: Row) -> str:
        if row["published"] is None:
            return "-"
        stands, _, why = row["agreement"].partition(": ")
        return f"{number(row['published'])}: {stands}{mark(why)}"

    later = {row["id"].removesuffix(CONFIRMED): row for row in rows if row["role"] == "confirmatory"}
    shown = [
        {
            "statement": f"{row['statement']}. *{row['contrast']}*",
            "here": told(row),
            "later": told(later.get(row["id"])),
            "smallest": f"{number(row['smallest'])}: {row['why']}" if row["smallest"] else "a threshold",
            "paper": paper(row),
        }
        for row in rows
        if row["role"] != "confirmatory"
    ]
    columns = [name for name in shown[0] if name != "paper" or any(row["paper"] != "-" for row in shown)]
    columns = [name for name in columns if name != "later" or later]
    heads = {"here": "first bases (95 %)" if later else "here (95 %)", "later": "later bases, confirmatory"}
    told_why = "\n".join(f"{k}. {reason}" for reason, k in reasons.items())
    return paragraphs(table_of(shown, " ".join(columns), **heads), told_why)


def agreement(result: Result) -> str:
    """How far our tables agree with the published ones, cell by cell."""
    if not result.tables["agreement"]:
        return ""
    return paragraphs(
        "Levels differ with scale and budget, so patterns are compared. Cells share models and tasks: no p "
        "value is valid for them, and none is given.",
        table_of(result.tables["agreement"], "table cells r same chance"),
    )


def readme_rows(reports: Mapping[str, Result]) -> str:
    """The table of verdicts for the README: each question's headline, from findings by report's name; of
    several reports that ask it the first that has a number.
    """
    found: dict[str, list[tuple[str, Row]]] = {}
    for name, result in reports.items():
        for question in asked(result):
            row = headline(result.tables["claims"], question)
            if row is not None:
                found.setdefault(question.id, []).append((name, row))
    rows = []
    for question in QUESTIONS:
        if question.id in found:
            named = found[question.id]
            name, row = next((one for one in named if one[1]["value"] is not None), named[0])
            here_ = "-" if row["value"] is None else f"{here(row)}, n = {row['n']}"
            stands = str(row["agreement"]).split(":")[0]  # the report says why it cannot be compared
            paper = stands if row["published"] is None else f"{number(row['published'])} ({stands})"
            link = f"[{question.title}](reports/{name}/report.md{anchor(question.title)})"
            told = {"question": link, "statement": row["statement"], "paper": paper, "here": here_}
            told_why = row["n"] < LEAST_UNITS or row["reason"].startswith(CONTROL)
            why = row["reason"].split(":")[0] if told_why else ""  # the rest stands in the report
            rows.append(told | {"verdict": row["verdict"] + (f": {why}" if why else "")})
    return table_of(rows, "question statement paper here verdict", here="here (95 %), n models")


def models(result: Result) -> str:
    """What there is of the plan, and how far each task is learned by which models."""
    scores = [row for row in result.tables["scores"] if row["trained"] and row["group"] == "old"]
    family = {row["run"]: row["family"] for row in result.tables["models"]}
    rows = []
    for (name, task), mine in _by_family([row | {"family": family[row["run"]]} for row in scores]):
        gains = [row["gain"] for row in mine]
        rows.append(
            {"family": name, "task": task, "models": len(mine), "metric": mine[0]["metric"]}
            | {column: _mean(mine, column) for column in ("value", "baseline", "gain")}
            | {"least": min(gains), "most": max(gains)}
        )
    heads = {"models": "n", "value": "mean score", "gain": "share of the gap closed"}
    plan = [
        f"What the plan (`cwr-mech sweep {result.params['plan']}`) asks for, what is here, and how "
        "long training that took by the clock (one thread of a core that other work shares):",
        table_of(result.tables["plan"], "family planned here hours", here="here"),
    ]
    return paragraphs(
        *(plan if result.tables["plan"] else []),
        "Scores on training cities in the tasks a model was trained on; the share of the gap is 0 for the "
        "best constant answer and 1 for perfect ones. Every model's own scores are in the result file and in "
        "[zoo/README.md](../../zoo/README.md).",
        table_of(rows, "family task models metric value baseline gain least most", **heads),
    )


def _by_family(rows: Sequence[Row]) -> list[tuple[tuple[str, str], list[Row]]]:
    """(family, task) and their rows, families as they come, tasks in the usual order."""
    found = groups(rows, "family", "task")
    families, tasks = dict.fromkeys(row["family"] for row in rows), ordered(row["task"] for row in rows)
    return [(key, found[key]) for key in product(families, tasks) if key in found]


def _mean(rows: Sequence[Row], column: str) -> float:
    return sum(row[column] for row in rows) / len(rows)


def maps(result: Result) -> str:
    """R² by prompt and layer, and the best layer with its controls and the new cities, by kind of model."""
    rows = result.tables["layers"]
    places = {(row["layer"], row["hook"]): layer_name(row["layer"], row["hook"]) for row in rows}
    names = [places[place] for place in sorted(places)]
    by_layer, best = [], []
    new = {(row["run"], row["task"], row["hook"]): row for row in result.tables["new"]}
    for (kind, task), mine in _by_family(rows):
        head = {"family": kind, "task": task, "models": len({row["run"] for row in mine})}
        at = groups(mine, "hook")
        means = {hook: _mean(at[hook], "r2") for _, hook in sorted(places)}
        by_layer.append(head | dict(zip(names, means.values(), strict=True)))
        top = max(means, key=lambda hook: means[hook])
        placed = [new[key] for row in at[top] if (key := (row["run"], task, top)) in new]
        best.append(
            head
            | {"layer": names[list(means).index(top)], "r2": means[top]}
            | {"shuffled": max(row["control_r2_shuffled"] for row in at[top])}
            | {"digits": max(row["control_r2_digits"] for row in at[top])}
            | {"error": _mean(at[top], "error_mean")}
            | {"new": _mean(placed, "error_mean") if placed else None}
        )
    heads = {name: name for name in names} | {"models": "n"}
    controls = {"models": "n", "layer": "best layer", "new": "mean error, new cities"}
    controls |= {"shuffled": "R², shuffled cities", "digits": "R², digits of the id"}
    return paragraphs(
        "R² on held-out cities, means over models:",
        table_of(by_layer, f"family task models {' '.join(names)}", **heads),
        "The best layer, with the largest control of any model:",
        table_of(best, "family task models layer r2 shuffled digits error new", **controls),
    )


def stretch(result: Result) -> str:
    """Where two trainings of the same model stand after some steps, and what they cost."""
    values = result.values
    return (
        f"{number(values['steps'])} steps, {number(values['rows'])} rows: loss {number(values['loss'], 5)} "
        f"here, {number(values['loss_peer'], 5)} under the Trainer; at no step were they further apart than "
        f"{number(values['largest_difference'])}. Processor seconds a step: "
        f"{number(values['seconds_a_step'])} here, {number(values['seconds_a_step_peer'])} there."
    )


def limits(result: Result) -> str:
    """What the settings of these models leave open; reads values of the result of kind "zoo"."""
    values, models = result.values, result.tables["models"]
    scratch = [row for row in models if row["base"] is None]
    by_count = groups([row | {"count": str(row["tasks"]).count("+") + 1} for row in scratch], "count")
    seen = "; ".join(
        f"{count} task{'s' if count > 1 else ''} "
        + " or ".join(f"{each:,}" for each in sorted({row["rows"] for row in mine}))
        for count, mine in sorted(by_count.items())
    )
    points = {
        "Small worlds can be learned by heart": f"These models know {values['n_cities']} cities and "
        f"{values['n_new']} new ones, the paper's 5,075 and 100.",
        "Small models, few rows": f"{values['n_layers']} layers of width {values['d_model']} "
        f"({values['parameters']:,} parameters) against 6 of width 128 (1.6 million). Rows seen, by number "
        f'of tasks: {seen}; the paper: 42 million. "Not learned" is a statement about this budget.',
        "Few seeds": "With three models Student's t has two degrees of freedom: inconclusive is not absent.",
    }
    if values["first_tasks"]:
        points["Order of learning"] = (
            f"{values['first_tasks']} of {len(scratch)} pretrained models begin with some of their tasks "
            "alone, the paper's train on all of theirs from the start."
        )
    return "\n".join(f"- **{title}.** {text}" for title, text in points.items())


SHOWS = by_kind(
    Show("zoo", "The models",
        "Everything below is about these models; each can be loaded as zoo:NAME.",
        models),
    Show("maps", "Maps, model by model",
        "A linear probe for the place of a city in each model, at its best layer; new cities are decoded by "
        "a probe fitted on the others.",
        maps, (maps_figure,)),
    Show("stretch", "A stretch of the paper's training",
        "The same weights, batches and rates here and under transformers' Trainer.",
        stretch, (stretch_figure,)),
    Show("findings", "All findings",
        "",
        summary, (overview_figure, claims_figure)),
)  # fmt: skip
