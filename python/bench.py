#!/usr/bin/env python3
"""Compares the step times of posneg's optimizers, of the same rules in torch operations, of torch's AdamW and of DeepSpeedCPUAdam.

The table "whole step" compares a step that clips and zeroes with torch's clip_grad_norm_, fused AdamW and zero_grad.

In each round every candidate of a table takes one step, in rotating order. A table has the medians, and the medians of the ratios within
rounds. DeepSpeed builds its kernel at its first use, and torchao compiles; either takes a minute or two. The table "8 bits" uses
bfloat16 gradients if an optimizer accepts them. It runs only if --tables names it, since bitsandbytes takes seconds for a step.
"""

import argparse
import functools
import gc
import importlib
import os
import platform
import statistics
import time

import torch

import posneg
from posneg._eager import EagerAdaPNM, EagerPNM


def one_tensor(mebi):
    return [int(mebi * 2**20)]


def gpt2_small():
    d, vocabulary, context, layers = 768, 50257, 1024, 12
    layer = [d, d, 3 * d * d, 3 * d, d * d, d, d, d, 4 * d * d, 4 * d, 4 * d * d, d]
    return [vocabulary * d, context * d, *(layer * layers), d, d]


def resnet50():
    sizes, channels = [64 * 3 * 7 * 7, 64, 64], 64
    for i, blocks in enumerate((3, 4, 6, 3)):
        width = 64 << i
        for k in range(blocks):
            sizes += [channels * width, width, width, 9 * width * width, width, width, 4 * width * width, 4 * width, 4 * width]
            if k == 0:
                sizes += [channels * 4 * width, 4 * width, 4 * width]
            channels = 4 * width
    return [*sizes, 1000 * channels, 1000]


def deepspeed(params):
    """DeepSpeed's AdamW, on as many threads as torch: its kernel uses the OpenMP that torch has loaded."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    return DeepSpeedCPUAdam(params, adamw_mode=True, weight_decay=0.01)


def eight_bit(module, params):
    """An AdamW of another package whose state has 8 bits."""
    return importlib.import_module(module).AdamW8bit(params, weight_decay=0.01)


class WholeStep:
    """torch's AdamW, with gradients clipped before the step and zeroed after it."""

    def __init__(self, params):
        self.params, self.optimizer = params, torch.optim.AdamW(params, fused=True)
        self.state = self.optimizer.state

    def step(self):
        torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)


# For each table, the candidates and how many bytes they must move for an element: p, g and the state are read, all that changes is
# written. Parameters are float32, and so are gradients, unless the name of a candidate ends with bf16.
TABLES = {
    "PNM": [
        ("posneg.PNM", lambda p: posneg.PNM(p, lr=1e-3), 24),
        ("eager PNM", lambda p: EagerPNM(p, lr=1e-3), 24),
    ],
    "AdaPNM, AMSGrad": [
        ("posneg.AdaPNM", lambda p: posneg.AdaPNM(p), 40),
        ("eager AdaPNM", lambda p: EagerAdaPNM(p), 40),
    ],
    "AdamW": [
        ("posneg.AdamW", lambda p: posneg.AdamW(p), 28),
        ("posneg.AdaPNM", lambda p: posneg.AdaPNM(p), 40),
        ("torch AdamW", lambda p: torch.optim.AdamW(p, foreach=False), 28),
        ("torch AdamW, foreach", lambda p: torch.optim.AdamW(p, foreach=True), 28),
        ("torch AdamW, fused", lambda p: torch.optim.AdamW(p, fused=True), 28),
        ("DeepSpeedCPUAdam", deepspeed, 28),
    ],
    "whole step": [
        ("posneg.AdamW(clip_norm=1.0, zero_grads=True)", lambda p: posneg.AdamW(p, clip_norm=1.0, zero_grads=True), 36),
        ("posneg.AdaPNM(clip_norm=1.0, zero_grads=True)", lambda p: posneg.AdaPNM(p, clip_norm=1.0, zero_grads=True), 48),
        ("clip_grad_norm_(1.0), torch AdamW, fused, zero_grad", WholeStep, 44),
    ],
    "8 bits": [
        ("posneg.AdamW, mxfp8, bf16", lambda p: posneg.AdamW(p, state_dtype="mxfp8"), 16.1),
        ("posneg.AdaPNM, mxfp8, no AMSGrad, bf16", lambda p: posneg.AdaPNM(p, amsgrad=False, state_dtype="mxfp8"), 17.1),
        ("posneg.AdamW, bf16", lambda p: posneg.AdamW(p), 26),
        ("posneg.AdaPNM, no AMSGrad, bf16", lambda p: posneg.AdaPNM(p, amsgrad=False), 30),
        ("torch AdamW, fused", lambda p: torch.optim.AdamW(p, fused=True), 28),
        ("torchao AdamW8bit, bf16", lambda p: eight_bit("torchao.optim", p), 14.1),
        ("bitsandbytes AdamW8bit", lambda p: eight_bit("bitsandbytes.optim", p), 16.1),
    ],
}
PACKAGES = {"DeepSpeedCPUAdam": "deepspeed ninja", "torchao AdamW8bit, bf16": "torchao", "bitsandbytes AdamW8bit": "bitsandbytes"}


