"""The number of threads of a step."""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from operator import index
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Optional, TypeVar

import torch

from . import _library

MOST = 4096  # of pnm_options

_T = TypeVar("_T")
_R = TypeVar("_R")


def _checked(n: Any, name: str) -> int:
    if not 1 <= n <= MOST:
        raise ValueError(f"posneg: {name} is {n}, must be from 1 to {MOST}")
    return index(n)


def _of_environment() -> Optional[int]:
    value = os.environ.get("POSNEG_NUM_THREADS")
    if not value:
        return None
    try:
        n = int(value)
    except ValueError:
        raise ValueError(f"posneg: POSNEG_NUM_THREADS is {value!r}, must be a whole number from 1 to {MOST}") from None
    return _checked(n, "POSNEG_NUM_THREADS")


_ENVIRONMENT = _of_environment()
_chosen = _ENVIRONMENT


def set_num_threads(n: Optional[int]) -> None:
    """Sets the largest number of threads of a step, for all optimizers of this process, from 1 to 4096. None restores the default.

    The default is the value of the environment variable POSNEG_NUM_THREADS when posneg is imported, or else torch.get_num_threads(). If
    torch has a single thread because torchrun, not the user, has set OMP_NUM_THREADS to 1, the default is this process's share of the CPUs:
    those that torchrun may use, divided by LOCAL_WORLD_SIZE. Results do not depend on the number of threads.

    >>> posneg.set_num_threads(2)
    >>> posneg.get_num_threads()
    2
    >>> posneg.set_num_threads(None)
    """
    global _chosen
    if n is not None and not hasattr(n, "__index__"):
        raise TypeError(f"posneg: the number of threads is {n!r}, must be a whole number from 1 to {MOST}, or None")
    _chosen = _ENVIRONMENT if n is None else _checked(index(n), "the number of threads")


def get_num_threads() -> int:
    """Returns the largest number of threads of a step; small steps use fewer. See set_num_threads."""
    if _chosen is not None:
        return _chosen
    threads = torch.get_num_threads()
    return threads if threads > 1 else _share()


@functools.lru_cache(maxsize=None)
def _share() -> int:
    """The number of threads of a process in which torch has one: 1, unless torchrun alone has set that."""
    torchrun = _torchrun()
    if torchrun is None:
        return 1
    try:
        bound_to, of_all = (len(os.sched_getaffinity(process)) for process in (0, torchrun))
        processes = int(os.environ["LOCAL_WORLD_SIZE"])
    except (OSError, KeyError, ValueError):
        return 1
    cpus = int(_library.load().pnm_workers())
    if cpus < bound_to:  # a quota, which is that of all processes
        of_all = min(cpus, of_all)
    return max(1, min(cpus, of_all // max(1, processes)))


def _torchrun() -> Optional[int]:
    """The process of the torchrun that has set OMP_NUM_THREADS to 1 for this process by itself; None if something else has set it.

    torchrun sets the variable only if its own environment does not have it. /proc has the environment that a process was started with:
    that of torchrun then lacks OMP_NUM_THREADS. The processes that torchrun starts have TORCHELASTIC_RUN_ID.
    """
    if os.environ.get("OMP_NUM_THREADS") != "1" or "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    process = os.getppid()
    try:
        while process:
            began_with = _environment(process)
            if b"TORCHELASTIC_RUN_ID" not in began_with:
                return None if b"OMP_NUM_THREADS" in began_with else process
            process = _parent(process)
    except (OSError, ValueError):  # not Linux, or no permission
        pass
    return None


def _environment(process: int) -> Dict[bytes, bytes]:
    entries = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    return {name: value for name, _, value in (entry.partition(b"=") for entry in entries)}


def _parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[1])


def in_threads(call: Callable[[_T], _R], arguments: Iterable[_T], size: Callable[[_T], int], least: int) -> List[_R]:
    """The results of call, in order. call releases the interpreter's lock for most of its time. Arguments below a size share a task."""
    batches: List[List[_T]] = [[]]
    left = least
    for argument in arguments:
        batches[-1].append(argument)
        left -= size(argument)
        if left <= 0:
            batches.append([])
            left = least
    with ThreadPoolExecutor(min(get_num_threads(), 4)) as pool:
        return [result for batch in pool.map(lambda batch: list(map(call, batch)), batches) for result in batch]
