"""Memory that two tensors share."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any, Iterable, List, Optional, Sequence, Tuple

import numpy as np
import torch
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
    if is_lazy(t) or not t.numel() or t.layout is not torch.strided or t.device.type != "cpu":
        return 0, 0
    t = local(t)
    first = address(t)
    if not first or not t.numel():
        return 0, 0
    last = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride()))
    return first, first + (last + 1) * t.element_size()


def first_overlap(tensors: Sequence[Tensor]) -> Optional[Tuple[int, int]]:
    """The places of two tensors that have an element in common, if there are such."""
    spans = sorted((*span(t), i) for i, t in enumerate(tensors))
    open_spans: List[Tuple[int, int, int]] = []  # those that reach the place where the sweep is
    for lo, hi, i in spans:
        if lo == hi:
            continue
        open_spans = [s for s in open_spans if s[1] > lo]
        for _, _, j in open_spans:
            if _share(tensors[j], tensors[i]):
                return min(i, j), max(i, j)
        open_spans.append((lo, hi, i))
    return None


def _share(a: Tensor, b: Tensor) -> bool:
    """Whether tensors have an element in common; they may also lie in each other's gaps."""
    return bool(np.shares_memory(np.asarray(_Memory(local(a))), np.asarray(_Memory(local(b)))))


class _Memory:
    """A tensor's elements as NumPy may see them, also those of types that it does not have."""

    def __init__(self, t: Tensor):
        size = t.element_size()
        self.__array_interface__ = dict(
            version=3, data=(t.data_ptr(), False), typestr=f"|V{size}", shape=tuple(t.shape), strides=tuple(s * size for s in t.stride())
        )


def without_shared(gradients: Iterable[Tensor], written: Iterable[Tensor]) -> List[Tensor]:
    """Gradients, and a copy where the memory of one is written."""
    spans = sorted(s for s in map(span, written) if s[0] < s[1])

    def shared(t: Tensor) -> bool:
        lo, hi = span(t)
        last: Any = bisect_right(spans, (hi,)) - 1  # of those that begin before hi
        return lo < hi and last >= 0 and spans[last][1] > lo

    return [g.clone() if shared(g) else g for g in gradients]
