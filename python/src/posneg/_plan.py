"""The arguments of the library's step, kept between steps as long as no memory moves."""

from __future__ import annotations

from functools import partial
from operator import attrgetter, itemgetter
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple, cast

import numpy as np
import torch
from torch import Tensor

from . import _library, _mx, _norm
from ._counts import STEP, Counts, as_count
from ._layout import is_dense, like, real, to_zero
from ._masters import MASTER, MASTER_LOW
from ._mx import scales_name
from ._noise import Sums
from ._options import NOTHING, Around
from ._overlap import address, first_overlap, without_shared
from ._placements import check_fits, cut_as, is_cut, local
from ._rounding import draws, param_names, rounding
from ._state import ROUNDING, begun, check_param, check_state, has_blocks, name_state_dtype, prepare

_DTYPES = {
    torch.float32: _library.FLOAT32,
    torch.float64: _library.FLOAT64,
    torch.bfloat16: _library.BF16,
    torch.float16: _library.F16,
}
_DTYPES_OF_STATE = {**_DTYPES, torch.int16: _library.LOW16}

_dtype_of = attrgetter("dtype")
_shape_of = attrgetter("shape")
_PLAIN = {Tensor, torch.nn.Parameter}
_size_of: Tuple[Callable[[Tensor], Any], ...] = (attrgetter("nbytes"),) if hasattr(Tensor, "nbytes") else (Tensor.numel, _dtype_of)

Group = Dict[str, Any]
PLACE = "place"  # in a group that is a part of another: the number of that group, and of the first parameter in it
State = Dict[Tensor, Dict[str, Any]]
Slots = Callable[[Group], Sequence[str]]
Now = Tuple[List[Tensor], List[Tensor], List[Dict[str, Any]]]  # parameters, their gradients and states, for the time of a step


