"""The numbers of two tensors of the same format, as they are in files: which differ, and how far apart they are."""

from __future__ import annotations

import math
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ._safetensors import LARGEST, size_of

_SIGNED, _UNSIGNED = ("I8", "I16", "I32", "I64"), ("BOOL", "U8", "U16", "U32", "U64")

Scales = Optional[Tuple[np.ndarray, np.ndarray]]  # of mxfp8: those of each element, in both files


class Element(NamedTuple):
    at: int  # its number in the tensor
    bits: Tuple[int, int]
    scales: Optional[Tuple[int, int]]


class Found:
    """What differs. NaNs are equal, whatever their bits, and so are zeros of the same sign, whatever their scales."""

    def __init__(self, dtype: str):
        self._dtype, self._limit = dtype, LARGEST.get(dtype)
        self.differing = 0
        self.first: Optional[Element] = None
        self._most: Optional[Element] = None
        self._distance = 0  # of _most: of the elements that are a distance apart, the farthest
        self._nans = 0  # elements that are NaN in one file only
        self._zeros = 0  # elements that are 0 in one file and -0 in the other
        self._rescaled = 0  # other elements that have no distance, since their scales differ
        self._same_nans = 0  # NaNs with different bits

    def add(self, at: int, a: np.ndarray, b: np.ndarray, scales: Scales = None) -> None:
        """Compares elements from number `at` on, as unsigned integers."""
        which = np.flatnonzero(a != b if scales is None else (a != b) | (scales[0] != scales[1]))
        a, b = a[which].astype("u8"), b[which].astype("u8")
        nan_a, nan_b, rescaled = self._nan(a), self._nan(b), np.zeros(len(which), bool)
        same_zeros = rescaled
        if scales is not None:
            scales = scales[0][which], scales[1][which]
            nan_a, nan_b = nan_a | (scales[0] == 255), nan_b | (scales[1] == 255)
            same_zeros = (a == b) & (a % 128 == 0)
            rescaled = scales[0] != scales[1]
        differ = ~(nan_a & nan_b | same_zeros & ~(nan_a | nan_b))
        numbers = differ & ~(nan_a | nan_b)
        zeros = numbers & (self._magnitude(a | b) == 0) if self._limit else same_zeros & False
        apart = numbers & ~(rescaled | zeros)
        self.differing += int(differ.sum())
        self._nans += int((nan_a != nan_b).sum())
        self._same_nans += int((nan_a & nan_b).sum())
        self._zeros += int(zeros.sum())
        self._rescaled += int((numbers & rescaled & ~zeros).sum())

        def element(i: int) -> Element:
            return Element(at + int(which[i]), (int(a[i]), int(b[i])), scales and (int(scales[0][i]), int(scales[1][i])))

        if self.first is None and differ.any():
            self.first = element(int(differ.argmax()))
        distances = np.where(apart, self._distances(a, b), np.uint64(0))
        if distances.max(initial=0) > self._distance:
            farthest = int(distances.argmax())
            self._distance, self._most = int(distances[farthest]), element(farthest)

    def _magnitude(self, bits: np.ndarray) -> Any:
        return bits & np.uint64((1 << 8 * size_of(self._dtype) - 1) - 1)

    def _nan(self, bits: np.ndarray) -> Any:
        return self._magnitude(bits) > self._limit if self._limit else np.zeros(len(bits), bool)

    def _distances(self, a: np.ndarray, b: np.ndarray) -> Any:
        """For floats, how many steps from one number of the format to the next lie between; 0 for bits that are no numbers."""
        if self._limit:
            x, y = self._magnitude(a), self._magnitude(b)
            return np.where((a > x) == (b > y), np.maximum(x, y) - np.minimum(x, y), x + y)
        if self._dtype not in _SIGNED + _UNSIGNED:
            return np.zeros(len(a), "u8")
        sign = np.uint64(1 << 8 * size_of(self._dtype) - 1 if self._dtype in _SIGNED else 0)
        a, b = a ^ sign, b ^ sign  # in the order of the numbers
        return np.maximum(a, b) - np.minimum(a, b)

    def lines(self, shape: Sequence[int]) -> List[str]:
        """A description for people."""
        said = []
        if self.first:
            verb = "differs" if self.differing == 1 else "differ"
            far = f", by at most {self._unit(self._distance)}" if self._most else ""
            said = [f"{self.differing} of {math.prod(shape)} elements {verb}{far}", f"first{self._text(self.first, shape)}"]
        if self._most and self._most != self.first:
            said.append(f"most{self._text(self._most, shape)}")
        for count, what in (
            (self._nans, "NaN in one file only"), (self._zeros, "0 in one file and -0 in the other"),
            (self._rescaled, "numbers with another scale"), (self._same_nans, "NaN with other bits, which counts as equal"),
        ):
            if count:
                said.append(f"{what}: {count}")
        return said

    def _unit(self, distance: int) -> str:
        return str(distance) if not self._limit else "1 ulp" if distance == 1 else f"{distance} ulps"

    def _text(self, element: Element, shape: Sequence[int]) -> str:
        texts = []
        for k, bits in enumerate(element.bits):
            scale = element.scales[k] if element.scales else None
            written = f"0x{bits:0{2 * size_of(self._dtype)}x}" + ("" if scale is None else f" × 2^{scale - 127}")
            texts.append(f"{number(bits, self._dtype, 127 if scale is None else scale)} ({written})")
        at = indices(element.at, shape)
        return f"{at and ' at '}{at}: {' and '.join(texts)}"


def indices(index: int, shape: Sequence[int]) -> str:
    """The place of an element, as programs write it."""
    places: List[int] = []
    for size in reversed(shape):
        index, place = divmod(index, size)
        places.insert(0, place)
    return str(places) if places else ""


def number(bits: int, dtype: str, scale: int = 127) -> str:
    """The number that bits stand for, in the fewest digits that tell it from others of float64, float32 or float16."""
    data = bits.to_bytes(8, "little")
    if dtype in ("F64", "F32", "F16"):
        return str(np.frombuffer(data[: size_of(dtype)], f"<f{size_of(dtype)}")[0])
    if dtype == "BF16":
        return number(bits << 16, "F32")
    if dtype == "F8_E5M2":
        return number(bits << 8, "F16")
    if dtype == "F8_E4M3":
        if bits % 128 == 127 or scale == 255:
            return "nan"
        exponent, fraction = bits >> 3 & 15, bits & 7
        value = math.ldexp(fraction + (8 if exponent else 0), max(exponent, 1) - 10 + scale - 127)
        return str(-value if bits & 128 else value)
    if dtype in _SIGNED:
        return str(int.from_bytes(data[: size_of(dtype)], "little", signed=True))
    return str(bits)
