"""pack.py FOLDER FILE packs a folder into FILE, a .tar.gz or a .zip, with the same bytes on every machine and at any time."""

import gzip
import os
import sys
import tarfile
import time
import zipfile
from pathlib import Path

folder, file = Path(sys.argv[1]), sys.argv[2]
date = int(os.environ["SOURCE_DATE_EPOCH"])
paths = sorted(p for p in folder.rglob("*") if p.is_symlink() or p.is_file())


def permissions(mode):
    return 0o755 if mode & 0o100 else 0o644


def common(member):
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = date
    member.mode = permissions(member.mode)
    return member


if file.endswith(".zip"):
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as z:
        for p in paths:
            member = zipfile.ZipInfo(p.relative_to(folder.parent).as_posix(), time.gmtime(date)[:6])
            member.external_attr = permissions(p.stat().st_mode) << 16
            z.writestr(member, p.read_bytes(), zipfile.ZIP_DEFLATED, 9)
else:
    with open(file, "wb") as out, gzip.GzipFile("", "wb", 9, out, date) as z, tarfile.open(fileobj=z, mode="w", format=tarfile.USTAR_FORMAT) as t:
        for p in paths:
            t.add(p, p.relative_to(folder.parent).as_posix(), filter=common)
