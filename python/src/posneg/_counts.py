"""The number of steps that each parameter has done: the state's "step", a tensor as in torch's optimizers."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence, Set

import numpy as np
import torch
from torch import Tensor

STEP = "step"
MOST = 2**53  # float64 counts exactly up to here; torch's tools refuse integers, and float32 counts only to 2^24


def step_tensor(done: float) -> Tensor:
    return torch.tensor(float(done), dtype=torch.float64, device="cpu")


def as_count(step: Any, owner: str) -> int:
    """The step of a state as an int. Others may have set or loaded it, so it is checked."""
    try:
        value = float(step + 0)  # a string is no number
    except (TypeError, ValueError, RuntimeError, OverflowError) as e:
        raise ValueError(f"posneg: the step of {owner} is {step!r}, must be a number") from e
    if not 0 <= value < MOST or value != int(value):
        raise ValueError(f"posneg: the step of {owner} is {value}, must be an integer from 0 to 2^53 - 1")
    return int(value)


class Counts:
    """The counts of all parameters in one array, so that one operation reads or changes all.

    Each element is the whole memory of a tensor in a state, so that copying, saving or sharing one does not affect the others. Changes of
    such a tensor by others are seen here. A tensor that they put in its place has another address.
    """

    def __init__(self, count: int):
        self.values = np.zeros(count)
        first = self.values.ctypes.data
        self.addresses: List[int] = [first + 8 * i for i in range(count)]
        self._taken: Set[int] = set()

    def has_place(self, i: int, state: Dict[str, Any]) -> bool:
        """Whether element i is, or may become, the step of a state. It may not if it was that of another state, which may still exist."""
        return i not in self._taken or self._is(i, state[STEP])

    def _is(self, i: int, step: Any) -> bool:
        return isinstance(step, Tensor) and step.dtype == torch.float64 and step.data_ptr() == self.addresses[i]

    def adopt(self, i: int, state: Dict[str, Any], owner: str) -> None:
        """Makes element i the step of a state."""
        if self._is(i, state[STEP]):
            return
        self._taken.add(i)
        self.values[i] = as_count(state[STEP], owner)
        state[STEP] = torch.from_numpy(self.values[i, ...])

    def next(self, places: Sequence[int]) -> Any:
        """The numbers of the steps that are due; None if a count is not valid."""
        done = self.values[places]
        listed = done.tolist()
        if all(map(float.is_integer, listed)) and 0 <= min(listed, default=0) and max(listed, default=0) < MOST:
            return done + 1
        return None
