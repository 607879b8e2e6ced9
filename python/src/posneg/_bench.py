"""How long steps take on this machine, beside torch's: what `python -m posneg --bench` measures."""

from __future__ import annotations

import csv
import functools
import math
import os
import platform
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, TextIO, Tuple

import torch

from . import _library, _threads
from ._eager import EagerAdaPNM, EagerPNM
from .optimizers import PNM, AdaPNM, AdamW

Make = Callable[[Sequence[torch.nn.Parameter]], Any]


class Candidate(NamedTuple):
    rule: str
    by: str
    format: str  # of the state, if it is not that of all, float32
    make: Make
    bytes: float  # that a step reads and writes, for each element


class Result(NamedTuple):
    """A row of the CSV file; examples/speed of the repository reads and draws it. Times are in ns for each element."""

    machine: str
    software: str
    threads: int
    rule: str
    by: str
    format: str
    elements: int
    bytes: float
    ns: float
    limit_ns: float  # what a pass over the same memory takes that computes nothing; NaN if unknown
    of_limit: float  # the median of the ratios of such a pass and the step before it


FORMATS: Dict[str, Any] = {"float32": None, "bf16 state": torch.bfloat16, "mxfp8 momenta": "mxfp8"}
ROUNDS = 3  # at least
EACH = 132  # bytes that all tensors have for each element


def candidates() -> List[Candidate]:
    """All that this torch has."""
    found = []
    for cls, name, both, once, other in ((AdamW, "AdamW", 1, 0, 1), (AdaPNM, "AdaPNM", 1, 1, 2), (PNM, "PNM", 1, 1, 0)):
        # Momenta that are read and written, or only read, and averages of squares.
        for format, dtype in FORMATS.items():
            momentum = {"float32": 4.0, "bf16 state": 2.0, "mxfp8 momenta": 33 / 32}[format]
            average = 4 if format == "float32" else 2
            moved = 12 + momentum * (2 * both + once) + average * 2 * other
            found.append(Candidate(name, "posneg", format, _ours(cls, dtype), moved))
    found += [
        Candidate("AdamW", "torch", "float32", lambda p: torch.optim.AdamW(p), 28),
        Candidate("AdamW", "torch, fused", "float32", lambda p: torch.optim.AdamW(p, fused=True), 28),
        Candidate("AdaPNM", "torch operations", "float32", lambda p: EagerAdaPNM(p), 40),
        Candidate("PNM", "torch operations", "float32", lambda p: EagerPNM(p, lr=1e-3), 24),
    ]
    return sorted(filter(_works, found), key=lambda c: ("PNM", "AdaPNM", "AdamW").index(c.rule))


def _ours(cls: Any, dtype: Any) -> Make:
    return lambda p: cls(p, lr=1e-3, **({} if dtype is None else {"state_dtype": dtype}))


def _works(candidate: Candidate) -> bool:
    """Old versions of torch have no fused optimizer for the CPU."""
    p = torch.nn.Parameter(torch.zeros(64))
    p.grad = torch.zeros(64)
    try:
        candidate.make([p]).step()
    except (RuntimeError, TypeError):
        if candidate.by == "torch, fused":
            return False
        raise
    return True


class Turns:
    """Steps of all candidates on the same parameters, each with a pass of its limit behind it, in turn on some numbers of threads."""

    def __init__(self, elements: int, threads: Sequence[int]):
        self.elements, self.threads, self.candidates = elements, threads, candidates()
        self._parameter = torch.nn.Parameter(torch.randn(elements))
        self._parameter.grad = torch.randn(elements)
        self._optimizers = [c.make([self._parameter]) for c in self.candidates]
        for optimizer in self._optimizers:
            optimizer.step()  # makes the state
        # For each round, the times of each candidate's step and limit; NaN for a limit that is unknown.
        self.times: Dict[int, List[List[float]]] = {t: [] for t in threads}
        self.limits: Dict[int, List[List[float]]] = {t: [] for t in threads}

    def round(self, number: int) -> Iterator[None]:
        """Measures once, and stops for a moment after each step."""
        for threads in self.threads:
            torch.set_num_threads(threads)
            _threads.set_num_threads(threads)
            times, limits = ([math.nan] * len(self.candidates) for _ in range(2))
            for i in range(len(times)):
                turn = (i + number) % len(times)
                times[turn], _ = self._ns(self._optimizers[turn].step)
                limits[turn], moved = self._ns(functools.partial(self._limit(turn), threads))
                if not moved:
                    limits[turn] = math.nan
                yield
            self.times[threads].append(times)
            self.limits[threads].append(limits)

    def _limit(self, turn: int) -> Callable[[int], bool]:
        """The limit of a step of posneg; of others, that of the step of posneg with the same rule and bytes."""
        rule, bytes = self.candidates[turn].rule, self.candidates[turn].bytes
        same = next(i for i, c in enumerate(self.candidates) if (c.rule, c.by, c.bytes) == (rule, "posneg", bytes))
        limit: Callable[[int], bool] = self._optimizers[same]._plans.last_call().limit
        return limit

    def _ns(self, run: Callable[[], Any]) -> Tuple[float, Any]:
        start = time.perf_counter()
        result = run()
        return (time.perf_counter() - start) / self.elements * 1e9, result

    def results(self, machine: str) -> List[Result]:
        found = []
        for threads in self.threads:
            for i, c in enumerate(self.candidates):
                times, limits = ([row[i] for row in rows[threads]] for rows in (self.times, self.limits))
                ratios = [limit / ns for ns, limit in zip(times, limits)]
                found.append(
                    Result(
                        machine, software(), threads, c.rule, c.by, c.format, self.elements, c.bytes,
                        *map(statistics.median, (times, limits, ratios)),
                    )
                )
        return found


