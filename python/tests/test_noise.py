"""The gradient noise, read from the momenta of PNM and AdaPNM."""

import copy
import itertools
import math
import pickle
import sys
import time

import numpy as np
import pytest
import torch

import posneg
import posneg.offload
from helpers import CLASSES, bits, equal, parameters, saved, set_gradients, twins
from posneg import _library
from posneg._noise import exact_sum
from test_distributed import pytestmark as needs_gloo
from test_distributed import run
from test_interrupts import run as interrupt

BOTH = [(posneg.PNM, dict(lr=0.1, betas=(0.8, 1.0))), (posneg.AdaPNM, dict(lr=0.01, betas=(0.8, 0.99, 1.0)))]
each_rule = pytest.mark.parametrize("ours, how", BOTH, ids=["PNM", "AdaPNM"])
FORMATS = {
    "float32": dict(), "float64": dict(dtype=torch.float64), "complex": dict(dtype=torch.complex64),
    "bfloat16 state": dict(state_dtype="bfloat16"), "mxfp8": dict(state_dtype="mxfp8"),
    "masters": dict(dtype=torch.bfloat16, master_weights=True), "float16": dict(dtype=torch.float16),
}  # fmt: skip
each_format = pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS.keys())
SHAPES = (5, 70), 33, (), 0, (3, 4, 5)
B = 0.8 * 0.8


def momenta(optimizer, p):
    """The two momenta as real numbers, in the type of the arithmetic."""
    pos, neg = [name for name in optimizer._slots(optimizer.param_groups[0]) if "sq" not in name]
    state = optimizer.state[p]
    both = []
    for name in (pos, neg):
        t = state[name]
        if name + "_scales" in state:
            t = posneg._mx.unpack(t, state[name + "_scales"])
        t = torch.view_as_real(t) if t.is_complex() else t
        both.append(t.double() if t.dtype == torch.float64 else t.float())
    return both


def left(k):
    """The variance of an average of k gradients with decay B."""
    return (1 - B) * (1 + B**k) / ((1 + B) * (1 - B**k))


def by_definition(optimizer, p, step):
    """The sums, as sums of squares of vectors in memory, and the estimates, in float64."""
    counts = (step + 1) // 2, step // 2
    hats = []
    for m, k in zip(momenta(optimizer, p), counts):
        w = 1 / (1 - B**k)
        hats.append(m * (w if m.dtype == torch.float64 else float(np.float32(w))))
    words = []
    for t in (hats[0] + hats[1], hats[0] - hats[1]):
        vector, squares = np.zeros(1, _library.VECTOR), np.zeros(_library.SQUARES, np.int64)
        t = t.contiguous()
        vector["data"], vector["length"], vector["dtype"] = t.data_ptr(), t.numel(), int(t.dtype == torch.float64)
        _library.sum_squares(vector, 1, squares)
        words.append(squares)
    m, n = (h.double().flatten() for h in hats)
    return np.concatenate(words), float(m @ n), float((m - n).square().sum()) / (left(counts[0]) + left(counts[1]))


def same(a, b):
    return a == b or a != a and b != b


@each_rule
@each_format
def test_definition(ours, how, form):
    form = dict(form)
    a = parameters(*SHAPES, dtype=form.pop("dtype", torch.float32))
    optimizer = ours(enumerate(a), noise_every=1, **how, **form)
    for step in range(1, 13):
        set_gradients(a, scale=3.0)
        optimizer.noise_every = 1  # begins a new average: that of a single reading
        optimizer.step()
        now = optimizer.noise_scale()
        if step == 1:
            assert optimizer.noise is None and now.readings == 0 and math.isnan(now.signal) and math.isnan(now.scale)
            continue
        sums = optimizer._sums()
        for i, p in enumerate(a):
            words, signal, variance = by_definition(optimizer, p, step)
            assert (sums.words[i] == words).all()
            n = now.params[i]
            assert n.signal == pytest.approx(signal, rel=1e-5, abs=1e-5 * variance) and n.variance == pytest.approx(variance, rel=1e-5)
        assert now.signal == math.fsum(n.signal for n in now.params) and now.variance == math.fsum(n.variance for n in now.params)
        for read in (lambda n: [n, *n.groups, *n.params], lambda n: [m for m in n.groups]):
            for x, y in zip(read(optimizer.noise), read(now)):
                assert (x.signal, x.variance, x.readings) == (y.signal, y.variance, 1)
        assert len(now.groups) == 1 and len(now.params) == len(a)


