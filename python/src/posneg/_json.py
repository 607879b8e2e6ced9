"""JSON from untrusted files, read piece by piece, so that text without the expected form takes little memory."""

from __future__ import annotations

import json
import re
import reprlib
import sys
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any, Container, Dict, Iterator, List, NoReturn, Tuple, Union

_SPACES = " \t\r\n"
_SPACE = re.compile(f"[{_SPACES}]*")
_SURROGATE = re.compile("[\ud800-\udfff]")
_AT_FIRST = 512  # characters; most values have no more
SMALL = 1 << 16


class Reader:
    """Reads a text from its beginning: each method reads what must come next, and raises a ValueError if something else comes."""

    def __init__(self, text: str):
        self.text = text
        self.at = 0  # the number of characters read

    def object(self, known: Container[str]) -> Iterator[str]:
        """Yields the names of an object's members, none of which may be known. The caller reads each value before the next name."""
        for _ in self._list("{", "}", "an object"):
            name = self.string()
            if name in known:
                raise self._error(f"{short(name)} occurs twice")
            self._expect(":", "a colon")
            yield name

    def array(self) -> Iterator[None]:
        """Yields once for each element, which the caller reads before the next one."""
        return self._list("[", "]", "an array")

    def _list(self, begin: str, end: str, what: str) -> Iterator[None]:
        self._expect(begin, what)
        if self._next() == end:
            self.at += 1
            return
        while True:
            yield None
            if self._next() == end:
                self.at += 1
                return
            self._expect(",", "a comma or the end")

    def string(self) -> str:
        self._expect('"', "a string")
        try:
            value, self.at = scanstring(self.text, self.at, True)
        except ValueError as e:
            raise ValueError(str(e)) from None  # json's own holds the whole text
        return _no_surrogates(value)

    def value(self, most: int = SMALL) -> Any:
        """A value of at most `most` characters."""
        self._next()
        for size in (min(_AT_FIRST, most), most):
            part = self.text[self.at : self.at + size]
            whole = self.at + size >= len(self.text)
            try:
                value, used = _DECODER.raw_decode(part)
            except (ValueError, RecursionError) as e:
                if size == most or whole:
                    long = "" if whole else f", or has more than {most} characters"
                    raise self._error(f"it is not valid{long}: {str(e):.100}") from None
                continue
            if whole or used < len(part):
                self.at += used
                return value
        raise self._error(f"it has more than {most} characters")

    def end(self, space: str = _SPACES) -> None:
        """Reports anything but spaces that follows."""
        while self.at < len(self.text):
            if self.text[self.at] not in space:
                raise self._error("something follows the end")
            self.at += 1

    def _next(self) -> str:
        character = self.text[self.at : self.at + 1]
        if character in _SPACES and character:
            self.at = _SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]
            return self.text[self.at : self.at + 1]
        return character

    def _expect(self, character: str, what: str) -> None:
        found = self._next()
        if found != character:
            raise self._error(f"{short(found) if found else 'the end'} instead of {what}")
        self.at += 1

    def _error(self, problem: str) -> ValueError:
        return ValueError(f"at character {self.at}: {problem}")


def loads(text: str) -> Any:
    """The value of a short text."""
    reader = Reader(text)
    value = reader.value()
    reader.end()
    return value


def dumps(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def short(value: Any) -> str:
    text = "missing" if value is None else reprlib.repr(value)  # of long and deep ones only the beginning
    return text if len(text) <= 60 else f"{text[:60]}…"


def _no_surrogates(text: str) -> str:
    if not text.isascii() and _SURROGATE.search(text):
        raise ValueError(f"half a surrogate pair in {short(text)}")
    return text


def _distinct(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    made = dict(pairs) if pairs else {}  # before Python 3.10, dict([]) has 232 bytes, and {} 64
    if len(made) != len(pairs):
        raise ValueError(f"an object has a key twice: {short([key for key, _ in pairs])}")
    return made


def _finite(text: str) -> float:
    if abs(float(text)) > sys.float_info.max:
        raise ValueError(f"{short(text)} is too large")
    return float(text)


def _integer(text: str) -> Union[int, float]:
    return -0.0 if text == "-0" else int(text)  # Go's


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_distinct, parse_constant=_no_number, parse_float=_finite, parse_int=_integer)
