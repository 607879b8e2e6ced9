"""The trajectories that the authors' implementation and torch's optimizers have recorded."""

import json
from pathlib import Path

import pytest
import torch

from helpers import CLASSES

FILE = Path(__file__).parents[2] / "testdata" / "golden.json"
CASES = json.loads(FILE.read_text())["cases"]
OURS = {ours.__name__.lower(): ours for ours in CLASSES}
LIMIT = 16  # eps


def lcg(seed, n, dtype):
    numbers, s = [], seed
    for _ in range(n):
        s = (s * 6364136223846793005 + 1442695040888963407) % 2**64
        numbers.append((s >> 40) / 2**23 - 1)
    return torch.tensor(numbers, dtype=dtype)


def error(got, want):
    """The largest difference in eps, relative to the value or to 5 % of the largest (of 1, if that is larger)."""
    want = torch.tensor([float.fromhex(x) for x in want], dtype=torch.float64)
    scale = max(1.0, float(want.abs().max()))
    difference = (got.detach().double() - want).abs() / want.abs().clamp(min=0.05 * scale)
    return float(difference.max()) / torch.finfo(got.dtype).eps


def test_each_class_has_cases():
    assert {case["rule"] for case in CASES} == set(OURS)


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['name']}-{c['dtype']}")
def test_golden(case):
    dtype = getattr(torch, case["dtype"])
    p = torch.nn.Parameter(lcg(case["seed"], case["n"], dtype))
    optimizer = OURS[case["rule"]]([p], **case["hyper"])
    for s, want in enumerate(case["params_after_each_step"]):
        if case["lrs"]:
            optimizer.param_groups[0]["lr"] = case["lrs"][s]
        p.grad = lcg(case["seed"] + 1000 + s, case["n"], dtype) * case["grad_scale"]
        if s in case["skipped_steps"]:
            p.grad = None
        optimizer.step()
        if want is not None:
            assert error(p, want) <= LIMIT, f"step {s + 1}"
    if case["final_state"] is not None:
        state = dict(optimizer.state[p])
        if case["rule"] == "sgd":
            del state["step"]  # torch's does not count
        assert set(state) == set(case["final_state"])
        for name, want in case["final_state"].items():
            if name == "step":
                assert state[name] == want
            else:
                assert error(state[name], want) <= LIMIT, name
