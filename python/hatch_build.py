"""Puts the engine into what is built: its Go sources into an sdist, the library made of them into a wheel; and says the version.

release/wheels builds the library itself, also for other systems. It sets POSNEG_WHEEL_LIBRARY to the file, which has NOTICES, the
licences of others' parts, beside it, and POSNEG_WHEEL_PLATFORM to the wheel's platform, such as macosx_12_0_arm64.
"""

import json
import os
import posixpath
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

SOURCES = "go"  # where an sdist has the module's root
HERE = Path(__file__).parent
SYSTEM = runpy.run_path(str(HERE / "src" / "posneg" / "_system.py"))
LIBRARY = SYSTEM["library_name"]()
PLATFORM = re.compile(r"(?:manylinux_\d+_\d+|manylinux2014|(macosx)_\d+_\d+|(win))_(x86_64|aarch64|arm64|amd64)")


class EngineHook(BuildHookInterface):
    def initialize(self, version, build_data):
        if self.target_name == "sdist":
            root = module_root(Path(self.root))
            build_data["force_include"].update({str(root / f): f"{SOURCES}/{f}" for f in sources(root)})
            return
        ready = ready_library()
        if ready and version == "editable":
            raise SystemExit("posneg: an editable install builds the library: unset POSNEG_WHEEL_LIBRARY")
        if not ready:
            refuse_other_systems()
        if version == "editable":  # the package stays in the checkout, and the library goes there
            build(module_root(Path(self.root)), Path(self.root, "src", "posneg", LIBRARY))
            return
        if ready:
            library, name, tag = ready
            build_data["force_include"][str(library.with_name("NOTICES"))] = "posneg/NOTICES"
        else:
            self.folder = tempfile.TemporaryDirectory()
            library, name, tag = Path(self.folder.name, LIBRARY), LIBRARY, platform_tag()
            build(module_root(Path(self.root)), library)
        build_data["force_include"][str(library)] = f"posneg/{name}"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{tag}"

    def finalize(self, version, build_data, artifact_path):
        if hasattr(self, "folder"):
            self.folder.cleanup()


class ReadmeHook(MetadataHookInterface):
    def update(self, metadata):
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": with_whole_links(text, package_version())}


RELATIVE = re.compile(r"""(\]\(|\b(?:src|srcset|href)="|^\[[^\]]+\]: *)(?![a-z]+:|\#)([^)\s"\#]+)""")


def with_whole_links(text, version):
    """The text with links to the repository's files as of a version: an index shows it far from them."""

    def whole(link):
        file = posixpath.normpath(f"python/{link[2]}")
        root = "https://raw.githubusercontent.com/posneg/pnm" if file.endswith((".svg", ".png")) else "https://github.com/posneg/pnm/blob"
        return f"{link[1]}{root}/v{version}/{file}"

    parts = re.split(r"^(```.*?^```)", text, flags=re.M | re.S)  # every other one is code
    parts[::2] = ("".join(RELATIVE.sub(whole, line) for line in part.splitlines(keepends=True)) for part in parts[::2])
    return "".join(parts)


def module_root(project):
    """Where go.mod is: in an sdist, or above the project in a checkout of the repository."""
    for root in (project / SOURCES, project.parent):
        if (root / "go.mod").is_file() and (root / "capi").is_dir():
            return root
    raise SystemExit(f"posneg: the engine's Go sources are neither in {project / SOURCES} nor in {project.parent}: build in a checkout of the repository, or from an sdist")


def package_version():
    """That of capi/pnm.h, from which every other part of a release has it, too."""
    header = (module_root(HERE) / "capi" / "pnm.h").read_text(encoding="utf-8")
    return ".".join(re.search(rf"^#define PNM_VERSION_{part} (\d+)$", header, re.M)[1] for part in ("MAJOR", "MINOR", "PATCH"))


def refuse_other_systems():
    reason = SYSTEM["refusal"]()
    if reason:
        raise SystemExit(f"posneg: {reason}")


def ready_library():
    """The library that the environment names, the file's name in a wheel, and the wheel's platform; None if it names none."""
    library, platform = (os.environ.get(f"POSNEG_WHEEL_{name}") for name in ("LIBRARY", "PLATFORM"))
    if not library and not platform:
        return None
    if not library or not platform:
        raise SystemExit(f"posneg: POSNEG_WHEEL_LIBRARY is {library!r} and POSNEG_WHEEL_PLATFORM {platform!r}: set both, or neither")
    library = Path(library).absolute()
    for file in (library, library.with_name("NOTICES")):
        if not file.is_file():
            raise SystemExit(f"posneg: POSNEG_WHEEL_LIBRARY is {library}, and there is no file {file}")
    built_for = SYSTEM["built_for"](library)
    for part in platform.split("."):
        system = PLATFORM.fullmatch(part)
        if not system:
            raise SystemExit(f"posneg: POSNEG_WHEEL_PLATFORM is {platform!r}, must be platforms of wheels, such as manylinux_2_17_x86_64")
        name = "darwin" if system[1] else "win32" if system[2] else "linux"
        if built_for != SYSTEM["named"](name, system[3]):
            raise SystemExit(f"posneg: POSNEG_WHEEL_PLATFORM is {platform!r}, but {library} is for {built_for or 'no known system'}")
    return library, SYSTEM["library_name"](name), platform


def sources(root):
    """What the library is built of on any system that it is for, relative to the module's root."""
    files = {"go.mod", "go.sum"}
    for system, machine in (line.split("/") for line in go(root, "tool", "dist", "list").split()):
        if system not in ("linux", "darwin", "windows"):
            continue
        packages, decoder = go(root, "list", "-deps", "-json", "./capi", GOOS=system, GOARCH=machine), json.JSONDecoder()
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
