"""Optimizers on the host for parameters on a device, of which the CPU is one: POSNEG_TEST_DEVICE=cuda runs the same tests there."""

import collections
import contextlib
import copy
import gc
import io
import operator
import os
import pickle
import random
import weakref

import pytest
import torch

import posneg
from posneg import _buckets, _copies, _plan, _rooms, _rounding, _streams, offload
from posneg.offload import Offload
from helpers import RULES, bits, saved

DEVICE = torch.device(os.environ.get("POSNEG_TEST_DEVICE", "cpu"))
HOOKS = hasattr(torch.Tensor, "register_post_accumulate_grad_hook")

rules = pytest.mark.parametrize("ours, options", RULES.values(), ids=RULES.keys())
needs_hooks = pytest.mark.skipif(not HOOKS, reason="before torch 2.1")
buckets = pytest.mark.parametrize("buckets", [1, 3], ids=["", "buckets"])


class Give(torch.autograd.Function):
    """A number that does not depend on p, but has the gradient g."""

    @staticmethod
    def forward(_, p, g):
        _.save_for_backward(g)
        return torch.zeros((), device=p.device)

    @staticmethod
    def backward(_, __):
        return _.saved_tensors[0], None


def backward(params, gradients, scale=1.0):
    """A backward pass that produces the gradients, in the reverse order of the parameters."""
    pairs = [(p, g) for p, g in zip(params, gradients) if p.requires_grad and g is not None]
    sum(Give.apply(p, scale * g.to(p.device)) for p, g in pairs).backward()


def randoms(params):
    return [torch.randn(p.shape, dtype=torch.float64).to(p.dtype) for p in params]


def layouts(dtype):
    """Parameters of all kinds of strides."""
    return [
        torch.randn(40).to(dtype),
        torch.randn(()).to(dtype),
        torch.zeros(0, 3, dtype=dtype),
        torch.randn(2, 3, 4, 5).to(dtype).contiguous(memory_format=torch.channels_last),
        torch.randn(5, 8).to(dtype)[:, ::2].t(),
        torch.randn(7, 3).to(dtype).t(),
    ]


def on_both(tensors):
    """Parameters on the device and on the host, with the same strides."""
    def laid_out(t, device):
        n = 1 + sum((size - 1) * stride for size, stride in zip(t.shape, t.stride())) if t.numel() else 0
        memory = torch.zeros(n, dtype=t.dtype, device=device)
        return torch.nn.Parameter(memory.as_strided(t.shape, t.stride()).copy_(t))

    return [laid_out(t, DEVICE) for t in tensors], [laid_out(t, "cpu") for t in tensors]


def model(dtype=torch.float32):
    """A model on the device, and one on the host, with the same numbers."""
    ours = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3)).to(dtype)
    return copy.deepcopy(ours).to(DEVICE), ours


def go(a, x, b, y, steps=1, zero=True):
    """Steps of both with the same gradients."""
    for _ in range(steps):
        if zero:
            x.zero_grad(), y.zero_grad()
        gradients = randoms(b)
        backward(a, gradients), backward(b, gradients)
        x.step(), y.step()


def same(a, b):
    for p, q in zip(a, b):
        assert p.dtype == q.dtype and p.shape == q.shape and torch.equal(bits(p.detach().cpu()), bits(q))


def same_state(x, y):
    mine, other = x.state_dict(), y.state_dict()
    for a, b in zip(mine["param_groups"], other["param_groups"]):
        assert {**{name: a[name] for name in b}, "master_weights": b["master_weights"]} == b  # torch adds some of its own when it loads
    assert mine["step_options"] == other["step_options"]
    assert mine["state"].keys() == other["state"].keys()
    for i, state in other["state"].items():
        assert mine["state"][i].keys() == state.keys()
        for name, v in state.items():
            if isinstance(v, torch.Tensor):
                assert torch.equal(bits(mine["state"][i][name]), bits(v)) and mine["state"][i][name].device.type == "cpu"
            else:
                assert name == "rounding" or mine["state"][i][name] == v


def counted(p):
    """Tells torch of a write through p.data."""
    if hasattr(torch.autograd.graph, "increment_version"):
        torch.autograd.graph.increment_version(p)
    else:
        p.detach().add_(0)


def counting(monkeypatch):
    """Has all copies counted: of gradients to the host, of parameters to the device and to the host."""
    counts = [0, 0, 0]
    for lane, place in (("bring", 0), ("send", 1), ("fetch", 2)):

        def call(self, *arguments, of=getattr(_copies.Lanes, lane), place=place, **named):
            counts[place] += 1
            return of(self, *arguments, **named)

        monkeypatch.setattr(_copies.Lanes, lane, call)
    return counts


@rules
@buckets
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.complex64])
def test_bits_of_the_class_on_the_host(ours, options, dtype, buckets):
    a, b = on_both(layouts(dtype))
    for g in (a, b):
        g += [g[0][:0].detach().clone().requires_grad_()]
    x = Offload([{"params": a[:2]}, {"params": a[2:], "lr": 0.003}], ours, buckets=buckets, **options)
    y = ours([{"params": b[:2]}, {"params": b[2:], "lr": 0.003}], master_weights=True, **options)
    go(a, x, b, y, 3)
    same(a, b)
    same_state(x, y)


def test_parameters_keep_their_strides_and_memory():
    a, _ = on_both(layouts(torch.float32))
    before = [(p.stride(), p.data_ptr(), p.device) for p in a]
    x = Offload(a)
    backward(a, randoms(a))
    x.step()
    assert before == [(p.stride(), p.data_ptr(), p.device) for p in a]


@pytest.mark.parametrize("state_dtype", ["bfloat16", "mxfp8"])
def test_rounding_without_masters_repeats(state_dtype):
    a, b = on_both([torch.randn(100).bfloat16(), torch.randn(3, 50).bfloat16(), torch.randn(50, 3).bfloat16().t()])
    x = Offload(enumerate(a), posneg.AdamW, lr=0.01, master_weights=False, seed=3, state_dtype=state_dtype)
    y = posneg.AdamW(enumerate(b), lr=0.01, seed=3, state_dtype=state_dtype)
    go(a, x, b, y, 4)
    same(a, b)
    assert "master_low" not in x.state[a[0]]


