"""What a report says about similarity between models, the manifold, read-outs, erasure and checkpoints."""

from cwr_mech.render.markdown import interval, markdown_table
from cwr_mech.render.numbers import number
from cwr_mech.render.style import layer_name
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
        markdown_table(groups, _used(groups, GROUP_HEADS)),
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
    parts += [text, markdown_table(shown, _used(shown, PAIR_HEADS))]
    parts += ["Each model beside what is not another model:", _references(result, layer)]
    counted = [row for row in result.tables["dimensions"] if row["layer"] == layer]
    heads = {"run": "model", "participation_singular": "effective rank (participation of singular values)"}
    heads |= {"published": "published, of 256", "effective_rank": "by entropy"}
    heads |= {"participation": "participation of variances", "twonn": "TwoNN dimension", "p": "of"}
    heads |= {"reason": "undefined because"}
    return "\n\n".join([*parts, "Dimensions:", markdown_table(counted, _used(counted, heads))])


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


def _used(rows: list[Row], heads: dict[str, str]) -> dict[str, str]:
    return {key: head for key, head in heads.items() if any(row.get(key) is not None for row in rows)}


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
        parts += ["Models beside models, at the same layer:", markdown_table(shown, _used(shown, heads))]
    return "\n\n".join(parts)


def manifold(result: Result) -> str:
    """By layer: share of place, ordinary cities, new cities."""
    rows = [
        row
        | {"where": layer_name(row["layer"], row["hook"])}
        | {"away": _excess(row, "along"), "off": _excess(row, "off")}
        | {name: _with_ends(row, name) for name in ("share", "share_shuffled", "noise")}
        for row in result.tables["layers"]
    ]
    heads = {
        "task": "prompt",
        "where": "layer",
        "share": "share of place (95 %)",
        "share_shuffled": "shuffled places",
        "noise": "noise (95 %)",
        "along_ordinary": "along, ordinary",
        "along_region": "along, held-out regions",
        "along_new": "along, new",
        "away": "misplaced by (95 %)",
        "off_ratio": "off the map, new / ordinary",
        "off": "off the map by (95 %)",
    }
    spectra = [row | {"where": layer_name(row["layer"], row["hook"])} for row in result.tables["spectrum"]]
    counted = {
        "task": "prompt",
        "where": "layer",
        "effective_rank": "effective rank",
        "participation": "participation of variances",
        "participation_singular": "of singular values (the paper's rank)",
        "twonn": "TwoNN dimension",
        "p": "of",
    }
    return "\n\n".join(
        [
            markdown_table(rows, _used(rows, heads)),
            "Dimensions of the activations of old cities:",
            markdown_table(spectra, counted),
        ]
    )


def surfacing(result: Result) -> str:
    """Means by number of tasks at the deepest layer, the trend, and every model at a few k."""
    layer = max(row["layer"] for row in result.tables["components"])
    by_tasks = [
        row | {name: _with_ends(row, name) for name in ("variance", "r2", "alignment")}
        for row in result.tables["by_tasks"]
        if row["layer"] == layer and row["k"] in SHOWN_KS
    ]
    heads = {"n_tasks": "tasks", "models": "models", "k": "first k", "variance": "share of variance (95 %)"}
    heads |= {"r2": "R² on them alone (95 %)", "alignment": "share of the probe inside (95 %)"}
    parts = [f"{layer_name(layer)}, means over models:", markdown_table(by_tasks, heads)]
    trend = [row for row in result.tables["trend"] if row["layer"] == layer and row["k"] in SHOWN_KS]
    if trend:
        heads = {"k": "first k", "slope": "R², change per task", "p": "p", "models": "models"}
        parts += ["Trend with the number of tasks, models as units:", markdown_table(trend, heads)]
    rows = [
        row | {"r2": _with_ends(row, "r2")}
        for row in result.tables["components"]
        if row["layer"] == layer and row["k"] in SHOWN_KS
    ][:MOST_PAIRS]
    heads = {"run": "model", "tasks": "tasks", "k": "first k", "variance": "share of variance"}
    heads |= {"r2": "R² (95 % over cities)", "r2_shuffled": "shuffled places"}
    heads |= {"alignment": "share of the probe inside", "alignment_random": "random directions"}
    return "\n\n".join([*parts, "Models:", markdown_table(rows, heads)])


