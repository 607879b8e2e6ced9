"""Host memory that a device copies to and from."""

from __future__ import annotations

from typing import List, Sequence

import torch
from torch import Tensor

from ._memory import LEAST, STEP

_MOST = 1 << 30  # bytes of a piece that may be smaller


def rooms(models: Sequence[Tensor], place: int, pinned: bool) -> List[Tensor]:
    """Memory for tensors that look like these, without contents; place as in _memory.zeros.

    torch allocates pinned memory in powers of two: 33 MiB take 64. So there are pieces of such sizes, for many tensors each.
    """
    found: List[Tensor] = []
    piece, at = torch.empty(0, dtype=torch.uint8, device="cpu"), 0
    sizes = [model.numel() * model.element_size() for model in models]
    left = sum(map(_most_bytes, sizes))
    for model, size in zip(models, sizes):
        begin = _begin(at, size, place)
        if begin + size > piece.numel():
            least = _most_bytes(size)
            length = max(1 << (min(left, _MOST).bit_length() - 1), 1 << (least - 1).bit_length()) if pinned else left
            piece = torch.empty(length, dtype=torch.uint8, device="cpu", pin_memory=pinned)
            begin = _begin(0, size, place)
        at, left = begin + size, left - _most_bytes(size)
        found.append(piece[begin:at].view(model.dtype).as_strided(model.shape, model.stride()))
    return found


def _begin(at: int, size: int, place: int) -> int:
    """Where a tensor of so many bytes is, behind another one."""
    if size < LEAST:
        return -(-at // 64) * 64
    return -(-at // 4096) * 4096 + (64 + STEP * place) % 4096


def _most_bytes(size: int) -> int:
    """What a tensor takes in a piece, with what may be left before it."""
    return size + (64 if size < LEAST else 8192)
