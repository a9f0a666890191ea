"""What a report says about similarity between models, the manifold, read-outs, erasure and checkpoints."""

from cwr_mech.analysis.similarity.figures import cka_figure, groups_figure, matrices_figure, references_figure
from cwr_mech.render.markdown import interval, markdown_table, used
from cwr_mech.render.numbers import layer_name, number
from cwr_mech.render.shown import Plot, Section, Show, Table
from cwr_mech.results import Result, Row

GROUP_HEADS = {
    "measure": "measure",
    "models": "which",
    "group": "pairs",
    "value": "mean",
    "interval": "95 % over models",
    "n": "models",
    "null": "null: shuffled cities",
    "ceiling": "ceiling",
    "p": "p",
    "held_fixed": "held fixed",
    "published": "published",
}
PAIR_HEADS = {
    "run_a": "a",
    "run_b": "b",
    "measure": "measure",
    "value": "value",
    "interval": "95 % over cities",
    "there": "a to b",
    "back": "b to a",
    "null_mean": "null: shuffled cities",
    "null_best": "95 % of shuffles",
    "ceiling": "ceiling",
    "of_ceiling": "share of it",
    "published": "published",
    "reason": "undefined because",
}
MOST_PAIRS = 40


def groups_table(result: Result, layer: int) -> list[str]:
    """Means over groups of pairs of models at a layer, with interval, null, ceiling and published value."""
    groups = [row | {"interval": interval(row)} for row in result.tables["groups"] if row["layer"] == layer]
    if not groups:
        return []
    return [
        "Means over pairs of models (p: same tasks against disjoint tasks, or the trend with the number of "
        "tasks; held fixed: what models of one task and of several have in common):",
        markdown_table(groups, used(groups, GROUP_HEADS)),
    ]


def models(result: Result) -> str:
    """Models, groups of pairs at the deepest layer, pairs, references and dimensions."""
    layer = max(result.params["layers"])
    parts = [f"{number(result.values['models'])} models at {layer_name(layer)}:"]
    heads = {"run": "model", "tasks": "tasks", "seed": "seed", "rows": "rows seen", "exposure": "rows a task"}
    heads |= {"least_gain": "least share of the gap closed", "failed": "failed"}
    parts.append(markdown_table(result.tables["models"], heads))
    parts += groups_table(result, layer)
    pairs = [row | {"interval": interval(row)} for row in result.tables["pairs"] if row["layer"] == layer]
    shown = sorted(pairs, key=lambda row: (row["run_a"], row["run_b"]))[:MOST_PAIRS]
    text = "Pairs:" if len(shown) == len(pairs) else f"The first {len(shown)} of {len(pairs)} pairs:"
    parts += [text, markdown_table(shown, used(shown, PAIR_HEADS))]
    parts += ["Each model beside what is not another model:", _references(result, layer)]
    counted = [row for row in result.tables["dimensions"] if row["layer"] == layer]
    heads = {"run": "model", "participation_singular": "effective rank (participation of singular values)"}
    heads |= {"published": "published, of 256", "effective_rank": "by entropy"}
    heads |= {"participation": "participation of variances", "twonn": "TwoNN dimension", "p": "of"}
    heads |= {"reason": "undefined because"}
    return "\n\n".join([*parts, "Dimensions:", markdown_table(counted, used(counted, heads))])


def _references(result: Result, layer: int) -> str:
    """A row for each model and measure, a column for each reference."""
    found: dict[tuple[str, str], Row] = {}
    heads = {"run": "model", "measure": "measure"}
    for row in result.tables["references"]:
        if row["layer"] == layer:
            known = {"run": row["run"], "measure": row["measure"]}
            found.setdefault((row["run"], row["measure"]), known)[row["reference"]] = row["value"]
            heads[row["reference"]] = row["reference"]
    return markdown_table(sorted(found.values(), key=lambda row: row["run"])[:MOST_PAIRS], heads)


