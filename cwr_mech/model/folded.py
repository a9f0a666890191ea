"""The arithmetic of HookedQwen2 without its hooks, arranged for decoding many questions on one core.

Same mathematics as `HookedQwen2.forward`; logits differ from its in rounding only (a test holds them to 1e-5
and, in float64, answers to the token). Where the time is won:

- gains of the norms, the scale of attention and the order of the rotary pairs are folded into the weights;
- q, k, v are one product, and keys and values go to where they stay;
- what prompts share at their beginning is computed once: sections of a prompt are read by distinct
  beginnings, which split up where prompts part (`sections`);
- past the keys and values of the last layer only a row's last position goes on.

Shapes below: n rows, t new positions, h query and kv key/value heads of width k, d = d_model, m = d_mlp.
"""

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cwr_mech.errors import ConfigError
from cwr_mech.model.arithmetic import neighbours, normalise, turn
from cwr_mech.model.layers import Block
from cwr_mech.model.qwen2 import HookedQwen2

MOST_FOLDED = 1 << 27
"""Parameters of the largest model whose weights are copied for this: half a gigabyte."""
TABLE = 1 << 10
"""Largest vocabulary for which the first layer's q, k, v are computed once a token of the vocabulary."""
SECTION, SPLIT = 48, 0.5
"""What a further section costs, in tokens: its calls, and a copy of its cache (measured)."""


@dataclass(frozen=True)
class Layer:
    """Folded weights of a layer."""

    qkv: Float[Tensor, "d hk2kvk"]
    bias: Float[Tensor, "hk2kvk"]
    o: Float[Tensor, "hk d"]
    gate: Float[Tensor, "d m"]
    up: Float[Tensor, "d m"]
    down: Float[Tensor, "m d"]
    window: int | None


class Folded:
    """A model's weights as decoding multiplies with them. Copies: made anew when they change."""

    @torch.no_grad()
    def __init__(self, model: HookedQwen2) -> None:
        self.cfg, self.embed = model.cfg, model.embed
        self._half = neighbours(self.cfg.d_head).to(model.W_E.device)
        self.layers = [self._layer(cast(Block, block)) for block in model.blocks]
        # logits = (x / rms) diag(gain) W_U.
        self.unembed = model.W_U * model.ln_final.w[:, None]
        dtype = model.W_E.dtype
        self.turn = torch.complex(model.rotary_cos.to(dtype), model.rotary_sin.to(dtype))
        # Before the first attention a position depends on nothing but its token.
        self.table: Tensor | None = None
        if self.layers and self.cfg.d_vocab <= TABLE:
            first = self.layers[0]
            self.table = torch.addmm(first.bias, self.normalise(model.W_E), first.qkv)

    def _layer(self, block: Block) -> Layer:
        attn, mlp, k = block.attn, block.mlp, self.cfg.d_head
        # RMSNorm(x) W + b = (x / rms) (diag(gain) W) + b; queries also carry the k^-1/2 of the scores.
        weights = attn.W_Q[..., self._half] * k**-0.5, attn.W_K[..., self._half], attn.W_V
        biases = attn.b_Q[..., self._half] * k**-0.5, attn.b_K[..., self._half], attn.b_V
        qkv = torch.cat([rearrange(weight, "h d k -> d (h k)") for weight in weights], 1)
        return Layer(
            qkv * block.ln1.w[:, None],
            torch.cat([bias.flatten() for bias in biases]),
            attn.W_O.flatten(0, 1),
            mlp.W_gate * block.ln2.w[:, None],
            mlp.W_in * block.ln2.w[:, None],
            mlp.W_out,
            attn.window,
        )

    def normalise(self, x: Float[Tensor, "N d"]) -> Float[Tensor, "N d"]:
        """RMSNorm without its gain."""
        return normalise(x, self.cfg.eps)[0]


def foldable(model: HookedQwen2) -> bool:
    """Whether `Folded` computes what this model does: nothing listens to it or changes it on the way."""
    parts = list(model.modules())
    listened = any(p._forward_hooks or p._forward_pre_hooks or "forward" in vars(p) for p in parts)
    wide = model.W_E.dtype in (torch.float32, torch.float64)
    return (
        type(model).forward is HookedQwen2.forward
        and wide
        and not listened
        and sum(p.numel() for p in model.parameters()) <= MOST_FOLDED
    )


def folded(model: HookedQwen2) -> Folded | None:
    """The model's weights for decoding; None where it must be run itself (see `foldable`)."""
    return Folded(model) if foldable(model) else None


