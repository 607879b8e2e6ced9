"""The sum of the squares of all gradients, where several processes have their parts of them.

A sum is PNM_SQUARES integers, and one behind them that counts the processes whose step must be skipped. All processes come to the same
exchanges: these are those of the parameters, in their order, whether or not a parameter has a gradient.
"""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from . import _library
from ._placements import is_cut

Spread = Optional[Tuple[Any, Tuple[int, ...]]]  # the mesh on which a tensor is cut, and along which of its dimensions


def total(params: Sequence[Tensor], due: Sequence[int], grads: np.ndarray, group: Any, skip: bool, workers: int) -> np.ndarray:
    """The sum for the gradients of the parameters that are due, grads, each a VECTOR, and for those of other processes."""
    spreads = list(map(spread, params))
    rows: Dict[Spread, List[int]] = {where: [] for where in spreads}
    for row, i in enumerate(due):
        rows[spreads[i]].append(row)
    result = np.zeros(_library.SQUARES + 1, np.int64)
    result[-1] = skip
    for where, those in rows.items():
        squares = np.zeros_like(result)
        _library.sum_squares(np.ascontiguousarray(grads[those]), workers, squares)
        if where:
            squares[-1] = skip
            add_over(squares, where)
        result += squares
    if group is not None:
        add_up(result, group)
    return result


def spread(p: Any) -> Spread:
    if not is_cut(p) or p.device_mesh.get_coordinate() is None:  # or no part of it is here
        return None
    dimensions = tuple(d for d, placement in enumerate(p.placements) if not placement.is_replicate())
    return (p.device_mesh, dimensions) if dimensions else None


def add_over(sums: np.ndarray, where: Spread) -> None:
    """Adds up the sums of the processes among which a tensor is cut."""
    if where is not None:
        mesh, dimensions = where
        for d in dimensions:
            add_up(sums, mesh.get_group(d))


def add_up(sums: np.ndarray, group: Any) -> None:
    torch.distributed.all_reduce(torch.from_numpy(sums), group=group)
