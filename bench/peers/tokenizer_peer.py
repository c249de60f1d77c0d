"""Peer of bench/tokenizer.ts: Hugging Face tokenizers and tiktoken, on one thread.

Set up: python3 -m venv /work/venv-peers && /work/venv-peers/bin/pip install tokenizers tiktoken
Protocol: a JSON object a line on standard input ({"task", …}), one a line back ({"ms", "hash"}).
"""
import os

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import base64
import hashlib
import json
import resource
import sys
import time
from array import array

import tiktoken
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

folder, pattern = sys.argv[1], sys.argv[2]
texts = json.load(open(f"{folder}/texts.json", encoding="utf-8"))
loaded = {}


def load(kind):
    if kind == "tiktoken":
        lines = open(f"{folder}/tiktoken.model").read().split("\n")
        ranks = {base64.b64decode(t): int(r) for t, r in (line.split() for line in lines if line)}
        return tiktoken.Encoding("peer", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return Tokenizer.from_file(f"{folder}/tokenizer.json")


def encode(kind):
    if kind not in loaded:
        loaded[kind] = load(kind)
    tokenizer = loaded[kind]
    start = time.perf_counter()
    if kind == "tiktoken":
        ids = [tokenizer.encode_ordinary(text) for text in texts]
    else:
        ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    ms = (time.perf_counter() - start) * 1000
    digest = hashlib.sha256()
    for one in ids:
        digest.update(array("i", one).tobytes())
    return ms, digest.hexdigest()


def train(size):
    start = time.perf_counter()
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    ms = (time.perf_counter() - start) * 1000
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return ms, hashlib.sha256("\n".join(token for token, _ in vocab).encode()).hexdigest()


for line in sys.stdin:
    job = json.loads(line)
    ms, digest = encode(job["with"]) if job["task"] == "encode" else train(job["size"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"ms": ms, "hash": digest, "peakMB": peak / 1024}), flush=True)