class Reading:
    """Rows being read: keys and values of the positions seen so far, with room for more."""

    def __init__(self, weights: Folded, most: int, room: int) -> None:
        """At most `most` rows of `room` positions."""
        self.weights, self.seen, self.room = weights, 0, room
        cfg, like = weights.cfg, weights.unembed
        # Keys lie transposed: q k^T of many small matrices is twice as fast so.
        self.keys = [like.new_empty(most, cfg.n_kv, cfg.d_head, room) for _ in weights.layers]
        self.values = [like.new_empty(most, cfg.n_kv, room, cfg.d_head) for _ in weights.layers]

    def take(self, rows: Int[Tensor, "n"], into: "Reading") -> "Reading":
        """`into`, of the same room, goes on with these rows of this one.

        They may repeat (a beginning splits up) or be fewer (some have ended). Its memory is used again: new
        memory for every chunk costs more than the copy.
        """
        for ours, theirs in zip(self.keys + self.values, into.keys + into.values, strict=True):
            torch.index_select(ours, 0, rows, out=theirs[: len(rows)])
        into.seen = self.seen
        return into

    def read(self, tokens: Int[Tensor, "n t"], *, predict: bool = True) -> Float[Tensor, "n d_vocab"] | None:
        """Logits after each row's last new token; None without `predict`.

        Raises ConfigError for tokens that the vocabulary does not have, and for too many positions.
        """
        weights, cfg, (n, t) = self.weights, self.weights.cfg, tokens.shape
        if (end := self.seen + t) > cfg.n_ctx:
            raise ConfigError(f"{end} tokens are more than this model's {cfg.n_ctx} positions (n_ctx)")
        x = weights.embed(tokens).flatten(0, 1)
        for i, layer in enumerate(weights.layers):
            if i == 0 and weights.table is not None:
                qkv = weights.table[tokens.flatten()]
            else:
                qkv = torch.addmm(layer.bias, weights.normalise(x), layer.qkv)
            q = self._remember(i, qkv.view(n, t, -1, cfg.d_head))
            if i == cfg.n_layers - 1:
                if not predict:
                    break
                q, x = q[:, -1:], x.view(n, t, -1)[:, -1]
            z = self._attend(i, q, end)
            # mid = x + z W_O,  out = mid + (silu(n W_gate) * n W_up) W_down,  n = mid / rms.
            x = torch.addmm(x, z, layer.o)
            unit = weights.normalise(x)
            gate = F.silu(torch.mm(unit, layer.gate), inplace=True)
            x = torch.addmm(x, gate.mul_(torch.mm(unit, layer.up)), layer.down)
        self.seen = end
        return torch.mm(weights.normalise(x), weights.unembed) if predict else None

    def _remember(self, i: int, rows: Float[Tensor, "n t h2kv k"]) -> Float[Tensor, "n t h k"]:
        """Rotate queries and keys of layer `i`, keep keys and values, and return the queries."""
        h, kv, (n, t, _, _) = self.weights.cfg.n_heads, self.weights.cfg.n_kv, rows.shape
        here = slice(self.seen, self.seen + t)
        turn(rows[:, :, : h + kv], self.weights.turn[here])
        self.keys[i][:n, ..., here] = rows[:, :, h : h + kv].permute(0, 2, 3, 1)
        self.values[i][:n, :, here] = rows[:, :, h + kv :].transpose(1, 2)
        return rows[:, :, :h]

    def _attend(self, i: int, q: Float[Tensor, "n t h k"], end: int) -> Float[Tensor, "N hk"]:
        """What the heads of layer `i` bring to the last `t` positions."""
        cfg, (n, t, h, k) = self.weights.cfg, q.shape
        lines, group = n * cfg.n_kv, h // cfg.n_kv
        keys = self.keys[i][:n].view(lines, k, self.room)[..., :end]
        values = self.values[i][:n].view(lines, self.room, k)[:, :end]
        # P = softmax(q k^T + mask), z = P v. k^-1/2 is in q; `group` query heads share a key head.
        scores = torch.bmm(q.transpose(1, 2).reshape(lines, group * t, k), keys)
        window = self.weights.layers[i].window
        if t > 1 or (window is not None and end > window):
            scores.view(n, h, t, end).masked_fill_(_hidden(t, end, window).to(q.device), -torch.inf)
        z = torch.bmm(scores.softmax(-1), values)
        return z.view(n, h, t, k).transpose(1, 2).reshape(n * t, h * k)


def _hidden(t: int, end: int, window: int | None) -> Bool[Tensor, "t end"]:
    """True where one of the last `t` of `end` positions must not look: ahead, or back out of the window."""
    ones = torch.ones(t, end, dtype=torch.bool)
    ahead = ones.triu(end - t + 1)
    return ahead if window is None else ahead | ones.tril(end - t - window)


@dataclass(frozen=True)
class Section:
    """Positions `start` to before `stop` of sorted prompts.

    first: the first prompt of each distinct beginning up to `stop`; parent: the number that its beginning up
    to `start` has in the section before; number: which of the distinct beginnings each prompt has.
    """

    start: int
    stop: int
    first: Int[Tensor, "distinct"]
    parent: Int[Tensor, "distinct"]
    number: Int[Tensor, "n"]


def sections(prompts: Int[Tensor, "n pos"]) -> list[Section]:
    """Sorted prompts cut where reading by distinct beginnings costs least."""
    n, length = prompts.shape
    # new[i, p]: no earlier prompt is like prompt i up to position p.
    new = torch.ones(n, length, dtype=torch.bool, device=prompts.device)
    new[1:] = (prompts[1:] != prompts[:-1]).cummax(1).values
    distinct = new.sum(0).tolist()
    # best[j]: the least cost of the first j positions, and where their last section begins.
    best: list[tuple[float, int]] = [(0, 0)]
    for stop in range(1, length + 1):
        count = distinct[stop - 1]
        costs = [count * (stop - start + SPLIT * (start > 0)) + SECTION for start in range(stop)]
        best.append(min((best[start][0] + cost, start) for start, cost in enumerate(costs)))
    number, found, stop = new.cumsum(0) - 1, list[Section](), length
    while stop:
        start, first = best[stop][1], new[:, stop - 1].nonzero()[:, 0]
        parent = number[first, start - 1] if start else torch.zeros_like(first)
        found.append(Section(start, stop, first, parent, number[:, stop - 1]))
        stop = start
    return found[::-1]
