"""Parameters that share memory are refused when the optimizer is made; gradients that do are read as they were."""

import warnings

import pytest
import torch

import posneg
from helpers import PAIRS, close, equal, parameters, set_gradients, twins

base = torch.zeros(6, 6)
tied = torch.nn.Parameter(torch.zeros(3))
SHARED = {
    "twice": lambda: (tied, tied),
    "tied by data": lambda: (tied, torch.nn.Parameter(tied.data)),
    "partly": lambda: (torch.nn.Parameter(base[:3]), torch.nn.Parameter(base[2:])),
    "one in the other": lambda: (torch.nn.Parameter(base), torch.nn.Parameter(base[3, 3:4])),
    "columns": lambda: (torch.nn.Parameter(base[:, ::2]), torch.nn.Parameter(base[:, 2:4])),
    "transposed": lambda: (torch.nn.Parameter(base.t()), torch.nn.Parameter(base)),
    "other type": lambda: (torch.nn.Parameter(base), torch.nn.Parameter(base.view(torch.float64)[0])),
}
DISJOINT = {
    "rows": lambda: (torch.nn.Parameter(base[:3]), torch.nn.Parameter(base[3:])),
    "columns": lambda: (torch.nn.Parameter(base[:, ::2]), torch.nn.Parameter(base[:, 1::2])),
    "empty": lambda: (torch.nn.Parameter(base), torch.nn.Parameter(base[:0])),
}


@pytest.mark.parametrize("shared", SHARED.values(), ids=SHARED.keys())
def test_shared_parameters_are_refused(shared):
    a, b = shared()
    c, = parameters(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="parameter 1 of group 0 and parameter 2 of group 0 (share memory|are the same)"):
            posneg.SGD([c, a, b], lr=0.1)
        for groups in ([{"params": [c, a]}, {"params": [b]}], [{"params": [a]}, {"params": [c, b]}]):
            with pytest.raises(ValueError, match="group 0 and parameter . of group 1 share|more than one parameter group"):
                posneg.SGD(groups, lr=0.1)
        optimizer = posneg.SGD([c, a], lr=0.1)
        with pytest.raises(ValueError, match="share|more than one|same"):
            optimizer.add_param_group({"params": [b]})
    assert len(optimizer.param_groups) == 1
    set_gradients([c])
    optimizer.step()


@pytest.mark.parametrize("disjoint", DISJOINT.values(), ids=DISJOINT.keys())
def test_parameters_beside_each_other(disjoint):
    a = disjoint()
    b = twins(a)
    x, y = posneg.PNM(a, lr=1.0), posneg.PNM(b, lr=1.0)
    for _ in range(2):
        set_gradients(a, b)
        x.step(), y.step()
        equal(a, b)


def test_many_beside_each_other():
    """Thousands of columns of one matrix: too many pairs to compare."""
    matrix = torch.zeros(20, 3000)
    columns = [torch.nn.Parameter(matrix[:, i]) for i in range(3000)]
    posneg.SGD(columns, lr=0.1)
    with pytest.raises(ValueError, match="parameter 2998 of group 0 and parameter 3000 of group 0 share memory"):
        posneg.SGD([*columns, torch.nn.Parameter(matrix[7:9, 2998])], lr=0.1)


@pytest.mark.parametrize("gaps", [False, True])
def test_sharing_that_comes_later(gaps):
    a, b = parameters((4, 4), (4, 2))
    optimizer = posneg.PNM([a, b], lr=1.0)
    set_gradients([a, b])
    optimizer.step()
    before = a.detach().clone()
    b.data = a.data[:, ::2] if gaps else a.data.view(8, 2)[:4]
    with pytest.raises(ValueError, match="parameter 0 of group 0 and parameter 1 of group 0 share"):
        optimizer.step()
    assert torch.equal(a, before)


def test_materialised_later():
    model = torch.nn.Sequential(torch.nn.LazyLinear(3), torch.nn.Linear(3, 2))
    optimizer = posneg.AdamW(model.parameters())
    for dtype in (torch.float32, torch.float64):
        model.to(dtype)(torch.ones(2, 5, dtype=dtype)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        if dtype == torch.float32:
            for s in optimizer.state.values():
                s.clear()
    assert {s["exp_avg"].dtype for s in optimizer.state.values()} == {torch.float64}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
def test_gradients_that_are_parameters(pair):
    """A step reads them as they were before it."""
    ours, _, options = pair
    a = parameters(5, 5)
    b = twins(a)
    x, y = ours(a, **options), ours(b, **options)
    for _ in range(3):
        a[0].grad, a[1].grad = a[0].detach(), a[0].detach()
        b[0].grad, b[1].grad = a[0].detach().clone(), a[0].detach().clone()
        x.step(), y.step()
        equal(a, b)
    assert a[0].grad.data_ptr() == a[0].data_ptr()
