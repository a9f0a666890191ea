"""What a report says about updates, arms and predictions."""

from cwr_mech.figures_style import layer_name
from cwr_mech.formats import number
from cwr_mech.report_text import markdown_table
from cwr_mech.results import Result, Row


def subspace(result: Result) -> str:
    """Shares of new cities' steps at the layer with the clearest map, beside their nulls."""
    spaces = result.tables["spaces"]
    site = result.params["sites"][0]
    best = max(
        (row for row in spaces if row["site"] == site), key=lambda row: row["map_variance"], default=None
    )
    if best is None:
        return ""
    layer = best["layer"]
    chosen = [
        row | {"range": f"{number(row['lo'])} to {number(row['hi'])}"}
        for row in result.tables["shares"]
        if row["site"] == site and row["layer"] == layer and row["group"] == "new"
        if row["basis"] in ("manifold", "tangent") and row["update"] in ("gradient", "adam")
    ]
    columns = {
        "task": "task",
        "update": "update",
        "basis": "basis",
        "rank": "rank",
        "share": "share",
        "range": "95 % over cities",
        "null": "random",
        "null_hi": "97.5 % of random",
        "like": "random, like activations",
        "like_hi": "97.5 %",
    }
    ways: list[Row] = [
        row
        for row in result.tables["directions"]
        if row["site"] == site and row["layer"] == layer and row["group"] == "new" and row["update"] == "adam"
    ]
    way_columns = {
        "task": "task",
        "cosine": "cosine with the way",
        "cosine_shuffled": "ways exchanged",
        "gain": "gained a step",
        "gain_on": "on the map",
        "gain_off": "off the map",
        "target": "cosine with the way in the whole space",
    }
    return "\n\n".join(
        [
            f"At {layer_name(layer)}, {site.replace('_', ' ')}, where place explains most of the activations "
            f"({number(best['map_variance'])} of their variance, held out), for {result.values['n_new']} new "
            f"cities in {result.values['d_model']} dimensions:",
            markdown_table(chosen, columns),
            "Movement of the decoded place by one Adam step:",
            markdown_table(ways, way_columns),
        ]
    )
