"""Checkpoints: files with parameters and an optimizer's state. The Go packages read and write them, too.

They are safetensors files: docs/checkpoints.md describes the content.
"""

from __future__ import annotations

import contextlib
import os
import stat
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import (
    TYPE_CHECKING, Any, BinaryIO, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Set, Tuple, TypeVar, Union,
)

import torch
from torch import Tensor

from . import _mx
from ._cache import Plans
from ._counts import step_tensor
from ._files import replacing
from ._header import FLAGS, PARAMS, Damaged, SavedGroup, SavedTensor, check_metadata, decode, encode
from ._json import dumps, short
from ._layout import real
from ._masters import MASTER, MASTER_LOW, followed, has_master, join, split
from ._memory import zeros
from ._mx import scales_name
from ._optimizer import Optimizer
from ._plan import Group
from ._rounding import Name, draws, packed, param_names, rounding
from ._safetensors import DTYPES, ELEMENTS, PIECE, SCALES, Entry, Source, encode_header, memory, pieces, read_header, swap
from ._state import ROUNDING, begun, check_param, check_state, has_blocks, prepare, state_dtype

if TYPE_CHECKING:
    from .offload import Offload
from ._threads import get_num_threads

File = Union[str, "os.PathLike[str]", BinaryIO]
Names = Optional[Iterable[Tuple[str, Tensor]]]

_SCALES = ".scales"  # behind a slot, in keys and among checksums

# Entries of a group that are not options of its steps, or that stay the optimizer's own when a file is loaded.
_NOT_SAVED = {"params", "param_names", "fused", "state_dtype", "master_weights", "seed"}


class CheckpointError(ValueError):
    """The file is not a checkpoint, is damaged, or does not fit the optimizer. The optimizer is unchanged, unless the text says so."""


class ChecksumError(CheckpointError):
    """The file is damaged: its content differs from what was written."""


@dataclass
class _Member:
    """A parameter of an optimizer."""

    param: Tensor
    name: str  # in the file
    own_name: Name  # in the optimizer


@dataclass
class _Saved:
    """A tensor to be written, as real numbers of a type, in row-major order."""

    tensor: Tensor
    dtype: torch.dtype
    master: Optional[Callable[[], Tensor]] = None  # made when needed, since all masters would take much memory
    in_file: Optional[str] = None  # the type's name in the file, if torch 1 does not have the type

    def entry(self) -> Tuple[str, Tuple[int, ...]]:
        real_of = {torch.complex64: torch.float32, torch.complex128: torch.float64}
        return self.in_file or DTYPES[real_of.get(self.dtype, self.dtype)], tuple(real(self.tensor.detach()).shape)

    def rows(self) -> Tensor:
        """The elements; a copy only if they have another type or order in memory."""
        return real((self.master() if self.master else self.tensor.detach()).to(self.dtype)).contiguous()

    def size(self) -> int:
        return self.tensor.numel() * self.tensor.element_size()

    def crc32(self) -> int:
        sum = 0
        for piece in pieces(self.rows()):
            sum = zlib.crc32(piece, sum)
        return sum


@torch.no_grad()
def save_checkpoint(
    file: File,
    optimizer: Union[Optimizer, Offload],
    *,
    names: Names = None,
    params: bool = True,
    metadata: Optional[Mapping[str, str]] = None,
) -> None:
    """Writes a checkpoint to a file. A run that load_checkpoint continues from it gives bit-identical results to an uninterrupted one.

    An existing file is replaced once the new one is on disk, and stays if anything fails.

    Options of the whole step, such as clip_norm and zero_grads, are not in the file: pass them to the constructor again.

    Args:
        file: a path, or a binary file that is open for writing.
        names: (name, parameter) pairs such as model.named_parameters(), for the names of the tensors in the file. None: the names that
            the optimizer was made with, or else the parameters' numbers in the optimizer.
        params: write the parameters, too. float32 masters of 16-bit parameters belong to the state, and are always written.
        metadata: the caller's own strings, such as epoch and position in the data. load_checkpoint returns them.
    """
    call = partial(_save, file=file, params=params, metadata=metadata)
    _call(call, optimizer, names, loads=False)


