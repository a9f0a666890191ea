"""Settings of a training, and of what it does to gradients at mentions of cities."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from cwr_mech.config.base import NONE_IS_EMPTY, Config, Words


class TrainConfig(Config):
    """How a model is trained.

    `schedule`: after `warmup` steps the rate is held ("constant"), falls linearly to 0 ("linear"), by a
    half cosine ("cosine"), or is held and falls linearly over the last `decay` share of the steps ("hold").
    With `final_dtype` "float16" weights can be shipped in half the bits without another answer. The first
    and the last checkpoint are always kept.
    """

    steps: int = Field(1000, ge=1, description="steps (optimiser updates, iterations)")
    batch_size: int = Field(128, ge=1, description="rows a step (batch size)")
    lr: float = Field(3e-4, gt=0, description="peak learning rate")
    schedule: Literal["linear", "cosine", "constant", "hold"] = Field(
        "linear",
        description="learning rate after the warmup: linear, cosine, constant, or hold and then linear",
    )
    decay: float = Field(0.3, gt=0, le=1, description="share of the steps over which hold falls")
    warmup: int = Field(50, ge=0, description="steps in which the learning rate rises")
    optimizer: Literal["adamw", "muon"] = Field("adamw", description="adamw, or muon for blocks' matrices")
    weight_decay: float = Field(0.01, ge=0, description="weight decay of AdamW")
    beta1: float = Field(0.9, ge=0, lt=1, description="decay of AdamW's first moment (momentum)")
    beta2: float = Field(0.999, ge=0, lt=1, description="decay of AdamW's second moment")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient (clipping)")
    loss: Literal["full", "answer"] = Field(
        "full", description="full: every token of a row; answer: the answer and its end only"
    )
    final_dtype: Literal["float32", "float16"] = Field(
        "float32", description="float16: the last weights are rounded to what half the bits hold"
    )
    checkpoints: int = Field(8, ge=0, description="checkpoints kept between first and last, log-spaced")
    save_every: int = Field(500, ge=1, description="steps between two states for a resume")
    eval_every: int = Field(500, ge=1, description="steps between two evaluations")
    eval_rows: int = Field(64, ge=1, description="questions a task in an evaluation on the way")
    train_only: Words = Field((), description="modules whose parameters change (E, L0, ..., U); none: all")
    seed: int = Field(42, ge=0, description="seed of the first weights and of the order of rows")


RENAMED_CONDITIONS: Mapping[str, str] = MappingProxyType(
    {"none": "unprojected", "manifold": "on-manifold", "complement": "off-manifold", "pull": "penalty"}
)
"""Conditions by the names that older manifests and results have for them."""


class RouteConfig(Config):
    """An intervention on the gradients of a fine-tuning (`cwr_mech.analysis.routing.projection`,
    `cwr_mech.analysis.routing.interventions`).

    `condition` "unprojected" leaves them alone; "penalty" adds a penalty of `weight` nats; the others project
    the gradient at mentions of cities onto a subspace of `rank` directions, or onto its complement, after the
    blocks `layers`. With `elsewhere` "cut", questions with these cities have no gradient at other tokens
    there from the first city's id on, so that they teach the blocks up to that one through these mentions.
    """

    condition: Literal[
        "unprojected",
        "on-manifold",
        "off-manifold",
        "random",
        "random-complement",
        "covariance-matched",
        "matched-complement",
        "penalty",
    ] = Field(
        "unprojected",
        description="what is done to the gradients at cities in a fine-tuning; unprojected: nothing",
    )
    layers: Annotated[tuple[int, ...], NONE_IS_EMPTY] = Field(
        (), description="layers after which the gradient is projected (-1: the embedding)"
    )
    cities: Literal["new", "all"] = Field("new", description="at whose mentions: new cities' or all")
    positions: tuple[Annotated[str, Field(pattern=r"^(last_digit|delimiter|digit[1-9])$")], ...] = Field(
        ("last_digit", "delimiter"),
        description="at which token positions of a mention: last_digit, delimiter, digit1, ...",
    )
    rank: int = Field(4, ge=1, description="directions of the subspace")
    weight: float = Field(1.0, gt=0, description="weight of the penalty")
    rescale: bool = Field(True, description="give the projected gradient the norm it had")
    elsewhere: Literal["kept", "cut"] = Field(
        "kept",
        description="the gradient at other tokens of questions with these cities, from the first id on: "
        "kept or cut",
    )
    draw: int = Field(0, ge=0, description="which of the random subspaces or rotations")

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
    def changes(self) -> bool:
        """Whether gradients are changed at all."""
        return self.condition != "unprojected" or self.elsewhere == "cut"

    @property
    def name(self) -> str:
        """The condition in one word, with what is unusual about it: what a run's name says of it."""
        unusual = {
            "-all": self.cities == "all",
            f"-{'+'.join(self.positions)}": self.positions != ("last_digit", "delimiter"),
            "-unscaled": self.projects and not self.rescale,
            f"-draw{self.draw}": self.draw > 0,
            "-cut": self.elsewhere == "cut",
        }
        return self.condition + "".join(word for word, holds in unusual.items() if holds)

    @property
    def suffix(self) -> str:
        """What is added to the name of a run under this condition."""
        return f"-{self.name}" if self.changes else ""


CONDITIONS: tuple[str, ...] = get_args(RouteConfig.model_fields["condition"].annotation)
ROUTED_CITIES = MappingProxyType({"new-cities": "new", "all": "all"})
"""Whose gradients are projected: the words of the command line -> the settings'."""
