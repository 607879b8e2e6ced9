"""Puts the engine into what is built: its Go sources into an sdist, the library made of them into a wheel."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = "go"  # where an sdist has the module's root
LIBRARY = "libpnm.so"


class EngineHook(BuildHookInterface):
    def initialize(self, version, build_data):
        if self.target_name == "sdist":
            root = module_root(Path(self.root))
            build_data["force_include"].update({str(root / f): f"{SOURCES}/{f}" for f in sources(root)})
            return
        refuse_other_systems()
        if version != "editable":
            self.folder = tempfile.TemporaryDirectory()
            library, root = Path(self.folder.name, LIBRARY), module_root(Path(self.root))
            build(root, library)
            build_data["force_include"].update({str(library): f"posneg/{library.name}", str(root / "LICENSE"): "posneg/LICENSE"})
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform_tag()}"
        else:  # the package stays in the checkout, and the library goes there
            build(module_root(Path(self.root)), Path(self.root, "src", "posneg", LIBRARY))

    def finalize(self, version, build_data, artifact_path):
        if hasattr(self, "folder"):
            self.folder.cleanup()


def module_root(project):
    """Where go.mod is: in an sdist, or above the project in a checkout of the repository."""
    for root in (project / SOURCES, project.parent):
        if (root / "go.mod").is_file() and (root / "capi").is_dir():
            return root
    raise SystemExit(f"posneg: the engine's Go sources are neither in {project / SOURCES} nor in {project.parent}: build in a checkout of the repository, or from an sdist")


def package_version():
    """That of capi/pnm.h, from which every other part of a release has it, too."""
    header = (module_root(Path(__file__).parent) / "capi" / "pnm.h").read_text()
    return ".".join(re.search(rf"^#define PNM_VERSION_{part} (\d+)$", header, re.M)[1] for part in ("MAJOR", "MINOR", "PATCH"))


def refuse_other_systems():
    system, libc = sys.platform, platform.libc_ver()[0]
    if system != "linux" or libc != "glibc":
        found = system if system != "linux" else f"linux with {libc or 'another C library, such as musl'}"
        raise SystemExit(f"posneg: the engine's library is for Linux with glibc; this is {found}")


def sources(root):
    """What the library is built of on any kind of Linux machine, relative to the module's root."""
    files = {"go.mod", "go.sum", "LICENSE"}
    machines = [line.split("/")[1] for line in go(root, "tool", "dist", "list").split() if line.startswith("linux/")]
    for machine in machines:
        packages, decoder = go(root, "list", "-deps", "-json", "./capi", GOOS="linux", GOARCH=machine), json.JSONDecoder()
        while packages:
            package, end = decoder.raw_decode(packages)
            packages = packages[end:].lstrip()
            if package.get("Module", {}).get("Main"):
                folder = Path(package["Dir"]).relative_to(root)
                lists = [names for key, names in package.items() if key.endswith("Files") and "Test" not in key]
                files.update((folder / name).as_posix() for names in lists for name in names)
    return sorted(f for f in files if not f.endswith("_test.go"))


def build(root, library):
    go(root, "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-buildmode=c-shared", "-o", str(library), "./capi")
    library.with_suffix(".h").unlink(missing_ok=True)  # which go build writes beside it


def go(root, *arguments, **environment):
    """Runs the go command in the module's root and returns its output."""
    command = shutil.which(os.environ.get("GO", "go"))
    if command is None:
        raise SystemExit("posneg: the Go toolchain, which builds the engine, is not on the PATH: install Go (https://go.dev/dl) and a C compiler, or set GO to the go command")
    environment = {**os.environ, "CGO_ENABLED": "1", "GOWORK": "off", **environment}
    run = subprocess.run([command, *arguments], cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if run.returncode:
        raise SystemExit(f"posneg: {command} {' '.join(arguments)} failed in {root}. It needs Go {go_version(root)} or newer, and a C compiler.\n{run.stderr}")
    return run.stdout


def go_version(root):
    return next((line.split()[1] for line in (root / "go.mod").read_text().splitlines() if line.startswith("go ")), "1.26")


def platform_tag():
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")