def _save(optimizer: Optimizer, names: Names, *, file: File, params: bool, metadata: Optional[Mapping[str, str]]) -> None:
    members = _members(optimizer, names)
    optimizer._check_loaded()
    metadata = {} if metadata is None else metadata
    check_metadata(metadata)
    tensors: Dict[str, _Saved] = {}
    groups: List[SavedGroup] = []
    for number, (group, mine) in enumerate(zip(optimizer.param_groups, members)):
        optimizer._check(group)
        slots = optimizer._slots(group)
        saved = []
        for m in mine:
            state = optimizer.state.get(m.param) or {}
            sums: Dict[str, int] = {}
            if begun(state):
                check_state(m.param, state, slots, repr(m.name))
                prepare(m.param, state, slots, group)  # as at the next step
                for slot in slots:
                    for of, written in _saved(state, slot):
                        tensors[_state_key(m.name, of)] = written
                        sums[of] = 0
            trained = _trained(m.param, state, group, params)
            if trained is not None:
                tensors[_param_key(m.name)] = trained
                sums[PARAMS] = 0
            random = rounding(m.param, state, slots, group, m.own_name) if draws(m.param, slots, group) else None
            saved.append(SavedTensor(m.name, int(state.get("step", 0)), random, sums))
        groups.append(SavedGroup(optimizer._rule_name, _hyperparameters(optimizer, group), _other(optimizer, number), saved))
    crc32 = dict(zip(tensors, _in_threads(_Saved.crc32, tensors.values(), _Saved.size)))
    for t in (t for group in groups for t in group.tensors):
        assert t.crc32 is not None
        for of in t.crc32:
            t.crc32[of] = crc32[_param_key(t.name) if of == PARAMS else _state_key(t.name, of)]

    from . import __version__

    entries = {name: t.entry() for name, t in tensors.items()}
    header, order = encode_header(encode(groups, f"posneg {__version__}, torch {torch.__version__}", metadata, entries), entries)
    with _opened_to_write(file) as out:
        _write(out, memoryview(header))
        for name in order:
            for piece in pieces(tensors[name].rows()):
                _write(out, piece)


def _saved(state: Dict[str, Any], slot: str) -> List[Tuple[str, _Saved]]:
    """The tensors to write for a momentum or an average, with their names."""
    t, scales = state[slot], state.get(scales_name(slot))
    if scales is None:
        return [(slot, _Saved(t, t.dtype))]
    in_file = scales if _mx.row_of(t.shape) % _mx.BLOCK else scales.reshape(-1)  # as the Go packages have them
    return [(slot, _Saved(t, t.dtype, in_file=ELEMENTS)), (slot + _SCALES, _Saved(in_file, scales.dtype, in_file=SCALES))]


def _write(out: BinaryIO, piece: memoryview) -> None:
    while len(piece):
        n = out.write(piece)
        piece = piece[len(piece) if n is None else n :]


@contextlib.contextmanager
def _opened_to_write(file: File) -> Iterator[BinaryIO]:
    if not isinstance(file, (str, os.PathLike)):
        yield file
        return
    try:
        with replacing(os.fspath(file)) as out:
            yield out
    except OSError as e:
        if e.filename is None and e.errno is not None:
            e.filename = os.fspath(file)  # errors of writing lack it
        raise


_T = TypeVar("_T")
_R = TypeVar("_R")


def _in_threads(call: Callable[[_T], _R], arguments: Iterable[_T], size: Callable[[_T], int]) -> List[_R]:
    """The results of call, in order. call releases the interpreter's lock for checksums and reads. Small arguments share a task."""
    batches: List[List[_T]] = [[]]
    left = PIECE
    for argument in arguments:
        batches[-1].append(argument)
        left -= size(argument)
        if left <= 0:
            batches.append([])
            left = PIECE
    with ThreadPoolExecutor(min(get_num_threads(), 4)) as pool:
        return [result for batch in pool.map(lambda batch: list(map(call, batch)), batches) for result in batch]


def _trained(p: Tensor, state: Dict[str, Any], group: Group, params: bool) -> Optional[_Saved]:
    """The parameter, or its master if it has one, if it must be saved."""
    for name, master_of in ((MASTER, followed), (MASTER_LOW, join)):
        if name in state:
            return _Saved(p, torch.float32, partial(master_of, p, state[name]))
    if not params:
        return None
    return _Saved(p, torch.float32 if has_master(p, group) else p.dtype)


def _hyperparameters(optimizer: Optimizer, group: Group) -> Dict[str, Any]:
    return {name: key is not None and _plain(name, group[key]) for name, key in optimizer._hyperparameters.items()}


def _plain(name: str, value: Any) -> Any:
    """A hyperparameter for JSON. Learning rates may be tensors, and flags numbers."""
    if name in FLAGS:
        return bool(value)
    return [float(v) for v in value] if name == "betas" else float(value)


