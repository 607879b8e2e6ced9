"""The build of the package, but for what .ci/run builds: an sdist, and the same wheel from it and from the checkout."""

import importlib.util
import os
import re
import sys
from pathlib import Path

import pytest

from posneg import _library, _system

PROJECT = Path(__file__).resolve().parents[1]
HOOK = PROJECT / "hatch_build.py"
HEADS = {  # of libraries' files
    "Linux on x86_64": b"\x7fELF\2\1" + bytes(12) + b"\x3e\0",
    "Linux on arm64": b"\x7fELF\2\1" + bytes(12) + b"\xb7\0",
    "Linux on s390x": b"\x7fELF\2\2" + bytes(12) + b"\0\x16",
    "macOS on arm64": b"\xcf\xfa\xed\xfe\x0c\0\0\1",
    "macOS on x86_64": b"\xcf\xfa\xed\xfe\x07\0\0\1",
    "Windows on x86_64": b"MZ" + bytes(58) + b"\x80\0\0\0" + bytes(64) + b"PE\0\0\x64\x86",
}


@pytest.fixture
def hook():
    pytest.importorskip("hatchling")
    spec = importlib.util.spec_from_file_location("hatch_build", HOOK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def initialize(hook, version, folder):
    builder, data = hook.EngineHook(str(folder), {}, None, None, str(folder), "wheel"), {"force_include": {}}
    builder.initialize(version, data)
    return data


@pytest.mark.parametrize("version", ["standard", "editable"])
def test_other_systems_are_refused(hook, monkeypatch, tmp_path, version):
    monkeypatch.setitem(hook.SYSTEM, "refusal", lambda: "this is another one")
    with pytest.raises(SystemExit, match="posneg: this is another one"):
        initialize(hook, version, tmp_path)


@pytest.mark.parametrize(
    "platform, file",
    [
        ("manylinux_2_17_x86_64.manylinux2014_x86_64", "libpnm.so"),
        ("manylinux_2_17_aarch64.manylinux2014_aarch64", "libpnm.so"),
        ("macosx_12_0_arm64", "libpnm.dylib"),
        ("macosx_12_0_x86_64", "libpnm.dylib"),
        ("win_amd64", "libpnm.dll"),
    ],
)
def test_ready_libraries(hook, monkeypatch, tmp_path, platform, file):
    library, notices = tmp_path / "any.name", tmp_path / "NOTICES"
    notices.write_text("")
    monkeypatch.setitem(hook.SYSTEM, "refusal", lambda: "the system of a ready library does not matter")
    monkeypatch.setenv("POSNEG_WHEEL_LIBRARY", str(library))
    monkeypatch.setenv("POSNEG_WHEEL_PLATFORM", platform)
    taken = []
    for system, head in HEADS.items():
        library.write_bytes(head)
        try:
            data = initialize(hook, "standard", tmp_path)
        except SystemExit as e:
            assert re.search(f"POSNEG_WHEEL_PLATFORM is '{platform}', but .*any.name is for {system}", str(e))
            continue
        taken.append(system)
        assert data["tag"] == f"py3-none-{platform}" and data["pure_python"] is False
        assert data["force_include"] == {str(library): f"posneg/{file}", str(notices): "posneg/NOTICES"}
    assert len(taken) == 1


@pytest.mark.parametrize(
    "library, platform, message",
    [
        ("libpnm.so", None, "set both, or neither"),
        (None, "win_amd64", "set both, or neither"),
        ("gone.so", "win_amd64", "there is no file .*gone.so"),
        ("alone/libpnm.so", "win_amd64", "there is no file .*NOTICES"),
        ("libpnm.so", "win_amd64", "is for no known system"),
        ("libpnm.so", "linux_x86_64", "must be platforms of wheels"),
        ("libpnm.so", "win_amd64.any", "must be platforms of wheels|is for no known system"),
    ],
)
def test_unready_libraries(hook, monkeypatch, tmp_path, library, platform, message):
    (tmp_path / "alone").mkdir()
    for file in ("NOTICES", "libpnm.so", "alone/libpnm.so"):
        (tmp_path / file).write_text("text")
    for name, value in (("LIBRARY", library and str(tmp_path / library)), ("PLATFORM", platform)):
        if value:
            monkeypatch.setenv(f"POSNEG_WHEEL_{name}", value)
    with pytest.raises(SystemExit, match=message):
        initialize(hook, "standard", tmp_path)


def test_links_of_the_first_page(hook):
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    whole = hook.with_whole_links(text, "1.2.3")
    ours = re.findall(r"https://(?:raw.githubusercontent.com/posneg/pnm|github.com/posneg/pnm/blob)/v1.2.3/([^)\s\"#]+)", whole)
    assert len(ours) > 3 and [f for f in ours if not (PROJECT.parent / f).exists()] == []
    links = re.findall(r'(?:\]\(|\b(?:src|srcset|href)="|^\[[^\]]+\]: )([^)\s"]+)', re.sub(r"(?ms)^```.*?^```", "", whole))
    assert [link for link in links if not re.match("https?:|#", link)] == []


def test_whole_links(hook):
    text = "[![a](../b.svg)](tests) [c](#d) [e](../f.md#g)\n```python\nx[0](y)\n```\n<img src=\"h.png\"> [i](https://j)\n[k]: l.md\n"
    raw, page = "https://raw.githubusercontent.com/posneg/pnm/v9", "https://github.com/posneg/pnm/blob/v9"
    assert hook.with_whole_links(text, "9") == (
        f"[![a]({raw}/b.svg)]({page}/python/tests) [c](#d) [e]({page}/f.md#g)\n```python\nx[0](y)\n```\n"
        f'<img src="{raw}/python/h.png"> [i](https://j)\n[k]: {page}/python/l.md\n'
    )


def test_licence():
    assert (PROJECT / "LICENSE").read_bytes() == (PROJECT.parent / "LICENSE").read_bytes()


@pytest.mark.parametrize("system", HEADS)
def test_what_a_library_is_for(tmp_path, system):
    file = tmp_path / "library"
    file.write_bytes(HEADS[system] + bytes(100))
    assert _system.built_for(file) == system
    for size in range(20):
        file.write_bytes(HEADS[system][:size])
        assert _system.built_for(file) in (None, system)


def test_this_system_is_not_refused():
    assert _system.refusal() is None and _system.built_for(_library.path()) == _system.here()


@pytest.mark.parametrize(
    "where, name, value, message",
    [
        (sys, "platform", "freebsd14", "for Linux, macOS and Windows, and this system is freebsd14"),
        (sys, "maxsize", (1 << 31) - 1, "64 bits, and this Python has 32"),
        (os, "confstr", lambda name: "", "needs glibc, .* musl"),
        (os, "confstr", lambda name: None, "needs glibc, .* musl"),
        (os, "confstr", int, "needs glibc, .* musl"),
    ],
)
def test_refusals(monkeypatch, where, name, value, message):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(where, name, value, raising=False)
    assert re.search(message, _system.refusal())
