"""Frozen settings that refuse unknown keys; what a run folder stores and `--set` changes."""

import json
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from cwr_mech.errors import ConfigError, UnknownName


def _paper_tasks() -> tuple[str, ...]:
    from cwr_mech.tasks.registry import PAPER_TASKS  # numpy, which settings alone do not need

    return PAPER_TASKS


def _known_task(name: str) -> str:
    from cwr_mech.tasks.registry import get_task

    return get_task(name).name


TaskName = Annotated[str, AfterValidator(_known_task)]
"""The name of a task in the table, which knows the user's own as well."""


NONE_IS_EMPTY = BeforeValidator(lambda given: given or ())
"""For lists: none and an empty word are the empty list."""
Words = Annotated[tuple[str, ...], NONE_IS_EMPTY]


class Config(BaseModel):
    """Base of all settings: immutable, strict about names, lenient about nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


EARTH_UNIT = 0.1
"""Degrees: coordinates of the shipped world are tenths of a degree."""


def is_path(source: str) -> bool:
    """Whether the name of a world's source is a file's: no other has a slash or a dot."""
    return "/" in source or "." in source


class WorldConfig(Config):
    """Which cities there are and which ids they carry.

    `source` is "cities" (the shipped GeoNames table), a synthetic world ("uniform", "grid", "clusters",
    "ring", or one of your own) or the path of a CSV file (`cwr_mech.world.csv_file.read_csv`); `n_cities`
    says how many of its cities, a number or "all", which is the default for a file.
    Coordinates are integers; a file's degrees are read in units of `unit` degrees, by default tenths, and at
    any other unit they are counted from the middle of the file's places. `id_min` None means
    the smallest number with `id_digits` digits. `new` names the entities held back for fine-tuning:
    "none", "atlantis", "scattered", "holdout:REGION", or several joined by "+", each with its number:
    "scattered:32+atlantis:100". Kinds without a number have `n_new` (for a hold-out the region decides).
    """

    source: str = "cities"
    unit: float = Field(EARTH_UNIT, gt=0, le=1)
    n_cities: Annotated[int, Field(ge=1)] | Literal["all"] = 5075
    id_digits: int = Field(4, ge=1, le=6)
    id_min: int | None = Field(None, ge=0)
    new: str = "none"
    n_new: int = Field(100, ge=1)
    seed: int = Field(42, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _whole_file(cls, content: Any) -> Any:
        if isinstance(content, dict) and is_path(str(content.get("source", ""))):
            return {"n_cities": "all"} | content
        return content

    def changed(self, others: Mapping[str, Any]) -> dict[str, Any]:
        """These settings as plain data with others in their place.

        Another file is taken whole and gets no new cities, unless `others` say how many and which: numbers
        and kinds chosen for one source mean nothing for a user's.
        """
        content = self.model_dump() | dict(others)
        if content["source"] != self.source and is_path(str(content["source"])):
            content |= {"n_cities": "all", "new": "none"} | dict(others)
        return content


class Protocol(Config):
    """Choices that differ between our data and the reference's, each its own switch.

    `split_by_hash`: a query's split follows from its canonical form, so splits never overlap; otherwise
    each split is drawn by itself. `inside_balance_within_n`: TRUE and FALSE are balanced for every number
    of hull points; otherwise only overall. `crossing_keeps_label`: rows are shuffled by symmetries that
    keep the label; otherwise all four cities are permuted and the label is computed anew.
    `refill_repeats`: triples with a repeated city are redrawn; otherwise dropped, which shortens the set.
    """

    split_by_hash: bool = True
    inside_balance_within_n: bool = True
    crossing_keeps_label: bool = True
    refill_repeats: bool = True


STRICT = Protocol()
PAPER = Protocol(
    split_by_hash=False, inside_balance_within_n=False, crossing_keeps_label=False, refill_repeats=False
)
PROTOCOLS = {"strict": STRICT, "paper": PAPER}


class Part(Config):
    """One ingredient of a mixture: rows of `task`, from row `start` on.

    `group` says which queries: "old" name no new city, "new" at least one, "all" any. `rows` None is
    endless; `weight` is the share among endless parts.
    """

    task: TaskName
    group: Literal["old", "new", "all"] = "old"
    rows: int | None = Field(None, ge=1)
    start: int = Field(0, ge=0)
    weight: float = Field(1.0, gt=0)


class DataConfig(Config):
    """What a model is trained on. `rows_per_task` None draws fresh rows for ever; a number makes a fixed set
    that is reshuffled every epoch. `weights` are the tasks' shares of the rows (equal when None).
    `parts`, when given, say in full what the mixture is made of (fine-tuning does).

    In the first `first_steps` steps only rows of `first_tasks` are seen. Tasks whose answer already leans on
    each city by itself, such as compass, teach the map soonest; the others then start from it.
    """

    tasks: tuple[TaskName, ...] = Field(default_factory=_paper_tasks)
    protocol: Protocol = STRICT
    parts: tuple[Part, ...] = ()
    rows_per_task: int | None = Field(None, ge=1)
    weights: tuple[float, ...] | None = None
    first_tasks: Words = ()
    first_steps: int = Field(0, ge=0)
    label_noise: float = Field(0.0, ge=0.0, le=1.0)
    label_noise_kind: Literal["uniform", "local"] = "uniform"
    seed: int = Field(42, ge=0)

    @model_validator(mode="after")
    def _check(self) -> "DataConfig":
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ConfigError(f"tasks must be given once each, got {', '.join(self.tasks) or 'none'}")
        if not set(self.first_tasks) <= set(self.tasks) or bool(self.first_tasks) != bool(self.first_steps):
            raise ConfigError("first_tasks and first_steps go together, and name tasks of the mixture")
        if self.weights is not None and (len(self.weights) != len(self.tasks) or min(self.weights) <= 0):
            raise ConfigError(f"weights must be {len(self.tasks)} positive numbers, one a task")
        return self


class ModelConfig(Config):
    """A Qwen2 transformer. Defaults are the paper's: 1,601,920 parameters."""

    n_layers: int = Field(6, ge=1)
    d_model: int = Field(128, ge=2)
    n_heads: int = Field(4, ge=1)
    n_key_value_heads: int | None = Field(None, ge=1)
    d_mlp: int = Field(512, ge=1)
    d_vocab: int = Field(98, ge=2)
    n_ctx: int = Field(256, ge=2)
    rope_theta: float = Field(10000.0, gt=0)
    rms_eps: float = Field(1e-6, gt=0)
    tied: bool = False
    init_std: float = Field(0.1, gt=0)

    @property
    def d_head(self) -> int:
        """Width of one head."""
        return self.d_model // self.n_heads

    @property
    def n_kv(self) -> int:
        """Number of key/value heads."""
        return self.n_key_value_heads or self.n_heads

    @property
    def modules(self) -> tuple[str, ...]:
        """E (the embedding; with the unembedding where they are tied), the blocks L0, L1, ..., and U (final
        norm and unembedding).
        """
        return ("E", *(f"L{layer}" for layer in range(self.n_layers)), "U")

    @model_validator(mode="after")
    def _check(self) -> "ModelConfig":
        if self.d_model % self.n_heads or self.d_head % 2:
            raise ConfigError(
                f"d_model {self.d_model} must be n_heads {self.n_heads} times an even head width"
            )
        if self.n_heads % self.n_kv:
            raise ConfigError(f"n_heads {self.n_heads} must be a multiple of n_key_value_heads {self.n_kv}")
        return self


