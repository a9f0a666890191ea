"""Whole files of every kind, from which mutations start."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cwr_mech.activations.writer import write_store
from cwr_mech.config import ModelConfig, RunConfig, TrainConfig, WorldConfig
from cwr_mech.experiments.zoo_files import add
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.results import Result
from cwr_mech.training.loop import train
from cwr_mech.training.runs import load_run
from cwr_mech.world.cities import World, load_world

MODEL = ModelConfig(n_layers=1, d_model=16, n_heads=2, d_mlp=16)


@dataclass
class Base:
    """Whole files to start from, made once."""

    place: Path
    world: World = field(init=False)

    def __post_init__(self) -> None:
        self.world = load_world(WorldConfig(source="uniform", n_cities=30))
        rng = np.random.default_rng(0)
        keys = [(hook, "distance", site) for hook in ("hook_embed", "unembed.hook_in") for site in ("a", "b")]
        arrays = {key: rng.normal(size=(30, 6)) for key in keys}
        write_store(self.place / "h5" / "a.h5", self.world, arrays, attrs={"run": "tiny", "step": 4})
        table = {"t": [{"x": 1.5, "y": "a"}, {"x": None, "y": "b"}]}
        saved = {
            "m": rng.normal(size=(4, 5)),
            "names": np.array(["one", "three"]),
            "ok": np.array([True, False]),
        }
        result = Result(
            "cka", "cwr-mech cka", {"a": "0" * 64}, {"runs": ["a"]}, {"n": 3}, table, saved, ["note"]
        )
        result.save(self.place / "result", "r")
        world = WorldConfig(source="uniform", n_cities=30)  # read in no time, unlike the table of cities
        config = RunConfig(name="tiny", world=world, model=MODEL)
        short = TrainConfig(
            steps=4, batch_size=7, warmup=1, save_every=2, eval_every=4, eval_rows=2, checkpoints=1
        )
        train(config.model_copy(update={"train": short}), self.place / "run" / "tiny")
        add(load_run(self.place / "run" / "tiny"), self.place / "zoo", n=2)
        HookedQwen2(MODEL, seed=0).save_pretrained(self.place / "hf" / "m")
        lines = ["id,name,x,y,region"] + [
            f"{1000 + i},C{i},{i * 7 % 90},{i * 13 % 80},R{i % 3}" for i in range(30)
        ]
        (self.place / "csv").mkdir()
        (self.place / "csv" / "w.csv").write_text("\n".join(lines) + "\n")
        runs = [{"tasks": ["distance"], "name": "one"}, {"base": "one", "settings": {"lr": 1e-4}}]
        plan = {"preset": "tiny", "seeds": [1, 2], "settings": ["steps=30"], "run": runs}
        (self.place / "plan").mkdir()
        (self.place / "plan" / "p.json").write_text(json.dumps(plan))
        (self.place / "cli" / "runs").mkdir(parents=True)
        shutil.copytree(self.place / "run" / "tiny", self.place / "cli" / "runs" / "tiny")
        shutil.copy(self.place / "csv" / "w.csv", self.place / "cli" / "w.csv")
