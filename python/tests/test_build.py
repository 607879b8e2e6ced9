"""The build of the package, but for what .ci/run builds: an sdist, and the same wheel from it and from the checkout."""

import importlib.util
import platform
import sys
from pathlib import Path

import pytest

HOOK = Path(__file__).parents[1] / "hatch_build.py"


@pytest.fixture
def hook():
    pytest.importorskip("hatchling")
    spec = importlib.util.spec_from_file_location("hatch_build", HOOK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "system, libc, named", [("darwin", "", "darwin"), ("win32", "", "win32"), ("linux", "", "musl"), ("linux", "musl", "musl")]
)
@pytest.mark.parametrize("version", ["standard", "editable"])
def test_other_systems_are_refused(hook, monkeypatch, tmp_path, system, libc, named, version):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "libc_ver", lambda: (libc, ""))
    builder = hook.EngineHook(str(tmp_path), {}, None, None, str(tmp_path), "wheel")
    with pytest.raises(SystemExit, match=f"Linux with glibc; this is .*{named}"):
        builder.initialize(version, {"force_include": {}})
