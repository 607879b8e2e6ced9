"""What docs/trainers.md says, works: its Go program and its Python program go on from each other's file."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_trainers(tmp_path):
    blocks = {}
    for language, text in re.findall(r"```(\w*)\n(.*?)```", (ROOT / "docs" / "trainers.md").read_text(), re.S):
        blocks.setdefault(language, []).append(text)
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
