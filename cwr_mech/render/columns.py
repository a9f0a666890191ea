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
        "parse_rate": Column("valid"),
        "value_mean": Column("mean"),
        "value_median": Column("median"),
        "baseline": Column("best constant answer"),
        "least_learned": Column("least"),
        "rows_half": Column("examples until half of the gap is closed"),
        "published_rows": Column("examples until break-out, paper"),
        "closed": Column("share of the gap closed at the end"),
        "n_new": Column("new cities"),
        "n_test": Column("test cities"),
        "n_train": Column("training cities"),
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
        "selectivity": Column("above random but fixed coordinates"),
        "r2_nonlinear_shuffled": Column("R², nonlinear, shuffled cities"),
        "bits_digits": Column("code length, digits of the id", "bits"),
        "error": Column("mean error", TENTHS),
        "r2_before": Column("R² before"),
        "r2_after": Column("R² after"),
        "n_tasks": Column("tasks"),
        "k": Column("components"),
        "variance": Column("variance explained"),
        "alignment": Column("share of the probe inside"),
        "loss_clean": Column("loss before"),
        "loss_erased": Column("loss after"),
        "loss_constant": Column("loss, constant prediction"),
        "lost": Column("share lost"),
        # the manifold and the dimension of activations
        "along_ordinary": Column("on-manifold error, training cities", TENTHS),
        "along_region": Column("on-manifold error, held-out regions", TENTHS),
        "excess_along": Column("displaced on the manifold by", TENTHS),
        "off_ratio": Column("off-manifold, new to training cities"),
        "excess_off": Column("displaced off the manifold by"),
        "participation": Column("participation of variances"),
        "participation_singular": Column("participation of singular values (the paper's rank)"),
        "twonn": Column("TwoNN dimension"),
        "cka_final": Column("CKA with the last"),
        # similarity
        "cka": Column("CKA"),
        "cka_new": Column("CKA, new cities"),
        "run_a": Column("first model"),
        "run_b": Column("second model"),
        "layer_a": Column("its layer"),
        "layer_b": Column("its layer"),
        "null_mean": Column("null, mean"),
        "null_max": Column("null, highest"),
        "null_best": Column("null, most alike"),
        "reason": Column("undefined because"),
        "exposure": Column("rows a task"),
        "least_gain": Column("least share of the gap closed"),
        "ceiling": Column("noise ceiling"),
        "of_ceiling": Column("share of the ceiling"),
        "p_adj": Column("p, corrected"),
        "published": Column("paper"),
        "there": Column("first to second"),
        "back": Column("second to first"),
        # patching
        "span": Column("position"),
        "reading": Column("city read at"),
        "recovered": Column("recovered (normalised)"),
        "iia": Column("IIA"),
        "n_kept": Column("pairs kept"),
        "n_tried": Column("pairs tried"),
        "answer_from": Column("answer written from layer"),
        "city_held_until": Column("city held until layer"),
        "iia_at_equals": Column("IIA at the equals sign"),
        "head_recovered": Column("recovered by that head"),
        "states_from": Column("sources"),
        "training_tasks": Column("trained on"),
        "whole": Column("whole state"),
        "inside": Column("manifold"),
        "pca": Column("PCA of its rank"),
        "matched": Column("covariance-matched"),
        "outside": Column("its complement"),
        "truth": Column("right for the source"),
        "error_to_source": Column("error to the source's truth"),
        "weak": Column("causally weak"),
        "rank": Column("dimensions"),
        "rank_correlation": Column("rank correlation with exact"),
        "estimate": Column("attribution"),
        "accuracy": Column("first token right"),
        # answers that imply coordinates
        "training": Column("training cities"),
        # fine-tuning and updates
        "route": Column("condition"),
        "set": Column("fine-tuned on"),
        "ni": Column("improvement"),
        "ni_paper": Column("improvement clipped to 0 to 1.5, as in the paper"),
        "base_new": Column("new cities before"),
        "new": Column("new cities"),
        "new_read": Column("valid, new cities"),
        "base_old": Column("training cities before"),
        "old": Column("training cities"),
        "old_read": Column("valid, training cities"),
        "models_learned": Column("bases that had learned it"),
        "retention": Column("retention, training cities"),
        "deviation": Column("beyond the best single-task model"),
        "level": Column("trained task's improvement"),
        "reached": Column("that reached it"),
        "graft": Column("part of the update"),
        "own": Column("improvement, trained tasks"),
        "others": Column("improvement, other tasks"),
        "own_share": Column("share of the whole's"),
        "others_share": Column("share of the whole's"),
        "rank90": Column("directions with 90 % of the norm"),
        "parameter": Column("matrices"),
        "cosine": Column("cosine with the target displacement"),
        "cosine_shuffled": Column("cosine, shuffled targets"),
        "gain": Column("error reduction per step"),
        "gain_on": Column("on-manifold"),
        "gain_off": Column("off-manifold"),
        "target": Column("cosine with the target in the whole space"),
        "code": Column("planted code"),
        "ni_trained": Column("improvement, trained tasks"),
        "ni_transfer": Column("improvement, other tasks"),
        "ni_transfer_learned": Column("improvement, other tasks the base had learned"),
        "deviation_transfer": Column("beyond the best single-task model, other tasks"),
        "deviation_transfer_learned": Column("beyond the best single-task model, learned tasks"),
        "map_variance": Column("variance explained by coordinates"),
        "moved_new": Column("share of the displacement in the manifold's span, new cities"),
        "moved_new_like": Column("the same in covariance-matched random directions"),
        "moved_old": Column("share of the displacement in the manifold's span, training cities"),
        "off_new": Column("distance off-manifold, new cities", "medians of training cities"),
        "off_old": Column("distance off-manifold, training cities", "medians of training cities"),
        "along_new": Column("error along the manifold, new cities", TENTHS),
        "along_old": Column("error along the manifold, training cities", TENTHS),
        "probe_new": Column("probe error, new cities", TENTHS),
        "probe_old": Column("probe error, training cities", TENTHS),
        "like": Column("covariance-matched"),
        # claims
        "here": Column("here (95 %)"),
        "statement": Column("claim"),
        "smallest": Column("smallest effect of interest"),
        "agreement": Column("ours and the paper's"),
        "family": Column("models"),
        "hours": Column("training", "h"),
        "table": Column("published table"),
        "cells": Column("cells with a counterpart"),
        "same": Column("same side of their mean"),
        "chance": Column("expected by chance"),
        "interval": Column("interval, 95 %"),
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
