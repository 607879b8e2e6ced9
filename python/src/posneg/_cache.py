"""The plans that an optimizer keeps: of all its parameters, or of some in turn, as tools that swap them or free gradients step them."""

from __future__ import annotations

from collections import OrderedDict
from typing import List, Optional, Tuple

from ._counts import Counts
from ._library import Call
from ._plan import Group, Now, Plan, Slots, State, all_params, due

MOST_PLANS, MOST_ROWS = 64, 4096  # that are kept; a plan has a row for each parameter that it updates

Key = Tuple[Tuple[int, ...], Tuple[int, ...]]


class Plans:
    """Plans by what they are plans of: all parameters, and which of them have a gradient. None of them holds a tensor."""

    def __init__(self, most: int = MOST_PLANS) -> None:
        self._most, self._rows = most, 0
        self._last: Optional[Plan] = None
        self._kept: OrderedDict[Key, Plan] = OrderedDict()  # the one used last comes last

    def last_call(self) -> Call:
        """The call of the last step."""
        assert self._last is not None
        return self._last.call

    def find(self, groups: List[Group], state: State, slots: Slots) -> Tuple[Plan, Now]:
        """The plan of what is due now, and what it has seen."""
        now = self._last.look(groups, state, slots) if self._last else None
        if self._last is None or now is None:
            self._last, now = self._other(groups, state, slots)
        return self._last, now

    def _other(self, groups: List[Group], state: State, slots: Slots) -> Tuple[Plan, Now]:
        params = all_params(groups)
        key = tuple(map(id, params)), tuple(due([p.grad for p in params]))
        plan = self._kept.get(key)
        now = plan.look(groups, state, slots) if plan and plan is not self._last else None
        if plan is None or now is None:
            counts = self._counts(key[0])
            self._last = None  # if the next lines fail, the old one must not be used
            if self._kept.pop(key, None):
                self._rows -= len(key[1])
            plan = Plan(groups, state, slots, counts)
            now = plan.look(groups, state, slots)
            assert now is not None
            self._kept[key] = plan
            self._rows += len(key[1])
            while len(self._kept) > 1 and (len(self._kept) > self._most or self._rows > MOST_ROWS):
                self._rows -= len(self._kept.popitem(last=False)[0][1])
        self._kept.move_to_end(key)
        return plan, now

    def _counts(self, params: Tuple[int, ...]) -> Optional[Counts]:
        """The counts of the newest plan of these parameters."""
        found = [plan.counts for (ids, _), plan in self._kept.items() if ids == params]
        return found[-1] if found else None
