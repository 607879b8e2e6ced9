"""The description of a checkpoint's tensors: metadata of a safetensors file, with the groups as JSON."""

from __future__ import annotations

import sys
import zlib
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Tuple

from ._fingerprint import Fingerprint
from ._json import Reader, dumps, short

LAYOUT = "1"  # the version of the layout; if the header has a checksum, a space and its 8 digits follow
_OURS = "posneg."
_LAYOUT_KEY, _WRITER_KEY, _GROUPS_KEY = f"{_OURS}checkpoint", f"{_OURS}writer", f"{_OURS}groups"
_FINGERPRINT_KEY = f"{_OURS}fingerprint"
FLAGS = frozenset(("decoupled", "amsgrad", "maximize", "nesterov", "exact_bias"))
_MOST_STEPS = 2**53 - 2  # the state can count one more
_MOST_HYPERPARAMETERS = 16  # no rule has more
_MOST_OTHER = 1 << 16  # characters of "other" in all groups together, or a quarter of the JSON if that is more
PARAMS = "params"  # among the checksums


class Damaged(ValueError):
    """The file differs from what was written."""

    def __init__(self, what: str):
        super().__init__(f"{what}: the checksum differs: the file is damaged")


class SavedTensor(NamedTuple):
    name: str
    step: int  # the number of steps done
    rounding: Optional[Tuple[int, int, int]]  # seed, tensor and first element, if random numbers are drawn
    crc32: Optional[Dict[str, int]]  # of the parameters and of each buffer; None in files of other writers


class SavedGroup(NamedTuple):
    rule: str
    hyperparameters: Dict[str, Any]
    other: Dict[str, Any]  # other entries of the optimizer's group
    tensors: List[SavedTensor]


def check_metadata(metadata: Mapping[str, str]) -> None:
    """Reports a caller's metadata that a file cannot hold."""
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"posneg: metadata has {key!r}: {value!r}, but can have only strings; json.dumps converts other values to one")
        if key.startswith(_OURS):
            raise ValueError(f"posneg: metadata has {key!r}, but keys that begin with {_OURS!r} are reserved")


def encode(
    groups: List[SavedGroup], writer: str, fingerprint: Fingerprint, metadata: Mapping[str, str], tensors: Mapping[str, Any]
) -> Dict[str, str]:
    """The metadata that decode reads. Raises a ValueError if decode would refuse it, since a good file may be replaced."""
    ours = {_WRITER_KEY: writer, _GROUPS_KEY: dumps([_encode_group(group) for group in groups]), _FINGERPRINT_KEY: str(fingerprint)}
    encoded = {**ours, **metadata}
    try:
        encoded[_LAYOUT_KEY] = f"{LAYOUT} {_header_sum(encoded, tensors):08x}"
        decode(encoded, tensors, verify=False)
    except ValueError as e:
        raise ValueError(f"posneg: the checkpoint could not be read again: {e}") from e
    return encoded


def _header_sum(metadata: Mapping[str, str], tensors: Mapping[str, Any]) -> int:
    """The CRC-32 of the content of a header: of metadata without the layout, and of tensors without their offsets."""

    def parts() -> Iterable[str]:
        for key in sorted(metadata):
            if key != _LAYOUT_KEY:
                yield key
                yield metadata[key]
        for name in sorted(tensors):
            dtype, shape, *_ = tensors[name]
            yield name
            yield dtype
            yield "".join(f"{k}," for k in shape)

    sum = 0
    for part in parts():
        sum = zlib.crc32(b"\0", zlib.crc32(part.encode(), sum))
    return sum


def _encode_group(group: SavedGroup) -> Dict[str, Any]:
    tensors: List[Dict[str, Any]] = []
    for t in group.tensors:
        tensors.append({"name": t.name, "step": t.step, **({"rounding": t.rounding} if t.rounding else {}), "crc32": t.crc32})
    return {"rule": group.rule, **group.hyperparameters, **({"other": group.other} if group.other else {}), "tensors": tensors}


class Description(NamedTuple):
    groups: List[SavedGroup]
    metadata: Dict[str, str]  # the caller's
    fingerprint: Optional[Fingerprint]  # of the content; None in files of other writers