SHOWN_KS = (2, 4, 10)


def _with_ends(row: Row, name: str) -> str:
    """A value with its interval."""
    if row[f"{name}_lo"] is None:
        return number(row[name])
    return f"{number(row[name])} ({number(row[f'{name}_lo'])} to {number(row[f'{name}_hi'])})"


def _excess(row: Row, way: str) -> str:
    if row[f"excess_{way}"] is None:
        return "-"
    ends = (number(row[f"excess_{way}_{end}"]) for end in ("lo", "hi"))
    return f"{number(row[f'excess_{way}'])} ({' to '.join(ends)})"


def readout(result: Result) -> str:
    """Kinds of probe by prompt, regions, spread of new cities over prompts, and the paper's values."""
    heads = {
        "task": "prompt",
        "layer": "layer",
        "r2": "R², ridge",
        "r2_ols": "R², least squares",
        "r2_nonlinear": "R², nonlinear",
        "r2_nonlinear_shuffled": "nonlinear, shuffled places",
        "r2_regions_held_out": "R², regions held out",
        "bits": "bits a city",
        "bits_shuffled": "shuffled places",
        "bits_digits": "digits of the id",
        "bits_uniform": "without a model",
    }
    parts = [markdown_table(result.tables["prompts"], _used(result.tables["prompts"], heads))]
    first = result.tables["prompts"][0]["task"]
    regions = [row for row in result.tables["regions"] if row["task"] == first]
    if regions:
        heads = {"region": "region", "n": "cities", "error": "mean error"}
        heads |= {"error_held_out": "region held out", "error_constant": "mean place of the others"}
        parts += [f"Errors by region, prompt {first}:", markdown_table(regions, heads)]
    if result.tables.get("new"):
        mean, spread, low, high = (
            number(result.values[f"new_error{end}"]) for end in ("", "_deviation", "_lowest", "_highest")
        )
        new = [row | {"interval": interval(row)} for row in result.tables["new"]]
        heads = {"task": "prompt", "n_new": "new cities", "error_mean": "mean error"}
        heads |= {"interval": "95 % over new cities", "error_median": "median", "error_ols": "least squares"}
        heads |= {"error_old": "held-out old cities", "error_shuffled": "shuffled places"}
        heads |= {"error_constant": "mean place of old cities"}
        parts += [
            "New cities by a probe fitted on old ones, each prompt at its best layer. "
            f"Over {len(new)} prompts: mean {mean}, deviation {spread}, from {low} to {high} tenths of a "
            "degree.",
            markdown_table(new, _used(new, heads)),
        ]
    heads = {"quantity": "quantity", "value": "published", "place": "where"}
    parts += ["The paper's values (5,075 cities, least squares):"]
    parts.append(markdown_table(result.tables["published"], heads))
    return "\n\n".join(parts)


def erasure(result: Result) -> str:
    """Shares lost by task, block and arm."""
    rows = [
        row | {"ends": f"{number(row['lost_lo'])} to {number(row['lost_hi'])}"}
        for row in result.tables["arms"]
    ]
    heads = {
        "task": "task",
        "layer": "after block",
        "arm": "erased",
        "loss_clean": "loss before",
        "loss_erased": "loss after",
        "loss_constant": "constant answer",
        "lost": "share lost",
        "ends": "95 % over questions",
        "r2_before": "R² before",
        "r2_after": "R² after",
        "variance": "variance removed",
    }
    return markdown_table(rows, heads)


def timeline(result: Result) -> str:
    """A row for each checkpoint."""
    heads = {
        "step": "step",
        "rows": "rows seen",
        "r2": "R² (95 %)",
        "r2_shuffled": "shuffled places",
        "error_median": "median error",
        "share": "share of place (95 %)",
        "cka_final": "CKA with the last (95 %)",
        "participation_singular": "effective rank",
        "twonn": "TwoNN",
    }
    names = ("r2", "share", "cka_final")
    rows = [row | {name: _with_ends(row, name) for name in names} for row in result.tables["steps"]]
    return markdown_table(rows, heads)
