"""What the engine's library runs on, and what a library was built for. hatch_build.py, which cannot import posneg, runs this file."""

from __future__ import annotations

import os
import sys
import sysconfig
from typing import Optional

_SYSTEMS = {"linux": "Linux", "darwin": "macOS", "win32": "Windows"}
_EXTENSIONS = {"darwin": ".dylib", "win32": ".dll"}
_MACHINES = {"amd64": "x86_64", "aarch64": "arm64"}
_ELF = {62: "x86_64", 183: "arm64", 243: "riscv64", 22: "s390x", 21: "ppc64le", 258: "loongarch64"}
_MACH_O = {0x01000007: "x86_64", 0x0100000C: "arm64"}
_PE = {0x8664: "x86_64", 0xAA64: "arm64"}


def library_name(system: str = sys.platform) -> str:
    """What the library's file is called on a system."""
    return "libpnm" + _EXTENSIONS.get(system, ".so")


def named(system: str, machine: str) -> str:
    """What messages call a system, of sys.platform's name, with a processor of any of its names."""
    return f"{_SYSTEMS.get(system, system)} on {_MACHINES.get(machine.lower(), machine.lower())}"


def here() -> str:
    """The system that this Python was built for."""
    # Not by platform.machine(), which may start programs on Windows.
    machine = os.uname().machine if hasattr(os, "uname") else sysconfig.get_platform().rpartition("-")[2]
    return named(sys.platform, machine)


def refusal() -> Optional[str]:
    """Why no library of the engine works in this process, as far as that is known before it is loaded."""
    if sys.platform not in _SYSTEMS:
        return f"the engine's library is for Linux, macOS and Windows, and this system is {sys.platform}"
    if sys.maxsize < 1 << 32:
        return "the engine's library is for 64 bits, and this Python has 32"
    if sys.platform == "linux" and not _has_glibc():
        return (
            "the engine's library needs glibc, and this Linux has another C library, such as musl, which cannot load "
            "libraries written in Go (golang.org/issue/54805): use a distribution with glibc, such as Debian"
        )
    return None


def _has_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (OSError, ValueError):  # a name that is not known there
        return False


def built_for(file: "str | os.PathLike[str]") -> Optional[str]:
    """The system that a library is for, as named() has it; None if the file is no library of any that are known here."""
    with open(file, "rb") as opened:
        head = opened.read(4096)

    def number(at: int, size: int) -> int:
        return int.from_bytes(head[at : at + size], "big" if head[:6] == b"\x7fELF\2\2" else "little")

    if head[:5] == b"\x7fELF\2":
        system, machine = "linux", _ELF.get(number(18, 2))
    elif head[:4] == b"\xcf\xfa\xed\xfe":
        system, machine = "darwin", _MACH_O.get(number(4, 4))
    elif head[:2] == b"MZ" and head[number(0x3C, 4) :][:4] == b"PE\0\0":
        system, machine = "win32", _PE.get(number(number(0x3C, 4) + 4, 2))
    else:
        return None
    return named(system, machine) if machine else None
