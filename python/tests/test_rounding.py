"""Stochastic rounding: what draws which random numbers."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch

import posneg
from helpers import bits
from posneg._rounding import packed

GRADIENT = torch.full((64,), 1e-2).bfloat16()


def equals(count):
    return [torch.nn.Parameter(torch.ones(64, dtype=torch.bfloat16)) for _ in range(count)]


def go(params, optimizers, steps=2):
    """What has become of the parameters: their bits."""
    for _ in range(steps):
        for p in params:
            p.grad = GRADIENT.expand_as(p).clone()
        for optimizer in optimizers:
            optimizer.step()
    return [tuple(bits(p).tolist()) for p in params]


def test_a_number_that_is_set_between_steps():
    (a,), (b,) = equals(1), equals(1)
    x, y = posneg.SGD([a], lr=1.0), posneg.SGD([(7, b)], lr=1.0)
    go([a], [x], steps=1), go([b], [y], steps=1)
    b.data.copy_(a.data)
    x.state[a]["rounding"] = 7
    assert go([a], [x]) == go([b], [y])


def one_each(params, **options):
    return [posneg.SGD([p], lr=1.0, **options) for p in params]


def in_a_process(*, content, order, cut):
    """The bits of 30 parameters, in their own order, after steps of optimizers that get cut of them each, in the order given."""
    program = """
        import sys
        from test_rounding import *
        order, cut = eval(sys.argv[2]), int(sys.argv[3])
        torch.manual_seed(1)
        params = equals(30) if sys.argv[1] == "equal" else [torch.nn.Parameter(torch.randn(3, 64).bfloat16()) for _ in range(30)]
        given = [params[i] for i in order]
        optimizers = [posneg.SGD(given[i : i + cut], lr=1.0) for i in range(0, 30, cut)]
        print(go(params, optimizers))
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), content, str(list(order)), str(cut)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, check=True, stdout=subprocess.PIPE, text=True,
    )
    return eval(result.stdout)


def test_equal_parameters_draw_other_numbers_however_the_list_is_cut():
    whole = in_a_process(content="equal", order=range(30), cut=30)
    assert len(set(whole)) == 30
    assert whole == in_a_process(content="equal", order=range(30), cut=1) == in_a_process(content="equal", order=range(30), cut=7)


def test_content_tells_parameters_apart_in_any_order():
    whole = in_a_process(content="random", order=range(30), cut=30)
    assert whole == in_a_process(content="random", order=range(29, -1, -1), cut=1)


def test_names_decide():
    a, b, c = equals(3), equals(3), equals(3)
    x = posneg.SGD(zip("xyz", a), lr=1.0)
    y = [posneg.SGD([{"params": [p], "param_names": [n]}], lr=1.0) for n, p in zip("zyx", b)]
    z = posneg.SGD(zip("xyw", c), lr=1.0)
    drawn = go(a, [x])  # a second run in the same process has the same bits
    assert len(set(drawn)) == 3 and drawn == go(b, y)[::-1]
    assert go(c, [z])[:2] == drawn[:2] and go(c, [z])[2] != drawn[2]


def test_a_name_that_is_a_number_is_the_number():
    a, b = equals(2), equals(2)
    x, y = posneg.SGD(enumerate(a, 2**64 - 1), lr=1.0), posneg.SGD(zip([-1, 2**64], b), lr=1.0)
    assert go(a, [x]) == go(b, [y]) and [s["rounding"] for s in x.state.values()] == [2**64 - 1, 0]


def test_names_for_each_parameter():
    with pytest.raises(ValueError, match="1 param_names for 2 params"):
        go(equals(2), [posneg.SGD([{"params": equals(2), "param_names": ["x"]}], lr=1.0)])


def test_state_dicts_carry_the_numbers():
    a, b = equals(3), equals(3)
    x, y = one_each(a), one_each(b)
    go(a, x)
    for p, q, o, n in zip(a, b, x, y):
        q.data.copy_(p.detach())
        n.load_state_dict(o.state_dict())
    assert go(a, x) == go(b, y)


@pytest.mark.parametrize("rounding", [-1, 2**127])
def test_numbers_out_of_range(rounding):
    p, = equals(1)
    x, = one_each([p])
    go([p], [x])
    x.state[p]["rounding"] = rounding
    x.param_groups[0]["seed"] += 1  # plans anew
    with pytest.raises(ValueError, match="rounding .*2\\*\\*127"):
        x.step()


def test_a_file_s_numbers_under_another_seed():
    a, b = equals(1), equals(1)
    x, y = posneg.SGD([(2**64 - 7, a[0])], lr=1.0, seed=5), posneg.SGD(b, lr=1.0, seed=2**63 + 9)
    y.state[b[0]]["rounding"] = packed((5, 2**64 - 7, 0), y.param_groups[0]["seed"])
    assert go(a, [x]) == go(b, [y])


def test_a_part_of_a_tensor_draws_as_the_whole_does():
    a, b = equals(1), [torch.nn.Parameter(torch.ones(54, dtype=torch.bfloat16))]
    x, y = posneg.SGD([(7, a[0])], lr=1.0), posneg.SGD(b, lr=1.0)
    y.state[b[0]]["rounding"] = packed((0, 7, 10), 0)
    for _ in range(2):
        a[0].grad, b[0].grad = GRADIENT.clone(), GRADIENT[10:].clone()
        x.step(), y.step()
    assert torch.equal(a[0][10:], b[0])