class TrainConfig(Config):
    """How a model is trained. `loss` "full" predicts every token of a row, "answer" the answer and end only.

    `schedule`: after `warmup` steps the rate is held ("constant"), falls linearly to 0 ("linear"), by a
    half cosine ("cosine"), or is held and falls linearly over the last `decay` share of the steps ("hold").
    `optimizer` "muon" takes Muon for the blocks' matrices. `final_dtype` "float16": at the end the weights
    are rounded to what half the bits hold, so that they can be shipped so without another answer.
    `checkpoints` log-spaced checkpoints are kept beside the first and the last. Every `save_every` steps the
    state for a resume is written; every `eval_every` steps `eval_rows` questions a task are answered.
    `train_only` names the modules (`ModelConfig.modules`) whose parameters change; all of them when empty.
    """

    steps: int = Field(1000, ge=1)
    batch_size: int = Field(128, ge=1)
    lr: float = Field(3e-4, gt=0)
    schedule: Literal["linear", "cosine", "constant", "hold"] = "linear"
    decay: float = Field(0.3, gt=0, le=1)
    warmup: int = Field(50, ge=0)
    optimizer: Literal["adamw", "muon"] = "adamw"
    weight_decay: float = Field(0.01, ge=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    clip: float = Field(1.0, gt=0)
    loss: Literal["full", "answer"] = "full"
    final_dtype: Literal["float32", "float16"] = "float32"
    checkpoints: int = Field(8, ge=0)
    save_every: int = Field(500, ge=1)
    eval_every: int = Field(500, ge=1)
    eval_rows: int = Field(64, ge=1)
    train_only: Words = ()
    seed: int = Field(42, ge=0)


RENAMED_CONDITIONS: Mapping[str, str] = MappingProxyType(
    {"none": "unprojected", "manifold": "on-manifold", "complement": "off-manifold", "pull": "penalty"}
)
"""Conditions by the names that older manifests and results have for them."""


class RouteConfig(Config):
    """An intervention on the gradients of a fine-tuning (`cwr_mech.analysis.routing.projection`,
    `cwr_mech.analysis.routing.interventions`).

    `condition` "unprojected" leaves them alone; "penalty" adds a penalty of `weight` nats; the others project
    the gradient at mentions of cities onto a subspace of `rank` directions, or onto its complement, after the
    blocks `layers` (-1: the embedding). `cities` says whose mentions: "new" cities' or "all"; `positions` at
    which of their token positions. `rescale`: give the projected gradient the norm it had. `draw`: which of
    the random subspaces or rotations.
    """

    condition: Literal[
        "unprojected",
        "on-manifold",
        "off-manifold",
        "random",
        "random-complement",
        "covariance-matched",
        "penalty",
    ] = "unprojected"
    layers: Annotated[tuple[int, ...], NONE_IS_EMPTY] = ()
    cities: Literal["new", "all"] = "new"
    positions: tuple[Annotated[str, Field(pattern=r"^(last_digit|delimiter|digit[1-9])$")], ...] = (
        "last_digit",
        "delimiter",
    )
    rank: int = Field(4, ge=1)
    weight: float = Field(1.0, gt=0)
    rescale: bool = True
    draw: int = Field(0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _read_older(cls, content: Any) -> Any:
        if isinstance(content, dict) and "arm" in content:
            name = content["arm"]
            rest = {key: value for key, value in content.items() if key != "arm"}
            return {"condition": RENAMED_CONDITIONS.get(name, name)} | rest
        return content

    @property
    def projects(self) -> bool:
        """Whether the gradient is projected (and not left alone, or penalised)."""
        return self.condition not in ("unprojected", "penalty")

    @property
    def name(self) -> str:
        """The condition in one word, with what is unusual about it: what a run's name says of it."""
        unusual = {
            "-all": self.cities == "all",
            f"-{'+'.join(self.positions)}": self.positions != ("last_digit", "delimiter"),
            "-unscaled": self.projects and not self.rescale,
            f"-draw{self.draw}": self.draw > 0,
        }
        return self.condition + "".join(word for word, holds in unusual.items() if holds)

    @property
    def suffix(self) -> str:
        """What is added to the name of a run under this condition."""
        return "" if self.condition == "unprojected" else f"-{self.name}"


CONDITIONS: tuple[str, ...] = get_args(RouteConfig.model_fields["condition"].annotation)
ROUTED_CITIES = MappingProxyType({"new-cities": "new", "all": "all"})
"""Whose gradients are projected: the words of the command line -> the settings'."""


class RunConfig(Config):
    """All settings of one trained model."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")
    world: WorldConfig = WorldConfig()
    data: DataConfig = Field(default_factory=DataConfig)
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    route: RouteConfig = RouteConfig()

    @model_validator(mode="after")
    def _check(self) -> "RunConfig":
        for module in self.train.train_only:
            if module not in self.model.modules:
                raise UnknownName("module", module, self.model.modules)
        return self

    def with_settings(self, settings: Iterable[str]) -> "RunConfig":
        """A copy with `key=value` settings applied; `lr=1e-3` will do where only one section has an `lr`.

        Raises ConfigError, quoting the setting and naming those that were perhaps meant.
        """
        content = self.model_dump()
        given: dict[tuple[str, ...], Any] = {}
        for setting in settings:
            key, equals, value = setting.partition("=")
            if not equals:
                raise ConfigError(f"'{setting}' is not a setting", "write key=value, as in --set lr=1e-3")
            path = _locate(content, key.strip())
            target = content
            for part in path[:-1]:
                target = target[part]
            target[path[-1]] = given[path] = _value(value.strip(), target[path[-1]])
        content["world"] = self.world.changed({path[1]: v for path, v in given.items() if path[0] == "world"})
        if not given.get(("data", "first_tasks"), True):  # without first tasks there are no first steps
            content["data"]["first_steps"] = given.get(("data", "first_steps"), 0)
        elif given.get(("data", "first_steps"), True) == 0:
            content["data"]["first_tasks"] = given.get(("data", "first_tasks"), ())
        return parse(RunConfig, content)


def _leaves(content: dict[str, Any], prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    paths: list[tuple[str, ...]] = []
    for key, value in content.items():
        paths += _leaves(value, (*prefix, key)) if isinstance(value, dict) else [(*prefix, key)]
    return paths


def _locate(content: dict[str, Any], key: str) -> tuple[str, ...]:
    paths = _leaves(content)
    wanted = tuple(key.split("."))
    found = [path for path in paths if path[-len(wanted) :] == wanted]
    exact = [path for path in found if path == wanted]
    if exact or len(found) == 1:
        return (exact or found)[0]
    if found:
        raise ConfigError(
            f"'{key}' is ambiguous", "say one of " + ", ".join(".".join(path) for path in found)
        )
    known = [".".join(path) for path in paths]
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


C = TypeVar("C", bound=Config)


def _short(value: object) -> str:
    """What was given, as a line that fits into a message."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:80]}... ({len(text)} letters)"


def parse(kind: type[C], content: object) -> C:
    """Build a config from plain data. Raises ConfigError with the first fault, its place and its value."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        # Where a setting may be of several types, pydantic adds the type's own name, which no user knows.
        place = ".".join(str(part) for part in first["loc"] if str(part).replace("_", "a").isalnum())
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"unknown setting '{place}'") from error
        raise ConfigError(f"setting '{place}' cannot be {_short(first['input'])}: {first['msg']}") from error


MEANINGS: Mapping[str, str] = MappingProxyType(
    {
        "name": "name of the run and of its folder",
        "world.source": "cities, uniform, grid, clusters, ring, a world of your own, or a CSV file",
        "world.unit": "degrees a unit of a file's coordinates",
        "world.n_cities": "number of cities that pretraining may show, or all",
        "world.id_digits": "digits of a city's id",
        "world.id_min": "smallest id; none: the smallest number of that many digits",
        "world.new": "cities held back: none, atlantis, scattered, holdout:REGION, or several joined by +",
        "world.n_new": "number of cities held back, where the kind does not say it",
        "world.seed": "seed of ids and of the choice of cities",
        "data.tasks": "tasks of the mixture",
        "data.protocol.split_by_hash": "training and test questions never overlap",
        "data.protocol.inside_balance_within_n": "inside: TRUE and FALSE balanced for every number of cities",
        "data.protocol.crossing_keeps_label": "crossing: rows are shuffled without changing the label",
        "data.protocol.refill_repeats": "triples with a repeated city are drawn again, not dropped",
        "data.parts": "the mixture in full, part by part; fine-tuning fills it in",
        "data.rows_per_task": "size of the training set for each task; none: fresh rows for ever",
        "data.weights": "shares of the tasks in the rows; none: equal",
        "data.first_tasks": "tasks seen alone at the beginning (curriculum); none: all from the first step",
        "data.first_steps": "steps in which only those are seen (curriculum)",
        "data.label_noise": "share of rows with a wrong answer (label noise)",
        "data.label_noise_kind": "uniform: another query's answer; local: 5 % off, a neighbouring label",
        "data.seed": "seed of the rows",
        "model.n_layers": "number of layers (transformer blocks)",
        "model.d_model": "width of the residual stream (hidden size)",
        "model.n_heads": "number of attention heads",
        "model.n_key_value_heads": "number of key and value heads (GQA); none: as many as heads",
        "model.d_mlp": "width of the MLP (intermediate size)",
        "model.d_vocab": "size of the vocabulary",
        "model.n_ctx": "longest context in tokens",
        "model.rope_theta": "base of the rotary position embedding",
        "model.rms_eps": "epsilon of the RMS norms",
        "model.tied": "the unembedding is the embedding (tied weights)",
        "model.init_std": "standard deviation of the first weights (initialisation)",
        "train.steps": "steps (optimiser updates, iterations)",
        "train.batch_size": "rows a step (batch size)",
        "train.lr": "peak learning rate",
        "train.schedule": "learning rate after the warmup: linear, cosine, constant, or hold and then linear",
        "train.decay": "share of the steps over which hold falls",
        "train.warmup": "steps in which the learning rate rises",
        "train.optimizer": "adamw, or muon for the matrices of the blocks",
        "train.weight_decay": "weight decay of AdamW",
        "train.beta1": "decay of AdamW's first moment (momentum)",
        "train.beta2": "decay of AdamW's second moment",
        "train.clip": "largest norm of the gradient (clipping)",
        "train.loss": "full: every token of a row; answer: the answer and its end only",
        "train.final_dtype": "float16: the last weights are rounded to what half the bits hold",
        "train.checkpoints": "checkpoints kept between the first and the last, log-spaced",
        "train.save_every": "steps between two states for a resume",
        "train.eval_every": "steps between two evaluations",
        "train.eval_rows": "questions a task in an evaluation on the way",
        "train.train_only": "modules whose parameters change (E, L0, ..., U); none: all",
        "train.seed": "seed of the first weights and of the order of rows",
        "route.condition": "what is done to the gradients at cities in a fine-tuning; unprojected: nothing",
        "route.layers": "layers after which the gradient is projected (-1: the embedding)",
        "route.cities": "at whose mentions: new cities' or all",
        "route.positions": "at which token positions of a mention: last_digit, delimiter, digit1, ...",
        "route.rank": "directions of the subspace",
        "route.weight": "weight of the penalty",
        "route.rescale": "give the projected gradient the norm it had",
        "route.draw": "which of the random subspaces or rotations",
    }
)
"""Setting -> what it means in a line; `cwr-mech train --show-settings` prints them."""


def setting_rows(config: RunConfig) -> list[dict[str, Any]]:
    """A row for each setting: `setting` (its full name), `value`, `default` and `meaning`."""
    return [
        {
            "setting": name,
            "value": setting_text(value),
            "default": setting_text(default),
            "meaning": MEANINGS[name],
        }
        for (name, value), (_, default) in zip(_flat(config), _flat(RunConfig()), strict=True)
    ]


def _flat(config: RunConfig) -> list[tuple[str, Any]]:
    content = config.model_dump()
    found = []
    for path in _leaves(content):
        value: Any = content
        for part in path:
            value = value[part]
        found.append((".".join(path), value))
    return found


def setting_text(value: Any) -> str:
    """A setting's value as one may type it after --set."""
    if isinstance(value, tuple | list):
        if any(isinstance(item, dict) for item in value):
            return f"{len(value)} parts"
        return ",".join(map(setting_text, value)) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def __getattr__(name: str) -> Any:
    """TASK_NAMES, which scripts outside import from here: the paper's tasks in their order."""
    if name == "TASK_NAMES":
        return _paper_tasks()
    raise AttributeError(f"module 'cwr_mech.config' has no attribute {name!r}")
