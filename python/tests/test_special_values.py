"""Infinities, NaN, zeros of both signs, denormal and huge numbers, in parameters and gradients: what becomes of them with torch.optim."""

import math

import pytest
import torch

import posneg
from helpers import twins

CASES = {
    "SGD": (posneg.SGD, torch.optim.SGD, dict(lr=0.5)),
    "SGD, L2": (posneg.SGD, torch.optim.SGD, dict(lr=0.5, weight_decay=0.25)),
    "SGD, maximize": (posneg.SGD, torch.optim.SGD, dict(lr=0.5, maximize=True)),
    "SGD, momentum": (posneg.SGD, torch.optim.SGD, dict(lr=0.5, momentum=0.5)),
    "SGD, dampening": (posneg.SGD, torch.optim.SGD, dict(lr=0.5, momentum=0.5, dampening=0.25, maximize=True)),
    "SGD, Nesterov": (posneg.SGD, torch.optim.SGD, dict(lr=0.5, momentum=0.5, nesterov=True)),
    "Adam": (posneg.Adam, torch.optim.Adam, dict(lr=0.1)),
    "Adam, L2": (posneg.Adam, torch.optim.Adam, dict(lr=0.1, weight_decay=0.25)),
    "Adam, AMSGrad": (posneg.Adam, torch.optim.Adam, dict(lr=0.1, amsgrad=True, maximize=True)),
    "AdamW": (posneg.AdamW, torch.optim.AdamW, dict(lr=0.1, weight_decay=0.25)),
    "AdamW, no decay": (posneg.AdamW, torch.optim.AdamW, dict(lr=0.1, weight_decay=0)),
    "AdamW, AMSGrad": (posneg.AdamW, torch.optim.AdamW, dict(lr=0.1, amsgrad=True)),
}


def specials(dtype):
    info = torch.finfo(dtype)
    return [
        0.0, -0.0, 1.0, -1.0, info.tiny, -info.tiny / 8, 1e-25, -3e19, 3e19, info.max, -info.max, math.inf, -math.inf, math.nan,
    ]


def alike(ours, theirs, what):
    """Asserts that numbers are of one kind, zeros and infinities of one sign, and others equal up to their rounding."""
    for classify in (torch.isnan, torch.isinf, lambda x: x == 0):
        assert torch.equal(classify(ours), classify(theirs)), what
    exact = torch.isinf(theirs) | (theirs == 0)
    assert torch.equal(torch.signbit(ours[exact]), torch.signbit(theirs[exact])), what
    rest = torch.isfinite(theirs)
    torch.testing.assert_close(ours[rest], theirs[rest], rtol=32 * torch.finfo(theirs.dtype).eps, atol=torch.finfo(theirs.dtype).tiny)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_special_values(case, dtype):
    ours, theirs, options = case
    values = torch.tensor(specials(dtype), dtype=dtype)
    params, first = (x.reshape(-1).clone() for x in torch.meshgrid(values, values, indexing="ij"))
    a = [torch.nn.Parameter(params)]
    b = twins(a)
    x, y = ours(a, **options), theirs(b, **options)
    zeros = torch.zeros_like(first)
    for step, grad in enumerate([first, zeros, -zeros, first], 1):
        for p in (a[0], b[0]):
            p.grad = grad.clone()
        x.step(), y.step()
        alike(a[0].detach(), b[0].detach(), f"params after step {step}")
        for name, value in y.state[b[0]].items():
            if name != "step" and value is not None:
                mine = x.state[a[0]][name]
                if name == "exp_avg":  # torch 2 interpolates, m + (1 - beta1) * (g - m), which makes a NaN of an infinite m
                    value = torch.where(torch.isinf(mine) & torch.isnan(value), mine, value)
                alike(mine, value, f"{name} after step {step}")
