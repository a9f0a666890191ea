"""The training step on the CPU: loss and gradient of a Qwen2 transformer without autograd.

Same mathematics as `HookedQwen2` (a test holds loss and every gradient to 1e-5), arranged for speed on one
core. Where the time is won (measured shares are in reports/LOG.md):

- what rows have in common at their beginning is computed once, the last token of a row not at all, and there
  is no padding outside attention (`cwr_mech.training.packing`);
- a batch is one pack of a few thousand tokens, or several: many small calls cost more than they save in
  the cache, as long as freed memory is kept;
- before the first attention a token's activations depend on nothing but the token: a table of 98 rows;
- RMSNorm gains, the attention scale and the order of the rotary pairs are folded into the weights once a
  step, which leaves no element-wise work for them on activations (and rotary becomes one complex product);
- attention is two batched products around a softmax, which beats the fused kernel at these short lengths;
- after the last attention only positions whose prediction counts are computed;
- all parameters live in one flat vector, so that clipping and AdamW are a handful of calls.

With `bfloat16` the blocks' products, and what stands between those of the MLP, are in bfloat16 (sums within a
product are float32's, as the processor makes them); residual stream, norms, attention, unembedding, loss, and
the sums of gradients stay float32, and so do products too small to gain.

Shapes below: N tokens of a pack, h query and kv key/value heads of width k, d = d_model, m = d_mlp.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from cwr_mech.data.rows import Places, Tokens
from cwr_mech.model.arithmetic import neighbours, normalise, turn
from cwr_mech.model.memory import keep_memory
from cwr_mech.training.blocks import Block, Heads
from cwr_mech.training.packing import PACK_TOKENS, Pack, packs
from cwr_mech.training.parameters import FlatParameters

KEPT_NUMBERS = 1 << 26
"""Activations of a pack that are kept for the backward pass: a quarter of a gigabyte."""
BFLOAT16_PAYS = 8192
"""Numbers of the smallest weight whose products are faster in bfloat16, casts included (measured, AMX)."""
BFLOAT16_TOKENS = 64
"""Packs in bfloat16 are multiples of this: oneDNN makes code anew for every shape it has not met."""
GradientHook = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, gradient [b t d], the layer's input [b t d], rows [b]) -> gradient that flows on into the input."""