def decode(metadata: Mapping[str, str], tensors: Mapping[str, Any], verify: bool = True) -> Description:
    """What the metadata of a file says. Raises a ValueError if that is not a checkpoint's."""
    layout = metadata.get(_LAYOUT_KEY)
    if layout is None:
        raise ValueError("is a safetensors file, but not a checkpoint of posneg")
    version, summed, digits = layout.partition(" ")
    if version != LAYOUT:
        raise ValueError(f"was written by a newer version: it has layout {short(layout)}, and this version reads {LAYOUT!r}")
    if verify and summed and digits != f"{_header_sum(metadata, tensors):08x}":
        raise Damaged("has a bad header")
    if _GROUPS_KEY not in metadata:
        raise ValueError(f"has no {_GROUPS_KEY} in its metadata")
    try:
        groups = _decode_groups(metadata[_GROUPS_KEY])
    except ValueError as e:
        raise ValueError(f"{_GROUPS_KEY}: {e}") from e
    seen = set()
    for t in (t for group in groups for t in group.tensors):
        if t.name in seen:
            raise ValueError(f"has two tensors called {short(t.name)}")
        seen.add(t.name)
    others = {key: value for key, value in metadata.items() if key not in (_LAYOUT_KEY, _WRITER_KEY, _GROUPS_KEY, _FINGERPRINT_KEY)}
    for key in others:
        if key.startswith(_OURS):
            raise ValueError(f"has unknown metadata {short(key)}")
    recorded = metadata.get(_FINGERPRINT_KEY)
    return Description(groups, others, None if recorded is None else _fingerprint(recorded))


def _fingerprint(text: str) -> Fingerprint:
    try:
        return Fingerprint.parse(text)
    except ValueError:
        raise ValueError(f"{_FINGERPRINT_KEY} is {short(text)}, must have 32 hexadecimal digits") from None


def _decode_groups(text: str) -> List[SavedGroup]:
    reader = Reader(text)
    groups: List[SavedGroup] = []
    others = max(_MOST_OTHER, len(text) // 4)
    for _ in reader.array():
        group, used = _decode_group(f"group {len(groups)}", reader, others)
        others -= used
        groups.append(group)
    reader.end()
    return groups


def _decode_group(where: str, reader: Reader, others: int) -> Tuple[SavedGroup, int]:
    """The group, and the number of characters of its other, at most `others`."""
    found: Dict[str, Any] = {}
    used = 0
    for name in reader.object(found):
        if len(found) == _MOST_HYPERPARAMETERS + 3:
            raise ValueError(f"{where} has more than {_MOST_HYPERPARAMETERS} hyperparameters")
        if name == "tensors":
            listed: List[SavedTensor] = []
            for _ in reader.array():
                listed.append(_decode_tensor(where, len(listed), reader.value()))
            found[name] = listed
        elif name == "other":
            begin, found[name] = reader.at, reader.value(max(others, 2))
            used = reader.at - begin
        else:
            found[name] = reader.value()
    rule = _typed(str, f"{where}: rule", found.pop("rule", None))
    other = _typed(dict, f"{where}: other", found.pop("other", {}))
    tensors = _typed(list, f"{where}: tensors", found.pop("tensors", None))
    hyperparameters = {name: _hyperparameter(f"{where}: {name:.60}", name, value) for name, value in found.items()}
    return SavedGroup(rule, hyperparameters, other, tensors), used


def _hyperparameter(where: str, name: str, value: Any) -> Any:
    if name in FLAGS:
        return _typed(bool, where, value)
    if name == "betas":
        return tuple(_number(where, beta) for beta in _typed(list, where, value))
    return _number(where, value)


def _decode_tensor(group: str, number: int, t: Any) -> SavedTensor:
    try:
        return _good_tensor(t)
    except ValueError as e:
        raise ValueError(f"{group}, tensor {number}: {e}") from None


def _good_tensor(t: Any) -> SavedTensor:
    _typed(dict, "it", t)
    name = _typed(str, "name", t.pop("name", None))
    if not name:
        raise ValueError("the name is empty")
    step = _whole("step", t.pop("step", None), _MOST_STEPS)
    rounding = t.pop("rounding", None)
    if rounding is not None:
        if len(_typed(list, "rounding", rounding)) != 3:
            raise ValueError(f"rounding has {len(rounding)} numbers, must be seed, tensor and first element")
        most = (2**64 - 1, 2**64 - 1, 2**63 - 1)
        seed, tensor, first = (_whole("rounding", x, m) for x, m in zip(rounding, most))
        rounding = seed, tensor, first
    crc32 = t.pop("crc32", None)
    if crc32 is not None:
        for sum in _typed(dict, "crc32", crc32).values():
            _whole("crc32", sum, 2**32 - 1)
        if len(crc32) > _MOST_HYPERPARAMETERS:
            raise ValueError(f"crc32 has {len(crc32)} numbers")
    if t:
        raise ValueError(f"unknown {', '.join(map(short, t))}")
    return SavedTensor(_utf8(name), step, rounding, crc32)


def _utf8(name: str) -> str:
    name.encode()  # half a surrogate pair is a ValueError
    return name


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
        raise ValueError(f"{where} is {short(value)}, must be an integer from 0 to {most}")
    return value
