"""The PyTorch side of bench/train-step.ts and bench/decode.ts: stays alive and does one job at a time.

A JSON object a line on standard input, one a line back. Options fit Training's, moe and attn the model's.
    {"job": "train", "config", "weights", "threads", "ids": [[[…]]], "options": {…}} → {"loss", "seconds", "optimizer"}
    {"job": "decode", "config", "weights", "threads", "ids": [[…]], "new": 128}      → {"ids", "prefill", "seconds"}
    {"job": "forget"}: frees what was loaded                                        → {}
"""
import gc
import json
import sys

import torch

from peer_decode import decode
from peer_model import Config, Model, load_weights
from peer_train import Training

loaded = {}


def once(key, make):
    """What is made for a job stays, so that a later job of the same kind goes on with it."""
    key = json.dumps(key)
    if key not in loaded:
        loaded[key] = make()
    return loaded[key]


def train(job):
    config, weights, options = job["config"], job["weights"], job["options"]
    training = once(["train", config, weights, options], lambda: Training(Config(**config), weights, **options))
    loss, seconds, optimizer = zip(*(training.step(torch.tensor(ids)) for ids in job["ids"]))
    return {"loss": loss, "seconds": [a + b for a, b in zip(seconds, optimizer)], "optimizer": optimizer}


def open_model(config, weights):
    model = Model(Config(**config)).eval()
    load_weights(model, weights)
    return model


def generate(job):
    config, weights = job["config"], job["weights"]
    model = once(["decode", config, weights], lambda: open_model(config, weights))
    ids, prefill, seconds = decode(model, torch.tensor(job["ids"]), job["new"])
    return {"ids": ids.tolist(), "prefill": prefill, "seconds": seconds}


def forget(_):
    loaded.clear()
    gc.collect()
    return {}


for line in sys.stdin:
    job = json.loads(line)
    if "threads" in job:
        torch.set_num_threads(job["threads"])
    print(json.dumps({"train": train, "decode": generate, "forget": forget}[job["job"]](job)), flush=True)
