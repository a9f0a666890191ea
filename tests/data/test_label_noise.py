"""Label noise hits the share asked for, leaves the questions alone, and writes legal answers."""

import numpy as np
import pytest

from cwr_mech.data.batches import Batches
from cwr_mech.data.rows import LOCAL_CHANGE, generate
from cwr_mech.errors import ConfigError
from cwr_mech.experiments.presets import preset, with_label_noise
from cwr_mech.tasks.registry import PAPER_TASKS, TASKS
from cwr_mech.world.cities import load_world

WORLD = load_world(n_cities=300)


@pytest.mark.parametrize("name", PAPER_TASKS)
@pytest.mark.parametrize("kind", ["uniform", "local"])
def test_noise(name, kind):
    task = TASKS[name]
    clean = generate(WORLD, name, 6000)
    noisy = generate(WORLD, name, 6000, label_noise=0.2, label_noise_kind=kind)
    assert (noisy.cities == clean.cities).all()
    assert noisy.prompts() == clean.prompts()
    hit = noisy.values != clean.values
    assert abs(hit.mean() - 0.2) < 0.03  # uniform: another query's number may be the same
    texts = noisy.texts()
    assert [task.parse(text) for text in texts] == noisy.values.tolist()
    difference = np.abs(noisy.values - clean.values)[hit]
    if kind == "local" and name == "compass":
        assert set(difference.tolist()) == {1, 7}
    elif kind == "local" and not task.labels:
        assert (difference <= np.maximum(1, np.rint(LOCAL_CHANGE * clean.values[hit]))).all()
    elif not task.labels:
        assert np.median(difference) > LOCAL_CHANGE * np.median(clean.values)
        assert abs(noisy.values.mean() / clean.values.mean() - 1) < 0.05
    else:
        assert set(noisy.values.tolist()) == set(range(len(task.labels)))


def test_both_kinds_hit_the_same_rows_and_ranges_agree():
    clean = generate(WORLD, "compass", 3000)
    kinds = [
        generate(WORLD, "compass", 3000, label_noise=0.3, label_noise_kind=kind)
        for kind in ("uniform", "local")
    ]
    hits = [rows.values != clean.values for rows in kinds]
    assert (hits[0] == hits[1]).all()
    later = generate(WORLD, "compass", 1000, start=2000, label_noise=0.3, label_noise_kind="uniform")
    assert (later.values == kinds[0].values[2000:]).all()
    assert (generate(WORLD, "compass", 100, label_noise=1.0).values != clean.values[:100]).all()


def test_noise_reaches_the_batches_and_is_recorded():
    clean = preset("tiny")
    noisy = with_label_noise(clean, 0.5, "local")
    assert noisy.name == "tiny-noise0.5-local"
    assert (noisy.data.label_noise, noisy.data.label_noise_kind) == (0.5, "local")
    world = load_world(clean.world)
    first, second = (Batches(config.data, world, 700).at(3) for config in (clean, noisy))
    assert first.prompts() == second.prompts()
    assert abs((first.values != second.values).mean() - 0.5) < 0.1
    with pytest.raises(ConfigError, match="label_noise"):
        with_label_noise(clean, 1.5, "uniform")
