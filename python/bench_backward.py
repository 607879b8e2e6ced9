#!/usr/bin/env python3
"""Compares the optimizer's step after the backward pass with the step in the backward pass, for a transformer of 29 M parameters: time and
memory of training steps. The two alternate, so that each ratio compares steps made at the same time."""

import argparse
import resource
import statistics
import subprocess
import sys
import time

import torch

import posneg
from examples import transformer

WAYS = ["after", "in backward"]
transformer.WIDTH, transformer.LAYERS, transformer.HEADS = 512, 9, 8


class Run:
    def __init__(self, way, rule, dtype, batch):
        torch.manual_seed(1)
        self.model = transformer.Transformer().to(dtype)
        self.optimizer = getattr(posneg, rule)(self.model.named_parameters(), lr=1e-4)
        self.text = torch.randint(transformer.CHARACTERS, (batch, transformer.CONTEXT + 1))
        self.hooks = posneg.step_in_backward(self.model, self.optimizer) if way == "in backward" else None

    def step(self):
        logits = self.model(self.text[:, :-1])
        torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), self.text[:, 1:].flatten()).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def gradients(self):
        """The peak of the bytes of gradients in a step, including the current parameter's."""
        most, params = 0, list(self.model.parameters())

        def look(p):
            nonlocal most
            most = max(most, sum(q.grad.nbytes for q in params if q.grad is not None))

        if self.hooks:
            self.hooks.remove()
        hooks = [p.register_post_accumulate_grad_hook(look) for p in params]  # comes first
        if self.hooks:
            posneg.step_in_backward(self.model, self.optimizer)
        self.step()
        for hook in hooks:
            hook.remove()
        return most


def memory(way, options):
    """Prints the peak of the gradients and the growth of the process since before the model was made, in MB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run = Run(way, options.rule, getattr(torch, options.dtype), options.batch)
    for _ in range(3):
        run.step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(round(run.gradients() / 1e6), round((peak - before) * 1024 / 1e6))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rule", default="AdamW", help="a class of posneg (default AdamW)")
    parser.add_argument("--dtype", default="float32", help="type of the parameters (default float32)")
    parser.add_argument("--batch", type=int, default=4, help="windows of 64 characters per step (default 4)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="(default 1 2)")
    parser.add_argument("--rounds", type=int, default=15, help="(default 15)")
    parser.add_argument("--memory", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads[0])
    if options.memory:
        return memory(options.memory, options)

    print(f"torch {torch.__version__}, {posneg.isa()}: {options.rule}, {options.dtype}, batch {options.batch}")
    for way in WAYS:
        words = [sys.executable, __file__, *sys.argv[1:], "--memory", way]
        gradients, process = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
        print(f"{way}: at most {gradients} MB of gradients at a time, {process} MB of the process")
    runs = [Run(way, options.rule, getattr(torch, options.dtype), options.batch) for way in WAYS]
    print(f"{sum(p.numel() for p in runs[0].model.parameters()) / 1e6:.1f} M parameters")
    for threads in options.threads:
        torch.set_num_threads(threads)
        times, work = [[] for _ in runs], [[] for _ in runs]
        for n in range(options.rounds + 1):
            for k in ((0, 1) if n % 2 else (1, 0)):
                begin, begin_work = time.perf_counter(), time.process_time()
                runs[k].step()
                times[k].append(time.perf_counter() - begin)
                work[k].append(time.process_time() - begin_work)
        after, within = (t[1:] for t in times)
        print(
            f"{threads} threads: {1e3 * statistics.median(after):.0f} ms with the step after,"
            f" {1e3 * statistics.median(within):.0f} in backward, ratio {statistics.median(b / a for a, b in zip(after, within)):.3f};"
            f" of the CPUs' time {statistics.median(b / a for a, b in zip(*work)):.3f}", flush=True,
        )


if __name__ == "__main__":
    main()
