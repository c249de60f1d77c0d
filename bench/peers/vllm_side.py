"""vLLM's or transformers' side of bench/vllm.ts: loads one checkpoint, then answers jobs.

    vllm_side.py FOLDER vllm|transformers THREADS MAX_LENGTH MAX_BATCH

A JSON object a line on standard input, {"ids": [[…]], "new": 128}, one a line back: {"ids", "seconds"}: greedy decoding in
float32, all prompts at once, whatever an end token says. vLLM runs in this process
(VLLM_ENABLE_V1_MULTIPROCESSING=0), so that its time and memory are this process's. What libraries print goes to stderr.
"""
import json
import os
import sys
import time

folder, engine, threads, max_length, max_batch = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
os.environ.update(
    HF_HUB_OFFLINE="1",
    VLLM_CPU_KVCACHE_SPACE="1",
    VLLM_LOGGING_LEVEL="ERROR",
    VLLM_NO_USAGE_STATS="1",
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_MLA_DISABLE="1",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    OMP_NUM_THREADS=str(threads),
)


def vllm_engine():
    from vllm import LLM, SamplingParams

    # Ranks as small as ours have no MLA kernel: keys and values are rebuilt. Prefixes are not cached: on either side every
    # round computes its prompts.
    llm = LLM(
        folder,
        skip_tokenizer_init=True,
        dtype="float32",
        enforce_eager=True,
        max_model_len=max_length,
        max_num_seqs=max_batch,
        enable_prefix_caching=False,
        seed=0,
    )

    def decode(ids, new):
        params = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, detokenize=False)
        began = time.perf_counter()
        told = llm.generate([{"prompt_token_ids": row} for row in ids], params, use_tqdm=False)
        return [list(one.outputs[0].token_ids) for one in told], time.perf_counter() - began

    return decode


def transformers_engine():
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.inference_mode()
    def decode(ids, new):
        began = time.perf_counter()
        at = torch.tensor(ids)
        out = model.generate(at, attention_mask=torch.ones_like(at), max_new_tokens=new, min_new_tokens=new, do_sample=False)
        return out[:, at.shape[1] :].tolist(), time.perf_counter() - began

    return decode


def say(what):
    print(json.dumps(what), file=answers, flush=True)


decode = {"vllm": vllm_engine, "transformers": transformers_engine}[engine]()
for line in sys.stdin:
    job = json.loads(line)
    ids, seconds = decode(job["ids"], job["new"])
    say({"ids": ids, "seconds": seconds})
