"""Puts the engine into what is built: its Go sources into an sdist, the library made of them into a wheel."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = "go"  # where an sdist has the module's root


class EngineHook(BuildHookInterface):
    def initialize(self, version, build_data):
        if self.target_name == "sdist":
            root = module_root(Path(self.root))
            build_data["force_include"].update({str(root / f): f"{SOURCES}/{f}" for f in sources(root)})
        elif version != "editable":
            self.folder = tempfile.TemporaryDirectory()
            library, root = Path(self.folder.name, file_name()), module_root(Path(self.root))
            build(root, library)
            build_data["force_include"].update({str(library): f"posneg/{library.name}", str(root / "LICENSE"): "posneg/LICENSE"})
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform_tag()}"
        else:  # the package stays in the checkout, and the library goes there
            build(module_root(Path(self.root)), Path(self.root, "src", "posneg", file_name()))

    def finalize(self, version, build_data, artifact_path):
        if hasattr(self, "folder"):
            self.folder.cleanup()


def module_root(project):
    """Where go.mod is: in an sdist, or above the project in a checkout of the repository."""
    for root in (project / SOURCES, project.parent):
        if (root / "go.mod").is_file() and (root / "capi").is_dir():
            return root
    raise SystemExit(f"posneg: the engine's Go sources are neither in {project / SOURCES} nor in {project.parent}: build in a checkout of the repository, or from an sdist")


def sources(root):
    """What the library is built of, relative to the module's root."""
    patterns = ("go.mod", "go.sum", "LICENSE", "*.go", "*.s", "capi/*.go", "capi/*.c", "capi/*.h")
    files = {f.relative_to(root).as_posix() for pattern in patterns for f in root.glob(pattern)}
    return sorted(f for f in files if not f.endswith("_test.go"))


def build(root, library):
    go = shutil.which(os.environ.get("GO", "go"))
    if go is None:
        raise SystemExit("posneg: the Go toolchain, which builds the engine, is not on the PATH: install Go (https://go.dev/dl) and a C compiler, or set GO to the go command")
    command = [go, "build", "-trimpath", "-ldflags=-s -w", "-buildmode=c-shared", "-o", str(library), "./capi"]
    run = subprocess.run(command, cwd=root, env={**os.environ, "CGO_ENABLED": "1"}, stderr=subprocess.PIPE, text=True)
    if run.returncode:
        raise SystemExit(f"posneg: {' '.join(command)} failed in {root}. It needs Go {go_version(root)} or newer, and a C compiler.\n{run.stderr}")
    library.with_suffix(".h").unlink(missing_ok=True)  # which go build writes beside it


def go_version(root):
    return next((line.split()[1] for line in (root / "go.mod").read_text().splitlines() if line.startswith("go ")), "1.26")


def file_name():
    return "libpnm" + {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")


def platform_tag():
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")