def matrix(result: Result) -> str:
    """The controls, groups of pairs at the deepest layer, and models beside models layer by layer; the matrix
    itself is the figure.
    """
    text = f"{result.values['measure']}, n = {number(result.values['n'])} cities."
    mean = result.values.get("mean_off_diagonal")
    if mean is not None:
        text += f" Mean over pairs: {number(mean)}."
    parts = [text]
    control = result.tables.get("control", [])
    if control:
        heads = {"control": "control", "mean": "mean", "max": "largest", "n": "n"}
        parts.append(markdown_table(control, heads))
    groups = result.tables.get("groups", [])
    if groups:
        parts += groups_table(result, max(row["layer"] for row in groups))
    hooks = dict(zip(result.arrays["layers"].tolist(), result.arrays["hooks"].tolist(), strict=True))
    rows = [
        row | {"where": layer_name(row["layer_a"], hooks[row["layer_a"]]), "interval": interval(row)}
        for row in result.tables.get("cells", [])
        if row["run_a"] != row["run_b"] and row["layer_a"] == row["layer_b"]
    ]
    if rows:
        heads = {"where": "layer", "run_a": "a", "run_b": "b", "task_a": "prompt a", "task_b": "prompt b"}
        heads |= {"cka": "CKA", "interval": "95 % over cities", "null_mean": "null: shuffled cities"}
        heads |= {"null_max": "largest", "ceiling": "ceiling", "of_ceiling": "share of it"}
        heads |= {"published": "published", "reason": "undefined because"}
        shown = sorted(rows, key=lambda row: -row["layer_a"])[:MOST_PAIRS]
        parts += ["Models beside models, at the same layer:", markdown_table(shown, used(shown, heads))]
    return "\n\n".join(parts)


MOST_ENDS = 12


def _ends(result: Result) -> list[Row]:
    """The cells of a small matrix, or the most and the least alike of a large one."""
    rows = [
        {
            "a": f"{row['run_a']} {row['task_a']} {_layer(row, 'a')}",
            "b": f"{row['run_b']} {row['task_b']} {_layer(row, 'b')}",
            **row,
        }
        for row in sorted(result.tables["cells"], key=lambda row: -(row["cka"] or 0))
    ]
    return rows if len(rows) <= MOST_ENDS else rows[: MOST_ENDS // 2] + rows[-MOST_ENDS // 2 :]


def _layer(row: Row, side: str) -> str:
    return layer_name(row[f"layer_{side}"], row.get(f"hook_{side}"))


def _last_groups(result: Result) -> list[Row]:
    """Means over pairs of models at the deepest layer."""
    rows = result.tables["groups"]
    last = max((row["layer"] for row in rows), default=0)
    return [row for row in rows if row["layer"] == last]


def _few_pairs(result: Result) -> list[Row]:
    """Pairs of models at the deepest layer, where they are few."""
    rows = result.tables["pairs"]
    last = max(row["layer"] for row in rows)
    found = [row for row in rows if row["layer"] == last]
    pairs = {(row["run_a"], row["run_b"]) for row in found}
    return found if len(pairs) <= MOST_ENDS // 2 else []


SHOWS = {
    "cka": Show(
        Section(
            "cka",
            "Similarity of representations",
            "Linear CKA: how similar the geometry of the same cities is, up to rotation and scale.",
            matrix,
        ),
        (Plot("", "Similarity of representations", cka_figure),),
        (
            Table(
                "pairs, the most and the least similar",
                ("a", "b", "cka", "lo", "hi", "null_max", "ceiling"),
                _ends,
            ),
            Table(
                "means over pairs of models, deepest layer",
                ("models", "group", "value", "lo", "hi", "n", "null", "ceiling", "p", "published"),
                _last_groups,
            ),
        ),
    ),
    "similarity": Show(
        Section(
            "similarity",
            "Models beside models",
            "Several measures between models, with nulls and noise ceiling. Claims are over models.",
            models,
        ),
        (
            Plot("matrices", "Every pair of models", matrices_figure),
            Plot("groups", "Similarity over groups of models", groups_figure),
            Plot("references", "Models beside their references", references_figure),
        ),
        (
            Table(
                "means over pairs of models, deepest layer",
                (
                    *("measure", "models", "group", "value", "lo", "hi", "n", "null", "ceiling", "p"),
                    *("held_fixed", "published"),
                ),
                _last_groups,
            ),
            Table(
                "pairs, deepest layer",
                ("measure", "run_a", "run_b", "value", "lo", "hi", "null_best", "ceiling", "of_ceiling"),
                _few_pairs,
            ),
        ),
    ),
}
