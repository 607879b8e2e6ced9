"""Momenta in mxfp8 (MXFP8 of OCP Microscaling): one byte per element (E4M3), and one scale byte (E8M0) for each block of 32.

Each row, that is, each index of the first dimension, begins a new block, so that a parameter that is cut between rows gives
bit-identical results to the whole one. A parameter of one dimension has rows of one element, or no rows if it is large. Elements are in
row-major order, whatever the parameter's strides; a parameter in another order is copied for a step.

State dicts have the bits of elements and scales as torch.uint8, since torch's tools cannot pickle float8 or send it between processes.
"""

from __future__ import annotations

from math import prod
from typing import Any, Dict, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from ._library import FLOAT32, MXFP8, VECTOR, convert
from ._memory import zeros
from ._overlap import address
from ._placements import cut_as, dtensor, is_cut, local, part_of, retyped, with_part

NAME = "mxfp8"
if hasattr(torch, "float8_e8m0fnu"):  # torch 2.7; before, float8_e4m3fn was there, but could not even be filled with zeros
    ELEMENTS, SCALES = torch.float8_e4m3fn, torch.float8_e8m0fnu
else:
    ELEMENTS, SCALES = torch.uint8, torch.uint8
BLOCK = 32
MOST_SINGLE = 1 << 16  # up to this length, each element of one dimension has its own scale, so that any cut is between blocks


def scales_name(slot: str) -> str:
    return f"{slot}_scales"


def row_of(shape: Sequence[int]) -> int:
    """The length of the rows of a whole parameter, or 0 if it has none."""
    if len(shape) > 1:
        return prod(shape[1:])
    return 1 if prod(shape) <= MOST_SINGLE else 0


def scales_shape(shape: Sequence[int], row: int) -> Tuple[int, ...]:
    """One dimension without rows, or else the number of rows and of blocks in each."""
    n = prod(shape)
    if not row:
        return (_blocks(n),) if len(shape) < 2 else (shape[0], 0)
    return (shape[0] if shape else 1), _blocks(row)


def row_in(n: int, shape: Sequence[int]) -> Optional[int]:
    """The row length of n elements whose scales have this shape; 0 if they lie as without rows; None if no row length fits."""
    row = 0
    if len(shape) == 2:
        if n and (not shape[0] or n % shape[0]):
            return None
        row = n // shape[0] if n else 0
        if n and shape[1] != _blocks(row):
            return None
    elif len(shape) != 1 or shape[0] != _blocks(n):
        return None
    return 0 if row % BLOCK == 0 or row == n else row


def scale_of(element: int, row: int) -> int:
    """The number of an element's scale; row is 0 without rows."""
    return element // row * _blocks(row) + element % row // BLOCK if row else element // BLOCK


def local_row(p: Tensor) -> int:
    """The length of the rows of this process's part."""
    return prod(local(p).shape[1:]) if p.dim() > 1 else row_of(p.shape)


def check_cut(p: Any, owner: str) -> None:
    """Reports a DTensor that is cut within a block."""
    if not is_cut(p):
        return
    part, offset = part_of(p.shape, p.device_mesh, p.placements)
    if tuple(part[2:]) != tuple(p.shape[2:]):
        raise ValueError(
            f"posneg: {owner} is cut along dimension 2 or later, but mxfp8 state can be cut only along dimensions 0 and 1: use dimension 0"
        )
    row = row_of(p.shape)
    if not prod(part) or row and tuple(part[1:]) == tuple(p.shape[1:]):
        return
    inner = prod(p.shape[2:])  # elements of one index of the dimension that is cut
    axis, of = (1, "each row") if row else (0, "the parameter")
    begin, end, whole = offset[axis] * inner, (offset[axis] + part[axis]) * inner, p.shape[axis] * inner
    for border in (begin, end):
        if border % BLOCK and border != whole:
            below = border - border % BLOCK
            raise ValueError(
                f"posneg: {owner} is cut at element {border} of {of}, within a block of its mxfp8 state: it can be cut at {below} or "
                f"{below + BLOCK}" + (", or anywhere along dimension 0" if row else "")
            )
    blocks, at = part_of(scales_shape(p.shape, row), p.device_mesh, _placements_of_scales(p))
    if (blocks[axis], at[axis] * BLOCK) != (_blocks(end - begin), begin):
        raise ValueError(
            f"posneg: {owner} is cut at elements {begin} and {end} of {of}, but torch would cut the scales of its mxfp8 state at "
            f"{at[axis] * BLOCK} and {(at[axis] + blocks[axis]) * BLOCK}: cut it into equal parts that are multiples of {BLOCK}"
        )