@buckets
def test_equal_parameters_are_told_apart_as_the_class_does(monkeypatch, buckets):
    a, b = on_both([torch.ones(50).bfloat16() for _ in range(6)])
    options = dict(lr=0.01, master_weights=False)
    gradients = randoms(b)
    for params, make in ((a, lambda: Offload(a, buckets=buckets, **options)), (b, lambda: posneg.AdamW(b, **options))):
        monkeypatch.setattr(_rounding, "_met", {})  # they are counted, by each process
        optimizer = make()
        backward(params, gradients)
        optimizer.step()
    same(a, b)


@buckets
def test_the_first_copy_is_the_only_one(monkeypatch, buckets):
    a, b = on_both(layouts(torch.bfloat16))
    x, y = Offload(a, buckets=buckets), posneg.AdamW(b, master_weights=True)
    go(a, x, b, y)
    counts = counting(monkeypatch)
    gradients = randoms(a)
    x.zero_grad()
    backward(a, gradients)
    if HOOKS:
        assert counts == [len(a), 0, 0]
    x.step()
    assert counts == [len(a), len(a), 0]
    x.step()  # the same gradients again
    assert counts == [len(a), 2 * len(a), 0]
    x.skip_non_finite = True
    a[0].grad[3] = float("inf")
    x.step()  # which sends nothing back
    assert x.skipped and counts == [len(a) + 1, 2 * len(a), 0]


