"""Paths between parts: what one head tells another directly, and what each part tells every later one.

Path patching (Wang et al., arXiv 2211.00593): a head's output at a span is replaced by the source's in what
one later head reads for its queries, keys or values, or one MLP reads, and nowhere else; or in the final
residual stream alone ("answer"). Everything after the receiver is recomputed, and so are the receiver's
RMSNorm scale and softmax.

Edge attribution (Syed et al., arXiv 2310.10348) estimates all such effects at once:
(source's - base's write of the sender) . d score / d (input of the receiver).
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from cwr_mech.analysis.patching.batch import Batch
from cwr_mech.analysis.patching.cells import Edit
from cwr_mech.analysis.patching.forward import Forward
from cwr_mech.analysis.patching.layout import INTERCHANGE, Condition, layouts
from cwr_mech.analysis.patching.metrics import Answers
from cwr_mech.analysis.patching.pairs import Pairs
from cwr_mech.analysis.patching.sweep import roles_of
from cwr_mech.model.qwen2 import HookedQwen2

Reader = Literal["q", "k", "v", "mlp"]
READERS: tuple[Reader, ...] = get_args(Reader)


@dataclass(frozen=True)
class Path:
    """From head `sender` = (layer, head) at a span to `receiver`: a head's `reader`, a layer's MLP (reader
    "mlp", head None), or the answer (None)."""

    sender: tuple[int, int]
    span: str
    receiver: tuple[int, int | None] | None = None
    reader: Reader = "q"


def all_paths(model: HookedQwen2, span: str) -> list[Path]:
    """Every head to every later reader and to the answer; k and v are read by key/value heads. The MLP of the
    sender's own layer comes after it.
    """
    cfg, paths = model.cfg, []
    for sender in product(range(cfg.n_layers), range(cfg.n_heads)):
        paths.append(Path(sender, span))
        for layer, reader in product(range(sender[0], cfg.n_layers), READERS):
            if reader == "mlp":
                paths.append(Path(sender, span, (layer, None), reader))
            elif layer > sender[0]:
                heads = range(cfg.n_heads if reader == "q" else cfg.n_kv)
                paths += [Path(sender, span, (layer, head), reader) for head in heads]
    return paths


def patch_paths(
    model: HookedQwen2, pairs: Pairs, paths: Sequence[Path], *, conditions: Sequence[Condition] = INTERCHANGE
) -> Float64[np.ndarray, "condition path pair"]:
    """Logit differences with one path patched; NaN where a pair lacks the span or the source."""
    forward, metrics = Forward(model), ("logit_diff",)
    values = np.full((len(conditions), len(paths), len(pairs)), np.nan)
    for layout in layouts(pairs, metrics, roles=roles_of(conditions)):
        batch = Batch(forward, layout, metrics)
        for a, condition, base, source in batch.asked(conditions):
            for p, path in enumerate(paths):
                if layout.spans.get(path.span):
                    edit = path_edit(batch, path, base, source)
                    scores = batch.unpatched[condition.base]
                    if edit.positions:
                        scores = batch.score(batch.run_edit(edit, base), np.arange(len(layout.rows)))
                    values[a, p, layout.rows] = np.where(layout.has[condition.role], scores[0], np.nan)
    return values


@torch.no_grad()
def path_edit(batch: Batch, path: Path, base: Int[Tensor, "row"], source: Int[Tensor, "row"]) -> Edit:
    """The residual edit that patching a path amounts to: right after the receiver, or at the very end."""
    forward, record, answers = batch.forward, batch.record, batch.layout.answers
    span = list(batch.layout.spans[path.span])
    layer, head = path.sender
    change = record.heads_at("z", layer, source, span) - record.heads_at("z", layer, base, span)
    # What the sender writes more in the source run: d = (z_source - z_base) W_O[head].
    written = change[:, head] @ forward.blocks[layer].attn.W_O[head]
    if path.receiver is None:
        at = [p for p in span if p in answers.reads]
        there = [span.index(p) for p in at]
        # Direct to the logits: the final residual stream is x + d, all between stays as in the base run.
        return Edit(forward.last, tuple(at), record.at(forward.last, base, at) + written[:, there])
    to, other = path.receiver
    if other is None:
        # To an MLP: x' = x + MLP(mid + d) - MLP(mid); d itself does not stay in the stream.
        mid, after = (record.at(boundary, base, span) for boundary in (2 * to + 1, 2 * to + 2))
        return Edit(2 * to + 2, tuple(span), after + forward.mlp(to, mid + written) - forward.mlp(to, mid))
    # To a head: q, k or v of RMSNorm(x + d), for that head alone; the other two as in the base run.
    read = record.at(2 * to, base, span) + written
    q, k, v = forward.qkv(to, read, answers.tree.depth().to(forward.device)[span])
    visible = answers.tree.visible()
    final = to == forward.cfg.n_layers - 1
    reached = visible[:, span].any(1).tolist()
    wanted = list(answers.reads) if final else list(range(answers.tree.width))
    asking = span if path.reader == "q" else wanted
    queries = [p for p in asking if reached[p] and p in wanted]
    if not queries:
        return Edit(2 * to + 1, (), written[:, :0])
    keys, values = record.k[to, base], record.v[to, base]
    asked = record.heads_at("q", to, base, queries)
    if path.reader == "q":
        asked[:, other] = q[:, other][:, [span.index(p) for p in queries]]
        heads = [other]
    else:
        group = forward.cfg.n_heads // forward.cfg.n_kv
        heads = list(range(other * group, (other + 1) * group))
        kept, new = (keys, k) if path.reader == "k" else (values, v)
        kept[:, other][:, span] = new[:, other]
    z = forward.attend(asked, keys, values, visible[queries].to(forward.device))
    # mid' = mid + sum over reading heads of (z' - z) W_O; k and v serve all `group` query heads.
    moved = z - record.heads_at("z", to, base, queries)
    weight = forward.blocks[to].attn.W_O
    extra = torch.stack([moved[:, h] @ weight[h] for h in heads]).sum(0)
    return Edit(2 * to + 1, tuple(queries), record.at(2 * to + 1, base, queries) + extra)


def edge_attribution(model: HookedQwen2, pairs: Pairs) -> dict[tuple[str, str], float]:
    """Estimated effect of every edge on the logit difference, clean into corrupt, by sender and receiver:
    mean over pairs and summed over positions.

    Senders are "embed", "L.H" (heads) and "mlpL"; receivers, which come after their sender, "L.H.q", "L.H.k",
    "L.H.v", "mlpL" and "answer".
    """
    total: dict[tuple[str, str], float] = defaultdict(float)
    for layout in layouts(pairs, ("logit_diff",), roles=("clean", "corrupt")):
        answers = layout.answers.to(model.W_E.device)
        tokens = layout.tokens.to(model.W_E.device)
        base, source = (tokens[torch.from_numpy(layout.runs(role))] for role in ("corrupt", "clean"))

        def score(logits: Float[Tensor, "pair pos d_vocab"], answers: Answers = answers) -> Tensor:
            read = logits[:, list(answers.reads)]
            pair = torch.arange(len(read), device=read.device)
            return answers.score(("logit_diff",), read, pair, answers.at_first(read)).sum()

        for edge, effect in _edges(model, base, source, score).items():
            total[edge] += effect
    return {edge: effect / len(pairs) for edge, effect in total.items()}


def _edges(
    model: HookedQwen2,
    base: Int[Tensor, "pair pos"],
    source: Int[Tensor, "pair pos"],
    score: Callable[[Tensor], Tensor],
) -> dict[tuple[str, str], float]:
    """Sums over pairs and positions for every edge."""
    cfg = model.cfg
    writes = ["hook_embed"]
    reads = []
    for layer in range(cfg.n_layers):
        writes += [f"blocks.{layer}.attn.hook_result", f"blocks.{layer}.hook_mlp_out"]
        reads += [f"blocks.{layer}.attn.hook_{each}_input" for each in "qkv"]
        reads.append(f"blocks.{layer}.hook_mlp_in")
    reads.append(f"blocks.{cfg.n_layers - 1}.hook_resid_post")
    kept: dict[str, Tensor] = {}

    def keep(value: Tensor, hook: HookPoint) -> None:
        kept[str(hook.name)] = value

    with model.flags(use_attn_result=True, use_split_qkv_input=True, use_hook_mlp_in=True):
        with torch.no_grad():
            _, theirs = model.run_with_cache(source, names_filter=writes)
        with torch.enable_grad():
            logits = model.run_with_hooks(base, fwd_hooks=[(name, keep) for name in (*writes, *reads)])
            slopes = torch.autograd.grad(score(logits), [kept[name] for name in reads])
    senders, sends = [], []
    for name in writes:
        change = theirs[name] - kept[name].detach()
        for head, each in enumerate(change.unbind(2) if change.ndim == 4 else [change]):
            layer = int(name.split(".")[1]) if "." in name else -1
            label = "embed" if layer < 0 else f"{layer}.{head}" if change.ndim == 4 else f"mlp{layer}"
            senders.append((label, 2 * layer + (change.ndim != 4)))
            sends.append(each)
    receivers, takes = [], []
    for name, slope in zip(reads, slopes, strict=True):
        layer, kind = int(name.split(".")[1]), name.rsplit("hook_", 1)[1]
        for head, each in enumerate(slope.unbind(2) if slope.ndim == 4 else [slope]):
            ends = {"resid_post": ("answer", 2 * cfg.n_layers), "mlp_in": (f"mlp{layer}", 2 * layer + 1)}
            receivers.append(ends.get(kind, (f"{layer}.{head}.{kind[0]}", 2 * layer)))
            takes.append(each)
    # effect[s, r] = sum over pairs and positions of <write_s(source) - write_s(base), d score / d read_r>.
    effect = torch.einsum("sbpd,rbpd->sr", torch.stack(sends), torch.stack(takes)).double().cpu().numpy()
    return {
        (sender, receiver): float(effect[s, r])
        for s, (sender, sent) in enumerate(senders)
        for r, (receiver, read) in enumerate(receivers)
        if read > sent
    }
