"""Memory that two tensors share."""

from __future__ import annotations

import math
from bisect import bisect_right
from functools import reduce
from typing import Any, Iterable, List, Optional, Sequence, Tuple

import numpy as np
import torch
from numpy.lib.stride_tricks import as_strided
from torch import Tensor
from torch.nn.parameter import is_lazy

from ._placements import local

Span = Tuple[int, int]  # the first byte, and the one behind the last


def address(t: Tensor) -> int:
    """Where the memory is; 0 if a tensor has none of its own, as wrappers and fakes."""
    try:
        return t.data_ptr()
    except RuntimeError:
        return 0


def span(t: Tensor) -> Span:
    """The memory from the first element to the last; (0, 0) if there is none that a step could use."""
    if is_lazy(t) or not t.numel() or t.layout is not torch.strided or t.is_meta:
        return 0, 0
    t = local(t)
    first = address(t)
    if not first or not t.numel():
        return 0, 0
    last = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride()))
    return first, first + (last + 1) * t.element_size()


def first_overlap(tensors: Sequence[Tensor]) -> Optional[Tuple[int, int]]:
    """The places of two tensors that have an element in common, if there are such. Tensors may lie in each other's gaps."""
    together: List[Tuple[int, int, int]] = []  # spans that lie within each other, as a chain
    for lo, hi, i in sorted((*span(t), i) for i, t in enumerate(tensors)):
        if lo == hi:
            continue
        if together and lo >= together[-1][1]:
            found = _first_of(together, tensors)
            if found:
                return found
            together = []
        together.append((lo, max(hi, together[-1][1]) if together else hi, i))
    return _first_of(together, tensors)


def _first_of(spans: Sequence[Tuple[int, int, int]], tensors: Sequence[Tensor]) -> Optional[Tuple[int, int]]:
    """first_overlap for tensors that lie within each other. Their elements are claimed one by one: pairs may be too many to compare."""
    if len(spans) < 2:
        return None
    parts = [local(tensors[i]) for _, _, i in spans]
    lo, hi = spans[0][0], spans[-1][1]
    unit = reduce(math.gcd, [n for t in parts for n in (t.element_size(), t.data_ptr() - lo)])
    claimed = np.zeros((hi - lo) // unit, bool)

    def claim(t: Tensor) -> bool:
        """Claims the memory of a tensor, and reports whether some of it has been claimed before."""
        size = t.element_size()
        view = as_strided(claimed[(t.data_ptr() - lo) // unit :], (*t.shape, size // unit), (*(n * size // unit for n in t.stride()), 1))
        before = bool(view.any())
        view[...] = True
        return before

    for k, t in enumerate(parts):
        if claim(t):
            for j, other in enumerate(parts[:k]):
                claimed[:] = False
                claim(other)
                if claim(t):
                    a, b = spans[j][2], spans[k][2]
                    return min(a, b), max(a, b)
    return None


def without_shared(gradients: Iterable[Tensor], written: Iterable[Tensor]) -> List[Tensor]:
    """Gradients, and a copy where the memory of one is written."""
    spans = sorted(s for s in map(span, written) if s[0] < s[1])

    def shared(t: Tensor) -> bool:
        lo, hi = span(t)
        last: Any = bisect_right(spans, (hi,)) - 1  # of those that begin before hi
        return lo < hi and last >= 0 and spans[last][1] > lo

    return [g.clone() if shared(g) else g for g in gradients]
