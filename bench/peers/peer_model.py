"""The peer's model: Kimi K2's class (MLA + DeepSeek-V3 MoE) in idiomatic eager PyTorch, CPU."""
import json
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class Config:
    dim: int
    layers: int
    heads: int
    experts: int
    top_k: int
    expert_hidden: int
    vocab: int
    q_lora: int
    kv_lora: int
    nope: int
    rope: int
    v: int
    dense_hidden: int
    shared: int
    first_dense: int
    scaling: float
    theta: float
    eps: float
    max_seq: int
    moe: str = "grouped"   # loop | grouped | padded
    attn: str = "pad"      # pad (v padded to the q/k width: fused SDPA) | math (SDPA decides)


class RMSNorm(nn.Module):
    def __init__(self, dim, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def linear(n_in, n_out):
    return nn.Linear(n_in, n_out, bias=False)


def rotate(x, cos, sin):
    """Half-split rotary embedding; x [..., T, H, rope], cos and sin [T, 1, rope / 2]."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class MLA(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.c, self.scale = c, (c.nope + c.rope) ** -0.5
        self.q_a, self.q_norm = linear(c.dim, c.q_lora), RMSNorm(c.q_lora, c.eps)
        self.q_b = linear(c.q_lora, c.heads * (c.nope + c.rope))
        self.kv_a, self.kv_norm = linear(c.dim, c.kv_lora + c.rope), RMSNorm(c.kv_lora, c.eps)
        self.kv_b = linear(c.kv_lora, c.heads * (c.nope + c.v))
        self.o = linear(c.heads * c.v, c.dim)

    def project(self, x, cos, sin):
        """Queries [B, T, H, nope], [B, T, H, rope]; latent [B, T, kv_lora]; shared key [B, T, rope]."""
        c, (b, t, _) = self.c, x.shape
        q_nope, q_pe = self.q_b(self.q_norm(self.q_a(x))).view(b, t, c.heads, -1).split([c.nope, c.rope], -1)
        latent, k_pe = self.kv_a(x).split([c.kv_lora, c.rope], -1)
        return q_nope, rotate(q_pe, cos, sin), self.kv_norm(latent), rotate(k_pe.unsqueeze(2), cos, sin)

    def forward(self, x, cos, sin):
        c, (b, t, _) = self.c, x.shape
        q_nope, q_pe, latent, k_pe = self.project(x, cos, sin)
        k_nope, v = self.kv_b(latent).view(b, t, c.heads, -1).split([c.nope, c.v], -1)
        q = torch.cat([q_nope, q_pe], -1).transpose(1, 2)
        k = torch.cat([k_nope, k_pe.expand(-1, -1, c.heads, -1)], -1).transpose(1, 2)
        v = v.transpose(1, 2)
        if c.attn == "pad":  # the fused CPU kernel wants equal head widths
            v = F.pad(v, (0, c.nope + c.rope - c.v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)[..., : c.v]
        return self.o(y.transpose(1, 2).reshape(b, t, -1))

    def decode(self, x, cos, sin, cache, pos):
        """One new token per row, absorbed: attention against the latents. cache [B, S, kv_lora + rope]."""
        c, b = self.c, x.shape[0]
        q_nope, q_pe, latent, k_pe = self.project(x, cos, sin)
        cache[:, pos] = torch.cat([latent[:, 0], k_pe[:, 0, 0]], -1)
        w_k, w_v = self.kv_b.weight.view(c.heads, c.nope + c.v, c.kv_lora).split([c.nope, c.v], 1)
        q_lat = torch.bmm(q_nope[:, 0].transpose(0, 1), w_k).transpose(0, 1)        # [B, H, kv_lora]
        seen = cache[:, : pos + 1]
        p = (torch.bmm(torch.cat([q_lat, q_pe[:, 0]], -1), seen.transpose(1, 2)) * self.scale).softmax(-1)
        o_lat = torch.bmm(p, seen[..., : c.kv_lora])                                  # [B, H, kv_lora]
        y = torch.bmm(o_lat.transpose(0, 1), w_v.transpose(1, 2)).transpose(0, 1)     # [B, H, v]
        return self.o(y.reshape(b, 1, -1))


class MLP(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.gate_up, self.down = linear(dim, 2 * hidden), linear(hidden, dim)

    def forward(self, x):
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(F.silu(gate) * up)


class Dispatch(torch.autograd.Function):
    """x[slot // k] in expert order; its gradient is a gather too, since each token has exactly k slots."""

    @staticmethod
    def forward(ctx, x, token, inverse, k):
        ctx.save_for_backward(inverse)
        ctx.k = k
        return x.index_select(0, token)

    @staticmethod
    def backward(ctx, grad):
        (inverse,) = ctx.saved_tensors
        return grad.index_select(0, inverse).view(-1, ctx.k, grad.shape[-1]).sum(1), None, None, None


class Reorder(torch.autograd.Function):
    """y[inverse]: a permutation, so its gradient is grad[order]."""

    @staticmethod
    def forward(ctx, y, inverse, order):
        ctx.save_for_backward(order)
        return y.index_select(0, inverse)

    @staticmethod
    def backward(ctx, grad):
        return grad.index_select(0, ctx.saved_tensors[0]), None, None


class MoE(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.c = c
        self.router = linear(c.dim, c.experts)
        self.register_buffer("bias", torch.zeros(c.experts))
        self.register_buffer("load", torch.zeros(c.experts), persistent=False)
        self.gate_up = nn.Parameter(torch.empty(c.experts, 2 * c.expert_hidden, c.dim))
        self.down = nn.Parameter(torch.empty(c.experts, c.dim, c.expert_hidden))
        self.shared = MLP(c.dim, c.shared * c.expert_hidden)

    def route(self, x):
        s = self.router(x).sigmoid()
        idx = (s.detach() + self.bias).topk(self.c.top_k, dim=-1, sorted=False)[1]
        w = s.gather(1, idx)
        return idx, w / (w.sum(-1, keepdim=True) + 1e-20) * self.c.scaling

    def experts_loop(self, x, count):
        out = []
        for part, w1, w2 in zip(x.split(count.tolist()), self.gate_up.unbind(0), self.down.unbind(0)):
            gate, up = F.linear(part, w1).chunk(2, -1)
            out.append(F.linear(F.silu(gate) * up, w2))
        return torch.cat(out)

    def experts_grouped(self, x, count):
        offs = count.cumsum(0).to(torch.int32)
        w1, w2 = self.gate_up, self.down
        if torch.is_autocast_enabled("cpu"):  # _grouped_mm is not on autocast's list
            x, w1, w2 = (t.to(torch.get_autocast_dtype("cpu")) for t in (x, w1, w2))
        gate, up = torch._grouped_mm(x, w1.transpose(1, 2), offs=offs).chunk(2, -1)
        return torch._grouped_mm(F.silu(gate) * up, w2.transpose(1, 2), offs=offs)

    def experts_padded(self, x, count):
        """bmm over [E, longest, D]: no token is dropped, short experts are padded."""
        longest = int(count.max())
        start = count.cumsum(0) - count
        slot = torch.arange(x.shape[0]) - start.repeat_interleave(count)
        slot += torch.arange(self.c.experts).repeat_interleave(count) * longest
        padded = x.new_zeros(self.c.experts * longest, x.shape[1]).index_copy(0, slot, x)
        padded = padded.view(self.c.experts, longest, -1)
        gate, up = torch.bmm(padded, self.gate_up.transpose(1, 2)).chunk(2, -1)
        y = torch.bmm(F.silu(gate) * up, self.down.transpose(1, 2))
        return y.view(-1, y.shape[-1]).index_select(0, slot)

    def forward(self, x):
        shape, c = x.shape, self.c
        x = x.reshape(-1, c.dim)
        idx, w = self.route(x)
        order = idx.view(-1).argsort(stable=True)
        inverse = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel()))
        count = torch.bincount(idx.view(-1), minlength=c.experts)
        if self.training:
            self.load += count
        y = getattr(self, "experts_" + c.moe)(Dispatch.apply(x, order // c.top_k, inverse, c.top_k), count)
        y = Reorder.apply(y, inverse, order).view(-1, c.top_k, c.dim)
        return (torch.bmm(w.unsqueeze(1), y).squeeze(1) + self.shared(x)).view(shape)

    def decode(self, x):
        """Few tokens: either the chosen experts' weights are gathered, or experts are visited in turn."""
        c, (b, t, d) = self.c, x.shape
        x = x.view(-1, d)
        idx, w = self.route(x)
        if b == 1:
            out = self.shared(x)
            for e, we in zip(idx[0].tolist(), w[0]):
                gate, up = F.linear(x, self.gate_up[e]).chunk(2, -1)
                out = out + F.linear(F.silu(gate) * up, self.down[e]) * we
            return out.view(b, t, d)
        order = idx.view(-1).argsort()
        token = order // c.top_k
        count = torch.bincount(idx.view(-1), minlength=c.experts)
        y = self.experts_loop_hit(x[token], count) * w.view(-1)[order].unsqueeze(1)
        return self.shared(x).index_add_(0, token, y).view(b, t, d)

    def experts_loop_hit(self, x, count):
        out = []
        for e, part in enumerate(x.split(count.tolist())):
            if part.shape[0]:
                gate, up = F.linear(part, self.gate_up[e]).chunk(2, -1)
                out.append(F.linear(F.silu(gate) * up, self.down[e]))
        return torch.cat(out)

    @torch.no_grad()
    def update_bias(self, rate=1e-3):
        """Auxiliary-loss-free balancing, Moonlight's variant (mean removed)."""
        sign = (self.load.mean() - self.load).sign()
        self.bias += rate * (sign - sign.mean())
        self.load.zero_()


class Block(nn.Module):
    def __init__(self, c: Config, i):
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(c.dim, c.eps), RMSNorm(c.dim, c.eps)
        self.attn = MLA(c)
        self.mlp = MLP(c.dim, c.dense_hidden) if i < c.first_dense else MoE(c)

    def forward(self, x, cos, sin):
        x = x + self.attn(self.norm1(x), cos, sin)
        return x + self.mlp(self.norm2(x))

    def decode(self, x, cos, sin, cache, pos):
        x = x + self.attn.decode(self.norm1(x), cos, sin, cache, pos)
        h = self.norm2(x)
        return x + (self.mlp.decode(h) if isinstance(self.mlp, MoE) else self.mlp(h))


class Model(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.c = c
        self.embed = nn.Embedding(c.vocab, c.dim)
        self.blocks = nn.ModuleList(Block(c, i) for i in range(c.layers))
        self.norm = RMSNorm(c.dim, c.eps)
        self.head = linear(c.dim, c.vocab)
        freq = c.theta ** (-torch.arange(0, c.rope, 2, dtype=torch.float64) / c.rope)
        angle = torch.outer(torch.arange(c.max_seq, dtype=torch.float64), freq).float().unsqueeze(1)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, ids):
        x = self.embed(ids)
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.head(self.norm(x))

    def decode(self, ids, caches, pos):
        """ids [B, 1] at position pos; appends to caches; returns logits [B, vocab]."""
        x = self.embed(ids)
        cos, sin = self.cos[pos : pos + 1], self.sin[pos : pos + 1]
        for block, cache in zip(self.blocks, caches):
            x = block.decode(x, cos, sin, cache, pos)
        return self.head(self.norm(x[:, -1]))

    def prefill(self, ids, caches):
        """Fills the caches with a whole prompt; returns the last position's logits."""
        x, t = self.embed(ids), ids.shape[1]
        cos, sin = self.cos[:t], self.sin[:t]
        for block, cache in zip(self.blocks, caches):
            h = block.norm1(x)
            latent, k_pe = block.attn.kv_a(h).split([self.c.kv_lora, self.c.rope], -1)
            cache[:, :t, : self.c.kv_lora] = block.attn.kv_norm(latent)
            cache[:, :t, self.c.kv_lora :] = rotate(k_pe.unsqueeze(2), cos, sin)[:, :, 0]
            x = x + block.attn(h, cos, sin)
            x = x + block.mlp(block.norm2(x))
        return self.head(self.norm(x[:, -1]))

    def new_caches(self, batch, length):
        return [torch.zeros(batch, length, self.c.kv_lora + self.c.rope) for _ in self.blocks]


NAMES = [("model.embed_tokens", "embed"), ("model.norm", "norm"), ("lm_head", "head"), ("model.layers", "blocks"),
         ("input_layernorm", "norm1"), ("post_attention_layernorm", "norm2"), ("self_attn", "attn"),
         ("kv_a_proj_with_mqa", "kv_a"), ("q_a_layernorm", "q_norm"), ("kv_a_layernorm", "kv_norm"),
         ("mlp.gate.weight", "mlp.router.weight"), ("mlp.gate.e_score_correction_bias", "mlp.bias"),
         ("mlp.experts.", "mlp."), ("shared_experts", "shared"), ("_proj", "")]


def half_split(rows, rope):
    """Massif turns the pairs (2j, 2j + 1), this model (j, j + rope / 2): the last `rope` of [..., rows, in], reordered."""
    nope = rows.shape[-2] - rope
    turned = rows[..., nope:, :].unflatten(-2, (-1, 2)).transpose(-3, -2).flatten(-3, -2)
    return torch.cat([rows[..., :nope, :], turned], -2)


@torch.no_grad()
def load_weights(model, path):
    """Takes over a float32 safetensors file of Massif's parameters (read by hand: torch alone is needed)."""
    c, own = model.c, dict(model.named_parameters()) | dict(model.named_buffers())
    with open(path, "rb") as f:
        header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
        data = bytearray(f.read())
    for name, info in header.items():
        if name == "__metadata__":
            continue
        begin, end = info["data_offsets"]
        value = torch.frombuffer(data, dtype=torch.float32, offset=begin, count=(end - begin) // 4).view(info["shape"])
        for theirs, ours in NAMES:
            name = name.replace(theirs, ours)
        if name.endswith("attn.q_b.weight"):
            value = half_split(value.unflatten(0, (c.heads, -1)), c.rope).flatten(0, 1)
        if name.endswith("attn.kv_a.weight"):
            value = half_split(value, c.rope)
        own.pop(name).copy_(value)
    missing = [name for name in own if not name.endswith((".load", "cos", "sin")) and name not in ("cos", "sin")]
    assert not missing, missing
