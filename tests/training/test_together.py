"""Several runs trained as one batched model are each what training it by itself makes of it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from cwr_mech.config import ModelConfig, RunConfig, WorldConfig
from cwr_mech.data.rows import concat, generate
from cwr_mech.errors import ConfigError
from cwr_mech.experiments.plans import find_plan
from cwr_mech.experiments.presets import for_tasks, preset
from cwr_mech.experiments.sweep import standing
from cwr_mech.experiments.together import next_group, sweep_together
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.training.batched import BatchedModels, StepInput, rates_of
from cwr_mech.training.compute import Compute
from cwr_mech.training.engine import Engine
from cwr_mech.training.loop import begun_run, train
from cwr_mech.training.members import Member
from cwr_mech.training.optimizer import Optimizer
from cwr_mech.training.parameters import FlatParameters
from cwr_mech.training.runs import Run, load_run
from cwr_mech.training.together import Job, check_together, train_together
from cwr_mech.world.cities import load_world

# layers, width, heads, key/value heads, MLP, tied
SHAPES = [(2, 32, 4, 4, 48, False), (2, 32, 4, 2, 48, False), (1, 32, 2, 1, 64, True)]
WORLD = load_world(WorldConfig(n_cities=30, new="atlantis", n_new=5))
TOGETHER = Compute(by_hand=False)


def settings(*changes: str) -> list[RunConfig]:
    """Three runs of different tasks, seeds and lengths."""
    base = preset("tiny").with_settings(["eval_rows=2", "warmup=4", *changes])
    few = [(("distance",), 24), (("perimeter", "compass"), 24), (("angle",), 16)]
    return [
        for_tasks(base, tasks).with_settings(
            [f"name=run{i}", f"train.seed={i}", f"steps={steps}", "warmup=4"]
        )
        for i, (tasks, steps) in enumerate(few)
    ]


def jobs(configs: list[RunConfig], root: Path) -> list[Job]:
    return [Job(config, root / config.name) for config in configs]


def largest_difference(one: Run, other: Run, step: int | None = None) -> float:
    a, b = (run.model(step).state_dict() for run in (one, other))
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_step_is_that_of_each_model_by_itself(shape: tuple, optimizer: str) -> None:
    names = ("n_layers", "d_model", "n_heads", "n_key_value_heads", "d_mlp", "tied")
    cfg = ModelConfig(**dict(zip(names, shape, strict=True)))
    config = settings(f"optimizer={optimizer}", "batch_size=12")[0].train
    generator = torch.Generator().manual_seed(5)
    rows = [
        concat([generate(WORLD, task, 4, group="all", seed=seed) for task in ("distance", "inside", "angle")])
        for seed in range(3)
    ]
    alone, losses, norms, grads = [], [], [], []
    flats = []
    for seed, given in enumerate(rows):
        flat = FlatParameters(cfg)
        flat.load(HookedQwen2(cfg, seed=seed))
        flat.values.add_(torch.randn(flat.values.shape, generator=generator) * 0.1)
        flats.append(flat.values.clone())
        first, engine, step = np.ones_like(given.lengths), Engine(flat), Optimizer(flat, config)
        losses.append(engine.batch(given.tokens, given.lengths, first, float((given.lengths - 1).sum())))
        norms.append(step.norm())
        grads.append(flat.grads.clone())
        step.step(3, norms[-1])
        alone.append(flat.values.clone())
    values = torch.stack(flats)
    models = BatchedModels(cfg, [config] * 3, values, torch.zeros_like(values), torch.zeros_like(values))
    width = max(given.tokens.shape[1] for given in rows) + 3  # more padding than alone
    tokens = torch.from_numpy(
        np.stack([np.pad(r.tokens, [(0, 0), (0, width - r.tokens.shape[1])]) for r in rows])
    )
    lengths = torch.from_numpy(np.stack([r.lengths for r in rows]))[:, :, None]
    place = torch.arange(width)
    # The optimizers above are new, so their moments are corrected as of the first step.
    rates = np.stack([[rates_of(config, 3, 1)[0, 0], *rates_of(config, 0, 1)[0, 1:]]] * 3)
    given_rates = torch.from_numpy(rates).float()
    found, norm = models.step(StepInput(tokens, (place >= 1) & (place < lengths), given_rates))
    torch.testing.assert_close(found, torch.stack(losses), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(norm, torch.tensor(norms), rtol=1e-5, atol=0)
    clipped = torch.stack([g * min(1.0, config.clip / (n + 1e-6)) for g, n in zip(grads, norms, strict=True)])
    size = float(clipped.abs().max())
    torch.testing.assert_close(models.grads, clipped, rtol=0, atol=2e-5 * size)
    # A first step moves by the rate whatever the gradient's size: where that is rounding alone, by any part.
    moved = (torch.stack(alone) - torch.stack(flats)).abs()
    certain = (
        clipped.abs() > 1e-3 * size if optimizer == "adamw" else torch.ones_like(moved, dtype=torch.bool)
    )
    off = (models.values - torch.stack(alone)).abs()[certain]
    assert float(off.max()) < 0.05 * float(moved.max())
    assert float(moved.max()) > 1e-4


@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [
        # 24 steps at 1e-3 move a weight by up to 0.02; Muon's direction is computed in bfloat16.
        (("loss=answer",), 1e-4),
        (("optimizer=muon", "lr=3e-3"), 4e-3),
        (("train_only=E,L0", "final_dtype=float16"), 1e-3),
    ],
    ids=["answers", "muon", "one-side"],
)
def test_runs_together_are_the_runs_alone(tmp_path: Path, changes: tuple[str, ...], tolerance: float) -> None:
    configs = settings(*changes)
    alone = [train(config, tmp_path / "alone" / config.name) for config in configs]
    found = train_together(jobs(configs, tmp_path / "together"), compute=TOGETHER, workers=1)
    for one, other in zip(alone, found, strict=True):
        assert (other.state, other.steps, other.config) == ("done", one.steps, one.config)
        assert all(largest_difference(one, other, step) < tolerance for step in one.steps)
        assert other.manifest["computed"][0]["gradient"] == "autograd, 3 models together"
        mine, theirs = other.metrics(), one.metrics()
        assert [line["step"] for line in mine] == [line["step"] for line in theirs]
        for a, b in zip(mine, theirs, strict=True):
            assert ("scores" in a) == ("scores" in b)
            if "losses" in a:
                assert a["losses"] == pytest.approx(b["losses"], rel=2e-3)
                assert a["lr"] == b["lr"]
        assert not list(other.folder.glob("state-*"))
    assert largest_difference(found[0], found[1]) > 10 * tolerance  # the control: other seeds, other weights
    if "train_only=E,L0" in changes:
        start, end = (found[0].model(step).state_dict() for step in (0, None))
        assert torch.equal(start["blocks.1.mlp.W_in"], end["blocks.1.mlp.W_in"])
        assert not torch.equal(start["blocks.0.mlp.W_in"], end["blocks.0.mlp.W_in"])


def test_what_was_stopped_goes_on_together_or_alone(tmp_path: Path) -> None:
    configs = settings("optimizer=muon", "save_every=5", "eval_every=5")

    def stop(record: dict) -> None:
        if record["step"] >= 16:
            raise KeyboardInterrupt

    whole = train_together(jobs(configs, tmp_path / "whole"), compute=TOGETHER, workers=1)
    for name in ("together", "alone"):
        with pytest.raises(KeyboardInterrupt):
            train_together(jobs(configs, tmp_path / name), compute=TOGETHER, workers=1, listener=stop)
        states = [load_run(tmp_path / name / config.name).state for config in configs]
        assert states == ["interrupted", "interrupted", "done"]  # the last had 16 steps and has made them
    again = train_together(jobs(configs, tmp_path / "together"), compute=TOGETHER, workers=1, resume=True)
    for one, other in zip(whole, again, strict=True):
        assert largest_difference(one, other) == 0.0
        assert [line["step"] for line in one.metrics()] == [line["step"] for line in other.metrics()]
    alone = train(configs[0], tmp_path / "alone" / "run0", resume=True)
    assert 0 < largest_difference(whole[0], alone) < 4e-3
    assert [entry["gradient"] for entry in alone.manifest["computed"]] == [
        "autograd, 3 models together",
        "by hand",
    ]


def test_a_run_stopped_after_its_last_step_is_finished(tmp_path: Path) -> None:
    configs = settings()[1:]

    def stop(record: dict) -> None:
        if "scores" in record:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(configs[1], tmp_path / "run2", listener=stop)
    before = load_run(tmp_path / "run2")
    assert (before.state, before.last_step) == ("interrupted", configs[1].train.steps)
    found = train_together(jobs(configs, tmp_path), compute=TOGETHER, workers=1, resume=True)
    assert [run.state for run in found] == ["done", "done"]
    assert largest_difference(before, found[1]) == 0.0


def test_one_that_diverges_does_not_hold_up_the_others(tmp_path: Path) -> None:
    configs = settings()
    configs[1] = configs[1].with_settings(["lr=1e30"])
    found = train_together(jobs(configs, tmp_path), compute=TOGETHER, workers=1)
    assert [run.state for run in found] == ["done", "diverged", "done"]
    assert largest_difference(found[0], train(configs[0], tmp_path / "alone")) < 1e-4


def test_what_cannot_be_one_batch_is_refused(tmp_path: Path) -> None:
    one, other, _ = settings()
    with pytest.raises(ConfigError, match="different shapes"):
        check_together([one, other.with_settings(["d_model=64"])])
    with pytest.raises(ConfigError, match="changes its gradients"):
        check_together([one.with_settings(["route.condition=off-manifold"])])
    with pytest.raises(ConfigError, match="one batch_size"):
        train_together(
            jobs([one, other.with_settings(["batch_size=32"])], tmp_path), compute=TOGETHER, workers=1
        )
    assert not list(tmp_path.iterdir()), "nothing was begun"


def test_a_member_makes_nothing_to_compute_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings()[0]
    run = begun_run(config, tmp_path / "run", resume=False, base=None)
    monkeypatch.setattr(Compute, "engine", lambda *_: pytest.fail("nothing is computed here"))
    assert Member(run, {}).rows(0, 2).tokens.shape[:2] == (2, config.train.batch_size)


def test_a_plan_is_trained_group_by_group(tmp_path: Path) -> None:
    tiny = preset("tiny").with_settings(["steps=6", "eval_rows=2", "warmup=1"])
    plan = find_plan("trial").runs(tiny)
    assert [planned.base is None for planned in next_group(plan, tmp_path, 9, set())] == [True] * 4
    begun: list[int] = []
    outcomes = sweep_together(plan, tmp_path, TOGETHER, 4, begun=lambda names: begun.append(len(names)))
    assert {outcome.state for outcome in outcomes} == {"done"}
    assert begun == [4, 3]  # a base and three tasks alone, then the fine-tunings
    assert load_run(tmp_path / plan[-1].name).base().name == plan[-1].base
    assert standing(plan[0], tmp_path).state == "done"


def wait_for_end(pid: int) -> None:
    """Until a process is gone, or a zombie that nobody has asked about."""
    while True:
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
        except OSError:
            return
        if state == "Z":
            return
        time.sleep(0.05)


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, json; from pathlib import Path\n"
        "from cwr_mech.experiments.presets import preset\n"
        "from cwr_mech.training.together import Job, train_together\n"
        "from cwr_mech.training.compute import Compute\n"
        "import multiprocessing as m\n"
        "def tell(record):\n"
        "    print(json.dumps([p.pid for p in m.active_children()]), flush=True)\n"
        "if __name__ == '__main__':\n"
        "    config = preset('tiny').with_settings(['steps=100000', 'warmup=1', 'eval_every=100000'])\n"
        "    train_together([Job(config, Path(sys.argv[1]))], workers=1, compute=Compute(by_hand=False),"
        " listener=tell)\n"
    )
    script = tmp_path / "program.py"
    script.write_text(program, encoding="utf-8")
    with subprocess.Popen([sys.executable, script, tmp_path / "run"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pids = json.loads(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
    assert pids
    for pid in pids:
        wait_for_end(pid)
