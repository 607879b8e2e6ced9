#!/usr/bin/env python3
"""Times training with an optimizer in the host's memory: posneg.offload, torchao's CPUOffloadOptimizer and DeepSpeedCPUAdam.

It has been run only on the CPU, where copies are not transfers and the times mean little. It is meant for a machine with a GPU:

    python3 python/bench_offload.py                                   # 24 bfloat16 tensors of 16 Mi, ten minutes or so, 60 GB
    python3 python/bench_offload.py --device cpu --tensors 6 --mebi 0.25 --rounds 3 --threads 1 2
    go test -c -o pnm.test . && python3 python/bench_offload.py --suite ./pnm.test    # runs the engine's tests with AVX-512, too

In the first table each candidate trains its own model, a chain of layers whose backward passes compute for a given time and then produce
a gradient. Each takes one step per round, in rotating order. "waits" is the share of a step in which the device does not compute:
1 - (time of forward and backward passes without an optimizer) / (time of a step). The backward pass takes either no time, or as long as
copying the gradients to the host. The second table has steps of parameters on the host alone. Figures are medians of the rounds, and of the
ratios within rounds. The program names what it cannot run, with the reason.
"""

import argparse
import gc
import os
import platform
import statistics
import subprocess
import time

import torch

import posneg
from bench import rounds_of
from posneg.offload import Offload

LR = 1e-4


class Device:
    """The differences between a GPU and the CPU in its place."""

    def __init__(self, name):
        self.device = torch.device(name)
        self.module = None if self.device.type == "cpu" else getattr(torch, self.device.type)
        side = 256 if self.module is None else 4096
        self.factor = torch.randn(side, side, device=self.device).to(torch.float32 if self.module is None else torch.bfloat16)
        self.product = torch.empty_like(self.factor)

    def __str__(self):
        return "the CPU in place of a GPU" if self.module is None else self.module.get_device_name(self.device)

    def finish(self):
        if self.module is not None:
            self.module.synchronize()

    def seconds(self, call):
        self.finish()
        start = time.perf_counter()
        call()
        self.finish()
        return time.perf_counter() - start

    def compute(self, products):
        for _ in range(products):
            torch.mm(self.factor, self.factor, out=self.product)

    def per_product(self):
        self.compute(3)
        return min(self.seconds(lambda: self.compute(20)) for _ in range(3)) / 20

    def bandwidth(self, to_host):
        """Bytes per second of large copies from or to pinned memory."""
        here = torch.empty(64 << 20, dtype=torch.uint8, device=self.device)
        there = torch.empty(64 << 20, dtype=torch.uint8, device="cpu", pin_memory=self.module is not None)
        to, source = (there, here) if to_host else (here, there)
        return len(here) / min(self.seconds(lambda: to.copy_(source, non_blocking=True)) for _ in range(5))


