"""The one reader of the residual stream at cities, in questions and in bare city prompts.

Where it comes as a by-product it is not read again: `extract` writes any hook into a file, the training
engine gives it beside gradients (`analysis.routing.gradients`), patched passes record it.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int, Integer
from torch import Tensor

from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.tasks.grammar import find_span
from cwr_mech.tasks.registry import get_task
from cwr_mech.tasks.tokenizer import Tokenizer


def residual_stream(
    model: HookedQwen2, tokens: Int[Tensor, "row pos"], layers: Iterable[int] | None = None
) -> Iterator[tuple[int, Float[Tensor, "row pos d_model"]]]:
    """(layer, residual stream after it) for some layers in ascending order; all from the embedding (-1) up by
    default. Runs no block above the last one asked for, and keeps gradients where they are on.
    """
    resid, done = model(tokens, stop_at_layer=0), 0
    for layer in sorted(set(range(-1, model.cfg.n_layers) if layers is None else layers)):
        if layer >= done:
            resid = model(resid, start_at_layer=done, stop_at_layer=layer + 1)
            done = layer + 1
        yield layer, resid


@torch.no_grad()
def residual_at(
    model: HookedQwen2,
    tokens: Integer[np.ndarray, "row pos"],
    row: Integer[np.ndarray, " mention"],
    position: Integer[np.ndarray, " mention"],
    layers: Iterable[int] | None = None,
    *,
    batch: int = 512,
) -> dict[int, Float32[np.ndarray, "mention d_model"]]:
    """The residual stream after each of some layers (see `residual_stream`) at mentions of cities.

    `row` (ascending) and `position` say where each mention stands in `tokens`: see `data.mentions`, and
    `city_prompts` for cities outside of questions.
    """
    wanted = sorted(set(range(-1, model.cfg.n_layers) if layers is None else layers))
    values = {layer: np.empty((len(row), model.cfg.d_model), dtype=np.float32) for layer in wanted}
    for start in range(0, len(tokens), batch):
        here = slice(*np.searchsorted(row, (start, start + batch)))
        at = row[here] - start, position[here]
        part = torch.from_numpy(tokens[start : start + batch].astype(np.int64)).to(model.W_E.device)
        for layer, resid in residual_stream(model, part, wanted):
            values[layer][here] = resid[at].cpu().numpy()
    return values


def city_prompts(
    task: str, ids: Integer[np.ndarray, " city"], position: str = "last_digit", id_digits: int = 4
) -> tuple[Int[np.ndarray, "city pos"], int]:
    """The beginning of a question about each city, `dist(c_1234,`, as tokens, and where the city is read.

    Nothing before a question's first city differs from one question to another, so what a model holds there
    is what it holds at the first city of every question. Raises UnknownName for another position.
    """
    tokens = Tokenizer().encode_rows(get_task(task).city_prompt(ids, id_digits), end=False)[0]
    return tokens.astype(np.int64), find_span(task, position, get_task(task).n_min, id_digits).start


def city_states(
    model: HookedQwen2,
    task: str,
    ids: Integer[np.ndarray, " city"],
    position: str = "last_digit",
    id_digits: int = 4,
    layers: Iterable[int] | None = None,
) -> Float64[np.ndarray, "layer city d_model"]:
    """The residual stream after each of some layers (see `residual_stream`) in bare prompts about cities.

    Several positions joined by "+" are put side by side, d_model of each.
    """
    prompts = [city_prompts(task, ids, name, id_digits) for name in position.split("+")]
    tokens, at = prompts[0][0], [place for _, place in prompts]  # the same tokens, whatever is read
    values = residual_at(
        model, tokens, np.repeat(np.arange(len(ids)), len(at)), np.tile(at, len(ids)), layers
    )
    return np.stack([value.reshape(len(ids), -1) for value in values.values()]).astype(np.float64)