CHANGES = {
    "clip_grad_norm_": lambda params: torch.nn.utils.clip_grad_norm_(params, 0.1),
    "in place": lambda params: [p.grad.mul_(0.5) for p in params],
    "one of them": lambda params: params[0].grad.zero_(),
    "another object": lambda params: [setattr(p, "grad", 3 * p.grad) for p in params],
    "another one with the same memory": lambda params: [setattr(p, "grad", p.grad.detach()) for p in params],
    "added to": lambda params: backward(params, [torch.ones(p.shape, dtype=p.dtype) for p in params]),
    "none": lambda params: setattr(params[1], "grad", None),
    "none of them": lambda params: [setattr(p, "grad", None) for p in params],
    "other strides": lambda params: setattr(params[3], "grad", params[3].grad.contiguous() + 1),
    "expanded": lambda params: setattr(params[3], "grad", torch.ones((), device=params[3].device).expand(params[3].shape)),
    "negative view": lambda params: setattr(params[3], "grad", torch._neg_view(params[3].grad)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@buckets
def test_gradients_that_change_before_the_step(change, buckets):
    a, b = on_both(layouts(torch.float32))
    x, y = Offload(a, posneg.AdaPNM, buckets=buckets), posneg.AdaPNM(b)
    for _ in range(3):
        gradients = randoms(b)
        for params in (a, b):
            backward(params, gradients)
            change(params)
        x.step(), y.step()
        x.zero_grad(set_to_none=True), y.zero_grad(set_to_none=True)
        same(a, b)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_backward_passes_add_up(set_to_none):
    a, b = on_both(layouts(torch.bfloat16))
    x, y = Offload(a), posneg.AdamW(b, master_weights=True)
    for _ in range(3):
        for _ in range(3):
            gradients = randoms(b)
            backward(a, gradients), backward(b, gradients)
        x.step(), y.step()
        same(a, b)
        x.zero_grad(set_to_none=set_to_none), y.zero_grad(set_to_none=set_to_none)


def test_steps_of_some_parameters():
    a, b = on_both(layouts(torch.float32))
    x, y = Offload(a, posneg.AdaPNM, lr=0.01), posneg.AdaPNM(b, lr=0.01)
    for some in ([0, 3], [0, 1, 2, 3, 4, 5], [4], [], [0, 3]):
        x.zero_grad(set_to_none=True), y.zero_grad(set_to_none=True)
        gradients = [g if i in some else None for i, g in enumerate(randoms(b))]
        if some:
            backward(a, gradients), backward(b, gradients)
        x.step(), y.step()
        same(a, b)
    same_state(x, y)


def test_schedules_and_options_are_followed():
    a, b = on_both(layouts(torch.float32))
    x, y = Offload(a, posneg.AdamW, lr=0.1), posneg.AdamW(b, lr=0.1)
    schedules = [torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=6) for o in (x, y)]
    for _ in range(5):
        go(a, x, b, y)
        for s in schedules:
            s.step()
        same(a, b)
    same_state(x, y)
    for o in (x, y):
        o.param_groups[0]["weight_decay"] = 0.3
    go(a, x, b, y)
    same(a, b)
    x.param_groups[0]["lr"] = float("nan")
    before = [p.detach().clone() for p in a]
    backward(a, randoms(a))
    with pytest.raises(ValueError, match="Invalid lr: nan"):
        x.step()
    same(before, [p.detach().cpu() for p in a])


def test_add_param_group():
    a, b = on_both(layouts(torch.bfloat16))
    x, y = Offload(a[:2]), posneg.AdamW(b[:2], master_weights=True)
    go(a[:2], x, b[:2], y)
    for o, params in ((x, a), (y, b)):
        o.add_param_group({"params": params[2:], "lr": 0.1})
    go(a, x, b, y, 2)
    same(a, b)
    same_state(x, y)
    for group in ({"params": a[:1]}, {"params": [a[0].detach()[:3]]}, {"params": [a[0].detach().clone()], "lr": -1}, {"params": ["no"]}):
        with pytest.raises((ValueError, TypeError)):
            x.add_param_group(group)
    go(a, x, b, y)
    same(a, b)
    assert len(x.param_groups) == len(x.state_dict()["param_groups"]) == 2


@buckets
def test_around_the_step(buckets):
    a, b = on_both(layouts(torch.float32))
    around = dict(clip_norm=0.7, skip_non_finite=True)
    x, y = Offload(a, posneg.AdaPNM, buckets=buckets, **around), posneg.AdaPNM(b, **around)
    for step in range(5):
        gradients = randoms(b)
        if step == 2:
            gradients[0][3] = float("inf")
        x.zero_grad(), y.zero_grad()
        backward(a, gradients), backward(b, gradients)
        x.step(), y.step()
        assert x.grad_norm == y.grad_norm is not None and x.skipped == y.skipped == (step == 2)
        same(a, b)
    for o in (x, y):
        o.clip_norm, o.clip_value, o.skip_non_finite = None, 0.1, False
    go(a, x, b, y)
    assert x.grad_norm is None and not x.skipped
    same(a, b)
    same_state(x, y)


def test_gradients_are_zeroed_where_they_are():
    a, b = on_both(layouts(torch.float32))
    x, y = Offload(a, zero_grads=True), posneg.AdamW(b, zero_grads=True)
    for _ in range(3):
        go(a, x, b, y, zero=False)
        same(a, b)
        assert all(p.grad is not None and not p.grad.any() for p in a)
    same_state(x, y)


@needs_hooks
@pytest.mark.skipif(not hasattr(torch.amp, "GradScaler"), reason="this torch has no torch.amp.GradScaler")
@pytest.mark.parametrize("unscale", [False, True], ids=["", "unscale_"])
@pytest.mark.parametrize("clip", [None, "theirs", "ours"])
def test_scaler(unscale, clip, monkeypatch):
    m, n = model()
    x, y = Offload(m.parameters(), clip_norm=0.1 if clip == "ours" else None), posneg.AdamW(n.parameters(), fused=True)
    scalers = [torch.amp.GradScaler(device, init_scale=2.0**12, growth_interval=2) for device in (DEVICE.type, "cpu")]
    y.clip_norm = x.clip_norm
    counts = counting(monkeypatch)
    for step in range(8):
        gradients = randoms(n.parameters())
        if step in (2, 5):
            gradients[0][0, 0] = float("inf")
        for net, o, scaler in ((m, x, scalers[0]), (n, y, scalers[1])):
            o.zero_grad()
            scale = float(scaler.scale(torch.ones((), device=net[0].weight.device)))
            backward(list(net.parameters()), gradients, scale)
            if unscale:
                scaler.unscale_(o)
                if clip == "theirs":
                    torch.nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            scaler.step(o)
            scaler.update()
        same(m.parameters(), n.parameters())
        assert x.skipped == y.skipped == (step in (2, 5)) and repr(x.grad_norm) == repr(y.grad_norm)
    assert scalers[0].get_scale() == scalers[1].get_scale() != 2.0**12
    assert counts[0] == 4 * (8 + (unscale and (8 if clip == "ours" else 6)))  # what the scaler divides is copied again


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("write", [
    lambda net: net.load_state_dict({name: v * 0.5 for name, v in net.state_dict().items()}),
    lambda net: [p.detach().fill_(0.25) for p in net.parameters()],
    lambda net: setattr(net[0].weight, "data", net[0].weight.data + 1),
    lambda net: torch.nn.utils.vector_to_parameters(torch.nn.utils.parameters_to_vector(net.parameters()) / 2, net.parameters()),
    lambda net: (net[0].weight.data.fill_(0.25), counted(net[0].weight)),
], ids=["load_state_dict", "in place", "data", "vector", "into data"])
def test_what_others_write_to_parameters(dtype, write):
    m, n = model(dtype)
    x, y = Offload(m.parameters(), lr=0.01), posneg.AdamW(n.parameters(), lr=0.01, master_weights=True)
    for _ in range(3):
        with torch.no_grad():
            write(m), write(n)
        go(list(m.parameters()), x, list(n.parameters()), y)
        same(m.parameters(), n.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@rules
def test_state_dicts_move_between_it_and_the_class(ours, options, dtype):
    (a, b), (c, d) = on_both(layouts(dtype)), on_both(layouts(dtype))
    x, y = Offload(a, ours, **options), ours(b, master_weights=True, **options)
    go(a, x, b, y, 3)
    there, back = ours(d, master_weights=True, **options), Offload(c, ours, **options)
    for p, q, r in zip(c, d, b):
        p.detach().copy_(r.detach()), q.detach().copy_(r.detach())
    there.load_state_dict(saved(x.state_dict()))
    back.load_state_dict(saved(y.state_dict()))  # before its first step
    same_state(back, there)
    for a, x, b, y in ((c, back, d, there),):
        go(a, x, b, y, 2)
        same(a, b)
        same_state(x, y)


def test_state_with_whole_masters_loads():
    """As others keep it: float32 masters of bfloat16 parameters."""
    a, b = on_both([torch.randn(60).bfloat16()])
    master = b[0].detach().float() * (1 + 2.0**-10)
    for p in (a[0], b[0]):
        p.detach().copy_(master)
    state = {"step": torch.tensor(3.0), "exp_avg": torch.randn(60), "exp_avg_sq": torch.rand(60), "master_param": master}
    x, y = Offload(a), posneg.AdamW(b, master_weights=True)
    for o in (x, y):
        o.load_state_dict({**o.state_dict(), "state": {0: {name: v.clone() for name, v in state.items()}}})
    go(a, x, b, y, 2)
    same(a, b)
    same_state(x, y)


def test_options_and_attributes_are_loaded():
    a, b = on_both(layouts(torch.float32))
    x, y = Offload(a), posneg.AdamW(b, lr=0.3, clip_norm=2.0, zero_grads=True)
    y.param_groups[0]["initial_lr"] = 0.5
    x.load_state_dict(y.state_dict())
    assert x.param_groups[0]["lr"] == 0.3 and x.param_groups[0]["initial_lr"] == 0.5 and x.clip_norm == 2.0 and x.zero_grads
    assert x.param_groups[0]["params"] == a
    same_state(x, y)
    before = copy.deepcopy(x.state_dict())
    with pytest.raises(ValueError):
        x.load_state_dict({**before, "param_groups": [{**before["param_groups"][0], "lr": float("inf")}]})
    assert x.state_dict() == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("params", [True, False], ids=["", "state alone"])
def test_checkpoints_move_between_it_and_the_class(dtype, params):
    (m, n), (k, h) = model(dtype), model(dtype)
    x, y = Offload(m.parameters(), lr=0.1), posneg.AdamW(n.parameters(), lr=0.1, master_weights=True)
    go(list(m.parameters()), x, list(n.parameters()), y, 3)
    files = io.BytesIO(), io.BytesIO()
    posneg.save_checkpoint(files[0], x, names=m.named_parameters(), params=params, metadata={"epoch": "3"})
    posneg.save_checkpoint(files[1], y, names=n.named_parameters(), params=params, metadata={"epoch": "3"})
    assert files[0].getvalue() == files[1].getvalue()
    there, back = posneg.AdamW(h.parameters(), master_weights=True), Offload(k.parameters())
    if not params:
        h.load_state_dict(n.state_dict()), k.load_state_dict(n.state_dict())
    for file, o, net in ((files[0], there, h), (files[1], back, k)):
        file.seek(0)
        assert posneg.load_checkpoint(file, o, names=net.named_parameters(), params=params) == {"epoch": "3"}
    same(m.parameters(), h.parameters())
    same(k.parameters(), h.parameters())
    assert back.param_groups[0]["lr"] == 0.1
    go(list(k.parameters()), back, list(h.parameters()), there, 2)
    same(k.parameters(), h.parameters())
    same_state(back, there)


def test_checkpoint_that_does_not_fit_changes_nothing():
    m, n = model()
    x, y = Offload(m.parameters()), posneg.AdamW(n.parameters())
    go(list(m.parameters()), x, list(n.parameters()), y)
    other = torch.nn.Linear(3, 3)
    file = io.BytesIO()
    posneg.save_checkpoint(file, posneg.AdamW(other.parameters()), names=other.named_parameters())
    file.seek(0)
    with pytest.raises(posneg.CheckpointError):
        posneg.load_checkpoint(file, x, names=m.named_parameters())
    go(list(m.parameters()), x, list(n.parameters()), y)
    same(m.parameters(), n.parameters())


@pytest.mark.parametrize("dup", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("after", [0, 3])
def test_copies_go_on_alone(dup, dtype, after):
    m, n = model(dtype)
    x = Offload(m.parameters(), posneg.AdaPNM, clip_norm=1.0, buckets=2)
    y = posneg.AdaPNM(n.parameters(), clip_norm=1.0, master_weights=True)
    x.param_groups[0]["lr"] = y.param_groups[0]["lr"] = -0.1  # as a schedule may, though a constructor may not
    go(list(m.parameters()), x, list(n.parameters()), y, after)
    k, z = dup((m, x))
    h, u = copy.deepcopy((n, y))
    assert z.param_groups[0]["params"][0] is k[0].weight
    go(list(k.parameters()), z, list(h.parameters()), u, 2)
    same(k.parameters(), h.parameters())
    same_state(z, u)
    same(m.parameters(), n.parameters())
    go(list(m.parameters()), x, list(n.parameters()), y, 2)
    same(m.parameters(), n.parameters())


def test_models_are_copied_without_their_optimizer():
    m, _ = model()
    x = Offload(m.parameters())
    k = copy.deepcopy(m)
    pickle.loads(pickle.dumps(m))
    backward(list(k.parameters()), randoms(k.parameters()))
    x.step()
    same(m.parameters(), [p.detach().cpu() for p in k.parameters()])


def test_frozen_parameters_take_no_memory():
    m, n = model()
    for net in (m, n):
        net[0].requires_grad_(False)
    x, y = Offload(m.parameters()), posneg.AdamW(n.parameters())
    go(list(m.parameters()), x, list(n.parameters()), y, 2)
    same(m.parameters(), n.parameters())
    files = io.BytesIO(), io.BytesIO()
    posneg.save_checkpoint(files[0], x), posneg.save_checkpoint(files[1], y)
    assert files[0].getvalue() == files[1].getvalue()
    assert [c.furnished for c in x._copies] == [False, False, True, True]
    for net in (m, n):
        net[0].requires_grad_(True)
    go(list(m.parameters()), x, list(n.parameters()), y, 2)
    same(m.parameters(), n.parameters())
    same_state(x, y)


def test_tied_parameters():
    m, n = model()
    for net in (m, n):
        net.append(torch.nn.Linear(7, 3).to(net[0].weight.device))
        net[3].weight = net[2].weight
    n[3].bias.data.copy_(m[3].bias.data)
    x, y = Offload(m.parameters()), posneg.AdamW(n.parameters())
    go(list(m.parameters()), x, list(n.parameters()), y, 2)
    same(m.parameters(), n.parameters())
    with pytest.raises(ValueError, match="are the same"):
        Offload([m[2].weight, m[3].weight])
    with pytest.raises(ValueError, match="share memory"):
        Offload([m[0].weight, torch.nn.Parameter(m[0].weight.detach()[2:])])


REFUSED = {
    "no class of ours": (lambda p: Offload([p], torch.optim.AdamW), TypeError, "optimizer_class"),
    "no class": (lambda p: Offload([p], 3), TypeError, "optimizer_class"),
    "an option": (lambda p: Offload([p], lr=-1), ValueError, "lr"),
    "no option": (lambda p: Offload([p], beta=1), TypeError, "beta"),
    "buckets": (lambda p: Offload([p], buckets=0), ValueError, "buckets"),
    "half a bucket": (lambda p: Offload([p], buckets=2.5), ValueError, "Invalid buckets: 2.5"),
    "overlap": (lambda p: Offload([p], overlap="no"), ValueError, "Invalid overlap: 'no'"),
    "no parameters": (lambda p: Offload([]), ValueError, "empty"),
    "a tensor": (lambda p: Offload(p), TypeError, "iterable"),
    "meta": (lambda p: Offload([p.detach().to("meta")]), RuntimeError, "parameter 0 of group 0 is on the meta device"),
    "expanded": (lambda p: Offload([torch.zeros(1, device=DEVICE).expand(3)]), RuntimeError, "expanded"),
    "integers": (lambda p: Offload([torch.zeros(1, dtype=torch.int32, device=DEVICE)]), TypeError, "int32"),
    "lazy": (lambda p: Offload(torch.nn.LazyLinear(3).parameters()), TypeError, "UninitializedParameter"),
    "two ways": (lambda p: Offload([p, p]), ValueError, "are the same"),
}


@pytest.mark.parametrize("make, error, says", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused(make, error, says):
    with pytest.raises(error, match=says):
        make(torch.nn.Parameter(torch.zeros(5, device=DEVICE)))


MOVES = {
    "type": lambda net: net.double(),
    "shape": lambda net: setattr(net[0].bias, "data", net[0].bias.data[:3]),
}


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES.keys())
def test_models_that_change_after_it_was_made(move):
    m, n = model()
    x, y = Offload(m.named_parameters()), posneg.AdamW(n.named_parameters())
    go(list(m.parameters()), x, list(n.parameters()), y)
    before = [p.data for p in m.parameters()]
    for p in m.parameters():
        p.grad = None
    move(m)
    for call in (x.step, lambda: posneg.save_checkpoint(io.BytesIO(), x)):
        with pytest.raises(RuntimeError, match=r"parameter '0\.\w+' was torch.float32 of shape .* when the optimizer was made and is"):
            call()
    for p, data in zip(m.parameters(), before):
        p.data = data
    go(list(m.parameters()), x, list(n.parameters()), y)
    same(m.parameters(), n.parameters())
    x.param_groups[0]["params"] = x.param_groups[0]["params"][:2]
    with pytest.raises(RuntimeError, match="were replaced"):
        x.step()


def test_models_that_move_after_it_was_made():
    m, _ = model()
    x = Offload(m.parameters())
    x._copies[2].look = torch.float32, m[2].weight.shape, torch.device("cuda:1")
    backward(list(m.parameters()), randoms(m.parameters()))
    before = [p.detach().cpu().clone() for p in m.parameters()]
    with pytest.raises(RuntimeError, match="parameter 2 of group 0 was torch.float32 of shape .* on cuda:1 when the optimizer was made"):
        x.step()
    same(m.parameters(), before)


def test_gradients_that_are_refused_change_nothing():
    a, b = on_both(layouts(torch.float32))
    x, y = Offload(a), posneg.AdamW(b)
    go(a, x, b, y)
    bad = [torch.ones(3, device=DEVICE), torch.zeros(40, device=DEVICE).to_sparse()]
    for g, error in zip(bad, (ValueError, RuntimeError)):
        x.zero_grad(set_to_none=True)
        backward(a, randoms(a))
        memory = a[0].data
        if g.layout is torch.strided:
            a[0].grad = None
            a[0].data = g.clone()
            a[0].grad = g
            a[0].data = memory
        else:
            a[0].grad = g
        with pytest.raises(error, match="gradient"):
            x.step()
        same(a, b)
    go(a, x, b, y)
    same(a, b)


@pytest.mark.skipif(not hasattr(torch.Tensor, "grad_dtype"), reason="gradients of this torch have their parameter's type")
@pytest.mark.parametrize("types", [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)], ids=str)
def test_gradients_of_another_type(types):
    (a, b), gradient = on_both(layouts(types[0])), types[1]
    x, y = Offload(a), posneg.AdamW(b, master_weights=True)
    for step in range(4):
        for p, q in zip(a, b):
            dtype = p.dtype if step == 2 else gradient
            p.grad_dtype = q.grad_dtype = None
            q.grad = torch.randn(q.shape).to(dtype)
            p.grad = q.grad.to(DEVICE)
        x.step(), y.step()
        same(a, b)


@needs_hooks
def test_gradients_are_freed_and_added_up_on_the_host():
    a, b = on_both(layouts(torch.bfloat16))
    x, y = Offload(a, free_gradients=True, clip_norm=1.0), posneg.AdamW(b, master_weights=True, clip_norm=1.0)
    for passes in (1, 3, 2):
        y.zero_grad()
        for _ in range(passes):
            gradients = randoms(b)
            backward(a, gradients), backward(b, gradients)
            assert all(p.grad is None for p in a)
        x.step(), y.step()
        assert x.grad_norm == y.grad_norm
        same(a, b)
    backward(a, randoms(b))
    for copied in (copy.deepcopy, pickle.dumps):
        with pytest.raises(RuntimeError, match="only the host"):
            copied(x)
    x.zero_grad()
    before = [p.detach().cpu().clone() for p in a]
    x.step()  # without gradients
    same(a, before)
    x.overlap = False
    y.zero_grad()
    go(a, x, b, y)
    same(a, b)
    assert all(p.grad is None for p in a)
    same_state(x, y)


@needs_hooks
@pytest.mark.skipif(not hasattr(torch.amp, "GradScaler"), reason="this torch has no torch.amp.GradScaler")
@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.1}], ids=["", "clip_norm"])
def test_scaler_that_divides(options, monkeypatch):
    """Of which it leaves no trace where the step does not ask for the scale."""
    m, n = model()
    x, y = Offload(m.parameters(), fused=False, **options), posneg.AdamW(n.parameters(), fused=False, **options)
    assert x._step_supports_amp_scaling == y._step_supports_amp_scaling == bool(options)
    scalers = [torch.amp.GradScaler(device, init_scale=2.0**12) for device in (DEVICE.type, "cpu")]
    counts = counting(monkeypatch)
    for _ in range(3):
        gradients = randoms(n.parameters())
        for net, o, scaler in ((m, x, scalers[0]), (n, y, scalers[1])):
            o.zero_grad()
            backward(list(net.parameters()), gradients, float(scaler.scale(torch.ones((), device=net[0].weight.device))))
            scaler.step(o)
            scaler.update()
        same(m.parameters(), n.parameters())
    assert counts[0] == 3 * 4


