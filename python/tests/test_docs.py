"""What the docs say, works: the first programs run; the programs of docs/trainers.md go on from each other's file."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def blocks_of(page):
    """The blocks of code of a page, by their language."""
    blocks = {}
    for language, text in re.findall(r"```(\w*)\n(.*?)```", (ROOT / page).read_text(), re.S):
        blocks.setdefault(language, []).append(text)
    return blocks


@pytest.mark.parametrize("page", ["README.md", "python/README.md"])
def test_the_first_program(page):
    program = [sys.executable, "-c", blocks_of(page)["python"][0]]
    out = subprocess.run(program, check=True, stdout=subprocess.PIPE, text=True).stdout
    assert int(re.fullmatch(r"inside the circle or not: (\d+)% right\n", out)[1]) >= 95


def test_the_first_program_in_go(tmp_path):
    (tmp_path / "main.go").write_text(blocks_of("README.md")["go"][0])
    out = subprocess.run(["go", "run", tmp_path / "main.go"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    assert out == "the minimum is at [3.000 -2.000]\n"


def test_trainers(tmp_path):
    blocks = blocks_of("docs/trainers.md")
    (tmp_path / "plane.go").write_text(blocks["go"][0])
    (tmp_path / "plane.py").write_text(blocks["python"][0])
    subprocess.run(["go", "build", "-o", tmp_path / "plane", tmp_path / "plane.go"], cwd=ROOT, check=True)

    def prints(*command):
        return subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.PIPE, text=True).stdout

    python = sys.executable, "plane.py"
    first, second, _ = blocks[""][0].splitlines(keepends=True)
    assert [prints("./plane"), prints(*python)] == [first, second]
    (tmp_path / "plane.safetensors").unlink()
    assert [prints(*python), prints("./plane")] == [first, second]
