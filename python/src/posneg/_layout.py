"""The layout of tensors in memory. The engine sees flat arrays; all those of a parameter have the same order of elements."""

from __future__ import annotations

from typing import Iterable, List

import torch
from torch import Tensor

from ._placements import local


def real(t: Tensor) -> Tensor:
    """The memory of this process's part as real numbers."""
    t = local(t)
    return (torch.view_as_real(t.resolve_conj()) if t.is_complex() else t).resolve_neg()


def is_dense(t: Tensor) -> bool:
    """Whether the elements fill their memory without gaps, each once, in any order of the dimensions."""
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(t.stride(), t.shape) if size != 1):
        if stride != expected:
            return t.numel() == 0
        expected *= size
    return True


def like(t: Tensor, model: Tensor) -> Tensor:
    """t with its elements in model's order: t itself or a copy."""
    if t.shape != model.shape:
        raise ValueError(f"posneg: a tensor has shape {tuple(t.shape)}, must have shape {tuple(model.shape)}")
    if all(a == b for a, b, size in zip(t.stride(), model.stride(), t.shape) if size != 1):
        return t
    return torch.empty_strided(model.shape, model.stride(), dtype=t.dtype, device="cpu").copy_(t)


def to_zero(gradients: Iterable[Tensor]) -> List[Tensor]:
    """This process's parts of gradients, as tensors that torch can set to zero. Reports gradients that it cannot set."""
    parts = [local(g.detach()) for g in gradients]
    for t in parts:
        if t.is_inference() and not torch.is_inference_mode_enabled():
            raise RuntimeError(f"posneg: zero_grads cannot zero a gradient of shape {tuple(t.shape)} that was made in inference_mode")
    return [_each_once(t) for t in parts if not t._is_zerotensor()]


def _each_once(t: Tensor) -> Tensor:
    """An expanded tensor without the dimensions in which its elements repeat."""
    return t[tuple(slice(None) if stride or not size else slice(1) for stride, size in zip(t.stride(), t.shape))]
