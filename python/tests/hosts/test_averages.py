"""Averages of the weights: torch's SWA and EMA, and averages that are swapped in for a while, as evaluation does."""

import copy

import pytest
import torch
from torch.optim import swa_utils

import posneg
from helpers import close, equal, saved, values

KINDS = {
    "float32": dict(),
    "bfloat16": dict(dtype=torch.bfloat16),
    "bfloat16, masters": dict(dtype=torch.bfloat16, master_weights=True),
    "float16": dict(dtype=torch.float16),
    "mxfp8": dict(state_dtype="mxfp8"),
}
kinds = pytest.mark.parametrize("how", KINDS.values(), ids=KINDS.keys())


def model(dtype=torch.float32):
    torch.manual_seed(2)
    layers = torch.nn.Linear(6, 40, bias=False), torch.nn.BatchNorm1d(40), torch.nn.Tanh(), torch.nn.Linear(40, 3)
    return torch.nn.Sequential(*layers).to(dtype)


def batch(net, step):
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(step)).to(net[0].weight.dtype)


def begin(how, cls=posneg.AdaPNM):
    how = dict(how)
    if how.get("dtype") == torch.float16 and not hasattr(torch, "compile"):
        pytest.skip("this torch multiplies no float16 on the CPU")
    net = model(how.pop("dtype", torch.float32))
    return net, cls(net.named_parameters() if cls is posneg.AdaPNM else net.parameters(), lr=0.01, **how)


def train(net, optimizer, steps, after=lambda step: None):
    for step in steps:
        optimizer.zero_grad()
        net(batch(net, step)).float().square().mean().backward()
        optimizer.step()
        after(step)


def ema_of(net, decay):
    if hasattr(swa_utils, "get_ema_multi_avg_fn"):
        return swa_utils.AveragedModel(net, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(decay), use_buffers=True)
    follow = lambda mean, p, _: torch.lerp(mean, p, 1 - decay) if p.is_floating_point() else p  # noqa: E731
    return swa_utils.AveragedModel(net, avg_fn=follow, use_buffers=True)


@pytest.mark.parametrize("average", [swa_utils.AveragedModel, lambda net: ema_of(net, 0.9)], ids=["SWA", "EMA"])
def test_as_with_torch(average):
    ends = []
    for cls in (posneg.AdamW, torch.optim.AdamW):
        net, optimizer = begin({}, cls)
        mean, schedule = average(net), swa_utils.SWALR(optimizer, 1e-3, anneal_epochs=3)
        train(net, optimizer, range(10), lambda _: (mean.update_parameters(net), schedule.step()))
        swa_utils.update_bn([batch(net, step) for step in range(4)], mean)
        ends.append((mean.state_dict(), optimizer.param_groups[0]["lr"]))
    (ours, rate), (theirs, other) = ends
    close(*([t.float() for t in s.values()] for s in (ours, theirs)))
    assert rate == other == 1e-3 and ours["n_averaged"] == 10


@kinds
@pytest.mark.parametrize("average", [swa_utils.AveragedModel, lambda net: ema_of(net, 0.9)], ids=["SWA", "EMA"])
def test_training_is_as_without(average, how):
    """An average takes nothing from what it is of, and follows it: as it does with weights that are written by hand."""
    net, optimizer = begin(how)
    mean, copies = average(net), [copy.deepcopy(net)]
    train(net, optimizer, range(7), lambda _: (mean.update_parameters(net), copies.append(copy.deepcopy(net))))
    alone, other = begin(how)
    train(alone, other, range(7))
    equal(net.parameters(), alone.parameters())
    by_hand = average(copies[0])
    for net in copies[1:]:
        by_hand.update_parameters(net)
    equal(mean.parameters(), by_hand.parameters())
    assert not any(torch.equal(p, q) for p, q in zip(mean.parameters(), alone.parameters()))


def copied(a, b):
    kept = [p.detach().clone() for p in a]
    for p, q in zip(a, b):
        p.data.copy_(q)
    return lambda: [p.data.copy_(k) for p, k in zip(a, kept)]


def exchanged(a, b):
    kept = [p.data for p in a]
    for p, q in zip(a, b):
        p.data = q.detach().clone()

    def back():
        for p, k in zip(a, kept):
            p.data = k

    return back


def loaded(a, b):
    kept = [p.detach().clone() for p in a]
    with torch.no_grad():
        for p, q in zip(a, b):
            p.copy_(q)

    def back():
        with torch.no_grad():
            for p, k in zip(a, kept):
                p.copy_(k)

    return back


@kinds
@pytest.mark.parametrize("swap", [copied, exchanged, loaded])
def test_swapped_in_for_evaluation(swap, how):
    """And out again before the next step, which sees nothing of it: masters, too, are as they were."""
    net, optimizer = begin(how)
    mean = ema_of(net, 0.5)

    def evaluate(step):
        mean.update_parameters(net)
        back = swap(list(net.parameters()), list(mean.module.parameters()))
        with torch.no_grad():
            net.eval()(batch(net, step))
        equal(net.parameters(), mean.module.parameters())
        back()
        net.train()

    train(net, optimizer, range(7), evaluate)
    alone, other = begin(how)
    train(alone, other, range(7))
    equal(net.parameters(), alone.parameters())
    equal(values(optimizer), values(other))


@kinds
def test_resumed(tmp_path, how):
    """Weights, average, optimizer and schedule from one file, after an odd number of steps."""
    net, optimizer = begin(how)
    mean, schedule = ema_of(net, 0.9), swa_utils.SWALR(optimizer, 1e-3, anneal_epochs=5)
    follow = lambda _: (mean.update_parameters(net), schedule.step())  # noqa: E731
    train(net, optimizer, range(3), follow)
    state = saved([o.state_dict() for o in (net, optimizer, mean)])
    of_schedule = copy.deepcopy(schedule.state_dict())
    train(net, optimizer, range(3, 7), follow)
    ends = [t.clone() for o in (net, mean) for t in o.state_dict().values()] + values(optimizer)

    net, optimizer = begin(how)
    mean, schedule = ema_of(net, 0.9), swa_utils.SWALR(optimizer, 1e-3, anneal_epochs=5)
    for o, s in zip((net, optimizer, mean), state):
        o.load_state_dict(s)
    schedule.load_state_dict(of_schedule)
    train(net, optimizer, range(3, 7), lambda _: (mean.update_parameters(net), schedule.step()))
    equal([t for o in (net, mean) for t in o.state_dict().values()] + values(optimizer), ends)