@needs_hooks
def test_processes_that_may_add_up_gradients_later(monkeypatch):
    a, b = on_both(layouts(torch.float32))
    x, y = Offload(a), posneg.AdamW(b)
    counts = counting(monkeypatch)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    gradients = randoms(b)
    backward(a, gradients), backward(b, gradients)
    assert counts[0] == 0
    for p in a + b:
        p.grad.data.mul_(2)  # as all_reduce, which leaves no trace
    x.step(), y.step()
    same(a, b)
    assert counts[0] == len(a)
    x.overlap = True
    x.zero_grad()
    backward(a, gradients)
    assert counts[0] == 2 * len(a)


@needs_hooks
@pytest.mark.skipif(DEVICE.type != "cpu", reason="it simulates what a device does")
def test_backward_waits_when_too_much_is_on_its_way(monkeypatch):
    """Gradients would otherwise not be freed before a device comes to copying them."""
    monkeypatch.setattr(_copies, "Stream", Late)
    monkeypatch.setattr(LateEvent, "query", lambda self: False)
    monkeypatch.setattr(offload, "_MOST_FLYING", 1000)
    a, _ = on_both([torch.randn(50) for i in range(20)])
    x = Offload(a, free_gradients=True)
    backward(a, randoms(a))
    assert 800 < x._copies[0].lanes.down.on_their_way() <= 1000


