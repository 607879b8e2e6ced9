"""torch.compile around training steps: it does not trace into ours, and leaves the graph for them."""

import shutil
import warnings

import pytest
import torch

import posneg
from helpers import equal, twins

pytestmark = pytest.mark.skipif(not hasattr(torch, "compile"), reason="this torch has no torch.compile")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_steps(backend, dtype):
    if backend == "inductor" and not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("there is no C++ compiler")
    torch._dynamo.reset()
    a = [torch.nn.Parameter(torch.randn(4, 3).to(dtype)), torch.nn.Parameter(torch.randn(3).to(dtype))]
    b = twins(a)
    data = torch.randn(5, 4).to(dtype)
    optimizers = [posneg.AdaPNM(zip("wb", params), lr=0.01) for params in (a, b)]

    def train(params, optimizer):
        optimizer.zero_grad()
        (data @ params[0] + params[1]).square().sum().backward()
        optimizer.step()
        return optimizer

    compiled = torch.compile(train, backend=backend)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for step in range(5):
            gradients = [torch.randn_like(p) for p in a]
            step_only = torch.compile(lambda: optimizers[0].step(), backend=backend)
            for params in (a, b):
                for p, g in zip(params, gradients):
                    p.grad = g.clone()
            step_only()
            optimizers[1].step()
            equal(a, b)
    if backend == "eager":
        for _ in range(3):
            compiled(a, optimizers[0])
            train(b, optimizers[1])
            equal(a, b)
        with pytest.raises(Exception, match="function `?Optimizer.step"):
            torch.compile(lambda: optimizers[0].step(), backend="eager", fullgraph=True)()