class Plan:
    """The updates of the parameters that have a gradient.

    A plan has addresses and keeps no tensor alive. If other tensors with the same addresses and layouts take the place of old ones, a step
    should use them. So before each step, look compares everything that determines how memory is used.
    """

    def __init__(self, groups: List[Group], state: State, slots: Slots, counts: Optional[Counts]):
        for group in groups:
            name_state_dtype(group)
        params = all_params(groups)
        grads: List[Any] = [p.grad for p in params]
        self._groups = _layout(groups, slots)
        self._params = list(map(id, params))
        self._due = due(grads)
        updated = [params[i] for i in self._due]
        group_of = [g for g, group in enumerate(groups) for _ in group["params"]]

        for i, p in zip(self._due, updated):
            check_param(p)
            _check_memory(p, owner(groups, i))
            check_gradient(grads[i], p)
            group = groups[group_of[i]]
            check_state(p, state.get(p, {}), slots(group), owner(groups, i))
            if has_blocks(p, group, slots(group)):
                _mx.check_cut(p, owner(groups, i))
        check_overlap(groups, self._due)
        for i, p in zip(self._due, updated):
            group = groups[group_of[i]]
            prepare(p, state[p], slots(group), group)
        self.counts = counts if counts and all(counts.has_place(i, state[p]) for i, p in zip(self._due, updated)) else Counts(len(params))
        for i, p in zip(self._due, updated):
            self.counts.adopt(i, state[p], owner(groups, i))
        names = [name for group in groups for name in param_names(group)]
        draw = [
            rounding(p, state[p], slots(group), group, names[i]) if draws(p, slots(group), group) else (0, 0, 0)
            for i, p, group in ((i, p, groups[group_of[i]]) for i, p in zip(self._due, updated))
        ]

        order = {id(p): place for place, p in enumerate(state)}
        self._keys = list(map(id, state))
        self._order = [order[id(p)] for p in updated]
        states = self._states(state)
        self._sizes = list(map(len, states))
        self._slots = [slots(groups[group_of[i]]) for i in self._due]
        self._buffers: Dict[str, List[int]] = {}  # which of the states have one of this name
        for k, (names_of_slots, s) in enumerate(zip(self._slots, states)):
            for name in (*names_of_slots, *map(scales_name, names_of_slots), MASTER, MASTER_LOW):
                if name in s:
                    self._buffers.setdefault(name, []).append(k)
        self._numbered = [k for k, s in enumerate(states) if ROUNDING in s]
        self._distributed, self._spread = any(map(is_cut, updated)), any(map(is_cut, params))
        mastered = {*self._buffers.get(MASTER, ()), *self._buffers.get(MASTER_LOW, ())}
        self._row_major = {k for k, s in enumerate(self._slots) if any(scales_name(name) in states[k] for name in s)}
        self._gapped = {
            k: "copy" if k in mastered else "params"
            for k, p in enumerate(updated)
            if not (local(p).is_contiguous() if k in self._row_major else is_dense(local(p)))
        }
        self._simple = not self._distributed and all(p.is_contiguous() and not p.is_complex() for p in updated)
        self._looks = self._find(updated, states)
        self._shapes, self._dtypes = list(map(_shape_of, updated)), list(map(_dtype_of, updated))

        self._rules = np.zeros(len(groups), _library.RULE)
        self._rows = np.zeros(len(updated), _library.UPDATE)
        self._fill([group_of[i] for i in self._due], updated, states)
        for row, numbers in zip(self._rows, draw):
            row["seed"], row["tensor"], row["first"] = numbers
        self._last_rules: List[Tuple[Any, ...]] = []
        self._grads, self._step_numbers = self._rows["grads"], self._rows["step"]
        self._grad_codes = self._grads["dtype"].copy()
        self._places: Any = slice(None) if len(updated) == len(params) else self._due
        increments = np.zeros(len(params))
        increments[self._places] = 1
        self.call = _library.Call(self._rows)
        self._ran = torch.from_numpy(self.call.ran)
        self._count = partial(np.add, self.counts.values, increments, out=self.counts.values, where=self.call.done)

    def _fill(self, group_of: List[int], updated: List[Tensor], states: List[Dict[str, Any]]) -> None:
        """Writes the fields that stay the same from step to step."""
        rows, size = self._rows, _library.RULE.itemsize
        rows["rule"] = [self._rules.ctypes.data + g * size for g in group_of]
        views = [real(p.detach()) for p in updated]
        point(rows["params"], range(len(views)), views)
        rows["grads"]["length"], rows["grads"]["dtype"] = rows["params"]["length"], rows["params"]["dtype"]
        for name in (MASTER, MASTER_LOW):
            mastered = self._buffers.get(name, [])
            if mastered:
                point(rows["copy"], mastered, [views[k] for k in mastered])
                point(rows["params"], mastered, [real(states[k][name]) for k in mastered])
        rows["follow"][self._buffers.get(MASTER, [])] = 1  # others may write to the parameter
        _point_state(rows, self._slots, updated, states)

    def look(self, groups: List[Group], state: State, slots: Slots) -> Optional[Now]:
        """The tensors to update, if all have the same addresses and layouts as before; else None."""
        params = all_params(groups)
        if list(map(id, params)) != self._params or list(map(id, state)) != self._keys or _layout(groups, slots) != self._groups:
            return None
        grads: List[Any] = [p.grad for p in params]
        if due(grads) != self._due:
            return None
        if len(self._due) != len(params):
            params, grads = [params[i] for i in self._due], [grads[i] for i in self._due]
        try:
            states = self._states(state)
            same = list(map(len, states)) == self._sizes and self._find(params, states) == self._looks
        except (KeyError, TypeError, AttributeError, RuntimeError):  # an entry of a state is missing or has another type
            return None
        return (params, grads, states) if same else None

    def _states(self, state: State) -> List[Dict[str, Any]]:
        states = list(state.values())
        return [states[place] for place in self._order]

    def _find(self, updated: List[Tensor], states: List[Dict[str, Any]]) -> List[List[Any]]:
        """The addresses and layouts of all memory, and the other entries of the states that a step depends on."""
        buffers = [states[k][name] for name, having in self._buffers.items() for k in having]
        others = [list(map(Tensor.data_ptr, map(itemgetter(STEP), states))), [states[k][ROUNDING] for k in self._numbered]]
        if self._simple:
            of_params: Tuple[Callable[[Tensor], Any], ...] = (Tensor.data_ptr, _shape_of, _dtype_of, Tensor.is_contiguous, Tensor.is_neg)
            of_buffers: Tuple[Callable[[Tensor], Any], ...] = (Tensor.data_ptr, *_size_of, Tensor.is_contiguous, Tensor.is_neg)
        else:
            updated, buffers = list(map(local, updated)), list(map(local, buffers))
            of_params = of_buffers = (Tensor.data_ptr, _shape_of, _dtype_of, Tensor.stride, Tensor.is_neg, Tensor.is_conj)
        return others + [list(map(look, updated)) for look in of_params] + [list(map(look, buffers)) for look in of_buffers]

    def step(
        self, now: Now, groups: List[Group], rules: Iterable[Tuple[Any, ...]], loss_scale: float, workers: int,
        around: Around, skip: bool,
    ) -> None:
        """Updates the tensors that look returned, and writes the results to around. With skip, all processes skip the step."""
        fields = around.fields
        if not self._due and fields is NOTHING:
            return
        new = list(rules)
        if new != self._last_rules:
            self._rules[:] = self._last_rules = new
        updated, given, states = now
        grads, zero = given, around.zero_grads
        words = _no_noise(len(updated)) if around.reading else None
        steps = self.counts.next(self._places)
        if steps is None:
            for i in self._due:
                as_count(self.counts.values[i], owner(groups, i))
        self._step_numbers[:] = steps
        gapped = {k: _Copied(updated[k], k in self._row_major) for k in self._gapped}
        for k, copied in gapped.items():
            self._rows[k][self._gapped[k]]["data"] = copied.work.data_ptr()

        addresses = self._simple_addresses(grads)
        if addresses is not None:
            self._grads["dtype"] = self._grad_codes
        else:
            for g, p in zip(grads, updated):
                check_gradient(g, p)
            grads = [
                _gradient(g, p, gapped[k].work if k in gapped else real(p.detach())) for k, (g, p) in enumerate(zip(grads, updated))
            ]
            self._grads["dtype"] = [_DTYPES[g.dtype] for g in grads]
            addresses = list(map(Tensor.data_ptr, grads))
        self._grads["data"] = addresses

        norm = None
        if around.measures and (skip or self._spread or around.process_group is not None):
            squares = _norm.total(all_params(groups), self._due, self._grads, around.process_group, skip, workers)
            if squares[-1]:
                skip, norm = True, _library.norm(squares) / loss_scale
                squares[_library.INFINITIES] += 1
            fields = around.fields_with(squares.ctypes.data, skip)

        then: List[Callable[[], object]] = [self._count]
        if gapped:
            then += [partial(Tensor.copy_, copied.view, copied.work) for copied in gapped.values()]
        if zero and grads is not given:
            then += self._zeroing([g for g, read in zip(given, grads) if address(local(g)) != address(read)])
        try:
            try:
                self.call.run(loss_scale, workers, fields, then, words)
            except _library.Overlap:
                # A gradient may share memory with memory that is written. The step uses its values from before.
                grads = list(map(real, grads))
                kept = without_shared(grads, [*updated, *(v for s in states for v in s.values() if isinstance(v, Tensor))])
                if zero:  # two of them may share memory, too
                    for i, g, unshared in zip(self._due, grads, kept):
                        if address(g) != address(unshared):
                            raise ValueError(
                                f"posneg: zero_grads would overwrite parameters or state: the gradient of {owner(groups, i)} "
                                f"shares their memory"
                            ) from None
                    kept = list(map(Tensor.clone, grads))
                    then += self._zeroing(given)
                self._grads["data"] = list(map(Tensor.data_ptr, kept))
                self.call.run(loss_scale, workers, fields, then, words)
        finally:
            if self.call.done:
                _tell_autograd(updated)
            if zero:
                _tell_autograd(given)
        if words is not None:
            around.sums = Sums(self._due, self._step_numbers.tolist(), words)
        if around.measures:
            found, around.skipped = self.call.report()
            around.grad_norm = found if norm is None else norm

    def _zeroing(self, grads: List[Tensor]) -> List[Callable[[], object]]:
        """Calls that set gradients to zero, if the library has run: those of which the library has only copies."""
        return [self.call.look, *(partial(Tensor.masked_fill_, t, self._ran, 0) for t in to_zero(grads))]

    def _simple_addresses(self, grads: List[Tensor]) -> Optional[List[int]]:
        """The addresses of the gradients, if the engine can read all of them as they are."""
        try:
            if (
                self._simple
                and list(map(_dtype_of, grads)) == self._dtypes
                and list(map(_shape_of, grads)) == self._shapes
                and _PLAIN.issuperset(map(type, grads))
                and all(map(Tensor.is_contiguous, grads))
                and not any(map(Tensor.is_neg, grads))
            ):
                addresses = list(map(Tensor.data_ptr, grads))
                return addresses if all(addresses) else None
        except (AttributeError, TypeError, RuntimeError):  # a sparse tensor, which has no memory of its own
            pass
        return None


