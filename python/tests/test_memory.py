"""Types, layouts and places of tensors."""

import pytest
import torch

import posneg
from posneg._masters import join
from posneg._eager import EagerAdaPNM
from helpers import PAIRS, close, equal, parameters, saved, set_gradients, twins, values

pairs = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())

LAYOUTS = {
    "transposed": lambda t: t.t(),
    "channels last": lambda t: t.reshape(4, 3, 5, 2).contiguous(memory_format=torch.channels_last),
    "every second column": lambda t: t[:, ::2],
    "inner part, transposed": lambda t: t[1:, 1:7].t(),
}


@pairs
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("gradients", ["as the parameter", "contiguous", "transposed"])
def test_layouts(pair, layout, gradients):
    ours, theirs, options = pair
    bases = [torch.randn(12, 10)] * 2
    a, b = [torch.nn.Parameter(layout(base.clone())) for base in bases]
    x, y = ours([a], **options), theirs([b], **options)
    for _ in range(5):
        g = torch.randn(b.shape)
        b.grad = g.clone()
        if gradients == "as the parameter":
            a.grad = torch.empty_like(a).copy_(g)
        elif gradients == "contiguous":
            a.grad = g
        else:
            a.grad = g.transpose(0, 1).contiguous().transpose(0, 1)
        x.step(), y.step()
        close([a], [b])


def test_gaps_are_not_touched():
    base = torch.randn(6, 8)
    before = base.clone()
    a = torch.nn.Parameter(base[:, ::2])
    b = torch.nn.Parameter(torch.randn(3))
    x = posneg.PNM([a, b], lr=1.0)
    set_gradients([a, b])
    x.step()
    assert torch.equal(base[:, 1::2], before[:, 1::2]) and not torch.equal(base[:, ::2], before[:, ::2])
    a.grad, after = None, base.clone()
    x.step()
    assert torch.equal(base, after)


def test_state_is_laid_out_as_the_parameter():
    a = torch.nn.Parameter(torch.randn(4, 3, 5, 2).contiguous(memory_format=torch.channels_last))
    x = posneg.AdaPNM([a])
    set_gradients([a])
    x.step()
    b = torch.nn.Parameter(a.detach().clone(memory_format=torch.contiguous_format))
    y = posneg.AdaPNM([b])
    y.load_state_dict(saved(x.state_dict()))
    a.grad = torch.randn(a.shape)
    b.grad = a.grad.clone()
    x.step(), y.step()
    equal([a], [b])
    assert x.state[a]["exp_avg"].stride() == a.stride() and y.state[b]["exp_avg"].stride() == b.stride()


@pairs
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex(pair, dtype):
    ours, theirs, options = pair
    a = parameters(5, (3, 4), dtype=dtype)
    a.append(torch.nn.Parameter(torch.randn(3, 4, dtype=dtype).t()))
    real = [torch.nn.Parameter(torch.view_as_real(p.detach().clone())) for p in a]
    x, y = ours(a, **options), theirs(real, **options)
    for step in range(5):
        set_gradients(a)
        for p, r in zip(a, real):
            r.grad = torch.view_as_real(p.grad.clone())
            if step % 2:
                p.grad = p.grad.conj().resolve_conj().conj()  # lazily conjugated
                assert p.grad.is_conj()
        x.step(), y.step()
        close([torch.view_as_real(p.detach()) for p in a], [r.detach() for r in real])
    assert all(v.dtype == dtype for v in values(x))


def test_a_gradient_that_is_lazily_negated():
    a = parameters(1)
    b = twins(a)
    z = torch.complex(torch.zeros(1), torch.ones(1)).conj().imag
    assert z.is_neg()
    a[0].grad, b[0].grad = z, z.resolve_neg().clone()
    posneg.PNM(a, lr=1.0).step(), posneg.PNM(b, lr=1.0).step()
    equal(a, b)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("state_dtype", [None, torch.bfloat16])
def test_16_bit_parameters_follow_float32(dtype, state_dtype):
    a = parameters(2000, dtype=dtype)
    b = [torch.nn.Parameter(p.detach().float()) for p in a]
    x = posneg.AdaPNM(a, lr=0.01, state_dtype=state_dtype)
    y = EagerAdaPNM(b, lr=0.01)
    for _ in range(50):
        set_gradients(a)
        b[0].grad = a[0].grad.float()
        x.step(), y.step()
    error = (a[0].detach().float() - b[0].detach()).abs()
    assert error.mean() < 4 * torch.finfo(dtype).eps + (0.01 if state_dtype else 0)
    assert all(s["exp_avg"].dtype == (state_dtype or torch.float32) for s in x.state.values())


