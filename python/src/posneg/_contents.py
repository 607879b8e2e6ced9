"""What a checkpoint holds of an optimizer: its tensors, as they are in a file, and their names. The fingerprint of all of them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Set, Tuple

import torch
from torch import Tensor

from . import _mx
from ._fingerprint import Fingerprint, Stream, of_count
from ._header import PARAMS
from ._layout import real
from ._masters import MASTER, MASTER_LOW, followed, has_master, join
from ._mx import scales_name
from ._norm import Spread, spread
from ._placements import is_cut, local, runs
from ._plan import Group
from ._rounding import Name, first_of, param_names
from ._safetensors import DTYPES, ELEMENTS, PIECE, SCALES, pieces
from ._state import begun, check_param, check_state, prepare
from ._threads import in_threads

if TYPE_CHECKING:
    from ._optimizer import Optimizer

Names = Optional[Iterable[Tuple[str, Tensor]]]

SCALES_SUFFIX = ".scales"  # behind a slot, in keys and among checksums


@dataclass
class Member:
    """A parameter of an optimizer."""

    param: Tensor
    name: str  # in the file
    own_name: Name  # in the optimizer


@dataclass
class Saved:
    """A tensor of a file, as real numbers of a type, in row-major order."""

    tensor: Tensor
    dtype: torch.dtype
    first: int  # the number of its first element, if it is a part that was loaded from a file
    master: Optional[Tuple[Callable[[Tensor, Tensor], Tensor], Tensor]] = None  # makes the numbers from the tensor and another one
    in_file: Optional[str] = None  # the type's name in the file, if torch 1 does not have the type

    def entry(self) -> Tuple[str, Tuple[int, ...]]:
        real_of = {torch.complex64: torch.float32, torch.complex128: torch.float64}
        return self.in_file or DTYPES[real_of.get(self.dtype, self.dtype)], tuple(real(self.tensor.detach()).shape)

    def size(self) -> int:
        return local(self.tensor).numel() * self.tensor.element_size()

    def _parts(self) -> Iterator[Tensor]:
        """The numbers that this process has, one part after the other; copies only if they have another type or order in memory."""
        t = local(self.tensor.detach())
        if self.master is None:
            yield real(t.to(self.dtype)).contiguous().reshape(-1)
            return
        master_of, other = self.master
        flat, others = (x.contiguous().reshape(-1) for x in (t, local(other)))
        for lo in range(0, len(flat), PIECE // 4):  # small enough for a cache
            yield master_of(flat[lo : lo + PIECE // 4], others[lo : lo + PIECE // 4])

    def pieces(self) -> Iterator[memoryview]:
        """The bytes that this process has, in a file's order."""
        return (piece for part in self._parts() for piece in pieces(part))

    def sums(self, key: str) -> Tuple[int, Fingerprint]:
        """The checksum and the fingerprint."""
        crc32, stream = 0, Stream(key, self.entry()[0], self.first)
        for piece in self.pieces():
            crc32 = zlib.crc32(piece, crc32)
            stream.add(piece)
        return crc32, stream.sum

    def fingerprint(self, key: str) -> Fingerprint:
        """The fingerprint of this process's part of a tensor."""
        length, starts = runs(self.tensor)
        numbers = 2 if self.tensor.is_complex() else 1
        total, at = Fingerprint(), 0
        for part in self._parts():
            end = at + len(part)
            while at < end:
                run, done = divmod(at, numbers * length)
                n = min(end - at, numbers * length - done)
                stream = Stream(key, self.entry()[0], self.first + numbers * starts[run] + done)
                for piece in pieces(part[len(part) - (end - at) :][:n]):
                    stream.add(piece)
                total += stream.sum
                at += n
        return total


def contents(optimizer: Optimizer, group: Group, m: Member, slots: Sequence[str], params: bool) -> Dict[str, Saved]:
    """The tensors of a parameter, by what they are: a buffer of the state, its scales, or PARAMS."""
    state = optimizer.state.get(m.param) or {}
    found: Dict[str, Saved] = {}
    first = first_of(state)
    if begun(state):
        check_state(m.param, state, slots, repr(m.name))
        prepare(m.param, state, slots, group)  # as at the next step
        for slot in slots:
            t, scales = state[slot], state.get(scales_name(slot))
            found[slot] = Saved(t, t.dtype, first, in_file=None if scales is None else ELEMENTS)
            if scales is not None:
                row = _mx.row_of(t.shape)
                in_file = scales if row % _mx.BLOCK or is_cut(scales) else scales.reshape(-1)  # as the Go packages have them
                found[slot + SCALES_SUFFIX] = Saved(in_file, scales.dtype, _mx.scale_of(first, row), in_file=SCALES)
    trained = _trained(m.param, state, group, params, first)
    if trained is not None:
        found[PARAMS] = trained
    return found