class Layer(torch.autograd.Function):
    """Computes for a given time backwards, and half as long forwards, and has a given gradient."""

    @staticmethod
    def forward(ctx, h, p, gradient, device, products):
        ctx.save_for_backward(gradient)
        ctx.device, ctx.products = device, products
        device.compute(products // 2)
        return h + p.reshape(-1)[0]

    @staticmethod
    def backward(ctx, h):
        ctx.device.compute(ctx.products)
        return h, ctx.saved_tensors[0].clone(), None, None, None


class Training:
    """A model, and an optimizer of it if `make` is not None."""

    def __init__(self, device, sizes, dtype, make):
        self.device = device
        self.params = [torch.nn.Parameter(torch.randn(n, device=device.device, dtype=dtype) / 8) for n in sizes]
        self.optimizer = make(self.params) if make else None

    def step(self, gradients, products):
        h = torch.zeros((), device=self.device.device, dtype=self.params[0].dtype)
        for p, g in zip(self.params, gradients):
            h = Layer.apply(h, p, g, self.device, products)
        h.backward()
        if self.optimizer is not None:
            self.optimizer.step()
        for p in self.params:
            p.grad = None


def torchao(params, of, **options):
    from torchao.optim import CPUOffloadOptimizer

    return CPUOffloadOptimizer(params, of, minimal_size=0, lr=LR, **options)


def deepspeed_adam(params):
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    return DeepSpeedCPUAdam(params, lr=LR, adamw_mode=True)


class Serial:
    """DeepSpeed's AdamW over float32 masters, between copies that wait for each other, as in ZeRO-Offload on one device."""

    def __init__(self, params):
        self.params = params
        pinned = params[0].device.type != "cpu"
        self.grads = [torch.empty(p.shape, dtype=p.dtype, device="cpu", pin_memory=pinned) for p in params]
        self.masters = [torch.nn.Parameter(p.detach().float().cpu()) for p in params]
        for master in self.masters:
            master.grad = torch.empty_like(master)
        self.back = [torch.empty_like(g, pin_memory=pinned) for g in self.grads]
        self.optimizer = deepspeed_adam(self.masters)

    @torch.no_grad()
    def step(self):
        for p, g, master in zip(self.params, self.grads, self.masters):
            g.copy_(p.grad)
            master.grad.copy_(g)
        self.optimizer.step()
        for p, back, master in zip(self.params, self.back, self.masters):
            back.copy_(master)
            p.copy_(back)


OFFLOADS = {
    "no optimizer": None,
    "posneg.offload, AdamW": lambda p: Offload(p, posneg.AdamW, lr=LR),
    "posneg.offload, AdamW, 1 bucket": lambda p: Offload(p, posneg.AdamW, lr=LR, buckets=1),
    "posneg.offload, AdamW, 4 buckets": lambda p: Offload(p, posneg.AdamW, lr=LR, buckets=4),
    "posneg.offload, AdamW, 4 buckets, clip_norm": lambda p: Offload(p, posneg.AdamW, lr=LR, buckets=4, clip_norm=1.0),
    "posneg.offload, AdaPNM, 4 buckets": lambda p: Offload(p, posneg.AdaPNM, lr=LR, buckets=4),
    "torchao, torch's fused AdamW (bfloat16 state)": lambda p: torchao(p, torch.optim.AdamW, fused=True),
    "torchao, posneg.AdamW": lambda p: torchao(p, posneg.AdamW),
    "torchao, posneg.AdaPNM": lambda p: torchao(p, posneg.AdaPNM),
    "DeepSpeedCPUAdam, serial copies": Serial,
}
ON_THE_HOST = {
    "posneg.AdamW, bfloat16 with masters": (torch.bfloat16, lambda p: posneg.AdamW(p, lr=LR, master_weights=True)),
    "posneg.AdaPNM, bfloat16 with masters": (torch.bfloat16, lambda p: posneg.AdaPNM(p, lr=LR, master_weights=True)),
    "posneg.AdamW, float32": (torch.float32, lambda p: posneg.AdamW(p, lr=LR)),
    "torch AdamW, fused, float32": (torch.float32, lambda p: torch.optim.AdamW(p, lr=LR, fused=True)),
    "torch AdamW, fused, bfloat16 (and its state)": (torch.bfloat16, lambda p: torch.optim.AdamW(p, lr=LR, fused=True)),
    "DeepSpeedCPUAdam, float32": (torch.float32, deepspeed_adam),
}


def reason(e):
    return f"{type(e).__name__}: {str(e.__cause__ or e).partition(chr(10))[0]}"


def median_of(values):
    return statistics.median(list(values))


def train(device, sizes, dtype, names, rounds):
    gradients = [torch.randn(n, device=device.device).to(dtype) / 1024 for n in sizes]
    trainings = {}
    for name in names:
        try:
            trainings[name] = training = Training(device, sizes, dtype, OFFLOADS[name])
            for _ in range(2):  # makes the state
                training.step(gradients, 0)
        except Exception as e:
            trainings.pop(name, None)
            print(f"{name} was not run: {reason(e)}")
    gc.collect()
    size = sum(g.numel() * g.element_size() for g in gradients)
    to_host, to_device = device.bandwidth(True), device.bandwidth(False)
    print(f"\n{device}: {to_host / 1e9:.1f} GB/s to the host, {to_device / 1e9:.1f} GB/s back;", end=" ")
    print(f"gradients take {1e3 * size / to_host:.1f} ms; {torch.get_num_threads()} threads")
    per_product = device.per_product()
    print("\n| backward | optimizer | ms per step | 10^6 parameters per second | times the first's | waits |")
    print("| --- | --- | --- | --- | --- | --- |")
    for backward, products in (("no time", 0), ("as the gradients' way", max(1, round(size / to_host / per_product / len(sizes))))):
        calls = [lambda t=t: t.step(gradients, products) for t in trainings.values()]
        rounds_of(calls, 1, device.seconds)
        times = rounds_of(calls, rounds, device.seconds)
        first = 1 if len(trainings) > 1 else 0
        for i, name in enumerate(trainings):
            median, ratio = median_of(row[i] for row in times), median_of(row[i] / row[first] for row in times)
            waits = median_of(1 - row[0] / row[i] for row in times) if next(iter(trainings)) == "no optimizer" else float("nan")
            figures = f"{1e3 * median:.2f} | {sum(sizes) / median / 1e6:.0f} | {ratio:.2f} | {100 * waits:.0f} %"
            print(f"| {backward} | {name} | {figures} |", flush=True)


def steps_alone(sizes, threads, rounds):
    optimizers = {}
    for name, (dtype, make) in ON_THE_HOST.items():
        params = [torch.nn.Parameter((torch.randn(n) / 8).to(dtype)) for n in sizes]
        for p in params:
            p.grad = torch.randn_like(p) / 1024
        try:
            optimizers[name] = make(params)
            optimizers[name].step()
        except Exception as e:
            optimizers.pop(name, None)
            print(f"{name} was not run: {reason(e)}")
    print("\n| threads | step on the host | ms | times the first's |\n| --- | --- | --- | --- |")
    before = torch.get_num_threads()
    for count in threads:
        if count > len(os.sched_getaffinity(0)):
            print(f"{count} threads were not run: this process has {len(os.sched_getaffinity(0))} CPUs")
            continue
        torch.set_num_threads(count)
        calls = [o.step for o in optimizers.values()]
        rounds_of(calls, 1, Device("cpu").seconds)
        times = rounds_of(calls, rounds, Device("cpu").seconds)
        for i, name in enumerate(optimizers):
            ratio = median_of(row[i] / row[0] for row in times)
            print(f"| {count} | {name} | {1e3 * median_of(row[i] for row in times):.2f} | {ratio:.2f} |", flush=True)
    torch.set_num_threads(before)


def suite(binary):
    """Runs the engine's tests, which fail without AVX-512, in the folder of the sources, where testdata is."""
    print(f"\n{binary}, AVX-512 required:", flush=True)
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
    done = subprocess.run([os.path.abspath(binary)], cwd=root, env={**os.environ, "PNM_TEST_REQUIRE": "avx512"})
    print("passed" if done.returncode == 0 else f"FAILED: exit status {done.returncode}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default, help="(default: cuda, or cpu if there is no GPU)")
    parser.add_argument("--tensors", type=int, default=24, help="(default 24)")
    parser.add_argument("--mebi", type=float, default=16, help="elements per tensor, in units of 2^20 (default 16)")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16", help="type of the model (default bfloat16)")
    parser.add_argument("--rounds", type=int, default=7, help="(default 7)")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 4, 8, 16], help="threads of the second table (default 1 4 8 16)")
    parser.add_argument("--candidates", nargs="+", choices=OFFLOADS, default=list(OFFLOADS), metavar="NAME", help="(default: all)")
    parser.add_argument("--suite", metavar="BINARY", help="the engine's test binary from `go test -c`: tests with AVX-512 required")
    options = parser.parse_args()

    print(f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}, posneg on {posneg.isa()}")
    sizes = [int(options.mebi * 2**20)] * options.tensors
    train(Device(options.device), sizes, getattr(torch, options.dtype), options.candidates, options.rounds)
    gc.collect()
    if options.threads:
        steps_alone(sizes, options.threads, options.rounds)
    if options.suite:
        suite(options.suite)
    else:
        print("\nThe engine's tests with AVX-512 were not run: give --suite the binary of `go test -c`")


if __name__ == "__main__":
    main()
