"""The random numbers of stochastic rounding. They depend on the seed, on a number of the parameter, and on the elements' numbers.

A parameter's number must differ from others, repeat after a restart, and not depend on how parameters are distributed over optimizers and
processes; so a place in a list will not do. It comes from the parameter's name if the optimizer knows it, or else from its shape and
content. Parameters that look equal are counted, in the order in which this process meets them.
"""

from __future__ import annotations

import hashlib
import threading
import weakref
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor

from . import _mx
from ._masters import has_master
from ._placements import first_element, is_cut
from ._state import ROUNDING, as_number, has_blocks, state_dtype

_SAMPLE = 256  # elements that stand for the content
_MASK = 2**64 - 1

Name = Union[str, int, None]  # an int is the number itself

_numbers: Dict[int, Tuple[Any, int]] = {}  # by id: parameters without names, and their numbers, as long as they exist
_met: Dict[int, int] = {}  # the number of parameters of each look so far; never decreases, since collection is not deterministic
_lock = threading.Lock()


def draws(p: Tensor, slots: Sequence[str], group: Dict[str, Any]) -> bool:
    """Whether steps of a parameter draw random numbers: if they store it or averages of squares in bfloat16, or momenta in mxfp8."""
    if p.dtype == torch.bfloat16 and not has_master(p, group):
        return True
    return has_blocks(p, group, slots) or any(state_dtype(p, group, s) == torch.bfloat16 for s in slots if "avg_sq" in s)


def rounding(p: Tensor, state: Dict[str, Any], slots: Sequence[str], group: Dict[str, Any], name: Name) -> Tuple[int, int, int]:
    """The seed, the parameter's number and the first element's number. A state without them gets them."""
    if state.get(ROUNDING) is None:
        state[ROUNDING] = _number(p, name)
    packed = as_number(state[ROUNDING], "a parameter")
    first = _mx.first_element(p) if has_blocks(p, group, slots) else first_element(p)
    return group["seed"] % 2**64, packed % 2**64, (packed >> 64) + first


def first_of(state: Dict[str, Any]) -> int:
    """The number of a parameter's first element, if the parameter is a part that was loaded from a file."""
    return as_number(state.get(ROUNDING) or 0, "a parameter") >> 64


def take_names(param_group: Dict[str, Any]) -> None:
    """Splits a group of (name, parameter) pairs into names and parameters, as torch 2.6 does."""
    params: Any = param_group.get("params")
    if isinstance(params, (Tensor, set)) or not hasattr(params, "__iter__"):
        return
    members: List[Any] = list(params)
    param_group["params"] = members
    if members and all(isinstance(m, tuple) and len(m) == 2 for m in members):
        param_group["param_names"], param_group["params"] = map(list, zip(*members))


def packed(saved: Tuple[int, int, int], seed: int) -> int:
    """The ROUNDING of a state that continues with the random numbers of a file under another seed."""
    its_seed, tensor, first = saved
    # The engine draws by scramble(seed) + tensor: rounding.go.
    ours: int = (tensor + scramble(its_seed) - scramble(seed)) % 2**64
    return ours + (first << 64)


def param_names(group: Dict[str, Any]) -> List[Name]:
    """The names of a group's parameters, where torch keeps them."""
    names: Any = group.get("param_names")
    if names is None:
        return [None] * len(group["params"])
    if len(names) != len(group["params"]):
        raise ValueError(f"posneg: a group has {len(names)} param_names for {len(group['params'])} params")
    return list(names)


def _number(p: Tensor, name: Name) -> int:
    if isinstance(name, int):
        return name % 2**64
    if name is not None:
        return _digest(name, tuple(p.shape))
    with _lock:
        known, number = _numbers.get(id(p), (None, 0))
        if known is None or known() is not p:
            look = _digest(_content(p), tuple(p.shape))
            before = _met.get(look, 0)
            _met[look], number = before + 1, _digest(look, before)
            _numbers[id(p)] = weakref.ref(p, lambda _, key=id(p): _numbers.pop(key, None)), number  # type: ignore[misc]
        return number


def _content(p: Tensor) -> Optional[bytes]:
    """Some elements; none of a DTensor, since this process's elements depend on how it is cut."""
    if is_cut(p):
        return None
    count = min(p.numel(), _SAMPLE)
    places = [i * p.numel() // count for i in range(count)]
    indices = []
    for size in reversed(p.shape):
        indices.append(torch.tensor([i % size for i in places], dtype=torch.int64, device="cpu"))
        places = [i // size for i in places]
    sample = p.detach()[tuple(reversed(indices))]
    return bytes(sample.to(torch.float32).numpy().tobytes())


def _digest(*what: Any) -> int:
    return int.from_bytes(hashlib.blake2b(repr(what).encode(), digest_size=8).digest(), "little")


def scramble(x: Any) -> Any:
    """scramble in rounding.go, of a number or of an array of uint64."""
    x = x + 0x9E3779B97F4A7C15 & _MASK
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & _MASK
    return x ^ x >> 31
