"""How many steps each parameter has done: the state's "step", a tensor as torch's optimizers have it."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence, Set

import numpy as np
import torch
from torch import Tensor

STEP = "step"
MOST = 2**53  # float64 counts exactly up to here; torch's tools take no integers, and float32 counts to 2^24 only


def step_tensor(done: float) -> Tensor:
    return torch.tensor(float(done), dtype=torch.float64, device="cpu")


def as_count(step: Any, owner: str) -> int:
    """The steps done, of a state that may have been set or loaded by anybody."""
    try:
        value = float(step + 0)  # a string is no number
    except (TypeError, ValueError, RuntimeError, OverflowError) as e:
        raise ValueError(f"posneg: the step of {owner} is {step!r}, must be a number") from e
    if not 0 <= value < MOST or value != int(value):
        raise ValueError(f"posneg: the step of {owner} is {value}, must be a whole number, at least 0 and less than 2^53")
    return int(value)


class Counts:
    """The counts of all parameters side by side, so that one operation reads or changes them.

    Each is the whole memory of a tensor in a state: copying, saving or sharing one does nothing to the others. Whatever others do to
    such a tensor is seen here; one that they put in its place has another address.
    """

    def __init__(self, count: int):
        self.values = np.zeros(count)
        first = self.values.ctypes.data
        self.addresses: List[int] = [first + 8 * i for i in range(count)]
        self._taken: Set[int] = set()

    def has_place(self, i: int, state: Dict[str, Any]) -> bool:
        """Whether number i of these is, or may become, the step of a state, and has not been another one's, which may still be in use."""
        return i not in self._taken or self._is(i, state[STEP])

    def _is(self, i: int, step: Any) -> bool:
        return isinstance(step, Tensor) and step.dtype == torch.float64 and step.data_ptr() == self.addresses[i]

    def adopt(self, i: int, state: Dict[str, Any], owner: str) -> None:
        """Makes the step of a state number i of these."""
        if self._is(i, state[STEP]):
            return
        self._taken.add(i)
        self.values[i] = as_count(state[STEP], owner)
        state[STEP] = torch.from_numpy(self.values[i, ...])

    def next(self, places: Sequence[int]) -> Any:
        """The numbers of the steps that are due; None if a count is no longer one."""
        done = self.values[places]
        listed = done.tolist()
        if all(map(float.is_integer, listed)) and 0 <= min(listed, default=0) and max(listed, default=0) < MOST:
            return done + 1
        return None
