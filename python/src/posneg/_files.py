"""Files that are written whole, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from typing import Iterator, Optional


@contextlib.contextmanager
def replacing(path: str) -> Iterator[str]:
    """Gives the name of an empty file to write to, or to replace, and puts it in path's place when it is on the disk.

    If anything fails before that, path is as it was, and the other file is gone. Of a symbolic link the target is replaced.
    """
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    mode = _mode(target)
    scratch = tempfile.mkdtemp(prefix=".pnm-", suffix=".tmp", dir=folder)  # safetensors puts a file of its own beside the one it writes
    temporary = os.path.join(scratch, "file")
    try:
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        if mode is None:
            mode = stat.S_IMODE(os.fstat(descriptor).st_mode)  # what the umask leaves
        os.close(descriptor)
        yield temporary
        _sync(temporary, os.O_RDWR)  # before it may be closed to its owner
        os.chmod(temporary, mode)
        os.replace(temporary, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if os.name == "posix":  # elsewhere folders cannot be opened
        try:
            _sync(folder, os.O_RDONLY)
        except OSError as e:  # some network file systems cannot, and some folders may be written to and not read
            if e.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EACCES):
                raise


def _mode(file: str) -> Optional[int]:
    """The permissions of the file that is there, if one is."""
    try:
        found = os.stat(file).st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found):
        raise OSError(f"posneg: {file} is there and is not a file that can be replaced")
    return stat.S_IMODE(found)


def _sync(path: str, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