def _other(optimizer: Optimizer, number: int) -> Dict[str, Any]:
    """Entries of a group that others have added, such as a scheduler's initial_lr."""
    known = {*_NOT_SAVED, *optimizer._hyperparameters.values()}
    other = {key: value for key, value in optimizer.param_groups[number].items() if key not in known}
    for key, value in other.items():
        if isinstance(value, Tensor) and value.numel() == 1:
            other[key] = value = value.item()
        try:
            dumps({key: value})
        except (TypeError, ValueError, RecursionError) as e:
            raise TypeError(
                f"posneg: group {number} has {key!r}: {value!r}, which JSON cannot hold ({e}); remove it before saving"
            ) from e
    return other


@torch.no_grad()
def load_checkpoint(
    file: File,
    optimizer: Union[Optimizer, Offload],
    *,
    names: Names = None,
    params: bool = True,
    keep_options: bool = False,
    verify: bool = True,
) -> Dict[str, str]:
    """Loads a checkpoint that save_checkpoint or the Go packages wrote, and returns the metadata in it.

    The optimizer must have the same rule, and parameters with the same names and shapes, in any order and any groups. A file that does not
    fit raises a CheckpointError, and a damaged file a ChecksumError. In both cases nothing has changed. If reading fails after these
    checks, the error says so, and the optimizer refuses to step until a checkpoint has been loaded.

    Args:
        file: a path, or a binary file that is open for reading and can seek.
        names: as in save_checkpoint.
        params: load the parameters, too, into the optimizer's tensors. With False they stay as they are; float32 masters are then
            loaded if the file has them, and otherwise begin as copies of the parameters.
        keep_options: keep the learning rate and all other options of the groups, and the seed, instead of the file's. In both cases
            state_dtype and master_weights stay, and the loaded state is converted to them.
        verify: compare the checksums. Set it to False to load a damaged file.
    """
    call = partial(_load, file=file, params=params, keep_options=keep_options, verify=verify)
    return _call(call, optimizer, names, loads=True)


def _load(optimizer: Optimizer, names: Names, *, file: File, params: bool, keep_options: bool, verify: bool) -> Dict[str, str]:
    members = _members(optimizer, names)
    with _errors_of(file), _opened_to_read(file) as opened:
        source = Source(opened)
        header, entries = read_header(source)
        saved_groups, metadata = decode(header, entries, verify)
        groups, loads = _fit(entries, saved_groups, optimizer, members, params, keep_options)
        if verify:
            _verify(source, [claim for load in loads for claim in load.claims])
        if optimizer._half_loaded == "parameters" and not params:
            raise ValueError("must be loaded with params=True: an earlier load has left the parameters half loaded, too")
        optimizer._half_loaded = "parameters" if params else "state"
        optimizer._plans = Plans()
        for group, new in zip(optimizer.param_groups, groups):
            group.update(new)
        try:
            for load in loads:
                optimizer.state.pop(load.member.param, None)  # frees memory for the new state
                state = load.run(source)
                if state:
                    optimizer.state[load.member.param] = state
        except (ValueError, OSError) as e:
            raise ValueError(f"could be loaded only in part, and the optimizer must be loaded again: it {e}") from e
        optimizer._half_loaded = None
        optimizer._around.begin_noise()
    return metadata


@contextlib.contextmanager
def _opened_to_read(file: File) -> Iterator[BinaryIO]:
    if not isinstance(file, (str, os.PathLike)):
        yield file
        return
    if not stat.S_ISREG(os.stat(file).st_mode):  # opening a pipe would wait
        raise ValueError("is not a file")
    with open(file, "rb", buffering=0) as opened:
        yield opened


@dataclass
class _Claim:
    """A tensor of the file that belongs to a parameter."""

    key: str
    entry: Entry
    crc32: Optional[int]  # None in files of other writers
    scales: Optional["_Claim"] = None  # of mxfp8


def _verify(source: Source, claims: List[_Claim]) -> None:
    summed = [claim for claim in claims if claim.crc32 is not None]
    summed.sort(key=lambda claim: claim.entry.begin)
    sums = _in_threads(lambda claim: source.crc32(claim.entry), summed, lambda claim: claim.entry.end - claim.entry.begin)
    for claim, sum in zip(summed, sums):
        if claim.crc32 != sum:
            raise Damaged(f"has other numbers in {short(claim.key)} than were written")


