"""The state of a parameter: made at its first gradient, or set or loaded by others."""

from __future__ import annotations

from operator import index
from typing import Any, Dict, Optional, Sequence

import torch
from torch import Tensor

from . import _mx
from ._counts import STEP, as_count, step_tensor
from ._layout import like
from ._masters import MASTER, MASTER_LOW, begin, has_master, split
from ._memory import zeros
from ._mx import scales_name
from ._placements import check_whole, cut_as, dtensor, is_cut, local, retyped, with_part

ROUNDING = "rounding"  # the number that a parameter draws by, and 2^64 times that of its first element


def check_param(p: Tensor) -> None:
    """Reports a parameter that the engine cannot update."""
    if p.device.type != "cpu":
        raise RuntimeError(
            f"posneg updates parameters in the CPU's memory, but this one is on {p.device}: use posneg.offload.Offload or torch.optim for "
            f"a model there, or call model.cpu() before making the optimizer (torchao's CPUOffloadOptimizer needs minimal_size=0, or it "
            f"keeps small parameters on the device)"
        )
    check_kind(p)


def check_kind(p: Tensor) -> None:
    """Reports a parameter that the engine could not update on any device."""
    if p.layout is not torch.strided:
        raise RuntimeError(f"posneg does not support parameters of layout {p.layout}; use p.to_dense()")
    check_whole(p)
    if p.is_conj() or p.is_neg():
        raise RuntimeError("posneg does not support parameters that are conjugate or negative views; use resolve_conj() or resolve_neg()")
    if any(stride == 0 and size > 1 for stride, size in zip(local(p).stride(), local(p).shape)):
        raise RuntimeError("posneg does not support expanded parameters, whose elements share memory; use p.clone()")
    if p.dtype not in (
        torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.complex128,
    ):
        raise TypeError(f"posneg does not support parameters of {p.dtype}; use float32, float64, bfloat16 or float16")


def state_dtype(p: Tensor, group: Dict[str, Any], slot: str) -> torch.dtype:
    """The type of a momentum or an average; _mx.ELEMENTS has scales beside it."""
    if p.is_complex() or p.dtype == torch.float64:
        return p.dtype
    name = _name_of(group["state_dtype"])
    if name == _mx.NAME and "avg_sq" not in slot:
        return _mx.ELEMENTS
    return torch.bfloat16 if name in (_mx.NAME, "bfloat16") else torch.float32


def has_blocks(p: Tensor, group: Dict[str, Any], slots: Sequence[str]) -> bool:
    """Whether a parameter has momenta in mxfp8: a step then needs all its memory in row-major order."""
    return any(state_dtype(p, group, slot) == _mx.ELEMENTS for slot in slots)


def name_state_dtype(group: Dict[str, Any]) -> None:
    """Replaces a group's state_dtype by its name, since torch's tools for state dicts cannot carry a torch.dtype."""
    name = _name_of(group["state_dtype"])
    if name not in (None, "float32", "bfloat16", _mx.NAME):
        raise ValueError(
            f"Invalid state_dtype: {group['state_dtype']!r}, must be None, torch.float32, torch.bfloat16, the name of one, or {_mx.NAME!r}"
        )
    group["state_dtype"] = name


def _name_of(dtype: Any) -> Any:
    return str(dtype)[len("torch.") :] if isinstance(dtype, torch.dtype) else dtype


def begun(state: Optional[Dict[str, Any]]) -> bool:
    """Whether the state is that of a step that has been done, and not only the parameter's random number."""
    return state is not None and (any(name not in (STEP, ROUNDING) for name in state) or float(state.get(STEP, 0)) > 0)


def check_state(p: Tensor, state: Dict[str, Any], slots: Sequence[str], owner: str) -> None:
    """Reports a state that does not fit the parameter. An empty one is legal: it is that before the first step."""
    if STEP in state:
        as_count(state[STEP], owner)
    if state.get(ROUNDING) is not None:
        as_number(state[ROUNDING], owner)
    if not begun(state):
        return
    if STEP not in state and "momentum_buffer" not in slots and any(name in state for name in slots):  # torch's SGD does not count
        raise ValueError(f"posneg: the state of {owner} has no 'step', only {sorted(state)}: the next update of the momenta depends on it")
    for name in (*slots, MASTER):
        t = state.get(name)
        if t is None and name in (MASTER, "momentum_buffer"):
            continue
        if not isinstance(t, Tensor):
            raise ValueError(f"posneg: the state of {owner} has no {name!r}, only {sorted(state)}: was it saved by another rule?")
        if t.shape != p.shape:
            raise ValueError(f"posneg: {name!r} of {owner} has shape {tuple(t.shape)}, but the parameter has shape {tuple(p.shape)}")
        if scales_name(name) in state or t.dtype == getattr(torch, "float8_e4m3fn", None):
            _mx.check(p, name, t, state.get(scales_name(name)), owner)
            continue
        if t.is_meta or t.layout is not torch.strided or t.is_complex() != p.is_complex() or not (t.is_complex() or t.is_floating_point()):
            raise ValueError(f"posneg: {name!r} of {owner} is {t.dtype}, {t.layout}, on {t.device}, but the parameter is {p.dtype}")
    if MASTER_LOW in state:
        check_low(p, state[MASTER_LOW], owner)