def set_gradients(params, gradients):
    """Sets gradients of any type (torch must be told of another type), and makes zeroed ones nonzero again."""
    for p, g in zip(params, gradients):
        if not g.view(-1)[0]:
            g.fill_(0.01)
        data = p.data
        if hasattr(p, "grad_dtype"):
            p.grad_dtype = None
        elif p.dtype != g.dtype:
            p.grad, p.data = None, torch.empty_like(g)
        p.grad = g
        p.data = data


def gradient_type(name):
    return torch.bfloat16 if name.endswith("bf16") else torch.float32


def usable(tables):
    """The tables without candidates that cannot run; prints which, and why."""
    found = {}
    for table, candidates in tables.items():
        found[table] = []
        for name, make, width in candidates:
            p = torch.nn.Parameter(torch.zeros(8192))  # with less, some have no 8 bits
            set_gradients([p], [torch.zeros(8192, dtype=gradient_type(name))])
            try:
                make([p]).step()
            except ImportError as e:
                print(f"{name} is left out: {e}; pip install {PACKAGES.get(name, '')}")
            except Exception as e:
                print(f"{name} is left out: {str(e.__cause__ or e).partition(chr(10))[0]}")
            else:
                found[table].append((name, make, width))
    return found


def steppers(candidates, sizes, gap):
    """The optimizers of a table, over the same parameters."""
    params = [torch.nn.Parameter(torch.randn(n)) for n in sizes]
    types = [gradient_type(name) for name, _, _ in candidates]
    gradients = {dtype: [torch.randn(n).to(dtype) for n in sizes] for dtype in set(types)}
    optimizers = [make(params) for _, make, _ in candidates]
    ready = [functools.partial(set_gradients, params, gradients[dtype]) for dtype in types]
    for optimizer, set_its in zip(optimizers, ready):
        set_its()
        optimizer.step()  # makes the state
    if gap is not None:
        lay_out([t for i, p in enumerate(params) for t in (p, *(g[i] for g in gradients.values()), *state(p, optimizers))], gap)
    return optimizers, ready


def state(p, optimizers):
    return [t for o in optimizers for t in o.state[p].values() if torch.is_tensor(t) and t.shape == p.shape]