class _Copied:
    """A parameter with gaps between its elements, or with elements in another order than needed, and a copy of it."""

    def __init__(self, p: Tensor, row_major: bool):
        self.view = real(p.detach())
        order = torch.contiguous_format if row_major else torch.preserve_format
        self.work = torch.empty_like(self.view, memory_format=order).copy_(self.view)


def all_params(groups: List[Group]) -> List[Tensor]:
    return [p for group in groups for p in group["params"]]


def owner(groups: List[Group], index: int) -> str:
    """The name of a parameter in errors: its own, if torch knows it."""
    for number, group in enumerate(groups):
        if index < len(group["params"]):
            names = group.get("param_names")
            number, first = group.get(PLACE, (number, 0))
            return f"parameter {names[index]!r}" if names else f"parameter {first + index} of group {number}"
        index -= len(group["params"])
    raise IndexError


def part_of(groups: List[Group], number: int, first: int, last: int) -> Group:
    """A group with some of a group's parameters. Errors name them as in the whole group."""
    group = groups[number]
    part = {**group, "params": group["params"][first:last], PLACE: (number, first)}
    if group.get("param_names") is not None:
        part["param_names"] = param_names(group)[first:last]
    return part


def check_overlap(groups: List[Group], indices: Sequence[int]) -> None:
    """Reports parameters that share memory."""
    params = all_params(groups)
    found = first_overlap([params[i] for i in indices])
    if found:
        a, b = (indices[k] for k in found)
        what = "are the same" if params[a] is params[b] else "share memory"
        raise ValueError(f"posneg: {owner(groups, a)} and {owner(groups, b)} {what}; pass each element to the optimizer only once")


