"""The example trains the same with ours as with the rule in torch operations."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import lenet  # noqa: E402


@pytest.mark.parametrize("rule", lenet.RULES)
def test_loss_curves_agree(rule):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ours, theirs, options = lenet.RULES[rule]
        a, b = lenet.train(ours, options, epochs=1), lenet.train(theirs, options, epochs=1)
    finally:
        torch.set_num_threads(before)
    assert len(a) == 200 and np.mean(a[-20:]) < 0.6 * a[0]
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