def test_closures():
    m, n = model()
    x, y = Offload(m.parameters()), posneg.AdamW(n.parameters())
    data = torch.randn(4, 5)

    def closure(net, o, data):
        def evaluate():
            o.zero_grad()
            loss = sum((p * torch.linspace(0.1, 1, p.numel(), device=p.device).reshape(p.shape)).sum() for p in net.parameters())
            loss.backward()
            return loss

        return evaluate

    for _ in range(3):
        assert x.step(closure(m, x, data)) is not None
        y.step(closure(n, y, data))
        same(m.parameters(), n.parameters())


@pytest.mark.skipif(not hasattr(torch.optim.Optimizer, "register_load_state_dict_pre_hook"), reason="before torch 2.3")
def test_hooks_of_optimizers():
    a, _ = on_both(layouts(torch.float32))
    x, called = Offload(a), []
    x.register_step_pre_hook(lambda *_: called.append("before"))
    x.register_step_post_hook(lambda *_: called.append("after"))
    x.register_state_dict_pre_hook(lambda _: called.append("save"))
    x.register_state_dict_post_hook(lambda _, state: {**state, "more": 1})
    x.register_load_state_dict_pre_hook(lambda _, state: {name: v for name, v in state.items() if name != "more"})
    x.register_load_state_dict_post_hook(lambda _: called.append("loaded"))
    x.step()
    x.load_state_dict(x.state_dict())
    assert called == ["before", "after", "save", "loaded"] and x.state_dict()["more"] == 1


