"""State dicts of the PNM authors' implementation, of pytorch_optimizer and of torch's optimizers, both ways.

The files are what the formulas of those implementations give, here in torch operations; where pytorch_optimizer is installed, it
is asked itself.
"""

import copy
import math

import pytest
import torch

import posneg
from posneg._eager import EagerAdaPNM, EagerLion, EagerPNM, decayed, direction, momenta
from helpers import close, equal, parameters, saved, set_gradients, twins, values

AUTHORS = {
    "PNM": (posneg.PNM, EagerPNM, dict(lr=0.5, weight_decay=0.01)),
    "AdaPNM": (posneg.AdaPNM, EagerAdaPNM, dict(lr=0.01, weight_decay=0.1)),
    "AdaPNM, no AMSGrad": (posneg.AdaPNM, EagerAdaPNM, dict(lr=0.01, amsgrad=False)),
}
authors = pytest.mark.parametrize("implementations", AUTHORS.values(), ids=AUTHORS.keys())
steps_done = pytest.mark.parametrize("steps", [3, 4], ids=["odd", "even"])


def go(params, optimizer, steps):
    for _ in range(steps):
        set_gradients(params)
        optimizer.step()


def go_on_alike(a, x, b, y, steps=5):
    for _ in range(steps):
        set_gradients(a, b)
        x.step(), y.step()
        close(a, b)
    close(values(x), values(y))


@authors
@steps_done
def test_authors_state_is_continued(implementations, steps):
    ours, theirs, options = implementations
    b = parameters(5, (3, 4))
    y = theirs(b, **options)
    go(b, y, steps)
    a = twins(b)
    x = ours(a, lr=123.0, maximize=False)
    x.load_state_dict(saved(y.state_dict()))
    assert x.param_groups[0]["lr"] == options["lr"]
    go_on_alike(a, x, b, y)


@authors
@steps_done
def test_our_state_is_continued_by_the_authors(implementations, steps):
    ours, theirs, options = implementations
    a = parameters(5, (3, 4))
    x = ours(a, **options)
    go(a, x, steps)
    b = twins(a)
    y = theirs(b, lr=123.0)
    y.load_state_dict(saved(x.state_dict()))
    go_on_alike(a, x, b, y)


def test_parity_decides():
    """A run that went on with the momenta exchanged would be another one: the tests above can fail."""
    b = parameters(5)
    y = EagerPNM(b, lr=0.5)
    go(b, y, 3)
    state = copy.deepcopy(y.state_dict())
    state["state"][0]["step"] = 4
    a = twins(b)
    x = posneg.PNM(a, lr=0.5)
    x.load_state_dict(state)
    with pytest.raises(AssertionError):
        go_on_alike(a, x, b, y, steps=1)


