"""Checkpoints: files with parameters and an optimizer's state. The Go packages read and write them, too.

They are safetensors files: docs/checkpoints.md describes the content.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from functools import partial
from typing import (
    TYPE_CHECKING, Any, BinaryIO, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple, TypeVar, Union,
)  # fmt: skip

import torch
from torch import Tensor

from . import _mx
from ._cache import Plans
from ._contents import SCALES_SUFFIX, Member, Names, Saved, contents, key_of, members, owner_of, param_key, state_key
from ._counts import step_tensor
from ._files import replacing
from ._fingerprint import Fingerprint, Stream, as_fingerprint, of_count
from ._header import FLAGS, PARAMS, Damaged, SavedGroup, SavedTensor, check_metadata, decode, encode
from ._json import dumps, short
from ._layout import real
from ._masters import MASTER, MASTER_LOW, has_master, split
from ._memory import zeros
from ._mx import scales_name
from ._optimizer import Optimizer
from ._plan import Group
from ._rounding import draws, first_of, packed, rounding
from ._safetensors import DTYPES, ELEMENTS, PIECE, SCALES, Entry, Source, encode_header, memory, read_header, swap
from ._state import ROUNDING, begun, has_blocks, prepare, state_dtype
from ._threads import in_threads

if TYPE_CHECKING:
    from .offload import Offload

File = Union[str, "os.PathLike[str]", BinaryIO]

_R = TypeVar("_R")

# Entries of a group that are not options of its steps, or that stay the optimizer's own when a file is loaded.
_NOT_SAVED = {"params", "param_names", "fused", "state_dtype", "master_weights", "seed"}


class CheckpointError(ValueError):
    """The file is not a checkpoint, is damaged, or does not fit the optimizer. The optimizer is unchanged, unless the text says so."""


class ChecksumError(CheckpointError):
    """The file is damaged: its content differs from what was written."""


class FingerprintError(CheckpointError):
    """The file's content has another fingerprint than it must have."""


@torch.no_grad()
def save_checkpoint(
    file: File,
    optimizer: Union[Optimizer, Offload],
    *,
    names: Names = None,
    params: bool = True,
    metadata: Optional[Mapping[str, str]] = None,
) -> Fingerprint:
    """Writes a checkpoint to a file. A run that load_checkpoint continues from it gives bit-identical results to an uninterrupted one.

    Returns the fingerprint of the tensors and step counts in the file, which is also recorded there. With params, it is that of
    optimizer.fingerprint(names).

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
    return _call(call, optimizer, names, loads=False)


def _save(optimizer: Optimizer, names: Names, *, file: File, params: bool, metadata: Optional[Mapping[str, str]]) -> Fingerprint:
    all_members = members(optimizer, names)
    optimizer._check_loaded()
    metadata = {} if metadata is None else metadata
    check_metadata(metadata)
    tensors: Dict[str, Saved] = {}
    groups: List[SavedGroup] = []
    total = Fingerprint()
    for number, (group, mine) in enumerate(zip(optimizer.param_groups, all_members)):
        optimizer._check(group)
        slots = optimizer._slots(group)
        saved = []
        for m in mine:
            found = contents(optimizer, group, m, slots, params)
            tensors.update((key_of(m.name, of), t) for of, t in found.items())
            state = optimizer.state.get(m.param) or {}
            first, steps = first_of(state), int(state.get("step", 0))
            random = rounding(m.param, state, slots, group, m.own_name) if first or draws(m.param, slots, group) else None
            saved.append(SavedTensor(m.name, steps, random, dict.fromkeys(found, 0)))
            if not first:
                total += of_count(m.name, steps)
        groups.append(SavedGroup(optimizer._rule_name, _hyperparameters(optimizer, group), _other(optimizer, number), saved))
    sums = dict(zip(tensors, in_threads(lambda item: item[1].sums(item[0]), tensors.items(), lambda item: item[1].size(), PIECE)))
    for t in (t for group in groups for t in group.tensors):
        assert t.crc32 is not None
        for of in t.crc32:
            t.crc32[of], part = sums[key_of(t.name, of)]
            total += part

    from . import __version__

    entries = {name: t.entry() for name, t in tensors.items()}
    writer = f"posneg {__version__}, torch {torch.__version__}"
    header, order = encode_header(encode(groups, writer, total, metadata, entries), entries)
    with _opened_to_write(file) as out:
        _write(out, memoryview(header))
        for name in order:
            for piece in tensors[name].pieces():
                _write(out, piece)
    return total


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
    fingerprint: Union[Fingerprint, str, None] = None,
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
        fingerprint: the fingerprint that the file's content must have. A file with another content raises a FingerprintError.
    """
    expected = None if fingerprint is None else as_fingerprint(fingerprint)
    call = partial(_load, file=file, params=params, keep_options=keep_options, verify=verify, expected=expected)
    return _call(call, optimizer, names, loads=True)


