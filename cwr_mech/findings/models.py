"""The list of the zoo's models, in the terminal and in zoo/README.md."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cwr_mech.artifacts import atomic_file
from cwr_mech.experiments.zoo import family, folder_bytes, recorded_gains, recorded_scores, zoo_models
from cwr_mech.render.markdown import markdown_table
from cwr_mech.render.numbers import number
from cwr_mech.results import Row
from cwr_mech.tasks.registry import PAPER_TASKS
from cwr_mech.training.runs import Run

README = """# The zoo

Small trained models, ready to look into: every command takes `zoo:NAME` where it takes a run.

    cwr-mech zoo list                        what there is
    cwr-mech cache-acts zoo:small            what it holds about every city
    cwr-mech probe zoo:small                 is there a map in it?
    cwr-mech finetune zoo:small --tasks angle
    cwr-mech zoo check                       files unchanged, same answers as when they were added
    cwr-mech zoo analyse                     every analysis of the zoo, into reports/ripe and routing

A model is a run folder with one checkpoint, `NAME/checkpoints/step-N`, which
`transformers.AutoModelForCausalLM.from_pretrained` and `cwr_mech.HookedQwen2.from_pretrained` read. Its
`manifest.json` says from which settings, seeds, base and versions it was made and holds the hash of every
file; `answers.json.gz` is what it answers to fixed test questions, `metrics.jsonl` its training curve,
thinned. Weights are in float16, with the number of these answers that rounding them changed where it changed
any, and in float32 where that was not accepted; what is recorded is what the weights here answer.

The models know the cities of the shipped table (`cwr_mech/world/README.md` says where it is from); the
weights are under the MIT licence, as the code. Made with `cwr-mech train --preset ...` (or
`cwr-mech finetune`) and `cwr-mech zoo add`, which also writes this file. Scores below are mean errors or
accuracies over 200 test questions about training cities, for the tasks a model was trained on.
"""


def described(model: Run) -> Row:
    """One row of a list of models."""
    data, learned = model.config.data, recorded_gains(model)
    return {
        "name": model.name,
        "family": family(model.config, model.parent is not None),
        "tasks": "all" if data.tasks == PAPER_TASKS else ", ".join(data.tasks),
        "base": model.parent,
        "seed": model.config.train.seed,
        "steps": model.last_step,
        "dtype": _dtype(model.manifest["zoo"]),
        "kB": round(folder_bytes(model.folder) / 1000),
        "learned": sum(learned.values()) / len(learned),
        "least": min(learned, key=lambda task: learned[task]),
        "least_learned": min(learned.values()),
        "scores": "; ".join(
            f"{score['task']} {number(score['value_mean'])} ({number(score['baseline'])})"
            for score in recorded_scores(model, "old")
            if score["task"] in data.tasks
        ),
    }


def _dtype(about: Mapping[str, Any]) -> str:
    changed = about.get("changed", 0) if about["dtype"] == "float16" else 0
    return f"{about['dtype']}, {changed} of {about['asked']:,} answers changed" if changed else about["dtype"]


def readme(models: Iterable[Run]) -> str:
    """The text of the zoo's README.md: what a zoo is, and a table of these models."""
    columns = ("name", "tasks", "base", "seed", "steps", "dtype", "kB", "scores")
    heads = {column: column for column in columns} | {"scores": "test score (best constant answer)"}
    return f"{README}\n{markdown_table([described(model) for model in models], heads)}\n"


def write_readme(root: Path | str) -> Path:
    """Write README.md of the zoo `root`; returns its path."""
    return _write(Path(root) / "README.md", readme(zoo_models(root)))


def mend_readme(root: Path | str, models: Iterable[Run]) -> Path | None:
    """Write README.md of the zoo `root` anew if it is not that of its models, which are among `models`.

    An adding that was stopped between model and list leaves it behind. Returns its path where it was written.
    """
    path, own = Path(root) / "README.md", os.path.realpath(root)
    here = [model for model in models if os.path.realpath(model.folder.parent) == own]
    text = readme(here)
    if not here or (path.is_file() and path.read_bytes() == text.encode()):
        return None
    return _write(path, text)


def _write(path: Path, text: str) -> Path:
    with atomic_file(path) as part:
        part.write_text(text, encoding="utf-8")
    return path