def test_state_is_seen_under_the_parameters():
    a, b = on_both(layouts(torch.float32))
    x, y = Offload(a, posneg.AdaPNM), posneg.AdaPNM(b)
    assert not x.state and a[0] not in x.state
    go(a, x, b, y, 3)
    assert list(x.state) == a and len(x.state) == len(a) and x.state[a[0]].keys() == y.state[b[0]].keys()
    for p, state in x.state.items():  # as Lightning moves all to the parameters' devices
        x.state[p] = {name: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for name, v in state.items()}
    x.state[a[3]].clear(), y.state[b[3]].clear()
    del x.state[a[4]], y.state[b[4]]
    go(a, x, b, y, 2)
    same(a, b)
    x.state.clear(), y.state.clear()
    go(a, x, b, y, 2)
    same(a, b)
    x.state, y.state = {}, collections.defaultdict(dict)
    go(a, x, b, y, 2)
    same(a, b)
    same_state(x, y)


def test_nothing_keeps_it():
    m, _ = model()
    x = Offload(m.parameters())
    backward(list(m.parameters()), randoms(m.parameters()))
    x.step()
    room, gone = weakref.ref(x._copies[0]._room), weakref.ref(x)
    gc.disable()
    try:
        del x
        assert gone() is None and room() is None
    finally:
        gc.enable()
    y = Offload(m.parameters())
    backward(list(m.parameters()), randoms(m.parameters()))
    y.step()
    if HOOKS:
        assert [len(p._post_accumulate_grad_hooks) for p in m.parameters()] == [1] * 4


def test_state_dies_when_it_is_cleared():
    a, _ = on_both(layouts(torch.float32))
    x = Offload(a, clip_norm=1.0)
    backward(a, randoms(a))
    x.step()
    alive = weakref.ref(x.state[a[0]]["exp_avg"])
    x.state.clear()
    assert alive() is None


def test_gradients_die_when_their_owner_lets_go_of_them():
    a, _ = on_both(layouts(torch.float32))
    x = Offload(a)
    for step in (False, True):
        backward(a, randoms(a))
        alive = weakref.ref(a[0].grad)
        if step:
            x.step()
        else:
            if DEVICE.type == "cuda":
                torch.cuda.synchronize()
            x._arrived(x._copies[-1])  # any later hook
        for p in a:
            p.grad = None
        assert alive() is None


@pytest.mark.parametrize("when", range(26))
def test_interrupts_come_between_steps(monkeypatch, when):
    """A step of several buckets, too, is done and counted, or not at all; and the device has what the host has."""
    a, b = on_both([torch.randn(10 + i) for i in range(8)])
    x, y = Offload(a, posneg.AdaPNM, lr=0.1, buckets=3), posneg.AdaPNM(b, lr=0.1)
    go(a, x, b, y)
    calls = 0

    def interrupting(of):
        def call(*arguments, **named):
            nonlocal calls
            calls += 1
            if calls == when:
                raise KeyboardInterrupt
            result = of(*arguments, **named)
            calls += 1
            if calls == when:
                raise KeyboardInterrupt
            return result

        return call

    monkeypatch.setattr(_copies.Copy, "send", interrupting(_copies.Copy.send))
    monkeypatch.setattr(_buckets.Plans, "find", interrupting(_buckets.Plans.find))
    monkeypatch.setattr(_plan.Plan, "step", interrupting(_plan.Plan.step))
    gradients = randoms(b)
    backward(a, gradients), backward(b, gradients)
    x.zero_grad(), y.zero_grad()
    backward(a, gradients), backward(b, gradients)
    try:
        x.step()
        assert when == 0
    except KeyboardInterrupt:
        assert when
    monkeypatch.undo()
    counts = {float(s["step"]) for s in x.state.values()}
    assert counts in ({1.0}, {2.0})
    if counts == {2.0}:
        y.step()
    else:
        assert 0 < when <= 13  # three buckets are prepared and rehearsed before the first one steps
    same(a, b)
    go(a, x, b, y, 2)
    same(a, b)
    same_state(x, y)


