"""The example trains the same with ours as with the rule in torch operations."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import lenet  # noqa: E402


def test_loss_curves_agree(tmp_path, monkeypatch):
    picture = tmp_path / "lenet.svg"
    if importlib.util.find_spec("matplotlib") is None:
        monkeypatch.setattr(lenet, "draw", lambda _, file: file.write_text("none"))
    monkeypatch.setattr(sys, "argv", ["lenet.py", "--out", str(picture)])
    before = torch.get_num_threads()
    try:
        curves = lenet.main()
    finally:
        torch.set_num_threads(before)
    assert curves.keys() == lenet.RULES.keys() and picture.stat().st_size > 0
    for ours, theirs in curves.values():
        assert len(ours) == 200 and np.mean(ours[-20:]) < 0.6 * ours[0]
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