def first_element(p: Any) -> int:
    """The number of the first element for random numbers: its number in the whole, unless rows are cut.

    Parts of rows draw other numbers than the whole, and no two parts draw the same: the blocks of all ranks' rows are numbered in a row.
    """
    if not is_cut(p):
        return 0
    part, offset = part_of(p.shape, p.device_mesh, p.placements)
    row = prod(p.shape[1:])
    if p.dim() < 2 or tuple(part[1:]) == tuple(p.shape[1:]):
        return int(offset[0] * row) if p.dim() else 0
    ours = prod(part[1:])
    if not ours:
        return 0
    # Twice as many numbers as there are: the last part of a row may have to begin later, between rows of its own length.
    begin = 2 * offset[0] * _padded(row) + offset[1] * prod(p.shape[2:]) * part[0]
    return int(-(-begin // _padded(ours)) * ours)


def begin(p: Tensor, name: str, place: int) -> Dict[str, Tensor]:
    """The entries of the state for a momentum that is zero."""
    scales = torch.empty(scales_shape(local(p).shape, local_row(p)), dtype=SCALES, device="cpu")
    scales.view(torch.uint8).zero_()
    return {name: zeros(p, ELEMENTS, place, row_major=True), scales_name(name): _of_scales(scales, p)}


def pack(p: Tensor, name: str, place: int, numbers: Tensor) -> Dict[str, Tensor]:
    """The entries of the state for a float32 momentum (this process's part, in row-major order), rounded to nearest."""
    packed = begin(p, name, place)
    convert(_vector(local(packed[name]), local(packed[scales_name(name)]), local_row(p)), _vector(numbers))
    return packed


def unpack(elements: Tensor, scales: Tensor) -> Tensor:
    """A momentum in float32, of this process's part if it is a DTensor."""
    elements, scales = local(elements).detach().cpu().contiguous(), local(scales).detach().cpu().contiguous()
    numbers = torch.empty(elements.shape, dtype=torch.float32, device="cpu")
    row = row_in(elements.numel(), scales.shape)
    assert row is not None
    convert(_vector(numbers), _vector(elements, scales, row))
    return numbers


def widened(state: Dict[str, Any]) -> Dict[str, Any]:
    """A parameter's state with momenta in mxfp8 as float32."""
    slots = [name for name in state if scales_name(name) in state]
    wide = {name: unpack(state[name], state[scales_name(name)]) for name in slots}
    return {**{name: t for name, t in state.items() if name not in map(scales_name, slots)}, **wide}


def laid_out(p: Any, name: str, elements: Any, scales: Any) -> Optional[Dict[str, Tensor]]:
    """The entries of the state for elements and scales that others have set or loaded, after check(); None if their blocks differ."""
    wanted = scales_shape(p.shape, row_of(p.shape))
    if tuple(scales.shape) != wanted:
        if is_cut(scales) or row_in(p.numel(), scales.shape) != row_in(p.numel(), wanted):
            return None
        scales = scales.reshape(wanted)
    placements = _placements_of_scales(p) if is_cut(p) else None
    return {name: _arranged(elements, p, ELEMENTS, None), scales_name(name): _arranged(scales, p, SCALES, placements)}


def _arranged(t: Any, p: Any, dtype: torch.dtype, placements: Any) -> Any:
    """Bits as numbers of a type, in row-major order, and cut like the parameter."""
    if type(t) is Tensor and not is_cut(p) and t.dtype == dtype and t.device.type == "cpu" and t.is_contiguous():
        return t
    t = cut_as(retyped(t.detach(), torch.uint8), p, placements)
    part = local(t).cpu().contiguous()
    return retyped(with_part(t, part) if is_cut(p) else part, dtype)


def _placements_of_scales(p: Any) -> Any:
    """The placements of a parameter's scales: the parameter's own, without dimensions that scales do not have."""
    from torch.distributed.tensor import Replicate

    return tuple(Replicate() if getattr(placement, "dim", 0) > 1 else placement for placement in p.placements)


def _of_scales(part: Tensor, p: Any) -> Any:
    if not is_cut(p):
        return part
    return dtensor(part, p.device_mesh, _placements_of_scales(p), scales_shape(p.shape, row_of(p.shape)))


def exported(state: Dict[str, Any]) -> Dict[str, Any]:
    """A state for state dicts."""
    bits = {k: retyped(t, torch.uint8) for k, t in state.items() if isinstance(t, Tensor) and t.dtype in (ELEMENTS, SCALES)}
    return {**state, **bits} if bits else state


def point(vector: Any, elements: Tensor, scales: Tensor, row: int) -> None:
    """Sets a VECTOR to a momentum."""
    vector["data"], vector["length"], vector["dtype"] = address(elements), elements.numel(), MXFP8
    vector["scales"], vector["row"] = address(scales), row


def _vector(t: Tensor, scales: Optional[Tensor] = None, row: int = 0) -> Any:
    vector = np.zeros((), VECTOR)
    if scales is None:
        vector["data"], vector["length"], vector["dtype"] = address(t), t.numel(), FLOAT32
    else:
        point(vector, t, scales, row)
    return vector


def check(p: Tensor, name: str, elements: Any, scales: Any, owner: str) -> None:
    """Reports values that cannot be a momentum in mxfp8."""
    for key, t, dtype in ((name, elements, ELEMENTS), (scales_name(name), scales, SCALES)):
        if not isinstance(t, Tensor) or t.dtype not in (dtype, torch.uint8) or t.layout is not torch.strided or t.is_meta:
            found = f"{t.dtype} on {t.device}" if isinstance(t, Tensor) else f"a {type(t).__name__}"
            raise ValueError(f"posneg: {key!r} of {owner} is {found}, must be {dtype}, or its bits as torch.uint8")
    if row_in(p.numel(), scales.shape) is None:
        raise ValueError(
            f"posneg: {scales_name(name)!r} of {owner} has the shape {tuple(scales.shape)}, "
            f"must have {scales_shape(p.shape, row_of(p.shape))} for a parameter of shape {tuple(p.shape)}"
        )


def _blocks(n: int) -> int:
    return -(-n // BLOCK)


def _padded(n: int) -> int:
    return _blocks(n) * BLOCK
