"""What a report says about similarity between layers and models."""

from collections.abc import Callable, Mapping

from cwr_mech.analysis.similarity.figures import cka_figure, groups_figure, matrices_figure, references_figure
from cwr_mech.render.markdown import markdown_table, paragraphs, table_of
from cwr_mech.render.numbers import layer_name, number
from cwr_mech.render.shown import Show, Table, by_kind
from cwr_mech.results import Result, Row, groups, where

MOST_PAIRS = 40


def groups_table(result: Result) -> list[str]:
    """Means over groups of pairs of models at the deepest layer, with interval, null, ceiling and published
    value.
    """
    found = _deepest("groups")(result)
    if not found:
        return []
    columns = "measure models group value interval n null ceiling p held_fixed published"
    heads = {"value": "mean", "interval": "95 % over models", "n": "models", "group": "pairs"}
    return [
        "Means over pairs of models (p: same tasks against disjoint tasks, or the trend with the number of "
        "tasks; held fixed: what models of one task and of several have in common):",
        table_of(found, columns, **heads),
    ]


def models(result: Result) -> str:
    """Models, groups of pairs at the deepest layer, pairs, references and dimensions."""
    layer = max(result.params["layers"])
    columns = "run tasks seed rows exposure least_gain failed"
    parts = [f"{number(result.values['models'])} models at {layer_name(layer)}:"]
    parts += [table_of(result.tables["models"], columns, rows="rows seen"), *groups_table(result)]
    pairs = where(result.tables["pairs"], layer=layer)
    shown = sorted(pairs, key=lambda row: (row["run_a"], row["run_b"]))[:MOST_PAIRS]
    text = "Pairs:" if len(shown) == len(pairs) else f"The first {len(shown)} of {len(pairs)} pairs:"
    columns = "run_a run_b measure value interval there back null_mean null_best ceiling of_ceiling published"
    parts += [text, table_of(shown, f"{columns} reason", interval="95 % over cities")]
    parts += ["Each model beside what is not another model:", _references(result, layer)]
    counted = where(result.tables["dimensions"], layer=layer)
    columns = "run participation_singular published effective_rank participation twonn p reason"
    told = table_of(counted, columns, published="paper, of 256", p="dimensions")
    return paragraphs(*parts, "Dimensions:", told)


def _references(result: Result, layer: int) -> str:
    """A row for each model and measure, a column for each reference."""
    rows = where(result.tables["references"], layer=layer)
    lines = [
        {"run": run, "measure": measure} | {row["reference"]: row["value"] for row in mine}
        for (run, measure), mine in groups(rows, "run", "measure").items()
    ]
    heads = {"run": "model", "measure": "measure"} | {name: name for name in groups(rows, "reference")}
    return markdown_table(sorted(lines, key=lambda row: row["run"])[:MOST_PAIRS], heads)


def matrix(result: Result) -> str:
    """The controls, groups of pairs at the deepest layer, and models beside models layer by layer; the matrix
    itself is the figure.
    """
    mean = result.values.get("mean_off_diagonal")
    text = f"{result.values['measure']}, n = {number(result.values['n'])} cities."
    parts = [text + ("" if mean is None else f" Mean over pairs: {number(mean)}.")]
    parts.append(table_of(result.tables.get("control", []), "control mean max n", max="largest"))
    parts += groups_table(result)
    hooks = _hooks(result)
    rows = [
        row | {"layer": row["layer_a"], "hook": hooks[row["run_a"], row["layer_a"]]}
        for row in result.tables.get("cells", [])
        if row["run_a"] != row["run_b"] and row["layer_a"] == row["layer_b"]
    ]
    if rows:
        shown = sorted(rows, key=lambda row: -row["layer_a"])[:MOST_PAIRS]
        columns = "layer run_a run_b task_a task_b cka interval null_mean null_max ceiling of_ceiling"
        parts.append("Models beside models, at the same layer:")
        parts.append(table_of(shown, f"{columns} published reason", interval="95 % over cities"))
    return paragraphs(*parts)


MOST_ENDS = 12


def _ends(result: Result) -> list[Row]:
    """The cells of a small matrix, or the most and the least alike of a large one."""
    hooks = _hooks(result)
    rows = [
        {side: f"{row[f'run_{side}']} {row[f'task_{side}']} {_layer(row, side, hooks)}" for side in "ab"}
        | row
        for row in sorted(result.tables["cells"], key=lambda row: -(row["cka"] or 0))
    ]
    return rows if len(rows) <= MOST_ENDS else rows[: MOST_ENDS // 2] + rows[-MOST_ENDS // 2 :]


def _hooks(result: Result) -> dict[tuple[str, int], str]:
    """(run, layer) -> hook, which tells the output of the final norm from a block."""
    items = zip(*(result.arrays[name].tolist() for name in ("runs", "layers", "hooks")), strict=True)
    return {(str(run), layer): hook for run, layer, hook in items}


def _layer(row: Row, side: str, hooks: Mapping[tuple[str, int], str]) -> str:
    layer = row[f"layer_{side}"]
    return layer_name(layer, hooks[row[f"run_{side}"], layer])


def _deepest(table: str) -> Callable[[Result], list[Row]]:
    """The rows of a table about the deepest layer."""

    def rows(result: Result) -> list[Row]:
        found = result.tables.get(table, [])
        return where(found, layer=max((row["layer"] for row in found), default=0))

    return rows


def _few_pairs(result: Result) -> list[Row]:
    """Pairs of models at the deepest layer, where they are few."""
    found = _deepest("pairs")(result)
    return found if len(groups(found, "run_a", "run_b")) <= MOST_ENDS // 2 else []


SHOWS = by_kind(
    Show("cka", "Similarity of representations",
        "Linear CKA: how similar the geometry of the same cities is, up to rotation and scale.",
        matrix, (cka_figure,),
        (
            Table("pairs, the most and the least similar", "a b cka lo hi null_max ceiling", _ends),
            Table("means over pairs of models, deepest layer",
                "models group value lo hi n null ceiling p published", _deepest("groups")),
        )),
    Show("similarity", "Models beside models",
        "Several measures between models, with nulls and noise ceiling. Claims are over models.",
        models, (matrices_figure, groups_figure, references_figure),
        (
            Table("means over pairs of models, deepest layer",
                "measure models group value lo hi n null ceiling p held_fixed published", _deepest("groups")),
            Table("pairs, deepest layer", "measure run_a run_b value lo hi null_best ceiling of_ceiling",
                _few_pairs),
        )),
)  # fmt: skip
