"""Docstrings are plain text. mkdocstrings takes them for Markdown, which needs fences around examples, and backslashes."""

import re

import griffe


class PlainText(griffe.Extension):
    def on_instance(self, *, obj, **_):
        if obj.docstring and not obj.is_alias:
            obj.docstring.value = _markdown(obj.docstring.value)


def _markdown(text):
    lines, literal, example = [], None, False  # literal: the indentation of the line that announces a block
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if literal is not None and line and indent <= literal:
            literal = None
        if line.lstrip().startswith(">>>") and not example:
            lines.append(" " * indent + "```pycon")
            example = True
        elif example and not line.strip():
            lines.append(" " * len(re.match(" *", lines[-1])[0]) + "```")
            example = False
        elif not example and literal is None:
            line = re.sub(r"([*\[\]<>])", r"\\\1", line)
            if line.endswith("::"):
                line, literal = line[:-1], indent
        lines.append(line)
    if example:
        lines.append(" " * len(re.match(" *", lines[-1])[0]) + "```")
    return "\n".join(lines)