def measure(elements: int, seconds: float, machine: str, progress: TextIO) -> List[Result]:
    """Measures for so long, or ROUNDS times, and says on a terminal how far it is."""
    before, chosen, ours = torch.get_num_threads(), _threads._chosen, _threads.get_num_threads()
    start, shows = time.monotonic(), progress.isatty()

    def tell(done: str) -> None:
        if shows:
            progress.write(f"\r\x1b[K{done}")
            progress.flush()

    try:
        tell(f"making state for {elements} parameters")
        turns = Turns(elements, sorted({1, ours}))
        number, start = 0, time.monotonic()
        while number < ROUNDS or time.monotonic() - start < seconds:
            for _ in turns.round(number):
                tell(f"round {number + 1}, {time.monotonic() - start:.0f} of {seconds:.0f} s")
            number += 1
    finally:
        tell("")
        torch.set_num_threads(before)
        _threads._chosen = chosen
    return turns.results(machine)


def write(file: Path, results: Sequence[Result]) -> None:
    with open(file, "w", newline="", encoding="utf-8") as out:
        rows = csv.writer(out, lineterminator="\n")
        rows.writerow(Result._fields)
        for r in results:
            rows.writerow(["" if x != x else f"{x:.4f}".rstrip("0").rstrip(".") if isinstance(x, float) else x for x in r])


def report(results: Sequence[Result], out: TextIO) -> None:
    """Prints a table."""
    first = results[0]
    print(f"{first.machine}\n{first.software}\n{first.elements / 2**20:g} Mi parameters\n", file=out)
    rows = [("threads", "rule", "optimizer", "ns", "times ours", "GB/s", "of the limit")]
    for r in results:
        ours = next(o for o in results if (o.threads, o.rule) == (r.threads, r.rule) and o.by == "posneg")
        times = (f"{r.ns:.2f}", f"{r.ns / ours.ns:.2f}", f"{r.bytes / r.ns:.1f}", "" if math.isnan(r.of_limit) else f"{r.of_limit:.0%}")
        rows.append((str(r.threads), r.rule, f"{r.by}, {r.format}", *times))
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(x.ljust(w) if i in (1, 2) else x.rjust(w) for i, (x, w) in enumerate(zip(row, widths))).rstrip(), file=out)
    print(
        "\nns: time of a step for each parameter, median. GB/s: what the step must read and write by that time.\n"
        "of the limit: what a pass over the same memory takes that computes nothing, by the time of the step.",
        file=out,
    )


def fitting(memory: Optional[int]) -> int:
    """How many Mi parameters to measure with: 32, or what half of the memory has room for."""
    return 32 if memory is None else max(1, min(32, memory // 2 // EACH >> 20))


def free_memory() -> Optional[int]:
    """In bytes, if the system tells."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    except (OSError, ValueError):
        pass
    return None


def largest_cache() -> Optional[int]:
    """In bytes, if the system tells."""
    sizes = []
    for size in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        try:
            sizes.append(int(size.read_text().strip().rstrip("K")) << 10)
        except (OSError, ValueError):
            pass
    return max(sizes, default=None)


def software() -> str:
    version = _library.load().pnm_version().decode()
    return f"posneg {version} ({_library.isa()}), torch {torch.__version__}, Python {platform.python_version()}"


def machine() -> str:
    """The CPU's name, how many there are, and the system."""
    return f"{cpu()}, {os.cpu_count()} CPUs, {platform.system()}"


def cpu() -> str:
    try:
        if platform.system() == "Darwin":
            return subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, timeout=10).stdout.strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    except (OSError, subprocess.SubprocessError):
        pass
    return platform.processor() or platform.machine()
