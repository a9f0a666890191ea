"""How results are shown: sections of a report."""

from cwr_mech.analysis.manifold.figures import manifold_figure, timeline_figure
from cwr_mech.analysis.probing.figures import surfacing_figure
from cwr_mech.render.markdown import markdown_table, used, with_ends
from cwr_mech.render.numbers import layer_name, number
from cwr_mech.render.shown import Plot, Section, Show, Table
from cwr_mech.results import Result, Row


def manifold(result: Result) -> str:
    """By layer: share of place, ordinary cities, new cities."""
    rows = [
        row
        | {"where": layer_name(row["layer"], row["hook"])}
        | {"away": _excess(row, "along"), "off": _excess(row, "off")}
        | {name: with_ends(row, name) for name in ("share", "share_shuffled", "noise")}
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
            markdown_table(rows, used(rows, heads)),
            "Dimensions of the activations of old cities:",
            markdown_table(spectra, counted),
        ]
    )


def _excess(row: Row, way: str) -> str:
    if row[f"excess_{way}"] is None:
        return "-"
    ends = (number(row[f"excess_{way}_{end}"]) for end in ("lo", "hi"))
    return f"{number(row[f'excess_{way}'])} ({' to '.join(ends)})"


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
    rows = [row | {name: with_ends(row, name) for name in names} for row in result.tables["steps"]]
    return markdown_table(rows, heads)


SHOWS = {
    "timeline": Show(
        Section("timeline", "When the map forms", "The same probe at every checkpoint.", timeline),
        (Plot("", "The map over training", timeline_figure),),
        (
            Table(
                "probe and manifold by checkpoint",
                (
                    *("step", "rows", "r2", "r2_shuffled", "error_median", "share", "cka_final"),
                    *("participation_singular", "twonn"),
                ),
                lambda result: result.tables["steps"],
            ),
        ),
    ),
    "manifold": Show(
        Section(
            "manifold",
            "On- and off-manifold error of new cities",
            "A smooth map from coordinates to activations: how much of a layer is a function of them, "
            "and whether new cities are displaced on the manifold or off it.",
            manifold,
        ),
        (
            Plot("places", "On-manifold and off-manifold", manifold_figure),
            Plot("surfacing", "What the first components carry", surfacing_figure),
        ),
        (
            Table(
                "share of the coordinates, and error on and off the manifold",
                (
                    *("task", "layer", "share", "share_shuffled", "along_ordinary", "along_region"),
                    *("along_new", "off_ratio", "excess_off", "excess_off_lo", "excess_off_hi"),
                ),
                lambda result: result.tables["layers"],
            ),
        ),
    ),
}
