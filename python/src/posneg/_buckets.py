"""Steps of an optimizer's parameters in buckets: one call for each bucket, bit-identical to a single call for all."""

from __future__ import annotations

from typing import Any, Callable, List, Optional, Sequence, Tuple

import numpy as np

from . import _library, _norm
from ._cache import Plans
from ._copies import Copy
from ._layout import real
from ._options import Around
from ._plan import Group, Now, Plan, State, part_of, point
from ._threads import get_num_threads

_MOST, _LEAST = 8, 64 << 20  # the default number of buckets, and of bytes in one

Part = Tuple[int, int, int]  # the number of a group, and the first and the last + 1 of its parameters


class Bucket:
    """Copies that are updated together, adjacent in the groups of an optimizer."""

    def __init__(self, copies: Sequence[Copy], parts: Sequence[Part]):
        self.copies, self._parts = copies, parts
        self._plans = Plans()
        self._inner: Any = None  # this and what follows, during a step
        self._plan: Optional[Plan] = None
        self._now: Optional[Now] = None
        self._groups: List[Group] = []
        self._states: State = {}

    @property
    def due(self) -> List[Copy]:
        return [copy for copy in self.copies if copy.host.grad is not None]

    def prepare(self, inner: Any) -> None:
        """Checks and makes everything that a step needs. Nothing is updated yet."""
        self._inner = inner
        self._groups = [part_of(inner.param_groups, *part) for part in self._parts]
        self._states = {copy.host: inner.state[copy.host] for copy in self.due}
        self._plan, self._now = self._plans.find(self._groups, self._states, inner._slots)
        self._before = self._count()

    def _count(self) -> float:
        return max((float(state["step"]) for state in self._states.values()), default=0.0)

    @property
    def done(self) -> bool:
        """Whether the prepared step has been done."""
        return self._count() != self._before

    def land(self) -> None:
        """Waits for the gradients."""
        for copy in self.due:
            copy.lanes.land_of(copy)

    def squares(self) -> np.ndarray:
        """The sum of the squares of the gradients, as in _norm."""
        gradients = [real(copy.host.grad) for copy in self.due if copy.host.grad is not None]
        vectors = np.zeros(len(gradients), _library.VECTOR)
        point(vectors, range(len(gradients)), gradients)
        return _norm.total(gradients, range(len(gradients)), vectors, None, False, get_num_threads())

    def rehearse(self, scale: float, around: Around) -> None:
        """Lets the library check the whole step without doing it: it is told that a gradient is infinite, and skips."""
        squares = np.zeros(_library.SQUARES, np.int64)
        squares[_library.INFINITIES] = 1
        skipped = Around()
        skipped.fields = around.fields_with(squares.ctypes.data, skip=True)
        self._run(scale, skipped)

    def finish(self) -> None:
        """Drops the references to the prepared tensors, so that others may free the state."""
        self._inner, self._groups, self._states, self._plan, self._now = None, [], {}, None, None

    def step(self, scale: float, around: Around) -> None:
        """Performs the step. around belongs to the bucket, except for its sum of squares, which is that of all buckets."""
        self.land()
        self._mark(True)
        self._run(scale, around)
        self._mark(not around.skipped)

    def _run(self, scale: float, around: Around) -> None:
        assert self._plan is not None and self._now is not None
        self._plan.step(self._now, self._groups, map(self._inner._rule, self._groups), scale, get_num_threads(), around, False)

    def _mark(self, stale: bool) -> None:
        for copy in self.due:
            copy.stale = stale


def cut(copies: Sequence[Copy], groups: Sequence[Group], count: Optional[int]) -> List[Bucket]:
    """All copies, in at most `count` buckets of about equal bytes."""
    sizes = [copy.host.numel() * copy.host.element_size() for copy in copies]
    total, before = max(1, sum(sizes)), 0
    count = count or min(_MOST, 1 + total // _LEAST)
    numbers = []
    for size in sizes:
        numbers.append(min(count - 1, count * (2 * before + size) // (2 * total)))
        before += size
    places = [(g, i) for g, group in enumerate(groups) for i in range(len(group["params"]))]
    buckets = []
    for number in sorted(set(numbers)):
        members = [i for i, n in enumerate(numbers) if n == number]
        of = {g: [places[i][1] for i in members if places[i][0] == g] for g in sorted({places[i][0] for i in members})}
        buckets.append(Bucket([copies[i] for i in members], [(g, inside[0], inside[-1] + 1) for g, inside in of.items()]))
    return buckets


def update(buckets: Sequence[Bucket], inner: Any, scale: float, around: Around, skip: bool, then: Callable[[Sequence[Copy]], None]) -> None:
    """Performs a step of all buckets that are due, the last one first, like backward's gradients, and calls `then` after each.

    Errors come before the first bucket is updated. An interrupt after that takes effect when all are updated.
    """
    due = [bucket for bucket in buckets if bucket.due] or buckets[:1]
    try:
        for bucket in due:
            bucket.prepare(inner)  # in the parameters' order, which tells equal parameters apart
        _update(due, scale, around, skip, then)
    finally:
        for bucket in due:
            bucket.finish()


def _update(due: Sequence[Bucket], scale: float, around: Around, skip: bool, then: Callable[[Sequence[Copy]], None]) -> None:
    part, squares = _around(due, scale, around, skip)
    if len(due) > 1 and not around.skipped:
        for bucket in due:
            bucket.rehearse(scale, part)
    interrupt: Optional[BaseException] = None
    while not around.skipped:
        try:
            for bucket in reversed(due):
                if not bucket.done:
                    bucket.step(scale, part)
                then(bucket.copies)
            break
        except BaseException as e:
            if interrupt or not any(bucket.done for bucket in due):
                raise
            interrupt = e
    if around.measures and not around.skipped:
        around.grad_norm, around.skipped = part.grad_norm, part.skipped
    if interrupt:
        raise interrupt


def _around(due: Sequence[Bucket], scale: float, around: Around, skip: bool) -> Tuple[Around, np.ndarray]:
    """The options of each bucket's step, and the sum of squares to which they point. Sets around.skipped if all are skipped."""
    part = Around()
    part.set(clip_norm=around.clip_norm, clip_value=around.clip_value, skip_non_finite=around.skip_non_finite)
    squares = np.zeros(_library.SQUARES + 1, np.int64)
    if part.measures:
        for bucket in reversed(due):
            bucket.land()
            squares += bucket.squares()
        squares[-1] += skip
        if around.process_group is not None:
            _norm.add_up(squares, around.process_group)
        if squares[-1]:
            around.grad_norm, around.skipped = _library.norm(squares) / scale, True
        part.fields = part.fields_with(squares.ctypes.data, skip=False)
    return part, squares
