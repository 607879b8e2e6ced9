"""Drop-in: what a user of torch.optim does with an optimizer, beside torch's own or the rules in torch operations."""

import copy
import pickle

import pytest
import torch

import posneg
from posneg import _mx
from helpers import PAIRS, close, equal, parameters, saved, set_gradients, twins, values

pairs = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
classes = pytest.mark.parametrize("ours, options", [(ours, o) for ours, _, o in PAIRS.values()], ids=PAIRS.keys())


@pairs
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_same_as_operations(pair, dtype):
    ours, theirs, options = pair
    a = parameters((), 0, 1, 3, (40, 50), (2, 3, 4, 5), dtype=dtype)
    b = twins(a)
    x, y = ours(a, **options), theirs(b, **options)
    for _ in range(10):
        set_gradients(a, b)
        x.step(), y.step()
        close(a, b)


@pairs
def test_groups_and_schedulers(pair):
    ours, theirs, options = pair
    a = parameters(5, (3, 4), 7, 2)
    b = twins(a)
    runs = []
    for params, optimizer in ((a, ours), (b, theirs)):
        o = optimizer(
            [{"params": params[:1], "lr": 0.05}, {"params": params[1:3], "weight_decay": 0.3}], **{"lr": 0.02, **options}
        )
        runs.append((o, torch.optim.lr_scheduler.ExponentialLR(o, 0.8)))
    for step in range(8):
        if step == 3:
            for params, (o, _) in zip((a, b), runs):
                o.add_param_group({"params": params[3], "lr": 0.5})
        set_gradients(a, b)
        for o, scheduler in runs:
            o.step(), scheduler.step()
        close(a, b)
    assert runs[0][0].param_groups[0]["lr"] == runs[1][0].param_groups[0]["lr"] != 0.05


def test_one_cycle_changes_betas():
    a = parameters(5)
    b = twins(a)
    runs = [(o, torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=9)) for o in (posneg.AdamW(a), torch.optim.AdamW(b))]
    for _ in range(8):
        set_gradients(a, b)
        for o, scheduler in runs:
            o.step(), scheduler.step()
        close(a, b)


@pairs
def test_missing_gradients(pair):
    ours, theirs, options = pair
    a = parameters(5, 6, 7)
    b = twins(a)
    x, y = ours(a, **options), theirs(b, **options)
    assert not x.step() and not x.state_dict()["state"]
    for missing in ((0, 1), (), (1,), (1, 2), (), (0,), ()):
        set_gradients(a, b)
        for i in missing:
            a[i].grad = b[i].grad = None
        x.step(), y.step()
        close(a, b)
    assert len(x.state) == 3


@classes
@pytest.mark.parametrize("set_to_none", [False, True])
def test_zero_grad_and_gradients_are_not_written(ours, options, set_to_none):
    params = parameters(5, (2, 3))
    optimizer = ours(params, **options)
    for _ in range(3):
        optimizer.zero_grad(set_to_none=set_to_none)
        assert all((p.grad is None) or not p.grad.any() for p in params)
        sum((p**2).sum() for p in params).backward()
        before = [p.grad.clone() for p in params]
        start = twins(params)
        optimizer.step()
        equal([p.grad for p in params], before)
        assert not any(torch.equal(p, s) for p, s in zip(params, start))


@classes
def test_closure(ours, options):
    p, = parameters(4)
    optimizer = ours([p], **options)
    calls = []

    def closure():
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        calls.append(torch.is_grad_enabled())
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure)
    assert calls == [True] and loss.requires_grad


@classes
@pytest.mark.parametrize("steps", [3, 4])
@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))],
    ids=["deepcopy", "pickle"],
)
def test_copies_go_on_alike(ours, options, steps, copied):
    params = parameters(5, (3, 4))
    optimizer = ours(params, **options)
    for _ in range(steps):
        set_gradients(params)
        optimizer.step()
    others, other = copied((params, optimizer))
    assert other.param_groups[0]["params"][0] is others[0]
    for _ in range(3):
        set_gradients(params, others)
        optimizer.step(), other.step()
        equal(params, others)
    equal(values(optimizer), values(other))


@classes
@pytest.mark.parametrize("steps", [1, 2])
def test_resume_has_the_same_bits(ours, options, steps):
    params = parameters(5, (3, 4))
    optimizer = ours(params, **options)
    for _ in range(steps):
        set_gradients(params)
        optimizer.step()
    others = twins(params)
    other = ours(others, **{**options, "lr": 123.0})
    other.load_state_dict(saved(optimizer.state_dict()))
    for _ in range(3):
        set_gradients(params, others)
        optimizer.step(), other.step()
        equal(params, others)


