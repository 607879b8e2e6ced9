"""What type checkers say of calls."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import posneg

PROGRAM = """
import torch
import posneg

model = torch.nn.Linear(2, 1)
posneg.PNM(model.parameters(), lr=torch.tensor(0.1))
posneg.AdaPNM(model.named_parameters(), lr=0.1, state_dtype="bfloat16")
posneg.AdamW([{"params": [model.weight], "lr": 1.0}], state_dtype=torch.bfloat16)
posneg.SGD(enumerate(model.parameters()))
posneg.Adam(list(model.parameters()), fused=True).step(lambda: 1.0)
posneg.AdaPNM(5)
posneg.PNM(model.parameters(), lr="0.1")
"""


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="there is no mypy")
@pytest.mark.skipif(tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6), reason="this torch does not say what its classes take")
def test_types(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    package = Path(posneg.__file__).parent

    def mypy(*what):
        command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache", *what]
        return subprocess.run(command, cwd=package.parent, stdout=subprocess.PIPE, text=True).stdout

    assert "no issues found" in mypy(package)
    said = mypy(tmp_path / "program.py").splitlines()
    assert [line.partition(": ")[0].rpartition(":")[2] for line in said[:-1] if ": error: " in line] == ["11", "12"], said
