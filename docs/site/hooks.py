"""What MkDocs must know of this repository.

The site has the repository's folders, so that links between pages are right in both. Its pages are the Markdown files; links to other
files lead to GitHub. MkDocs checks links and anchors in Markdown; this checks those that the pages end with, whatever they came from.
"""

import html
import logging
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from posixpath import normpath
from urllib.parse import unquote, urlsplit

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
SOURCE = "https://github.com/posneg/pnm"
PACKAGES = "https://pkg.go.dev/github.com/posneg/pnm"
log = logging.getLogger("mkdocs.hooks.site")  # in strict mode a warning fails the build


def _repository():
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    files = {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}
    return files, {str(folder) for name in files for folder in PurePosixPath(name).parents} - {"."}


FILES, FOLDERS = _repository()


def on_files(files, config):
    """The pages are all Markdown but templates and notes beside data, the header, and the API of the Python package."""
    found = Files([file for file in files if file.src_dir != config.docs_dir])
    for name in sorted(FILES):
        page = name.endswith(".md") and not name.startswith((".github/", "internal/"))
        if page or name.startswith("docs/") and name.endswith((".svg", ".css")):
            found.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    found.append(File.generated(config, "capi/pnm.h.md", content=_header()))
    found.append(File.generated(config, "python/api.md", content=PYTHON))
    return found


PYTHON = """# Python API

::: posneg

## Every optimizer { #every-optimizer }

::: posneg._optimizer.Optimizer
    options: {heading_level: 3, inherited_members: true}

## posneg.offload { #posneg-offload }

::: posneg.offload
    options: {heading_level: 3}
"""


def _header():
    """The C header as it is, below a list of its functions."""
    text = (ROOT / "capi/pnm.h").read_text()
    functions = [
        f"[`{match[1]}`](#__codelineno-0-{number})"
        for number, line in enumerate(text.splitlines(), 1)
        if (match := re.match(r"PNM_API [\w *]*\b(pnm_\w+)\(", line))
    ]
    about = f"The [C library](../docs/c.md)'s header. Its functions: {', '.join(functions)}."
    return f"---\nhide: [toc]\n---\n# pnm.h\n\n{about}\n\n```c linenums=\"1\"\n{text}```\n"


def on_page_markdown(markdown, page, config, files):
    """Links to files that are not on the site lead to GitHub. Badges, which come from other hosts, are left out."""
    folder = PurePosixPath(page.file.src_uri).parent

    def target(match):
        path, mark, anchor = match["to"].partition("#")
        name = normpath(folder / unquote(path))
        if name == "capi/pnm.h":
            return match[0].replace(path, path + ".md")
        if files.get_file_from_path(name) or name not in FILES | FOLDERS:
            return match[0]  # MkDocs names those that do not exist
        kind = "blob" if name in FILES else "tree"
        return match[0].replace(match["to"], f"{SOURCE}/{kind}/main/{name}{mark}{anchor}")

    markdown = re.sub(r"\[!\[[^\]]*\]\(https:[^)]*\)\]\([^)]*\)\n?", "", markdown)
    return re.sub(r"\]\((?P<to>(?![a-z]+:|#)[^)\s]+)\)", target, markdown)


class _Page(HTMLParser):
    """The links of a page, the anchors that it has, and what it loads."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loads, self.anchors = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.anchors.update(values[name] for name in ("id", "name") if values.get(name))
        loads = tag != "a" and (tag != "link" or values.get("rel") in ("stylesheet", "icon", "preload", "preconnect"))
        urls = [values.get("href"), values.get("src"), *re.findall(r"(\S+)(?: [\d.]+[wx])?(?:,|$)", values.get("srcset") or "")]
        (self.loads if loads else self.links).extend(url for url in urls if url)


def on_post_build(config):
    site = Path(config.site_dir)
    pages = {path: _Page(path.read_text()) for path in sorted(site.rglob("*.html")) if path.name != "404.html"}
    for path, page in pages.items():
        for url in page.loads:
            if urlsplit(url).netloc:
                log.warning("%s loads %s from another host", path.relative_to(site), url)
        for url in page.links + page.loads:
            if problem := _problem(path, page, pages, url):
                log.warning("%s: %s: %s", path.relative_to(site), url, problem)
    for name in sorted(name for name in FILES if name.endswith((".c", ".go", ".h", ".py", ".yml"))):  # comments, and texts of errors
        for named in re.findall(r"\bdocs/[\w-]+\.md\b", (ROOT / name).read_text(encoding="utf-8")):
            if named not in FILES:
                log.warning("%s names %s, which does not exist", name, named)


def _problem(path, page, pages, url):
    parts = urlsplit(html.unescape(url))
    if parts.netloc or parts.scheme:
        ours = re.match(rf"{SOURCE}/(?:blob|tree|raw)/[^/]+/([^#?]+)", url)
        if ours and ours[1].rstrip("/") not in FILES | FOLDERS:
            return "the repository has no such file"
        package = re.match(rf"{PACKAGES}/?([^#?@]*)", url)
        if package and package[1] and not any(name.startswith(package[1] + "/") and name.endswith(".go") for name in FILES):
            return "the repository has no such package"
        return None
    file = path.parent.joinpath(unquote(parts.path)).resolve() if parts.path else path
    file = file / "index.html" if file.is_dir() else file
    if not file.exists():
        return "no such file"
    if parts.fragment and file.suffix == ".html" and unquote(parts.fragment) not in pages[file].anchors:
        return "no such anchor"
    return None
