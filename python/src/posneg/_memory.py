"""Memory of large tensors of the state: each at another offset within a page, on huge pages if the system has them.

docs/performance.md has measurements. These are ordinary tensors: each is the whole of its storage, and its memory goes back to the system
with it. Only resizing the storage is refused, as for a tensor over a NumPy array.
"""

from __future__ import annotations

import contextlib
import mmap
from typing import Any

import torch
from torch import Tensor

from ._placements import dtensor, is_cut, local, with_part

LEAST = 4 << 20  # bytes: with less, there might be no huge page within
STEP = 1216  # as between the vectors of an arena in Go
_CAN_MAP = hasattr(mmap, "MADV_HUGEPAGE")  # Linux


def zeros(p: Any, dtype: torch.dtype, place: int, row_major: bool = False) -> Any:
    """Zeros for each element of a parameter, in its layout or in row-major order. place is another number for each tensor that a step
    reads or writes side by side."""
    order = torch.contiguous_format if row_major else torch.preserve_format
    model = torch.empty_like(local(p), dtype=dtype, device="meta", memory_format=order)
    part = None
    if _CAN_MAP and model.numel() * model.element_size() >= LEAST:
        with contextlib.suppress(OSError):
            part = _mapped(model, place)
    if part is None:
        part = torch.zeros_like(local(p), dtype=dtype, memory_format=order, requires_grad=False)
    if not is_cut(p):
        return part
    return dtensor(part, p.device_mesh, p.placements, p.shape) if row_major else with_part(p.detach(), part)


def _mapped(model: Tensor, place: int) -> Tensor:
    skip = (64 + STEP * (1 + place)) % 4096  # malloc has its large blocks at 64 or so
    memory = mmap.mmap(-1, skip + model.numel() * model.element_size(), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=model.dtype, count=model.numel(), offset=skip).as_strided_(model.shape, model.stride())
