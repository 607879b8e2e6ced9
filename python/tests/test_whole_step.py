"""What a step does around the update: clip_norm, clip_value, skip_non_finite, zero_grads, and what it reports."""

import copy
import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
import torch

import posneg
from helpers import CLASSES, RULES, bits, equal, parameters, saved, set_gradients, twins, values
from test_interrupts import run

needs_scaler = pytest.mark.skipif(not hasattr(torch.amp, "GradScaler"), reason="this torch has no torch.amp.GradScaler")
ALL = dict(clip_norm=0.5, clip_value=0.125, skip_non_finite=True, zero_grads=True)
NONE = dict(clip_norm=None, clip_value=None, skip_non_finite=False, zero_grads=False)


def real(t):
    return torch.view_as_real(t) if t.is_complex() else t


def norm_of(gradients):
    """The norm of all elements by its definition: squares, rounded to whole numbers of a grid, whose sum is exact."""
    parts = [real(g.resolve_conj().resolve_neg()).double().flatten() for g in gradients]
    largest = max((float(t.abs().max()) for t in parts if t.numel()), default=0.0)
    if not largest:
        return 0.0
    window = -(-(math.frexp(largest)[1] - 1 - 24) // 26)
    total = 0
    for g, t in zip(gradients, parts):
        for x in t.tolist():
            mantissa, exponent = math.frexp(x)
            square = Fraction(mantissa) ** 2
            if g.dtype in (torch.float64, torch.complex128):
                square = Fraction(mantissa * mantissa)  # rounded once
            total += round(square * Fraction(2) ** (2 * exponent - 52 * (window - 1)))
    return math.ldexp(math.sqrt(float(total)), 26 * (window - 1))


def clip(params, norm, clip_norm=None, clip_value=None, scale=1.0, **_):
    """What the step does to gradients, operation by operation, in the type that it computes in."""
    factor = 1 / scale * (min(1.0, clip_norm / norm) if clip_norm else 1.0)
    for p in params:
        if p.grad is not None:
            g = real(p.grad.detach())
            wide = g if g.dtype == torch.float64 else g.float()
            g_new = wide * (factor if wide.dtype == torch.float64 else float(np.float32(factor)))
            if clip_value:
                bound = clip_value if wide.dtype == torch.float64 else float(np.float32(clip_value))
                g_new = g_new.clamp(-bound, bound)
            set_any(p, torch.view_as_complex(g_new.contiguous()) if p.is_complex() else g_new)


def set_any(p, g):
    """Sets a gradient of another type, too."""
    if hasattr(p, "grad_dtype"):
        p.grad_dtype = None
        p.grad = g
    else:
        data = p.data
        p.grad, p.data = None, torch.empty_like(g)
        p.grad, p.data = g, data


@pytest.mark.parametrize("ours, how", RULES.values(), ids=RULES.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64], ids=str)
def test_bits(ours, how, dtype):
    """A step with the options is one with gradients that were clipped before; the norm is that of all groups."""
    cases = [dict(clip_norm=0.5), dict(clip_value=0.25), ALL, NONE, dict(clip_norm=math.inf), dict(zero_grads=True)]
    a = parameters((5, 7), 3, (), 0, (4, 40), dtype=dtype)
    b = twins(a)
    x, y = (ours([{"params": enumerate(p[:2])}, {"params": enumerate(p[2:], 2), "weight_decay": 0.5}], **how) for p in (a, b))
    for step, options in enumerate(cases):
        for name, value in {**NONE, **options}.items():
            setattr(x, name, value)
        set_gradients(a, b, scale=3.0)
        if step == 2:
            a[0].grad = b[0].grad = None
        x.step()
        norm = norm_of([p.grad for p in b if p.grad is not None])
        if options.get("clip_norm") or options.get("skip_non_finite"):
            assert x.grad_norm == norm > 0.5
        else:
            assert x.grad_norm is None
        for p, q in zip(a, b):
            assert p.grad is None or torch.equal(bits(p.grad), bits(torch.zeros_like(q) if options.get("zero_grads") else q.grad))
        clip(b, norm, **options)
        y.step()
        assert x.skipped is False
        equal(map(bits, a), map(bits, b))
        equal(map(bits, values(x)), map(bits, values(y)))


@pytest.mark.parametrize("how", [dict(state_dtype="mxfp8"), dict(master_weights=True), dict(state_dtype="bfloat16")], ids=str)
def test_formats(how):
    a = parameters((3, 70), 40, dtype=torch.bfloat16)
    b = twins(a)
    x, y = posneg.AdamW(enumerate(a), **how, **ALL), posneg.AdamW(enumerate(b), **how)
    for _ in range(3):
        set_gradients(a, b)
        x.step()
        clip(b, x.grad_norm, **ALL)
        y.step()
    equal(map(bits, [*a, *values(x)]), map(bits, [*b, *values(y)]))