class _Contents:
    """The tensors of a file, without their data."""

    def __init__(self, entries: Dict[str, Entry]):
        self._unclaimed = entries

    def claim(self, key: str, p: Tensor, saved: SavedTensor, of: str) -> Optional[_Claim]:
        """The tensor of the file with this key, or None. Raises a ValueError if it does not fit the parameter."""
        entry = self._unclaimed.pop(key, None)
        if entry is None:
            return None
        model = real(p.detach())
        blocks = entry.dtype == ELEMENTS and of != PARAMS
        wide = entry.dtype == "F64"
        if not blocks and entry.dtype not in _TYPES or wide != (model.dtype == torch.float64) or blocks and p.is_complex():
            raise ValueError(f"has {short(key)} as {entry.dtype}, which does not fit a parameter of {p.dtype}")
        if entry.shape not in (tuple(model.shape), (model.numel(),)):
            raise ValueError(f"has {short(key)} of shape {list(entry.shape)}, must have shape {list(model.shape)}")
        scales = self._scales(key, p, saved, of) if blocks else None
        return _Claim(key, entry, self._crc32(key, saved, of), scales)

    def _scales(self, key: str, p: Tensor, saved: SavedTensor, of: str) -> _Claim:
        entry = self._unclaimed.pop(key + _SCALES, None)
        if entry is None:
            raise ValueError(f"has no {short(key + _SCALES)}, the scales of {short(key)}")
        if entry.dtype != SCALES or _mx.row_in(p.numel(), entry.shape) is None:
            raise ValueError(
                f"has {short(key + _SCALES)} as {entry.dtype} of shape {list(entry.shape)}, must be {SCALES} of shape "
                f"{list(_mx.scales_shape(p.shape, _mx.row_of(p.shape)))}, for example, or of one dimension"
            )
        return _Claim(key + _SCALES, entry, self._crc32(key + _SCALES, saved, of + _SCALES))

    @staticmethod
    def _crc32(key: str, saved: SavedTensor, of: str) -> Optional[int]:
        if saved.crc32 is None:
            return None
        if of not in saved.crc32:
            raise ValueError(f"has no checksum of {short(key)}, but others of its tensor")
        return saved.crc32[of]

    def finish(self) -> None:
        if self._unclaimed:
            raise ValueError(f"has tensors that belong to no parameter: {_few(self._unclaimed)}")


@dataclass
class _Load:
    """The work of loading a parameter and its state."""

    member: _Member
    group: Group
    slots: Sequence[str]
    step: int
    has_state: bool  # in the file
    state: List[_Claim]  # for each slot
    param: Optional[_Claim]
    params: bool  # whether the parameter is to be loaded
    rounding: Optional[int]  # for the state

    @property
    def has_master(self) -> bool:
        return has_master(self.member.param, self.group) and self.param is not None and (self.has_state or self.params)

    @property
    def claims(self) -> List[_Claim]:
        """The tensors of the file that will be read."""
        state = [part for claim in self.state for part in (claim, claim.scales) if part is not None]
        return [*state, self.param] if self.param is not None and (self.params or self.has_master) else state

    def run(self, source: Source) -> Dict[str, Any]:
        """Loads the parameter, and returns its state."""
        p = self.member.param
        state: Dict[str, Any] = {}
        row_major = has_blocks(p, self.group, self.slots)
        if self.has_master:
            assert self.param is not None
            state[MASTER] = _read(source, self.param, zeros(p, torch.float32, len(self.slots), row_major))
        if self.params and MASTER in state:
            p.copy_(state[MASTER])
            if p.dtype == torch.bfloat16:
                state[MASTER_LOW] = split(p, state.pop(MASTER), len(self.slots), row_major)
        elif self.params:
            assert self.param is not None
            _read(source, self.param, p)
        if self.rounding is not None:
            state[ROUNDING] = self.rounding
        if not self.has_state and not begun(state):
            return {**state, "step": step_tensor(0)} if state else {}  # the first step makes the rest
        state["step"] = step_tensor(self.step)
        for place, (slot, claim) in enumerate(zip(self.slots, self.state)):  # none if the file has no state
            state.update(_read_buffer(source, claim, p, slot, state_dtype(p, self.group, slot), place, row_major))
        prepare(p, state, self.slots, self.group)
        return state


_TYPES = {name: dtype for dtype, name in DTYPES.items()}