def test_loading_again_goes_back():
    params = parameters(5)
    optimizer = posneg.AdaPNM(params)
    set_gradients(params)
    optimizer.step()
    state, start = copy.deepcopy(optimizer.state_dict()), params[0].detach().clone()
    results = []
    for _ in range(2):
        params[0].data.copy_(start)
        optimizer.load_state_dict(copy.deepcopy(state))  # torch 2 hands on the tensors themselves
        optimizer.step()
        results.append(params[0].detach().clone())
    equal(results[:1], results[1:])


def test_moved_memory_is_found():
    a = parameters(5, 6)
    b = twins(a)
    x, y = posneg.AdamW(a), torch.optim.AdamW(b)
    changes = [
        lambda o, p: None,
        lambda o, p: setattr(p[1], "data", p[1].data.clone()),
        lambda o, p: o.state[p[1]].update(exp_avg=torch.ones(6)),
        lambda o, p: [setattr(v, "data", v.data.clone()) for s in o.state.values() for v in s.values() if isinstance(v, torch.Tensor)],
        lambda o, p: o.state.__setitem__(p[0], {"step": torch.tensor(7.0), "exp_avg": torch.zeros(5), "exp_avg_sq": torch.ones(5)}),
        lambda o, p: o.state[p[0]].update(exp_avg_sq=2 * torch.ones(5)),
        lambda o, p: o.state.clear(),
    ]
    for change in changes:
        set_gradients(a, b)
        change(x, a), change(y, b)
        x.step(), y.step()
        close(a, b)
        close(values(x), values(y))


def test_a_parameter_is_replaced():
    a = parameters(5, 6)
    optimizer = posneg.PNM(a, lr=1.0)
    set_gradients(a)
    optimizer.step()
    grown, = parameters(8)
    state = optimizer.state.pop(a[0])
    optimizer.state[grown] = {k: torch.zeros(8) if k != "step" else v for k, v in state.items()}
    optimizer.param_groups[0]["params"][0] = grown
    set_gradients([grown, a[1]])
    before = [t.detach().clone() for t in (grown, *a)]
    optimizer.step()
    assert [torch.equal(t, b) for t, b in zip((grown, *a), before)] == [False, True, False]


def test_autograd_notices_the_step():
    if not hasattr(torch.autograd.graph, "increment_version"):
        pytest.skip("this torch lets nobody but its own operations count versions")
    p, = parameters(4)
    optimizer = posneg.SGD([p])
    loss = (p**2).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_hooks():
    if not hasattr(posneg.PNM, "register_step_pre_hook"):
        pytest.skip("this torch has no step hooks")
    p, = parameters(4)
    optimizer = posneg.PNM([p], lr=1.0)
    called = []
    optimizer.register_step_pre_hook(lambda o, args, kwargs: called.append("before"))
    optimizer.register_step_post_hook(lambda o, args, kwargs: called.append("after"))
    set_gradients([p])
    optimizer.step()
    assert called == ["before", "after"]


def test_load_hooks():
    if not hasattr(posneg.PNM, "register_load_state_dict_pre_hook"):
        pytest.skip("this torch has no hooks of load_state_dict")
    p, = parameters(4)
    optimizer = posneg.PNM([p], lr=1.0)

    def hook(_, state_dict):
        state_dict = copy.deepcopy(state_dict)
        state_dict["param_groups"][0]["lr"] = 3.0
        return state_dict

    optimizer.register_load_state_dict_pre_hook(hook)
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.param_groups[0]["lr"] == 3.0


def test_a_tensor_as_learning_rate():
    a = parameters(4)
    b = twins(a)
    set_gradients(a, b)
    posneg.Adam(a, lr=torch.tensor(0.25)).step(), posneg.Adam(b, lr=0.25).step()
    equal(a, b)


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("ours", [posneg.PNM, posneg.AdaPNM])
def test_maximize(ours, maximize):
    a = parameters(4)
    b = twins(a)
    x, y = ours(a, lr=0.1, weight_decay=0.1, maximize=maximize), ours(b, lr=0.1, weight_decay=0.1)
    for _ in range(3):
        set_gradients(a, b)
        if maximize:
            b[0].grad.neg_()
        x.step(), y.step()
        equal(a, b)