@pytest.mark.parametrize("ours", CLASSES)
def test_as_torch_clips(ours):
    a = parameters((30, 7), 3)
    b = twins(a)
    x, y = ours(a, lr=0.1, clip_norm=1.0, zero_grads=True), ours(b, lr=0.1)
    for _ in range(5):
        set_gradients(a, b)
        x.step()
        norm = torch.nn.utils.clip_grad_norm_(b, 1.0)
        torch.testing.assert_close(x.grad_norm, float(norm), rtol=1e-6, atol=0)
        y.step()
        if ours is posneg.Lion:  # a sign may differ
            assert sum(int((p - q).abs().gt(1e-5).sum()) for p, q in zip(a, b)) < 3
            continue
        for p, q in zip(a, b):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
            assert not p.grad.any()


def test_norm_does_not_depend_on_threads():
    params = parameters(200_001, 5, 400_000)
    set_gradients(params)
    norms, before = set(), torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            optimizer = posneg.SGD(params, lr=0.0, clip_norm=math.inf)
            optimizer.step()
            norms.add(optimizer.grad_norm)
    finally:
        torch.set_num_threads(before)
    assert norms == {norm_of([p.grad for p in params])}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("zero", [False, True])
def test_skips(bad, zero):
    a = parameters(3, (2, 4))
    b = twins(a)
    x, y = posneg.AdaPNM(a, skip_non_finite=True, zero_grads=zero), posneg.AdaPNM(b)
    for k in range(5):
        set_gradients(a, b)
        if k in (0, 3):
            a[1].grad[1, 2] = bad
            given = a[1].grad.clone()
            x.step()
            assert x.skipped and not math.isfinite(x.grad_norm)
            equal(map(bits, [a[1].grad]), map(bits, [torch.zeros(2, 4) if zero else given]))
        else:
            x.step()
            y.step()
            assert not x.skipped and x.grad_norm > 0
        equal(a, b)
    assert {int(s["step"]) for s in x.state.values()} == {3}


def test_without_gradients():
    x = posneg.PNM(parameters(3), lr=1.0, **ALL)
    x.step()
    assert x.grad_norm == 0.0 and x.skipped is False
    x.clip_norm, x.skip_non_finite = None, False
    x.step()
    assert x.grad_norm is None