def _load(
    optimizer: Optimizer, names: Names, *, file: File, params: bool, keep_options: bool, verify: bool, expected: Optional[Fingerprint]
) -> Dict[str, str]:
    all_members = members(optimizer, names)
    with errors_of(file), opened_to_read(file) as opened:
        source = Source(opened)
        header, entries = read_header(source)
        saved_groups, metadata, _ = decode(header, entries, verify)
        groups, loads = _fit(dict(entries), saved_groups, optimizer, all_members, params, keep_options)
        if verify:
            _verify(source, [claim for load in loads for claim in load.claims])
        if expected is not None:
            found = file_fingerprint(source, entries, saved_groups)
            if found != expected:
                raise _OtherContent(f"has content with the fingerprint {found}, must be {expected}")
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


def read_fingerprint(file: File) -> Optional[Fingerprint]:
    """Returns the fingerprint that a checkpoint records, from its header alone. None if the program that wrote it recorded none."""
    with errors_of(file), opened_to_read(file) as opened:
        return decode(*read_header(Source(opened))).fingerprint


def file_fingerprint(source: Source, entries: Mapping[str, Entry], groups: Sequence[SavedGroup]) -> Fingerprint:
    """The fingerprint of a file's tensors, and of the counts of its groups."""
    listed = [t for group in groups for t in group.tensors]
    begins = {t.name: t.rounding[2] for t in listed if t.rounding}

    def of_tensor(item: Tuple[str, Entry]) -> Fingerprint:
        key, entry = item
        name, of = owner_of(key)
        first = begins.get(name, 0)
        elements = entries.get(key[: -len(SCALES_SUFFIX)]) if of.endswith(SCALES_SUFFIX) else None
        if elements and first:
            first = _mx.scale_of(first, _row_of(elements, entry))
        stream = Stream(key, "F32" if entry.dtype == "C64" else entry.dtype, first)
        for piece in source.pieces(entry):
            stream.add(piece)
        return stream.sum

    total = Fingerprint()
    for part in in_threads(of_tensor, entries.items(), lambda item: item[1].end - item[1].begin, PIECE):
        total += part
    for t in listed:
        if not begins.get(t.name):
            total += of_count(t.name, t.step)
    return total


def _row_of(elements: Entry, scales: Entry) -> int:
    """The length of the rows of mxfp8 elements in a file; 0 if their scales have no rows."""
    rows = scales.shape[0] if len(scales.shape) == 2 else 0
    return (elements.end - elements.begin) // rows if rows else 0


@contextlib.contextmanager
def opened_to_read(file: File) -> Iterator[BinaryIO]:
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
    sums = in_threads(lambda claim: source.crc32(claim.entry), summed, lambda claim: claim.entry.end - claim.entry.begin, PIECE)
    for claim, sum in zip(summed, sums):
        if claim.crc32 != sum:
            raise Damaged(f"has other numbers in {short(claim.key)} than were written")


class _OtherContent(ValueError):
    pass


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
        entry = self._unclaimed.pop(key + SCALES_SUFFIX, None)
        if entry is None:
            raise ValueError(f"has no {short(key + SCALES_SUFFIX)}, the scales of {short(key)}")
        if entry.dtype != SCALES or _mx.row_in(p.numel(), entry.shape) is None:
            raise ValueError(
                f"has {short(key + SCALES_SUFFIX)} as {entry.dtype} of shape {list(entry.shape)}, must be {SCALES} of shape "
                f"{list(_mx.scales_shape(p.shape, _mx.row_of(p.shape)))}, for example, or of one dimension"
            )
        return _Claim(key + SCALES_SUFFIX, entry, self._crc32(key + SCALES_SUFFIX, saved, of + SCALES_SUFFIX))

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

    member: Member
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
    members: List[List[Member]],
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
            state = [contents.claim(state_key(m.name, slot), m.param, t, slot) for slot in slots]
            has = [claim for claim in state if claim is not None]
            has_state = bool(has) or t.step > 0
            if has_state and len(has) < len(state):
                raise ValueError(f"has no {_few(state_key(m.name, slot) for slot, claim in zip(slots, state) if claim is None)}")
            param = contents.claim(param_key(m.name), m.param, t, PARAMS)
            if params and param is None:
                raise ValueError(
                    f"has no parameters of {m.name!r}, only its state: it was saved with params=False, so load it with params=False"
                )
            known = len(has) + sum(claim.scales is not None for claim in has) + (param is not None)
            if t.crc32 is not None and len(t.crc32) > known:
                raise ValueError(f"has checksums of parts of {m.name!r} that are not in the file")
            random = None
            if t.rounding and (t.rounding[2] or draws(m.param, slots, new)):
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


def _few(names: Iterable[str]) -> str:
    """Names for a message: some of them, if there are many."""
    listed = sorted(names)
    return ", ".join(map(short, listed[:4])) + (f", … ({len(listed)} in all)" if len(listed) > 4 else "")


_KINDS = {Damaged: ChecksumError, _OtherContent: FingerprintError}


@contextlib.contextmanager
def errors_of(file: File) -> Iterator[None]:
    try:
        yield
    except ValueError as e:
        kind = _KINDS.get(type(e), CheckpointError)
        name = os.fspath(file) if isinstance(file, (str, os.PathLike)) else getattr(file, "name", "the file")
        raise kind(f"posneg: {name} {e}") from e
