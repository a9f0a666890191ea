"""Values that the paper and its rebuttal publish for measures that stand here too, to be shown beside ours.

Their models: 6 layers of width 128, 5,075 cities, 3 seeds; layer 5 of the paper is
`blocks.4.hook_resid_post`. Ours are smaller, so these are neighbours, not targets. Source: arXiv
2602.00533 v1 and the public rebuttal.
"""

from typing import Any

SIMILARITY: tuple[dict[str, Any], ...] = (
    {"measure": "cka_biased", "pairs": "1 task, disjoint, no crossing", "value": 0.699, "place": "Fig. 2b"},
    {"measure": "cka_biased", "pairs": "1 task, disjoint, all", "value": 0.501, "place": "rebuttal 1"},
    {"measure": "cka_biased", "pairs": "2 tasks, disjoint", "value": 0.873, "place": "appendix"},
    {"measure": "cka_biased", "pairs": "3 tasks, disjoint", "value": 0.851, "place": "appendix"},
    {"measure": "cka_biased", "pairs": "1 task, same task, other seed", "value": 0.786, "place": "appendix"},
    {
        "measure": "cka_biased",
        "pairs": "2 tasks, same tasks, other seed",
        "value": 0.912,
        "place": "appendix",
    },
    {
        "measure": "cka_biased",
        "pairs": "3 tasks, same tasks, other seed",
        "value": 0.906,
        "place": "appendix",
    },
    {
        "measure": "cka_biased",
        "pairs": "distance with distance, other seed",
        "value": 0.64,
        "place": "Fig. 11",
    },
    {"measure": "cka_biased", "pairs": "distance with angle", "value": 0.61, "place": "Fig. 11"},
    {"measure": "procrustes_3", "pairs": "distance with triangle area", "value": 0.6197, "place": "logs"},
    {"measure": "rsa", "pairs": "1 task, disjoint, all", "value": 0.467, "place": "rebuttal 1"},
    {"measure": "rsa", "pairs": "2 tasks, disjoint", "value": 0.892, "place": "rebuttal 1"},
    {"measure": "rsa", "pairs": "distance with angle", "value": 0.56, "place": "rebuttal"},
    {"measure": "mutual_knn", "pairs": "1 task, disjoint, all", "value": 0.101, "place": "rebuttal 1"},
    {"measure": "mutual_knn", "pairs": "2 tasks, disjoint", "value": 0.185, "place": "rebuttal 1"},
    {"measure": "mutual_knn", "pairs": "distance with angle", "value": 0.22, "place": "rebuttal"},
    {"measure": "svcca", "pairs": "1 task, disjoint, all", "value": 0.551, "place": "rebuttal 1"},
    {"measure": "svcca", "pairs": "2 tasks, disjoint", "value": 0.729, "place": "rebuttal 1"},
    {"measure": "svcca", "pairs": "distance with angle", "value": 0.79, "place": "rebuttal"},
)

PROBES: tuple[dict[str, Any], ...] = (
    {"quantity": "R2 of the map, angle or perimeter alone", "value": 0.99, "place": "section 4"},
    {"quantity": "R2 of the map, compass alone", "value": 0.61, "place": "section 4"},
    {"quantity": "mean error, held-out old cities", "value": 18.6, "place": "Fig. 7"},
    {"quantity": "mean error, new cities, no distance", "value": 107.8, "place": "Fig. 7"},
    {"quantity": "mean error, new cities, distance", "value": 508.3, "place": "Fig. 7"},
    {"quantity": "mean error, new cities in pretraining", "value": 23.2, "place": "appendix"},
)
