"""The C interface of the engine, capi/pnm.h: its structs, and the library, loaded when the first step needs it."""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path
from typing import Any, Callable, List, Optional, Sequence, Tuple

import numpy as np

from . import _system

ABI_VERSION = 1

FLOAT32, FLOAT64, BF16, F16, LOW16, MXFP8 = range(6)  # pnm_dtype
BYTES = -1  # PNM_BYTES
ERROR_HYPERPARAMETER, ERROR_OVERLAP, ERROR_FORKED, ERROR_INTERNAL, ERROR_UNSUPPORTED = 1, 4, 8, 9, 13  # of pnm_status

VECTOR = np.dtype(
    [
        ("data", np.uintp),
        ("length", np.int64),
        ("dtype", np.int32),
        ("reserved_flags", np.int32, (1,)),
        ("scales", np.uintp),
        ("row", np.int64),
        ("reserved", np.int64, (1,)),
    ],
    align=True,
)
UPDATE = np.dtype(
    [
        ("rule", np.uintp),
        ("step", np.int64),
        ("params", VECTOR),
        ("grads", VECTOR),
        ("state", VECTOR, (4,)),
        ("copy", VECTOR),
        ("seed", np.uint64),
        ("tensor", np.uint64),
        ("first", np.int64),
        ("skip", np.int32),
        ("follow", np.int32),
        ("reserved", np.int64, (8,)),
    ],
    align=True,
)
RULE = np.dtype(
    [
        (name, np.int32)
        for name in ("kind", "decoupled", "amsgrad", "maximize", "nesterov", "exact_bias")
    ]
    + [("reserved_flags", np.int32, (6,))]
    + [
        (name, np.float64)
        for name in ("lr", "beta1", "beta2", "beta0", "eps", "weight_decay", "momentum", "dampening")
    ]
    + [("reserved", np.int64, (8,))],
    align=True,
)
LR = list(RULE.names or ()).index("lr")
REPORT = np.dtype(
    [
        ("grad_norm", np.float64),
        ("overflows", np.int64),
        ("skipped", np.int32),
        ("reserved_flags", np.int32, (3,)),
        ("reserved", np.int64, (8,)),
    ],
    align=True,
)


SQUARES = 334
INFINITIES = SQUARES - 1  # where a sum of squares counts them
NOISE = 2 * SQUARES  # integers that are read of a parameter


class Options(ctypes.Structure):
    _fields_ = [
        ("loss_scale", ctypes.c_double),
        ("clip_norm", ctypes.c_double),
        ("clip_value", ctypes.c_double),
        ("skip_non_finite", ctypes.c_int32),
        ("zero_grads", ctypes.c_int32),
        ("workers", ctypes.c_int32),
        ("reserved_flags", ctypes.c_int32 * 3),
        ("squares", ctypes.c_void_p),
        ("noise", ctypes.c_void_p),
        ("reserved", ctypes.c_int64 * 6),
    ]


def path() -> Path:
    """The path of the library: $POSNEG_LIBRARY, or else the wheel's, beside this file."""
    chosen = os.environ.get("POSNEG_LIBRARY")
    file = Path(chosen).absolute() if chosen else Path(__file__).with_name(_system.library_name())
    if not file.is_file():
        raise ImportError(
            f"posneg: the library {file} does not exist: "
            + (
                "set POSNEG_LIBRARY to a libpnm, or unset it for the installed one"
                if chosen
                else "install the package (pip install ./python builds the library with Go), or build it with "
                f"`go build -buildmode=c-shared -o {file.name} ./capi` and set POSNEG_LIBRARY to it"
            )
        )
    return file


def _opened(file: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(file))  # CDLL releases the interpreter's lock during calls
    except OSError as e:
        built_for, here = _system.built_for(file) or "an unknown system", _system.here()
        reason = str(e) if built_for == here else f"it is for {built_for}, and this is {here}"
        raise ImportError(f"posneg: the library {file} does not load: {reason}") from e


