"""From a model that reads text to an activation file: what it holds about each entity in each prompt.

Texts are run in batches of like length within a budget of tokens. What is done lies beside the file in
`FILE.partial/`, plain arrays on the disk, so memory holds one batch, and a run that was killed goes on from
its last batch. The whole file is put together at the end.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count, product
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor

from cwr_mech.activations.extract import chosen_hooks, model_digest
from cwr_mech.activations.reader import ActivationStore
from cwr_mech.activations.texts import EMPTY, TEXT_SITES, TokenRows
from cwr_mech.activations.writer import CHUNK_ROWS, store_writer
from cwr_mech.artifacts import folder_lock, read_json, write_json
from cwr_mech.errors import AnalysisError, ArtifactError, one_of
from cwr_mech.model.bridge import TextModel
from cwr_mech.world.cities import World

BATCH_TOKENS = 4096
FLUSH_SECONDS = 5.0


def extract_texts(
    model: TextModel,
    entities: World,
    prompts: Mapping[str, TokenRows],
    path: Path | str,
    *,
    hooks: Sequence[str | int] | None = None,
    sites: Sequence[str] = TEXT_SITES[:1],
    batch_tokens: int = BATCH_TOKENS,
    attrs: Mapping[str, str | int] | None = None,
    advance: Callable[[int], object] | None = None,
) -> None:
    """Write the activations at every entity in every prompt to `path`, whole or not at all.

    hooks: hook names or layers as `Site.parse` takes them; the residual stream at all layers by default.
    sites: of TEXT_SITES. attrs: `run`, `folder`, `model_sha256` (by default of the parameters).
    `advance(n)` is called after every n texts, those of an earlier call that was killed included.
    Raises UnknownName, or AnalysisError for hooks without positions and broken models.
    """
    path = Path(path)
    chosen = chosen_hooks(model, hooks)
    if "unembed.hook_out" in chosen:
        raise AnalysisError("logits are not kept", "take the layer final, and multiply by the model's W_U")
    for site in sites:
        one_of("site of a text", site, TEXT_SITES)
    about: dict[str, str | int] = {"step": 0, "tokenizer_sha256": "", **(attrs or {})}
    if not about.get("model_sha256"):
        about["model_sha256"] = model_digest(model)
    about["model"] = model.settings
    about["prompts"] = json.dumps({name: rows.texts[0] for name, rows in prompts.items()}, ensure_ascii=False)
    key = _key(entities, prompts, chosen, sites, str(about["model_sha256"]), batch_tokens)
    folder = path.with_name(f"{path.name}.partial")
    with folder_lock(folder):
        partial = _Partial(folder, key)
        for name, rows in prompts.items():
            _fill(model, name, rows, chosen, sites, batch_tokens, partial, advance or (lambda n: None))
        widths = {hook: partial.open(hook, next(iter(prompts)), sites[0]).shape[1] for hook in chosen}
        size = 4 * entities.n * len(prompts) * len(sites) * sum(widths.values())
        with store_writer(path, entities, chosen, list(prompts), sites, attrs=about, n_bytes=size) as writer:
            for name, rows in prompts.items():
                writer.put_texts(name, rows)
                for hook, site in product(chosen, sites):
                    values = partial.open(hook, name, site)
                    for start in range(0, entities.n, CHUNK_ROWS):
                        part = np.asarray(values[start : start + CHUNK_ROWS])
                        writer.put((hook, name, site), start, part)
        shutil.rmtree(folder, ignore_errors=True)


def extract_again(
    model: TextModel,
    store: ActivationStore,
    path: Path,
    *,
    attrs: Mapping[str, str | int] | None = None,
    advance: Callable[[int], object] | None = None,
) -> None:
    """Write what another model of the same vocabulary holds about the texts of a file, at the same places.

    Raises AnalysisError for a file of our questions.
    """
    world, prompts = store.world(), {task: store.token_rows(task) for task in store.tasks}
    extract_texts(
        model, world, prompts, path, hooks=store.hooks, sites=store.sites, attrs=attrs, advance=advance
    )


def holds(
    store: ActivationStore, prompts: Mapping[str, TokenRows], hooks: Sequence[str], sites: Sequence[str]
) -> bool:
    """Whether a file holds these texts, read at these hooks and sites."""
    if not store.reads_text or not set(hooks) <= set(store.hooks) or not set(sites) <= set(store.sites):
        return False
    return set(prompts) <= set(store.tasks) and all(
        prompts[name].same(store.token_rows(name)) for name in prompts
    )


def beside(held: Mapping[str, TokenRows], given: Mapping[str, TokenRows]) -> dict[str, TokenRows]:
    """The prompts that a file holds, and of templates those that it does not, by the next free numbers."""
    found = dict(held)
    for rows in given.values():
        if not any(rows.same(one) for one in found.values()):
            found[next(name for n in count(1) if (name := f"template{n}") not in found)] = rows
    return found


def _key(
    entities: World,
    prompts: Mapping[str, TokenRows],
    hooks: Sequence[str],
    sites: Sequence[str],
    model_sha256: str,
    batch_tokens: int,
) -> str:
    """Digest of everything that the arrays of a partial folder depend on."""
    digest = hashlib.sha256(
        json.dumps([entities.sha256, list(hooks), list(sites), model_sha256, batch_tokens]).encode()
    )
    for name, rows in prompts.items():
        digest.update(name.encode() + rows.tokens.tobytes() + rows.span.tobytes())
    return digest.hexdigest()


class _Partial:
    """Arrays on the disk that are being filled, and how many texts of each prompt are done."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key
        self.done: dict[str, int] = {}
        self._arrays: dict[str, np.memmap] = {}
        self._shown = time.monotonic()
        try:
            state = read_json(folder / "progress.json")
        except ArtifactError:
            state = {}
        if state.get("key") == key and isinstance(state.get("done"), dict):
            self.done = {str(name): int(n) for name, n in state["done"].items()}
            return
        for left in folder.glob("*.npy"):
            left.unlink()

    def open(self, hook: str, prompt: str, site: str, shape: tuple[int, int] | None = None) -> np.memmap:
        """One array [entity width]; made where it is missing and `shape` says how large."""
        name = f"{hook}--{prompt}--{site}.npy"
        if name not in self._arrays:
            place = self.folder / name
            if shape is not None and not place.exists():
                np.lib.format.open_memmap(place, "w+", np.float32, shape).flush()
            self._arrays[name] = np.lib.format.open_memmap(place, "r+")
        return self._arrays[name]

    def finished(self, prompt: str, n: int, *, last: bool) -> None:
        """Note that `n` texts of a prompt are done; put everything on the disk now and then."""
        self.done[prompt] = n
        if not last and time.monotonic() - self._shown < FLUSH_SECONDS:
            return
        for array in self._arrays.values():
            array.flush()
        write_json(self.folder / "progress.json", {"key": self.key, "done": self.done})
        self._shown = time.monotonic()


