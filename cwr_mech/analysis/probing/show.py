"""How probe results are shown: sections of a report, figures, short tables."""

from cwr_mech.analysis.best import DECODED, best_of_each
from cwr_mech.analysis.probing.figures import probe_layers_figure, readout_figure, surfacing_tasks_figure
from cwr_mech.analysis.probing.maps import map_figure, pca_figure
from cwr_mech.analysis.probing.places import states_figure
from cwr_mech.analysis.probing.places import text as places
from cwr_mech.render.markdown import paragraphs, table_of
from cwr_mech.render.numbers import layer_name, number
from cwr_mech.render.shown import Show, Table, by_kind
from cwr_mech.results import Result, Row, groups, where


def probes(result: Result) -> str:
    """Best layer for each prompt with its controls, and the new cities."""
    rows = _best(result)
    parts = []
    if rows:
        least = number(min(row["r2"] for row in rows))
        null = number(max(row["control_r2_shuffled"] for row in rows))
        parts.append(
            f"At its best layer every prompt reaches an R² of at least {least} on held-out cities; with "
            f"shuffled places the same probe reaches at most {null}. Errors are in tenths of a degree."
        )
    columns = "task layer hook r2 interval error_mean error_median control_r2_shuffled selectivity "
    columns += "control_r2_digits control_r2_tokens control_r2_untrained"
    heads = {"task": "prompt", "layer": "best layer", "interval": "95 % over cities"}
    parts.append(table_of(rows, columns, **heads))
    if result.tables.get("new"):
        parts.append(_new_cities(result))
    return paragraphs(*parts)


NEW_CITIES = "task n_new error_mean interval error_median error_ols error_old error_shuffled error_constant"


def _new_cities(result: Result) -> str:
    return "New cities, decoded at the same layers by a probe fitted on training cities only:\n\n" + table_of(
        _new(result), NEW_CITIES, interval="95 % over new cities"
    )


def generalises(result: Result) -> str:
    """R2 of the first prompt's probe, of a nonlinear one, and where whole regions are held out."""
    row = result.tables["prompts"][0]
    return (
        f"In prompt {row['task']} at {layer_name(row['layer'], row['hook'])} a ridge probe reaches an R² of "
        f"{number(row['r2'])} on held-out cities, a nonlinear one {number(row['r2_nonlinear'])} (shuffled "
        f"places {number(row['r2_nonlinear_shuffled'])}), and the ridge probe "
        f"{number(row['r2_regions_held_out'])} on regions that it was not fitted on; n = {row['n']} cities."
    )


def readout(result: Result) -> str:
    """Kinds of probe by prompt, regions, spread of new cities over prompts, and the paper's values."""
    prompts = result.tables["prompts"]
    columns = "task layer r2 r2_ols r2_nonlinear r2_nonlinear_shuffled r2_regions_held_out bits "
    parts = [table_of(prompts, f"{columns} bits_shuffled bits_digits bits_uniform", task="prompt")]
    first = prompts[0]["task"]
    if regions := where(result.tables["regions"], task=first):
        columns = "region n error error_held_out error_constant"
        parts += [f"Errors by region, prompt {first}:", table_of(regions, columns, n="cities")]
    if new := result.tables.get("new"):
        ends = ("", "_deviation", "_lowest", "_highest")
        mean, spread, low, high = (number(result.values[f"new_error{end}"]) for end in ends)
        parts += [
            "New cities by a probe fitted on training cities, each prompt at its best layer. Over "
            f"{len(new)} prompts: mean {mean}, deviation {spread}, from {low} to {high} tenths of a degree.",
            table_of(new, NEW_CITIES, task="prompt", interval="95 % over new cities"),
        ]
    parts += ["The paper's values (5,075 cities, least squares):"]
    parts.append(table_of(result.tables["published"], "quantity value place", value="paper", place="where"))
    return paragraphs(*parts)


def surfacing(result: Result) -> str:
    """Means by number of tasks at the deepest layer, the trend, and every model at a few k."""
    layer = max(row["layer"] for row in result.tables["by_model"])
    by_tasks, trend, rows = (_deepest(result, name) for name in ("by_tasks", "trend", "by_model"))
    heads = {"variance": "share of variance", "r2": "R² on them alone"}
    parts = [f"{layer_name(layer)}, means over models with 95 % intervals:"]
    parts.append(table_of(by_tasks, "n_tasks models k variance~ r2~ alignment~", **heads))
    if trend:
        parts += ["Trend with the number of tasks, models as units:"]
        parts.append(table_of(trend, "k slope p models", slope="R², change per task"))
    columns = "run tasks k variance r2~ r2_shuffled alignment alignment_random"
    return paragraphs(*parts, "Models:", table_of(rows[:MOST_ROWS], columns, **heads))


SHOWN_KS = (2, 4, 10)
MOST_ROWS = 40


def _best(result: Result) -> list[Row]:
    """The best-decodable layer of each prompt."""
    return best_of_each(result.tables["layers"], "task", DECODED)


def _new(result: Result) -> list[Row]:
    """Held-out cities at each prompt's best-decodable layer, in the order of the prompts."""
    new = groups(result.tables.get("new", []), "task", "layer", "site")
    return [row for place in groups(_best(result), "task", "layer", "site") for row in new.get(place, [])]


def _deepest(result: Result, table: str = "by_model") -> list[Row]:
    """The rows of a table about a few k at the deepest layer."""
    last = max(row["layer"] for row in result.tables["by_model"])
    return [row for row in where(result.tables[table], layer=last) if row["k"] in SHOWN_KS]


def _best_of_states(result: Result) -> list[Row]:
    """The best-decodable layer of each prompt, model by model."""
    rows = [row | {"place": (row["run"], row["step"], row["task"])} for row in result.tables["scores"]]
    return best_of_each(rows, "place", DECODED)


SHOWS = by_kind(
    Show("probe", "The world as the model sees it",
        "A linear probe reads x and y of a city from the residual stream. If cities it was not fitted on "
        "land near their true coordinates, the model holds a map.",
        probes, (map_figure, pca_figure, probe_layers_figure),
        (
            Table("best layer for each prompt, held-out cities",
                "task layer r2 lo hi error_mean error_median control_r2_shuffled control_r2_digits "
                "control_r2_tokens control_r2_untrained", _best),
            Table("new cities, by a probe fitted on training cities",
                "task layer n_new error_mean error_median error_old", _new),
        )),
    Show("places", "The map by layer and checkpoint",
        "The same probe at every layer, prompt and checkpoint. `cwr-mech report NAME --html` shows the "
        "decoded places themselves.",
        places, (states_figure,),
        (Table("places decoded from each model, best layer for each prompt",
             "run step task layer r2 r2_shuffled error_mean error_new", _best_of_states),)),
    Show("readout", "Probe generalisation",
        "Other prompts, whole regions held out, few cities, a nonlinear probe, the length of a code for the "
        "coordinates.",
        readout, (readout_figure,),
        (Table("probe generalisation",
             "task layer r2 r2_ols r2_nonlinear r2_regions_held_out bits bits_shuffled", "prompts"),),
        finding=generalises),
    Show("surfacing", "Does the map surface?",
        "Coordinate variance in the first principal components, by number of tasks.",
        surfacing, (surfacing_tasks_figure,),
        (Table("first k components, deepest layer",
             "run n_tasks k variance r2 r2_lo r2_hi r2_shuffled alignment alignment_random", _deepest),)),
)  # fmt: skip