def check_low(p: Tensor, low: Any, owner: str) -> None:
    """Reports a value that cannot be the lower half of a parameter's master."""
    halves = isinstance(low, Tensor) and low.dtype in (torch.int16, torch.bfloat16) and low.layout is torch.strided and not low.is_meta
    if not halves or low.shape != p.shape:
        found = f"{low.dtype} of shape {tuple(low.shape)}" if isinstance(low, Tensor) else f"a {type(low).__name__}"
        raise ValueError(
            f"posneg: {MASTER_LOW!r} of {owner} is {found}, must be torch.int16, or its bits as torch.bfloat16, of the parameter's shape "
            f"{tuple(p.shape)}; without it the parameter's master begins as the parameter"
        )


def as_number(packed: Any, owner: str) -> int:
    """The ROUNDING of a state as an int."""
    try:
        number = index(packed)
    except TypeError as e:
        raise ValueError(f"posneg: the {ROUNDING} of {owner} is {packed!r}, must be a whole number") from e
    if not 0 <= number < 2**127:
        raise ValueError(f"posneg: the {ROUNDING} of {owner} is {number}, must be from 0 to 2**127 - 1")
    return number


def prepare(p: Tensor, state: Dict[str, Any], slots: Sequence[str], group: Dict[str, Any]) -> None:
    """Completes and converts a state that has been checked, so that the engine can use its memory."""
    ready: Dict[str, Any] = {STEP: _step_of(state, slots)}
    row_major = has_blocks(p, group, slots)
    for place, name in enumerate(slots):
        ready.update(_buffer(p, state, name, state_dtype(p, group, name), place, row_major))
    if has_master(p, group):
        ready.update(_master(p, state, len(slots), row_major))
    state.update(ready)  # in one call, so that an interrupt leaves no half state
    for name in {MASTER, MASTER_LOW, *map(scales_name, slots)} - ready.keys():
        state.pop(name, None)


def _buffer(p: Tensor, state: Dict[str, Any], name: str, dtype: torch.dtype, place: int, row_major: bool) -> Dict[str, Tensor]:
    """The entries of the state for a momentum or an average."""
    given, scales = state.get(name), state.get(scales_name(name))
    blocks = dtype == _mx.ELEMENTS
    if given is None:
        return _mx.begin(p, name, place) if blocks else {name: zeros(p, dtype, place, row_major)}
    if scales is not None:
        laid_out = _mx.laid_out(p, name, given, scales)
        if laid_out and blocks:
            return laid_out
        given = _numbers(p, *(laid_out.values() if laid_out else map(_whole, (given, scales))))
    if blocks:
        return _mx.pack(p, name, place, local(_laid_out(given, p, torch.float32, True)))
    return {name: _laid_out(given, p, dtype, row_major)}


def _numbers(p: Any, elements: Tensor, scales: Tensor) -> Tensor:
    """A momentum in mxfp8 as float32, cut in the same way."""
    numbers = _mx.unpack(elements, scales)
    return dtensor(numbers, p.device_mesh, p.placements, p.shape) if is_cut(elements) else numbers


def _whole(t: Any) -> Tensor:
    """All bits of a tensor, also of a DTensor."""
    t = retyped(t.detach(), torch.uint8)
    return t.full_tensor() if is_cut(t) else t  # type: ignore[no-any-return]


def _master(p: Tensor, state: Dict[str, Any], place: int, row_major: bool) -> Dict[str, Tensor]:
    """The entries of the state for a parameter's master."""
    whole, low = state.get(MASTER), state.get(MASTER_LOW)
    if whole is not None:
        whole = _laid_out(whole, p, torch.float32, row_major)
        return {MASTER: whole} if p.dtype == torch.float16 else {MASTER_LOW: split(p, whole, place, row_major)}
    if low is not None and p.dtype == torch.bfloat16:
        return {MASTER_LOW: retyped(_laid_out(retyped(low, torch.bfloat16), p, torch.bfloat16, row_major), torch.int16)}
    return begin(p, place, row_major)


def _step_of(state: Dict[str, Any], slots: Sequence[str]) -> Tensor:
    if "momentum_buffer" in slots and state.get("momentum_buffer") is None:
        return step_tensor(0)  # without a momentum, torch's SGD starts over
    if STEP not in state:
        return step_tensor("momentum_buffer" in slots)  # torch's SGD does not count; past the first step it does not matter
    step = state[STEP]
    return step if isinstance(step, Tensor) else step_tensor(step)


def _laid_out(t: Tensor, p: Tensor, dtype: torch.dtype, row_major: bool) -> Tensor:
    in_order = t.is_contiguous() and (row_major or p.is_contiguous())
    if type(t) is Tensor and not is_cut(p) and t.dtype == dtype and t.device.type == "cpu" and in_order:
        if not (t.is_conj() or t.is_neg() or t.requires_grad):
            return t
    order = torch.contiguous_format if row_major else torch.preserve_format
    model = torch.empty_like(local(p), dtype=dtype, memory_format=order)
    t = cut_as(t.detach(), p)
    part = local(t)
    laid_out = like(part.resolve_conj().resolve_neg().to(device="cpu", dtype=dtype), model)
    if not is_cut(p):
        return laid_out
    return t if laid_out is part else with_part(t, laid_out)
