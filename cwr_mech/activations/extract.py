"""From a model to an activation file: what it holds about each city at chosen hooks, prompts and places.

A city is read from the beginning of a question about it, `dist(c_1234,`, as in the paper; places after the
delimiter need a whole question, whose other cities are drawn once by a seed and stored in the file. Only
the positions asked for are kept, and only the layers up to the deepest hook are run.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from einops import reduce, repeat
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from cwr_mech.activations.reader import EMBED, FINAL
from cwr_mech.activations.site import Site
from cwr_mech.activations.writer import store_writer
from cwr_mech.artifacts import sha256_bytes
from cwr_mech.errors import AnalysisError, one_of
from cwr_mech.model.bridge import TextModel
from cwr_mech.model.hooks import stop_layer
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.model.threads import few_threads
from cwr_mech.tasks.grammar import city_prompt_length, find_span
from cwr_mech.tasks.registry import TASKS, get_task
from cwr_mech.tasks.tokenizer import Tokenizer
from cwr_mech.world.cities import World

DEFAULT_SITES = ("last_digit", "delimiter")
BATCH, PARTNER_SEED = 512, 42
NO_POSITION = ("hook_attn_scores", "hook_pattern")
"""Hooks whose second axis is heads, not positions."""


def default_hooks(n_layers: int) -> tuple[str, ...]:
    """The embedding, the residual stream after every block, and the output of the final norm."""
    return (EMBED, *(Site(layer).hook for layer in range(n_layers)), FINAL)


def model_digest(model: TextModel) -> str:
    """Digest of the names and values of a model's parameters, the same on every device."""
    chunks: list[bytes] = []
    for name, value in sorted(model.state_dict().items()):
        chunks += [name.encode(), value.detach().cpu().contiguous().numpy().tobytes()]
    return sha256_bytes(*chunks)


def draw_partners(world: World, task: str, seed: int) -> Int64[np.ndarray, "city k"]:
    """Ids of the other cities of the smallest question of `task`, for each city: old, distinct, not itself.

    Raises AnalysisError when the world has too few training cities.
    """
    k = get_task(task).n_min - 1
    old = world.old()
    if len(old) < k + 1:
        raise AnalysisError(f"{task} needs {k} other training cities, and this world has {len(old)}")
    rng = np.random.default_rng(np.random.SeedSequence([seed, get_task(task).key]))
    rows = np.column_stack([np.arange(world.n), old[rng.integers(len(old), size=(world.n, k))]])
    while True:
        ordered = np.sort(rows, axis=1)
        repeated = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))
        if not len(repeated):
            return world.ids[rows[:, 1:]]
        rows[repeated, 1:] = old[rng.integers(len(old), size=(len(repeated), k))]


def extract(
    model: HookedQwen2,
    world: World,
    path: Path | str,
    *,
    hooks: Sequence[str | int] | None = None,
    tasks: Sequence[str] | None = None,
    sites: Sequence[str] = DEFAULT_SITES,
    batch: int = BATCH,
    attrs: Mapping[str, str | int] | None = None,
    advance: Callable[[int], object] | None = None,
) -> None:
    """Write the activations of every city of `world` to `path`, whole or not at all.

    hooks: hook names or layers as `Site.parse` takes them; by default `default_hooks`. Hooks with
    more axes than `[batch pos d_model]` are flattened. tasks: all by default.
    sites: `last_digit`, `delimiter`, or any span of
    `prompts.spans` within the question; the mean over its positions is stored. attrs: `run`, `step`,
    `model_sha256` (by default of the parameters). `advance(n)` is called after every n prompts.
    Raises UnknownName, or AnalysisError for hooks without positions, answer sites and broken models.
    """
    hooks = chosen_hooks(model, hooks)
    tasks = tuple(TASKS) if tasks is None else tasks
    digits = world.config.id_digits
    places = {task: _places(task, sites, digits) for task in tasks}
    for kind, given in (("hook", hooks), ("task", tasks), ("site", sites)):
        if not given or len(set(given)) != len(given):
            raise AnalysisError(f"each {kind} must be given once, got {', '.join(given) or 'none'}")
    texts, partners = {}, {}
    for task in tasks:
        if max(span.stop for span in places[task].values()) > city_prompt_length(task, digits):
            partners[task] = draw_partners(world, task, PARTNER_SEED)
            whole = np.column_stack([world.ids, partners[task]])
            texts[task] = get_task(task).prompt(whole, digits)
        else:
            texts[task] = get_task(task).city_prompt(world.ids, digits)
    positions = {
        task: {site: [span.start, span.stop] for site, span in found.items()}
        for task, found in places.items()
    }
    meta = {
        "model_sha256": model_digest(model),
        "model": model.settings,
        "prompts": json.dumps({task: texts[task][0] for task in tasks}),
        "positions": json.dumps(positions),
        **({"partner_seed": PARTNER_SEED} if partners else {}),
        **(attrs or {}),
    }
    with store_writer(path, world, hooks, tasks, sites, attrs=meta, partners=partners) as writer:
        for task in tasks:
            tokens, _ = Tokenizer().encode_rows(texts[task], end=False)
            shared = _shared(tokens, places[task].values())
            for start in range(0, world.n, batch):
                part = torch.from_numpy(tokens[start : start + batch].astype(np.int64))
                for (hook, site), values in _run(model, part, hooks, places[task], shared).items():
                    writer.put((hook, task, site), start, values)
                if advance:
                    advance(len(part))


