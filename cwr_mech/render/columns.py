"""The one glossary of columns: how a column of a table is called, in what unit, to how many digits.

Results keep short names for columns, which code reads; readers see these headings, in the terminal, in
notebooks and in reports. A column that is not listed is called by its name with spaces.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from cwr_mech.render.numbers import DIGITS

TENTHS = "tenths of a degree"


class Column(NamedTuple):
    """What a reader is told about a column. `unit` is empty for shares, correlations, counts and words."""

    heading: str
    unit: str = ""
    digits: int = DIGITS


COLUMNS: Mapping[str, Column] = MappingProxyType(
    {
        # how well a model answers
        "parse_rate": Column("read"),
        "value_mean": Column("mean"),
        "value_median": Column("median"),
        "baseline": Column("best constant answer"),
        "least_learned": Column("least"),
        "n": Column("n"),
        "n_new": Column("new cities"),
        "n_test": Column("test cities"),
        "n_train": Column("training cities"),
        "task": Column("task"),
        "tasks": Column("tasks"),
        # probes
        "r2": Column("R²"),
        "r2_x": Column("R² of x"),
        "r2_y": Column("R² of y"),
        "r2_ols": Column("R², least squares"),
        "r2_nonlinear": Column("R², nonlinear"),
        "r2_regions_held_out": Column("R², regions held out"),
        "r2_shuffled": Column("R², shuffled cities"),
        "fitted_r2": Column("R² on the training cities"),
        "error_mean": Column("mean error", TENTHS),
        "error_median": Column("median error", TENTHS),
        "error_new": Column("mean error, new cities", TENTHS),
        "error_old": Column("mean error, training cities", TENTHS),
        "error_ols": Column("mean error, least squares", TENTHS),
        "error_shuffled": Column("mean error, shuffled cities", TENTHS),
        "error_constant": Column("mean error, constant prediction", TENTHS),
        "error_held_out": Column("mean error, region held out", TENTHS),
        "control_r2_shuffled": Column("R², shuffled cities"),
        "control_r2_shuffled_max": Column("R², shuffled cities, highest"),
        "control_r2_random": Column("R², random coordinates"),
        "control_r2_digits": Column("R², digits of the id"),
        "control_r2_tokens": Column("R², tokens of the name"),
        "control_r2_untrained": Column("R², untrained model"),
        "bits": Column("code length", "bits"),
        "bits_shuffled": Column("code length, shuffled cities", "bits"),
        "bits_uniform": Column("code length, uniform", "bits"),
        "n_tasks": Column("tasks"),
        "k": Column("components"),
        "variance": Column("variance explained"),
        "alignment": Column("cosine of principal angles"),
        # similarity
        "cka": Column("CKA"),
        "cka_new": Column("CKA, new cities"),
        "run_a": Column("first model"),
        "run_b": Column("second model"),
        "layer_a": Column("its layer"),
        "layer_b": Column("its layer"),
        "null": Column("null"),
        "null_mean": Column("null, mean"),
        "null_max": Column("null, highest"),
        "null_best": Column("null, most alike"),
        "ceiling": Column("noise ceiling"),
        "of_ceiling": Column("share of the ceiling"),
        "p_adj": Column("p, corrected"),
        "published": Column("paper"),
        "there": Column("first to second"),
        "back": Column("second to first"),
        # patching
        "direction": Column("direction"),
        "component": Column("component"),
        "span": Column("position"),
        "recovered": Column("recovered (normalised)"),
        "donor": Column("source"),
        "iia": Column("IIA"),
        "follow": Column("IIA"),
        "slope": Column("slope"),
        "stay": Column("unchanged"),
        "n_kept": Column("pairs kept"),
        "n_tried": Column("pairs tried"),
        "answer_from": Column("answer written from layer"),
        "city_held_until": Column("city held until layer"),
        "follow_at_equals": Column("IIA at the equals sign"),
        "head_recovered": Column("recovered by that head"),
        # fine-tuning and updates
        "arm": Column("condition"),
        "route": Column("condition"),
        "set": Column("fine-tuned on"),
        "models": Column("models"),
        "ni": Column("improvement"),
        "ni_trained": Column("improvement, trained tasks"),
        "ni_transfer": Column("improvement, other tasks"),
        "ni_transfer_learned": Column("improvement, other tasks the base had learned"),
        "deviation_transfer": Column("beyond the best single-task model, other tasks"),
        "deviation_transfer_learned": Column("beyond the best single-task model, learned tasks"),
        "map_variance": Column("variance explained by coordinates"),
        "moved_new": Column("moved, new cities", TENTHS),
        "moved_old": Column("moved, old cities", TENTHS),
        "off_new": Column("off-manifold, new cities"),
        "off_old": Column("off-manifold, old cities"),
        "along_new": Column("along the manifold, new cities"),
        "along_old": Column("along the manifold, old cities"),
        "probe_new": Column("probe error, new cities", TENTHS),
        "probe_old": Column("probe error, old cities", TENTHS),
        "like": Column("covariance-matched"),
        "like_hi": Column("covariance-matched, 95% high"),
        "r": Column("correlation"),
        "r_adjusted": Column("partial correlation"),
    }
)

ENDS = MappingProxyType({"lo": "95% low", "hi": "95% high"})
"""Ends of an interval: alone (`lo`) or after the name of a column (`r2_lo`)."""


def column(name: str) -> Column:
    """What a reader is told about the column `name`."""
    if name in COLUMNS:
        return COLUMNS[name]
    base, _, end = name.rpartition("_")
    if end not in ENDS:
        return Column(name.replace("_", " "))
    if not base:
        return Column(ENDS[end])
    about = column(base)
    return about._replace(heading=f"{about.heading}, {ENDS[end]}")


def headings(names: list[str]) -> dict[str, str]:
    """Column -> heading, for `cwr_mech.render.markdown.markdown_table`."""
    return {name: column(name).heading for name in names}
