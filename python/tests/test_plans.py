"""Steps over some of an optimizer's parameters in turn: what is kept from step to step, and that counts stay with their parameters."""

import gc
import itertools
import weakref

import pytest
import torch

import posneg
from posneg import _cache
from helpers import equal, parameters, set_gradients, twins, values


@pytest.fixture
def built(monkeypatch):
    """How many parameters each plan has that was built."""
    sizes = []

    class Plan(_cache.Plan):
        def __init__(self, groups, *of):
            super().__init__(groups, *of)
            sizes.append(len(_cache.due([p.grad for g in groups for p in g["params"]])))

    monkeypatch.setattr(_cache, "Plan", Plan)
    return sizes


@pytest.mark.parametrize("make", [posneg.AdaPNM, posneg.AdamW, lambda p: posneg.PNM(p, lr=0.1)], ids=["AdaPNM", "AdamW", "PNM"])
def test_swapped_lists_of_parameters(make, built):
    """As ZeRO-3 of DeepSpeed has them. Each step is that of an optimizer of its own."""
    a = parameters(5, (3, 4), 7)
    b = twins(a)
    x, ys = make(a[:1]), [make([p]) for p in b]
    for step in range(5):
        if step == 3:
            built.clear()
        set_gradients(a, b)
        for p, y in zip(a, ys):
            x.param_groups[0]["params"] = [p]
            x.step()
            x.param_groups[0]["params"] = []
            y.step()
        equal(a, b)
        assert [x.state[p]["step"].item() for p in a] == [step + 1] * 3
    assert not built


def test_some_have_a_gradient_in_turn(built):
    a = parameters(3, 4, 5)
    b = twins(a)
    x, ys = posneg.AdaPNM(a), [posneg.AdaPNM([p]) for p in b]
    for turn in range(12):
        set_gradients(a, b)
        for k, (p, y) in enumerate(zip(a, ys)):
            if turn % 3 == k:
                p.grad = None
            else:
                y.step()
        if turn == 6:
            built.clear()
        x.step()
        equal(a, b)
    assert not built
    equal(values(x), [v for y in ys for v in values(y)])


@pytest.mark.parametrize("change", ["reorder", "drop the first", "another first"])
def test_counts_stay_with_their_parameters(change):
    a, b, c = parameters(2, 2, 2)
    x = posneg.AdamW([a, b])
    for k in range(3):
        set_gradients([a, b])
        if k:
            a.grad = None
        x.step()
    set_gradients([a, b, c])
    x.param_groups[0]["params"] = {"reorder": [b, a], "drop the first": [b], "another first": [c, b]}[change]
    x.step()
    expected = {"reorder": (2, 4), "drop the first": (1, 4), "another first": (1, 4, 1)}[change]
    assert tuple(x.state[p]["step"].item() for p in (a, b, c) if p in x.state) == expected


def test_few_are_kept(monkeypatch):
    monkeypatch.setattr(_cache, "MOST_ROWS", 10)
    a = parameters(*[2] * 6)
    x = posneg.SGD(a, lr=1.0)
    for due in itertools.chain.from_iterable(itertools.combinations(a, n) for n in (1, 3, 6)):
        for p in a:
            p.grad = torch.ones_like(p) if any(p is q for q in due) else None
        x.step()
        assert sum(len(rows) for _, rows in x._plans._kept) <= 10
        assert sum(len(rows) for _, rows in x._plans._kept) == x._plans._rows
    assert x._plans._last in x._plans._kept.values()
    x._plans._most = 3
    for p in a:
        set_gradients(a)
        p.grad = None
        x.step()
    assert len(x._plans._kept) <= 3


def test_plans_hold_no_tensor():
    a = parameters(3, 4)
    x = posneg.AdamW(a)
    for p in a:
        set_gradients([p])
        x.param_groups[0]["params"] = [p]
        x.step()
        p.grad = None
    held = [weakref.ref(t) for p in a for t in (p, x.state[p]["exp_avg"])]
    x.param_groups[0]["params"] = []
    x.state.clear()
    del a, p
    gc.collect()
    assert not any(r() is not None for r in held)