def _shared(tokens: UInt8[np.ndarray, "city pos"], spans: Iterable[slice]) -> int:
    """Number of first positions that all prompts have in common and nobody reads."""
    same = (tokens == tokens[:1]).all(axis=0)
    return min(int(same.argmin()) if not same.all() else 0, *(span.start for span in spans))


def _places(task: str, sites: Iterable[str], id_digits: int) -> dict[str, slice]:
    """Site -> positions in the smallest question of `task`."""
    n = get_task(task).n_min
    found = {site: find_span(task, site, n, id_digits) for site in sites}
    if behind := [site for site in found if site.startswith("answer")]:
        hint = "the last place in a question is equals"
        raise AnalysisError(f"'{behind[0]}' lies behind the question", hint)
    return found


def chosen_hooks(model: TextModel, given: Sequence[str | int] | None) -> tuple[str, ...]:
    """Hook names or layers, as `Site.parse` takes them, by hook name; by default `default_hooks`.

    Raises UnknownName for a hook that is not there, AnalysisError for one without a vector a position.
    """
    if given is None:
        return default_hooks(model.cfg.n_layers)
    hooks = tuple(Site.parse(hook).hook for hook in given)
    for hook in hooks:
        one_of("hook", hook, model.hook_dict)
        if hook.endswith(NO_POSITION):
            raise AnalysisError(f"'{hook}' has no vector for each position", "choose hook_z or a hook_resid")
    return hooks


@torch.no_grad()
def _run(
    model: HookedQwen2, tokens: Tensor, hooks: Sequence[str], places: Mapping[str, slice], shared: int
) -> dict[tuple[str, str], Float[np.ndarray, "batch width"]]:
    """(hook, site) -> vectors of a batch of prompts of one length, whose first `shared` tokens are the same.

    Those tokens are run once, not once a prompt: most of a city's prompt is the same for all cities.
    """
    found: dict[tuple[str, str], np.ndarray] = {}

    def keep(activation: Tensor, hook: HookPoint) -> None:
        for site, span in places.items():
            at = slice(span.start - shared, span.stop - shared)
            vectors = reduce(activation[:, at].float(), "batch pos ... -> batch (...)", "mean")
            found[hook.name or "", site] = vectors.cpu().numpy()

    stop = stop_layer(hooks)
    tokens = tokens.to(model.W_E.device)
    past = None
    if shared:
        past = model.new_past()
        model(tokens[:1, :shared], stop_at_layer=model.cfg.n_layers if stop is None else stop, past=past)
        for layer in past:
            if layer.keys is not None and layer.values is not None:
                layer.keys, layer.values = (
                    repeat(kept, "1 head pos d_head -> batch head pos d_head", batch=len(tokens))
                    for kept in (layer.keys, layer.values)
                )
    gates = {flag: True for hook in hooks if (flag := model.closed_gate(hook))}
    fwd_hooks = [(hook, keep) for hook in hooks]
    with few_threads(model.cfg), model.flags(**gates), model.hooks(fwd_hooks=fwd_hooks):
        model(tokens[:, shared:], stop_at_layer=stop, past=past)
    return found
