"""What a report says about similarity between models, the manifold, read-outs, erasure and checkpoints."""

from cwr_mech.figures_style import layer_name
from cwr_mech.formats import number
from cwr_mech.report_text import interval, markdown_table
from cwr_mech.results import Result, Row


def models(result: Result) -> str:
    """Groups of pairs at the deepest layer, pairs with their nulls, and the paper's values."""
    layer = max(result.params["layers"])
    parts = [f"{number(result.values['models'])} models at {layer_name(layer)}:"]
    heads = {"run": "model", "tasks": "tasks", "seed": "seed", "rows": "rows seen", "exposure": "rows a task"}
    heads |= {"least_gain": "least share of the gap closed", "failed": "failed"}
    parts.append(markdown_table(result.tables["models"], heads))
    groups = [row | {"interval": interval(row)} for row in result.tables["groups"] if row["layer"] == layer]
    if groups:
        heads = {"measure": "measure", "models": "which", "group": "pairs", "value": "mean"}
        heads |= {"interval": "95 % over models", "n": "models", "p": "p", "held_fixed": "held fixed"}
        parts += ["Means over pairs of models (p: same tasks against disjoint tasks, or the trend):"]
        parts.append(markdown_table(groups, heads))
    pairs = [row | {"interval": interval(row)} for row in result.tables["pairs"] if row["layer"] == layer]
    pairs = sorted(pairs, key=lambda row: (row["run_a"], row["run_b"]))[:36]
    heads = {"run_a": "a", "run_b": "b", "measure": "measure", "value": "value"}
    heads |= {"interval": "95 % over cities", "null_mean": "shuffled cities", "null_best": "95 % of shuffles"}
    heads |= {"reason": "undefined because"}
    parts += ["Pairs:", markdown_table(pairs, _used(pairs, heads))]
    used = set(result.params["measures"])
    published = [row for row in result.tables["published"] if row["measure"] in used]
    if published:
        heads = {"measure": "measure", "pairs": "pairs", "value": "published", "place": "where"}
        parts += [
            "The paper's values for the same measures (its models are larger: neighbours, not targets):",
            markdown_table(published, heads),
        ]
    return "\n\n".join(parts)


def _used(rows: list[Row], heads: dict[str, str]) -> dict[str, str]:
    return {key: head for key, head in heads.items() if any(row.get(key) is not None for row in rows)}


def manifold(result: Result) -> str:
    """By layer: share of place, ordinary cities, new cities."""
    rows = [
        row
        | {"where": layer_name(row["layer"], row["hook"])}
        | {"away": _excess(row, "along"), "off": _excess(row, "off")}
        for row in result.tables["layers"]
    ]
    heads = {
        "task": "prompt",
        "where": "layer",
        "variance": "share of place",
        "variance_shuffled": "shuffled places",
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
        low, high = (number(result.values[f"new_error_{end}"]) for end in ("lowest", "highest"))
        parts.append(
            f"Mean error of new cities by a probe fitted on old ones, over {len(result.tables['new'])} "
            f"prompts: {low} to {high} tenths of a degree."
        )
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
        "r2": "R²",
        "r2_shuffled": "shuffled places",
        "error_median": "median error",
        "variance_of_place": "share of place",
        "cka_final": "CKA with the last",
        "participation_singular": "effective rank",
        "twonn": "TwoNN",
    }
    return markdown_table(result.tables["steps"], heads)
