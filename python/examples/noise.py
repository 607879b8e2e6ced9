#!/usr/bin/env python3
"""Trains a small classifier, and logs the gradient noise scale to TensorBoard.

    python3 python/examples/noise.py --logs runs
    tensorboard --logdir runs

NoiseCallback does the same in Lightning, and NoiseTrainerCallback in transformers' Trainer. Give the optimizer the option noise_every.
"""

import argparse

import torch

import posneg

try:
    from lightning.pytorch import Callback
except ImportError:
    Callback = object
try:
    from transformers import TrainerCallback
except ImportError:
    TrainerCallback = object


def curves(noise, batch):
    """What to plot. batch is the number of samples in the gradient of one step: over all accumulated passes and all processes."""
    return {
        "noise/scale in samples": noise.scale * batch,
        "noise/standard error": noise.scale_error * batch,
        "noise/signal": noise.signal,
        "noise/variance": noise.variance,
    }


class NoiseCallback(Callback):
    """For Lightning: Trainer(callbacks=[NoiseCallback(batch)]). The curves go to Lightning's own logger, every log_every_n_steps."""

    def __init__(self, batch):
        self.batch = batch

    def on_train_batch_end(self, trainer, module, *_):
        noise = trainer.optimizers[0].noise
        if noise is not None:
            module.log_dict(curves(noise, self.batch))


class NoiseTrainerCallback(TrainerCallback):
    """For transformers: Trainer(callbacks=[NoiseTrainerCallback(writer, batch)]), where writer is a SummaryWriter."""

    def __init__(self, writer, batch):
        self.writer, self.batch = writer, batch

    def on_step_end(self, args, state, control, optimizer=None, **_):
        noise = optimizer.optimizer.noise  # optimizer is accelerate's
        if noise is not None and state.global_step % args.logging_steps == 0:
            for name, value in curves(noise, self.batch).items():
                self.writer.add_scalar(name, value, state.global_step)


def main(arguments=None):
    from torch.utils.tensorboard import SummaryWriter  # needs the package tensorboard

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--logs", default="runs", help="folder for TensorBoard (default: runs)")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=64)
    a = parser.parse_args(arguments)
    torch.manual_seed(1)
    teacher = torch.nn.Sequential(torch.nn.Linear(20, 40), torch.nn.Tanh(), torch.nn.Linear(40, 5))
    model = torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.ReLU(), torch.nn.Linear(64, 5))
    optimizer = posneg.AdaPNM(model.parameters(), lr=3e-4, noise_every=10, noise_decay=0.97)
    with SummaryWriter(a.logs) as writer:
        for step in range(1, a.steps + 1):
            x = torch.randn(a.batch, 20)
            with torch.no_grad():
                y = torch.distributions.Categorical(logits=4 * teacher(x)).sample()
            loss = torch.nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 100 == 0 or step == a.steps:
                writer.add_scalar("loss", loss.item(), step)
                said, noise = f"step {step}: loss {loss:.3f}", optimizer.noise
                if noise is not None:  # or else no step has read it yet
                    for name, value in curves(noise, a.batch).items():
                        writer.add_scalar(name, value, step)
                    said += f", noise scale {noise.scale * a.batch:.0f} ± {noise.scale_error * a.batch:.0f} samples"
                print(said)


if __name__ == "__main__":
    main()
