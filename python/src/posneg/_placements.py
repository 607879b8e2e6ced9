"""DTensors: tensors that are cut up among processes. What belongs to a parameter must be cut as the parameter is, since a step sees
each process's part alone.

Whatever is exchanged here is exchanged in the order of the optimizer's parameters, which is the same in all processes.
"""

from __future__ import annotations

from math import prod
from typing import Any, Sequence, Tuple

import torch
from torch import Tensor


def processes() -> int:
    """How many processes torch.distributed has; 1 where nothing has initialized it."""
    d = torch.distributed
    return d.get_world_size() if d.is_available() and d.is_initialized() else 1


def is_cut(t: Tensor) -> bool:
    return hasattr(t, "to_local")


def local(t: Tensor) -> Tensor:
    """This process's part of a DTensor, and any other tensor itself; arrived, if it comes from another process."""
    part: Any = t
    if hasattr(part, "to_local"):
        part = part.to_local()
    if hasattr(part, "trigger_wait"):  # an AsyncCollectiveTensor
        part = part.trigger_wait()
    return part  # type: ignore[no-any-return]


def check_whole(p: Any) -> None:
    """Reports a parameter that exists only as the sum, or the like, of what the processes have."""
    if is_cut(p) and any(placement.is_partial() for placement in p.placements):
        raise RuntimeError(
            f"posneg does not support parameters that are partial, {placed(p)}: call p.redistribute() with Replicate() or Shard() instead"
        )


def check_fits(g: Any, p: Any) -> None:
    """Reports a gradient that cannot be cut as its parameter is, before anything is exchanged for others."""
    if is_cut(g) == is_cut(p):
        if is_cut(g) and not _same_mesh(g, p):
            raise RuntimeError(
                f"posneg: a gradient that is {placed(g)} for a parameter that is {placed(p)}: give it a gradient on the same mesh"
            )
    elif is_cut(p):
        raise TypeError(
            f"posneg: the gradient of a DTensor, which is {placed(p)}, is a plain tensor: make it one by distribute_tensor() if all "
            f"processes have the whole of it, or by DTensor.from_local() if each has its part"
        )
    else:
        raise TypeError(f"posneg: the gradient of a plain parameter is a DTensor, {placed(g)}: use p.grad = p.grad.full_tensor()")


def cut_as(t: Any, p: Any, placements: Any = None) -> Any:
    """t cut as p is, or by other placements on the same mesh. All processes must come here if one does."""
    if not is_cut(p):
        return t.full_tensor() if is_cut(t) else t
    if not is_cut(t):  # all have the whole of it, so that none needs another
        from torch.distributed.tensor import DTensor, Replicate

        t = DTensor.from_local(t, p.device_mesh, [Replicate()] * p.device_mesh.ndim, run_check=False)
    elif not _same_mesh(t, p):
        raise RuntimeError(f"posneg: state that is {placed(t)} for a parameter that is {placed(p)}: it must be on the same mesh")
    placements = p.placements if placements is None else placements
    return t if t.placements == placements else t.redistribute(placements=placements)


def with_part(t: Any, part: Tensor) -> Any:
    """The DTensor t with another part here."""
    return type(t).from_local(part, t.device_mesh, t.placements, run_check=False, shape=t.shape, stride=t.stride())


def dtensor(part: Tensor, mesh: Any, placements: Any, shape: Sequence[int]) -> Any:
    """A DTensor of a shape, with the elements of each part in row-major order."""
    from torch.distributed.tensor import DTensor

    stride = tuple(prod(shape[d + 1 :]) for d in range(len(shape)))
    return DTensor.from_local(part, mesh, placements, run_check=False, shape=torch.Size(shape), stride=stride)


def retyped(t: Any, dtype: torch.dtype) -> Any:
    """The same bits as numbers of another type of the same size."""
    if t.dtype == dtype:
        return t
    part = local(t).view(dtype)
    return with_part(t, part) if is_cut(t) else part


def first_element(p: Any) -> int:
    """The number, in the whole tensor, of the first element of the part that this process has.

    If a part is not contiguous in the whole, its elements' numbers are others than those that they have in the whole, but no other
    part's, either.
    """
    if not is_cut(p):
        return 0
    whole = p.shape
    part, offset = part_of(whole, p.device_mesh, p.placements)
    return sum(o * prod(part[:d]) * prod(whole[d + 1 :]) for d, o in enumerate(offset))


def part_of(shape: Sequence[int], mesh: Any, placements: Any) -> Tuple[Sequence[int], Sequence[int]]:
    """The shape of this process's part of a DTensor, and where in the whole it begins."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    return compute_local_shape_and_global_offset(torch.Size(shape), mesh, placements)


def placed(t: Any) -> str:
    return f"({', '.join(map(repr, t.placements))}) on {t.device_mesh}"


def _same_mesh(a: Any, b: Any) -> bool:
    ours, theirs = a.device_mesh, b.device_mesh
    return ours == theirs or ours.device_type == theirs.device_type and torch.equal(ours.mesh, theirs.mesh)
