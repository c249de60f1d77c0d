"""The decoding peer: greedy decoding in eager PyTorch with a cache of MLA's latents, attention absorbed."""
import time

import torch


@torch.inference_mode()
def decode(model, prompt, new):
    """Continues prompt [B, T]: ids [B, new], the prefill's seconds (the first token is its), the other steps' seconds."""
    batch, length = prompt.shape
    t0 = time.perf_counter()
    caches = model.new_caches(batch, length + new)
    out = [model.prefill(prompt, caches).argmax(-1, keepdim=True)]
    t1 = time.perf_counter()
    for pos in range(length, length + new - 1):
        out.append(model.decode(out[-1], caches, pos).argmax(-1, keepdim=True))
    return torch.cat(out, 1), t1 - t0, time.perf_counter() - t1
