"""Settings and plans from a user's own files, in TOML or JSON.

Settings: the content of a run's manifest.json, of its "config", or any part of that; what is not said stays
as the preset has it. In TOML:

    [train]
    steps = 2000
    [data]
    tasks = ["distance", "angle"]

A plan for `cwr-mech sweep`: models to train, bases before what starts from them.

    preset = "small"          # settings of all models, with `settings` on top
    seeds = [1, 2]            # each model once for each; the preset's own by default
    settings = ["steps=2000"]

    [[run]]
    tasks = ["distance", "angle"]
    name = "two"              # by default PRESET-TASKS; seeds are added

    [[run]]
    base = "two"              # fine-tune that model
    tasks = ["angle"]
    settings = ["lr=1e-4"]
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from cwr_mech.artifacts import require_file
from cwr_mech.config import RunConfig, parse
from cwr_mech.config.base import Config
from cwr_mech.errors import ConfigError, CorruptArtifact, quoted
from cwr_mech.experiments.finetuning import finetuning_config
from cwr_mech.experiments.planned import Planned, pretraining
from cwr_mech.experiments.plans import checked
from cwr_mech.experiments.presets import preset as find_preset
from cwr_mech.tasks.registry import PAPER_TASKS

MOST_BYTES = 10_000_000


def _as_words(settings: object) -> object:
    """A table of settings as a list of "key=value"; a list with every entry as text."""
    if isinstance(settings, Mapping):
        return [f"{key}={value}" for key, value in settings.items()]
    return [str(one) for one in settings] if isinstance(settings, list) else settings


Settings = Annotated[tuple[str, ...], BeforeValidator(_as_words)]


class RunEntry(Config):
    """A table [[run]] of a plan."""

    tasks: tuple[str, ...] = PAPER_TASKS
    base: str | None = None
    name: str | None = None
    settings: Settings = ()


class PlanFile(Config):
    """What a plan's file holds."""

    preset: str = "small"
    seeds: tuple[int, ...] = ()
    settings: Settings = ()
    run: tuple[RunEntry, ...] = ()


def read_table(path: Path | str) -> dict[str, Any]:
    """The content of a TOML or JSON file. Raises MissingArtifact, or CorruptArtifact for anything else."""
    path = Path(path)
    require_file(path, most_bytes=MOST_BYTES)
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = tomllib.loads(text) if path.suffix.lower() == ".toml" else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptArtifact(f"{path} is neither TOML nor JSON: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise CorruptArtifact(f"{path} holds no table of settings")
    return content


def with_file(config: RunConfig, path: Path | str) -> RunConfig:
    """`config` with the settings in a file in place of its own. Raises ConfigError for an unknown one."""
    content = read_table(path)
    return parse(RunConfig, _merged(config.model_dump(), content.get("config", content)))


def _merged(old: Any, new: Any) -> Any:
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return new
    return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}


def read_plan(
    path: Path | str,
    *,
    preset: str | None = None,
    seeds: Sequence[int] | None = None,
    settings: Sequence[str] = (),
) -> tuple[Planned, ...]:
    """The runs of a plan in a file; `preset` and `seeds`, where given, replace the file's.

    Raises ConfigError for unknown entries and those of another type, names given twice and bases that do not
    come before.
    """
    content = read_table(path)
    try:
        plan = parse(PlanFile, content)
    except ConfigError as error:
        known = (", ".join(kind.model_fields) for kind in (PlanFile, RunEntry))
        raise ConfigError(f"{path}: {error.message}", "known: {}; of a run: {}".format(*known)) from error
    if not plan.run:
        raise ConfigError(f"{path} plans no run", "give one or more [[run]] tables")
    start = find_preset(preset or plan.preset).with_settings([*plan.settings, *settings])
    planned: list[Planned] = []
    bases: dict[tuple[str, int], Planned] = {}
    for entry in plan.run:
        for seed in seeds or plan.seeds or [start.train.seed]:
            planned.append(_planned(entry, start, seed, bases))
            bases[entry.name or planned[-1].name, seed] = planned[-1]
    return checked(planned)


def _planned(
    entry: RunEntry, start: RunConfig, seed: int, bases: Mapping[tuple[str, int], Planned]
) -> Planned:
    if entry.base is None:
        (run,) = pretraining(start.with_settings(entry.settings), [entry.tasks], [seed])
        parent, config = None, run.config
    else:
        base = bases.get((entry.base, seed))
        if base is None:
            raise ConfigError(f"the plan trains no run {quoted(entry.base)} before what starts from it")
        parent = base.name
        config = finetuning_config(base.config, entry.tasks).with_settings(entry.settings)
    if entry.name is not None:
        suffix = "" if seed == start.train.seed else f"-seed{seed}"
        config = config.with_settings([f"name={entry.name}{suffix}"])
    return Planned(config, parent)
