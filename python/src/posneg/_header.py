"""What a checkpoint says of its tensors: metadata of a safetensors file, with the groups as JSON."""

from __future__ import annotations

import json
import reprlib
import sys
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, NoReturn, Optional, Tuple, Union

LAYOUT = "1"  # the version of what is written here
_OURS = "posneg."
FLAGS = frozenset(("decoupled", "amsgrad", "maximize", "nesterov", "exact_bias"))
_MOST_STEPS = 2**63 - 2  # another one must be possible


@dataclass(frozen=True)
class SavedTensor:
    name: str
    step: int  # how many are done
    rounding: Optional[Tuple[int, int, int]]  # seed, tensor and first element, where random numbers are drawn


@dataclass(frozen=True)
class SavedGroup:
    rule: str
    hyperparameters: Dict[str, Any]
    other: Dict[str, Any]  # what else a group of the optimizer held
    tensors: List[SavedTensor]


def check_metadata(metadata: Mapping[str, str]) -> None:
    """Reports a caller's metadata that a file cannot hold."""
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"posneg: metadata has {key!r}: {value!r}, but can hold only strings; json.dumps makes one of other things")
        if key.startswith(_OURS):
            raise ValueError(f"posneg: metadata has {key!r}, but what begins with {_OURS!r} is the layout's own")


def encode(groups: List[SavedGroup], writer: str, metadata: Mapping[str, str]) -> Dict[str, str]:
    """What decode reads; a ValueError for what it would refuse, as names that are no UTF-8, since a good file may be replaced."""
    encoded = {
        f"{_OURS}checkpoint": LAYOUT,
        f"{_OURS}writer": writer,
        f"{_OURS}groups": json.dumps([_encode_group(group) for group in groups], allow_nan=False, ensure_ascii=False),
        **metadata,
    }
    try:
        encoded[f"{_OURS}groups"].encode()
        decode(encoded)
    except ValueError as e:
        raise ValueError(f"posneg: the checkpoint could not be read again: {e}") from e
    return encoded


def _encode_group(group: SavedGroup) -> Dict[str, Any]:
    tensors = []
    for t in group.tensors:
        tensors.append({"name": t.name, "step": t.step, **({"rounding": t.rounding} if t.rounding else {})})
    return {"rule": group.rule, **group.hyperparameters, **({"other": group.other} if group.other else {}), "tensors": tensors}


def decode(metadata: Mapping[str, str]) -> Tuple[List[SavedGroup], Dict[str, str]]:
    """The groups, and the caller's metadata. What is wrong gives a ValueError."""
    layout = metadata.get(f"{_OURS}checkpoint")
    if layout is None:
        raise ValueError("is a safetensors file, but not a checkpoint of posneg")
    if layout != LAYOUT:
        raise ValueError(f"was written by a newer version: it has layout {short(layout)}, and this version reads {LAYOUT!r}")
    if f"{_OURS}groups" not in metadata:
        raise ValueError(f"has no {_OURS}groups in its metadata")
    try:
        parsed = json.loads(
            metadata[f"{_OURS}groups"], object_pairs_hook=_distinct, parse_constant=_no_number, parse_float=_finite, parse_int=_integer
        )
    except (ValueError, RecursionError) as e:
        raise ValueError(f"{_OURS}groups: {e}") from e
    groups = [_decode_group(f"group {i}", group) for i, group in enumerate(_typed(list, f"{_OURS}groups", parsed))]
    seen = set()
    for t in (t for group in groups for t in group.tensors):
        if t.name in seen:
            raise ValueError(f"there are two tensors {short(t.name)}")
        seen.add(t.name)
    return groups, {key: value for key, value in metadata.items() if not key.startswith(_OURS)}


def _decode_group(where: str, parsed: Any) -> SavedGroup:
    group = dict(_typed(dict, where, parsed))
    rule = _typed(str, f"{where}: rule", group.pop("rule", None))
    other = _typed(dict, f"{where}: other", group.pop("other", {}))
    tensors = _typed(list, f"{where}: tensors", group.pop("tensors", None))
    hyperparameters = {name: _hyperparameter(f"{where}: {name:.60}", name, value) for name, value in group.items()}
    return SavedGroup(rule, hyperparameters, other, [_decode_tensor(f"{where}, tensor {i}", t) for i, t in enumerate(tensors)])


def _hyperparameter(where: str, name: str, value: Any) -> Any:
    if name in FLAGS:
        return _typed(bool, where, value)
    if name == "betas":
        return tuple(_number(where, beta) for beta in _typed(list, where, value))
    return _number(where, value)


def _decode_tensor(where: str, parsed: Any) -> SavedTensor:
    t = dict(_typed(dict, where, parsed))
    name = _typed(str, f"{where}: name", t.pop("name", None))
    if not name:
        raise ValueError(f"{where}: the name is empty")
    step = _whole(f"{where}: step", t.pop("step", None), _MOST_STEPS)
    rounding = t.pop("rounding", None)
    if rounding is not None:
        if len(_typed(list, f"{where}: rounding", rounding)) != 3:
            raise ValueError(f"{where}: rounding has {len(rounding)} numbers, must be seed, tensor and first element")
        most = (2**64 - 1, 2**64 - 1, 2**63 - 1)
        seed, tensor, first = (_whole(f"{where}: rounding", x, m) for x, m in zip(rounding, most))
        rounding = seed, tensor, first
    if t:
        raise ValueError(f"{where} has {', '.join(map(short, t))}, which this version does not know")
    return SavedTensor(name, step, rounding)


def _typed(kind: type, where: str, value: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{where} is {short(value)}, must be {_JSON[kind]}")
    return value


_JSON = {list: "an array", dict: "an object", str: "a string", bool: "true or false"}


def _number(where: str, value: Any) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"{where} is {short(value)}, must be a number")
    if not -_LARGEST <= value <= _LARGEST:
        raise ValueError(f"{where} is {short(value)}, must be finite")
    return float(value)


_LARGEST = sys.float_info.max


def _whole(where: str, value: Any, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{where} is {short(value)}, must be a whole number from 0 to {most}")
    return value


def short(value: Any) -> str:
    text = "missing" if value is None else reprlib.repr(value)  # of long and deep ones only the beginning
    return text if len(text) <= 60 else f"{text[:60]}…"


def _distinct(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError(f"an object has a key twice: {short([key for key, _ in pairs])}")
    return made


def _finite(text: str) -> float:
    if abs(float(text)) > _LARGEST:
        raise ValueError(f"{short(text)} is too large")
    return float(text)


def _integer(text: str) -> Union[int, float]:
    return -0.0 if text == "-0" else int(text)  # Go's


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")
