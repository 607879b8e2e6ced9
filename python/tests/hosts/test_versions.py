"""The README names the versions that .ci/hosts installs, and these are the ones that run there."""

import importlib.metadata
import os
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PINNED = dict(re.findall(r"^([\w-]+)==(\S+)$", (HERE / "requirements.txt").read_text(), re.M))


def test_the_readme():
    readme = (HERE.parents[1] / "README.md").read_text()
    section = readme[readme.index("## In other tools") :].split("\n## ")[0]
    rows = dict(re.findall(r"^\| (\w+) \| ([\d.]+) \|", section, re.M))
    assert set(rows) == {"transformers", "accelerate", "lightning", "torchao", "deepspeed"}
    assert rows == {name: PINNED[name] for name in rows}
    assert f"on torch {PINNED['torch']} and" in section


@pytest.mark.skipif(not os.environ.get("PNM_TEST_HOSTS"), reason="only .ci/hosts installs these versions")
def test_what_is_installed():
    assert {name: importlib.metadata.version(name).split("+")[0] for name in PINNED} == PINNED