def _trained(p: Tensor, state: Group, group: Group, params: bool, first: int) -> Optional[Saved]:
    """The parameter, or its master if it has one, if it must be saved."""
    for name, master_of in ((MASTER, followed), (MASTER_LOW, join)):
        if name in state:
            return Saved(p, torch.float32, first, (master_of, state[name]))
    if not params:
        return None
    return Saved(p, torch.float32 if has_master(p, group) else p.dtype, first)


def fingerprint(optimizer: Optimizer, names: Names) -> Fingerprint:
    """That of parameters, state and counts, over all processes that share the parameters."""
    own = all(group.get("param_names") for group in optimizer.param_groups)
    if optimizer.process_group is not None and names is None and not own:
        raise ValueError("posneg: with process_group, a fingerprint needs names, since numbers of parameters differ among processes")
    optimizer._check_loaded()
    total: Dict[Spread, Fingerprint] = {None: Fingerprint()}
    tensors: List[Tuple[Spread, str, Saved]] = []
    for group, mine in zip(optimizer.param_groups, members(optimizer, names, may_be_cut=True)):
        optimizer._check(group)
        slots = optimizer._slots(group)
        for m in mine:
            where = spread(m.param)
            total.setdefault(where, Fingerprint())
            found = contents(optimizer, group, m, slots, params=True)
            tensors += [(where, key_of(m.name, of), saved) for of, saved in found.items()]
            if _counts(m.param, where) and found[PARAMS].first == 0:
                total[where] += of_count(m.name, int((optimizer.state.get(m.param) or {}).get("step", 0)))
    sums = in_threads(lambda t: t[2].fingerprint(t[1]), tensors, lambda t: t[2].size(), PIECE)
    for (where, _, _), part in zip(tensors, sums):
        total[where] += part
    result = Fingerprint()
    for where, part in total.items():  # in the same order in all processes
        if where is not None:
            mesh, dimensions = where
            for d in dimensions:
                part = part.shared(mesh.get_group(d))
        result += part
    return result if optimizer.process_group is None else result.shared(optimizer.process_group)


def _counts(p: Any, where: Spread) -> bool:
    """Whether this process adds a parameter's count: of those that share the parameter, one does."""
    if where is None:
        return not is_cut(p) or p.device_mesh.get_coordinate() is not None
    mesh, dimensions = where
    return not any(mesh.get_coordinate()[d] for d in dimensions)


def members(optimizer: Optimizer, names: Names, may_be_cut: bool = False) -> List[List[Member]]:
    """The parameters of each group, with their names."""
    lists = [group["params"] for group in optimizer.param_groups]
    for p in (p for params in lists for p in params):
        if is_cut(p) and not may_be_cut:
            raise TypeError(
                "posneg: parameters that are cut up among processes (DTensors) need torch.distributed.checkpoint: see docs/distributed.md"
            )
        check_param(p)
    called = _called(optimizer, lists, names)
    found: List[List[Member]] = []
    seen: Set[str] = set()
    i = 0
    for group, params in zip(optimizer.param_groups, lists):
        found.append([])
        for p, own in zip(params, param_names(group)):
            if called[i] in seen:
                raise ValueError(f"posneg: names has two parameters called {called[i]!r}")
            seen.add(called[i])
            found[-1].append(Member(p, called[i], own))
            i += 1
    return found


def _called(optimizer: Optimizer, lists: List[List[Tensor]], names: Names) -> List[str]:
    """The names of the parameters, in the optimizer's order."""
    if names is None:
        own = [group.get("param_names") or [] for group in optimizer.param_groups]  # of torch 2.6 and later
        if [len(params) for params in lists] == list(map(len, own)):
            return [str(name) for group in own for name in group]
        return [str(i) for i in range(sum(map(len, lists)))]
    named: Dict[int, str] = {}
    for name, p in names:
        if not isinstance(name, str) or not name or not isinstance(p, Tensor):
            raise TypeError(
                f"posneg: names must be (name, parameter) pairs such as model.named_parameters(), not ({name!r}, {type(p).__name__})"
            )
        named.setdefault(id(p), name)
    called = []
    for i, p in enumerate(p for params in lists for p in params):
        if id(p) not in named:
            raise ValueError(f"posneg: names has no name for parameter {i} of the optimizer, of shape {tuple(p.shape)}")
        called.append(named[id(p)])
    return called


def state_key(name: str, slot: str) -> str:
    return f"state.{name}.{slot}"


def param_key(name: str) -> str:
    return f"params.{name}"


def key_of(name: str, of: str) -> str:
    """The name of a tensor in a file."""
    return param_key(name) if of == PARAMS else state_key(name, of)


def owner_of(key: str) -> Tuple[str, str]:
    """The parameter that a tensor of a file belongs to, and which of its checksums is the tensor's."""
    if key.startswith("params."):
        return key[len("params.") :], PARAMS
    if not key.startswith("state."):
        return key, ""
    base, scales = (key[: -len(SCALES_SUFFIX)], SCALES_SUFFIX) if key.endswith(SCALES_SUFFIX) else (key, "")
    owner, _, slot = base[len("state.") :].rpartition(".")
    return owner, slot + scales