@pytest.mark.parametrize(
    "spoil, says",
    [
        (lambda x: x.state[x.param_groups[0]["params"][0]]["step"].fill_(2.5), "2.5"),
        (lambda x: setattr(x, "clip_value", 1e-60), "ClipValue"),  # 0 in float32
    ],
    ids=["a count", "an option"],
)
def test_what_only_the_library_refuses_is_refused_for_all_buckets(spoil, says):
    """The last bucket, of float64, comes first."""
    params = [torch.nn.Parameter(torch.ones(3, dtype=dtype, device=DEVICE)) for dtype in (torch.float32, torch.float64)]
    x = Offload(params, buckets=2)
    backward(params, randoms(params))
    x.step()
    spoil(x)
    x.zero_grad()
    backward(params, randoms(params))
    before = [p.detach().clone() for p in params]
    with pytest.raises(ValueError, match=says):
        x.step()
    assert all(map(torch.equal, params, before)) and x.state[params[1]]["step"].item() == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_dicts_of_torch_distributed_checkpoint(dtype):
    dcp = pytest.importorskip("torch.distributed.checkpoint.state_dict", reason="torch before 2.2")

    def train(net, optimizer, steps):
        for step in steps:
            x = torch.randn(2, 4, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            net(x.to(DEVICE, dtype)).float().square().sum().backward()
            optimizer.step()

    a, b = (torch.nn.Linear(4, 3).to(DEVICE, dtype) for _ in range(2))
    x, y = (Offload(net.parameters(), posneg.AdaPNM, lr=0.1) for net in (a, b))
    train(a, x, range(3))
    b.load_state_dict(a.state_dict())
    dcp.set_optimizer_state_dict(b, y, copy.deepcopy(dcp.get_optimizer_state_dict(a, x)))
    train(a, x, range(3, 6)), train(b, y, range(3, 6))
    assert all(map(torch.equal, a.parameters(), b.parameters()))
    assert [s["step"].item() for s in y.state.values()] == [6, 6]


@needs_hooks
@pytest.mark.parametrize("unscale", [False, True], ids=["", "unscale"])
def test_a_scaler_that_divides_is_waited_for(unscale):
    """It leaves no version behind, so that nothing may be copied before the step, whatever overlap says."""
    p = torch.nn.Parameter(torch.zeros(3, device=DEVICE))
    x, scaler = Offload([p], posneg.SGD, lr=1.0, fused=False, overlap=True), torch.amp.GradScaler(DEVICE.type, init_scale=16.0)
    scaler.scale(p.sum()).backward()
    if unscale:
        scaler.unscale_(x)
    scaler.step(x)
    assert p.tolist() == [-1.0] * 3


@buckets
def test_zeroed_gradients_of_any_kind(buckets):
    """Those that torch will not change are told before the step."""
    params = [torch.nn.Parameter(torch.zeros(3, device=DEVICE)) for _ in range(3)]
    x = Offload(params, posneg.SGD, lr=1.0, zero_grads=True, buckets=buckets)
    for p in params:
        p.grad = torch.ones(1, device=DEVICE).expand(3)
    x.step()
    assert all(p.tolist() == [-1.0] * 3 and p.grad.tolist() == [0.0] * 3 for p in params)
    with torch.inference_mode():
        frozen = torch.ones(3, device=DEVICE)
    params[1].grad = frozen
    with pytest.raises(RuntimeError, match="inference_mode"):
        x.step()
    assert all(p.tolist() == [-1.0] * 3 for p in params)


@needs_hooks
def test_one_optimizer_frees_a_gradient():
    params = [torch.nn.Parameter(torch.ones(3, device=DEVICE))]
    first = Offload(params, free_gradients=True)
    with pytest.raises(RuntimeError, match=r"another optimizer takes the gradient of parameter 0, of shape \(3,\)"):
        Offload(params, free_gradients=True)
    del first
    second = Offload(params, free_gradients=True)
    backward(params, randoms(params))
    second.step()
    assert second.state[params[0]]["step"].item() == 1


@needs_hooks
def test_gradients_of_two_types_are_added_up():
    p = torch.nn.Parameter(torch.zeros(3, dtype=torch.bfloat16, device=DEVICE))
    if not hasattr(p, "grad_dtype"):
        pytest.skip("this torch has gradients of one type")
    x = Offload([p], posneg.SGD, lr=1.0, free_gradients=True)
    p.sum().backward()
    p.grad_dtype = None
    p.grad = torch.full((3,), 2.0, device=DEVICE)
    x.step()
    assert p.tolist() == [-3.0] * 3


def test_asking_for_a_state_does_not_make_one():
    params = [torch.nn.Parameter(torch.ones(3, device=DEVICE))]
    x = Offload(params)
    assert x.state.get(params[0]) is None and not x.state and not x.state_dict()["state"]
    assert x.state.get(params[0], 1) == 1 and x.state.get("no parameter") is None


@needs_hooks
def test_freed_gradients_have_no_infinities_for_a_scaler():
    params = [torch.nn.Parameter(torch.ones(3, device=DEVICE))]
    x, scaler = Offload(params, free_gradients=True), torch.amp.GradScaler(DEVICE.type)
    scaler.scale((params[0] * torch.inf).sum()).backward()
    with pytest.raises(RuntimeError, match="free_gradients=True has freed"):
        scaler.step(x)
    assert torch.equal(params[0].cpu(), torch.ones(3))


def test_errors_name_parameters_whatever_the_bucket():
    a, _ = on_both([torch.randn(10) for i in range(6)])
    x = Offload([{"params": a[:2]}, {"params": a[2:]}], buckets=4)
    backward(a, randoms(a))
    x.step()
    before = [p.detach().cpu().clone() for p in a]
    for i, name in ((0, "0 of group 0"), (3, "1 of group 1"), (5, "3 of group 1")):
        state = x.state[a[i]]
        kept, state["exp_avg"] = state["exp_avg"], torch.zeros(3)
        with pytest.raises(ValueError, match=f"'exp_avg' of parameter {name}"):
            x.step()
        state["exp_avg"] = kept
    same(a, before)


class Recorded:
    """Streams of a device that is not there, by the calls of torch.cuda that are made of them."""

    def __init__(self):
        self.calls = []
        calls = self.calls

        class Stream:
            def __init__(self, device):
                self.name = "ours" if device else "current"

            def wait_stream(self, other):
                calls.append(f"{self.name} waits for {other.name}")

            def record_event(self):
                calls.append(f"{self.name} marks")
                return "event"

        @contextlib.contextmanager
        def stream(of):
            calls.append(f"on {of.name}")
            yield
            calls.append("back")

        self.Stream, self.Event, self.stream = Stream, None, stream
        self.current_stream = lambda device: Stream(None)


def test_streams_of_a_device(monkeypatch):
    for name in ("Stream", "Event", "stream", "current_stream", "Stream.wait_stream", "Stream.record_event", "Event.query", "Event.synchronize"):
        assert operator.attrgetter(name)(torch.cuda)  # what Recorded stands for
    recorded = Recorded()
    monkeypatch.setattr(torch, "cuda", recorded)
    stream = _streams.Stream(torch.device("cuda", 1))
    with stream.after_current():
        to = torch.zeros(3)
        stream.copy(to, torch.ones(3))
        assert stream.mark() == "event"
    stream.before_current()
    assert stream.pinned and to.all()
    assert recorded.calls == ["ours waits for current", "on ours", "ours marks", "back", "current waits for ours"]


@pytest.mark.parametrize("pinned", [False, True], ids=["", "pinned"])
def test_rooms(monkeypatch, pinned):
    shapes = [(3 << 20,), (100,), (7, 1 << 20), (), (0, 3), (5 << 20,), (1 << 20,), *[(1000 + i,) for i in range(50)]]
    models = [torch.empty_strided(s, torch.empty(s, device="meta").stride(), dtype=torch.bfloat16) for s in shapes]
    models.append(models[2].t())
    made = []

    def empty(*arguments, pin_memory=False, of=torch.empty, **named):
        piece = of(*arguments, **named)
        if piece.numel():
            assert pin_memory == pinned
            made.append(piece)
        return piece

    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(_rooms, "_MOST", 32 << 20)
    found = _rooms.rooms(models, 6, pinned)
    spans = []
    for model, room in zip(models, found):
        assert room.shape == model.shape and room.stride() == model.stride() and room.dtype == model.dtype
        spans.append((room.data_ptr(), room.data_ptr() + 2 * room.numel()))
        assert not room.numel() or room.data_ptr() % 64 == 0
    large = [room.data_ptr() for room in found if room.numel() >= 2 << 20]
    assert len({(at - max(p.data_ptr() for p in made if p.data_ptr() <= at)) % 4096 for at in large}) == 1  # wherever malloc puts pieces
    spans = sorted(s for s in spans if s[0] != s[1])
    assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:]))
    sizes = [piece.numel() for piece in made]
    assert not pinned or all(n & n - 1 == 0 for n in sizes)
    assert sum(sizes) < 1.5 * sum(2 * m.numel() for m in models) and len(made) < 12


