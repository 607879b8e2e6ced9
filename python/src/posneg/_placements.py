"""DTensors: tensors that are cut up among processes. State and gradient must be cut like their parameter, since a step sees only the
process's own part.

All exchanges between processes come in the order of the optimizer's parameters, which is the same in all processes.
"""

from __future__ import annotations

from math import prod
from typing import Any, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor


def processes() -> int:
    """The number of processes of torch.distributed; 1 if it is not initialized."""
    d = torch.distributed
    return d.get_world_size() if d.is_available() and d.is_initialized() else 1


def is_cut(t: Tensor) -> bool:
    return hasattr(t, "to_local")


def local(t: Tensor) -> Tensor:
    """This process's part of a DTensor, or any other tensor itself. Waits for a tensor that comes from another process."""
    part: Any = t
    if hasattr(part, "to_local"):
        part = part.to_local()
    if hasattr(part, "trigger_wait"):  # an AsyncCollectiveTensor
        part = part.trigger_wait()
    return part  # type: ignore[no-any-return]


def check_whole(p: Any) -> None:
    """Reports a partial parameter, which is the sum, or the like, of tensors of all processes."""
    if is_cut(p) and any(placement.is_partial() for placement in p.placements):
        raise RuntimeError(
            f"posneg does not support parameters that are partial, {placed(p)}: call p.redistribute() with Replicate() or Shard() instead"
        )


def check_fits(g: Any, p: Any) -> None:
    """Reports a gradient that cannot be cut like its parameter, before any exchange between processes."""
    if is_cut(g) == is_cut(p):
        if is_cut(g) and not _same_mesh(g, p):
            raise RuntimeError(
                f"posneg: a gradient that is {placed(g)} for a parameter that is {placed(p)}: give it a gradient on the same mesh"
            )
    elif is_cut(p):
        raise TypeError(
            f"posneg: the gradient of a DTensor, {placed(p)}, is a plain tensor: make it a DTensor with distribute_tensor() if all "
            f"processes have the whole gradient, or with DTensor.from_local() if each has its part"
        )
    else:
        raise TypeError(f"posneg: the gradient of a plain parameter is a DTensor, {placed(g)}: use p.grad = p.grad.full_tensor()")


def cut_as(t: Any, p: Any, placements: Any = None) -> Any:
    """t cut like p, or by other placements on the same mesh. If one process calls this, all must."""
    if not is_cut(p):
        return t.full_tensor() if is_cut(t) else t
    if not is_cut(t):  # each process has all of it, and needs no exchange
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
    """The number of the first element of this process's part in the whole tensor.

    If a part is not contiguous in the whole, its elements get other numbers than in the whole, but no two parts get the same.
    """
    if not is_cut(p):
        return 0
    whole = p.shape
    part, offset = part_of(whole, p.device_mesh, p.placements)
    return sum(o * prod(part[:d]) * prod(whole[d + 1 :]) for d, o in enumerate(offset))


def runs(t: Any) -> Tuple[int, Sequence[int]]:
    """Where this process's part of a tensor lies in the whole, in row-major order: the length of runs of adjacent elements, and where each
    begins."""
    if not is_cut(t):
        return t.numel(), [0]
    if not local(t).numel():
        return 0, []
    part, offset = part_of(t.shape, t.device_mesh, t.placements)
    indices = [_strided(t, d) if _is_strided(t, d) else range(offset[d], offset[d] + part[d]) for d in range(t.dim())]
    cut = max((d for d in range(t.dim()) if len(indices[d]) < t.shape[d]), default=-1)
    if cut < 0:
        return t.numel(), [0]
    inner = prod(t.shape[cut + 1 :])
    length, last = (len(indices[cut]) * inner, indices[cut][:1]) if isinstance(indices[cut], range) else (inner, indices[cut])
    starts = np.zeros(1, np.int64)
    for d, places in enumerate([*indices[:cut], last]):
        starts = (starts[:, None] + np.asarray(places) * prod(t.shape[d + 1 :])).ravel()
    return length, starts.tolist()


def _is_strided(t: Any, d: int) -> bool:
    return any(placement.is_shard(d) and hasattr(placement, "split_factor") for placement in t.placements)


def _strided(t: Any, d: int) -> Sequence[int]:
    """The indices of dimension d that this process has, if torch does not give it adjacent ones."""
    indices, mesh = torch.arange(t.shape[d], device="cpu"), t.device_mesh
    for place, size, placement in zip(mesh.get_coordinate(), mesh.shape, t.placements):
        if placement.is_shard(d):
            indices = placement._split_tensor(indices, size, with_padding=False)[0][place]
    listed: Sequence[int] = indices.tolist()
    return listed


def part_of(shape: Sequence[int], mesh: Any, placements: Any) -> Tuple[Sequence[int], Sequence[int]]:
    """The shape of this process's part of a DTensor, and its offset in the whole."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    return compute_local_shape_and_global_offset(torch.Size(shape), mesh, placements)


def placed(t: Any) -> str:
    return f"({', '.join(map(repr, t.placements))}) on {t.device_mesh}"


def _same_mesh(a: Any, b: Any) -> bool:
    ours, theirs = a.device_mesh, b.device_mesh
    return ours == theirs or ours.device_type == theirs.device_type and torch.equal(ours.mesh, theirs.mesh)
