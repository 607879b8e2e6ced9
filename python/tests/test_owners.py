"""Memory goes when its owner lets go of it: optimizers know where it lies, and own none."""

import gc
import weakref

import numpy as np
import pytest
import torch

import posneg
from helpers import RULES, equal, parameters, set_gradients, twins

rules = pytest.mark.parametrize("ours, options", RULES.values(), ids=RULES.keys())


@pytest.fixture(autouse=True)
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def watched(shape, fill=0.0):
    """A tensor, and a reference to its memory that dies with it."""
    array = np.full(shape, fill, np.float32)
    return torch.from_numpy(array), weakref.ref(array)


def watch(state):
    """Puts other tensors in the place of those of a state, and returns references to their memory."""
    seen = {}
    for name, v in state.items():
        if name != "step":
            state[name], seen[name] = watched(tuple(v.shape))
    return seen


def stepped(ours, *params, **options):
    optimizer = ours(params, **options)
    set_gradients(params)
    optimizer.step()
    return optimizer


@rules
@pytest.mark.parametrize("layout", ["dense", "gaps"])
def test_a_dropped_optimizer_is_freed(ours, options, layout):
    t, memory = watched((4, 4))
    p = torch.nn.Parameter(t if layout == "dense" else t[:, ::2])
    optimizer = stepped(ours, p, **options)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    seen = watch(optimizer.state[p])
    for _ in range(2):
        optimizer.step()
        scheduler.step()
    dropped = weakref.ref(optimizer)
    del optimizer, scheduler
    assert dropped() is None and not any(r() is not None for r in seen.values()) and memory() is not None
    del p, t
    assert memory() is None


@rules
def test_what_is_rebound_or_cleared_is_freed(ours, options):
    t, memory = watched(8)
    p, (q,) = torch.nn.Parameter(t), parameters(3)
    del t
    optimizer = stepped(ours, p, q, **options)
    for let_go in (
        lambda: [setattr(v, "data", torch.empty(0)) for name, v in optimizer.state[p].items() if name != "step"],
        lambda: optimizer.state[p].clear(),
        lambda: optimizer.state.pop(p),
        lambda: optimizer.state.clear(),
        lambda: setattr(optimizer, "state", type(optimizer.state)(dict)),
    ):
        optimizer.state.clear()
        optimizer.step()
        seen = watch(optimizer.state[p])
        optimizer.step()
        assert all(r() is not None for r in seen.values())
        let_go()
        assert not any(r() is not None for r in seen.values())
    optimizer.state.clear()
    optimizer.step()
    p.data = torch.zeros(8)
    assert memory() is None
    t, memory = watched(8)
    p.data = t
    optimizer.step()
    optimizer.param_groups[0]["params"][0] = q = parameters(2)[0]
    optimizer.state.clear()
    del p, t
    assert memory() is None


def test_gradients_are_not_kept():
    p, = parameters(8)
    optimizer = posneg.SGD([p], lr=0.1)
    for make in (lambda g: g, lambda g: torch.stack((g, g), 1)[:, 0]):  # one that is read, and one that is copied for it
        g, memory = watched(8)
        p.grad = make(g)
        del g
        optimizer.step()
        p.grad = None
        assert memory() is None


@rules
def test_other_memory_at_the_same_place(ours, options):
    """What has come to lie where something else was is used as what it is."""
    a = parameters((4, 4))
    b = twins(a)
    runs = [(a, ours(a, **options)), (b, ours(b, **options))]
    blocks = torch.empty(4, 64)
    seen_as = [
        lambda t: t[:16].view(4, 4),
        lambda t: t[:16].view(4, 4).t(),
        lambda t: t[:32].view(4, 8)[:, ::2],
        lambda t: t[:32].view(4, 8)[:, ::2].t(),
        lambda t: t[:16].view(4, 4),
    ]
    for i, view in enumerate(seen_as):
        p = a[0]
        values = p.detach().clone()
        p.data = view(blocks[0])
        p.data.copy_(values)
        for _ in range(2):
            set_gradients(a, b)
            for _, optimizer in runs:
                optimizer.step()
            equal(a, b)


@pytest.mark.parametrize("see", [lambda t: t.t(), torch._neg_view], ids=["transposed", "negative"])
def test_state_that_is_seen_otherwise_where_it_lies(see):
    a = parameters((4, 4))
    b = twins(a)
    x, y = (ours(p, lr=0.1, momentum=0.9) for ours, p in ((posneg.SGD, a), (torch.optim.SGD, b)))
    for _ in range(3):
        set_gradients(a, b)
        for optimizer, (p,) in ((x, a), (y, b)):
            optimizer.step()
            optimizer.state[p]["momentum_buffer"] = see(optimizer.state[p]["momentum_buffer"])
        torch.testing.assert_close(a, b)


def test_state_that_shrinks_where_it_lies():
    """Nothing is written behind the end of what is there now."""
    p, = parameters(8)
    optimizer = stepped(posneg.SGD, p, lr=0.1, momentum=0.9)
    block = np.zeros(8, np.float32)
    buffer = optimizer.state[p]["momentum_buffer"]
    buffer.data = torch.from_numpy(block)
    optimizer.step()
    block[:] = 7
    buffer.data = torch.frombuffer(block, dtype=torch.bfloat16, count=8)
    optimizer.step()
    assert (block[4:] == 7).all()
    block[:] = 7
    optimizer.state[p]["momentum_buffer"] = buffer = torch.from_numpy(block)
    optimizer.step()
    before = block.copy()
    buffer.data = buffer.data[:3]
    with pytest.raises(ValueError, match="'momentum_buffer' of parameter 0 of group 0 has shape"):
        optimizer.step()
    assert (block == before).all()


def test_views_that_come_later():
    """Negative and conjugate ones are refused also after the first step."""
    for make in (lambda t: torch._neg_view(t), lambda t: torch.complex(t, t).conj().imag, lambda t: torch.complex(t, t).conj()):
        p = torch.nn.Parameter(torch.zeros(3, dtype=make(torch.ones(3)).dtype))
        optimizer = stepped(posneg.SGD, p, lr=0.1)
        p.data = p.data.conj() if p.is_complex() else make(torch.ones(3))
        before = p.detach().clone()
        with pytest.raises(RuntimeError, match="posneg does not support"):
            optimizer.step()
        assert torch.equal(p, before)


def test_gradients_that_are_lazy_views():
    for make in (lambda z: z.conj(), lambda z: torch._neg_view(z)):
        a = parameters(3, dtype=torch.complex64)
        b = twins(a)
        x, y = posneg.SGD(a, lr=0.1), posneg.SGD(b, lr=0.1)
        for lazy in (False, True, False):
            set_gradients(a, b)
            if lazy:
                a[0].grad = make(a[0].grad)
                b[0].grad = a[0].grad.clone().resolve_conj().resolve_neg()
            x.step(), y.step()
            equal(a, b)
