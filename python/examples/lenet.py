#!/usr/bin/env python3
"""Trains LeNet-5 on Fashion-MNIST with posneg's optimizers and with the same rules in torch operations, from the same weights and on the
same batches. Draws the losses: the curves coincide.

The 6,000 images are those that the repository's Go examples embed.
"""

import argparse
import gzip
from pathlib import Path

import numpy as np
import torch
from torch import nn

import posneg
from posneg._eager import EagerAdaPNM, EagerPNM

DATA = Path(__file__).parents[2] / "internal" / "fashionmnist" / "data"

RULES = {
    "PNM": (posneg.PNM, EagerPNM, dict(lr=0.5, weight_decay=5e-4)),
    "AdaPNM": (posneg.AdaPNM, EagerAdaPNM, dict(lr=1e-3, weight_decay=0.5)),
}


def read(name, header):
    """An IDX file without its header."""
    return torch.from_numpy(np.frombuffer(gzip.open(DATA / name).read(), np.uint8, offset=header).copy())


def images():
    x = read("train-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28).float() / 255
    return (x - x.mean()) / x.std(), read("train-labels-idx1-ubyte.gz", 8).long()


def lenet():
    # Smooth, as LeCun's was: where rectifiers or maxima flip, curves part for good by what one bit decides, on some machines.
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10),
    )


def train(make, options, epochs, batch=30):
    """The loss of each batch."""
    torch.manual_seed(1)
    x, y = images()
    model = lenet()
    optimizer, losses = make(model.parameters(), **options), []
    for _ in range(epochs):
        for rows in torch.randperm(len(y)).split(batch):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def draw(curves, file):
    import matplotlib

    matplotlib.use("svg" if file.suffix == ".svg" else "agg")
    matplotlib.rcParams["svg.hashsalt"] = "posneg"  # the same file for the same numbers
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for rule, (ours, theirs) in curves.items():
        axes[0].plot(theirs, lw=3, alpha=0.4, label=f"{rule}, torch operations")
        axes[0].plot(ours, lw=1, label=f"posneg.{rule}")
        axes[1].semilogy(np.maximum(np.abs(np.subtract(ours, theirs)), 1e-9), lw=1, label=rule)
    axes[0].set(title="LeNet-5 on Fashion-MNIST", xlabel="step", ylabel="loss of the batch")
    axes[1].set(title="difference of the losses", xlabel="step")
    for a in axes:
        a.legend()
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=1, help="(default 1)")
    parser.add_argument("--out", type=Path, default=Path("lenet.svg"), help="the picture (default lenet.svg)")
    options = parser.parse_args()
    torch.set_num_threads(1)  # sums are then taken in one order
    curves = {}
    for rule, (ours, theirs, arguments) in RULES.items():
        curves[rule] = a, b = train(ours, arguments, options.epochs), train(theirs, arguments, options.epochs)
        print(f"{rule}: loss {a[0]:.4f} at the first step, {np.mean(a[-20:]):.4f} in the last 20; largest difference {np.abs(np.subtract(a, b)).max():.1e}")
    draw(curves, options.out)
    return curves


if __name__ == "__main__":
    main()
