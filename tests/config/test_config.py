"""Settings refuse what they do not know, and say so in one line."""

import pytest
from pydantic import ValidationError

from cwr_mech.config import ModelConfig, RouteConfig, RunConfig, parse
from cwr_mech.errors import ConfigError, UnknownName, UserError
from cwr_mech.experiments.presets import (
    PRESETS,
    for_tasks,
    preset,
    under_protocol,
)
from cwr_mech.tasks.registry import PAPER_TASKS

SETTINGS = [
    ("lr=1e-3", lambda c: c.train.lr == 1e-3),
    ("train.steps=7", lambda c: c.train.steps == 7),
    ("n_cities=256", lambda c: c.world.n_cities == 256),
    ("tasks=distance,angle", lambda c: c.data.tasks == ("distance", "angle")),
    ("protocol.split_by_hash=false", lambda c: not c.data.protocol.split_by_hash),
    ("rows_per_task=none", lambda c: c.data.rows_per_task is None),
    ("new=holdout:Japan", lambda c: c.world.new == "holdout:Japan"),
    ("n_cities=all", lambda c: c.world.n_cities == "all"),
    ("world.seed=5", lambda c: c.world.seed == 5),
]

FAULTS = [
    ("colour=red", ConfigError, "unknown setting 'colour'"),
    ("seed=3", ConfigError, "ambiguous"),
    ("lr", ConfigError, "not a setting"),
    ("lr=fast", ConfigError, "'fast'"),
    ("steps=-1", ConfigError, "train.steps"),
    ("steps=1.5", ConfigError, "train.steps"),
    ("n_cities=some", ConfigError, "setting 'world.n_cities' cannot be 'some'"),
    ("n_cities=0", ConfigError, "setting 'world.n_cities' cannot be 0"),
    ("lr=inf", ConfigError, "train.lr"),
    ("tasks=distance,flight", UnknownName, "unknown task 'flight'"),
    ("tasks=distance,distance", ConfigError, "once each"),
    ("n_heads=3", ConfigError, "n_heads 3"),
    ("weights=1,2", ConfigError, "7 positive numbers"),
    ("train_only=E,L6", UnknownName, "unknown module 'L6'"),
    ("name=../x", ConfigError, "name"),
    ("learning_rate=1", ConfigError, "train.lr"),
    ("warmpu=1", ConfigError, "did you mean train.warmup?"),
    ("nlayers=1", ConfigError, "did you mean model.n_layers"),
    ("batchsize=1", ConfigError, "did you mean train.batch_size?"),
    ("curriculum=1", ConfigError, "data.first_tasks"),
]


@pytest.mark.parametrize(("setting", "holds"), SETTINGS)
def test_a_setting_changes_its_field_and_nothing_else(setting: str, holds) -> None:
    before = RunConfig()
    after = before.with_settings([setting])
    assert holds(after)
    assert not holds(before) or after == before
    changed = [
        section for section in RunConfig.model_fields if getattr(after, section) != getattr(before, section)
    ]
    assert len(changed) <= 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("none", "unprojected"),
        ("manifold", "on-manifold"),
        ("complement", "off-manifold"),
        ("pull", "penalty"),
        ("random", "random"),
    ],
)
def test_older_manifests_are_read_in_the_fields_words(old: str, new: str) -> None:
    found = parse(RouteConfig, {"arm": old, "cities": "new", "layers": [0, 1], "rank": 4, "weight": 1.0})
    assert found == RouteConfig(condition=new, layers=(0, 1))
    with pytest.raises(ConfigError, match="condition"):
        parse(RouteConfig, {"condition": old if old != new else "sideways"})