def _batches(rows: TokenRows, budget: int) -> Iterator[Int64[np.ndarray, " row"]]:
    """Rows of texts that are run together: of like length, at most `budget` tokens with their padding."""
    order = np.argsort(-rows.lengths, kind="stable")  # the longest first: what does not fit fails at once
    start = 0
    while start < len(order):
        n = max(1, budget // int(rows.lengths[order[start]]))
        yield order[start : start + n]
        start += n


def _fill(
    model: TextModel,
    name: str,
    rows: TokenRows,
    hooks: Sequence[str],
    sites: Sequence[str],
    budget: int,
    partial: _Partial,
    advance: Callable[[int], object],
) -> None:
    """Run the texts of a prompt that are not done yet."""
    n, already, done = len(rows.texts), partial.done.get(name, 0), 0
    for batch in _batches(rows, budget):
        done += len(batch)
        if done > already:
            for (hook, site), values in run_texts(model, rows, batch, hooks, sites).items():
                if not np.isfinite(values).all():
                    raise AnalysisError(
                        f"activations at {hook} for {name} are not finite", "the model's weights are broken"
                    )
                partial.open(hook, name, site, (n, values.shape[1]))[batch] = values
            partial.finished(name, done, last=done == n)
        advance(len(batch))


@torch.no_grad()
def run_texts(
    model: TextModel,
    rows: TokenRows,
    batch: Int64[np.ndarray, " row"],
    hooks: Sequence[str],
    sites: Sequence[str],
) -> dict[tuple[str, str], Float[np.ndarray, "row width"]]:
    """(hook, site) -> vectors of some texts, which are padded on the right: no token looks at a later one."""
    width = int(rows.lengths[batch].max())
    device = model.device
    given = np.where(rows.tokens[batch, :width] == EMPTY, 0, rows.tokens[batch, :width]).astype(np.int64)
    weights = {
        site: torch.from_numpy(rows.weights(site, batch)[:, :width].astype(np.float32)).to(device)
        for site in sites
    }
    found: dict[tuple[str, str], np.ndarray] = {}

    def keep(hook: str, activation: Tensor) -> None:
        flat = rearrange(activation.float(), "row pos ... -> row pos (...)")
        for site, weight in weights.items():
            found[hook, site] = torch.einsum("rp,rpw->rw", weight, flat).cpu().numpy()

    model.read(torch.from_numpy(given).to(device), {hook: partial(keep, hook) for hook in hooks})
    return found