def _read_buffer(
    source: Source, claim: _Claim, p: Tensor, slot: str, dtype: torch.dtype, place: int, row_major: bool
) -> Dict[str, Tensor]:
    """Reads a momentum or an average. If only one side is mxfp8, or if blocks differ, it is float32 in between."""
    if claim.scales is None:
        between = torch.float32 if dtype == _mx.ELEMENTS else dtype
        return {slot: _read(source, claim, zeros(p, between, place, row_major))}
    scales = torch.empty(claim.scales.entry.shape, dtype=_mx.SCALES, device="cpu")
    return {
        slot: _read(source, claim, zeros(p, _mx.ELEMENTS, place, row_major=True)),
        scales_name(slot): _read(source, claim.scales, scales),
    }


def _read(source: Source, claim: _Claim, to: Tensor) -> Tensor:
    """Reads a tensor into the memory of another one, in place."""
    inner = real(to.detach())
    dtype = _TYPES.get(claim.entry.dtype, inner.dtype)  # mxfp8 is read into its own types
    flat = inner.reshape(-1) if inner.is_contiguous() else torch.empty(inner.numel(), dtype=inner.dtype, device="cpu")
    step = PIECE // 8
    passing = None if dtype == flat.dtype else torch.empty(min(step, flat.numel()), dtype=dtype, device="cpu")
    at = claim.entry.begin
    for lo in range(0, flat.numel(), step):
        part = flat[lo : lo + step]
        read = part if passing is None else passing[: part.numel()]
        piece = memory(read)
        source.read_into(at, piece)
        swap(piece, read.element_size())
        if passing is not None:
            part.copy_(read)
        at += len(piece)
    if inner.is_contiguous():
        inner.unsqueeze(0).narrow(0, 0, 0).zero_()  # tells autograd, which does not see writes to memory, that the tensor has changed
    else:
        inner.copy_(flat.reshape(inner.shape))
    return to


def _fit(
    entries: Dict[str, Entry],
    saved_groups: List[SavedGroup],
    optimizer: Optimizer,
    members: List[List[_Member]],
    params: bool,
    keep_options: bool,
) -> Tuple[List[Group], List[_Load]]:
    """The new groups, and the work for each parameter. Raises a ValueError if the file does not fit the optimizer."""
    contents = _Contents(entries)
    for number, saved in enumerate(saved_groups):
        if not saved.tensors:
            continue  # an empty group may have any rule
        if saved.rule != optimizer._rule_name:
            raise ValueError(f"holds {short(saved.rule)}, which {type(optimizer).__name__} cannot continue")
        for names, problem in (
            (optimizer._hyperparameters.keys() - saved.hyperparameters.keys(), "has no"),
            (saved.hyperparameters.keys() - optimizer._hyperparameters.keys(), "has unknown"),
        ):
            if names:
                raise ValueError(f"group {number} {problem} {_few(names)}")
    found = {t.name: (saved, t) for saved in saved_groups for t in saved.tensors}
    ours = {m.name for mine in members for m in mine}
    if ours != found.keys():
        raise ValueError(
            f"has other tensors than the optimizer: {_few(found.keys() - ours) or 'none'} only in the file, and "
            f"{_few(ours - found.keys()) or 'none'} only in the optimizer"
        )
    groups, loads = [], []
    for number, (group, mine) in enumerate(zip(optimizer.param_groups, members)):
        saved_here = [found[m.name] for m in mine]
        if keep_options:
            new = dict(group)
            needs = optimizer._slots(group)
            for saved, t in {id(saved): (saved, t) for saved, t in saved_here}.values():
                there = optimizer._slots({**group, **_options(optimizer, saved)})
                if there != needs:
                    raise ValueError(
                        f"has the state {_few(there) or 'none'} of {t.name!r}, but group {number} needs {_few(needs) or 'none'}"
                    )
        else:
            new = _new_group(optimizer, number, saved_here)
        slots = optimizer._slots(new)
        groups.append(new)
        for m in mine:
            t = found[m.name][1]
            state = [contents.claim(_state_key(m.name, slot), m.param, t, slot) for slot in slots]
            has = [claim for claim in state if claim is not None]
            has_state = bool(has) or t.step > 0
            if has_state and len(has) < len(state):
                raise ValueError(f"has no {_few(_state_key(m.name, slot) for slot, claim in zip(slots, state) if claim is None)}")
            param = contents.claim(_param_key(m.name), m.param, t, PARAMS)
            if params and param is None:
                raise ValueError(
                    f"has no parameters of {m.name!r}, only its state: it was saved with params=False, so load it with params=False"
                )
            known = len(has) + sum(claim.scales is not None for claim in has) + (param is not None)
            if t.crc32 is not None and len(t.crc32) > known:
                raise ValueError(f"has checksums of parts of {m.name!r} that are not in the file")
            random = None
            if t.rounding and draws(m.param, slots, new):
                random = packed(t.rounding, t.rounding[0] if keep_options else new["seed"])
            loads.append(_Load(m, new, slots, t.step, has_state, has, param, params, random))
    contents.finish()
    return groups, loads


