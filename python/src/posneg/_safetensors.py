"""Files in the format safetensors (https://github.com/huggingface/safetensors): their headers, and the memory of tensors in them."""

from __future__ import annotations

import math
import sys
import threading
import zlib
from typing import Any, BinaryIO, Dict, Iterator, List, Mapping, NamedTuple, Tuple

import numpy as np
import torch
from torch import Tensor

from ._json import Reader, dumps, short

_MOST_HEADER = 100_000_000  # bytes; the limit of the format
_MOST_DIMENSIONS = 64
_METADATA = "__metadata__"
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
    "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
# The largest magnitude that is not a NaN, of floating-point formats whose highest bit is a sign.
LARGEST = {"F64": 0x7FF0 << 48, "F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80, "F8_E5M2": 0x7C, "F8_E4M3": 0x7E}
_NAMES = {name: name for name in _BITS}  # one object for each
DTYPES = {torch.float32: "F32", torch.float64: "F64", torch.bfloat16: "BF16"}
ELEMENTS, SCALES = "F8_E4M3", "F8_E8M0"  # of mxfp8

PIECE = 1 << 20  # bytes that are read, written or summed in one call, during which no signal is handled


class Entry(NamedTuple):
    """A tensor of a file."""

    dtype: str
    shape: Tuple[int, ...]
    begin: int  # its data is the bytes begin … end-1 of the file
    end: int


class Source:
    """A file that several threads may read."""

    def __init__(self, file: BinaryIO):
        self._file, self._lock = file, threading.Lock()
        self._begin = file.tell()
        self.size = file.seek(0, 2) - self._begin

    def read_into(self, at: int, memory: memoryview) -> None:
        with self._lock:
            self._file.seek(self._begin + at)
            while len(memory):
                n = self._file.readinto(memory)  # type: ignore[attr-defined]
                if not n:
                    raise ValueError("ends too early: it is cut short")
                memory = memory[n:]

    def pieces(self, entry: Entry) -> Iterator[memoryview]:
        """The bytes of a tensor, each time in the same memory."""
        memory = memoryview(bytearray(min(PIECE, entry.end - entry.begin)))
        for at in range(entry.begin, entry.end, PIECE):
            piece = memory[: entry.end - at]
            self.read_into(at, piece)
            yield piece

    def crc32(self, entry: Entry) -> int:
        """The checksum of a tensor's data."""
        sum = 0
        for piece in self.pieces(entry):
            sum = zlib.crc32(piece, sum)
        return sum


def read_header(source: Source) -> Tuple[Dict[str, str], Dict[str, Entry]]:
    """The metadata and the tensors. Checks that every byte of the data belongs to exactly one tensor, of that size."""
    if source.size < 8:
        raise ValueError(f"has only {source.size} bytes and no header: it is not a safetensors file")
    length = bytearray(8)
    source.read_into(0, memoryview(length))
    n = int.from_bytes(length, "little")
    if n > min(_MOST_HEADER, source.size - 8):
        raise ValueError(f"has {source.size} bytes, but its header would have {n}: it is cut short, or not a safetensors file")
    header = bytearray(n)
    source.read_into(8, memoryview(header))
    try:
        text = header.decode()
        del header
        metadata, entries = _parse(text)
        _check_places(entries, source.size - 8 - n)
    except ValueError as e:
        raise ValueError(f"has a bad header: {e}") from None
    return metadata, {name: e._replace(begin=8 + n + e.begin, end=8 + n + e.end) for name, e in entries.items()}


def _parse(text: str) -> Tuple[Dict[str, str], Dict[str, Entry]]:
    metadata: Dict[str, str] = {}
    entries: Dict[str, Entry] = {}
    if not text.startswith("{"):
        raise ValueError("it does not begin with {")
    reader = Reader(text)
    found = False
    for name in reader.object(entries):
        if name != _METADATA:
            entries[name] = _entry(name, reader.value())
            continue
        if found:
            raise ValueError(f"it has {_METADATA} twice")
        found = True
        for key in reader.object(metadata):
            metadata[key] = reader.string()
    reader.end(" ")
    return metadata, entries


def _entry(name: str, parsed: Any) -> Entry:
    if not isinstance(parsed, dict) or parsed.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {short(name)} must have dtype, shape and data_offsets, but has {short(parsed)}")
    dtype, shape, offsets = parsed["dtype"], parsed["shape"], parsed["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _NAMES:
        raise ValueError(f"tensor {short(name)}: unknown dtype {short(dtype)}")
    for what, list_, most in (("shape", shape, _MOST_DIMENSIONS), ("data_offsets", offsets, 2)):
        if not isinstance(list_, list) or len(list_) > most or not all(type(k) is int and 0 <= k < 2**63 for k in list_):
            raise ValueError(f"tensor {short(name)}: {what} is {short(list_)}, must be at most {most} integers from 0 to 2^63-1")
    if len(offsets) != 2:
        raise ValueError(f"tensor {short(name)}: data_offsets must be two")
    return Entry(_NAMES[dtype], tuple(shape), *offsets)


def _check_places(entries: Mapping[str, Entry], size: int) -> None:
    end = 0
    for name, e in sorted(entries.items(), key=lambda item: item[1][2:]):
        bits = _BITS[e.dtype]
        for k in e.shape:
            bits *= k
            if bits >= 2**64:
                raise ValueError(f"tensor {short(name)}: {e.dtype} of shape {short(list(e.shape))} is too large")
        if e.begin != end or 8 * (e.end - e.begin) != bits:
            raise ValueError(
                f"tensor {short(name)}: {e.dtype} of shape {short(list(e.shape))} cannot be the bytes {e.begin} to {e.end}, "
                f"after another tensor that ends at {end}"
            )
        end = e.end
    if end != size:
        raise ValueError(f"the data has {size} bytes, but the tensors end at {end}: the file was cut short or extended")


def encode_header(metadata: Mapping[str, str], tensors: Mapping[str, Tuple[str, Tuple[int, ...]]]) -> Tuple[bytes, List[str]]:
    """The beginning of a file of tensors with a dtype and a shape, and the order of their data, largest elements first."""
    order = sorted(tensors, key=lambda name: -_BITS[tensors[name][0]])
    header: Dict[str, Any] = {_METADATA: dict(metadata)}
    end = 0
    for name in order:
        dtype, shape = tensors[name]
        begin, end = end, end + _BITS[dtype] // 8 * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": (begin, end)}
    text = dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that all elements are aligned
    if len(text) > _MOST_HEADER:
        raise ValueError(f"posneg: the header would have {len(text)} bytes, must have at most {_MOST_HEADER}")
    return len(text).to_bytes(8, "little") + text, order


def bits_of(dtype: str) -> int:
    """The bits of an element."""
    return _BITS[dtype]


def size_of(dtype: str) -> int:
    """The bytes of an element; 1 if it has fewer than 8 bits."""
    return max(1, _BITS[dtype] // 8)


def memory(t: Tensor) -> memoryview:
    """The bytes of a real tensor whose elements lie in row-major order."""
    return t.detach().reshape(-1).view(torch.uint8).numpy().data


def pieces(t: Tensor) -> Iterator[memoryview]:
    """The bytes of such a tensor in a file's little-endian order."""
    m = memory(t)
    for at in range(0, len(m), PIECE):
        piece = m[at : at + PIECE]
        if sys.byteorder == "big":
            piece = memoryview(bytearray(piece))
            swap(piece, t.element_size())
        yield piece


def swap(piece: memoryview, size: int) -> None:
    """Turns elements from little-endian order to the machine's, or back."""
    if sys.byteorder == "big":
        np.frombuffer(piece, f"V{size}").view(f"u{size}").byteswap(inplace=True)
