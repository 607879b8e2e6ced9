"""Checkpoints: files with an optimizer's state, and its parameters if asked for, which the Go packages read and write, too.

They are safetensors files; docs/checkpoints.md says what is in them.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from dataclasses import dataclass
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Set, Tuple, Type, Union

import torch
from torch import Tensor

from ._files import replacing
from ._header import FLAGS, SavedGroup, SavedTensor, check_metadata, decode, encode, short
from ._layout import real
from ._optimizer import Optimizer
from ._plan import Group
from ._state import MASTER, ROUNDING, check_param, draws, has_master, prepare, rounding, state_dtype

Path = Union[str, "os.PathLike[str]"]
Names = Optional[Iterable[Tuple[str, Tensor]]]

# What of a group is no option of its steps, or is the optimizer's own however it is loaded.
_NOT_SAVED = {"params", "param_names", "state_dtype", "master_weights", "seed"}


class CheckpointError(ValueError):
    """A file that is no checkpoint, or is damaged, or does not fit the optimizer; which is as it was, unless the text says so."""


@dataclass
class _Member:
    """A parameter of an optimizer."""

    param: Tensor
    index: int  # among all
    group: int
    name: str


@torch.no_grad()
def save_checkpoint(
    path: Path, optimizer: Optimizer, *, names: Names = None, params: bool = False, metadata: Optional[Mapping[str, str]] = None
) -> None:
    """Writes a file that load_checkpoint continues from with the same bits, after any step.

    A file that is there already is replaced when the new one is on the disk, and stays if anything fails.

    Args:
        names: model.named_parameters(): what the tensors are called in the file. None: their numbers in the optimizer.
        params: write the parameters, too. (float32 masters of 16-bit ones are state, and always written.)
        metadata: whatever else the run needs to go on, as strings: load_checkpoint returns it.
    """
    library = _safetensors()
    members = _members(optimizer, names)
    optimizer._check_loaded()
    metadata = {} if metadata is None else metadata
    check_metadata(metadata)
    tensors: Dict[str, Tensor] = {}
    groups = []
    for number, group in enumerate(optimizer.param_groups):
        optimizer._check(group)
        slots = optimizer._slots(group)
        saved = []
        for m in (m for m in members if m.group == number):
            state = optimizer.state.get(m.param) or {}
            if state:
                prepare(m.param, state, slots, group)  # as it would be at the next step
                tensors.update((_state_key(m.name, slot), _rows(state[slot])) for slot in slots)
            trained = _trained(m.param, state, group, params)
            if trained is not None:
                tensors[_param_key(m.name)] = _rows(trained)
            random = rounding(state, group, m.index) if draws(m.param, slots, group) else None
            saved.append(SavedTensor(m.name, state.get("step", 0), random))
        groups.append(SavedGroup(optimizer._rule_name, _hyperparameters(optimizer, group), _other(optimizer, number), saved))

    from . import __version__

    header = encode(groups, f"posneg {__version__}, torch {torch.__version__}", metadata)
    with replacing(os.fspath(path)) as file:
        try:
            library.torch.save_file(tensors, file, header)
        except library.SafetensorError as e:
            raise OSError(f"posneg: {os.fspath(path)}: {e}") from e


def _trained(p: Tensor, state: Dict[str, Any], group: Group, params: bool) -> Optional[Tensor]:
    """What is trained of a parameter, if it must be saved: its master, if it has one."""
    if MASTER in state:
        return state[MASTER]  # type: ignore[no-any-return]
    if not params:
        return None
    return p.detach().to(torch.float32) if has_master(p, group) else p.detach()


def _rows(t: Tensor) -> Tensor:
    """The elements in row-major order; a copy only if they are in another."""
    return real(t.detach()).contiguous()


def _hyperparameters(optimizer: Optimizer, group: Group) -> Dict[str, Any]:
    return {name: key is not None and _plain(name, group[key]) for name, key in optimizer._hyperparameters.items()}


def _plain(name: str, value: Any) -> Any:
    """A hyperparameter as JSON has it; learning rates may be tensors, flags numbers."""
    if name in FLAGS:
        return bool(value)
    return [float(v) for v in value] if name == "betas" else float(value)


def _other(optimizer: Optimizer, number: int) -> Dict[str, Any]:
    """What others have put into a group: its schedulers' initial_lr, …"""
    known = {*_NOT_SAVED, *optimizer._hyperparameters.values()}
    other = {key: value for key, value in optimizer.param_groups[number].items() if key not in known}
    for key, value in other.items():
        if isinstance(value, Tensor) and value.numel() == 1:
            other[key] = value = value.item()
        try:
            json.dumps({key: value}, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as e:
            raise TypeError(
                f"posneg: group {number} has {key!r}: {value!r}, which JSON cannot hold ({e}); take it out while saving"
            ) from e
    return other


@torch.no_grad()
def load_checkpoint(
    path: Path, optimizer: Optimizer, *, names: Names = None, params: bool = False, keep_options: bool = False
) -> Dict[str, str]:
    """Continues from a file of save_checkpoint's, or of the Go packages', and returns the caller's metadata in it.

    The optimizer is one of the same rule, for parameters of the same names and shapes, in any order and any groups. A file that
    is not for it gives a CheckpointError and changes nothing. (If the file cannot be read to its end after that, the error says so,
    and the optimizer refuses to step until it has been loaded anew.)

    Args:
        names: as in save_checkpoint.
        params: load the parameters, too. Without it, float32 masters are loaded where the file has them, and else begin as the
            parameters that are there.
        keep_options: keep the learning rate and all other options of the groups, and the seed. Otherwise they are the file's,
            but for state_dtype and master_weights, to which what is loaded is converted.
    """
    library = _safetensors()
    members = _members(optimizer, names)
    if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
        raise CheckpointError(f"posneg: {os.fspath(path)} is not a file")
    with _errors_of(path, library.SafetensorError), library.safe_open(os.fspath(path), "pt", backend="pread") as file:
        saved_groups, metadata = decode(file.metadata() or {})
        groups, loads = _fit(_Contents(file), saved_groups, optimizer, members, params, keep_options)
        if optimizer._half_loaded == "parameters" and not params:
            raise ValueError("does not help: the parameters, too, were loaded in part before, so load it with params=True")
        optimizer._half_loaded = "parameters" if params else "state"
        optimizer._plan = None
        for group, new in zip(optimizer.param_groups, groups):
            group.update(new)
        try:
            for load in loads:
                optimizer.state.pop(load.member.param, None)  # its memory is free for what comes
                state = load.run(file)
                if state:
                    optimizer.state[load.member.param] = state
        except library.SafetensorError as e:
            raise ValueError(f"could be loaded only in part, and the optimizer must be loaded anew: {e}") from e
        optimizer._half_loaded = None
    return metadata


class _Contents:
    """The tensors of a file, without their data."""

    def __init__(self, file: Any):
        self._file = file
        self._unclaimed = set(file.keys())

    def claim(self, key: str, p: Tensor) -> bool:
        """Whether the file has a tensor, which is one for a parameter; a ValueError if it is not."""
        if key not in self._unclaimed:
            return False
        self._unclaimed.remove(key)
        there, model = self._file.get_slice(key), real(p.detach())
        shape, dtype = there.get_shape(), there.get_dtype()
        if dtype not in ("F32", "F64", "BF16") or (dtype == "F64") != (model.dtype == torch.float64):
            raise ValueError(f"{key!r} is {dtype}, which is not for a parameter of {p.dtype}")
        if shape not in (list(model.shape), [model.numel()]):
            raise ValueError(f"{key!r} has the shape {shape}, not {list(model.shape)}")
        return True

    def finish(self) -> None:
        if self._unclaimed:
            raise ValueError(f"has tensors that belong to nothing: {_few(self._unclaimed)}")


@dataclass
class _Load:
    """What is to be done for a parameter."""

    member: _Member
    group: Group
    slots: Sequence[str]
    step: int
    has_state: bool  # in the file
    has_param: bool
    params: bool  # whether it is to be loaded
    rounding: Optional[Tuple[int, int, int]]  # if the parameter does not draw as its place here would have it

    def run(self, file: Any) -> Dict[str, Any]:
        """Loads the parameter, and returns its state."""
        p, name = self.member.param, self.member.name
        state: Dict[str, Any] = {}
        mastered = has_master(p, self.group)
        if self.has_param and mastered and (self.has_state or self.params):
            state[MASTER] = _read(file, _param_key(name), torch.empty_like(p.detach(), dtype=torch.float32))
        if self.params and mastered:
            p.copy_(state[MASTER])
        elif self.params:
            _read(file, _param_key(name), p)
        if self.rounding:
            state[ROUNDING] = self.rounding
        if not self.has_state and not state:
            return {}  # made at the first gradient
        state["step"] = self.step
        for slot in self.slots:
            t = torch.zeros_like(p.detach(), dtype=state_dtype(p, self.group))
            state[slot] = _read(file, _state_key(name, slot), t) if self.has_state else t
        return state


def _read(file: Any, key: str, to: Tensor) -> Tensor:
    memory = real(to.detach())
    memory.copy_(file.get_tensor(key).reshape(memory.shape))
    return to


def _fit(
    contents: _Contents,
    saved_groups: List[SavedGroup],
    optimizer: Optimizer,
    members: List[_Member],
    params: bool,
    keep_options: bool,
) -> Tuple[List[Group], List[_Load]]:
    """What the groups will be, and what is to be done; a ValueError if the file is not for the optimizer."""
    for number, saved in enumerate(saved_groups):
        if not saved.tensors:
            continue  # it may be of any rule
        if saved.rule != optimizer._rule_name:
            raise ValueError(f"holds {short(saved.rule)}, which {type(optimizer).__name__} cannot continue")
        for names, problem in (
            (optimizer._hyperparameters.keys() - saved.hyperparameters.keys(), "has no"),
            (saved.hyperparameters.keys() - optimizer._hyperparameters.keys(), "has, which this version does not know,"),
        ):
            if names:
                raise ValueError(f"group {number} {problem} {_few(names)}")
    found = {t.name: (saved, t) for saved in saved_groups for t in saved.tensors}
    ours = {m.name for m in members}
    if ours != found.keys():
        raise ValueError(
            f"is of other tensors: {_few(found.keys() - ours) or 'none'} are only there, and {_few(ours - found.keys()) or 'none'} "
            f"only in the optimizer"
        )
    groups, loads = [], []
    for number, group in enumerate(optimizer.param_groups):
        mine = [m for m in members if m.group == number]
        saved_here = [found[m.name] for m in mine]
        if keep_options:
            new = dict(group)
            for saved, t in saved_here:
                there, needs = optimizer._slots({**group, **_options(optimizer, saved)}), optimizer._slots(group)
                if there != needs:
                    raise ValueError(
                        f"has the state {_few(there) or 'nothing'} of {t.name!r}, where group {number} needs {_few(needs) or 'nothing'}"
                    )
        else:
            new = _new_group(optimizer, number, saved_here)
        slots = optimizer._slots(new)
        groups.append(new)
        for m in mine:
            t = found[m.name][1]
            has = [contents.claim(_state_key(m.name, slot), m.param) for slot in slots]
            has_state = any(has) or t.step > 0
            if has_state and not all(has):
                raise ValueError(f"has no {_few(_state_key(m.name, slot) for slot, h in zip(slots, has) if not h)}")
            has_param = contents.claim(_param_key(m.name), m.param)
            if params and not has_param:
                raise ValueError(f"has no parameters of {m.name!r}: it was saved without params")
            random = None if keep_options or not draws(m.param, slots, new) else t.rounding
            if random == (new["seed"], m.index, 0):
                random = None
            loads.append(_Load(m, new, slots, t.step, has_state, has_param, params, random))
    contents.finish()
    return groups, loads


def _new_group(optimizer: Optimizer, number: int, saved: List[Tuple[SavedGroup, SavedTensor]]) -> Group:
    """A group with the options of those that its tensors are in."""
    new: Group = dict(optimizer.param_groups[number])
    if not saved:
        return new
    first = saved[0][0]
    for other, t in saved:
        if (other.hyperparameters, other.other) != (first.hyperparameters, first.other):
            raise ValueError(
                f"has {saved[0][1].name!r} and {t.name!r} in groups of different options, the optimizer both in group {number}"
            )
    new.update(_options(optimizer, first))
    for name, key in optimizer._hyperparameters.items():
        if key is None and first.hyperparameters[name]:
            raise ValueError(f"has {name}, which {type(optimizer).__name__} has not")
    clash = first.other.keys() & {*_NOT_SAVED, *optimizer._hyperparameters.values()}
    if clash:
        raise ValueError(f"other has {_few(clash)}, which is not its place")
    new.update(first.other)
    seeds = [t.rounding[0] for _, t in saved if t.rounding]
    new["seed"] = seeds[0] if seeds else new["seed"]
    optimizer._check(new)
    return new


def _options(optimizer: Optimizer, saved: SavedGroup) -> Group:
    """The hyperparameters under the names that they have in the optimizer's groups."""
    return {key: saved.hyperparameters[name] for name, key in optimizer._hyperparameters.items() if key is not None}


def _members(optimizer: Optimizer, names: Names) -> List[_Member]:
    """The parameters, in the optimizer's order, and what they are called."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"posneg: checkpoints are of this package's optimizers, not of a {type(optimizer).__name__}; "
            "see docs/distributed.md for those that cut others up"
        )
    params = [(p, number) for number, group in enumerate(optimizer.param_groups) for p in group["params"]]
    for p, _ in params:
        if hasattr(p, "to_local"):
            raise TypeError(
                "posneg: parameters that are cut up among processes (DTensors) need torch.distributed.checkpoint: see docs/distributed.md"
            )
        check_param(p)
    if names is None:
        return [_Member(p, i, number, str(i)) for i, (p, number) in enumerate(params)]
    named: Dict[int, str] = {}
    for name, p in names:
        if not isinstance(name, str) or not name or not isinstance(p, Tensor):
            raise TypeError(
                f"posneg: names must be pairs of a name and a parameter, as model.named_parameters(), not ({name!r}, {type(p).__name__})"
            )
        named.setdefault(id(p), name)
    members = []
    seen: Set[str] = set()
    for i, (p, number) in enumerate(params):
        if id(p) not in named:
            raise ValueError(f"posneg: names has no name for parameter {i} of the optimizer, of shape {tuple(p.shape)}")
        if named[id(p)] in seen:
            raise ValueError(f"posneg: names has two parameters {named[id(p)]!r}")
        seen.add(named[id(p)])
        members.append(_Member(p, i, number, named[id(p)]))
    return members


def _state_key(name: str, slot: str) -> str:
    return f"state.{name}.{slot}"


def _param_key(name: str) -> str:
    return f"params.{name}"


def _few(names: Iterable[str]) -> str:
    """Names for a message: some of them, if there are many."""
    listed = sorted(names)
    return ", ".join(map(short, listed[:4])) + (f", … ({len(listed)} in all)" if len(listed) > 4 else "")


@contextlib.contextmanager
def _errors_of(path: Path, refused: Type[Exception]) -> Iterator[None]:
    try:
        yield
    except (refused, ValueError) as e:
        raise CheckpointError(f"posneg: {os.fspath(path)} {e}") from e


def _safetensors() -> Any:
    try:
        import safetensors.torch

        safetensors.TensorSpec  # since 0.8, which saves without copies and reads without mapping the file
    except (ImportError, AttributeError) as e:
        raise ImportError(
            "posneg: checkpoints need the package safetensors, 0.8 or newer: pip install 'safetensors>=0.8'"
        ) from e
    return safetensors
