"""The arithmetic of a patched forward pass: record whole runs once, then continue from any edited residual.

Residual boundaries are numbered 2L (before layer L), 2L + 1 (between its attention and MLP) and 2 n_layers
(after the last): every patch of every component becomes new residual values at a boundary, at some
positions. `Forward.resume` goes on from there and computes only what can differ: positions that attend to an
edited one, queries of the read positions alone in the last layer, and nothing below the boundary. All other
keys, values, queries and residuals come from the record, so the result is that of one full forward.

A run is a prompt with teacher-forced answers hanging on it as branches: every branch continues the prompt
and sees no other branch, so one pass serves all answers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cwr_mech.errors import ConfigError
from cwr_mech.model.arithmetic import rms, spread
from cwr_mech.model.layers import Block, LayerCache
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.model.rotary import rotate


@dataclass(frozen=True)
class Tree:
    """Positions of a run: `prompt` tokens, then one block of tokens for each branch."""

    prompt: int
    branches: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Number of tokens of a run."""
        return self.prompt + sum(self.branches)

    def branch_start(self, branch: int) -> int:
        """Where a branch's first token stands."""
        return self.prompt + sum(self.branches[:branch])

    def depth(self) -> Int[Tensor, "pos"]:
        """The position each token has for the model: branches go on counting from the prompt's end."""
        parts = [torch.arange(self.prompt), *(self.prompt + torch.arange(n) for n in self.branches)]
        return torch.cat(parts)

    def visible(self) -> Bool[Tensor, "pos pos"]:
        """True where the token of a row may look at the token of a column."""
        owner = torch.cat([torch.full((n,), i) for i, n in enumerate((self.prompt, *self.branches))])
        # Causal, and i sees j only if j is of the prompt (owner 0) or of i's own branch.
        same = (owner[:, None] == owner[None]) | (owner[None] == 0)
        return same & torch.ones(self.width, self.width, dtype=torch.bool).tril()


@dataclass(frozen=True)
class Record:
    """What is kept of some runs: residuals at all boundaries, rotated queries and keys, values, outputs z."""

    resid: Float[Tensor, "boundary run pos d_model"]
    q: Float[Tensor, "layer run pos head d_head"]
    k: Float[Tensor, "layer run kv_head pos d_head"]
    v: Float[Tensor, "layer run kv_head pos d_head"]
    z: Float[Tensor, "layer run pos head d_head"]

    def at(
        self, boundary: int, rows: Int[Tensor, "row"], positions: Sequence[int]
    ) -> Float[Tensor, "row picked d_model"]:
        """Residuals of some runs at some positions."""
        return self.resid[boundary][
            rows[:, None], torch.tensor(list(positions), dtype=torch.int64, device=rows.device)
        ]

    def heads_at(
        self, name: Literal["q", "z"], layer: int, rows: Int[Tensor, "row"], positions: Sequence[int]
    ) -> Float[Tensor, "row head picked d_head"]:
        """Queries or attention outputs of some runs at some positions."""
        kept = (self.q if name == "q" else self.z)[layer]
        return kept[
            rows[:, None], torch.tensor(list(positions), dtype=torch.int64, device=rows.device)
        ].transpose(1, 2)


