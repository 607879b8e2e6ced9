"""Files that are replaced as a whole, whatever the system refuses; internal/atomicfile has the same tests for Go."""

import errno
import os
import signal
import stat
import struct
import subprocess
import sys
import time

import pytest

from posneg import _files
from posneg._files import replacing

pytestmark = pytest.mark.skipif(os.name != "posix", reason="there are no such calls")


def write(file, text):
    with replacing(str(file)) as out:
        out.write(text)


def mode(file):
    return stat.S_IMODE(file.stat().st_mode)


HALF = """
import sys, time
from posneg._files import replacing
with replacing(sys.argv[1]) as out:
    out.write(b"half")
    out.flush()
    print("written", flush=True)
    time.sleep(3600)
"""


def half_written(file):
    process = subprocess.Popen([sys.executable, "-c", HALF, file], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "written\n"
    return process


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


def test_what_killed_processes_leave(tmp_path):
    """The next one removes it, but nothing of who is still writing, and nothing of other files."""
    file = tmp_path / "run"
    write(file, b"old")
    live, other = half_written(file), half_written(tmp_path / "other")
    kill(half_written(file))
    kill(other)

    def left():
        return sorted(f.name[:14] for f in tmp_path.iterdir() if f.name != "run")

    run, others = ".pnm-5076a4c0-", ".pnm-d9583520-"  # as Go calls them
    assert left() == [run, run, others] and file.read_bytes() == b"old"
    write(file, b"new")
    assert left() == [run, others]
    kill(live)
    write(file, b"newer")
    write(tmp_path / "other", b"")
    assert sorted(os.listdir(tmp_path)) == ["other", "run"] and file.read_bytes() == b"newer"


def test_leftovers_without_locks(tmp_path, monkeypatch):
    """As on Windows: what was written to just now may be about to be renamed."""
    monkeypatch.setattr(_files, "fcntl", None)
    new, old = tmp_path / ".pnm-5076a4c0-0.tmp", tmp_path / ".pnm-5076a4c0-1.tmp"
    new.touch()
    old.touch()
    os.utime(old, (time.time() - 61,) * 2)
    write(tmp_path / "run", b"text")
    assert sorted(os.listdir(tmp_path)) == [new.name, "run"]


@pytest.mark.parametrize("code", [errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL])
def test_what_the_system_refuses(tmp_path, monkeypatch, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    file = tmp_path / "run"
    for call in ("fchmod", "fchown", "fsync"):
        monkeypatch.setattr(os, call, refuse)
    for call in ("flock", "fcntl"):
        monkeypatch.setattr(_files.fcntl, call, refuse)
    monkeypatch.setattr(_files.fcntl, "F_FULLFSYNC", 51, raising=False)  # as on macOS
    write(file, b"")
    for bits in (0o644, 0o666, 0o600):
        file.chmod(bits)
        write(file, b"%o" % bits)
        assert mode(file) & ~bits == 0 and file.read_bytes() == b"%o" % bits
    assert os.listdir(tmp_path) == ["run"]


@pytest.mark.parametrize(
    "call, code", [("fsync", errno.EIO), ("fcntl", errno.EIO), ("replace", errno.EBUSY), ("replace", errno.EACCES)]
)
def test_what_fails(tmp_path, monkeypatch, call, code):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    file = tmp_path / "run"
    write(file, b"old")
    if call == "fcntl":  # by which macOS is asked
        monkeypatch.setattr(_files.fcntl, "F_FULLFSYNC", 51, raising=False)
    else:
        monkeypatch.delattr(_files.fcntl, "F_FULLFSYNC", raising=False)
    monkeypatch.setattr(_files.fcntl if call == "fcntl" else os, call, fail)
    with pytest.raises(OSError, match="mount point" if code == errno.EBUSY else None) as caught:
        write(file, b"new")
    assert caught.value.errno == code
    assert os.listdir(tmp_path) == ["run"] and file.read_bytes() == b"old"


def test_a_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        write(tmp_path / "missing" / "run", b"new")
    assert caught.value.filename == str(tmp_path / "missing" / "run")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may")
def test_owners(tmp_path, monkeypatch):
    file, chown = tmp_path / "run", os.fchown
    file.write_bytes(b"")
    os.chown(file, 12345, 23456)
    file.chmod(0o664)

    def status():
        s = file.stat()
        return s.st_uid, s.st_gid, stat.S_IMODE(s.st_mode)

    def not_the_owner(descriptor, owner, group):
        if owner >= 0:
            raise PermissionError(errno.EPERM, "")
        chown(descriptor, owner, group)

    def nothing(*_):
        raise PermissionError(errno.EPERM, "")

    write(file, b"1")
    assert status() == (12345, 23456, 0o664)
    monkeypatch.setattr(os, "fchown", not_the_owner)
    write(file, b"2")
    assert status() == (os.getuid(), 23456, 0o664)
    monkeypatch.setattr(os, "fchown", nothing)
    write(file, b"3")
    assert status() == (os.getuid(), os.getgid(), 0o604)  # not to another group


def test_access_lists(tmp_path):
    entries = ((1, 6, -1), (2, 6, 12345), (4, 0, -1), (16, 6, -1), (32, 0, -1))  # owner, user 12345, group, most, others
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    file = tmp_path / "run"
    write(file, b"1")
    try:
        os.setxattr(file, _files._ACL, acl)
    except (OSError, AttributeError) as e:
        pytest.skip(str(e))
    write(file, b"2")
    assert os.getxattr(file, _files._ACL) == acl and mode(file) == 0o660
    os.removexattr(file, _files._ACL)
    file.chmod(0o640)
    os.setxattr(tmp_path, "system.posix_acl_default", acl)
    write(file, b"3")
    with pytest.raises(OSError):
        os.getxattr(file, _files._ACL)
    assert mode(file) == 0o640
