"""A process of the tests of more than one: torchrun's variables say which.

It trains a small model under DistributedDataParallel with ZeroRedundancyOptimizer, and leaves parameters and state in a file.
"""

import argparse
import os

import torch
import torch.distributed as dist
from torch.distributed.optim import ZeroRedundancyOptimizer

import posneg


def model(dtype=torch.float32):
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(6, 17), torch.nn.Tanh(), torch.nn.Linear(17, 9), torch.nn.Tanh(), torch.nn.Linear(9, 2)).to(dtype)


def loss(net, step):
    """The same in all processes, so that the mean of their gradients is that of one: of 2 or 4 equal numbers it is exact."""
    data = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
    return net(data.to(next(net.parameters()).dtype)).square().sum()


def train(net, optimizer, first, last, at_step=lambda step: None):
    for step in range(first, last):
        at_step(step)
        optimizer.zero_grad()
        loss(net, step).backward()
        optimizer.step()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--optimizer", required=True)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--last", type=int, default=20)
    parser.add_argument("--load")
    parser.add_argument("--save", required=True)
    parser.add_argument("--state_dtype")
    parser.add_argument("--masters", action="store_true")
    parser.add_argument("--die", type=int, nargs=2, default=(-1, -1), metavar=("RANK", "STEP"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()

    net = model(torch.bfloat16 if options.masters else torch.float32)
    replica = torch.nn.parallel.DistributedDataParallel(net)
    how = dict(lr=0.05, state_dtype=options.state_dtype, master_weights=options.masters)
    optimizer = ZeroRedundancyOptimizer(net.parameters(), optimizer_class=getattr(posneg, options.optimizer), **how)
    if options.load:
        loaded = torch.load(options.load)
        net.load_state_dict(loaded["model"])
        optimizer.load_state_dict(loaded["optimizer"])

    def at_step(step):
        if (rank, step) == tuple(options.die):
            os.kill(os.getpid(), 9)

    train(replica, optimizer, options.first, options.last, at_step)
    mine = sum(t.numel() for s in optimizer.optim.state.values() for name, t in s.items() if name not in ("step", "rounding"))
    shares = [None] * dist.get_world_size()
    dist.all_gather_object(shares, mine)
    optimizer.consolidate_state_dict(to=0)
    if rank == 0:
        torch.save({"model": net.state_dict(), "optimizer": optimizer.state_dict(), "shares": shares}, options.save)
    dist.barrier()  # who leaves earlier takes the connections with it
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