def lay_out(tensors, gap):
    """Moves tensors into one piece of memory, with gaps of this many bytes."""
    memory, at = torch.empty(sum(t.numel() * t.element_size() + gap + 8 for t in tensors), dtype=torch.uint8), 0
    for t in tensors:
        size = t.numel() * t.element_size()
        t.data = memory[at : at + size].view(t.dtype).copy_(t.data)
        at += -(-(size + gap) // 8) * 8


def rounds_of(calls, rounds, seconds):
    """The seconds of each call in each round; the order rotates."""
    times = []
    for first in range(rounds):
        row = [0.0] * len(calls)
        for i in range(len(row)):
            turn = (first + i) % len(row)
            row[turn] = seconds(calls[turn])
        times.append(row)
    return times


def measure(optimizers, ready, rounds):
    """The seconds of each optimizer in each round."""

    def seconds(pair):
        optimizer, prepare = pair
        prepare()
        start = time.perf_counter()
        optimizer.step()
        return time.perf_counter() - start

    return rounds_of(list(zip(optimizers, ready)), rounds, seconds)


def table(tensors, candidates, sizes, gap, threads, rounds):
    torch.set_num_threads(threads)
    optimizers, ready = steppers(candidates, sizes, gap)
    times = measure(optimizers, ready, rounds)
    for i, (name, _, width) in enumerate(candidates):
        median = statistics.median(row[i] for row in times)
        ratio = statistics.median(row[i] / row[0] for row in times)
        print(
            f"| {tensors} | {threads} | {name} | {1e3 * median:.3f} | {width * sum(sizes) / median / 1e9:.1f} | {ratio:.2f} |",
            flush=True,
        )
    del optimizers, ready
    gc.collect()


def overhead(rounds):
    """The cost of a step outside the engine, for as many tensors as GPT-2-small has: its whole time minus that of the library's call."""
    from posneg import _library

    torch.set_num_threads(1)
    params = [torch.nn.Parameter(torch.randn(2)) for _ in gpt2_small()]
    engine, call = [0.0], _library.Call.run

    def timed(*arguments):
        start = time.perf_counter()
        call(*arguments)
        engine[0] = time.perf_counter() - start

    _library.Call.run = timed
    try:
        for name, make, _ in (*TABLES["PNM"][:1], *TABLES["AdaPNM, AMSGrad"][:1], *TABLES["AdamW"][:1]):
            optimizer, beyond = make(params), []
            for _ in range(rounds):
                for p in params:
                    p.grad = torch.zeros(2)  # as after zero_grad and backward
                start = time.perf_counter()
                optimizer.step()
                beyond.append(time.perf_counter() - start - engine[0])
            print(f"| {name} | {len(params)} | {1e6 * statistics.median(beyond):.0f} | {1e6 * min(beyond):.0f} |")
    finally:
        _library.Call.run = call


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--mebi", type=float, nargs="*", default=[32, 31.3], help="elements of the single tensors, in units of 2^20 (default 32 31.3)"
    )
    parser.add_argument("--rounds", type=int, default=12, help="(default 12)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="(default 1 2)")
    parser.add_argument("--networks", nargs="*", default=["GPT-2-small", "ResNet-50"], help="(default: both)")
    most = [t for t in TABLES if t != "8 bits"]
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=most, help="(default: all but 8 bits)")
    parser.add_argument(
        "--gap", type=int, metavar="BYTES", help="put all arrays side by side, with gaps of this size (default: as torch allocates)"
    )
    options = parser.parse_args()

    sets = {f"{mebi:g} Mi": one_tensor(mebi) for mebi in options.mebi}
    sets.update({n: s() for n, s in {"GPT-2-small": gpt2_small, "ResNet-50": resnet50}.items() if n in options.networks})
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}, posneg on {posneg.isa()}")
    tables = usable({name: TABLES[name] for name in options.tables})
    print("\n| tensors | threads | optimizer | ms per step | GB/s | times ours |\n| --- | --- | --- | --- | --- | --- |")
    for tensors, sizes in sets.items():
        for threads in options.threads:
            for candidates in tables.values():
                table(tensors, candidates, sizes, options.gap, threads, options.rounds)
    print("\n| step of tiny tensors | tensors | µs beyond the engine, median | least |\n| --- | --- | --- | --- |")
    overhead(20 * options.rounds)


if __name__ == "__main__":
    main()
