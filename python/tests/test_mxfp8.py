"""Momenta in mxfp8: their forms, what becomes of them in all ways, and that rows decide where blocks begin."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch

import posneg
from posneg import _mx
from posneg._rounding import packed
from helpers import RULES, bits, parameters, saved, set_gradients

rules = pytest.mark.parametrize("ours, options", RULES.values(), ids=RULES.keys())
FLOAT8 = hasattr(torch, "float8_e8m0fnu")
SHAPES = [(40, 50), (7,), (3, 5, 3, 3), (), (0, 5), (5, 0), (2, 64)]


def go(params, optimizer, first, steps):
    for step in range(first, first + steps):
        torch.manual_seed(step)
        set_gradients(params)
        optimizer.step()


def run(shapes=SHAPES, ours=posneg.AdaPNM, dtype=torch.float32, steps=3, lay_out=lambda t: t, **options):
    torch.manual_seed(9)
    params = [torch.nn.Parameter(lay_out(torch.randn(shape, dtype=dtype))) for shape in shapes]
    optimizer = ours([(f"{i}", p) for i, p in enumerate(params)], **{"state_dtype": "mxfp8", **options})
    go(params, optimizer, 0, steps)
    return params, optimizer


def everything(params, optimizer):
    """The bits of the parameters and of the state, in row-major order."""
    states = [optimizer.state[p] for p in params]
    return [bits(p).tolist() for p in params], [{k: bits(t).tolist() for k, t in s.items() if isinstance(t, torch.Tensor)} for s in states]


@pytest.mark.parametrize("shape, scales", list(zip(SHAPES, [(40, 2), (7, 1), (3, 2), (1, 1), (0, 1), (5, 0), (2, 2)])), ids=map(str, SHAPES))
def test_the_state(shape, scales):
    (p,), optimizer = run([shape])
    state = optimizer.state[p]
    assert state.keys() == {
        "step", "rounding", "exp_avg", "exp_avg_scales", "neg_exp_avg", "neg_exp_avg_scales", "exp_avg_sq", "max_exp_avg_sq",
    }
    assert state["exp_avg"].dtype == (torch.float8_e4m3fn if FLOAT8 else torch.uint8) and state["exp_avg"].shape == p.shape
    assert state["exp_avg_scales"].dtype == (torch.float8_e8m0fnu if FLOAT8 else torch.uint8) and state["exp_avg_scales"].shape == scales
    assert state["exp_avg_sq"].dtype == state["max_exp_avg_sq"].dtype == torch.bfloat16
    exported = optimizer.state_dict()["state"][0]
    assert exported.keys() == state.keys() and exported["exp_avg"].dtype == exported["exp_avg_scales"].dtype == torch.uint8
    assert optimizer.param_groups[0]["state_dtype"] == "mxfp8"


def test_large_vectors_have_no_rows():
    (p, q), optimizer = run([(1 << 16,), ((1 << 16) + 1,)], steps=1)
    assert optimizer.state[p]["exp_avg_scales"].shape == (1 << 16, 1) and optimizer.state[q]["exp_avg_scales"].shape == (2049,)


@pytest.mark.parametrize("ours, options, size", [
    (posneg.AdaPNM, dict(amsgrad=False), 4.06), (posneg.AdaPNM, {}, 6.06), (posneg.PNM, dict(lr=0.1), 2.06), (posneg.AdamW, {}, 3.03),
    (posneg.Lion, {}, 1.03), (posneg.SGD, dict(momentum=0.9), 1.03),
])
def test_bytes_for_each_parameter(ours, options, size):
    (p,), optimizer = run([(100, 320)], ours, **options)
    tensors = [t for t in optimizer.state[p].values() if isinstance(t, torch.Tensor) and t.dim()]
    assert abs(sum(t.numel() * t.element_size() for t in tensors) / p.numel() - size) < 0.005


@rules
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_it_trains(ours, options, dtype):
    (p,), x = run([(30, 40)], ours, dtype=dtype, steps=20, **options)
    (q,), _ = run([(30, 40)], ours, dtype=dtype, steps=20, **{**options, "state_dtype": None})
    (begin,), _ = run([(30, 40)], ours, dtype=dtype, steps=0, **options)
    moved = (q - begin).float().norm()
    # Lion's sign turns around where a momentum is small.
    assert (p - q).float().norm() < (0.5 if ours is posneg.Lion else 0.1) * moved
    assert any(name.endswith("_scales") for name in x.state[p]) == (ours is not posneg.SGD or "momentum" in options)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64])
def test_others_have_state_of_their_own_type(dtype):
    (p,), optimizer = run([(3, 40)], dtype=dtype)
    assert all(t.dtype == dtype for name, t in optimizer.state[p].items() if name not in ("step", "rounding"))


@pytest.mark.skipif(not FLOAT8, reason="this torch has no float8")
def test_all_numbers():
    elements, scales = torch.arange(256, dtype=torch.uint8).repeat(256, 1), torch.arange(256, dtype=torch.uint8).repeat_interleave(8).reshape(256, 8)
    exact = elements.view(torch.float8_e4m3fn).double() * scales.view(torch.float8_e8m0fnu).double().repeat_interleave(32, 1)
    got = _mx.unpack(elements, scales)
    assert torch.equal(got.isnan(), exact.isnan()) and torch.equal(got.nan_to_num(0, 1, -1), exact.float().nan_to_num(0, 1, -1))
    assert torch.equal(got[:255, :127], exact[:255, :127].float())  # infinities, too


def test_packed_to_nearest():
    numbers = torch.randn(20, 77) * 10.0 ** torch.randint(-30, 30, (20, 77)).float()
    numbers[3, 40] = float("nan")
    numbers[4, 70] = -float("inf")
    p = torch.nn.Parameter(numbers)
    packed_ = _mx.pack(p, "m", 0, numbers)
    again = _mx.unpack(packed_["m"], packed_["m_scales"])
    assert again[3, 40].isnan() and again[4, 70].isnan() and again.isnan().sum() == 2
    finite = numbers.nan_to_num(0, 0, 0)
    for row, back in zip(finite, again):
        for at in range(0, 77, 32):
            block, largest = row[at : at + 32], row[at : at + 32].abs().max()
            assert (block - back[at : at + 32].nan_to_num(0)).abs().max() <= largest / 16  # half of its last place
    twice = _mx.pack(p, "m", 0, again)
    assert torch.equal(_mx.unpack(twice["m"], twice["m_scales"]).nan_to_num(0), again.nan_to_num(0))


@pytest.mark.parametrize("dtype, how", [(torch.float32, {}), (torch.bfloat16, {}), (torch.bfloat16, dict(master_weights=True)), (torch.float16, {})])
@pytest.mark.parametrize("ours", [posneg.AdaPNM, posneg.Lion])
def test_strides_do_not_matter(ours, dtype, how):
    shapes = [(6, 5, 3, 3), (4, 40), (5, 40)]

    def other(t):
        if t.dim() == 4:
            return t.contiguous(memory_format=torch.channels_last)
        return t.t().contiguous().t() if len(t) == 4 else torch.stack([t, t], 2)[:, :, 0]

    plain, odd = run(shapes, ours, dtype, **how), run(shapes, ours, dtype, lay_out=other, **how)
    assert not any(p.is_contiguous() for p in odd[0]) and everything(*plain) == everything(*odd)
    assert all(t.is_contiguous() for s in odd[1].state.values() for t in s.values() if isinstance(t, torch.Tensor))


@pytest.mark.parametrize("shape, cuts", [((10, 45), (3, 7)), ((10, 5, 3), (1, 9)), ((100,), (1, 99)), (((1 << 16) + 65,), (32, 1 << 16))])
def test_parts_of_rows_have_the_bits_of_the_whole(shape, cuts):
    whole, = parameters(shape)
    bounds = [0, *cuts, shape[0]]
    row = _mx.row_of(shape)
    parts = [torch.nn.Parameter(whole.detach()[a:b].clone()) for a, b in zip(bounds, bounds[1:])]
    x = posneg.AdaPNM([(7, whole)], state_dtype="mxfp8")
    y = [posneg.AdaPNM([(7, part)], state_dtype="mxfp8") for part in parts]
    if row:
        for o, part, a in zip(y, parts, bounds):
            o.state[part]["rounding"] = packed((0, 7, a * row), 0)
    else:  # of a large vector, whose parts are small enough to have rows, but for the one in the middle
        parts, y, bounds = [parts[0]], [posneg.AdaPNM([(7, parts[0])], state_dtype="mxfp8")], [0, 32]
    for _ in range(3):
        whole.grad = torch.randn(shape)
        for part, a, b in zip(parts, bounds, bounds[1:]):
            part.grad = whole.grad[a:b].clone()
        for o in (x, *y):
            o.step()
    if row:
        assert torch.equal(torch.cat(parts), whole)
        for name in ("exp_avg", "neg_exp_avg_scales", "exp_avg_sq"):
            assert torch.cat([bits(o.state[part][name]) for o, part in zip(y, parts)]).tolist() == bits(x.state[whole][name]).tolist()


def test_a_part_that_begins_within_a_row_is_refused():
    p, = parameters((4, 45))
    optimizer = posneg.SGD([p], momentum=0.9, state_dtype="mxfp8")
    optimizer.state[p]["rounding"] = packed((0, 7, 50), 0)
    p.grad = torch.ones_like(p)
    before = p.detach().clone()
    with pytest.raises(ValueError, match="First is 50, must be between rows of 45 .*: 45 or 90"):
        optimizer.step()
    assert torch.equal(p, before)


def by_pickle(optimizer):
    return pickle.loads(pickle.dumps(optimizer))


def by_file(optimizer):
    file = io.BytesIO()
    torch.save(optimizer, file)
    file.seek(0)
    try:
        return torch.load(file, weights_only=False)
    except TypeError:  # torch 1
        file.seek(0)
        return torch.load(file)


@pytest.mark.parametrize("how", [copy.deepcopy, by_pickle, by_file])
@pytest.mark.parametrize("dtype, options", [(torch.float32, {}), (torch.bfloat16, dict(master_weights=True))])
def test_copies_go_on(how, dtype, options):
    params, optimizer = run(dtype=dtype, **options)
    again = how(optimizer)
    theirs = again.param_groups[0]["params"]
    go(params, optimizer, 3, 2), go(theirs, again, 3, 2)
    assert everything(params, optimizer) == everything(theirs, again)


@pytest.mark.parametrize("form", [copy.deepcopy, saved], ids=["copied", "from a file"])
@pytest.mark.parametrize("dtype, options", [(torch.float32, {}), (torch.bfloat16, {}), (torch.bfloat16, dict(master_weights=True)), (torch.float16, {})])
def test_state_dicts_go_on(form, dtype, options):
    params, optimizer = run(dtype=dtype, **options)
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in params]
    again = posneg.AdaPNM(theirs)
    again.load_state_dict(form(optimizer.state_dict()))
    go(params, optimizer, 3, 2), go(theirs, again, 3, 2)
    assert everything(params, optimizer) == everything(theirs, again)


@pytest.mark.skipif(not FLOAT8, reason="this torch has no float8")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_dicts_with_float8_go_on(dtype):
    params, optimizer = run(dtype=dtype)
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in params]
    again = posneg.AdaPNM(theirs)
    given = copy.deepcopy(optimizer.state_dict())
    given["state"] = {i: copy.deepcopy(optimizer.state[p]) for i, p in enumerate(params)}
    assert given["state"][0]["exp_avg"].dtype == torch.float8_e4m3fn
    again.load_state_dict(given)
    go(params, optimizer, 3, 2), go(theirs, again, 3, 2)
    assert everything(params, optimizer) == everything(theirs, again)


@pytest.mark.parametrize("before", [None, "bfloat16"])
def test_from_other_formats_and_back(before):
    params, optimizer = run(state_dtype=before)
    wide = {p: dict(optimizer.state[p]) for p in params}
    optimizer.param_groups[0].update(state_dtype="mxfp8", lr=0.0, betas=(0.0, 0.0, 1.0))
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer.step()  # the fourth: one of the momenta is not due
    for p in params:
        state, kept = optimizer.state[p], "exp_avg" if optimizer.state[p]["exp_avg"].view(torch.uint8).any() else "neg_exp_avg"
        got, want = _mx.unpack(state[kept], state[f"{kept}_scales"]), wide[p][kept].float()
        if p.numel():
            assert got.any() and (got - want).abs().max() <= want.abs().max() / 16
    packed_ = {p: dict(optimizer.state[p]) for p in params}
    optimizer.param_groups[0].update(state_dtype=before)
    optimizer.step()
    for p in params:
        state = optimizer.state[p]
        assert not any(name.endswith("_scales") for name in state) and state["exp_avg"].dtype == (torch.bfloat16 if before else torch.float32)


@pytest.mark.parametrize("before", [None, "bfloat16"])
def test_load_state_dict_from_other_formats(before):
    params, optimizer = run(state_dtype=before)
    given = copy.deepcopy(optimizer.state_dict())
    for group in given["param_groups"]:
        group["state_dtype"] = "mxfp8"
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in params]
    again = posneg.AdaPNM(theirs)
    again.load_state_dict(given)
    optimizer.param_groups[0]["state_dtype"] = "mxfp8"
    go(params, optimizer, 3, 2), go(theirs, again, 3, 2)
    assert everything(params, optimizer) == everything(theirs, again) and "exp_avg_scales" in again.state[theirs[0]]


def test_scales_without_rows():
    """As a Go program has them that knows no rows: the numbers are the same."""
    (p,), optimizer = run([(40, 50)])
    state = optimizer.state[p]
    numbers = _mx.unpack(state["exp_avg"], state["exp_avg_scales"])
    flat = torch.nn.Parameter(torch.zeros(2000 * 64))  # which is large enough to have none
    other = _mx.pack(flat, "exp_avg", 0, torch.cat([numbers.reshape(-1), torch.zeros(2000 * 63)]))
    elements, scales = bits(other["exp_avg"])[:2000].reshape(40, 50), bits(other["exp_avg_scales"])[:63]
    assert scales.shape == (63,)
    optimizer.state[p].update(exp_avg=elements, exp_avg_scales=scales)
    want = _mx.unpack(elements, scales)
    optimizer.param_groups[0].update(lr=0.0)
    posneg.save_checkpoint(io.BytesIO(), optimizer)  # lays out the state
    got = _mx.unpack(state["exp_avg"], state["exp_avg_scales"])
    assert state["exp_avg_scales"].shape == (40, 2) and (got - want).abs().max() <= want.abs().max() / 16 and got.any()


@pytest.mark.parametrize("change, text", [
    (dict(exp_avg_scales=None), "'exp_avg_scales' of parameter '0' is a NoneType, must be "),
    (dict(exp_avg_scales=torch.zeros(40, 3, dtype=torch.uint8)), r"'exp_avg_scales' of parameter '0' has the shape \(40, 3\), must have \(40, 2\)"),
    (dict(exp_avg_scales=torch.zeros(40, 2)), "'exp_avg_scales' of parameter '0' is torch.float32"),
    (dict(exp_avg=torch.zeros(40, 50)), "'exp_avg' of parameter '0' is torch.float32"),
    (dict(exp_avg=torch.zeros(50, 40, dtype=torch.uint8)), r"'exp_avg' of parameter '0' has shape \(50, 40\)"),
])
def test_what_is_no_state(change, text):
    params, optimizer = run([(40, 50)])
    before = params[0].detach().clone()
    given = copy.deepcopy(optimizer.state_dict())
    given["state"][0].update(change)
    with pytest.raises(ValueError, match=text if change.get("exp_avg_scales", 0) is not None or not FLOAT8 else "exp_avg"):
        optimizer.load_state_dict(given)
    optimizer.state[params[0]].update(change)
    with pytest.raises(ValueError, match=text if change.get("exp_avg_scales", 0) is not None else "exp_avg"):
        optimizer.step()
    assert torch.equal(params[0], before)


def test_scales_that_are_replaced_count():
    (p,), optimizer = run([(4, 40)], posneg.SGD, momentum=1.0, lr=1.0)
    scales = optimizer.state[p]["momentum_buffer_scales"]
    optimizer.state[p]["momentum_buffer_scales"] = (scales.view(torch.uint8) + 1).view(scales.dtype)
    before = p.detach().clone()
    numbers = _mx.unpack(optimizer.state[p]["momentum_buffer"], scales)
    p.grad = torch.zeros_like(p)
    optimizer.step()
    assert torch.allclose(before - p, 2 * numbers, rtol=0.13)


def test_a_gradient_in_the_memory_of_scales():
    (p,), optimizer = run([(4, 4)], posneg.SGD, momentum=0.5, lr=1.0)
    memory = np.zeros(64, np.uint8)
    memory[:4] = bits(optimizer.state[p]["momentum_buffer_scales"]).numpy()
    scales = torch.from_numpy(memory[:4]).reshape(4, 1)
    optimizer.state[p]["momentum_buffer_scales"] = scales
    (q,), other = run([(4, 4)], posneg.SGD, momentum=0.5, lr=1.0)
    p.grad = torch.from_numpy(memory.view(np.float32)).reshape(4, 4)
    q.grad = p.grad.clone()
    optimizer.step(), other.step()
    assert torch.equal(p, q)


def test_a_nan_stays_in_its_element():
    (p,), optimizer = run([(4, 40)], steps=2)
    p.grad = torch.zeros_like(p)
    p.grad[1, 3] = float("nan")
    p.grad[2, 4] = float("inf")
    optimizer.step()
    numbers = _mx.unpack(optimizer.state[p]["exp_avg"], optimizer.state[p]["exp_avg_scales"])
    assert numbers.isnan().nonzero().tolist() == [[1, 3], [2, 4]]


def test_pytorch_optimizer_gets_float32():
    (p,), optimizer = run([(4, 40)])
    state = posneg.to_pytorch_optimizer(optimizer.state_dict())["state"][0]
    kept = optimizer.state[p]
    assert "exp_avg_scales" not in state and torch.equal(state["exp_avg"], _mx.unpack(kept["exp_avg"], kept["exp_avg_scales"]))


@pytest.mark.parametrize("source, target", [(None, "mxfp8"), ("mxfp8", None), ("bfloat16", "mxfp8"), ("mxfp8", "bfloat16")])
def test_checkpoints_convert(tmp_path, source, target):
    params, optimizer = run(state_dtype=source)
    posneg.save_checkpoint(tmp_path / "run", optimizer)
    theirs = [torch.nn.Parameter(torch.zeros_like(p)) for p in params]
    again = posneg.AdaPNM([(f"{i}", p) for i, p in enumerate(theirs)], state_dtype=target)
    posneg.load_checkpoint(tmp_path / "run", again)
    optimizer.param_groups[0]["state_dtype"] = target
    posneg.save_checkpoint(tmp_path / "other", optimizer)  # converts its own
    assert everything(params, optimizer) == everything(theirs, again)
