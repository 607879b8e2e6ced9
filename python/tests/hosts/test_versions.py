"""docs/python-tools.md names the versions that .ci/hosts installs, and these are the ones that run there."""

import importlib.metadata
import os
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PINNED = dict(re.findall(r"^([\w-]+)==(\S+)$", (HERE / "requirements.txt").read_text(), re.M))


def test_the_docs():
    page = (HERE.parents[2] / "docs" / "python-tools.md").read_text()
    rows = dict(re.findall(r"^\| (\w+) \| ([\d.]+) \|", page, re.M))
    assert set(rows) == {"transformers", "accelerate", "lightning", "torchao", "deepspeed"}
    assert rows == {name: PINNED[name] for name in rows}
    assert f"on torch {PINNED['torch']} and" in page


@pytest.mark.skipif(not os.environ.get("PNM_TEST_HOSTS"), reason="only .ci/hosts installs these versions")
def test_what_is_installed():
    assert {name: importlib.metadata.version(name).split("+")[0] for name in PINNED} == PINNED
