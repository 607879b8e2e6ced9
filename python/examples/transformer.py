#!/usr/bin/env python3
"""Trains a character-level transformer of 1.0 M parameters with each format of the optimizer's state and compares the losses with those of
float32: the same weights at the start and the same batches for the same seed.

The text is Perl's manual, of Debian's package perl-doc. Every tenth file of it is held out. A run of 2,000 steps takes one to two minutes
on one core. Runs that the CSV file already holds are not repeated.
"""

import argparse
import csv
import itertools
import math
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path

import torch
from torch import nn

import posneg

CONTEXT, BATCH, WARMUP, EVERY = 64, 4, 100, 100
WIDTH, LAYERS, HEADS, CHARACTERS = 128, 5, 4, 128

RULES = {
    "PNM": (posneg.PNM, dict(lr=1.0, weight_decay=1e-4)),
    "AdaPNM": (posneg.AdaPNM, dict(lr=2e-3, weight_decay=0.1)),
    "AdamW": (posneg.AdamW, dict(lr=1e-3, weight_decay=0.1)),
    "Lion": (posneg.Lion, dict(lr=3e-4, weight_decay=0.3)),
}

# What the weights are rounded to at the start, and the format of the state. The second shows what chance does.
FORMATS = {
    "float32": (torch.float32, "float32"),
    "float32, start rounded to bfloat16": (torch.bfloat16, "float32"),
    "bfloat16 state": (torch.float32, "bfloat16"),
    "mxfp8 momenta": (torch.float32, "mxfp8"),
}


def read(folder):
    """The manual as ASCII codes, without generated and repeated parts: the text for training, and the text held out."""
    files = [f for f in sorted(Path(folder).rglob("perl*.pod")) if f.stem not in ("perlapi", "perltoc", "perluniprops") and "delta" not in f.stem]
    if len(files) < 10:
        sys.exit(f"{folder} has no manual of Perl: install Debian's package perl-doc, or name another folder with --text")
    codes = [torch.tensor([c for c in f.read_bytes() if c < CHARACTERS], dtype=torch.uint8) for f in files]
    return torch.cat([c for i, c in enumerate(codes) if i % 10 != 9]), torch.cat(codes[9::10])


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.characters, self.places = nn.Embedding(CHARACTERS, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True) for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CHARACTERS)
        self.register_buffer("mask", torch.full((CONTEXT, CONTEXT), -math.inf).triu(1))
        nn.init.normal_(self.characters.weight, std=0.02)
        nn.init.normal_(self.places.weight, std=0.02)

    def forward(self, x):
        h = self.characters(x) + self.places.weight
        for layer in self.layers:
            h = layer(h, src_mask=self.mask)
        return self.head(self.norm(h))


def loss(model, text, starts):
    """The mean loss, in nats per character, of the windows that begin at these positions."""
    x = text[starts[:, None] + torch.arange(CONTEXT + 1)].long()
    return nn.functional.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())


def rate(step, steps):
    """A short linear rise, then half a cosine down to a tenth."""
    return (step + 1) / WARMUP if step < WARMUP else 0.55 + 0.45 * math.cos(math.pi * (step - WARMUP) / max(1, steps - WARMUP))


def train(rule, form, seed, text, held_out, steps):
    """Yields the step, the training loss since the last yield, and the loss on the held-out text."""
    make, options = RULES[rule]
    start, state = FORMATS[form]
    torch.manual_seed(seed)
    model = Transformer()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.to(start))
    optimizer = make(model.named_parameters(), **options, state_dtype=state, seed=seed)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps))
    windows = torch.linspace(0, len(held_out) - CONTEXT - 1, 256).long()
    losses = []
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        batch = loss(model, text, torch.randint(len(text) - CONTEXT, (BATCH,)))
        batch.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(batch.item())
        if step % EVERY == 0 or step == steps:
            with torch.no_grad():
                yield step, statistics.mean(losses), loss(model, held_out, windows).item()
            losses = []


def read_curves(file):
    """Lists of (step, training loss, held-out loss) by (rule, format, seed)."""
    curves = defaultdict(list)
    if file.exists():
        with open(file, newline="") as lines:
            for rule, form, seed, *point in list(csv.reader(lines))[1:]:
                curves[rule, form, int(seed)].append((int(point[0]), float(point[1]), float(point[2])))
    return curves