def test_what_is_unusual_about_a_condition_is_in_its_name() -> None:
    assert RouteConfig().suffix == ""
    assert RouteConfig(condition="off-manifold").suffix == "-off-manifold"
    assert not RouteConfig().changes
    assert RouteConfig(elsewhere="cut").changes
    assert RouteConfig(elsewhere="cut").suffix == "-unprojected-cut"
    settings = {"condition": "random", "rescale": False, "draw": 2, "cities": "all"}
    assert RouteConfig(**settings).name == "random-all-unscaled-draw2"
    assert RouteConfig(condition="penalty", rescale=False).name == "penalty"  # nothing to rescale


@pytest.mark.parametrize(("setting", "error", "words"), FAULTS)
def test_a_wrong_setting_is_one_clear_line(setting: str, error: type, words: str) -> None:
    with pytest.raises(error) as caught:
        RunConfig().with_settings([setting])
    assert isinstance(caught.value, UserError)
    assert words in f"{caught.value.message}; {caught.value.hint}"
    assert "\n" not in str(caught.value)


def test_configs_survive_json_and_stay_frozen() -> None:
    for name in PRESETS:
        config = preset(name)
        assert parse(RunConfig, config.model_dump(mode="json")) == config
        with pytest.raises(ValidationError):
            config.train.lr = 1.0  # type: ignore[misc]
    with pytest.raises(ConfigError, match=r"unknown setting 'model\.depth'"):
        parse(RunConfig, {"model": {"depth": 3}})


def test_tasks_keep_their_order_and_name_the_run() -> None:
    config = preset("tiny")
    assert for_tasks(config, PAPER_TASKS).name == "tiny"
    chosen = for_tasks(config, ("angle", "distance"))
    assert chosen.data.tasks == ("distance", "angle")
    assert chosen.name == "tiny-distance+angle"
    with pytest.raises(UnknownName):
        for_tasks(config, ("angle", "flight"))
    with pytest.raises(UnknownName, match="did you mean 'quick'"):
        preset("quik")


def test_only_mixtures_begin_with_a_task() -> None:
    config = preset("quick")
    assert config.data.first_tasks == ("compass",)
    assert for_tasks(config, ("compass",)).data.first_tasks == ()
    assert for_tasks(config, ("distance",)).data.first_steps == 0
    assert for_tasks(config, ("distance", "compass")).data.first_steps == config.data.first_steps
    with pytest.raises(ConfigError, match="first_tasks"):
        config.with_settings(["first_tasks=distance", "tasks=angle"])


def test_the_paper_protocol_switches_every_quirk_on() -> None:
    paper = under_protocol(preset("quick"), "paper")
    assert not any(paper.data.protocol.model_dump().values())
    assert paper.world.id_min == 0
    assert paper.name == "quick-paper"
    assert under_protocol(preset("quick"), "strict") == preset("quick")
    with pytest.raises(UnknownName, match="unknown protocol 'papr'"):
        under_protocol(preset("quick"), "papr")


def test_derived_sizes() -> None:
    assert ModelConfig().d_head == 32
    assert ModelConfig(n_key_value_heads=2).n_kv == 2
    assert ModelConfig().n_parameters == 1_601_920


@pytest.mark.parametrize(
    "off", ["first_tasks=none", "first_tasks=", "first_tasks=[]", "first_tasks=null", "first_steps=0"]
)
def test_the_start_with_compass_is_switched_off_by_one_setting(off: str) -> None:
    before = preset("quick").data
    after = preset("quick").with_settings([off]).data
    assert (before.first_tasks, before.first_steps) == (("compass",), 1000)
    assert (after.first_tasks, after.first_steps) == ((), 0)
    assert after == before.model_copy(update={"first_tasks": (), "first_steps": 0})
    # A start of another length, or with another task, is no end of it; half a start is still refused.
    assert preset("quick").with_settings(["first_steps=10"]).data.first_tasks == ("compass",)
    assert preset("quick").with_settings(["first_tasks=angle"]).data.first_steps == 1000
    with pytest.raises(ConfigError, match="go together"):
        preset("quick").with_settings(["first_tasks=none", "first_steps=5"])
