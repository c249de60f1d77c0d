"""The training peer: eager PyTorch on the CPU; Muon + AdamW, no QK-Clip."""
import math
import time

import torch
import torch.nn.functional as F

from peer_model import Model, MoE, load_weights


def newton_schulz(x, steps=5):
    """Quintic Newton-Schulz on a stack [N, A, B]; works on the short side."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        g = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(g, g, g, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon:
    """Moonlight's Muon. Matrices of one shape share one stacked momentum and one batched iteration."""

    def __init__(self, params, lr=2e-3, momentum=0.95, weight_decay=0.1, dtype=torch.float32, ns=newton_schulz):
        self.lr, self.momentum, self.wd, self.dtype, self.ns = lr, momentum, weight_decay, dtype, ns
        self.groups = {}
        for name, p in params:
            n, (rows, cols) = p[..., 0, 0].numel(), p.shape[-2:]
            if "gate_up" in name:  # gate and up are two matrices, stored as one
                n, rows = 2 * n, rows // 2
            self.groups.setdefault((rows, cols), []).append((p, n))
        self.state = {s: torch.zeros(sum(n for _, n in g), *s) for s, g in self.groups.items()}

    @torch.no_grad()
    def step(self):
        for shape, group in self.groups.items():
            buf = self.state[shape]
            grad = torch.cat([p.grad.view(-1, *shape) for p, _ in group])
            buf.mul_(self.momentum).add_(grad)
            update = self.ns(grad.add_(buf, alpha=self.momentum).to(self.dtype)).to(buf.dtype)
            at, scale = 0, -self.lr * 0.2 * math.sqrt(max(shape))
            for p, n in group:
                p.mul_(1 - self.lr * self.wd).add_(update[at : at + n].reshape(p.shape), alpha=scale)
                at += n


class Training:
    """A model in training: `autocast` for bfloat16 products, `ns_bf16` for Newton-Schulz, `compile` for torch.compile."""

    def __init__(self, config, weights, autocast=False, ns_bf16=False, compile=False):
        self.c, self.autocast, self.model = config, autocast, Model(config)
        load_weights(self.model, weights)
        muon, adam = [], []
        for name, p in self.model.named_parameters():
            (muon if p.dim() > 1 and not name.startswith(("embed", "head")) else adam).append((name, p))
        if compile:  # _grouped_mm's fake kernel rejects fp32 and .tolist() is data: keep experts eager
            for way in ("loop", "grouped", "padded"):
                setattr(MoE, "experts_" + way, torch.compiler.disable(getattr(MoE, "experts_" + way)))
            self.loss = torch.compile(self.loss, dynamic=False)
        ns = torch.compile(newton_schulz, dynamic=False) if compile else newton_schulz
        self.muon = Muon(muon, dtype=torch.bfloat16 if ns_bf16 else torch.float32, ns=ns)
        self.adam = torch.optim.AdamW([p for _, p in adam], lr=2e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
        self.moes = [b.mlp for b in self.model.blocks if isinstance(b.mlp, MoE)]

    def loss(self, ids):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            logits = self.model(ids[:, :-1])
        return F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())

    def step(self, ids):
        """One step on ids [B, T + 1]: the loss before it, the seconds of forward and backward, and of the optimizer."""
        t0 = time.perf_counter()
        loss = self.loss(ids)
        loss.backward()
        t1 = time.perf_counter()
        self.muon.step()
        self.adam.step()
        for p in self.model.parameters():
            p.grad = None
        for moe in self.moes:
            moe.update_bias()
        return loss.item(), t1 - t0, time.perf_counter() - t1
