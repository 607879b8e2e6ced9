"""Prints the versions and settings that a bug report should have, with --bench the speed of steps, and with diff where two runs part."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from pathlib import Path
from typing import Optional, Sequence

import numpy as np
import torch

from . import SGD, __version__, _bench, _diff, _library, get_num_threads


def about() -> bool:
    """Prints the versions, and reports whether the library can be used."""

    def line(name: str, value: object) -> None:
        print(f"{name:<20}{value}")

    works, engine = True, []
    try:
        library = _library.load()
        engine.append(("library", f"{library.pnm_version().decode()}, {_library.path()}"))
        engine.append(("ISA", _library.isa()))
        engine.append(("threads", f"{get_num_threads()} of {library.pnm_workers()}"))
        p = torch.nn.Parameter(torch.zeros(1))
        p.grad = torch.zeros(1)
        SGD([p], lr=1.0).step()  # refuses what loading does not
    except (ImportError, OSError, AttributeError, _library.Refused) as e:
        engine.append(("library", f"cannot be used: {e}"))
        works = False
    line("posneg", f"{__version__}, {Path(__file__).parent}")
    for name, value in engine:
        line(name, value)
    line("torch", f"{torch.__version__}, {torch.get_num_threads()} threads")
    line("numpy", np.__version__)
    line("Python", f"{platform.python_version()}, {sys.executable}")
    line("CPU", f"{_bench.cpu()}, {os.cpu_count()} of them, {platform.machine()}")
    line("system", platform.platform())
    for name in ("POSNEG_LIBRARY", "POSNEG_NUM_THREADS", "PNM_ISA", "OMP_NUM_THREADS"):
        if name in os.environ:
            line(name, os.environ[name])
    return works


def check_writable(file: Path) -> None:
    """Raises OSError if the file cannot be written, and leaves all as it was."""
    is_new = not file.exists()
    with file.open("a"):
        pass
    if is_new:
        file.unlink()


def main(arguments: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser("python -m posneg", description=__doc__)
    parser.add_argument("--bench", action="store_true", help="measure for a minute, together with torch's optimizers, and print a table")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="with --bench: write the results to a file, too")
    parser.add_argument(
        "--mebi", type=int, metavar="N", help="with --bench: parameters, in units of 2^20 (default: 32, or fewer if memory is short)"
    )
    parser.add_argument("--seconds", type=float, default=45, help="with --bench: how long to measure (default: 45)")
    parser.add_argument("--machine", help="with --bench: name of the machine in the results (default: its CPU's name)")
    commands = parser.add_subparsers(dest="command", title="commands")
    diff = commands.add_parser(
        "diff", help="compare two safetensors files, such as checkpoints",
        description="Compares two safetensors files: tensors, and for checkpoints of posneg also step counts, rules, options and metadata. "
        "The exit status is 0 if they are equal, 1 if they differ or a checkpoint's header is damaged, 2 if one cannot be read.",
    )
    diff.add_argument("files", nargs=2, metavar="FILE")
    diff.add_argument("--all", action="store_true", help="describe all tensors, and not only the first that differ")
    hashes = commands.add_parser(
        "fingerprint", help="print the fingerprints of safetensors files",
        description="Prints the fingerprint of each file's tensors and, for checkpoints of posneg, step counts. The exit status is 1 if a "
        "file records another fingerprint, and 2 if one cannot be read.",
    )
    hashes.add_argument("files", nargs="+", metavar="FILE")
    options = parser.parse_args(arguments)
    if options.command == "diff":
        return _diff.run(_diff.diff, options.files, options.all)
    if options.command == "fingerprint":
        return _diff.run(_diff.fingerprints, options.files)
    if options.mebi is not None and not 1 <= options.mebi <= 1 << 14:
        parser.error(f"--mebi is {options.mebi}, must be from 1 to {1 << 14}")
    free = _bench.free_memory()
    if options.bench and options.mebi and free and _bench.EACH * options.mebi << 20 > free:
        parser.error(f"--mebi {options.mebi} takes {_bench.EACH * options.mebi} MiB of memory, but only {free >> 20} MiB are free")
    if not 0 <= options.seconds <= 3600:
        parser.error(f"--seconds is {options.seconds:g}, must be from 0 to 3600")
    for name in ("csv", "mebi", "seconds", "machine"):
        if not options.bench and getattr(options, name) != parser.get_default(name):
            parser.error(f"--{name} needs --bench")

    if options.csv:
        try:
            check_writable(options.csv)  # before the work and not after it
        except OSError as e:
            parser.error(f"--csv {options.csv}: {e.strerror}")

    if not about():
        return 1
    if not options.bench:
        return 0
    print()
    elements = (options.mebi or _bench.fitting(free)) << 20
    cache, least = _bench.largest_cache(), 10 * elements
    if cache and least < cache:
        print(f"The smallest step touches {least >> 20} MiB, but the largest cache has {cache >> 20} MiB: some data will be in caches.")
    results = _bench.measure(elements, options.seconds, options.machine or _bench.machine(), sys.stderr)
    _bench.report(results, sys.stdout)
    if options.csv:
        _bench.write(options.csv, results)
    return 0


if __name__ == "__main__":
    try:
        status = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:  # whoever has read the output wants no more, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)
