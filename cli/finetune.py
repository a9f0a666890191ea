"""`cwr-mech finetune`: teach a trained model new cities through some of its tasks."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from cwr_mech.analysis.registry import Opt
from cwr_mech.errors import ConfigError, one_of
from cwr_mech.training.folders import RUNS

from . import options
from .common import say, show_table
from .train import carry_out, placed

if TYPE_CHECKING:
    from cwr_mech.config import RouteConfig, RunConfig
    from cwr_mech.training.runs import Run


@options.taking(compute=options.COMPUTE)
def command(
    run: Annotated[str | None, Opt("The base: a run, or zoo:NAME; the latest run.")] = None,
    *,
    tasks: Annotated[str, Opt("Tasks to train, separated by commas.")] = "distance",
    new_cities: Annotated[
        str | None,
        Opt(
            "atlantis, scattered or holdout:REGION; by default what the base held back.",
            flags=("--new", "--new-cities"),
        ),
    ] = None,
    replay: Annotated[str, Opt("Tasks whose old rows are kept: none, trained, all.")] = "trained",
    elicitation: Annotated[
        str, Opt("A few rows of all tasks: none, world (training cities) or new (cities).")
    ] = "none",
    recipe: Annotated[
        str | None, Opt("A set of the paper with its steps and rate: ft1..ft3, ftwb1..ftwb3.")
    ] = None,
    protocol: Annotated[
        str | None, Opt("How rows are drawn: strict or paper. The base's by default.")
    ] = None,
    steps: Annotated[int | None, Opt("Steps; 8.7 % of the base's by default.", min=1)] = None,
    lr: Annotated[float | None, Opt("Peak rate; a thirtieth of the base's by default.")] = None,
    rows: Annotated[int, Opt("Rows with new cities for each trained task.", min=1)] = 100_000,
    replay_rows: Annotated[int, Opt("Rows of replay for each trained task.", min=1)] = 20_000,
    seed: Annotated[int | None, Opt("Seed of the order of rows; the base's.", min=0)] = None,
    route: Annotated[
        str,
        Opt(
            "Project the gradient at cities: on-manifold, off-manifold, random, random-complement, "
            "covariance-matched, matched-complement (--set route.rescale=false, route.draw=1, "
            "route.elsewhere=cut: questions about these cities have no other gradient from the first id "
            "on); or penalty: on leaving it."
        ),
    ] = "unprojected",
    route_layers: Annotated[
        str | None, Opt("Layers to project at, e.g. 1,2; by default all that have a gradient.")
    ] = None,
    route_sites: Annotated[str, Opt("Whose gradients: new-cities or all.")] = "new-cities",
    route_rank: Annotated[int, Opt("Directions of the subspace.", min=1)] = 4,
    train_only: Annotated[
        str | None,
        Opt(
            "Freeze all but these: city (up to where the base reads a city), answer (the rest), embed, "
            "or modules such as E,L0,L1,U.",
            metavar="MODULES",
        ),
    ] = None,
    settings: options.Settings = None,
    label_noise: options.LabelNoise = None,
    label_noise_kind: options.LabelNoiseKind = "uniform",
    out: options.RunFolder = None,
    dry_run: options.DryRun = False,
    resume: options.Resume = False,
    log: options.Log = None,
    threads: options.Threads = 1,
    compute: Mapping[str, str],
) -> None:
    """Train a model further, on rows that name new cities, and keep it as a run of its own.

    The set holds rows with new cities and replay of old ones for each trained task. Steps and rate do not
    depend on the tasks, so fine-tunings of one base can be compared. --recipe takes the paper's sets instead.
    """
    from cwr_mech.config import PROTOCOLS
    from cwr_mech.experiments.finetuning import (
        ELICITATIONS,
        REPLAYS,
        finetuning_config,
        paper_config,
    )
    from cwr_mech.experiments.presets import with_label_noise
    from cwr_mech.training.begin import require_free
    from cwr_mech.training.runs import load_run

    base = load_run(run)
    names = tuple(name.strip() for name in tasks.split(","))
    if recipe is not None:
        fixed = (replay, elicitation, protocol or "paper", steps, lr, rows, replay_rows)
        if fixed != ("trained", "none", "paper", None, None, 100_000, 20_000):
            raise ConfigError(
                f"recipe {recipe} fixes protocol, rows, steps and rate",
                "leave out the other options, or change a setting with --set",
            )
        config = paper_config(base.config, recipe, names, new_cities=new_cities, seed=seed)
    else:
        config = finetuning_config(
            base.config,
            names,
            new_cities=new_cities,
            replay=one_of("replay", replay, REPLAYS),
            elicitation=one_of("elicitation", elicitation, ELICITATIONS),
            protocol=PROTOCOLS[one_of("protocol", protocol, PROTOCOLS)] if protocol else None,
            steps=steps,
            lr=lr,
            seed=seed,
            new_rows=rows,
            replay_rows=replay_rows,
        )
    if label_noise is not None:
        config = with_label_noise(config, label_noise, label_noise_kind)
    routed = routing(route, route_layers, route_sites, route_rank, config)
    config = config.model_copy(update={"route": routed})
    usual = config.name
    if train_only is not None:
        config = config.with_settings([f"train.train_only={','.join(trained(train_only, base, names))}"])
    config = config.with_settings(settings or [])
    only = f"-only-{train_only.replace(',', '+')}" if train_only else ""
    name = usual + config.route.suffix + only if config.name == usual else config.name
    folder = out or RUNS / name
    config = config.called(folder.name or str(folder))
    if not resume:
        require_free(folder)
    show_set(config)
    if dry_run:
        return
    import torch

    from cwr_mech.analysis.routing.interventions import condition_hook
    from cwr_mech.world.cities import load_world

    place = placed(**compute)
    torch.set_num_threads(threads)  # the hook's directions depend on it in their last bits
    hook = condition_hook(config.route, base.model(), load_world(config.world), config.data.parts)
    carry_out(config, folder, log, threads, place, resume=resume, base=base, hook=hook)


def trained(text: str, base: "Run", tasks: tuple[str, ...]) -> tuple[str, ...]:
    """The modules that --train-only names, for a fine-tuning of `base` on `tasks`."""
    from cwr_mech.analysis.anatomy.modules import named_modules, reading_layer

    return named_modules(text, base.config.model, lambda: reading_layer(base.model(), base.world(), tasks))


def routing(condition: str, layers: str | None, sites: str, rank: int, config: "RunConfig") -> "RouteConfig":
    """The intervention that the options name. Raises UnknownName or ConfigError."""
    from cwr_mech.config import CONDITIONS, RENAMED_CONDITIONS, ROUTED_CITIES, RouteConfig, parse

    condition = RENAMED_CONDITIONS.get(condition, condition)
    names = ("embed", *map(str, range(config.model.n_layers - 1)))
    wanted = [name.strip() for name in layers.split(",")] if layers else names[1:]
    chosen = [names.index(one_of("layer with a gradient", name, names)) - 1 for name in wanted]
    cities = ROUTED_CITIES[one_of("group of cities", sites, ROUTED_CITIES)]
    if one_of("route", condition, CONDITIONS) == "unprojected":
        return parse(RouteConfig, {"layers": chosen, "cities": cities} if layers else {})
    return parse(RouteConfig, {"condition": condition, "layers": chosen, "cities": cities, "rank": rank})


def show_set(config: "RunConfig") -> None:
    """Print what the fine-tuning set is made of, and how long it is trained on."""
    from cwr_mech.experiments.finetuning import total_rows

    parts = config.data.parts
    rows = [[part.task, part.group, part.rows, part.start] for part in parts]
    say(f"set of {config.name}")
    show_table("", ["task", "cities", "rows", "from row"], rows)
    total, train = total_rows(parts), config.train
    say(
        f"{total:,} rows; {train.steps:,} steps of {train.batch_size} rows = "
        f"{train.steps * train.batch_size / total:.2f} epochs; peak rate {train.lr:g}"
    )