@each_rule
@pytest.mark.parametrize("state_dtype", [None, "bfloat16", "mxfp8"])
def test_estimates(ours, how, state_dtype):
    """Gradients of a known mean and a known variance. The learning rate is 0, so that they keep both."""
    generator = torch.Generator().manual_seed(3)
    n, steps = 20_000, 300
    mean = torch.randn(n, generator=generator) * 0.3
    p = torch.nn.Parameter(torch.zeros(100, n // 100))
    optimizer = ours([("p", p)], **{**how, "lr": 0.0}, noise_every=5, state_dtype=state_dtype)
    for _ in range(steps):
        p.grad = (mean + 1.5 * torch.randn(n, generator=generator)).view_as(p)
        optimizer.step()
    found, signal, variance = optimizer.noise, float(mean.double().square().sum()), 2.25 * n
    assert found.readings == steps // 5
    assert abs(found.signal / signal - 1) < 0.05 and abs(found.signal - signal) < 3 * found.signal_error
    assert abs(found.variance / variance - 1) < 0.02
    assert state_dtype == "mxfp8" or abs(found.variance - variance) < 3 * found.variance_error
    assert found.scale == found.variance / found.signal and 0 < found.scale_error < 0.05 * found.scale


def test_threads():
    params = parameters(300_001, 5, (300, 300))
    optimizer = posneg.AdaPNM(params, noise_every=1)
    found, before = set(), posneg.get_num_threads()
    try:
        for threads in (1, 2, 3, 7):
            posneg.set_num_threads(threads)
            o = copy.deepcopy(optimizer)
            params = o.param_groups[0]["params"]
            torch.manual_seed(1)
            for _ in range(3):
                set_gradients(params)
                o.step()
            found.add((o.noise.signal, o.noise.variance))
    finally:
        posneg.set_num_threads(None)
    assert len(found) == 1 and posneg.get_num_threads() == before


def test_bits_of_a_step_do_not_change():
    a = parameters((40, 70), 33)
    b = twins(a)
    x, y = posneg.AdaPNM(a, noise_every=2), posneg.AdaPNM(b)
    for _ in range(5):
        set_gradients(a, b)
        x.step(), y.step()
    equal(map(bits, a), map(bits, b))


def test_groups_and_layouts():
    """Totals are sums; gaps and strides change nothing."""
    a = parameters((6, 5), 7, (4, 3, 2, 2))
    b = [torch.nn.Parameter(torch.stack((a[0].detach(),) * 2, -1)[..., 0]), twins(a[1:2])[0],
         torch.nn.Parameter(a[2].detach().clone(memory_format=torch.channels_last))]  # fmt: skip
    x, y = (posneg.PNM([dict(params=p[:1], betas=(0.5, 1.0)), dict(params=p[1:])], lr=0.1, noise_every=1) for p in (a, b))
    for _ in range(4):
        set_gradients(a, b)
        x.step(), y.step()
    now = x.noise_scale()
    assert [g.signal for g in now.groups] == [now.params[0].signal, math.fsum(n.signal for n in now.params[1:])]
    assert now.variance == math.fsum(n.variance for n in now.params)
    assert x.noise == y.noise and x.noise_scale() == y.noise_scale()


def test_a_parameter_without_a_gradient_is_not_read():
    a = parameters(30, 40)
    optimizer = posneg.PNM(a, lr=0.1, noise_every=1)
    for step in range(6):
        set_gradients(a)
        if step in (2, 3):
            a[1].grad = None
        optimizer.step()
    assert [n.readings for n in optimizer.noise.params] == [5, 3]
    now = optimizer.noise_scale()
    assert [n.readings for n in now.params] == [1, 1]


def alternating(step, a):
    """The gradients of experts: the first parameter has one in each step, the second in three of four, the third in the fourth."""
    set_gradients(a)
    for i in (1, 2):
        if (step % 4 == 0) == (i == 1):
            a[i].grad = None


def test_experts():
    """The readings of a group and of all are as far apart as the optimizer's steps, whatever the counts of those that have a gradient."""
    a = parameters(7, 9, 8)
    optimizer = posneg.PNM([dict(params=a[:1]), dict(params=a[1:])], lr=0.1, noise_every=1)
    total, group = posneg.NoiseAverage(), posneg.NoiseAverage()
    for step in range(1, 41):
        alternating(step, a)
        optimizer.step()
        now = optimizer.noise_scale().params
        read = [n if p.grad is not None else posneg.Noise(0.0, 0.0, 0) for n, p in zip(now, a)]
        for average, those in ((total, read), (group, read[1:])):
            if any(n.readings for n in those):
                there = [n for n in those if n.readings]
                average.add(posneg.Noise(math.fsum(n.signal for n in there), math.fsum(n.variance for n in there)), step, 0.9)
    found = optimizer.noise
    assert [n.readings for n in (found, *found.groups, *found.params)] == [39, 39, 38, 39, 29, 9]
    for n, expected in ((found, total.estimate()), (found.groups[1], group.estimate())):
        assert str([n.signal, n.variance, n.signal_error, n.variance_error, n.scale_error]) == str(
            [expected.signal, expected.variance, expected.signal_error, expected.variance_error, expected.scale_error]
        )
        assert n.signal_error > 0 and n.variance_error > 0


def test_every_after_a_restart():
    """Readings come at the steps at which they do in a program that begins there, as in Go."""
    a = parameters(30)
    optimizer = posneg.PNM(a, lr=0.1, noise_every=10)
    restarts = [lambda: optimizer.load_state_dict(optimizer.state_dict()), lambda: optimizer.add_param_group(dict(params=parameters(4)))]
    for restart in restarts:
        for _ in range(5):
            set_gradients(a), optimizer.step()
        restart()
        assert optimizer.noise is None
        for step in range(1, 21):
            set_gradients(a), optimizer.step()
            assert (optimizer.noise.readings if optimizer.noise else 0) == step // 10


def test_every():
    a = parameters(30)
    optimizer = posneg.AdaPNM(a, noise_every=3, skip_non_finite=True)
    readings = []
    for step in range(1, 13):
        set_gradients(a)
        if step == 6:
            a[0].grad[3] = math.nan
        optimizer.step()
        readings.append(optimizer.noise.readings if optimizer.noise else 0)
    assert readings == [0, 0, 1, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    optimizer.noise_every = 2
    assert optimizer.noise is None
    set_gradients(a), optimizer.step()
    assert optimizer.noise is None
    set_gradients(a), optimizer.step()
    assert optimizer.noise.readings == 1
    optimizer.noise_every = None
    assert optimizer.noise is None


def test_what_begins_a_new_average(tmp_path):
    a = parameters(30)
    optimizer = posneg.PNM(a, lr=0.1, noise_every=1)

    def steps(n=2):
        for _ in range(n):
            set_gradients([p for group in optimizer.param_groups for p in group["params"]])
            optimizer.step()
        return optimizer.noise.readings

    assert steps(4) == 3
    optimizer.noise_decay = 0.5
    assert optimizer.noise is None and steps() == 2
    state = optimizer.state_dict()
    optimizer.load_state_dict(state)
    assert optimizer.noise is None and steps() == 2
    optimizer.load_state_dict({name: value for name, value in saved(state).items() if name != "step_options"})
    assert optimizer.noise is None and optimizer.noise_every == 1 and steps() == 2
    posneg.save_checkpoint(tmp_path / "run", optimizer)
    steps()
    posneg.load_checkpoint(tmp_path / "run", optimizer)
    assert optimizer.noise is None and steps() == 2
    optimizer.state.clear()
    assert steps(3) == 2
    other = parameters(5)
    optimizer.param_groups[0]["params"] += other
    assert steps(3) == 3 and [n.readings for n in optimizer.noise.params] == [3, 2]
    optimizer.state[other[0]].clear()
    assert steps(3) == 2 and [n.readings for n in optimizer.noise.params] == [2, 2]
    del optimizer.param_groups[0]["params"][1]
    optimizer.add_param_group(dict(params=parameters(3)))
    assert optimizer.noise is None and steps(1) == 1 and len(optimizer.noise.groups) == 2


def test_copies_and_state_dicts():
    a = parameters(30)
    optimizer = posneg.AdaPNM(a, noise_every=5, noise_decay=0.75)
    for made in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert made.noise_every == 5 and made.noise_decay == 0.75 and made.noise is None
    other = posneg.AdaPNM(twins(a))
    other.load_state_dict(saved(optimizer.state_dict()))
    assert other.noise_every == 5 and other.noise_decay == 0.75
    with pytest.raises(ValueError, match="noise_every: 5, must be None: only PNM and AdaPNM"):
        posneg.AdamW(twins(a)).load_state_dict(optimizer.state_dict())
    noise = posneg.Noise(1.0, 2.0, params=(posneg.Noise(3.0, 4.0),))
    again = pickle.loads(pickle.dumps(noise))
    assert repr(again) == repr(noise) and repr(again.params) == repr(noise.params) and "params" not in repr(noise)


@pytest.mark.parametrize("name, values", [
    ("noise_every", [0, -1, 1.0, "10", True, math.inf]), ("noise_decay", [0, -0.5, 1.5, math.nan, "1", None]),
])  # fmt: skip
@each_rule
def test_invalid(ours, how, name, values):
    optimizer = ours(parameters(2), **how)
    for value in values:
        with pytest.raises(ValueError, match=f"Invalid {name}: "):
            ours(parameters(2), **how, **{name: value})
        with pytest.raises(ValueError, match=f"Invalid {name}: "):
            setattr(optimizer, name, value)
        assert optimizer.noise_every is None and optimizer.noise_decay == 1.0
    with pytest.raises(ValueError, match=f"Invalid {name} in a group"):
        ours([{"params": parameters(2), name: values[0]}], **how)
    optimizer.noise_every = np.int64(3)
    assert optimizer.noise_every == 3


@pytest.mark.parametrize("ours", [c for c in CLASSES if c not in (posneg.PNM, posneg.AdaPNM)])
def test_other_rules(ours):
    optimizer = ours(parameters(2), lr=0.1)
    optimizer.noise_every = None
    with pytest.raises(ValueError, match="Invalid noise_every: 10, must be None: only PNM and AdaPNM have two momenta"):
        optimizer.noise_every = 10
    assert optimizer.noise_every is None and optimizer.noise is None
    with pytest.raises(TypeError, match=f"{ours.__name__} has no gradient noise to read: only PNM and AdaPNM"):
        optimizer.noise_scale()
    with pytest.raises(TypeError, match="noise_every"):
        ours(parameters(2), lr=0.1, noise_every=10)


def test_broken_states():
    a = parameters(30, 4)
    optimizer = posneg.PNM(a, lr=0.1)
    for _ in range(2):
        set_gradients(a)
        optimizer.step()
    optimizer.state[a[1]]["neg_momentum"] = torch.zeros(3)
    with pytest.raises(ValueError, match="'neg_momentum' of parameter 1 of group 0 has shape"):
        optimizer.noise_scale()
    optimizer.state[a[1]].clear()
    assert [n.readings for n in optimizer.noise_scale().params] == [1, 0]
    optimizer.state[a[0]]["pos_momentum"][7] = math.nan
    optimizer.noise_every = 1
    set_gradients(a[:1])
    optimizer.step()
    assert math.isnan(optimizer.noise.signal) and math.isnan(optimizer.noise.scale) and math.isnan(optimizer.noise_scale().variance)


def test_loaded_states_are_read_before_a_step():
    """From float64 counts, 16 bits, and other layouts, as torch's load_state_dict leaves them."""
    a = parameters((4, 40))
    x = posneg.AdaPNM(a, state_dtype="mxfp8")
    for _ in range(3):
        set_gradients(a)
        x.step()
    y = posneg.AdaPNM(twins(a), state_dtype="mxfp8")
    y.load_state_dict(saved(x.state_dict()))
    assert x.noise_scale() == y.noise_scale() and y.noise_scale().readings == 1


# Around the step.


@pytest.mark.skipif(not hasattr(torch.amp, "GradScaler"), reason="this torch has no torch.amp.GradScaler")
@pytest.mark.parametrize("how", [dict(), dict(fused=True), dict(clip_norm=math.inf)], ids=str)
def test_scaler(how):
    """The momenta have unscaled gradients, and a skipped step is not read."""
    a = parameters(30)
    b = twins(a)
    x, y = posneg.PNM(a, lr=0.1, noise_every=1, **how), posneg.PNM(b, lr=0.1, noise_every=1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    scaler.scale(torch.ones(1))
    for step in range(6):
        set_gradients(b)
        a[0].grad = b[0].grad * scaler.get_scale() * (math.inf if step == 3 else 1)
        scaler.step(x)
        scaler.update()
        if step != 3:
            y.step()
    assert x.noise == y.noise and x.noise.readings == 4


@pytest.mark.skipif(not hasattr(torch.Tensor, "register_post_accumulate_grad_hook"), reason="this torch has no such hooks")
@pytest.mark.parametrize("hooked", [4, 3], ids=["all hooked", "one without a hook"])
@pytest.mark.parametrize("every", [1, 2])
def test_in_backward(hooked, every):
    """Only the parameters that a step has updated are read, by a hook or by step() itself: as in steps after backward passes."""
    a = parameters((6, 8), 5, 9, 7)
    b = twins(a)
    x, y = (posneg.AdaPNM([dict(params=p[:2]), dict(params=p[2:])], noise_every=every) for p in (a, b))
    handle = posneg.step_in_backward(a[:hooked], x)
    for step in range(1, 13):
        data = [torch.randn(p.shape) for p in a]
        used = [0] + [i for i in (1, 2, 3) if (step % 3 == 0) == (i == 1) and step > i]
        for p, o in ((a, x), (b, y)):
            o.zero_grad()
            sum((p[i] * data[i]).square().sum() for i in used).backward()
            o.step()
    equal(map(bits, a), map(bits, b))
    assert repr(x.noise) == repr(y.noise) and repr(x.noise.groups + x.noise.params) == repr(y.noise.groups + y.noise.params)
    assert [n.readings for n in x.noise.params] == ([11, 3, 5, 5] if every == 1 else [6, 2, 2, 2])
    now = x.noise_scale(), y.noise_scale()
    assert repr(now[0].params) == repr(now[1].params)
    handle.remove()


@pytest.mark.parametrize("buckets", [1, 3])
def test_offload(buckets):
    a = parameters((5, 40), 33, 7, 9)
    b = twins(a)
    how = dict(lr=0.01, noise_every=2, skip_non_finite=True, state_dtype="mxfp8")
    x, y = posneg.offload.Offload(enumerate(a), posneg.AdaPNM, buckets=buckets, **how), posneg.AdaPNM(enumerate(b), **how)
    for step in range(8):
        set_gradients(a, b)
        if step in (2, 3):
            a[1].grad = b[1].grad = None
        if step == 5:
            a[0].grad[2, 2] = b[0].grad[2, 2] = math.nan
        x.step(), y.step()
    assert x.noise == y.noise and x.noise.readings == 3 and [n.readings for n in x.noise.params] == [3, 2, 3, 3]
    assert x.noise_scale() == y.noise_scale()
    x.noise_every = None
    assert x.noise is None
    with pytest.raises(TypeError, match="AdamW has no gradient noise"):
        posneg.offload.Offload(parameters(2)).noise_scale()


def test_many_parameters():
    """Forty times as many parameters take about forty times as long to read, where a search for each would take over a hundred times."""

    def seconds(n):
        optimizer = posneg.AdaPNM([torch.nn.Parameter(torch.ones(2)) for _ in range(n)])
        for _ in range(2):
            set_gradients(optimizer.param_groups[0]["params"])
            optimizer.step()
        optimizer.noise_scale()
        start = time.process_time()
        optimizer.noise_scale()
        return time.process_time() - start

    assert min(seconds(6000) for _ in range(2)) < 80 * min(seconds(150) for _ in range(3))


def test_closures():
    a = parameters(30)
    optimizer = posneg.PNM(a, lr=0.1, noise_every=1)

    def closure():
        set_gradients(a)
        return 7.0

    assert [optimizer.step(closure) for _ in range(3)] == [7.0] * 3 and optimizer.noise.readings == 2


def test_interrupted_anywhere():
    """An average has a reading of everything, or not at all. Every 97th instruction of a step will do."""
    seen, moment, interrupted = set(), 1, True
    while interrupted:
        torch.manual_seed(2)
        a = parameters(30, 3)
        optimizer = posneg.PNM(a, lr=0.1, noise_every=1)
        for _ in range(3):
            set_gradients(a)
            optimizer.step()
        interrupted = interrupt(optimizer, a, moment)
        n, done = optimizer.noise, int(optimizer.state[a[0]]["step"])
        readings = n and {m.readings for m in (n, *n.groups, *n.params)}
        seen.add((done, *(readings or ())))
        set_gradients(a)
        optimizer.step()
        assert optimizer.noise.readings == (n.readings if n else 0) + 1
        moment += 97
    assert seen == {(3, 2), (4, 2), (4,), (4, 3)}


# Averages.


def weighted(values, weights):
    return sum(v * w for v, w in zip(values, weights)) / sum(weights)


@pytest.mark.parametrize("decay", [1.0, 0.9, 0.5])
@pytest.mark.parametrize("steps", [range(2, 40), [4, 5, 9, 10, 11, 30, 31], range(10, 400, 10)], ids=["each", "uneven", "tenth"])
def test_averages(decay, steps):
    """Against sums over all pairs of readings."""
    generator, beta1 = np.random.default_rng(4), 0.9
    steps, b = list(steps), beta1**2
    signals, variances = generator.normal(3, 1, len(steps)), generator.normal(50, 4, len(steps))
    average = posneg.NoiseAverage(decay)
    for step, s, v in zip(steps, signals, variances):
        average.add(posneg.Noise(float(s), float(v)), step, beta1)
    weights = [decay ** (len(steps) - 1 - i) for i in range(len(steps))]
    found, mean = average.estimate(), [weighted(x, weights) for x in (signals, variances)]
    assert found.readings == len(steps)
    assert [found.signal, found.variance] == pytest.approx(mean) and found.scale == found.variance / found.signal

    def rho(i, j):
        product = 1.0
        for k in range(min(i, j), max(i, j)):
            gap = steps[k + 1] - steps[k]
            product *= b ** (gap // 2) * ((1 + b) / 2 if gap % 2 else 1)
        return product

    pairs = list(itertools.product(range(len(steps)), repeat=2))
    slow, fast = (sum(weights[i] * weights[j] * rho(i, j) ** power for i, j in pairs) / sum(weights) ** 2 for power in (1, 2))
    vv = weighted((variances - mean[1]) ** 2, weights)
    assert found.variance_error == pytest.approx(math.sqrt(vv / (1 - fast) * fast))
    ss = weighted((signals - mean[0]) ** 2, weights)
    linear = max(0, ss - ((1 - b) / (1 + b)) ** 2 / 2 * vv) / (1 - slow)
    assert found.signal_error == pytest.approx(math.sqrt(linear * slow + max(0, ss - linear * (1 - slow)) / (1 - fast) * fast))
    assert found.scale_error > 0


def noise_of(seed, n):
    """Numbers in [-1, 1), as in optim/noise_test.go."""
    for _ in range(n):
        seed = (seed * 6364136223846793005 + 1442695040888963407) % 2**64
        yield (seed >> 40) / (1 << 23) - 1


@pytest.mark.parametrize("decay, beta1, every, expected", [
    (1.0, 0.9, 1, "0x1.f3937e87d6343p-1 0x1.72e63cd0fac69p+1 0x1.a99566f30957bp-2 0x1.0d1f0a072234fp-2 0x1.7c1f88cbc4c1ep+1 0x1.43774a3eee5e7p+0"),
    (0.95, 0.9, 10, "0x1.f765b5121e2fap-1 0x1.797c3636ee25dp+1 0x1.3033f3931f5a0p-3 0x1.bd9855344e76cp-4 0x1.7fefa81cf7cc2p+1 0x1.cf56c6e733c0ap-2"),
    (0.7, 0.3, 3, "0x1.c84275eae4415p-1 0x1.848f6c55441c2p+1 0x1.23518e03b23d7p-2 0x1.d0a9acbdcbc3bp-3 0x1.b407a9757b580p+1 0x1.eb3bdc6794c9cp-1"),
    (1.0, 1 - 2.0**-30, 1, "0x1.f3937e87d6343p-1 0x1.72e63cd0fac69p+1 0x1.2f0affc888ab5p+12 0x1.8c5318112f46dp+11 0x1.7c1f88cbc4c1ep+1 0x1.cd2a61ca7b7f1p+13"),
    (0.9, 1 - 2.0**-53, 1, "0x1.fdea9d8610d60p-1 0x1.7f92760107686p+1 0x1.1f19b7effc58fp+24 0x1.6d7bfd404c16fp+23 0x1.8123afbb0512cp+1 0x1.b1b181ec6607ep+25"),
    (1.0, 0.0, 1, "0x1.f3937e87d6343p-1 0x1.72e63cd0fac69p+1 0x1.14e5d7c65c67cp-3 0x1.a690ca681c347p-4 0x1.7c1f88cbc4c1ep+1 0x1.9feb8c0e52618p-2"),
])  # fmt: skip
def test_the_bits_of_averages_are_those_of_go(decay, beta1, every, expected):
    """They are recorded here and in optim/noise_test.go."""
    average, x = posneg.NoiseAverage(decay), list(noise_of(7, 100))
    for i in range(50):
        average.add(posneg.Noise(1 + x[2 * i], 3 + x[2 * i + 1]), every * (i + 1), beta1)
    n = average.estimate()
    assert [v.hex() for v in (n.signal, n.variance, n.signal_error, n.variance_error, n.scale, n.scale_error)] == expected.split()


INF, NAN = math.inf, math.nan


@pytest.mark.parametrize("readings, expected", [
    ([(1, 2), (NAN, NAN), (1, 3)], [NAN, NAN, NAN, NAN, NAN, NAN]),
    ([(1, 2), (INF, INF), (1, 3)], [NAN, NAN, NAN, INF, NAN, NAN]),
    ([(1, 2), (INF, 2)], [INF, 2, NAN, 0, 0, NAN]),
    ([(1, 2), (2, INF)], [1.5, INF, 0.5649793181681647, INF, INF, NAN]),
    ([(1, 2), (-1, 2)], [0, 2, 1.4389857072171564, 0, INF, NAN]),
    ([(-0.0, 1), (-0.0, 1)], [0, 1, 0, 0, INF, NAN]),
    ([(0, -1), (0, -1)], [0, -1, 0, 0, -INF, NAN]),
    ([(0, 0), (0, 0)], [0, 0, 0, 0, NAN, NAN]),
    ([(1, 2), (1, 2)], [1, 2, 0, 0, 2, 0]),
    ([(1, 2)], [1, 2, NAN, NAN, 2, NAN]),
])  # fmt: skip
def test_averages_of_special_numbers_are_those_of_go(readings, expected):
    """The list is that of optim/noise_test.go."""
    average = posneg.NoiseAverage()
    for i, (s, v) in enumerate(readings, 1):
        average.add(posneg.Noise(float(s), float(v)), 10 * i, 0.9)
    n = average.estimate()
    assert str([n.signal, n.variance, n.signal_error, n.variance_error, n.scale, n.scale_error]) == str(list(map(float, expected)))


def test_exact_sums():
    huge = sys.float_info.max
    for values, expected in [
        ([], 0.0), ([1.0, 2.0**-53, 2.0**-106], 1 + 2.0**-52), ([huge, huge, -huge], huge), ([huge, huge], INF), ([INF, -INF], NAN),
        ([huge, huge, -INF], -INF), ([huge, NAN, huge], NAN), ([INF, 1.0, INF], INF),
    ]:
        for order in itertools.permutations(values):
            assert str(exact_sum(order)) == str(expected)


def test_an_average_of_little():
    average = posneg.NoiseAverage()
    assert average.estimate().readings == 0 and math.isnan(average.estimate().scale)
    average.add(posneg.Noise(1.0, 2.0), 1, 0.9)  # there is no reading before step 2
    assert average.estimate().readings == 0
    average.add(posneg.Noise(1.0, 2.0), 2, 0.9)
    one = average.estimate()
    assert (one.signal, one.variance, one.readings, one.scale) == (1.0, 2.0, 1, 2.0)
    assert all(map(math.isnan, (one.signal_error, one.variance_error, one.scale_error)))
    for name, step, beta1 in [
        ("step", 2, 0.9), ("step", 1, 0.9), ("step", 0, 0.9), ("step", math.nan, 0.9), ("beta1", 3, 1.0), ("beta1", 3, -0.1), ("beta1", 3, math.nan),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=f"Invalid {name}: "):
            average.add(posneg.Noise(1.0, 2.0), step, beta1)
    assert average.estimate().readings == 1
    for decay in (0, 1.5, math.nan, "1"):
        with pytest.raises(ValueError, match="Invalid decay: "):
            posneg.NoiseAverage(decay)
    assert posneg.Noise(0.0, 1.0).scale == math.inf and math.isnan(posneg.Noise(0.0, 0.0).scale) and posneg.Noise(-1.0, 2.0).scale == -2.0


# Several processes.


@needs_gloo
@pytest.mark.parametrize("world", [2, 3])
def test_several_processes(world):
    run(world, "noise_worker.py")
