"""What a step hands to the library, kept from step to step for as long as nothing has moved."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter, is_, itemgetter
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from . import _library
from ._layout import is_dense, like, real
from ._placements import check_fits, cut_as, local
from ._rounding import Name, draws, param_names, rounding
from ._state import MASTER, adopt_changes, begun, check_param, prepare

_DTYPES = {
    torch.float32: _library.FLOAT32,
    torch.float64: _library.FLOAT64,
    torch.bfloat16: _library.BF16,
    torch.float16: _library.F16,
}

_dtype_of = attrgetter("dtype")
_shape_of = attrgetter("shape")
_PLAIN = {Tensor, torch.nn.Parameter}
_steps_done = itemgetter("step")
_increment_version = getattr(torch.autograd.graph, "increment_version", None)  # since torch 2.1


def _tell_autograd(changed: List[Tensor]) -> None:
    """Has autograd refuse a backward pass through values that a step has overwritten."""
    if _increment_version is None:
        return
    try:
        _increment_version(changed)
    except TypeError:  # it took one tensor at first
        for p in changed:
            _increment_version(p)


Group = Dict[str, Any]


@dataclass
class _Entry:
    """A parameter that is updated."""

    param: Tensor
    state: Dict[str, Any]
    group: int
    slots: Sequence[str]
    name: Name
    view: Tensor  # its memory, as real numbers
    work: Tensor  # the same, or a copy without gaps where its elements have gaps between them


class Plan:
    """The updates of the parameters that have a state or a gradient."""

    def __init__(self, groups: List[Group], state: Dict[Tensor, Any], slots: Callable[[Group], Sequence[str]]):
        self._params = _params(groups)
        self._slots = slots
        self._layout = _layout(groups, slots)
        self._waiting: List[Tensor] = []  # for their first gradient
        self._entries: List[_Entry] = []
        group_of = [i for i, group in enumerate(groups) for _ in group["params"]]
        names = [name for group in groups for name in param_names(group)]
        for p, g, name in zip(self._params, group_of, names):
            if p.grad is None and not begun(state.get(p)):
                self._waiting.append(p)
            else:
                self._entries.append(_entry(p, state, name, g, groups[g], slots(groups[g])))

        self._updated = [e.param for e in self._entries]
        self._states = [e.state for e in self._entries]
        self._all_states = list(state.values())
        self._gapped = [e for e in self._entries if e.work is not e.view]
        self._mastered = [e for e in self._entries if MASTER in e.state]
        self._buffers: Dict[str, List[Dict[str, Any]]] = {}  # the states that have one of this name
        for e in self._entries:
            for name in (*e.slots, MASTER):
                if name in e.state:
                    self._buffers.setdefault(name, []).append(e.state)

        distributed = any(hasattr(p, "to_local") for p in self._updated)
        self._address: Callable[[Tensor], int] = _local_address if distributed else Tensor.data_ptr
        self._simple = not distributed and all(
            e.work.is_contiguous() and not e.param.is_complex() for e in self._entries
        )
        self._grad_shapes = [e.param.shape for e in self._entries]
        self._dtypes = [e.work.dtype for e in self._entries]
        self._addresses = self._find()
        self._shapes = self._find_shapes()
        # While it is held, no other memory can come to lie there: a tensor that was moved has another address.
        self._memory = [real(s[name].detach()) for name, states in self._buffers.items() for s in states]

        self._rules = np.zeros(len(groups), _library.RULE)
        self._rows = np.zeros(len(self._entries), _library.UPDATE)
        for row, e in zip(self._rows, self._entries):
            row["rule"] = self._rules[e.group :].ctypes.data
            if draws(e.param, e.slots, groups[e.group]):
                row["seed"], row["tensor"], row["first"] = rounding(e.param, e.state, groups[e.group], e.name)
            _fill(row, e)
        self._grad_codes = self._rows["grads"]["dtype"].copy()

    def holds(self, groups: List[Group], state: Dict[Tensor, Any]) -> bool:
        """Whether all memory is where it was, and no parameter has got its first gradient."""
        params = _params(groups)
        try:
            return (
                len(params) == len(self._params)
                and _layout(groups, self._slots) == self._layout
                and len(state) == len(self._all_states)
                and all(map(is_, params, self._params))
                and all(map(is_, state.values(), self._all_states))
                and self._find() == self._addresses
                and self._find_shapes() == self._shapes
                and not any(p.grad is not None for p in self._waiting)
            )
        except (KeyError, TypeError):  # a state that lacks something
            return False

    def _find(self) -> List[int]:
        """The addresses of all parameters and buffers."""
        addresses = list(map(self._address, self._updated))
        for name, states in self._buffers.items():
            addresses += map(self._address, map(itemgetter(name), states))
        return addresses

    def _find_shapes(self) -> List[Any]:
        """How the elements of all parameters lie: their memory may be seen in another way at the same address."""
        return [*map(Tensor.stride, self._updated), *map(Tensor.numel, self._updated), *map(_dtype_of, self._updated)]

    def step(self, rules: Iterable[Tuple[Any, ...]], loss_scale: float, workers: int) -> None:
        """Updates all parameters that have a gradient."""
        for i, rule in enumerate(rules):
            self._rules[i] = rule
        grads: List[Any] = [p.grad for p in self._updated]
        entries, states, rows, addresses = self._entries, self._states, self._rows, self._simple_addresses(grads)
        if addresses is not None:
            rows["grads"]["dtype"] = self._grad_codes
        else:
            due = [i for i, g in enumerate(grads) if g is not None]
            if not due:
                return
            entries, rows = [self._entries[i] for i in due], self._rows[due]
            for i in due:
                _check_gradient(grads[i], self._updated[i])
            states, grads = [e.state for e in entries], [_gradient(grads[i], self._entries[i]) for i in due]
            rows["grads"]["dtype"] = [_DTYPES[g.dtype] for g in grads]
            addresses = [g.data_ptr() for g in grads]
        rows["grads"]["data"] = addresses
        steps = [done + 1 for done in map(_steps_done, states)]
        rows["step"] = steps
        gapped = [e for e in self._gapped if e.param.grad is not None]
        for e in gapped:
            e.work.copy_(e.view)
        for e in self._mastered:
            adopt_changes(e.param, e.state[MASTER])

        # Counted before: a KeyboardInterrupt comes out of the call when its work is done.
        for state, step in zip(states, steps):
            state["step"] = step
        done = True
        try:
            _library.update_all(rows, loss_scale, workers)
        except _library.Refused:
            done = False
            for state, step in zip(states, steps):
                state["step"] = step - 1
            raise
        finally:
            if done:
                for e in gapped:
                    e.view.copy_(e.work)
                _tell_autograd(self._updated if entries is self._entries else [e.param for e in entries])

    def _simple_addresses(self, grads: List[Tensor]) -> Optional[List[int]]:
        """Where the gradients are, if all parameters have one and the engine can read all of them as they are."""
        try:
            if (
                self._simple
                and list(map(_dtype_of, grads)) == self._dtypes
                and list(map(_shape_of, grads)) == self._grad_shapes
                and _PLAIN.issuperset(map(type, grads))
                and all(map(Tensor.is_contiguous, grads))
                and not any(map(Tensor.is_neg, grads))
            ):
                return list(map(Tensor.data_ptr, grads))
        except (AttributeError, TypeError, RuntimeError):  # None, or a sparse tensor, which has no memory of its own
            pass
        return None


def _layout(groups: List[Group], slots: Callable[[Group], Sequence[str]]) -> List[Any]:
    """What of the groups decides how their parameters are laid out for the engine."""
    return [(len(g["params"]), slots(g), g["state_dtype"], g["master_weights"], g["seed"]) for g in groups]


def _params(groups: List[Group]) -> List[Tensor]:
    return [p for group in groups for p in group["params"]]


def _entry(
    p: Tensor, state: Dict[Tensor, Any], name: Name, number: int, group: Group, slots: Sequence[str]
) -> _Entry:
    check_param(p)
    if p.grad is not None:
        _check_gradient(p.grad, p)
    prepare(p, state[p], slots, group)
    view = real(p.detach())
    return _Entry(p, state[p], number, slots, name, view, view if is_dense(view) else torch.empty_like(view))


def _fill(row: Any, e: _Entry) -> None:
    """Writes all that stays the same from step to step."""
    if MASTER in e.state:
        _point(row["params"], real(e.state[MASTER]))
        _point(row["copy"], e.work)
    else:
        _point(row["params"], e.work)
    for vector, name in zip(row["state"], e.slots):
        _point(vector, real(e.state[name]))
    row["grads"]["length"], row["grads"]["dtype"] = e.work.numel(), _DTYPES[e.work.dtype]


def _point(vector: Any, t: Tensor) -> None:
    vector["data"], vector["length"], vector["dtype"] = t.data_ptr(), t.numel(), _DTYPES[t.dtype]


def _local_address(t: Tensor) -> int:
    return local(t).data_ptr()


def _check_gradient(g: Tensor, p: Tensor) -> None:
    """Reports a gradient that is not one of the parameter, or not one that the engine can read."""
    if g.layout is not torch.strided:
        raise RuntimeError(
            f"posneg does not support sparse gradients ({g.layout}): make the embedding with sparse=False, or give its "
            f"parameters to torch.optim.SparseAdam"
        )
    if g.shape != p.shape:
        raise ValueError(f"posneg: a gradient of shape {tuple(g.shape)} for a parameter of shape {tuple(p.shape)}")
    if g.dtype != p.dtype and (g.is_complex() or p.is_complex() or g.dtype not in _DTYPES or torch.float64 in (g.dtype, p.dtype)):
        raise TypeError(f"posneg: a gradient of {g.dtype} for a parameter of {p.dtype}")
    check_fits(g, p)


def _gradient(g: Tensor, e: _Entry) -> Tensor:
    """A checked gradient as the engine can read it: itself, or a copy in the order of the parameter's elements."""
    return like(real(cut_as(g.detach(), e.param)), e.work)
