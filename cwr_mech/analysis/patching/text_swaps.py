"""One entity swapped for another in a text: which states carry it to the next token?

Two texts of a prompt, a and b, have equally many tokens and differ in the entity alone. The state of b's run
at a place (component, layer, token position) is put into a's run. There is no right answer to score, so the
outcome is the distribution p of the token that follows the text:

    recovered = 1 - sum KL(p_b || p) / sum KL(p_b || p_a)      sums over pairs; 0 as in a's run, 1 as in b's

Where the file knows answers, `logit_diff` = logit(answer of b) - logit(answer of a) is recovered likewise,
(patched - a's run) / (b's run - a's run). Control: the state of a third entity, scored towards b.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from cwr_mech.activations.extract_texts import BATCH_TOKENS
from cwr_mech.activations.reader import ActivationStore
from cwr_mech.activations.texts import TokenRows
from cwr_mech.analysis.stats.intervals import bootstrap
from cwr_mech.analysis.study import stage
from cwr_mech.errors import AnalysisError, UnknownName
from cwr_mech.model.bridge import TextModel
from cwr_mech.results import Result, Row

COMPONENTS = ("resid_post", "attn_out", "mlp_out")
POSITIONS = ("span", "last_token", "text_end")
"""All tokens of the entity, its last one, and the last token of the text, where the next one is predicted."""
LEAST_PAIRS = 8
DRAWS = 400


class Cell(NamedTuple):
    """A place that is patched; layer -1 is the embedding."""

    component: str
    layer: int
    position: str


Swaps = Sequence[Int64[np.ndarray, "_ 3"]]
"""Rows [pair 3] of texts: a, b and the third entity; those of one array have one length."""


def draw_swaps(rows: TokenRows, n: int, rng: np.random.Generator) -> Swaps:
    """`n` pairs and their third entities among texts that differ in the entity's tokens alone.

    Raises AnalysisError where no three entities have equally many tokens.
    """
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for row, (start, stop) in enumerate(rows.span.tolist()):
        tokens = rows.tokens[row, : rows.lengths[row]].tolist()
        alike[(start, stop, *tokens[:start], *tokens[stop:])].append(row)
    members = [np.array(group) for group in alike.values() if len(group) >= 3]
    if not members:
        raise AnalysisError(
            "no three entities have names of equally many tokens in texts that are otherwise the same",
            "take a prompt made from a template",
        )
    sizes = np.array([len(group) for group in members])
    drawn = rng.multinomial(n, sizes / sizes.sum())
    return [
        np.stack([rng.choice(group, 3, replace=False) for _ in range(count)])
        for group, count in zip(members, drawn, strict=True)
        if count
    ]


def cells_of(n_layers: int, components: Sequence[str]) -> list[Cell]:
    """Every component, layer and position. Raises UnknownName."""
    for component in components:
        if component not in COMPONENTS:
            raise UnknownName("component of a text", component, COMPONENTS)
    return [
        Cell(component, layer, position)
        for component in components
        for layer in range(-1 if component == "resid_post" else 0, n_layers)
        for position in POSITIONS
    ]


class _Runs:
    """Recorded runs of some texts of one length, and runs patched with their states."""

    def __init__(self, model: TextModel, tokens: Int[Tensor, "text pos"], components: Sequence[str]) -> None:
        self.model, self.tokens, self.n = model, tokens, model.cfg.n_layers
        cells = [cell for cell in cells_of(self.n, components) if cell.position == POSITIONS[0]]
        names = {self.hook(cell) for cell in cells} | {self.before(layer) for layer in range(self.n)}
        self.acts: dict[str, Tensor] = {}
        self.logits = model.predict(tokens, {name: partial(self._keep, name) for name in names})

    def _keep(self, name: str, activation: Tensor) -> None:
        self.acts[name] = activation

    @staticmethod
    def before(layer: int) -> str:
        """The hook of the residual stream that a layer reads."""
        return f"blocks.{layer}.hook_resid_pre"

    def hook(self, cell: Cell) -> str:
        """The hook of a cell; the residual stream after a layer is read as that before the next one."""
        if cell.component == "resid_post" and cell.layer + 1 < self.n:
            return self.before(cell.layer + 1)
        return f"blocks.{cell.layer}.hook_{cell.component}"

    def patched(self, cell: Cell, source: "_Runs", at: slice) -> Float[Tensor, "text d_vocab"]:
        """Logits with the source's states at the positions `at` of a cell."""
        name = self.hook(cell)
        first = int(name.split(".")[1])

        def swap(activation: Tensor) -> Tensor:
            changed = activation.clone()
            changed[:, at] = source.acts[name][:, at]
            return changed

        return self.model.predict(self.tokens, {name: swap}, (first, self.acts[self.before(first)]))