@functools.lru_cache(maxsize=None)
def load() -> ctypes.CDLL:
    """Loads the library. A forked child of a process that has loaded it cannot use it."""
    file = path()
    library = _opened(file)
    if library.pnm_abi_version() != ABI_VERSION:
        raise ImportError(
            f"posneg: {file} has version {library.pnm_abi_version()} of the C interface, this package needs {ABI_VERSION}"
        )
    for f in (library.pnm_last_error, library.pnm_isa, library.pnm_version, library.pnm_state_name):
        f.restype = ctypes.c_char_p
    library.pnm_state_count.argtypes = [ctypes.c_void_p]
    library.pnm_state_name.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.pnm_convert.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    library.pnm_limit.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    library.pnm_sum_squares.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_void_p]
    library.pnm_norm.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    library.pnm_sum_noise.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_void_p]
    library.pnm_noise.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    library.pnm_fingerprint_bytes.argtypes = [
        ctypes.c_char_p, ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p,
    ]  # fmt: skip
    library.pnm_update_all.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p]
    return library


@functools.lru_cache(maxsize=256)
def state_names(rule: Tuple[Any, ...]) -> Tuple[str, ...]:
    """The names of a parameter's state under a rule, given as the fields of RULE, in the engine's order."""
    library, fields = load(), np.array(rule, RULE)
    count = library.pnm_state_count(fields.ctypes.data)
    if count < 0:
        message = library.pnm_last_error().decode()
        raise _error(ERROR_HYPERPARAMETER if library.pnm_workers() else ERROR_FORKED, message)
    return tuple(library.pnm_state_name(fields.ctypes.data, i).decode() for i in range(count))


def convert(to: np.ndarray, from_: np.ndarray) -> None:
    """Sets the elements of a VECTOR to those of another one. The caller keeps their memory alive."""
    library = load()
    status = library.pnm_convert(to.ctypes.data, from_.ctypes.data, None)
    _check(library, status)


def sum_squares(vectors: np.ndarray, workers: int, squares: np.ndarray) -> None:
    """Sets the first SQUARES elements of squares, int64 numbers, to the sum of squares of an array of VECTOR."""
    library = load()
    status = library.pnm_sum_squares(vectors.ctypes.data, len(vectors), workers, squares.ctypes.data)
    _check(library, status)


def norm(squares: np.ndarray) -> float:
    library, result = load(), ctypes.c_double()
    status = library.pnm_norm(squares.ctypes.data, ctypes.addressof(result))
    _check(library, status)
    return result.value


def sum_noise(updates: np.ndarray, workers: int, sums: np.ndarray) -> None:
    """Sets sums, rows of NOISE int64 numbers, to what is read of an array of UPDATE, whose steps have been done."""
    library = load()
    status = library.pnm_sum_noise(updates.ctypes.data, len(updates), workers, sums.ctypes.data)
    _check(library, status)


def noise(rules: np.ndarray, which: Sequence[int], steps: Sequence[int], sums: np.ndarray) -> List[Tuple[float, float]]:
    """The signals and the variances of rows of sums. Row i was read after step steps[i] of the rule number which[i] in an array of RULE."""
    library, signal, variance = load(), ctypes.c_double(), ctypes.c_double()
    to = ctypes.addressof(signal), ctypes.addressof(variance)
    row, size = sums.ctypes.data, sums.strides[0]
    addresses = [rules.ctypes.data + i * rules.itemsize for i in range(len(rules))]
    found = []
    for i, step in zip(which, steps):
        status = library.pnm_noise(addresses[i], step, row, *to)
        _check(library, status)
        found.append((signal.value, variance.value))
        row += size
    return found


def fingerprint_bytes(name: bytes, dtype: int, first: int, memory: np.ndarray) -> Tuple[int, int]:
    """The fingerprint of elements of a tensor from number `first` on, as bytes in little-endian order."""
    library, words = load(), (ctypes.c_uint64 * 2)()
    status = library.pnm_fingerprint_bytes(name, dtype, first, memory.ctypes.data, memory.nbytes, ctypes.addressof(words))
    _check(library, status)
    return words[0], words[1]


