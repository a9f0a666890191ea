"""All settings of one trained model, and how a user changes and reads them by name."""

import json
import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from pydantic import Field, field_validator, model_validator

from cwr_mech.config.base import Config, parse
from cwr_mech.config.data import DataConfig
from cwr_mech.config.model import ModelConfig
from cwr_mech.config.train import RouteConfig, TrainConfig
from cwr_mech.config.world import WorldConfig
from cwr_mech.errors import ConfigError, one_of

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
"""Names of runs: they become those of files, of columns and of words on a command line."""


class RunConfig(Config):
    """All settings of one trained model."""

    name: str = Field("run", description="name of the run and of its folder")
    world: WorldConfig = WorldConfig()
    data: DataConfig = Field(default_factory=DataConfig)
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    route: RouteConfig = RouteConfig()

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ConfigError(f"{name!r} cannot name a run", "use letters, digits, and . _ + -: runs/NAME")
        return name

    @model_validator(mode="after")
    def _check(self) -> "RunConfig":
        for module in self.train.train_only:
            one_of("module", module, self.model.modules)
        return self

    def called(self, name: str) -> "RunConfig":
        """A copy of that name. Raises ConfigError where it cannot name a run."""
        return parse(RunConfig, self.model_dump() | {"name": name})

    def with_settings(self, settings: Iterable[str]) -> "RunConfig":
        """A copy with `key=value` settings applied; `lr=1e-3` will do where only one section has an `lr`.

        Raises ConfigError, quoting the setting and naming those that were perhaps meant.
        """
        current = _flat(self.model_dump())
        given: dict[str, Any] = {}
        for setting in settings:
            key, equals, value = setting.partition("=")
            if not equals:
                raise ConfigError(f"'{setting}' is not a setting", "write key=value, as in --set lr=1e-3")
            name = _full_name(list(current), key.strip())
            given[name] = _value(value.strip(), current[name])
        if not given.get("data.first_tasks", True):  # without first tasks there are no first steps
            given.setdefault("data.first_steps", 0)
        elif given.get("data.first_steps", True) == 0:
            given.setdefault("data.first_tasks", ())
        content = self.model_dump()
        for name, value in given.items():
            *sections, last = name.split(".")
            target = content
            for section in sections:
                target = target[section]
            target[last] = value
        world = {name.removeprefix("world."): value for name, value in given.items() if name[:6] == "world."}
        return parse(RunConfig, content | {"world": self.world.changed(world)})


def setting_rows(config: RunConfig) -> list[dict[str, Any]]:
    """A row for each setting: `setting` (its full name), `value`, `default` and `meaning`."""
    default = _flat(RunConfig().model_dump())
    return [
        {
            "setting": name,
            "value": _text(value),
            "default": _text(default[name]),
            "meaning": MEANINGS[name],
        }
        for name, value in _flat(config.model_dump()).items()
    ]


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their full names, such as train.lr."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def _meanings(kind: type[Config], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Config):
            found |= _meanings(inner, f"{prefix}{name}.")
        else:
            found[prefix + name] = field.description or ""
    return found


MEANINGS = _meanings(RunConfig)
"""Setting -> what it means in a line; `cwr-mech train --show-settings` prints them."""


def _full_name(known: list[str], key: str) -> str:
    """The setting that `key`, its whole name or the end of it, stands for. Raises ConfigError."""
    found = [name for name in known if f".{name}".endswith(f".{key}")]
    if key in found or len(found) == 1:
        return key if key in found else found[0]
    if found:
        raise ConfigError(f"'{key}' is ambiguous", "say one of " + ", ".join(found))
    near = _near_settings(key, known)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    hint += f"cwr-mech train --show-settings lists all {len(known)}"
    raise ConfigError(f"unknown setting '{key}'", hint)


def _near_settings(key: str, known: list[str]) -> list[str]:
    """Settings that are written like `key`, or whose meaning speaks of it: learning_rate is train.lr."""
    words = " ".join(key.split(".")[-1].replace("_", " ").casefold().split())
    last = {name: name.split(".")[-1] for name in known}
    close = set(get_close_matches(key, [*known, *last.values()], n=4, cutoff=0.7))
    written = [name for name in known if name in close or last[name] in close]
    meant = [name for name in known if len(words) > 3 and words in MEANINGS.get(name, "").casefold()]
    return list(dict.fromkeys(written + meant))[:4]


def _value(text: str, current: Any) -> Any:
    """What a user typed, by the kind of value that the setting has now."""
    if isinstance(current, str):  # "none" is a word here: world.new=none
        return text
    if text.lower() in ("none", "null"):
        return None
    if isinstance(current, tuple | list) or (current is None and "," in text):
        return [item.strip() for item in text.strip("[]()").split(",") if item.strip()]
    try:
        return json.loads(text.lower() if text.lower() in ("true", "false") else text)
    except ValueError:
        return text


def _text(value: Any) -> str:
    """A setting's value as one may type it after --set."""
    if isinstance(value, tuple | list):
        if any(isinstance(item, dict) for item in value):
            return f"{len(value)} parts"
        return ",".join(map(_text, value)) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
