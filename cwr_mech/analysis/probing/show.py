"""How probe results are shown: sections of a report, figures, short tables."""

from cwr_mech.analysis.probing.figures import probe_layers_figure, readout_figure, surfacing_tasks_figure
from cwr_mech.analysis.probing.maps import map_figure, pca_figure
from cwr_mech.analysis.probing.places import states_figure
from cwr_mech.analysis.probing.places import text as places
from cwr_mech.render.markdown import best_rows, interval, markdown_table, used, with_ends
from cwr_mech.render.numbers import layer_name, number
from cwr_mech.render.shown import Plot, Section, Show, Table
from cwr_mech.results import Result, Row


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
        "control_r2_tokens": "R², tokens of the name",
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
    parts = [markdown_table(result.tables["prompts"], used(result.tables["prompts"], heads))]
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
            markdown_table(new, used(new, heads)),
        ]
    heads = {"quantity": "quantity", "value": "published", "place": "where"}
    parts += ["The paper's values (5,075 cities, least squares):"]
    parts.append(markdown_table(result.tables["published"], heads))
    return "\n\n".join(parts)


def surfacing(result: Result) -> str:
    """Means by number of tasks at the deepest layer, the trend, and every model at a few k."""
    layer = max(row["layer"] for row in result.tables["components"])
    by_tasks = [
        row | {name: with_ends(row, name) for name in ("variance", "r2", "alignment")}
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
        row | {"r2": with_ends(row, "r2")}
        for row in result.tables["components"]
        if row["layer"] == layer and row["k"] in SHOWN_KS
    ][:MOST_ROWS]
    heads = {"run": "model", "tasks": "tasks", "k": "first k", "variance": "share of variance"}
    heads |= {"r2": "R² (95 % over cities)", "r2_shuffled": "shuffled places"}
    heads |= {"alignment": "share of the probe inside", "alignment_random": "random directions"}
    return "\n\n".join([*parts, "Models:", markdown_table(rows, heads)])


SHOWN_KS = (2, 4, 10)
MOST_ROWS = 40


def _best(result: Result) -> list[Row]:
    """The best-decodable layer of each prompt."""
    return best_rows(result.tables["layers"], "task", "r2")


def _new(result: Result) -> list[Row]:
    """Held-out cities at each prompt's best-decodable layer."""
    at_best = {(row["task"], row["layer"], row["site"]) for row in _best(result)}
    new = result.tables.get("new", [])
    return [row for row in new if (row["task"], row["layer"], row["site"]) in at_best]


def _deepest(result: Result) -> list[Row]:
    """The first few k at the deepest layer."""
    rows = result.tables["components"]
    last = max(row["layer"] for row in rows)
    return [row for row in rows if row["layer"] == last and row["k"] in SHOWN_KS]


def _best_of_states(result: Result) -> list[Row]:
    """The best-decodable layer of each prompt, model by model."""
    rows = [row | {"place": (row["run"], row["step"], row["task"])} for row in result.tables["scores"]]
    return best_rows(rows, "place", "r2")


SHOWS = {
    "probe": Show(
        Section(
            "probe",
            "The world as the model sees it",
            "A linear probe reads x and y of a city from the residual stream. If cities it was not fitted on "
            "land near their true coordinates, the model holds a map.",
            probes,
        ),
        (
            Plot("map", "The map, true and decoded", map_figure),
            Plot("pca", "First principal components", pca_figure),
            Plot("layers", "Probe by layer", probe_layers_figure),
        ),
        (
            Table(
                "best layer for each prompt, held-out cities",
                (
                    *("task", "layer", "r2", "lo", "hi", "error_mean", "error_median"),
                    *(
                        "control_r2_shuffled",
                        "control_r2_digits",
                        "control_r2_tokens",
                        "control_r2_untrained",
                    ),
                ),
                _best,
            ),
            Table(
                "new cities, by a probe fitted on training cities",
                ("task", "layer", "n_new", "error_mean", "error_median", "error_old"),
                _new,
            ),
        ),
    ),
    "places": Show(
        Section(
            "places",
            "The map by layer and checkpoint",
            "The same probe at every layer, prompt and checkpoint. `cwr-mech report NAME --html` shows the "
            "decoded places themselves.",
            places,
        ),
        (Plot("", "The map by layer and checkpoint", states_figure),),
        (
            Table(
                "places decoded from each model, best layer for each prompt",
                ("run", "step", "task", "layer", "r2", "r2_shuffled", "error_mean", "error_new"),
                _best_of_states,
            ),
        ),
    ),
    "readout": Show(
        Section(
            "readout",
            "Probe generalisation",
            "Other prompts, whole regions held out, few cities, a nonlinear probe, the length of a code for "
            "the coordinates.",
            readout,
        ),
        (Plot("", "Probes across prompts and numbers of cities", readout_figure),),
        (
            Table(
                "probe generalisation",
                (
                    *("task", "layer", "r2", "r2_ols", "r2_nonlinear", "r2_regions_held_out"),
                    *("bits", "bits_shuffled"),
                ),
                lambda result: result.tables["prompts"],
            ),
        ),
    ),
    "surfacing": Show(
        Section(
            "surfacing",
            "Does the map surface?",
            "Coordinate variance in the first principal components, by number of tasks.",
            surfacing,
        ),
        (Plot("", "First components by number of tasks", surfacing_tasks_figure),),
        (
            Table(
                "first k components, deepest layer",
                (
                    *("run", "n_tasks", "k", "variance", "r2", "r2_lo", "r2_hi", "r2_shuffled"),
                    *("alignment", "alignment_random"),
                ),
                _deepest,
            ),
        ),
    ),
}