def write_curves(file, curves):
    with open(file, "w", newline="") as lines:
        rows = csv.writer(lines, lineterminator="\n")
        rows.writerow(["optimizer", "format", "seed", "step", "train_loss", "held_out_loss"])
        for run, points in curves.items():
            rows.writerows([*run, step, f"{a:.6g}", f"{b:.6g}"] for step, a, b in points)


def plus_minus(mean, error, seeds, form):
    return f"{mean:{form}}" + (f" ± {error:.4f}" if seeds > 1 else "")


def report(curves, rules, formats, seeds):
    """The final held-out losses, and their differences from float32 with the same seed."""
    deviation = statistics.stdev if len(seeds) > 1 else lambda _: 0
    print("\n| | held-out loss, nats per character | − float32 |\n| --- | --- | --- |")
    for rule in rules:
        base = [curves[rule, formats[0], s][-1][2] for s in seeds]
        for form in formats:
            ends = [curves[rule, form, s][-1][2] for s in seeds]
            apart = [a - b for a, b in zip(ends, base)]
            difference = plus_minus(statistics.mean(apart), deviation(apart) / math.sqrt(len(seeds)), len(seeds), "+.4f")
            print(f"| {rule}, {form} | {plus_minus(statistics.mean(ends), deviation(ends), len(seeds), '.4f')} | {'' if form == formats[0] else difference} |")


def draw(curves, rules, formats, seeds, file):
    import matplotlib

    matplotlib.use("svg" if file.suffix == ".svg" else "agg")
    matplotlib.rcParams["svg.hashsalt"] = "posneg"  # the same file for the same numbers
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(rules), figsize=(3.4 * len(rules), 6), layout="constrained", squeeze=False, sharex=True, sharey="row")
    for (top, bottom), rule in zip(axes.T, rules):
        for n, form in enumerate(formats):
            runs = [curves[rule, form, s] for s in seeds]
            steps = [point[0] for point in runs[0]]
            for k, style in (1, ":"), (2, "-"):
                mean = [statistics.mean(point[k] for point in points) for points in zip(*runs)]
                top.plot(steps, mean, style, color=f"C{n}", lw=1, label=form if k == 2 else None)
            for s, run in zip(seeds, runs):
                bottom.plot(steps, [a[2] - b[2] for a, b in zip(run, curves[rule, formats[0], s])], color=f"C{n}", lw=1)
        top.set(title=rule)
        bottom.set(xlabel="step", ylim=(-0.05, 0.05))
    axes[0, 0].set(ylabel="loss")
    axes[1, 0].set(ylabel="held-out loss − that of float32")
    axes[0, 0].legend()
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES), help="(default all)")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS), help="formats in addition to float32 (default all)")
    parser.add_argument("--seeds", type=int, default=3, help="runs per format (default 3)")
    parser.add_argument("--steps", type=int, default=2000, help="(default 2000)")
    parser.add_argument("--text", default="/usr/share/perl", help="a folder that contains the manual (default /usr/share/perl)")
    parser.add_argument("--out", type=Path, default=Path("transformer.svg"), help="the picture; the losses go to a .csv file next to it (default transformer.svg)")
    options = parser.parse_args()

    torch.set_num_threads(1)  # sums are then taken in one order
    formats = [f for f in FORMATS if f == "float32" or f in options.formats]
    text, held_out = read(options.text)
    print(f"{sum(p.numel() for p in Transformer().parameters()):,} parameters; {len(text):,} characters to train on, {len(held_out):,} held out")
    seeds, file = range(1, options.seeds + 1), options.out.with_suffix(".csv")
    curves = read_curves(file)
    due = [run for run in itertools.product(options.rules, formats, seeds) if run not in curves or curves[run][-1][0] != options.steps]
    start = time.time()
    for n, run in enumerate(due):
        curves[run] = []
        for point in train(*run, text, held_out, options.steps):
            curves[run].append(point)
            part = n + point[0] / options.steps
            print(f"run {n + 1} of {len(due)}, step {point[0]}, about {(time.time() - start) * (len(due) / part - 1) / 60:.0f} minutes left:"
                  f" {run[0]}, {run[1]}, seed {run[2]}: loss {point[1]:.4f}, held out {point[2]:.4f}", flush=True)
        write_curves(file, curves)
    report(curves, options.rules, formats, seeds)
    draw(curves, options.rules, formats, seeds, options.out)
    return curves


if __name__ == "__main__":
    main()