class Late:
    """A stream whose copies are done as late as those who wait let them; what they will overwrite is NaN meanwhile."""

    pinned = False
    all_of_them = []

    def __init__(self, _):
        self.queue, self.done, self.awaited = collections.deque(), 0, 0
        self.all_of_them.append(self)

    def after_current(self):
        return torch.no_grad()

    def copy(self, to, from_):
        to.data.fill_(float("nan"))
        counted(to)
        self.queue.append((weakref.ref(from_), from_.data_ptr(), to))

    def run(self, until):
        while self.done < until:
            source, address, to = self.queue.popleft()
            self.done += 1
            from_ = source()
            assert from_ is not None and from_.data_ptr() == address, "memory was freed before it was copied"
            to.data.copy_(from_)

    def mark(self):
        return LateEvent(self, self.done + len(self.queue))

    def before_current(self):
        self.awaited = self.done + len(self.queue)

    @classmethod
    def device_computes(cls):
        for stream in cls.all_of_them:
            stream.run(stream.awaited)

    def sends(self, host):
        return any(source() is host for source, _, _ in self.queue)

    def on_their_way(self):
        return sum(to.numel() * to.element_size() for _, _, to in self.queue)


class LateEvent:
    def __init__(self, stream, until):
        self.stream, self.until = stream, until

    def query(self):
        if random.random() < 0.3:
            self.stream.run(min(self.until, self.stream.done + 1))
        return self.stream.done >= self.until

    def synchronize(self):
        self.stream.run(self.until)


@needs_hooks
@pytest.mark.skipif(DEVICE.type != "cpu", reason="it simulates what a device does")
@pytest.mark.parametrize("free", [False, True], ids=["", "freed"])
@pytest.mark.parametrize("passes", [1, 3])
@buckets
def test_copies_that_take_their_time(monkeypatch, free, passes, buckets):
    monkeypatch.setattr(_copies, "Stream", Late)
    monkeypatch.setattr(offload, "_MOST_FLYING", 200)
    monkeypatch.setattr(Late, "all_of_them", [])
    random.seed(1)

    def step(self, now, *arguments, of=_plan.Plan.step):
        for host in now[0]:
            assert not any(stream.sends(host) for stream in Late.all_of_them), "the host writes what is being sent"
        of(self, now, *arguments)

    monkeypatch.setattr(_plan.Plan, "step", step)
    a, b = on_both([torch.randn(20 + i) for i in range(8)])
    x = Offload(a, posneg.AdaPNM, free_gradients=free, buckets=buckets, clip_norm=1.0, lr=0.1)
    y = posneg.AdaPNM(b, clip_norm=1.0, lr=0.1)
    for step in range(6):
        Late.device_computes()
        same(a, b)
        x.zero_grad(), y.zero_grad()
        for _ in range(passes):
            gradients = randoms(b)
            backward(a, gradients), backward(b, gradients)
            if step == 3 and not free:
                for p in (*a, *b):
                    p.grad.mul_(0.5)
        if step == 2:
            x.zero_grad(), y.zero_grad()
            backward(a[:4], gradients[:4]), backward(b[:4], gradients[:4])
        if step == 4:
            for p in a[0], b[0]:
                p.detach().fill_(0.5)
        x.step(), y.step()
        if step == 1 and not free:
            x.step(), y.step()
    Late.device_computes()
    same(a, b)
