"""Files that are written as a whole or not at all, like internal/atomicfile in Go. Each of the two removes the other's leftovers."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import sys
import time
import zlib
from typing import BinaryIO, Iterator, Optional, Tuple

try:
    import fcntl
except ImportError:  # Windows, where what another process has open cannot be removed
    fcntl = None  # type: ignore[assignment]

# The errors of a system that cannot do something or does not allow it, as opposed to one that tries and fails.
_REFUSED = (errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextlib.contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
    """Yields a file to write to, and renames it to path once it is on disk.

    If anything fails before that, path is unchanged, and the new file is removed. If path is a symbolic link, its target is replaced. The
    new file gets the old one's permissions, owner and access list, as far as the system allows.
    """
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    old = _status(target)
    _remove_leftovers(target)
    file, temporary = _create(target, 0o666 if old is None else stat.S_IMODE(old.st_mode) & 0o777)
    try:
        with file:
            if old is not None:
                _hand_on(target, old, file.fileno())
            yield file
            file.flush()
            with _unless_refused():
                _sync(file.fileno())
            if os.name == "posix":
                _replace(temporary, target)  # while it is still locked
        if os.name != "posix":
            _replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    if os.name == "posix":  # elsewhere folders cannot be opened
        with _unless_refused():
            _sync_folder(folder)


def _replace(temporary: str, target: str) -> None:
    try:
        os.replace(temporary, target)
    except OSError as e:
        if e.errno != errno.EBUSY:
            raise
        problem = "it is a mount point, which cannot be replaced: mount the folder that it is in instead"
        raise OSError(errno.EBUSY, problem, target) from e


def _status(file: str) -> Optional[os.stat_result]:
    """The status of an existing file, or None."""
    try:
        found = os.stat(file)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise OSError(f"posneg: {file} exists and is not a regular file, so it cannot be replaced")
    return found


def _names(target: str) -> Tuple[str, str, str]:
    """The folder of a file, and the beginning and end of its temporary names, which do not depend on the name's length."""
    folder, name = os.path.split(target)
    return folder, f".pnm-{zlib.crc32(os.fsencode(name)):08x}-", ".tmp"


def _create(target: str, mode: int) -> Tuple[BinaryIO, str]:
    """Creates a file with a new name, and locks it while it is open, so that no process takes it for a leftover."""
    folder, begin, end = _names(target)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    while True:
        temporary = os.path.join(folder, f"{begin}{secrets.token_hex(8)}{end}")
        try:
            descriptor = os.open(temporary, flags, mode)
        except FileExistsError:
            continue
        except OSError as e:
            e.filename = target  # the name that the caller knows
            raise
        if _lock(descriptor) is not False and (os.name != "posix" or os.fstat(descriptor).st_nlink):
            return os.fdopen(descriptor, "wb", buffering=1 << 18), temporary
        os.close(descriptor)  # another process has just taken it for a leftover


def _lock(descriptor: int) -> Optional[bool]:
    """Whether the file is now locked; None if the system has no locks for it."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _remove_leftovers(target: str) -> None:
    """Removes files of processes that were killed while they wrote: those that no process has locked."""
    folder, begin, end = _names(target)
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if name.startswith(begin) and name.endswith(end):
                with contextlib.suppress(OSError):
                    _remove_leftover(os.path.join(folder, name))


def _remove_leftover(file: str) -> None:
    if fcntl is None:
        if time.time() - os.stat(file).st_mtime > 60:  # its writer closes it before renaming it
            os.unlink(file)
        return
    flags = os.O_NONBLOCK | os.O_NOFOLLOW
    try:
        descriptor = os.open(file, os.O_RDWR | flags)  # some network file systems lock only files open for writing
    except PermissionError:
        descriptor = os.open(file, os.O_RDONLY | flags)
    try:
        if _lock(descriptor):
            os.unlink(file)
    finally:
        os.close(descriptor)


_ACL = "system.posix_acl_access"


def _hand_on(target: str, old: os.stat_result, descriptor: int) -> None:
    """Gives the new file the old one's owner, access list and permissions, as far as the system allows."""
    if os.name != "posix":
        return
    new, mode = os.fstat(descriptor), stat.S_IMODE(old.st_mode) & 0o777
    for owner, group in ((old.st_uid, old.st_gid), (-1, old.st_gid)):
        if (new.st_uid, new.st_gid) == (old.st_uid, old.st_gid):
            break
        with _unless_refused():
            os.fchown(descriptor, owner, group)
            break
    acl = sys.platform != "linux" or _hand_on_acl(target, descriptor)
    if not acl or os.fstat(descriptor).st_gid != old.st_gid:
        mode &= ~0o070  # with a list, these bits are not the group's permissions; or the group has changed
    if stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
        with _unless_refused():
            os.fchmod(descriptor, mode)


def _hand_on_acl(target: str, descriptor: int) -> bool:
    """Whether the new file has the old one's access list, or none if that has none."""
    try:
        acl = os.getxattr(target, _ACL)
    except OSError:
        with contextlib.suppress(OSError):
            os.removexattr(descriptor, _ACL)  # the folder's default for new files
        return True
    try:
        os.setxattr(descriptor, _ACL, acl)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _unless_refused() -> Iterator[None]:
    """Ignores the error of a system that cannot do something or does not allow it."""
    try:
        yield
    except OSError as e:
        if e.errno not in _REFUSED:
            raise


def _sync(descriptor: int) -> None:
    """Puts a file or a folder on the disk, and not only into the disk's cache, as fsync does on macOS."""
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if fcntl is not None and full is not None:
        with _unless_refused():
            fcntl.fcntl(descriptor, full)
            return
    os.fsync(descriptor)


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)