def _check_memory(t: Tensor, what: str) -> None:
    if t.numel() and local(t).numel() and not address(local(t)):
        if type(t) in _PLAIN:
            raise RuntimeError(f"posneg: {what} has {t.numel()} elements and no memory: its storage was freed")
        raise RuntimeError(f"posneg: {what} is a {type(t).__name__} without memory of its own: use torch.optim for such tensors")


def _layout(groups: List[Group], slots: Slots) -> List[Any]:
    """The options of the groups that determine how the engine sees their parameters."""
    return [(len(g["params"]), slots(g), g["state_dtype"], g["master_weights"], g["seed"]) for g in groups]


def _point_state(rows: Any, slots: Sequence[Sequence[str]], params: List[Tensor], states: List[Dict[str, Any]]) -> None:
    """Sets the state of each UPDATE in rows to that of a parameter."""
    for slot in range(max(map(len, slots), default=0)):
        plain: List[Tuple[int, str]] = []
        scaled: List[Tuple[int, str]] = []
        for k, names in enumerate(slots):
            if slot < len(names):
                (scaled if scales_name(names[slot]) in states[k] else plain).append((k, names[slot]))
        point(rows["state"][:, slot], [k for k, _ in plain], [real(states[k][name]) for k, name in plain])
        for k, name in scaled:
            elements, scales = local(states[k][name]), local(states[k][scales_name(name)])
            _mx.point(rows["state"][k, slot], elements, scales, _mx.local_row(params[k]))


