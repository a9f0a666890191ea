"""`cwr-mech cache-acts`: what a model holds about every city, in an HDF5 file."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.text import Text
from rich.tree import Tree

from cwr_mech.analysis.registry import Opt
from cwr_mech.analysis.study import names
from cwr_mech.errors import AnalysisError, ArtifactError, ArtifactExists, ConfigError
from cwr_mech.render.numbers import number

from .common import ACTIVATIONS, console, duration, progress, say, size_text
from .options import Device, Layers, Run

if TYPE_CHECKING:
    from cwr_mech.activations.reader import ActivationStore

BATCH_TOKENS = 4096
UP_TO_DATE = "{0} is up to date; --force writes it anew, --show {0} prints what is inside"


def command(
    run: Run = None,
    *,
    step: Annotated[int | None, Opt("Its checkpoint; the last by default.")] = None,
    untrained: Annotated[bool, Opt("The model before any training, as a control.")] = False,
    layers: Layers = None,
    hooks: Annotated[str | None, Opt("More hooks by full name, e.g. blocks.1.attn.hook_z.")] = None,
    tasks: Annotated[str, Opt("Prompts: tasks by name, or all.")] = "all",
    sites: Annotated[
        str | None,
        Opt(
            "Token positions: last_digit, delimiter, equals, or a span such as city1_digits; in texts "
            "last_token, first_token, span_mean, text_end.",
            show_default="last_digit,delimiter, or last_token",
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        Opt(
            "Texts for a model with a tokenizer of its own: columns entity, lon,lat or x,y, and text; "
            "span (characters that are read), group and prompt may be there.",
            metavar="FILE.csv",
        ),
    ] = None,
    template: Annotated[
        list[str] | None,
        Opt(
            "A text about every entity, as 'The city of {name} is in'; may be repeated. Without "
            "--prompts the entities are real cities."
        ),
    ] = None,
    n_cities: Annotated[int | None, Opt("The most populous real cities; all by default.")] = None,
    batch_tokens: Annotated[int, Opt("Tokens of texts run at once.", min=1)] = BATCH_TOKENS,
    device: Device = "auto",
    out: Annotated[Path | None, Opt("File; activations/RUN-stepN.h5 by default.")] = None,
    force: Annotated[bool, Opt("Write anew even when up to date.")] = False,
    show: Annotated[Path | None, Opt("Only print what is in a file.", metavar="FILE")] = None,
) -> None:
    """Run every city through every task's prompt and keep the chosen layers at the chosen token positions.

    A file that holds all this for the same weights is left as it is; one that holds other things for the
    same weights keeps them, prompts of texts about the same entities included. After more training it is
    made anew.

    With --prompts or --template the run is a Hugging Face folder of a causal language model (Qwen2, or what
    TransformerLens' TransformerBridge can hook) and reads texts with its own tokenizer. A command that was
    killed goes on from where it was when it is called again.
    """
    from cwr_mech.activations.reader import ActivationStore, activations_path
    from cwr_mech.training.runs import load_run

    if show is not None:
        describe(ActivationStore(show))
        return

    texts = prompts is not None or bool(template)
    unused = {
        "--tasks is about questions": texts and tasks != "all",
        "--n-cities is about --template without --prompts": n_cities is not None and (prompts or not texts),
        "--batch-tokens is about texts": batch_tokens != BATCH_TOKENS and not texts,
    }
    for why, given in unused.items():
        if given:
            raise ConfigError(f"{why} and would change nothing here", "leave it out")
    from cwr_mech.activations.extract import DEFAULT_SITES, default_hooks, extract
    from cwr_mech.activations.site import Site
    from cwr_mech.analysis.sources import drawn_from, untrained_state
    from cwr_mech.tasks.registry import TASKS
    from cwr_mech.training.compute import choose

    place = choose(device, "float32", "off").device
    found = load_run(run)
    named = [Site.parse(name).hook for name in [*(names(layers) or []), *(names(hooks) or [])]]
    if texts:
        from .cache_texts import cache_texts

        cache_texts(
            found,
            prompts,
            template or [],
            n_cities,
            hooks=named,
            sites=names(sites),
            batch_tokens=batch_tokens,
            device=place,
            step=step,
            untrained=untrained,
            out=out,
            force=force,
        )
        return
    at = found.last_step if step is None else step
    if untrained:
        path, digest, load, at = untrained_state(found)
    else:
        path, digest = activations_path(found.reference, at, ACTIVATIONS), found.sha256(at)
        load = partial(found.model, at)
    world = found.world()
    path, model = out or path, load().to(place)
    wanted = {
        "hooks": named or list(default_hooks(model.cfg.n_layers)),
        "tasks": list(TASKS) if tasks == "all" else names(tasks) or [],
        "sites": names(sites) or list(DEFAULT_SITES),
    }
    old = None if force else kept(path, digest, named=out is not None)
    if old is not None and old.attrs["world_sha256"] == world.sha256:
        had = {"hooks": list(old.hooks), "tasks": list(old.tasks), "sites": list(old.sites)}
        wanted = {axis: joined(had[axis], wanted[axis]) for axis in wanted}
        if wanted == had:
            say(UP_TO_DATE.format(path))
            return
    attrs: dict[str, str | int] = {"run": found.reference, "step": at, "model_sha256": digest}
    if untrained:
        attrs["drawn"] = drawn_from(found)
    with caching(path, world.n * len(wanted["tasks"]), "prompts") as advance:
        chosen, asked, places = wanted.values()
        extract(model, world, path, hooks=chosen, tasks=asked, sites=places, attrs=attrs, advance=advance)
    held = f"{world.n} cities x {len(chosen)} hooks x {len(asked)} prompts x {len(places)} places"
    say(f"{held}; --show {path} prints what is inside")


@contextmanager
def caching(path: Path, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Show how far the writing of a file is; at the end its size, the time it took, and the rate."""
    began = time.monotonic()
    with progress(f"caching {path.name}", total, unit) as advance:
        yield advance
    seconds = time.monotonic() - began
    size = size_text(path.stat().st_size)
    say(f"{path}  {size}, {duration(seconds)}, {number(total / seconds)} {unit}/s")


def kept(path: Path, model_sha256: str, *, named: bool) -> "ActivationStore | None":
    """The file at `path` when it was made from these weights.

    Raises ArtifactExists where the user named a file that holds something else, also activations of other
    weights: only --force replaces it.
    """
    from cwr_mech.activations.reader import ActivationStore, reusable

    if named and path.exists():
        try:
            return ActivationStore(path, model_sha256=model_sha256)
        except (AnalysisError, ArtifactError) as error:
            raise ArtifactExists(
                f"not overwritten: {error.message}", "choose another --out, or replace it with --force"
            ) from error
    return reusable(path, model_sha256=model_sha256)


def joined(held: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """What a file holds, then what else is wanted of it."""
    return list(dict.fromkeys([*held, *wanted]))


def describe(store: "ActivationStore") -> None:
    """Print what an activation file holds."""
    attrs, size = store.attrs, size_text(store.path.stat().st_size)
    tree = Tree(Text.assemble((str(store.path), "bold"), f"  {size}, {attrs['schema']}"))
    made = tree.add(f"made from run {attrs['run'] or '?'}, step {attrs['step']}")
    for name in ("model_sha256", "world_sha256", "tokenizer_sha256"):
        made.add(f"{name} {str(attrs[name])[:16]}")
    ids = f"ids {store.city_ids.min()} to {store.city_ids.max()}"
    tree.add(f"{len(store)} cities, {int(store.is_new.sum())} of them new; {ids}")
    prompts = json.loads(str(attrs.get("prompts", "{}")))
    lists = {
        "hooks": [f"{hook}  {store.width(hook)} numbers a city" for hook in store.hooks],
        "prompts": [f"{task}  {prompts.get(task, '')}" for task in store.tasks],
        "places": list(store.sites),
    }
    for title, lines in lists.items():
        branch = tree.add(f"{len(lines)} {title}")
        for line in lines:
            branch.add(Text(line))
    console.print(tree, soft_wrap=True)