class Refused(Exception):
    """The library has refused a call, and written nothing."""


class _RefusedInput(Refused, ValueError):
    pass


class Overlap(_RefusedInput):
    """Memory that is written is used twice."""


class _RefusedProcess(Refused, RuntimeError):
    pass


class Forked(_RefusedProcess):
    """The process is a forked child of one that has used the library."""


_NOT_RUN = 2  # the report's skipped before a step


class Call:
    """Performs the steps of an array of UPDATE. The caller keeps the memory that it points to alive during a run."""

    def __init__(self, updates: np.ndarray):
        self._library, self.steps, self._updates = load(), len(updates), updates
        self._options = Options()
        self._around: Tuple[Any, ...] = (0.0, 0.0, False, False, None)
        self._report = np.zeros((), REPORT)
        self._skipped = self._report["skipped"]
        self.done = np.zeros((), bool)  # the last run has updated the parameters
        self.ran = np.zeros((), bool)  # the last run has updated or skipped them; set by look
        self.look = functools.partial(np.not_equal, self._skipped, _NOT_RUN, out=self.ran)
        self._calls = (
            functools.partial(
                self._library.pnm_update_all,
                ctypes.addressof(self._options), updates.ctypes.data, self.steps, self._report.ctypes.data,
            ),
            functools.partial(np.equal, self._skipped, 0, out=self.done),
        )

    def run(
        self, loss_scale: float, workers: int, around: Tuple[Any, ...], then: Sequence[Callable[[], object]],
        noise: Optional[np.ndarray] = None,
    ) -> None:
        """Performs a step. around has clip_norm, clip_value, skip_non_finite, zero_grads, and the address of a sum of squares or None.
        Rows of noise are set to what the step reads of each parameter.

        It calls `then` after the library, even if the library has refused. No exception of a signal handler comes in between: Python
        runs handlers between its own instructions, and a single instruction makes all these calls. So none may be a function in Python.
        """
        options = self._options
        options.loss_scale, options.workers = loss_scale, workers
        options.noise = None if noise is None else noise.ctypes.data
        if around is not self._around:
            self._around = ()  # an interrupt may leave old and new options mixed
            options.clip_norm, options.clip_value, options.skip_non_finite, options.zero_grads, options.squares = around
            self._around = around
        self._skipped[...] = _NOT_RUN  # the library writes the report only after its work
        self.done[...] = False
        calls: Any = (*self._calls, *then)
        status = list(map(functools.partial.__call__, calls))[0]
        if status:
            raise _error(status, self._library.pnm_last_error().decode())

    def limit(self, workers: int) -> bool:
        """Reads and writes the memory of the last run, and computes nothing; False if the library cannot.

        Only a benchmark may call it, after a run whose gradients are still alive.
        """
        options = Options(workers=workers)
        status = self._library.pnm_limit(ctypes.addressof(options), self._updates.ctypes.data, self.steps)
        if status and status != ERROR_UNSUPPORTED:
            raise _error(status, self._library.pnm_last_error().decode())
        return not status

    def report(self) -> Tuple[float, bool]:
        """The norm of the gradients, if an option measures it, and whether the last run was skipped."""
        return float(self._report["grad_norm"]), bool(self._skipped)


def _check(library: ctypes.CDLL, status: int) -> None:
    """Raises the error of a call that has failed."""
    if status:
        raise _error(status, library.pnm_last_error().decode())


def _error(status: int, message: str) -> Exception:
    if status == ERROR_FORKED:
        return Forked(
            f"posneg: this process was forked from one that had already used the library, which does not work in a forked child; "
            f"use multiprocessing's 'spawn' or 'forkserver' start method ({message})"
        )
    if status == ERROR_INTERNAL:
        return _RefusedProcess(message)
    return (Overlap if status == ERROR_OVERLAP else _RefusedInput)(message)


def isa() -> str:
    """Returns the instruction set that the library uses: "avx512", "avx2", "neon" or "generic". $PNM_ISA selects another one."""
    return str(load().pnm_isa().decode())