def sums_of(
    groups: List[Group], state: State, slots: Slots, rules: Sequence[Tuple[Any, ...]], which: Optional[Sequence[int]], workers: int
) -> Sums:
    """Reads the noise from the state of the parameters with the given numbers, or of all. It completes the state, as a step does."""
    params = all_params(groups)
    group_of = [g for g, group in enumerate(groups) for _ in group["params"]]
    due = [i for i in (range(len(params)) if which is None else which) if begun(state.get(params[i]))]
    for i in due:
        check_param(params[i])
        check_state(params[i], state[params[i]], slots(groups[group_of[i]]), owner(groups, i))
    for i in due:
        prepare(params[i], state[params[i]], slots(groups[group_of[i]]), groups[group_of[i]])
    states = [state[params[i]] for i in due]
    rows, fields = np.zeros(len(due), _library.UPDATE), np.array(list(rules), _library.RULE)
    rows["rule"] = [fields.ctypes.data + group_of[i] * fields.itemsize for i in due]
    rows["step"] = steps = [as_count(s[STEP], owner(groups, i)) for i, s in zip(due, states)]
    _point_state(rows, [slots(groups[group_of[i]]) for i in due], [params[i] for i in due], states)
    words = _no_noise(len(due))
    _library.sum_noise(rows, workers, words)
    return Sums(due, steps, words)


def _no_noise(count: int) -> np.ndarray:
    return np.zeros((count, _library.NOISE), np.int64)


def due(grads: List[Any]) -> Sequence[int]:
    """Which parameters have a gradient."""
    missing = [g is None for g in grads]
    return [i for i, m in enumerate(missing) if not m] if any(missing) else range(len(grads))


def point(vectors: Any, at: Sequence[int], tensors: List[Tensor]) -> None:
    vectors["data"][at] = list(map(address, tensors))
    vectors["length"][at] = list(map(Tensor.numel, tensors))
    vectors["dtype"][at] = [_DTYPES_OF_STATE[t.dtype] for t in tensors]


def _incrementer(one_or_all: Any) -> Callable[[List[Tensor]], None]:
    """A function with which autograd refuses backward passes through overwritten values, made from torch's increment_version."""
    if one_or_all is None:  # before torch 2.1
        return lambda changed: None
    try:
        one_or_all([])
    except (RuntimeError, TypeError):  # before torch 2.5, which also refuses tensors that autograd never sees

        def each(changed: List[Tensor]) -> None:
            for p in changed:
                if not p.is_inference():
                    one_or_all(p)

        return each
    return cast(Callable[[List[Tensor]], None], one_or_all)


_tell_autograd = _incrementer(getattr(torch.autograd.graph, "increment_version", None))


def check_gradient(g: Tensor, p: Tensor) -> None:
    """Reports a gradient that does not fit the parameter, or that the engine cannot read."""
    if g.layout is not torch.strided:
        raise RuntimeError(
            f"posneg does not support sparse gradients ({g.layout}): make the embedding with sparse=False, or use torch.optim.SparseAdam "
            f"for its parameters"
        )
    if g.shape != p.shape:
        raise ValueError(f"posneg: a gradient of shape {tuple(g.shape)} for a parameter of shape {tuple(p.shape)}")
    if g.dtype != p.dtype and (g.is_complex() or p.is_complex() or g.dtype not in _DTYPES or torch.float64 in (g.dtype, p.dtype)):
        raise TypeError(f"posneg: a gradient of {g.dtype} for a parameter of {p.dtype}")
    check_fits(g, p)


def _gradient(g: Tensor, p: Tensor, work: Tensor) -> Tensor:
    """A checked gradient in a form that the engine can read: itself, or a copy in the order of the parameter's elements."""
    g = like(real(cut_as(g.detach(), p)), work)
    if not address(g) and g.numel():  # a wrapper, or zeros without memory, whose values torch can copy
        if type(g) in _PLAIN and not g._is_zerotensor():  # its storage has been resized to 0: a copy would crash
            _check_memory(g, f"the gradient of a parameter of shape {tuple(p.shape)}")
        try:
            g = torch.empty_strided(work.shape, work.stride(), dtype=g.dtype, device="cpu").copy_(g)
        except Exception:
            _check_memory(g, f"the gradient of a parameter of shape {tuple(p.shape)}")
            raise
    return g
