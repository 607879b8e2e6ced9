#!/usr/bin/env python3
"""Times steps of posneg's optimizers beside the same rules in torch operations and beside torch's own AdamW.

All candidates of a table run in turn, round after round; the table has the medians, and the medians of the ratios of each round.
"""

import argparse
import gc
import platform
import statistics
import time

import torch

import posneg
from eager import EagerAdaPNM, EagerPNM


def one_tensor(mebi):
    return [mebi << 20]


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


# For each table, the candidates and how many bytes of float32 they must move for an element: p, g and the state are read, all
# that changes is written.
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
    ],
}


def steppers(candidates, sizes):
    """The optimizers of a table, over the same parameters; those that this torch does not have are left out."""
    params = [torch.nn.Parameter(torch.randn(n)) for n in sizes]
    for p in params:
        p.grad = torch.randn_like(p)
    found = []
    for name, make, width in candidates:
        try:
            optimizer = make(params)
            optimizer.step()  # makes the state
        except (TypeError, RuntimeError):
            print(f"({name}: not in torch {torch.__version__})")
            continue
        found.append((name, optimizer, width))
    return found


def measure(found, rounds):
    """For each round the seconds of each candidate, one after the other."""
    times = []
    for _ in range(rounds):
        row = []
        for _, optimizer, _ in found:
            start = time.perf_counter()
            optimizer.step()
            row.append(time.perf_counter() - start)
        times.append(row)
    return times


def table(network, name, sizes, threads, rounds):
    torch.set_num_threads(threads)
    found = steppers(TABLES[name], sizes)
    times = measure(found, rounds)
    total = sum(sizes)
    for i, (candidate, _, width) in enumerate(found):
        median = statistics.median(row[i] for row in times)
        ratio = statistics.median(row[i] / row[0] for row in times)
        print(
            f"| {network} | {threads} | {candidate} | {1e3 * median:.3f} | {width * total / median / 1e9:.1f} | {ratio:.2f} |",
            flush=True,
        )
    del found
    gc.collect()


def overhead(rounds):
    """What a step costs besides the engine: the whole, less the library's call, for the number of tensors of GPT-2-small."""
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
    parser.add_argument("--mebi", type=int, default=64, help="elements of the single tensor, in units of 2^20 (default 64)")
    parser.add_argument("--rounds", type=int, default=15, help="(default 15)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="(default 1 2)")
    parser.add_argument("--networks", nargs="*", default=["GPT-2-small", "ResNet-50"], help="(default: both)")
    options = parser.parse_args()

    networks = {f"{options.mebi} Mi": one_tensor(options.mebi)}
    networks.update({n: s() for n, s in {"GPT-2-small": gpt2_small, "ResNet-50": resnet50}.items() if n in options.networks})
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}, posneg on {posneg.isa()}\n")
    print("| tensors | threads | optimizer | ms per step | GB/s | times ours |\n| --- | --- | --- | --- | --- | --- |")
    for network, sizes in networks.items():
        for threads in options.threads:
            for name in TABLES:
                table(network, name, sizes, threads, options.rounds)
    print("\n| step of tiny tensors | tensors | µs beyond the engine, median | least |\n| --- | --- | --- | --- |")
    overhead(20 * options.rounds)


if __name__ == "__main__":
    main()
