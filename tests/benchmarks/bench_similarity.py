"""The CKA matrix of 21 models x 4 layers, 5,075 cities and 256 features, and the same through n x n kernels.

The kernel way is the paper's: both kernels centred, inner product over norms, one pair at a time, kernels of
a pair made anew (kept, 84 of them would need 17 GB). It is timed on a few pairs and scaled to all of them.
Then RSA between 21 models of 256 cities with half samples and shuffles, and scipy's Spearman correlation of
distances as often, timed on a few.
Seconds are processor time, so that other work on the machine counts for neither side.

    python tests/benchmarks/bench_similarity.py [--cities N] [--width P] [--models M] [--layers L]
"""

import argparse
import resource
import time
from collections.abc import Sequence

import numpy as np
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr

from cwr_mech.analysis.similarity.cka import linear_cka_interval, linear_cka_matrix
from cwr_mech.analysis.similarity.kernels import kernel_cka
from cwr_mech.analysis.similarity.measures import MEASURES, compare_all


def main(argv: Sequence[str] = ()) -> list[dict[str, object]]:
    """Rows: the whole matrix, one value with its interval, and the kernel way."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("cities", 5075), ("width", 256), ("models", 21), ("layers", 4), ("pairs", 2)):
        options.add_argument(f"--{name}", type=int, default=value)
    given = options.parse_args(list(argv))
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((given.cities, 8))
    reps = [
        shared @ rng.standard_normal((8, given.width)) + rng.standard_normal((given.cities, given.width))
        for _ in range(given.models * given.layers)
    ]
    n_pairs = len(reps) * (len(reps) + 1) // 2
    data_mb = sum(x.nbytes for x in reps) / 2**20
    start = time.process_time()
    matrix = linear_cka_matrix(reps, errors=False)
    seconds = time.process_time() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.process_time()
    linear_cka_interval(reps[0], reps[1])
    interval = time.process_time() - start
    start = time.process_time()
    for k in range(given.pairs):
        slow = kernel_cka(reps[k] @ reps[k].T, reps[k + 1] @ reps[k + 1].T)
        if not np.isclose(slow, matrix.values[k, k + 1], atol=1e-10):
            raise ValueError(f"the two ways disagree: {slow} and {matrix.values[k, k + 1]}")
    by_kernels = (time.process_time() - start) / given.pairs
    case = f"{given.models} models x {given.layers} layers, n {given.cities:,}, p {given.width}"
    return [
        {
            "case": f"debiased CKA matrix, {case}",
            "seconds": seconds,
            "memory_mb": memory,
            "ratio": by_kernels * n_pairs / seconds,
            "note": f"{n_pairs:,} pairs; {data_mb:,.0f} MB of it are the activations; ratio: n x n kernels, "
            f"{by_kernels:.2g} s a pair",
        },
        {
            "case": "one value with its jackknife interval over cities",
            "seconds": interval,
            "ratio": by_kernels / interval,
            "note": "ratio: one value without an interval by n x n kernels",
        },
        many_at_once(rng, given.models),
    ]


def many_at_once(
    rng: np.random.Generator, models: int, cities: int = 256, width: int = 64
) -> dict[str, object]:
    """RSA of all pairs of models with its controls, and the same number of values by scipy."""
    draws, shuffles, timed = 50, 20, 20
    places = rng.standard_normal((cities, 2))
    sides = [
        places @ rng.standard_normal((2, width)) + rng.standard_normal((cities, width)) for _ in range(models)
    ]
    start = time.process_time()
    found = compare_all(MEASURES["rsa"], sides, rng, draws=draws, shuffles=shuffles)
    seconds = time.process_time() - start
    peer = 0.0
    for rows, times in ((np.arange(cities), shuffles + 1), (np.arange(cities // 2), draws)):
        start = time.process_time()
        for _ in range(timed):
            value = spearmanr(pdist(sides[0][rows]), pdist(sides[1][rows])).statistic
        peer += (time.process_time() - start) / timed * times
        if len(rows) == cities and not np.isclose(value, found[0, 1]["value"], atol=1e-10):
            raise ValueError(f"the two ways disagree: {value} and {found[0, 1]['value']}")
    return {
        "case": f"RSA of {models} models, n {cities}, {draws} half samples and {shuffles} shuffles",
        "seconds": seconds,
        "ratio": peer * len(found) / seconds,
        "note": f"{len(found)} pairs; ratio: scipy's spearmanr of pdist for every value",
    }


if __name__ == "__main__":
    import sys

    for row in main(sys.argv[1:]):
        print(row)