def _kl(p: Float[Tensor, "pair d_vocab"], logits: Float[Tensor, "pair d_vocab"]) -> np.ndarray:
    """KL(p || softmax of logits) of each pair, in nats; `p` as log probabilities."""
    return (p.exp() * (p - logits.log_softmax(-1))).sum(-1).cpu().numpy().astype(np.float64)


@torch.no_grad()
def swap_scores(
    model: TextModel,
    rows: TokenRows,
    swaps: Swaps,
    cells: Sequence[Cell],
    advance: Callable[[int], object] = lambda n: None,
) -> Mapping[str, Float[np.ndarray, "..."]]:
    """Arrays over pairs, in the order of the groups.

    `kl_base`, `moved_base` [pair] of a's run towards b's; `kl`, `top` [source cell pair] of patched runs: the
    divergence from b's run, and whether the most probable token is b's. With answers `diff_a`, `diff_b`
    [pair] and `diff` [source cell pair].
    """
    found: dict[str, list[np.ndarray]] = defaultdict(list)
    components = tuple(dict.fromkeys(cell.component for cell in cells))
    for part in _batches(rows, swaps):
        length = int(rows.lengths[part[0, 0]])
        start, stop = rows.span[part[0, 0]].tolist()
        at = {"span": slice(start, stop), "last_token": slice(stop - 1, stop)}
        at["text_end"] = slice(length - 1, length)
        tokens = torch.from_numpy(rows.tokens[part, :length].astype(np.int64)).to(model.device)
        a, b, c = (_Runs(model, tokens[:, k], components) for k in range(3))
        own, other = a.logits, b.logits
        target = other.log_softmax(-1)
        found["kl_base"].append(_kl(target, own))
        found["moved_base"].append((own.argmax(-1) != other.argmax(-1)).cpu().numpy())
        asked = None if rows.answer is None else torch.from_numpy(rows.answer[part[:, :2]].astype(np.int64))

        def difference(logits: Tensor, asked: Any = asked) -> np.ndarray:
            picked = logits.cpu().gather(1, asked)
            return (picked[:, 1] - picked[:, 0]).numpy().astype(np.float64)

        if asked is not None:
            found["diff_a"].append(difference(own))
            found["diff_b"].append(difference(other))
        runs = [[a.patched(cell, source, at[cell.position]) for cell in cells] for source in (b, c)]
        found["kl"].append(np.array([[_kl(target, logits) for logits in each] for each in runs]))
        tops = [[(logits.argmax(-1) == other.argmax(-1)).cpu().numpy() for logits in each] for each in runs]
        found["top"].append(np.array(tops))
        if asked is not None:
            found["diff"].append(np.array([[difference(logits) for logits in each] for each in runs]))
        advance(len(part))
    return {name: np.concatenate(arrays, axis=-1) for name, arrays in found.items()}


