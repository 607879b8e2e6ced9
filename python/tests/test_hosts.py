"""Tensors and surroundings that are not plain: what works in torch.optim works, or an error says what to do."""

import pytest
import torch

import posneg
from helpers import RULES, close, equal, parameters, set_gradients, twins


def test_a_freed_parameter_is_not_looked_at():
    a = parameters(3, 4)
    b = twins(a)
    x, y = posneg.AdamW(a), torch.optim.AdamW(b)
    set_gradients(a, b)
    x.step(), y.step()
    for p in (a[1], b[1]):
        p.grad, p.data = None, torch.empty(0)
    for state in (x.state[a[1]], y.state[b[1]]):
        state["exp_avg"].data = torch.empty(0)
    for _ in range(2):
        set_gradients(a[:1], b[:1])
        x.step(), y.step()
        close(a[:1], b[:1])
    assert x.state[a[1]]["step"].item() == 1


def test_a_sleeping_parameter_elsewhere():
    a = [*parameters(3), torch.nn.Parameter(torch.empty(2, device="meta"))]
    optimizer = posneg.PNM(a, lr=1.0)
    set_gradients(a[:1])
    optimizer.step()
    assert optimizer.state[a[0]]["step"].item() == 1


@pytest.mark.skipif(not hasattr(torch.device, "__enter__"), reason="this torch has no default device")
def test_a_default_device():
    a = [torch.nn.Parameter(torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)), *parameters(3)]
    b = twins(a)
    x, y = posneg.AdaPNM(a), posneg.AdaPNM(b)
    for _ in range(2):
        for p, q in zip(a, b):
            p.grad = torch.randn(p.shape)
            q.grad = p.grad.clone()
        with torch.device("meta"):
            x.step()
        y.step()
        equal(a, b)


@pytest.mark.skipif(not hasattr(torch.device, "__enter__"), reason="this torch has no default device")
def test_a_checkpoint_under_a_default_device(tmp_path):
    a = [torch.nn.Parameter(torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)), *parameters(3, dtype=torch.bfloat16)]
    x, y = posneg.AdamW(a), posneg.AdamW(twins(a), state_dtype="bfloat16")  # for which what is read must be converted
    set_gradients(a)
    x.step()
    with torch.device("meta"):
        posneg.save_checkpoint(tmp_path / "x", x)
        posneg.load_checkpoint(tmp_path / "x", y)
    equal(y.param_groups[0]["params"], a)


def test_zeros_without_memory():
    a = parameters(3, (3, 4))
    b = twins(a)
    x, y = posneg.AdamW(a), posneg.AdamW(b)
    for zeros in (False, True):
        set_gradients(a, b)
        if zeros:
            a[1].grad, b[1].grad = torch._efficientzerotensor(3, 4), torch.zeros(3, 4)
        x.step(), y.step()
        equal(a, b)


@pytest.mark.parametrize("what", ["parameter 0 of group 0", "gradient"])
def test_memory_that_was_freed(what):
    a, = parameters(3)
    optimizer = posneg.SGD([a], lr=0.1)
    set_gradients([a])
    optimizer.step()
    t = a.grad if what == "gradient" else a
    (t.untyped_storage() if hasattr(t, "untyped_storage") else t.storage()).resize_(0)
    with pytest.raises(RuntimeError, match=what + ".*storage was freed"):
        optimizer.step()
    assert optimizer.state[a]["step"].item() == 1


def test_fakes_and_wrappers():
    try:
        from torch._subclasses import FakeTensorMode
        from torch.testing._internal.two_tensor import TwoTensor
    except ImportError:
        pytest.skip("this torch has none")
    with FakeTensorMode():
        fake = torch.nn.Parameter(torch.ones(3))
    for p in (fake, torch.nn.Parameter(TwoTensor(torch.ones(3), torch.ones(3)))):
        p.grad = torch.ones_like(p)
        optimizer = posneg.SGD([p], lr=0.1)
        with pytest.raises(RuntimeError, match="parameter 0 of group 0.*(FakeTensor|TwoTensor|Parameter).*torch.optim"):
            optimizer.step()


@pytest.mark.parametrize("ours, options", RULES.values(), ids=RULES.keys())
def test_a_schedule_that_overshoots(ours, options):
    """As in torch, whose constructors alone refuse a negative rate."""
    a = parameters(5)
    x = ours(a, **options)
    scheduler = torch.optim.lr_scheduler.LambdaLR(x, lambda i: 1 - i / 5)
    for _ in range(8):
        set_gradients(a)
        x.step()
        scheduler.step()
    assert x.param_groups[0]["lr"] < 0 and x.state[a[0]]["step"].item() == 8 and a[0].isfinite().all()


def test_an_epsilon_that_is_zero():
    for eps in (1e-46, 1e-300):
        with pytest.raises(ValueError, match="eps.*float32"):
            posneg.AdamW(parameters(3), eps=eps)
    a = parameters(3, dtype=torch.float64)
    optimizer = posneg.AdamW(a, eps=1e-46)
    set_gradients(a)
    optimizer.step()


def test_a_tool_that_keeps_the_parameter_as_its_own_master():
    """As Megatron-LM's HybridDeviceOptimizer does, in the state of float32 parameters; it also writes the groups anew before each step."""
    a = parameters(5, (3, 4))
    b = twins(a)
    x, y = posneg.AdamW([dict(params=a, lr=0.01, bias_correction=True)]), posneg.AdamW(b, lr=0.01)
    for _ in range(3):
        x.param_groups = [dict(g) for g in x.param_groups]
        set_gradients(a, b)
        x.step(), y.step()
        equal(a, b)
        for p in a:
            x.state[p]["master_param"] = p
