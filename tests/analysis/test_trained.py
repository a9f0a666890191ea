"""What only trained models can show, on the models of the zoo: maps, answers, and what fine-tuning does."""

from functools import lru_cache, partial
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from paths import ROOT
from threadpoolctl import threadpool_limits

from cwr_mech.activations.cities import city_prompts, city_states
from cwr_mech.activations.reader import ActivationStore
from cwr_mech.analysis.members import member_of
from cwr_mech.analysis.patching.cells import Cell
from cwr_mech.analysis.patching.interchange import interchange, interchange_rows
from cwr_mech.analysis.patching.parts import Question, ask
from cwr_mech.analysis.probing.probe import probe, random_folds
from cwr_mech.analysis.routing.trajectory import clearest, placed, read
from cwr_mech.analysis.sources import Source
from cwr_mech.data.summary import gain
from cwr_mech.model.evaluation import evaluate
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.tasks.registry import PAPER_TASKS
from cwr_mech.training.runs import Run, load_run

ZOO = ROOT / "zoo"
BASES = ("small", "small-seed2", "small-seed3")


@lru_cache
def run(name: str) -> Run:
    return load_run(ZOO / name)


@pytest.mark.parametrize("name", BASES)
@threadpool_limits.wrap(limits=1, user_api="blas")  # as the surveys: threads fight over small matrices
def test_a_map_can_be_read_from_cities_that_the_probe_has_not_seen(name: str) -> None:
    world = run(name).world()
    old, xy = world.old(), world.xy[world.old()].astype(np.float64)
    states = partial(city_states, task="distance", ids=world.ids[old], id_digits=world.config.id_digits)
    untrained = HookedQwen2(run(name).config.model, seed=0).eval()
    fold = random_folds(len(old), np.random.default_rng(0))
    best, bare = (
        max(
            (probe(x, xy, fold, np.random.default_rng(1), draws=10)[1] for x in states(model)[1:]),
            key=lambda found: found["r2"],
        )
        for model in (run(name).model(), untrained)
    )
    assert best["r2"] > 0.95
    assert best["control_r2_shuffled_max"] < 0.1
    assert best["control_r2_random"] < 0.1
    assert bare["r2"] < 0.2


@pytest.mark.parametrize("name", BASES)
def test_every_task_is_answered_better_than_by_a_constant(name: str) -> None:
    found = evaluate(run(name).model(), run(name).world(), n=150, seed=7)  # not the questions recorded
    gains = {s.task: gain(s.metric, s.value_mean, s.baseline) for s in found.scores}
    assert set(gains) == set(PAPER_TASKS)
    assert min(gains.values()) > 0.2, gains
    assert min(score.parse_rate for score in found.scores) > 0.98


def test_the_answer_follows_the_city_that_is_swapped_inside() -> None:
    """Before the last block the city's last digit carries the city; the place of the answer does not yet."""
    model, world = run("small").model(), run("small").world()
    pairs = ask(model, world, Question("distance", 24, seed=3))
    cells = [Cell("resid_post", layer, None, span) for layer in (0, 1) for span in ("swapped_last", "equals")]
    rows = interchange_rows(interchange(model, pairs, cells), pairs, np.random.default_rng(0))
    follow = {
        span: max(row["iia"] for row in rows if row["span"] == span) for span in ("swapped_last", "equals")
    }
    assert follow["swapped_last"] > 0.5
    assert follow["equals"] < 0.1


@pytest.mark.parametrize("name", BASES)
def test_fine_tuning_puts_new_cities_on_the_map(name: str) -> None:
    """A probe finds them nearer to their places after fine-tuning on compass."""
    base, world = run(name).model(), run(name).world()
    spot = clearest(base, world, "compass")
    before, after = (
        placed(read(model, world, spot), world, np.random.default_rng(0))["along_new"]
        for model in (base, run(f"{name}-ft-compass").model())
    )
    assert after / before < 0.6


def test_a_model_of_the_zoo_is_judged_by_its_test_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ZOO.parent)
    held = Mock(spec=ActivationStore, attrs={"step": run("ripe-compass").last_step}, reads_text=False)
    source = Source(held, Path("x.h5"), "zoo:ripe-compass", ("compass",))
    recorded = next(
        score for score in run("ripe-compass").manifest["zoo"]["scores"] if score["group"] == "old"
    )
    found = member_of(source)
    assert recorded["n"] == 200
    expected = gain("accuracy", recorded["value_mean"], recorded["baseline"])
    assert found.gain == {"compass": pytest.approx(expected)}
    last = [line["scores"]["compass"] for line in run("ripe-compass").metrics() if "scores" in line][-1]
    assert last != recorded["value_mean"]  # what its last evaluation said is another number


def test_transformers_reads_the_zoo() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(run("small").checkpoint(), dtype=torch.float32)
    ours = run("small").model()
    tokens = torch.from_numpy(city_prompts("angle", run("small").world().ids[:8], "last_digit", 3)[0])
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, value.half().float()) for value in ours.parameters())