class Forward:
    """A model's weights laid out for continued passes, and the passes. Hooks on the model do not fire here.

    The weights are copied when this is made: make a new one after changing the model.
    """

    def __init__(self, model: HookedQwen2) -> None:
        self.model, self.cfg = model, model.cfg
        self.device = model.W_E.device
        self.blocks = [cast(Block, block) for block in model.blocks]
        self._qkv: list[Tensor] = []
        self._bias: list[Tensor] = []
        self._gate_in: list[Tensor] = []
        with torch.no_grad():
            for block in self.blocks:
                attn, mlp = block.attn, block.mlp
                weights = [rearrange(w, "h m d -> m (h d)") for w in (attn.W_Q, attn.W_K, attn.W_V)]
                self._qkv.append(torch.cat(weights, 1).contiguous())
                self._bias.append(torch.cat([b.flatten() for b in (attn.b_Q, attn.b_K, attn.b_V)]).clone())
                self._gate_in.append(torch.cat([mlp.W_gate, mlp.W_in], 1).contiguous())

    @property
    def last(self) -> int:
        """The boundary after the last layer."""
        return 2 * self.cfg.n_layers

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMSNorm, as in the model."""
        return x / rms(x, self.cfg.eps) * weight

    def mlp_post(self, layer: int, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_mlp"]:
        """The MLP's neurons (`mlp.hook_post`) given the residual stream before it."""
        # post = silu(n W_gate) * (n W_in), n = RMSNorm(resid): both products at once.
        both = self.norm(resid, self.blocks[layer].ln2.w) @ self._gate_in[layer]
        gate, linear = both.chunk(2, dim=-1)
        return F.silu(gate, inplace=True).mul_(linear) if not both.requires_grad else F.silu(gate) * linear

    def mlp(self, layer: int, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The MLP's output given the residual stream before it."""
        return self.mlp_post(layer, resid) @ self.blocks[layer].mlp.W_out

    def qkv(
        self, layer: int, resid: Float[Tensor, "run pos d_model"], depth: Int[Tensor, "pos"]
    ) -> tuple[
        Float[Tensor, "run head pos d_head"],
        Float[Tensor, "run kv_head pos d_head"],
        Float[Tensor, "run kv_head pos d_head"],
    ]:
        """Rotated queries and keys, and values, of the residual stream at positions of these depths."""
        # [q k v] = RMSNorm(resid) [W_Q W_K W_V] + [b_Q b_K b_V].
        flat = torch.addmm(
            self._bias[layer], self.norm(resid, self.blocks[layer].ln1.w).flatten(0, 1), self._qkv[layer]
        )
        n, kv, d = self.cfg.n_heads, self.cfg.n_kv, self.cfg.d_head
        heads = flat.view(*resid.shape[:2], n + 2 * kv, d).transpose(1, 2)
        turned = rotate(heads[:, : n + kv], self.model.rotary_cos[depth, 0], self.model.rotary_sin[depth, 0])
        return turned[:, :n], turned[:, n:], heads[:, n + kv :]

    def attend(
        self,
        q: Float[Tensor, "run head query d_head"],
        k: Float[Tensor, "run kv_head pos d_head"],
        v: Float[Tensor, "run kv_head pos d_head"],
        visible: Bool[Tensor, "query pos"],
    ) -> Float[Tensor, "run head query d_head"]:
        """Attention outputs z."""
        return self.pattern(q, k, visible) @ self.spread(v)

    def pattern(self, q: Tensor, k: Tensor, visible: Bool[Tensor, "query pos"]) -> Tensor:
        """Attention pattern `[run head query pos]`."""
        # A = softmax(q k^T / sqrt(d_head)), minus infinity where a query must not look; z = A v.
        scores = (q * self.cfg.d_head**-0.5) @ self.spread(k).transpose(-1, -2)
        return scores.masked_fill_(~visible, -torch.inf).softmax(-1)

    def spread(self, shared: Float[Tensor, "run kv_head pos d_head"]) -> Float[Tensor, "run head pos d_head"]:
        """Keys or values, repeated for the query heads that share them."""
        return spread(shared, self.cfg.n_heads // self.cfg.n_kv)

    def write(self, layer: int, z: Float[Tensor, "run head pos d_head"]) -> Float[Tensor, "run pos d_model"]:
        """What attention outputs add to the residual stream."""
        # sum over heads of z_h W_O[h], as one product of the concatenated heads.
        return rearrange(z, "r h p d -> r p (h d)") @ self.blocks[layer].attn.W_O.flatten(0, 1)

    def layers(
        self, resid: Tensor, depth: Int[Tensor, "pos"], visible: Bool[Tensor, "pos pos"]
    ) -> Iterator[tuple[Tensor, ...]]:
        """Of every layer in turn, on whole runs: q, k, v and z, and boundaries 2L + 1 and 2L + 2."""
        for layer in range(self.cfg.n_layers):
            q, k, v = self.qkv(layer, resid, depth)
            z = self.attend(q, k, v, visible)
            # mid = x + Attn(x), x' = mid + MLP(mid).
            mid = resid + self.write(layer, z)
            resid = mid + self.mlp(layer, mid)
            yield q, k, v, z, mid, resid

    def logits(self, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
        """Logits of the last boundary's residual stream."""
        return self.norm(resid, self.model.ln_final.w) @ self.model.W_U

    @torch.no_grad()
    def record(self, tokens: Int[Tensor, "run pos"], tree: Tree) -> Record:
        """Run whole trees and keep what `resume` needs.

        Raises ConfigError where a text is longer than the window of a sliding layer.
        """
        depth, visible = tree.depth().to(self.device), tree.visible().to(self.device)
        if self.cfg.window is not None and int(depth.max()) >= self.cfg.window:
            raise ConfigError(
                f"questions of {int(depth.max()) + 1} tokens are longer than the sliding window of "
                f"{self.cfg.window}"
            )
        boundaries, kept = [self.model.W_E[tokens]], []
        for q, k, v, z, mid, resid in self.layers(boundaries[0], depth, visible):
            kept.append((q.transpose(1, 2), k, v, z.transpose(1, 2)))
            boundaries += [mid, resid]
        return Record(torch.stack(boundaries), *(torch.stack(each) for each in zip(*kept, strict=True)))

    @torch.no_grad()
    def resume(
        self,
        record: Record,
        tree: Tree,
        base: Int[Tensor, "row"],
        boundary: int,
        positions: Sequence[int],
        values: Float[Tensor, "row changed d_model"],
        reads: Sequence[int],
        past: list[LayerCache] | None = None,
    ) -> Float[Tensor, "row read d_vocab"]:
        """Logits at `reads` of runs `base`, whose residual at `boundary` now has `values` at `positions`.

        With `past`, every layer's keys and values of the edited runs are put there, one entry a layer, so
        that decoding can go on from them.
        """
        visible, depth = tree.visible(), tree.depth().to(self.device)
        columns, x = list(positions), values
        if past is not None:
            for layer in range((boundary + 1) // 2):
                past[layer].extend(record.k[layer, base], record.v[layer, base])
        for here in range(boundary, self.last):
            layer, is_mid = divmod(here, 2)
            final = layer == self.cfg.n_layers - 1
            if is_mid:
                if final:
                    columns, x = _keep(columns, x, reads)
                # Boundary 2L + 1 -> 2L + 2 acts on each position alone: x' = x + MLP(x) where x was changed.
                x = x + self.mlp(layer, x)
                continue
            q, k, v = self.qkv(layer, x, depth[columns])
            keys, values_ = record.k[layer, base], record.v[layer, base]
            # Indexing by `base` has made copies: the record stays as it is.
            keys[:, :, columns], values_[:, :, columns] = k, v
            if past is not None:
                past[layer].extend(keys, values_)
            reached = visible[:, columns].any(1)
            # z_i = sum_j A_ij v_j changes for every i that sees a changed j; other positions keep the record.
            queries = [p for p in (reads if final else range(tree.width)) if reached[p]]
            if columns != queries:
                q, x = self._merge(record, here, base, columns, queries, q, x)
            z = self.attend(q, keys, values_, visible[queries].to(self.device))
            columns, x = queries, x + self.write(layer, z)
        columns, x = _keep(columns, x, reads)
        resid = record.at(self.last, base, reads)
        resid[:, [list(reads).index(p) for p in columns]] = x
        return self.logits(resid)

    @staticmethod
    def _merge(
        record: Record,
        boundary: int,
        base: Int[Tensor, "row"],
        columns: list[int],
        queries: list[int],
        q: Float[Tensor, "row head changed d_head"],
        x: Float[Tensor, "row changed d_model"],
    ) -> tuple[Float[Tensor, "row head query d_head"], Float[Tensor, "row query d_model"]]:
        """Queries and residuals at `queries`: the new ones at `columns`, the recorded ones elsewhere."""
        from_, to = _shared(columns, queries)
        if len(to) == len(queries):
            return q[:, :, from_], x[:, from_]
        all_q, resid = record.heads_at("q", boundary // 2, base, queries), record.at(boundary, base, queries)
        all_q[:, :, to], resid[:, to] = q[:, :, from_], x[:, from_]
        return all_q, resid


def _shared(columns: Sequence[int], wanted: Sequence[int]) -> tuple[list[int], list[int]]:
    """Places in `columns`, and places in `wanted`, of what both hold."""
    both = [(i, wanted.index(p)) for i, p in enumerate(columns) if p in wanted]
    return [i for i, _ in both], [j for _, j in both]


def _keep(columns: list[int], x: Tensor, wanted: Sequence[int]) -> tuple[list[int], Tensor]:
    """The positions that are wanted, and their values."""
    from_, _ = _shared(columns, wanted)
    return [columns[i] for i in from_], x[:, from_] if len(from_) < len(columns) else x
