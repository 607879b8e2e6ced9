"""The examples: one trains the same with ours as with the rule in torch operations, one with each format of state."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import lenet  # noqa: E402
import transformer  # noqa: E402


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


def test_transformer(tmp_path, monkeypatch, capsys):
    """The second call has nothing left to train: it reads the curves that the first one wrote."""
    rng, words = np.random.default_rng(1), "perl is a language that rewards whoever reads its manual twice".split()
    for n in range(10):
        (tmp_path / f"perl{n}.pod").write_text(" ".join(rng.choice(words, 500)))
    if importlib.util.find_spec("matplotlib") is None:
        monkeypatch.setattr(transformer, "draw", lambda *arguments: arguments[-1].write_text("none"))
    for name, small in dict(WARMUP=5, WIDTH=32, LAYERS=1).items():
        monkeypatch.setattr(transformer, name, small)
    picture = tmp_path / "transformer.svg"
    options = ["--rules", "AdamW", "Lion", "--seeds", "2", "--steps", "20", "--text", str(tmp_path), "--out", str(picture)]
    monkeypatch.setattr(sys, "argv", ["transformer.py", *options])
    before = torch.get_num_threads()
    try:
        curves = transformer.main()
        assert "run 1 of 16" in capsys.readouterr().out and picture.stat().st_size > 0
        assert transformer.main().keys() == curves.keys() and "run 1" not in capsys.readouterr().out
    finally:
        torch.set_num_threads(before)
    for rule in "AdamW", "Lion":
        for seed in 1, 2:
            ends = [curves[rule, form, seed][-1][2] for form in transformer.FORMATS]
            assert len(set(ends)) == len(ends) and max(ends) < np.log(transformer.CHARACTERS) - 0.5