@pytest.mark.parametrize("dtype, options", [(torch.bfloat16, {}), (torch.bfloat16, dict(master_weights=True)), (torch.float16, {})])
def test_small_steps_are_not_lost(dtype, options):
    """A step of 2^-14 is a 64th of the distance of bfloat16 numbers at 1, a 16th of float16's."""
    p = torch.nn.Parameter(torch.ones(5000, dtype=dtype))
    optimizer = posneg.SGD([p], lr=2.0**-14, **options)
    for _ in range(256):
        p.grad = torch.ones_like(p)
        optimizer.step()
    assert abs(float(p.detach().double().mean()) - (1 - 2.0**-6)) < 6e-4  # five standard deviations
    masters = {"master_param", "master_low"} & optimizer.state[p].keys()
    assert masters == ({"master_param"} if dtype == torch.float16 else {"master_low"} if options else set())
    if masters:
        trained = join(p, optimizer.state[p]["master_low"]) if options else optimizer.state[p]["master_param"]
        assert torch.equal(trained, torch.full((5000,), 1 - 2.0**-6))


def test_the_seed_decides_stochastic_rounding():
    start = parameters(1000, dtype=torch.bfloat16)
    gradient = torch.randn(1000, dtype=torch.bfloat16)
    results = []
    for seed in (1, 1, 2):
        p, = twins(start)
        p.grad = gradient.clone()
        posneg.SGD([("weight", p)], lr=0.01, seed=seed).step()
        results.append(p.detach())
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_what_others_write_to_a_float16_parameter_counts():
    p = torch.nn.Parameter(torch.ones(4, dtype=torch.float16))
    optimizer = posneg.SGD([p], lr=2.0**-14)

    def step():
        p.grad = torch.ones_like(p)
        optimizer.step()

    step()
    with torch.no_grad():
        p[1] = 3.0
    step()
    p.data = torch.tensor([1.0, 3.0, 5.0, 1.0], dtype=torch.float16)
    step()
    small = 2.0**-14
    assert optimizer.state[p]["master_param"].tolist() == [1 - 3 * small, 3 - 2 * small, 5 - small, 1 - 3 * small]


def test_mixed_types_in_one_list():
    types = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
    a = [torch.nn.Parameter(torch.randn(30, dtype=t)) for t in types]
    b = twins(a)
    together, alone = posneg.AdaPNM(a), [posneg.AdaPNM([p]) for p in b]
    for _ in range(3):
        set_gradients(a, b)
        together.step()
        for optimizer in alone:
            optimizer.step()
    equal(a[:2] + a[3:], b[:2] + b[3:])  # the draws of bfloat16 depend on the place in the list


def test_one_call_whatever_the_types(monkeypatch):
    from posneg import _library

    calls, original = [], _library.Call.run
    monkeypatch.setattr(_library.Call, "run", lambda call, *a: (calls.append(call.steps), original(call, *a)))
    params = parameters(3, 4) + parameters(5, dtype=torch.float64) + parameters(6, dtype=torch.bfloat16)
    optimizer = posneg.AdamW([{"params": params[:2]}, {"params": params[2:]}])
    for _ in range(2):
        set_gradients(params)
        optimizer.step()
    assert calls == [4, 4]


@pytest.mark.parametrize("dense", [False, True])
def test_sparse_gradients_are_refused(dense):
    embedding = torch.nn.Embedding(10, 3, sparse=True)
    optimizer = posneg.PNM(embedding.parameters(), lr=1.0)
    if dense:  # the first step
        set_gradients([embedding.weight])
        optimizer.step()
        embedding.weight.grad = None
    embedding(torch.tensor([1, 2])).sum().backward()
    before = embedding.weight.detach().clone()
    with pytest.raises(RuntimeError, match="sparse=False"):
        optimizer.step()
    assert torch.equal(embedding.weight, before)


def test_other_devices_are_refused():
    p = torch.nn.Parameter(torch.zeros(3, device="meta"))
    optimizer = posneg.PNM([p], lr=1.0)
    p.grad = torch.zeros(3, device="meta")
    with pytest.raises(RuntimeError, match=r"meta.*model\.cpu\(\)"):
        optimizer.step()