def _new_group(optimizer: Optimizer, number: int, saved: List[Tuple[SavedGroup, SavedTensor]]) -> Group:
    """A group with the options of the saved groups that have its tensors."""
    new: Group = dict(optimizer.param_groups[number])
    if not saved:
        return new
    first = saved[0][0]
    for other, t in saved:
        if other is not first and (other.hyperparameters, other.other) != (first.hyperparameters, first.other):
            raise ValueError(
                f"has {saved[0][1].name!r} and {t.name!r} in groups with different options, but the optimizer has both in group {number}"
            )
    new.update(_options(optimizer, first))
    for name, key in optimizer._hyperparameters.items():
        if key is None and first.hyperparameters[name]:
            raise ValueError(f"has {name}, which {type(optimizer).__name__} does not have")
    clash = first.other.keys() & {*_NOT_SAVED, *optimizer._hyperparameters.values()}
    if clash:
        raise ValueError(f"has {_few(clash)} in other, which is the wrong place")
    new.update(first.other)
    seeds = [t.rounding[0] for _, t in saved if t.rounding]
    new["seed"] = seeds[0] if seeds else new["seed"]
    optimizer._check(new)
    return new


def _options(optimizer: Optimizer, saved: SavedGroup) -> Group:
    """The hyperparameters under their names in the optimizer's groups."""
    return {key: saved.hyperparameters[name] for name, key in optimizer._hyperparameters.items() if key is not None}


def _call(call: Callable[[Optimizer, Names], _R], optimizer: Any, names: Names, loads: bool) -> _R:
    """Calls a function that saves or loads, with the optimizer that a wrapper contains."""
    inner = getattr(optimizer, "optimizer", None)
    if inner is not None and isinstance(optimizer, type(inner)):  # Lightning's wrapper: a subclass, with attributes of its own
        optimizer = inner
    on_host: Any = getattr(optimizer, "on_host", None)
    if on_host is not None:  # posneg.offload.Offload
        done: _R = on_host(call, names, loads=loads)
        return done
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"posneg: checkpoints need an optimizer of this package, not a {type(optimizer).__name__}: pass the optimizer in it "
            "(accelerate: optimizer.optimizer); docs/distributed.md tells what to do with optimizers that cut others up"
        )
    return call(optimizer, names)


def _members(optimizer: Optimizer, names: Names) -> List[List[_Member]]:
    """The parameters of each group, with their names."""
    lists = [group["params"] for group in optimizer.param_groups]
    for p in (p for params in lists for p in params):
        if hasattr(p, "to_local"):
            raise TypeError(
                "posneg: parameters that are cut up among processes (DTensors) need torch.distributed.checkpoint: see docs/distributed.md"
            )
        check_param(p)
    called = _called(optimizer, lists, names)
    members: List[List[_Member]] = []
    seen: Set[str] = set()
    i = 0
    for group, params in zip(optimizer.param_groups, lists):
        members.append([])
        for p, own in zip(params, param_names(group)):
            if called[i] in seen:
                raise ValueError(f"posneg: names has two parameters called {called[i]!r}")
            seen.add(called[i])
            members[-1].append(_Member(p, called[i], own))
            i += 1
    return members


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


def _state_key(name: str, slot: str) -> str:
    return f"state.{name}.{slot}"


def _param_key(name: str) -> str:
    return f"params.{name}"


def _few(names: Iterable[str]) -> str:
    """Names for a message: some of them, if there are many."""
    listed = sorted(names)
    return ", ".join(map(short, listed[:4])) + (f", … ({len(listed)} in all)" if len(listed) > 4 else "")


@contextlib.contextmanager
def _errors_of(file: File) -> Iterator[None]:
    try:
        yield
    except ValueError as e:
        kind = ChecksumError if isinstance(e, Damaged) else CheckpointError
        name = os.fspath(file) if isinstance(file, (str, os.PathLike)) else getattr(file, "name", "the file")
        raise kind(f"posneg: {name} {e}") from e
