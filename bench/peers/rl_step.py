"""The PyTorch study of notes/small-rl.md (../shared/prototypes/small-rl) at the tokens that it is given: an RL step of the
same episodes, decoded over a shared prefix and learned with it shared. Lines of JSON on standard input: first
{"prefix", "episodes": [{"ids", "model"}], "vocab"}, then "step"; each step answers {"rollout", "update"} in seconds."""

import json
import sys
import time
import types

sys.modules["tokenizers"] = types.SimpleNamespace(Tokenizer=None)  # ids come ready
sys.path[:0] = [sys.argv[1] + "/small-rl", sys.argv[1] + "/../peers"]
import numpy as np  # noqa: E402
import proto  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(int(sys.argv[2]))


def rollout(model, prefix, episodes):
    """proto.Sampler.rollout without its world: what is drawn is replaced by what was written."""
    with torch.no_grad():
        model.eval()
        count, width = len(episodes), max(len(ids) for ids, _, _ in episodes)
        ids, length = np.zeros((count, width), np.int64), np.array([len(e[0]) for e in episodes])
        written = np.zeros((count, width), bool)
        for b, (i, m, _) in enumerate(episodes):
            ids[b, : len(i)], written[b, : len(i)] = i, m
        decoder = proto.Decoder(model, prefix, width)
        decoder.start(count)
        live = np.arange(count)
        logps = np.zeros((count, width), np.float32)
        for pos in range(width - 1):
            x = decoder.step(torch.from_numpy(ids[live, pos]), pos)
            need = np.nonzero(written[live, pos + 1])[0]
            if len(need):
                lsm = model.head(x[torch.from_numpy(need)]).log_softmax(-1)
                (lsm.exp() / torch.empty_like(lsm).exponential_()).argmax(-1)
                token = torch.from_numpy(ids[live[need], pos + 1])
                logps[live[need], pos + 1] = lsm.gather(1, token[:, None])[:, 0].numpy()
            alive = length[live] > pos + 2
            if not alive.any():
                break
            if alive.sum() < 0.8 * len(live):
                kept = np.nonzero(alive)[0]
                decoder.keep(torch.from_numpy(kept))
                live = live[kept]
        return [(i, m, logps[b, : len(i)]) for b, (i, m, _) in enumerate(episodes)]


def update(model, opt, prefix, episodes, minibatches, tau=0.1, rows=64):
    """The update of proto.rl: policy mirror descent over sequences."""
    model.train()
    order = np.random.default_rng(0).permutation(len(episodes))
    for part in range(minibatches):
        mine = [episodes[i] for i in order[part::minibatches]]
        advantage = torch.tensor([1.0 if i % 2 else -1.0 for i in range(len(mine))])
        old = torch.tensor([float(e[2].sum()) for e in mine])
        for idx, lp, row in proto.logps(model, prefix, mine, rows):
            ell = torch.zeros(len(idx)).index_add(0, row, lp) - old[idx]
            ((-advantage[idx] * ell + tau / 2 * ell * ell).sum() / len(mine)).backward()
        opt.step(0.01)


given = json.loads(sys.stdin.readline())
proto.PRESETS["small"] = {**proto.PRESETS["small"], "vocab": given["vocab"]}
model = proto.new_model()
opt = proto.Opt(model, 1e-3)
prefix = torch.tensor(given["prefix"])
episodes = [(np.array(e["ids"]), np.array(e["model"], bool), None) for e in given["episodes"]]
print(json.dumps({"parameters": sum(p.numel() for p in model.parameters())}), flush=True)
for _ in sys.stdin:
    began = time.perf_counter()
    played = rollout(model, prefix, episodes)
    rolled = time.perf_counter()
    update(model, opt, prefix, played, given["minibatches"])
    print(json.dumps({"rollout": rolled - began, "update": time.perf_counter() - rolled}), flush=True)