LAYOUTS = {
    "transposed": lambda g: g.t().clone().t(),
    "expanded": lambda g: g[:1].clone().expand_as(g),
    "expanded twice": lambda g: g[:1, :1].clone().expand_as(g),
    "gaps": lambda g: torch.stack((g, g), -1)[..., 0],
    "negative": lambda g: torch._neg_view(g.clone()),
    "zeros without memory": lambda g: torch._efficientzerotensor(g.shape),
    "its own graph": lambda g: (g.clone().requires_grad_() * 2),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_zeroes_what_the_engine_sees_as_a_copy(layout):
    a, b = parameters((4, 6), 3), None
    b = twins(a)
    x, y = posneg.AdamW(a, zero_grads=True, skip_non_finite=True), posneg.AdamW(b)
    for k in range(4):
        set_gradients(a, b)
        a[0].grad = layout(a[0].grad)
        b[0].grad = a[0].grad.detach() + 0
        held, version = a[0].grad, a[0].grad._version
        if k == 2:
            a[1].grad[0] = math.nan
        x.step()
        if k != 2:
            y.step()
        assert x.skipped == (k == 2) and a[0].grad is held and not held.any() and not a[1].grad.any()
        assert held._version > version or not hasattr(torch.autograd.graph, "increment_version") or held._is_zerotensor()
        equal(map(bits, [*a, *values(x)]), map(bits, [*b, *values(y)]))


def test_refuses_to_zero_what_torch_does_not_change():
    params = parameters((2, 3))
    before, optimizer = twins(params), posneg.AdaPNM(params, zero_grads=True)
    with torch.inference_mode():
        params[0].grad = torch.ones(3, 2).t()
    for found in (None, torch.tensor(1.0)):
        optimizer.found_inf = found
        with pytest.raises(RuntimeError, match=r"gradient of shape \(2, 3\) that was made in inference_mode"):
            optimizer.step()
        equal(params, before)
    assert optimizer.state[params[0]]["step"] == 0


def test_zeroes_complex_and_half_gradients():
    p, q = torch.nn.Parameter(torch.ones(3, 4, dtype=torch.complex64)), torch.nn.Parameter(torch.ones(5))
    p.grad = torch.randn(4, 3, dtype=torch.complex64).t().conj()
    set_any(q, torch.ones(5).bfloat16())
    x = posneg.AdaPNM([p, q], **ALL)
    norm = norm_of([p.grad, q.grad])
    x.step()
    assert not p.grad.any() and not q.grad.any() and x.grad_norm == norm


def test_zeroes_a_gradient_of_two_parameters():
    a = parameters(4, 4)
    b = twins(a)
    g = torch.randn(4)
    for same in (a, b):
        for p in same:
            p.grad = g.clone() if same is b else g
    posneg.AdaPNM(a, zero_grads=True).step()
    posneg.AdaPNM(b).step()
    assert not g.any()
    equal(a, b)


def test_refuses_to_zero_parameters():
    params = parameters(4, 4)
    before = twins(params)
    optimizer = posneg.AdaPNM(params, zero_grads=True)
    params[0].grad, params[1].grad = torch.ones(4), params[1].detach()
    with pytest.raises(ValueError, match="would overwrite parameters or state: the gradient of parameter 1 of group 0 shares"):
        optimizer.step()
    equal(params, before)
    assert params[0].grad.all() and all(s["step"] == 0 for s in optimizer.state.values())
    optimizer.zero_grads = False
    optimizer.step()
    assert not torch.equal(params[1], before[1])


@pytest.mark.parametrize("name, values, error", [
    ("clip_norm", [0, -1.0, math.nan, -0.0, "1", (1,), True, 10**400, torch.ones(2)], ValueError),
    ("clip_value", [0, -math.inf, math.nan, "1", {}, False], ValueError),
    ("skip_non_finite", [1, None, "no"], TypeError), ("zero_grads", [0, None, "set_to_none"], TypeError),
    ("process_group", [1, "world"], TypeError),
])  # fmt: skip
def test_invalid(name, values, error):
    optimizer = posneg.PNM(parameters(2), lr=1.0)
    for value in values:
        for ours in CLASSES:
            with pytest.raises(error, match=f"Invalid {name}: "):
                ours(parameters(2), lr=1.0, **{name: value})
        with pytest.raises(error, match=f"Invalid {name}: "):
            setattr(optimizer, name, value)
        assert getattr(optimizer, name) is (False if error is TypeError and name in ("skip_non_finite", "zero_grads") else None)


@pytest.mark.parametrize("name", ["clip_norm", "clip_value", "skip_non_finite", "zero_grads", "process_group"])
def test_groups_have_none(name):
    params = parameters(2, 3)
    with pytest.raises(ValueError, match=f"Invalid {name} in a group, since it belongs to the whole optimizer"):
        posneg.AdamW([{"params": params[:1], name: 1.0}])
    optimizer = posneg.AdamW(params[:1])
    with pytest.raises(ValueError, match=f"Invalid {name} in a group"):
        optimizer.add_param_group({"params": params[1:], name: 1.0})
    assert len(optimizer.param_groups) == 1


def test_too_small_a_bound_is_refused_before_anything_is_written():
    params = parameters(3)
    set_gradients(params)
    before, optimizer = twins(params), posneg.PNM(params, lr=1.0, clip_value=1e-60, zero_grads=True)
    with pytest.raises(ValueError, match="clip_value|ClipValue"):
        optimizer.step()
    equal(params, before)
    assert params[0].grad.all()


def test_options_are_keyword_only_and_in_no_group():
    for ours in CLASSES:
        optimizer = ours(parameters(2), lr=1.0, **ALL)
        assert {name: getattr(optimizer, name) for name in ALL} == ALL and optimizer.process_group is None
        assert not {*ALL, "process_group"} & {*optimizer.defaults, *optimizer.param_groups[0]}
        assert ours(parameters(2), lr=1.0, clip_norm=torch.tensor(2.0), clip_value=np.float32(1)).clip_norm == 2.0


def test_state_dicts():
    params = parameters(3)
    set_gradients(params)
    x = posneg.AdamW(params, **ALL)
    x.step()
    state = x.state_dict()
    assert state["step_options"] == ALL == saved(state)["step_options"]
    y = posneg.AdamW(twins(params), clip_norm=3.0)
    y.load_state_dict(saved(state))
    assert y.state_dict()["step_options"] == ALL and y.clip_value == 0.125
    torch.optim.AdamW(twins(params)).load_state_dict(state)
    y.load_state_dict(torch.optim.AdamW(params).state_dict())
    assert y.state_dict()["step_options"] == ALL  # torch has none
    y.load_state_dict(posneg.AdamW(params).state_dict())
    assert y.state_dict()["step_options"] == NONE
    before = y.state_dict()
    for bad in ({"clip_norm": -1.0}, {"zero_grads": 1}, {"clip": 1.0}, [1.0]):
        with pytest.raises((ValueError, TypeError), match="Invalid (clip_norm|zero_grads|step_options)"):
            y.load_state_dict({**state, "step_options": bad})
        assert y.state_dict()["step_options"] == before["step_options"] and not y.state_dict()["state"]


def test_copies():
    params = parameters(3)
    set_gradients(params)
    x = posneg.AdaPNM(params, **ALL)
    x.step()
    for y in (copy.deepcopy(x), pickle.loads(pickle.dumps(x)), copy.copy(x)):
        assert {name: getattr(y, name) for name in ALL} == ALL
        z = y.param_groups[0]["params"]
        z[0].grad = torch.full((3,), 100.0)
        y.step()
        assert y.grad_norm > 100 and not z[0].grad.any()
    old = x.__getstate__()
    old.pop("step_options")  # of an older version
    y = posneg.AdaPNM.__new__(posneg.AdaPNM)
    y.__setstate__(old)
    assert {name: getattr(y, name) for name in ALL} == NONE


def test_wrappers_that_are_subclasses():
    """Lightning hands out such ones, which have nothing of the optimizer until they are asked."""
    params = parameters(3)
    set_gradients(params)
    optimizer = posneg.AdaPNM(params, **ALL)
    methods = dict(__init__=lambda self: None, __getattr__=lambda self, name: getattr(optimizer, name))
    wrapper = type("Wrapper", (posneg.AdaPNM,), methods)()
    optimizer.step()
    assert wrapper.clip_norm == 0.5 and wrapper.grad_norm == optimizer.grad_norm > 0 and not wrapper.skipped
    wrapper.clip_norm = 2.0
    assert optimizer.clip_norm == 2.0


def test_closure():
    p = torch.nn.Parameter(torch.ones(4))
    optimizer = posneg.SGD([p], lr=1.0, clip_norm=1.0, zero_grads=True)

    def closure():
        loss = 8 * p.sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 32 and optimizer.grad_norm == 16.0
    assert p.tolist() == [0.5] * 4 and not p.grad.any()


@pytest.mark.parametrize(
    "options", [dict(clip_norm=0.1), dict(clip_value=0.01), dict(skip_non_finite=True), dict(zero_grads=True), ALL], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@needs_scaler
def test_scaler(options, dtype):
    """The step divides by the scale: the norm is that of unscaled gradients, also if they have been unscaled before."""
    for unscale in [False, True] if dtype == torch.float32 else [False]:
        a = parameters((4, 3), dtype=dtype)
        b = twins(a)
        x, y = posneg.AdamW(a, **options), posneg.AdamW(b)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**6, growth_interval=1000)
        scaler.scale(torch.zeros(()))
        assert x._step_supports_amp_scaling
        for k in range(5):
            scale = scaler.get_scale()
            set_gradients(a, b)
            for p in a:
                p.grad *= scale
            if k in (1, 3):
                a[0].grad[0, 0] = math.inf
            if unscale:
                scaler.unscale_(x)
            scaler.step(x)
            scaler.update()
            assert x.skipped == (k in (1, 3)) and scaler.get_scale() == (scale / 2 if x.skipped else scale)
            assert bool(a[0].grad.any()) != options.get("zero_grads", False)
            if x.skipped:
                continue
            if "clip_norm" in options or "skip_non_finite" in options:
                assert x.grad_norm == norm_of([p.grad for p in b])
            clip(b, x.grad_norm, **options)
            y.step()
            equal(map(bits, [*a, *values(x)]), map(bits, [*b, *values(y)]))


@pytest.mark.parametrize("layout", ["plain", "expanded"])
def test_interrupted_anywhere(layout):
    """A step is done, counted and its gradients are zero, or none of this."""

    def make():
        p = torch.nn.Parameter(torch.ones(3, 2))
        p.grad = LAYOUTS["expanded"](torch.ones(3, 2)) if layout == "expanded" else torch.ones(3, 2)
        return p, posneg.PNM([p], lr=0.25, clip_norm=1.0, zero_grads=True)

    p, optimizer = make()
    optimizer.step()
    ends, moment, interrupted, seen = [torch.ones(3, 2), p.detach().clone()], 0, True, set()
    while interrupted:
        moment += 1
        p, optimizer = make()
        interrupted = run(optimizer, [p], moment)
        done = int(optimizer.state.get(p, {}).get("step", 0))
        seen.add(done)
        equal([p], [ends[done]])
        assert bool(p.grad.any()) != bool(done)
    assert seen == {0, 1} and moment > 100
