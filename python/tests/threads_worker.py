"""What test_threads.py has torchrun start: rank 0 prints how many threads steps have, had the process such CPUs; then as torch has two."""

import os
import sys

import torch

import posneg
from posneg import _library, _threads


def threads(of_process, of_torchrun, by_go):
    class Library:
        def pnm_workers(self):
            return by_go

    os.sched_getaffinity = lambda process: range(of_torchrun if process else of_process)
    _library.load = Library
    _threads._share.cache_clear()
    return posneg.get_num_threads()


seen = [threads(*map(int, cpus.split(","))) for cpus in sys.argv[1:]]
torch.set_num_threads(2)
if os.environ["RANK"] == "0":
    print("threads", *seen, posneg.get_num_threads(), flush=True)
