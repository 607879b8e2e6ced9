"""Fingerprints, which docs/fingerprint.md defines."""

from __future__ import annotations

import contextlib
import hashlib
import re
from dataclasses import dataclass
from typing import Any, Tuple, Union

import numpy as np

from . import _library
from ._norm import add_up
from ._rounding import scramble
from ._safetensors import LARGEST, size_of

_CODES = {
    "F32": _library.FLOAT32, "F64": _library.FLOAT64, "BF16": _library.BF16, "F16": _library.F16, "F8_E4M3": _library.MXFP8,
}  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class Fingerprint:
    """128 bits that identify parameters, state and step counts. str() gives 32 hexadecimal digits, which parse() reads.

    A fingerprint equals its text.

    Fingerprints of parts add up to that of the whole. docs/fingerprint.md says what equal fingerprints prove.

    >>> a = posneg.Fingerprint.parse("00000000000000010000000000000002")
    >>> str(a + a)
    '00000000000000020000000000000004'
    """

    words: Tuple[int, int] = (0, 0)  # from 0 to 2**64 - 1

    @staticmethod
    def parse(text: str) -> Fingerprint:
        if not isinstance(text, str) or not re.fullmatch("[0-9A-Fa-f]{32}", text):
            raise ValueError(f"posneg: a fingerprint has 32 hexadecimal digits, not {text!r}")
        return Fingerprint((int(text[:16], 16), int(text[16:], 16)))

    def __add__(self, other: Fingerprint) -> Fingerprint:
        (a, b), (c, d) = self.words, other.words
        return Fingerprint(((a + c) % 2**64, (b + d) % 2**64))

    def __str__(self) -> str:
        return "".join(f"{word:016x}" for word in self.words)

    def __repr__(self) -> str:
        return f"Fingerprint.parse({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (Fingerprint, str)) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def shared(self, group: Any) -> Fingerprint:
        """The sum over the processes of a group."""
        halves = np.array([half for word in self.words for half in divmod(word, 2**32)])
        add_up(halves, group)
        high0, low0, high1, low1 = halves.tolist()
        return Fingerprint(((high0 * 2**32 + low0) % 2**64, (high1 * 2**32 + low1) % 2**64))


def as_fingerprint(given: Union[Fingerprint, str]) -> Fingerprint:
    return given if isinstance(given, Fingerprint) else Fingerprint.parse(given)


class Stream:
    """Adds the elements of a tensor from number `first` on, whose bytes come piece by piece in little-endian order."""

    def __init__(self, name: str, dtype: str, first: int):
        self._name = name.encode()
        self._dtype = dtype
        self._code, self._size = _CODES.get(dtype, _library.BYTES), size_of(dtype)
        self._at = first * self._size  # in bytes
        self.sum = Fingerprint()

    def add(self, piece: Any) -> None:
        """Adds whole elements."""
        memory = np.frombuffer(piece, np.uint8)
        self.sum += Fingerprint(self._words(memory))
        self._at += len(memory)

    def _words(self, memory: np.ndarray) -> Tuple[int, int]:
        if 0 not in self._name:  # which the library's names cannot have
            first = self._at if self._code == _library.BYTES else self._at // self._size
            with contextlib.suppress(_library.Forked):  # a child may have been forked to save the run
                return _library.fingerprint_bytes(self._name, self._code, first, memory)
        return _without_library(self._name, self._dtype, self._at, memory)


def of_count(name: str, steps: int) -> Fingerprint:
    """The fingerprint of a parameter's count of steps."""
    stream = Stream(f"step.{name}", "I64", 0)
    stream.add(steps.to_bytes(8, "little"))
    return stream.sum


# The magnitude that stands for all NaNs.
_NANS = {"F32": 0x7FC00000, "F64": 0x7FF8 << 48, "BF16": 0x7FC0, "F16": 0x7E00, "F8_E4M3": 0x7F}


def _without_library(name: bytes, dtype: str, at: int, data: np.ndarray) -> Tuple[int, int]:
    """The sums of a tensor's bytes from number `at` on, in NumPy: as docs/fingerprint.md has it."""
    if dtype in _NANS:
        largest, nan = LARGEST[dtype], _NANS[dtype]
        x = data.view(f"<u{size_of(dtype)}")
        data = np.where(x << 1 > largest << 1, x.dtype.type(nan), x).astype(x.dtype).view(np.uint8)
    block, skip = divmod(at, 4096)
    whole = np.zeros(-(-(skip + len(data)) // 4096) * 4096, np.uint8)
    whole[skip : skip + len(data)] = data
    words = whole.view("<u4").reshape(-1, 1024).astype(np.uint64)
    blocks = np.arange(block, block + len(words), dtype=np.uint64)
    keys = scramble(np.arange(1024, dtype=np.uint64) + 2**63)
    key = int.from_bytes(hashlib.sha256(name).digest()[:8], "little")
    halves = keys & 0xFFFFFFFF, keys >> 32
    a, b = (int((words @ k * (scramble(scramble(2 * blocks + j) + key) | 1)).sum()) for j, k in enumerate(halves))
    return a, b
