"""`python -m posneg diff` and `fingerprint`: where two runs part, and whether they do. For any safetensors files."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import time
from typing import Any, BinaryIO, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, TextIO, Tuple

import numpy as np

from . import _mx
from ._compare import Found, Scales, indices
from ._contents import SCALES_SUFFIX, owner_of
from ._header import PARAMS, Description, SavedGroup, SavedTensor, decode
from ._library import Refused
from ._safetensors import ELEMENTS, SCALES, Entry, Source, bits_of, read_header, size_of
from .checkpoints import CheckpointError, errors_of, file_fingerprint, opened_to_read

_PIECE = 1 << 22  # bytes that are compared at a time
_FEW = 10  # tensors that are described without --all


class Run:
    """An open file."""

    def __init__(self, name: str, file: BinaryIO):
        self.name, self.source = name, Source(file)
        metadata, self.entries = read_header(self.source)
        self.groups: List[SavedGroup] = []
        self.metadata = metadata
        self.problem = ""  # of the header
        try:
            self.groups, self.metadata, _ = decode(metadata, self.entries, verify=False)
            decode(metadata, self.entries)
        except ValueError as e:
            if self.groups or any(key.startswith("posneg.") for key in metadata):  # or else it is another program's file
                self.problem = f"{name} {e}"
        self.saved = {t.name: (t, group) for group in self.groups for t in group.tensors}

    def has_scales(self, key: str) -> bool:
        """Whether a tensor is the elements of an mxfp8 one."""
        entry, scales = self.entries[key], self.entries.get(key + SCALES_SUFFIX)
        if entry.dtype != ELEMENTS or scales is None or scales.dtype != SCALES:
            return False
        return _mx.row_in(entry.end - entry.begin, scales.shape) is not None

    def format(self, key: str) -> str:
        entry = self.entries[key]
        if self.has_scales(key):
            return f"MXFP8 {list(entry.shape)}, scales {list(self.entries[key + SCALES_SUFFIX].shape)}"
        return f"{entry.dtype} {list(entry.shape)}"

    def is_begin(self, key: str) -> bool:
        """Whether a file may leave out a tensor, which is then zero."""
        saved = self.saved.get(owner_of(key)[0])
        return saved is not None and saved[0].step == 0 and key.startswith("state.")

    def is_zero(self, key: str) -> bool:
        return all(not piece.any() for _, piece in self.pieces(self.entries[key]))

    def pieces(self, entry: Entry) -> Iterator[Tuple[int, np.ndarray]]:
        """The bytes of a tensor, with the number of the first one, in memory that the next piece takes."""
        memory = np.empty(min(_PIECE, entry.end - entry.begin), np.uint8)
        for at in range(entry.begin, entry.end, _PIECE):
            piece = memory[: entry.end - at]
            self.source.read_into(at, piece.data)
            yield at - entry.begin, piece

    def damaged(self, key: str) -> List[str]:
        """The tensors that differ from what was written: this one or its scales."""
        owner, of = owner_of(key)
        saved = self.saved.get(owner)
        written = (saved and saved[0].crc32) or {}
        parts = {key: of, key + SCALES_SUFFIX: of + SCALES_SUFFIX} if self.has_scales(key) else {key: of}
        return [part for part, of in parts.items() if of in written and written[of] != self.source.crc32(self.entries[part])]


def _of_numbers(entry: Entry) -> Entry:
    """Complex numbers as pairs of real ones, and elements of less than a byte as bytes."""
    if entry.dtype == "C64":
        return entry._replace(dtype="F32", shape=(*entry.shape, 2))
    if bits_of(entry.dtype) % 8:
        return entry._replace(dtype="U8", shape=(entry.end - entry.begin,))
    return entry


class _Scales:
    """The scales of an mxfp8 tensor in both files."""

    def __init__(self, a: Run, b: Run, key: str):
        self._files = [(run.source, run.entries[key + SCALES_SUFFIX].begin) for run in (a, b)]
        entry, shape = a.entries[key], a.entries[key + SCALES_SUFFIX].shape
        self._row = (entry.end - entry.begin) // max(1, shape[0]) if len(shape) == 2 else 0

    def _number(self, element: Any) -> Any:
        if not self._row:
            return element // _mx.BLOCK
        return element // self._row * -(-self._row // _mx.BLOCK) + element % self._row // _mx.BLOCK

    def of(self, lo: int, hi: int, elements_differ: bool) -> Scales:
        """Those of elements; None if neither differ."""
        first = self._number(lo)
        ours, theirs = (np.empty(self._number(hi - 1) + 1 - first, np.uint8) for _ in self._files)
        for (source, begin), scales in zip(self._files, (ours, theirs)):
            source.read_into(begin + first, scales.data)
        if not elements_differ and np.array_equal(ours, theirs):
            return None
        each = self._number(np.arange(lo, hi)) - first
        return ours[each], theirs[each]


def _compared(a: Run, b: Run, key: str, tell: Callable[[int], None]) -> Found:
    """Compares the numbers of a tensor that both files have in the same format and length."""
    ours, theirs = _of_numbers(a.entries[key]), _of_numbers(b.entries[key])
    found, size = Found(ours.dtype), size_of(ours.dtype)
    scales_of = _Scales(a, b, key) if a.has_scales(key) else None
    for (at, x), (_, y) in zip(a.pieces(ours), b.pieces(theirs)):
        lo, differ = at // size, not np.array_equal(x, y)
        scales = scales_of.of(lo, lo + len(x), differ) if scales_of else None
        if differ or scales:
            found.add(lo, x.view(f"<u{size}"), y.view(f"<u{size}"), scales)
        tell(2 * len(x))
    return found


class Verdict(NamedTuple):
    """What is said of a tensor."""

    key: str
    format: str
    differs: bool
    where: str  # the first element that differs
    lines: List[str]


def judged(a: Run, b: Run, key: str, tell: Callable[[int], None]) -> Verdict:
    """Compares a tensor that one file has, or both."""
    for run, other in ((a, b), (b, a)):
        if key not in other.entries:
            zero = other.is_begin(key) and run.is_zero(key)
            remark = ", but zero, as where it is missing" if zero else ""
            return Verdict(key, run.format(key), not zero, "", [f"only in {run.name}{remark}"])
    formats = a.format(key), b.format(key)
    shapes = a.entries[key].shape, b.entries[key].shape
    if formats[0] != formats[1] and not _alike(a, b, key):
        return Verdict(key, " and ".join(formats), True, "", ["different formats or shapes, which are not compared"])
    found = _compared(a, b, key, tell)
    shape = _of_numbers(max((a.entries[key], b.entries[key]), key=lambda entry: len(entry.shape))).shape
    lines = found.lines(shape)
    if shapes[0] != shapes[1]:
        lines.append(f"the shapes are {list(shapes[0])} and {list(shapes[1])}: the same order of elements, which counts as equal")
    if found.first:
        lines += [f"{run.name} is damaged: the checksum of {_named(part)} differs" for run in (a, b) for part in run.damaged(key)]
    return Verdict(key, formats[0], bool(found.first), indices(found.first.at, shape) if found.first else "", lines)


def _alike(a: Run, b: Run, key: str) -> bool:
    """Whether two tensors differ only in that one has a single dimension, as Go may write it."""
    x, y = a.entries[key], b.entries[key]
    scales = [run.entries[key + SCALES_SUFFIX].shape if run.has_scales(key) else None for run in (a, b)]
    return (x.dtype, x.end - x.begin, scales[0]) == (y.dtype, y.end - y.begin, scales[1]) and 1 in (len(x.shape), len(y.shape))


def _named(key: str) -> str:
    return key if key.isprintable() else ascii(key)


def in_order(a: Run, b: Run) -> List[str]:
    """The tensors of both files: each parameter with its state behind it, in the order of the groups, or else by name."""
    places: Dict[str, int] = {}
    kinds: Dict[str, int] = {}
    for t, _ in (*a.saved.values(), *b.saved.values()):
        places.setdefault(t.name, len(places))
        for of in t.crc32 or {}:
            kinds.setdefault(of, len(kinds))

    def place(key: str) -> Any:
        owner, of = owner_of(key)
        natural = [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split("([0-9]+)", owner)]
        return places.get(owner, len(places)), natural, of != PARAMS, kinds.get(of, len(kinds)), key

    keys = {*a.entries, *b.entries}
    scales = {key + SCALES_SUFFIX for key in keys if any(run.has_scales(key) for run in (a, b) if key in run.entries)}
    for run in (a, b):  # those of other elements
        scales -= {key for key in scales if key in run.entries and not run.has_scales(key[: -len(SCALES_SUFFIX)])}
    return sorted(keys - scales, key=place)


def described(a: Run, b: Run) -> Dict[str, List[str]]:
    """What differs in the description of the runs, with the values of both, and the parameters concerned if not all are."""
    found: Dict[str, Dict[str, List[str]]] = {}
    both = [name for name in a.saved if name in b.saved]
    for run, other in ((a, b), (b, a)):
        for name in run.saved:
            if other.saved and name not in other.saved:
                found.setdefault("parameters", {}).setdefault(f"only in {run.name}", []).append(name)
    for name in both:
        for what, values in _differences(_description(*a.saved[name]), _description(*b.saved[name])):
            found.setdefault(what, {}).setdefault(values, []).append(name)
    for what, values in _differences(a.metadata, b.metadata):
        found.setdefault(f"metadata {_named(what)}", {})[values] = both
    return {
        what: [values if names == both else f"{values} ({_few(names)})" for values, names in differing.items()]
        for what, differing in found.items()
    }


def _differences(ours: Dict[str, Any], theirs: Dict[str, Any]) -> Iterator[Tuple[str, str]]:
    for key in {**ours, **theirs}:
        if ours.get(key) != theirs.get(key) or (key in ours) != (key in theirs):
            yield key, " and ".join(_said(values[key]) if key in values else "nothing" for values in (ours, theirs))


def _description(t: SavedTensor, group: SavedGroup) -> Dict[str, Any]:
    random = {"random numbers": list(t.rounding)} if t.rounding else {}
    return {"step": t.step, "rule": group.rule, **group.hyperparameters, **{f"other {k}": v for k, v in group.other.items()}, **random}


def _said(value: Any) -> str:
    text = repr(value) if isinstance(value, str) and value.isprintable() else ascii(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _few(names: Sequence[str]) -> str:
    return ", ".join(map(_named, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _steps(run: Run) -> str:
    steps = [t.step for t, _ in run.saved.values()]
    if not steps:
        return ""
    return f"step {max(steps)}" if min(steps) == max(steps) else f"steps {min(steps)} to {max(steps)}"


class _Progress:
    """The part of the bytes that has been compared, on a terminal."""

    def __init__(self, all: int, out: TextIO):
        self._all, self._done, self._out, self._shows, self._next = all, 0, out, out.isatty(), 0.0

    def __call__(self, more: int) -> None:
        self._done += more
        if self._shows and time.monotonic() >= self._next:
            self._next = time.monotonic() + 0.2
            self._say(f"{self._done / self._all:.0%} of {self._all / 1e9:.1f} GB")

    def end(self) -> None:
        if self._shows:
            self._say("")

    def _say(self, text: str) -> None:
        self._out.write(f"\r\x1b[K{text}")
        self._out.flush()


def report(a: Run, b: Run, every: bool, out: TextIO, progress: TextIO) -> bool:
    """Prints what differs, and returns whether anything does."""
    bar = _Progress(sum(e.end - e.begin for run in (a, b) for e in run.entries.values()), progress)
    try:
        verdicts = [judged(a, b, key, bar) for key in in_order(a, b)]
    finally:
        bar.end()
    differing = [v for v in verdicts if v.differs]
    others = described(a, b)
    problems = [run.problem for run in (a, b) if run.problem]
    lines = [_summary(a, b, len(verdicts), differing, bool(others or problems)), *problems]
    if others:
        lines.append("")
    width = max(map(len, others), default=0)
    for what, values in others.items():
        shown = values if every else values[:3]
        lines += [f"{what:<{width}}  {value}" for value in shown]
        if len(shown) < len(values):
            lines.append(f"{'':<{width}}  and {len(values) - len(shown)} more")
    for v in verdicts if every else differing[:_FEW] + [v for v in verdicts if v.lines and not v.differs][:_FEW]:
        lines += ["", f"{_named(v.key)}  {v.format}", *(f"    {line}" for line in v.lines or ["equal"])]
    if not every and len(differing) > _FEW:
        lines += ["", f"{len(differing) - _FEW} more tensors differ: --all describes all of them"]
    print("\n".join(lines), file=out)
    return bool(differing or others or problems)


def _summary(a: Run, b: Run, count: int, differing: List[Verdict], other: bool) -> str:
    ours, theirs = _steps(a), _steps(b)
    what = "files"
    if ours and theirs:
        what = f"runs, both at {ours}," if ours == theirs else f"runs, at {ours} and {theirs},"
    if differing:
        return f"The {what} differ in {len(differing)} of {count} tensors, first in {_named(differing[0].key)}{differing[0].where}"
    return f"The {what} have equal numbers in {count} tensors, but differ" if other else f"The {what} are equal: {count} tensors"


def diff(names: Sequence[str], every: bool) -> int:
    """Compares two files. The exit status is 0 if they are equal, 1 if they differ, or if a checkpoint's header is damaged."""
    with contextlib.ExitStack() as opened:
        runs = []
        for name in names:
            with errors_of(name):
                runs.append(Run(name, opened.enter_context(opened_to_read(name))))
        with errors_of(" or ".join(names)):
            return int(report(runs[0], runs[1], every, sys.stdout, sys.stderr))


def fingerprints(names: Sequence[str]) -> int:
    """Prints the fingerprints of files. The exit status is 1 if a file records another one."""
    status = 0
    for name in names:
        with errors_of(name), opened_to_read(name) as file:
            source = Source(file)
            metadata, entries = read_header(source)
            ours = any(key.startswith("posneg.") for key in metadata)
            said = decode(metadata, entries) if ours else Description([], {}, None)
            found = file_fingerprint(source, entries, said.groups)
        print(f"{found}  {_named(name)}", flush=True)
        if said.fingerprint not in (None, found):
            print(f"posneg: {name} records the fingerprint {said.fingerprint}: it is damaged", file=sys.stderr)
            status = 1
    return status


def run(command: Callable[..., int], *arguments: Any) -> int:
    """The exit status of a command; 2 if it fails."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # it may lack characters of the names
    try:
        return command(*arguments)
    except OSError as e:
        print(f"posneg: {e.filename}: {e.strerror}" if e.filename else f"posneg: {e}", file=sys.stderr)
    except (CheckpointError, ImportError, Refused) as e:
        print(e, file=sys.stderr)
    return 2