class Engine:
    """Loss and gradient of a batch, added up over packs, for parameters in a flat vector."""

    def __init__(
        self, parameters: FlatParameters, *, bfloat16: bool = False, pack_tokens: int | None = None
    ) -> None:
        """bfloat16: see the module. pack_tokens: most at once; by default what keeps activations small."""
        keep_memory()
        self.flat, self.bfloat16 = parameters, bfloat16
        self.cfg = cfg = parameters.cfg
        kept = cfg.n_layers * (8 * cfg.d_model + 4 * cfg.d_mlp)  # numbers a token, about
        self.pack_tokens = pack_tokens or min(PACK_TOKENS, max(512, KEPT_NUMBERS // kept))
        self.heads = Heads(cfg.n_heads, cfg.n_kv)
        k, d = cfg.d_head, cfg.d_model
        turned = cfg.n_heads + cfg.n_kv
        order = (torch.arange(turned)[:, None] * k + neighbours(k)).flatten()
        self.order = torch.cat([order, torch.arange(turned * k, (turned + cfg.n_kv) * k)])
        self.scale = torch.ones(len(self.order))
        self.scale[: cfg.n_heads * k] = k**-0.5
        self.turn = _rotary(cfg.n_ctx, k, cfg.rope_theta)
        self.qkv_grad = [torch.zeros(d, len(self.order)) for _ in range(cfg.n_layers)]
        self.bias_grad = [torch.zeros(len(self.order)) for _ in range(cfg.n_layers)]
        self.gate_up_grad = [torch.zeros(d, 2 * cfg.d_mlp) for _ in range(cfg.n_layers)]

    @torch.no_grad()
    def batch(
        self,
        tokens: Tokens,
        lengths: Places,
        first: Places,
        total: float,
        hook: GradientHook | None = None,
        *,
        weights: bool = True,
        only: int | None = None,
    ) -> Float[Tensor, " row"]:
        """Add a whole batch's gradient to the flat vector; return each row's summed loss, in nats.

        `first` is the first predicted position of each row. The gradient is that of the sum divided by
        `total`, which is the number of predictions for a mean. A hook that changes nothing changes no
        bit. What rows share at their beginning (up to the first city's id) it sees in the first of them; in
        the others the gradient is zero there. weights: False leaves the flat vector alone, for gradients that
        a hook takes. only: the backward pass ends at the input of this block, and the hook sees that alone.
        """
        losses = torch.zeros(len(lengths))
        self._fold()
        multiple = BFLOAT16_TOKENS if self.bfloat16 else 1
        made = packs(tokens, lengths, first, self.heads, budget=self.pack_tokens, multiple=multiple)
        for pack in made:
            losses[pack.rows] = self._loss_and_grad(pack, total, hook, weights, only)
        if weights:
            self._unfold()
        return losses

    def _fold(self) -> None:
        """Prepare the weights of this step."""
        p = self.flat.p
        layers = range(self.cfg.n_layers)
        # RMSNorm(x) W + b = (x / rms) (diag(gain) W) + b; queries also carry the k^-1/2 of the scores.
        self.qkv = [(p[f"{i}.qkv"] * p[f"{i}.ln1"][:, None])[:, self.order] * self.scale for i in layers]
        self.bias = [p[f"{i}.qkv_bias"][self.order] * self.scale for i in layers]
        gate_up = [self._operand(p[f"{i}.gate_up"] * p[f"{i}.ln2"][:, None]) for i in layers]
        self.gate, self.up = zip(*(weight.chunk(2, 1) for weight in gate_up), strict=True)
        self.down = [self._operand(p[f"{i}.down"]) for i in layers]
        self.o = [self._operand(p[f"{i}.o"]) for i in layers]
        self.unembed = (p["embed"].T if self.cfg.tied else p["unembed"]) * p["ln_final"][:, None]
        self.unit, self.rstd = normalise(p["embed"], self.cfg.rms_eps)
        # q, k, v of the first layer, one row a token of the vocabulary: its residual stream is the embedding.
        self.table = torch.addmm(self.bias[0], self.unit, self.qkv[0])
        self.qkv = [self._operand(weight) for weight in self.qkv]

    def _operand(self, weight: Tensor) -> Tensor:
        """A weight of this step as its products take it."""
        return weight.bfloat16() if self.bfloat16 and weight.numel() >= BFLOAT16_PAYS else weight

    def _unfold(self) -> None:
        """Turn the gradients of the folded weights into those of the parameters, and clear the former."""
        p, g = self.flat.p, self.flat.g
        for i in range(self.cfg.n_layers):
            dw = torch.empty_like(self.qkv_grad[i])
            # With folded weights F = diag(gain) W S (S: order and scale), dF given:
            # dW = diag(gain) dF S^T,  dgain = row sums of (dF S^T * W),  db = db_F S^T.
            dw[:, self.order] = self.qkv_grad[i] * self.scale
            g[f"{i}.qkv"].addcmul_(dw, p[f"{i}.ln1"][:, None])
            g[f"{i}.ln1"] += (dw * p[f"{i}.qkv"]).sum(1)
            g[f"{i}.qkv_bias"].index_add_(0, self.order, self.bias_grad[i] * self.scale)
            dw = self.gate_up_grad[i]
            g[f"{i}.gate_up"].addcmul_(dw, p[f"{i}.ln2"][:, None])
            g[f"{i}.ln2"] += (dw * p[f"{i}.gate_up"]).sum(1)
            for grad in (self.qkv_grad[i], self.bias_grad[i], self.gate_up_grad[i]):
                grad.zero_()

    def _loss_and_grad(
        self, pack: Pack, total: float, hook: GradientHook | None, weights: bool, only: int | None
    ) -> Float[Tensor, " b"]:
        """Add a pack's gradient, unless `weights` is False; return its rows' summed losses."""
        cfg, p, g = self.cfg, self.flat.p, self.flat.g
        n, h, k, m = len(pack.tokens), cfg.n_heads, cfg.d_head, cfg.d_mlp
        attention = Attention(pack, self.heads, self.turn[pack.position])
        # mid = x + Attn(RMSNorm(x)) W_O,  out = mid + (silu(n W_gate) * n W_up) W_down,  n = RMSNorm(mid).
        x = p["embed"][pack.tokens]
        saved = []
        for i in range(cfg.n_layers):
            if i == 0:
                unit1, rstd1 = self.unit[pack.tokens], self.rstd[pack.tokens]
                qkv, n1 = self.table[pack.tokens], unit1.to(self.qkv[i].dtype)
            else:
                unit1, rstd1 = normalise(x, cfg.rms_eps)
                n1 = unit1.to(self.qkv[i].dtype)
                qkv = _plus_product(self.bias[i], n1, self.qkv[i])
            z, kept = attention.forward(qkv)
            if i == cfg.n_layers - 1 and pack.read is not None:
                # After the last attention tokens no longer meet: only the predicted ones go on.
                z, x = z[pack.read], x[pack.read]
            z = z.to(self.o[i].dtype)
            x = _plus_product(x, z, self.o[i])
            unit2, rstd2 = normalise(x, cfg.rms_eps)
            n2 = unit2.to(self.gate[i].dtype)
            gate, up = torch.mm(n2, self.gate[i]), torch.mm(n2, self.up[i])
            silu = torch.nn.functional.silu(gate)
            act = (silu * up).to(self.down[i].dtype)
            x = _plus_product(x, act, self.down[i])
            saved.append((unit1, rstd1, n1, kept, z, unit2, rstd2, n2, gate, up, silu, act))
        by_row, dx = self._predict(pack, x, total, weights)
        add = _add_product if weights else _nothing
        for i in reversed(range(only or 0, cfg.n_layers)):
            unit1, rstd1, n1, kept, z, unit2, rstd2, n2, gate, up, silu, act = saved.pop()
            # out = mid + act W_down:  dW_down = act^T dout,  dact = dout W_down^T.
            dout = dx.to(act.dtype)
            add(g[f"{i}.down"], act, dout)
            dact = torch.mm(dout, self.down[i].T).to(gate.dtype)
            # act = silu(a) * u:  du = dact * silu(a),  da = dact * u * silu'(a), in place.
            dup, dact = silu.mul_(dact), dact.mul_(up)
            dgate = torch.ops.aten.silu_backward.grad_input(dact, gate, grad_input=dact)
            # a = n F_a, u = n F_u:  dF = n^T da and n^T du,  dn = da F_a^T + du F_u^T; the skip adds dout.
            add(self.gate_up_grad[i][:, :m], n2, dgate)
            add(self.gate_up_grad[i][:, m:], n2, dup)
            dn = torch.addmm(torch.mm(dgate, self.gate[i].T), dup, self.up[i].T).float()
            dx += _normalise_backward(dn, unit2, rstd2)
            # mid = x + z W_O:  dW_O = z^T dmid,  dz = dmid W_O^T.
            dmid = dx.to(z.dtype)
            add(g[f"{i}.o"], z, dmid)
            dz = torch.zeros(n + 1, h * k)  # one row more, for places of a block that hold no token
            if i == cfg.n_layers - 1 and pack.read is not None:  # back to all positions
                dz.index_copy_(0, pack.read, torch.mm(dmid, self.o[i].T).float())
                dx = torch.zeros(n, cfg.d_model).index_copy_(0, pack.read, dx)
            else:
                dz[:n] = torch.mm(dmid, self.o[i].T)
            dqkv = attention.backward(dz, kept)
            if weights:
                self.bias_grad[i] += dqkv.sum(0)
            # [q k v] = n F + b:  dF = n^T d[q k v],  db = its column sums,  dx += dn through RMSNorm.
            dqkv = dqkv.to(n1.dtype)
            add(self.qkv_grad[i], n1, dqkv)
            dx += _normalise_backward(torch.mm(dqkv, self.qkv[i].T).float(), unit1, rstd1)
            if hook is not None and only in (None, i):
                dx = _hooked(hook, i, dx, unit1 / rstd1, pack)
        # x = E[token]:  dE[t] = sum of dx over the places of token t.
        if weights:
            g["embed"] += torch.ops.aten.embedding_dense_backward(dx, pack.tokens, cfg.d_vocab, -1, False)
        return by_row

    def _predict(
        self, pack: Pack, x: Float[Tensor, "U d"], total: float, weights: bool
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, "U d"]]:
        """Each row's loss, and the gradient at the last residual stream."""
        g, p = self.flat.g, self.flat.p
        unit, rstd = normalise(x, self.cfg.rms_eps)
        logp = torch.mm(unit, self.unembed).log_softmax(1)
        spot = pack.hit * self.cfg.d_vocab + pack.target
        # loss = -sum_m logp[hit_m, target_m] / total. A shared token u is in several predictions m:
        # dlogits[u] = sum over its m of (softmax[u] - onehot(target_m)) / total.
        losses = logp.view(-1)[spot].neg_()
        by_row = torch.zeros(len(pack.rows)).index_add_(0, pack.owner, losses)
        dlogits = logp.exp_().mul_((pack.times / total)[:, None])
        dlogits.view(-1).index_add_(0, spot, torch.full_like(losses, -1 / total))
        if weights:
            # logits = n diag(gain) U:  dU = diag(gain) n^T dlogits,  dgain = row sums of (n^T dlogits * U).
            dw = torch.mm(unit.T, dlogits)
            tied = self.cfg.tied
            (g["embed"].T if tied else g["unembed"]).addcmul_(dw, p["ln_final"][:, None])
            g["ln_final"] += (dw * (p["embed"].T if tied else p["unembed"])).sum(1)
        return by_row, _normalise_backward(torch.mm(dlogits, self.unembed.T), unit, rstd)


class Attention:
    """Rotary positions and causal attention of a pack, forward and backward."""

    def __init__(self, pack: Pack, heads: Heads, turn: Tensor) -> None:
        self.pack, self.heads, self.turn = pack, heads, turn

    def _parts(self, flat: Float[Tensor, "G k"]) -> Iterator[tuple[Block, Tensor, Tensor, Tensor]]:
        """Each block with its q [R*kv group*S k], k and v [R*kv T k]."""
        kv, group, width = self.heads.kv, self.heads.group, flat.shape[1]
        parts = iter(flat.split(self.pack.sizes[: 3 * len(self.pack.blocks)]))
        for block in self.pack.blocks:
            n = block.lines * kv
            yield (
                block,
                next(parts).view(n, group * block.queries, width),
                next(parts).view(n, block.keys, width),
                next(parts).view(n, block.keys, width),
            )

    def forward(
        self, qkv: Float[Tensor, "N qkv"]
    ) -> tuple[Float[Tensor, "N hk"], tuple[Tensor, list[Tensor]]]:
        """What the heads bring to each token, and what `backward` needs. `qkv` is used up."""
        heads, n = self.heads, len(qkv)
        rows = qkv.view(n, heads.rows, -1)
        turn(rows[:, : heads.h + heads.kv], self.turn)
        flat = rows.view(n * heads.rows, -1).index_select(0, self.pack.gather)
        out = torch.empty(len(self.pack.z_gather), flat.shape[1])
        patterns, done = [], 0
        for block, q, keys, values in self._parts(flat):
            # P = softmax(q k^T + mask), z = P v. k^-1/2 is in q; `group` query heads share a key head.
            scores = torch.bmm(q, keys.transpose(1, 2))
            scores.view(block.lines, heads.h, block.queries, block.keys).add_(block.mask)
            pattern = scores.softmax(-1)
            size = q.shape[0] * q.shape[1]
            torch.bmm(pattern, values, out=out[done : done + size].view_as(q))
            patterns.append(pattern)
            done += size
        return out.index_select(0, self.pack.z_back).view(n, -1), (flat, patterns)

    def backward(
        self, dz: Float[Tensor, "N1 hk"], kept: tuple[Tensor, list[Tensor]]
    ) -> Float[Tensor, "N qkv"]:
        """Gradient of `qkv`; the last row of `dz` is zero."""
        heads, n = self.heads, len(dz) - 1
        flat, patterns = kept
        width = flat.shape[1]
        dout = dz.view((n + 1) * heads.h, width).index_select(0, self.pack.z_gather)
        dflat = torch.empty(sum(self.pack.sizes), width)
        dflat[-1] = 0.0
        done, sums = 0, len(flat)
        parts = zip(self._parts(flat), self._parts(dflat[: len(flat)]), patterns, strict=True)
        for (block, q, keys, values), (_, dq, dkeys, dvalues), pattern in parts:
            size = q.shape[0] * q.shape[1]
            d = dout[done : done + size].view_as(q)
            done += size
            # z = P v:  dv = P^T dz,  dP = dz v^T.
            torch.bmm(pattern.transpose(1, 2), d, out=dvalues)
            dpattern = torch.bmm(d, values.transpose(1, 2))
            # P = softmax(s):  ds = P * (dP - row sums of dP * P);  s = q k^T:  dq = ds k,  dk = ds^T q.
            dscores = torch.ops.aten._softmax_backward_data(dpattern, pattern, -1, torch.float32)
            torch.bmm(dscores, keys, out=dq)
            torch.bmm(dscores.transpose(1, 2), q, out=dkeys)
            if block.common is not None:
                # A family's lines attend to one copy of their beginning: its gradient is the sum over them.
                shape = (block.lines, heads.kv, block.keys, width)
                for grads in (dkeys, dvalues):
                    begun = grads.view(shape)[:, :, : block.begin].reshape(block.lines, -1)
                    size = len(block.common) * heads.kv * block.begin
                    torch.mm(block.common, begun, out=dflat[sums : sums + size].view(len(block.common), -1))
                    sums += size
        rows = dflat.index_select(0, self.pack.back).view(n, heads.rows, width)
        # Rotation is orthogonal: its transpose turns back by the same angle.
        turn(rows[:, : heads.h + heads.kv], self.turn.conj())
        return rows.view(n, -1)


def _hooked(hook: GradientHook, layer: int, dx: Tensor, x: Tensor, pack: Pack) -> Tensor:
    """Show a hook the rows of a pack, padded with zeros, and take its gradient back."""
    n = len(pack.row)
    own = pack.row, pack.position[:n]
    wide_dx = torch.zeros(*pack.where.shape, dx.shape[1])
    wide_dx[own] = dx[:n]
    wide_x = x[pack.where.clamp_min(0)].masked_fill(pack.where[:, :, None] < 0, 0.0)
    changed = hook(layer, wide_dx, wide_x, pack.rows)
    dx[:n] = changed[own]
    # What the hook may have added at shared tokens of the other rows.
    others = (pack.where >= 0) & (pack.row[pack.where] != torch.arange(len(pack.where))[:, None])
    dx.index_add_(0, pack.where[others], changed[others])
    return dx


@lru_cache(maxsize=64)
def _rotary(t: int, k: int, theta: float) -> Tensor:
    """Unit complex numbers [t 1 k/2] whose angles are `pos * theta^(-2i/k)`."""
    angle = torch.outer(torch.arange(t).double(), theta ** (-torch.arange(0, k, 2).double() / k))
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64)[:, None]


def _plus_product(base: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """base + x weight, in float32; `x` has the weight's type."""
    if weight.dtype == torch.float32:
        return torch.addmm(base, x, weight)
    return torch.mm(x, weight).float().add_(base)


def _add_product(grad: Float[Tensor, "a b"], x: Float[Tensor, "N a"], d: Float[Tensor, "N b"]) -> None:
    """grad += x^T d, where x and d are of one type."""
    if x.dtype == torch.float32:
        grad.addmm_(x.T, d)
    else:
        grad += torch.mm(x.T, d)


def _nothing(grad: Tensor, x: Tensor, d: Tensor) -> None:
    """In the place of `_add_product` where no gradient of the weights is wanted."""


def _normalise_backward(dunit: Tensor, unit: Tensor, rstd: Tensor) -> Tensor:
    """Gradient of `normalise`'s input; `dunit` is used up."""
    # dx = rstd (dunit - unit <dunit, unit> / d).
    along = torch.linalg.vecdot(dunit, unit)[:, None].div_(-unit.shape[1])
    return dunit.addcmul_(unit, along).mul_(rstd)
