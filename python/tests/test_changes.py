"""What changes between steps: options, memory, groups; and steps that are interrupted or refused."""

import re
import subprocess
import sys
import textwrap

import pytest
import torch

import posneg
from posneg import _plan


def stepped(optimizer_class, p, **options):
    optimizer = optimizer_class([p], **options)
    p.grad = torch.ones_like(p)
    optimizer.step()
    return optimizer


def test_an_interrupted_step_is_counted():
    program = """
        import os, signal, threading, torch, posneg
        p = torch.nn.Parameter(torch.zeros(1 << 25)); p.grad = torch.ones_like(p)
        optimizer = posneg.PNM([p], lr=1.0); optimizer.step()
        before = p[0].item(); thread = threading.Timer(0.008, os.kill, (os.getpid(), signal.SIGINT))
        try:
            thread.start()
            for _ in range(1000): optimizer.step(); before = p[0].item()
        except KeyboardInterrupt:
            pass
        done = int(optimizer.state[p]["step"])
        q = torch.nn.Parameter(torch.zeros(1)); q.grad = torch.ones_like(q)
        twin = posneg.PNM([q], lr=1.0)
        for _ in range(done): twin.step()
        assert p[0].item() == q.item(), (done, p[0].item(), q.item())
    """
    for _ in range(3):
        subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=120)


def test_a_refused_step_is_not_counted():
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = stepped(posneg.SGD, p, lr=1.0)
    optimizer.param_groups[0]["lr"] = float("nan")
    with pytest.raises(ValueError):
        optimizer.step()
    assert optimizer.state[p]["step"] == 1 and p.tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_writes_through_data_reach_the_master(dtype):
    p = torch.nn.Parameter(torch.ones(3, dtype=dtype))
    optimizer = stepped(posneg.SGD, p, lr=0.0, master_weights=True)
    p.data.fill_(7)
    optimizer.step()
    assert p.tolist() == [7, 7, 7]


def test_memory_seen_in_another_way():
    p = torch.nn.Parameter(torch.zeros(2, 2))
    optimizer = stepped(posneg.SGD, p, lr=1.0)
    p.data = p.data.t()
    p.grad = torch.tensor([[0.0, 100.0], [0.0, 0.0]])
    optimizer.step()
    assert p.tolist() == [[-1, -101], [-1, -1]]


def test_options_that_change_the_state():
    p = torch.nn.Parameter(torch.zeros(3))
    optimizer = stepped(posneg.AdamW, p, amsgrad=True)
    optimizer.param_groups[0]["amsgrad"] = False
    optimizer.step()
    assert optimizer.state[p]["step"] == 2
    for momenta in [(0.0, 0.9), (0.9, 0.0)]:
        p, q = (torch.nn.Parameter(torch.zeros(3)) for _ in range(2))
        ours, theirs = stepped(posneg.SGD, p, lr=1.0, momentum=momenta[0]), stepped(torch.optim.SGD, q, lr=1.0, momentum=momenta[0])
        for optimizer in (ours, theirs):
            optimizer.param_groups[0]["momentum"] = momenta[1]
            optimizer.step()
            optimizer.step()
        assert torch.equal(p, q)
    p = torch.nn.Parameter(torch.zeros(3))
    optimizer = stepped(posneg.PNM, p, lr=1.0)
    optimizer.param_groups[0]["state_dtype"] = torch.bfloat16
    optimizer.step()
    assert optimizer.state[p]["pos_momentum"].dtype == torch.bfloat16


def test_a_parameter_that_moves_to_another_group():
    a, b, c = (torch.nn.Parameter(torch.zeros(1)) for _ in range(3))
    optimizer = posneg.SGD([{"params": [a, b], "lr": 1.0}, {"params": [c], "lr": 0.0}], lr=1.0)
    for p in (a, b, c):
        p.grad = torch.ones_like(p)
    optimizer.step()
    first, second = optimizer.param_groups
    second["params"].insert(0, first["params"].pop())
    optimizer.step()
    assert (a.item(), b.item(), c.item()) == (-2, -1, 0)


@pytest.mark.parametrize(
    "data", [torch.zeros(3, dtype=torch.complex64).conj(), torch.zeros(3, dtype=torch.complex64).conj().imag, torch.zeros(1).expand(3)],
    ids=["conjugate", "negative", "expanded"],
)
def test_views_that_cannot_be_updated(data):
    p = torch.nn.Parameter(data)
    p.grad = torch.ones(3, dtype=data.dtype)
    optimizer = posneg.SGD([p], lr=1.0)
    with pytest.raises(RuntimeError, match="posneg does not support"):
        optimizer.step()
    assert not optimizer.state[p]


@pytest.mark.parametrize("error", [RuntimeError, TypeError])
def test_torch_that_takes_one_tensor(error):
    """As torch 2.1 to 2.4 do."""
    seen = []

    def increment_version(tensor):
        if not isinstance(tensor, torch.Tensor) or tensor.is_inference():
            raise error
        seen.append(tensor)

    with torch.inference_mode():
        unseen = torch.zeros(3)
    p, q = torch.zeros(3), torch.ones(3)
    _plan._incrementer(increment_version)([p, unseen, q])
    assert len(seen) == 2 and seen[0] is p and seen[1] is q


@pytest.mark.parametrize("shape", [(3, 2), (6,), (2, 3, 1)])
@pytest.mark.parametrize("stepped", [False, True], ids=["first", "later"])
def test_a_gradient_of_another_shape(shape, stepped):
    p, q = (torch.nn.Parameter(torch.zeros(2, 3)) for _ in range(2))
    optimizer = posneg.SGD([q, p], lr=1.0)
    q.grad = torch.ones(2, 3)
    if stepped:
        p.grad = torch.zeros(2, 3)
        optimizer.step()
    before = q.tolist()
    p.data = torch.zeros(shape)
    p.grad = torch.ones(shape)
    p.data = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=re.escape(f"{shape} for a parameter of shape (2, 3)")):
        optimizer.step()
    assert not p.any() and q.tolist() == before