def _batches(rows: TokenRows, swaps: Swaps) -> Iterator[Int64[np.ndarray, "pair 3"]]:
    for group in swaps:
        size = max(1, BATCH_TOKENS // (3 * int(rows.lengths[group[0, 0]])))
        for start in range(0, len(group), size):
            yield group[start : start + size]


def swap_rows(scores: Mapping[str, np.ndarray], cells: Sequence[Cell], rng: np.random.Generator) -> list[Row]:
    """A row a cell and metric: `recovered` with its interval over pairs, `null` of the unrelated entity, and
    `flipped`, the share of pairs whose most probable token became b's where a's was another. `logit_diff`
    counts pairs whose answers begin with different tokens, and needs LEAST_PAIRS of them.

    Raises AnalysisError where the two runs of the pairs predict the same.
    """
    base = scores["kl_base"]
    if base.sum() <= 0:
        raise AnalysisError("the next token does not depend on the entity in any pair: nothing to recover")
    moved = scores["moved_base"]
    metrics = {"kl": (1.0, -scores["kl"], base)}
    if "diff" in scores:
        whole = scores["diff_b"] - scores["diff_a"]
        if np.count_nonzero(whole) >= LEAST_PAIRS:
            apart = whole != 0
            metrics["logit_diff"] = (0.0, (scores["diff"] - scores["diff_a"])[..., apart], whole[apart])
    table: list[Row] = []
    for index, cell in enumerate(cells):
        flips = [float(top[index][moved].mean()) if moved.any() else None for top in scores["top"]]
        for metric, (offset, values, whole) in metrics.items():
            sizes = offset, values[:, index], whole
            interval = bootstrap(partial(_recovered, 0, *sizes), len(whole), rng, draws=DRAWS, unit="pair")
            table.append(
                {**cell._asdict(), "metric": metric, "n": len(whole), "recovered": interval.value}
                | {"lo": interval.lo, "hi": interval.hi}
                | {"null": _recovered(1, *sizes, np.arange(len(whole)))}
                | {"flipped": flips[0], "null_flipped": flips[1]}
            )
    return table


def _recovered(
    source: int,
    offset: float,
    values: Float[np.ndarray, "source pair"],
    whole: Float[np.ndarray, " pair"],
    picked: Int64[np.ndarray, " picked"],
) -> float:
    """offset + sum of a source's values / sum of the whole differences, over some pairs."""
    return float(offset + values[source, picked].sum() / whole[picked].sum())


def swaps_result(
    model: TextModel,
    store: ActivationStore,
    prompt: str,
    *,
    run: str,
    components: Sequence[str] = COMPONENTS,
    pairs: int = 64,
    seed: int = 42,
) -> Result:
    """Kind "patch_texts": table `cells` (`swap_rows`), over the texts of a prompt of an activation file.
    "all" alone stands for COMPONENTS.

    Raises UnknownName, or AnalysisError for too few pairs or names of different lengths.
    """
    if pairs < LEAST_PAIRS:
        raise AnalysisError(f"{pairs} pairs are too few", f"take {LEAST_PAIRS} at least")
    components = COMPONENTS if list(components) == ["all"] else components
    rows = store.token_rows(prompt)
    rng = np.random.default_rng([seed, 0])
    swaps = draw_swaps(rows, pairs, rng)
    cells = cells_of(model.cfg.n_layers, components)
    n = sum(map(len, swaps))
    with stage(f"swaps in {prompt}", n, "pairs") as advance:
        scores = swap_scores(model, rows, swaps, cells, advance)
    a, b = swaps[0][0, :2]
    kl, changed = (float(scores[name].mean()) for name in ("kl_base", "moved_base"))
    return Result(
        kind="patch_texts",
        params={"runs": [run], "task": prompt, "components": list(components), "pairs": n, "seed": seed}
        | {"n_layers": model.cfg.n_layers},
        values={"n": n, "kl": kl, "changed": changed},
        tables={"cells": swap_rows(scores, cells, np.random.default_rng([seed, 1]))},
        notes=[
            f"{n} pairs of texts that differ in the entity alone, such as {rows.texts[a]!r} and "
            f"{rows.texts[b]!r}. Between their runs the next token's distribution differs by {kl:.3g} nats, "
            f"and its most probable token in {changed:.0%} of them.",
            "Recovered: 1 - KL(source's run || patched) / KL(source's run || base), 0 as the base, 1 as the "
            "source; null: the state of a third entity. 95 %, bootstrap over pairs.",
        ],
    )
