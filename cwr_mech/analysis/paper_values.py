"""Values that the paper and its rebuttal publish for measures that stand here too, to be shown beside ours.

Their models: 6 layers of width 128, 5,075 cities, 3 seeds, at layer 5 of the paper, which is
`blocks.4.hook_resid_post`. Ours are smaller, so these are neighbours, not targets. Source: arXiv 2602.00533
v1 and its public rebuttal; the matrices are kept in `data/published.json`.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from cwr_mech.analysis.published import matrix
from cwr_mech.tasks.registry import PAPER_TASKS

MATRICES: Mapping[str, str] = MappingProxyType(
    {"cka": "cka", "cka_biased": "cka"} | {name: name for name in ("rsa", "mutual_knn", "svcca")}
)
"""Our measure -> the published matrix of single-task models. Their CKA is biased; with 4,413 cities and 256
features that adds less than 0.01, so it stands beside the debiased one too."""

GROUPS: Mapping[tuple[str, str], float] = MappingProxyType(
    {
        ("cka", "disjoint, 1 task(s) each"): 0.655,
        ("cka", "disjoint, 2 task(s) each"): 0.873,
        ("cka", "disjoint, 3 task(s) each"): 0.851,
        ("cka", "same tasks, 1 task(s) each"): 0.786,
        ("cka", "same tasks, 2 task(s) each"): 0.912,
        ("cka", "same tasks, 3 task(s) each"): 0.906,
        ("rsa", "disjoint, 1 task(s) each"): 0.467,
        ("rsa", "disjoint, 2 task(s) each"): 0.892,
        ("rsa", "disjoint, 3 task(s) each"): 0.885,
        ("mutual_knn", "disjoint, 1 task(s) each"): 0.101,
        ("mutual_knn", "disjoint, 2 task(s) each"): 0.185,
        ("mutual_knn", "disjoint, 3 task(s) each"): 0.204,
        ("svcca", "disjoint, 1 task(s) each"): 0.551,
        ("svcca", "disjoint, 2 task(s) each"): 0.729,
        ("svcca", "disjoint, 3 task(s) each"): 0.794,
    }
)
"""(matrix, group of pairs) -> published mean. CKA leaves the failed crossing models out, the others do
not."""

RANKS: Mapping[tuple[str, ...], float] = MappingProxyType(
    {
        ("distance",): 19.8,
        ("trianglearea",): 12.8,
        ("angle",): 19.9,
        ("compass",): 44.7,
        ("inside",): 118.3,
        ("perimeter",): 17.5,
        ("crossing",): 160.9,
    }
)
"""Tasks of a model -> published effective rank (participation ratio of singular values), of 256."""

PROBES: tuple[dict[str, Any], ...] = (
    {"quantity": "R2 of the map, angle or perimeter alone", "value": 0.99, "place": "section 4"},
    {"quantity": "R2 of the map, compass alone", "value": 0.61, "place": "section 4"},
    {"quantity": "mean error, held-out old cities", "value": 18.6, "place": "Fig. 7"},
    {"quantity": "mean error, new cities, no distance", "value": 107.8, "place": "Fig. 7"},
    {"quantity": "mean error, new cities, distance", "value": 508.3, "place": "Fig. 7"},
    {"quantity": "mean error, new cities in pretraining", "value": 23.2, "place": "appendix"},
)


def published_pair(measure: str, first: Sequence[str], second: Sequence[str]) -> float | None:
    """The published similarity of two models of one task each, None where there is none."""
    if (measure, {*first, *second}) == ("procrustes_3", {"distance", "trianglearea"}):
        return 0.6197  # logs: one pair of one seed
    if measure not in MATRICES or len(first) != 1 or len(second) != 1:
        return None
    if not {*first, *second} <= set(PAPER_TASKS):
        return None
    return float(matrix(MATRICES[measure])[PAPER_TASKS.index(first[0]), PAPER_TASKS.index(second[0])])


def published_group(measure: str, group: str) -> float | None:
    """The published mean over a group of pairs of models, None where there is none."""
    return GROUPS.get((MATRICES.get(measure, measure), group))
