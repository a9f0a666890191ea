"""Grafts: part of a fine-tuning's update put into its base, and states of one model run through the other.

parameter graft  base + alpha (tuned - base) in some modules, the base elsewhere: task vectors (Ilharco et al.
                 2023, arXiv 2212.04089), module by module
state graft      the residual stream of one model at the tokens at which new cities are read, in the other
                 model's run of the same question: what that state alone carries, whatever the lower blocks
                 write elsewhere
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from cwr_mech.activations.site import Site
from cwr_mech.analysis.anatomy.modules import sides
from cwr_mech.analysis.transfer.answers import Answerer
from cwr_mech.data.mentions import mentions_of
from cwr_mech.data.rows import Rows
from cwr_mech.model.evaluation import BATCH, Answers, answer_rows
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.training.parameters import module_of

ALPHAS = (0.25, 0.5, 0.75, 1.25)
"""Factors of the scaled grafts; 0 is the base and 1 the whole update."""


@dataclass(frozen=True)
class Graft:
    """One graft: `kind` (parameters, scaled, state, whole, condition or base), a name, the modules it takes
    from the tuned model, and the factor of their update. A state graft runs these modules of the tuned model.
    """

    kind: str
    name: str
    modules: tuple[str, ...]
    alpha: float = 1.0


def graft(base: HookedQwen2, tuned: HookedQwen2, modules: Collection[str], alpha: float = 1.0) -> HookedQwen2:
    """A copy of `base` with `alpha` times the update of `modules`; at 1 their weights are `tuned`'s bits."""
    mixed = dict(base.named_parameters())
    for name, after in tuned.named_parameters():
        if module_of(name) in modules:
            mixed[name] = after if alpha == 1 else mixed[name] + alpha * (after - mixed[name])
    copy = HookedQwen2(base.config, seed=None).eval()
    copy.load_state_dict({name: value.detach() for name, value in mixed.items()}, strict=False)
    return copy


def planned(modules: tuple[str, ...], layer: int) -> Iterator[Graft]:
    """Both sides, every single module, the whole update scaled, and both state grafts at `layer`."""
    both = sides(modules, layer)
    for name, side in both.items():
        yield Graft("parameters", f"{name} side", side)
    for module in modules:
        yield Graft("parameters", module, (module,))
    for alpha in ALPHAS:
        yield Graft("scaled", f"{alpha:g} of the update", modules, alpha)
    yield Graft("state", "tuned state in the base", both["city"])
    yield Graft("state", "base state in the tuned", both["answer"])


def answerer(
    graft_: Graft,
    base: HookedQwen2,
    tuned: HookedQwen2,
    site: Site,
    ids: Int[np.ndarray, "c"],
    id_digits: int,
) -> Answerer:
    """What answers questions for a graft."""
    if graft_.kind != "state":
        return partial(answer_rows, graft(base, tuned, graft_.modules, graft_.alpha))
    lower, upper = (tuned, base) if "E" in graft_.modules else (base, tuned)
    return partial(state_answers, lower, upper, site, ids=ids, id_digits=id_digits)


@torch.no_grad()
def state_answers(
    lower: HookedQwen2,
    upper: HookedQwen2,
    site: Site,
    rows: Rows,
    *,
    ids: Int[np.ndarray, " city"],
    id_digits: int,
) -> Answers:
    """Answers of `upper` whose residual stream at `site` (one token position, or several joined by "+") is
    that of `lower` at every mention of the cities `ids`, in the same question.
    """
    n = len(rows)
    texts, strict, lenient = np.empty(n, dtype=object), np.empty(n), np.empty(n)
    order = np.argsort(rows.answer_start, kind="stable")
    cuts = [0, *(np.flatnonzero(np.diff(rows.answer_start[order])) + 1), len(order)]
    for start, stop in pairwise(cuts):  # questions of one length at a time
        for at in range(start, stop, BATCH):
            picked = order[at : min(at + BATCH, stop)]
            some = rows.take(picked)
            length = int(some.answer_start[0])
            prompts = torch.from_numpy(some.tokens[:, :length].astype(np.int64))
            at_each = [mentions_of(some, name, ids, id_digits) for name in site.position.split("+")]
            row, position = (np.concatenate([getattr(m, k) for m in at_each]) for k in ("row", "position"))
            spot = torch.from_numpy(row), torch.from_numpy(position)
            stream = lower(prompts, stop_at_layer=site.number() + 1)[spot]
            with upper.hooks(fwd_hooks=[(site.hook, partial(_put, stream, spot, length))]):
                found = answer_rows(upper, some, batch=len(some))
            texts[picked], strict[picked], lenient[picked] = found.texts, found.strict, found.lenient
    return Answers(tuple(texts), strict, lenient)


def _put(
    stream: Tensor, spot: tuple[Tensor, Tensor], length: int, resid: Tensor, hook: object = None
) -> Tensor:
    """The residual stream of whole prompts with `stream` in the place of what stands at `spot`."""
    if resid.shape[1] == length:  # the prompt; later calls bring one new token of the answer
        resid = resid.clone()
        resid[spot] = stream
    return resid