@pytest.mark.parametrize(
    "ours, options, message",
    [
        (posneg.PNM, dict(lr=-1.0), "lr"),
        (posneg.PNM, dict(lr=1.0, betas=(1.0, 1.0)), "index 0"),
        (posneg.PNM, dict(lr=1.0, betas=(0.9, float("nan"))), "index 1"),
        (posneg.PNM, dict(lr=1.0, betas=(0.9, 0.999, 1.0)), "beta1, beta0"),
        (posneg.AdaPNM, dict(betas=(0.9, 1.0, 1.0)), "index 1"),
        (posneg.AdaPNM, dict(betas=(0.0, 0.0, 1.0), eps=0), "betas and eps: .* must not all be 0"),
        (posneg.AdamW, dict(betas=(0.0, 0.0), eps=0), "betas and eps"),
        (posneg.PNM, dict(lr=1.0, betas=(0, 0), decoupled=False), "posneg.SGD"),
        (posneg.AdaPNM, dict(eps=-1e-8), "eps"),
        (posneg.AdaPNM, dict(state_dtype=torch.float16), "state_dtype"),
        (posneg.AdaPNM, dict(state_dtype="half"), "state_dtype"),
        (posneg.AdaPNM, dict(lr=torch.ones(2)), r"lr: tensor\(\[1., 1.\]\), must be a number"),
        (posneg.AdaPNM, dict(lr="1e-3"), "lr: '1e-3', must be a number"),
        (posneg.AdaPNM, dict(lr=10**400), "lr: 1000.*, must be a number"),
        (posneg.AdaPNM, dict(eps=None), "eps: None, must be a number"),
        (posneg.AdaPNM, dict(betas=(0.9, "0.999", 1.0)), "index 1: '0.999', must be a number"),
        (posneg.AdaPNM, dict(betas=(0.9, torch.ones(2), 1.0)), r"index 1: tensor\(\[1., 1.\]\), must be a number"),
        (posneg.AdaPNM, dict(betas=0.9), "betas: 0.9, must be "),
        (posneg.AdaPNM, dict(amsgrad="no"), "amsgrad: 'no', must be True or False"),
        (posneg.AdamW, dict(maximize=None), "maximize: None, must be True or False"),
        (posneg.SGD, dict(dampening="0"), "dampening: '0', must be a number"),
        (posneg.SGD, dict(lr=1.0, weight_decay=-0.1), "weight_decay"),
        (posneg.SGD, dict(lr=1.0, nesterov=True), "Nesterov"),
        (posneg.AdamW, dict(betas=(-0.1, 0.9)), "index 0"),
        (posneg.Adam, dict(capturable=True), "capturable"),
        (posneg.Lion, dict(betas=(0.9, 1.0)), "index 1"),
        (posneg.Lion, dict(betas=(0.0, 0.0)), "betas: .* must not both be 0"),
    ],
)
def test_bad_options(ours, options, message):
    with pytest.raises(ValueError, match=message):
        ours(parameters(3), **options)


def test_a_bad_group_is_not_added():
    optimizer = posneg.PNM(parameters(3), lr=1.0)
    with pytest.raises(ValueError, match="lr"):
        optimizer.add_param_group({"params": parameters(2), "lr": -1.0})
    assert len(optimizer.param_groups) == 1


def test_a_bad_learning_rate_later_changes_nothing():
    params = parameters(3)
    before = twins(params)
    optimizer = posneg.PNM(params, lr=1.0)
    set_gradients(params)
    optimizer.param_groups[0]["lr"] = float("nan")
    with pytest.raises(ValueError, match="LR|lr"):
        optimizer.step()
    equal(params, before)
    assert optimizer.state[params[0]]["step"] == 0


def test_state_of_another_rule():
    params = parameters(3)
    optimizer = posneg.Adam(params)
    set_gradients(params)
    optimizer.step()
    other = posneg.PNM(params, lr=1.0)
    with pytest.raises(ValueError, match="parameter 0 of group 0 has no 'pos_momentum'.*exp_avg"):
        other.load_state_dict({"state": optimizer.state_dict()["state"], "param_groups": other.state_dict()["param_groups"]})
    other.state[params[0]] = optimizer.state[params[0]]
    with pytest.raises(ValueError, match="parameter 0 of group 0 has no 'pos_momentum'.*exp_avg"):
        other.step()


def test_state_dtype_is_a_name_in_groups():
    p, = parameters(3)
    for given, name in ((torch.bfloat16, "bfloat16"), ("bfloat16", "bfloat16"), (torch.float32, "float32"), (None, None), ("mxfp8", "mxfp8")):
        optimizer = posneg.AdaPNM([p], state_dtype=given)
        assert optimizer.param_groups[0]["state_dtype"] == name
        optimizer.param_groups[0]["state_dtype"] = given
        set_gradients([p])
        optimizer.step()
        dtype = _mx.ELEMENTS if name == "mxfp8" else given if isinstance(given, torch.dtype) else getattr(torch, name or "float32")
        assert optimizer.state[p]["exp_avg"].dtype == dtype
        assert optimizer.state_dict()["param_groups"][0]["state_dtype"] == name


def test_parameters_of_a_device():
    p = torch.nn.Parameter(torch.empty(3, device="meta"))
    p.grad = torch.empty_like(p)
    with pytest.raises(RuntimeError, match="minimal_size=0"):
        posneg.SGD([p]).step()
