"""Peer of bench/torch-eager.ts: the same work in Python's eager mode.

Protocol: a line `TASK COUNT` on standard input, one back: seconds and CPU seconds that COUNT repetitions took.
"""
import sys
import time

import torch

torch.set_num_threads(1)
a = torch.tensor([1.0, 2.0, 3.0, 4.0])
b = torch.tensor([5.0, 6.0, 7.0, 8.0])
x = torch.arange(256, dtype=torch.float32).view(16, 16) / 256
w = (torch.arange(256, dtype=torch.float32).view(16, 16) / 512).requires_grad_()


def add(n):
    for _ in range(n):
        a + b


def grad(n):
    for _ in range(n):
        torch.autograd.grad(x.mm(w).tanh().sum(), [w])


for line in sys.stdin:
    task, count = line.split()
    began, cpu = time.perf_counter(), time.process_time()
    globals()[task](int(count))
    print(time.perf_counter() - began, time.process_time() - cpu, flush=True)