class GroupwiseAdaPNM(torch.optim.Optimizer):
    """The rule as pytorch_optimizer saves it: steps counted in the group, and epsilon inside the bias correction."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999, 1.0), weight_decay=0.0, ams_bound=True, eps=1e-8):
        defaults = dict(lr=lr, betas=betas, weight_decay=weight_decay, weight_decouple=True, fixed_decay=False, ams_bound=ams_bound, eps=eps)
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            step = group["step"] = group.get("step", 0) + 1
            beta1, beta2, beta0 = group["betas"]
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    for name in ("exp_avg", "exp_avg_sq", "neg_exp_avg", "max_exp_avg_sq"):
                        state[name] = torch.zeros_like(p)
                grad = decayed(p, p.grad, {**group, "decoupled": group["weight_decouple"]})
                due, other = [state[n] for n in (("exp_avg", "neg_exp_avg") if step % 2 else ("neg_exp_avg", "exp_avg"))]
                mixed = direction(due, other, grad, beta1, beta0)
                state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
                torch.max(state["max_exp_avg_sq"], state["exp_avg_sq"], out=state["max_exp_avg_sq"])
                denominator = (state["max_exp_avg_sq"] + 1e-15).sqrt().add(group["eps"]) / math.sqrt(1 - beta2**step)
                p.addcdiv_(mixed, denominator, value=-group["lr"] / (1 - beta1**step))


class GroupwisePNM(torch.optim.Optimizer):
    def __init__(self, params, lr=1e-3, betas=(0.9, 1.0), weight_decay=0.0):
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay, weight_decouple=True, fixed_decay=False))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
            for p in group["params"]:
                state = {**self.state[p], "step": group["step"] - 1}
                grad = decayed(p, p.grad, {**group, "decoupled": group["weight_decouple"]})
                due, other = momenta(p, state, "pos_momentum", "neg_momentum")
                p.add_(direction(due, other, grad, *group["betas"]), alpha=-group["lr"])
                self.state[p] = {name: state[name] for name in ("pos_momentum", "neg_momentum")}


class GroupwiseLion(torch.optim.Optimizer):
    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay, weight_decouple=True, fixed_decay=False))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
            for p in group["params"]:
                state = {**self.state[p], "step": group["step"] - 1}
                EagerLion.update(p, decayed(p, p.grad, {**group, "decoupled": group["weight_decouple"]}), state, group)
                self.state[p] = {"exp_avg": state["exp_avg"]}


GROUPWISE = {
    "PNM": (posneg.PNM, GroupwisePNM, dict(lr=0.5, weight_decay=0.01)),
    "AdaPNM": (posneg.AdaPNM, GroupwiseAdaPNM, dict(lr=0.01, weight_decay=0.1)),
    "Lion": (posneg.Lion, GroupwiseLion, dict(lr=0.01, weight_decay=1.0)),
}
try:
    import pytorch_optimizer
except ImportError:
    pass
else:
    for name in list(GROUPWISE):
        ours, _, options = GROUPWISE[name]
        GROUPWISE[name + " of pytorch_optimizer"] = (ours, getattr(pytorch_optimizer, name), options)
groupwise = pytest.mark.parametrize("implementations", GROUPWISE.values(), ids=GROUPWISE.keys())


@groupwise
@steps_done
def test_groupwise_state_is_continued(implementations, steps):
    ours, theirs, options = implementations
    b = parameters(5, (3, 4))
    y = theirs([{"params": b[:1]}, {"params": b[1:]}], **options)
    go(b, y, steps)
    a = twins(b)
    x = ours([{"params": a[:1]}, {"params": a[1:]}], lr=123.0)
    x.load_state_dict(saved(y.state_dict()))
    assert [s["step"] for s in x.state.values()] == [steps, steps]
    go_on_alike(a, x, b, y)


@groupwise
@steps_done
def test_our_state_is_continued_groupwise(implementations, steps):
    ours, theirs, options = implementations
    a = parameters(5, (3, 4))
    x = ours(a, **options)
    go(a, x, steps)
    b = twins(a)
    y = theirs(b)
    y.load_state_dict(saved(posneg.to_pytorch_optimizer(x.state_dict())))
    go_on_alike(a, x, b, y)


def test_groupwise_needs_equal_steps():
    a = parameters(5, 6)
    x = posneg.PNM(a, lr=1.0)
    go(a, x, 1)
    a[0].grad = None
    x.step()
    with pytest.raises(ValueError, match=r"\[1, 2\]"):
        posneg.to_pytorch_optimizer(x.state_dict())


def test_what_we_do_not_have_is_refused():
    y = GroupwisePNM(parameters(5), lr=0.5)
    y.param_groups[0]["fixed_decay"] = True
    with pytest.raises(ValueError, match="fixed_decay"):
        posneg.PNM(parameters(5), lr=1.0).load_state_dict(y.state_dict())


TORCHS = {
    "SGD": (posneg.SGD, torch.optim.SGD, dict(lr=0.1, weight_decay=0.1)),
    "SGD, momentum": (posneg.SGD, torch.optim.SGD, dict(lr=0.1, momentum=0.9, dampening=0.3)),
    "Adam": (posneg.Adam, torch.optim.Adam, dict(lr=0.01, weight_decay=0.1)),
    "AdamW": (posneg.AdamW, torch.optim.AdamW, dict(lr=0.01, amsgrad=True)),
}
torchs = pytest.mark.parametrize("implementations", TORCHS.values(), ids=TORCHS.keys())


@torchs
@pytest.mark.parametrize("steps", [0, 1, 2])
@pytest.mark.parametrize("swapped", [False, True], ids=["theirs to ours", "ours to theirs"])
def test_torchs_state(implementations, steps, swapped):
    ours, theirs, options = implementations
    first, second = (ours, theirs) if swapped else (theirs, ours)
    a = parameters(5, (3, 4))
    x = first(a, **options)
    go(a, x, steps)
    b = twins(a)
    y = second(b, lr=123.0)
    y.load_state_dict(saved(x.state_dict()))
    go_on_alike(a, x, b, y)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_float32_state_of_16_bit_parameters_is_not_rounded(dtype):
    a = parameters(50, dtype=dtype)
    x = posneg.AdaPNM(a, seed=7)
    go(a, x, 3)
    b = twins(a)
    y = posneg.AdaPNM(b)
    y.load_state_dict(saved(x.state_dict()))
    equal(values(x), values(y))
    for _ in range(2):
        set_gradients(a, b)
        x.step(), y.step()
        equal(a, b)  # with the numbers of the same seed


def test_options_that_are_not_saved_stay():
    b = parameters(5)
    y = EagerPNM(b, lr=0.5)
    go(b, y, 1)
    x = posneg.PNM(twins(b), lr=1.0, maximize=True, seed=3)
    x.load_state_dict(y.state_dict())
    assert x.param_groups[0]["maximize"] is True and x.param_groups[0]["seed"] == 3
