"""`cwr-mech cache-acts`: what a model holds about every city, in an HDF5 file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple, Self

import typer

from .options import Device, Layers, Run

if TYPE_CHECKING:
    from cwr_mech.activations.reader import ActivationStore


def command(
    run: Run = None,
    step: Annotated[int | None, typer.Option(help="Its checkpoint; the last by default.")] = None,
    untrained: Annotated[
        bool, typer.Option("--untrained", help="The model before any training, as a control.")
    ] = False,
    layers: Layers = None,
    hooks: Annotated[
        str | None, typer.Option(help="More hooks by full name, e.g. blocks.1.attn.hook_z.")
    ] = None,
    tasks: Annotated[str, typer.Option(help="Prompts: tasks by name, or all.")] = "all",
    sites: Annotated[
        str | None,
        typer.Option(
            help="Token positions: last_digit, delimiter, equals, or a span such as city1_digits; in texts "
            "last_token, first_token, span_mean, text_end.",
            show_default="last_digit,delimiter, or last_token",
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv",
            help="Texts for a model with a tokenizer of its own: columns entity, lon,lat or x,y, and text; "
            "span (characters that are read), group and prompt may be there.",
            show_default=False,
        ),
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(
            help="A text about every entity, as 'The city of {name} is in'; may be repeated. Without "
            "--prompts the entities are real cities.",
            show_default=False,
        ),
    ] = None,
    n_cities: Annotated[
        int | None, typer.Option(help="The most populous real cities; all by default.", show_default=False)
    ] = None,
    batch_tokens: Annotated[int, typer.Option(min=1, help="Tokens of texts run at once.")] = 4096,
    device: Device = "auto",
    out: Annotated[Path | None, typer.Option(help="File; activations/RUN-stepN.h5 by default.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write anew even when up to date.")] = False,
    show: Annotated[
        Path | None, typer.Option("--show", metavar="FILE", help="Only print what is in a file.")
    ] = None,
) -> None:
    """Run every city through every task's prompt and keep the chosen layers at the chosen token positions.

    A file that holds all this for the same weights is left as it is; one that holds other things for the
    same weights keeps them. After more training it is made anew.

    With --prompts or --template the run is a Hugging Face folder of a causal language model (Qwen2, or what
    TransformerLens' TransformerBridge can hook) and reads texts with its own tokenizer. A command that was
    killed goes on from where it was when it is called again.
    """
    from cwr_mech.activations.reader import ActivationStore, activations_path
    from cwr_mech.training.runs import load_run

    from .common import ACTIVATIONS, duration, number, progress, say

    if show is not None:
        describe(ActivationStore(show))
        return

    import time
    from functools import partial

    from cwr_mech.activations.extract import DEFAULT_SITES, extract
    from cwr_mech.analysis.sources import drawn_from, untrained_state

    found = load_run(run)
    if prompts is not None or template:
        from .cache_texts import TextOptions, cache_texts

        options = TextOptions(prompts, template or [], n_cities, batch_tokens, device)
        places = Places(layers, hooks, sites)
        cache_texts(found, options, places, step=step, untrained=untrained, out=out, force=force)
        return
    at = found.last_step if step is None else step
    if untrained:
        path, digest, load, at = untrained_state(found)
    else:
        path, digest = activations_path(found.reference, at, ACTIVATIONS), found.sha256(at)
        load = partial(found.model, at)
    world = found.world()
    path, model = out or path, load()
    wanted = Selection.parse(layers, hooks, tasks, sites or ",".join(DEFAULT_SITES), model.cfg.n_layers)
    old = None if force else reusable(path, digest, world.sha256, named=out is not None)
    if old is not None:
        kept = Selection(list(old.hooks), list(old.tasks), list(old.sites))
        wanted = kept.joined(wanted)
        if wanted == kept:
            say(f"{path} is up to date; --force writes it anew, --show {path} prints what is inside")
            return
    attrs: dict[str, str | int] = {"run": found.reference, "step": at, "model_sha256": digest}
    if untrained:
        attrs["drawn"] = drawn_from(found)
    began = time.monotonic()
    total = world.n * len(wanted.tasks)
    with progress(f"caching {path.name}", total, "prompts") as advance:
        extract(
            model,
            world,
            path,
            **wanted._asdict(),
            attrs=attrs,
            advance=advance,
        )
    seconds = time.monotonic() - began
    say(f"{path}  {size(path)}, {duration(seconds)}, {number(total / seconds)} prompts/s")
    say(f"{world.n} cities x {wanted}; --show {path} prints what is inside")


class Places(NamedTuple):
    """Where a model is read, as the options say it."""

    layers: str | None
    hooks: str | None
    sites: str | None


class Selection(NamedTuple):
    """What a file is asked to hold."""

    hooks: list[str]
    tasks: list[str]
    sites: list[str]

    @classmethod
    def parse(cls, layers: str | None, hooks: str | None, tasks: str, sites: str, n_layers: int) -> Self:
        """The selection that the options name."""
        from cwr_mech.activations.extract import default_hooks
        from cwr_mech.activations.site import Site
        from cwr_mech.analysis.study import names
        from cwr_mech.tasks.registry import TASKS

        named = [*(Site.parse(layer).hook for layer in names(layers) or []), *(names(hooks) or [])]
        chosen = list(TASKS) if tasks == "all" else names(tasks) or []
        return cls(named or list(default_hooks(n_layers)), chosen, names(sites) or [])

    def joined(self, other: Self) -> Self:
        """What this or `other` asks for."""
        return type(self)(*(list(dict.fromkeys([*a, *b])) for a, b in zip(self, other, strict=True)))

    def __str__(self) -> str:
        return f"{len(self.hooks)} hooks x {len(self.tasks)} prompts x {len(self.sites)} places"


def reusable(path: Path, model_sha256: str, world_sha256: str, *, named: bool) -> "ActivationStore | None":
    """The file at `path` when it was made from these weights and this world.

    Raises ArtifactExists where the user named the file and it is something else, which only --force replaces.
    """
    from cwr_mech.activations.reader import ActivationStore
    from cwr_mech.errors import ArtifactError, ArtifactExists, MissingArtifact

    try:
        store = ActivationStore(path)
    except MissingArtifact:
        return None
    except ArtifactError as error:
        if named:
            raise ArtifactExists(
                f"not overwritten: {error.message}", "choose another --out, or replace it with --force"
            ) from error
        return None
    same = store.attrs["model_sha256"] == model_sha256 and store.attrs["world_sha256"] == world_sha256
    return store if same else None


def describe(store: "ActivationStore") -> None:
    """Print what an activation file holds."""
    import json

    from rich.text import Text
    from rich.tree import Tree

    from .common import console

    attrs = store.attrs
    tree = Tree(Text.assemble((str(store.path), "bold"), f"  {size(store.path)}, {attrs['schema']}"))
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


def size(path: Path) -> str:
    """A file's size for a reader."""
    return size_text(path.stat().st_size)


def size_text(n: int) -> str:
    """A number of bytes for a reader."""
    return f"{n / 1e6:.1f} MB" if n >= 1e6 else f"{n / 1e3:.0f} kB"
