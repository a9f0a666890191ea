"""The world manifold at each layer: how much is a function of place, and where new cities stand, as a
Result.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np

from cwr_mech.activations.reader import ActivationStore
from cwr_mech.analysis.manifold.manifold import Manifold, Metric, fit_manifold
from cwr_mech.analysis.manifold.placement import Displacement, place_each
from cwr_mech.analysis.probing.dimension import spectrum, surfacing
from cwr_mech.analysis.probing.probe import TrainingCities, region_folds
from cwr_mech.analysis.selection import Item, run_label
from cwr_mech.analysis.study import each
from cwr_mech.results import Result, Row


def manifold_result(
    store: ActivationStore,
    hooks: Sequence[str],
    tasks: Sequence[str],
    site: str,
    *,
    metric: Metric = "euclidean",
    folds: int = 5,
    seed: int = 0,
) -> Result:
    """Tables: `layers` (a row for each hook and prompt), `surfacing`, `spectrum`. Arrays `along`, `off`
    [city], `is_new`, `place` [city 2], `true` [city 2] at the hook and prompt with the largest share of
    place.
    """
    old = ~store.is_new
    known, xy = TrainingCities.of([store], folds=folds, seed=seed), store.xy
    ids, fold = known.ids, known.fold
    regions = np.asarray(store.region)[old]
    by_region = region_folds(regions) if np.unique(regions).size > 1 else None
    layers: list[Row] = []
    surfaced: list[Row] = []
    spectra: list[Row] = []
    best: tuple[float, Item, Displacement] | None = None
    items = [Item(store, hook, task, site) for hook in hooks for task in tasks]
    layers_of = [store.get(item.hook, item.task, site) for item in items]
    placed_by = partial(place_each, seed=seed, metric=metric)
    placed = placed_by(layers_of, xy, store.is_new, fold)
    stricter: list[Displacement | None] = [None] * len(items)
    if by_region is not None:
        no_new = np.zeros(len(ids), dtype=bool)
        stricter = [*placed_by([x[old] for x in layers_of], xy[old], no_new, by_region)]
    for index, item in enumerate(each(items, "manifolds", "fits")):
        x, found, strict = layers_of[index], placed[index], stricter[index]
        place = item.columns
        rng = np.random.default_rng([seed, 1, index])
        whole = fit_manifold(x[old], xy[old], seed=seed)
        # The same pairs as of places in a new order; maps through places in theirs share what is computed.
        order = np.argsort(rng.permutation(len(ids)))
        control = fit_manifold(x[old][order], xy[old], seed=seed)
        layers.append(place | _layer(found, strict, rng) | _map(whole, control))
        spectra.append(place | spectrum(x[old]) | {"p": x.shape[1], "n": len(ids)})
        surfaced += [place | row for row in surfacing(x[old], xy[old], fold, rng)]
        if best is None or whole.variance > best[0]:
            best = (whole.variance, item, found)
    assert best is not None  # the file holds at least one hook and one prompt
    return Result(
        kind="manifold",
        params={"runs": [run_label(store)], "site": site, "metric": metric}
        | {"best": {"layer": best[1].layer, "hook": best[1].hook, "task": best[1].task}}
        | known.params,
        values={"n": len(ids), "n_new": int(store.is_new.sum()), "variance_best": best[0]},
        tables={"layers": layers, "surfacing": surfaced, "spectrum": spectra},
        arrays=_arrays(best[2], store),
        notes=[
            f"{len(ids)} training cities, each placed on a map fitted on the other {folds - 1} of {folds} "
            "folds; new cities on the same maps. Along: tenths of a degree. Off: units of the activation"
            + (", whitened by what is left of training cities." if metric == "residual" else "."),
            "Excess: typical displacement beyond training cities, with a 95 % interval over cities that "
            "holds the map's own error; negative means closer than training cities.",
            "Share of place: of the variance, without the error of the fitted map; noise: the deviation of "
            "what is not a function of place, a number of the activation. 95 % over cities.",
            "Controls: the map fitted on shuffled places (share of variance); training cities of regions "
            "that are held out as a whole (the stricter reference for new cities far from old ones).",
        ],
    )


def _map(whole: Manifold, control: Manifold) -> Row:
    row: Row = {"variance": whole.variance, "variance_shuffled": control.variance, "width": whole.width}
    for name, one in (("share", whole.share), ("share_shuffled", control.share), ("noise", whole.noise)):
        row |= one.columns(name)
    return row


def _layer(found: Displacement, strict: Displacement | None, rng: np.random.Generator) -> Row:
    row: Row = {
        "along_ordinary": float(np.median(found.along)),
        "off_ordinary": float(np.median(found.off)),
        "along_region": None if strict is None else float(np.median(strict.along)),
        "off_region": None if strict is None else float(np.median(strict.off)),
    }
    names = ("along_new", "off_new", "off_ratio")
    row |= dict.fromkeys(names)
    for way in ("along", "off"):
        row |= dict.fromkeys((f"excess_{way}", f"excess_{way}_lo", f"excess_{way}_hi"))
    if found.new_along.shape[1] > 1:
        values = (found.rms_along(), found.rms_off(), found.off_ratio())
        row |= {name: float(np.median(value)) for name, value in zip(names, values, strict=True)}
        for way, one in (("along", found.excess_along(rng)), ("off", found.excess_off(rng))):
            row |= one.columns(f"excess_{way}")
    return row


def _arrays(found: Displacement, store: ActivationStore) -> dict[str, np.ndarray]:
    along, off = np.full((2, len(store)), np.nan)
    place = np.full((len(store), 2), np.nan)
    old = ~store.is_new
    along[old], off[old], place[old] = found.along, found.off, found.place
    along[~old], off[~old], place[~old] = found.rms_along(), found.rms_off(), found.new_place.mean(axis=0)
    return {"along": along, "off": off, "place": place, "true": store.xy, "is_new": store.is_new}
