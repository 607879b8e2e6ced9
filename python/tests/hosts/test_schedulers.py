"""All of torch's learning-rate schedulers: the groups get what torch's optimizers get, and steps use it."""

import copy
import inspect
import warnings

import pytest
import torch
from torch.optim import lr_scheduler as schedulers
from torch.optim.swa_utils import SWALR

import posneg
from helpers import PAIRS, close, equal, parameters, saved, set_gradients, twins, values

STEPS = 12
SCHEDULERS = {
    "LambdaLR": lambda o: schedulers.LambdaLR(o, [lambda t: 0.9**t, lambda t: 1 / (1 + t)]),
    "MultiplicativeLR": lambda o: schedulers.MultiplicativeLR(o, lambda t: 0.9),
    "StepLR": lambda o: schedulers.StepLR(o, 3, 0.5),
    "MultiStepLR": lambda o: schedulers.MultiStepLR(o, [2, 5, 6], 0.5),
    "ConstantLR": lambda o: schedulers.ConstantLR(o, 0.25, 4),
    "LinearLR": lambda o: schedulers.LinearLR(o, 0.1, 1.0, 6),
    "ExponentialLR": lambda o: schedulers.ExponentialLR(o, 0.8),
    "PolynomialLR": lambda o: schedulers.PolynomialLR(o, 9, 2.0),
    "CosineAnnealingLR": lambda o: schedulers.CosineAnnealingLR(o, 5, 1e-4),
    "CosineAnnealingWarmRestarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 2, 2),
    "SequentialLR": lambda o: schedulers.SequentialLR(o, [schedulers.LinearLR(o, 0.1, 1.0, 3), schedulers.CosineAnnealingLR(o, 9)], [3]),
    "ChainedScheduler": lambda o: schedulers.ChainedScheduler([schedulers.ConstantLR(o, 0.1, 3), schedulers.ExponentialLR(o, 0.9)]),
    "ReduceLROnPlateau": lambda o: schedulers.ReduceLROnPlateau(o, factor=0.5, patience=1),
    "CyclicLR": lambda o: schedulers.CyclicLR(o, 1e-3, 2e-2, step_size_up=3, base_momentum=0.5, max_momentum=0.9),
    "CyclicLR, triangular2": lambda o: schedulers.CyclicLR(o, 1e-3, 2e-2, step_size_up=2, mode="triangular2", cycle_momentum=False),
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, [0.02, 0.01], total_steps=STEPS, three_phase=True),
    "SWALR": lambda o: SWALR(o, 1e-3, anneal_epochs=4),
}
OLD_CYCLES = "use_beta1" not in inspect.getsource(schedulers.CyclicLR)  # of momentum alone, and without a usable state_dict
scheduled = pytest.mark.parametrize("schedule", SCHEDULERS.values(), ids=SCHEDULERS.keys())
MOMENTUM = {name: pair for name, pair in PAIRS.items() if name in ("PNM", "AdaPNM", "SGD, momentum", "AdamW, AMSGrad", "Lion")}


def test_all_of_them_are_here():
    classes = {
        name
        for name, c in vars(schedulers).items()
        if inspect.isclass(c) and issubclass(c, (schedulers.LRScheduler if hasattr(schedulers, "LRScheduler") else schedulers._LRScheduler))
    }
    assert classes - {"LRScheduler", "_LRScheduler"} <= {name.split(",")[0] for name in SCHEDULERS}


def known(schedule, betas=True):
    if OLD_CYCLES and betas and "CyclicLR" in inspect.getsource(schedule):
        pytest.skip("this torch's CyclicLR knows no betas")
    return schedule


def two_groups(cls, a, options):
    return cls([dict(params=a[:1]), dict(params=a[1:], lr=0.005)], **options)


def train(a, optimizer, scheduler, steps):
    for step in steps:
        for i, p in enumerate(a):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(100 * step + i)).to(p.dtype)
        optimizer.step()
        scheduler.step(*([1.0] if isinstance(scheduler, schedulers.ReduceLROnPlateau) else []))


def hyperparameters(optimizer):
    return [{k: v for k, v in g.items() if k in ("lr", "betas", "momentum")} for g in optimizer.param_groups]


@scheduled
@pytest.mark.parametrize("pair", MOMENTUM.values(), ids=MOMENTUM.keys())
def test_as_others(pair, schedule):
    ours, theirs, options = pair
    known(schedule, betas="betas" in ours(parameters(1), **options).defaults)
    a = parameters(5, (3, 4))
    b = twins(a)
    x, y = two_groups(ours, a, options), two_groups(theirs, b, options)
    seen = []
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*lr_scheduler.step.*before.*optimizer.step")
        of_x, of_y = schedule(x), schedule(y)
        for step in range(STEPS - 1):
            train(a, x, of_x, [step])
            train(b, y, of_y, [step])
            assert hyperparameters(x) == hyperparameters(y)
            seen.append(hyperparameters(x))
    close(a, b)
    assert seen[0] != seen[-1]


@scheduled
@pytest.mark.parametrize("how", [dict(), dict(state_dtype="mxfp8", master_weights=True, dtype=torch.bfloat16)], ids=["", "bfloat16"])
def test_resumed(how, schedule):
    """In the middle, after an odd step, through files; also where the new run's constructor has another rate."""
    known(schedule)
    how = dict(how)
    a = parameters(5, (3, 4), dtype=how.pop("dtype", torch.float32))
    x = two_groups(posneg.AdaPNM, a, dict(lr=0.01, **how))
    of_x = schedule(x)
    train(a, x, of_x, range(5))
    state, of_state = saved(x.state_dict()), copy.deepcopy(of_x.state_dict())
    c = twins(a)
    train(a, x, of_x, range(5, STEPS - 1))
    z = two_groups(posneg.AdaPNM, c, dict(lr=0.3, **how))
    of_z = schedule(z)
    z.load_state_dict(state)
    of_z.load_state_dict(of_state)
    train(c, z, of_z, range(5, STEPS - 1))
    equal(a, c)
    equal(values(x), values(z))
    assert hyperparameters(x) == hyperparameters(z)


@pytest.mark.parametrize("ours", [posneg.PNM, posneg.AdaPNM, posneg.SGD, posneg.AdamW, posneg.Lion])
@pytest.mark.parametrize("name", ["CyclicLR", "OneCycleLR"])
def test_momentum_that_cycles(ours, name):
    """Only the first beta moves, and a step uses it: the same run with the betas written by hand has the same bits."""
    a = parameters(5, (3, 4))
    b = twins(a)
    options = dict(lr=0.01, **({"momentum": 0.9} if ours is posneg.SGD else {}))
    x, y = two_groups(ours, a, options), two_groups(ours, b, options)
    scheduler = known(SCHEDULERS[name], "betas" in x.defaults)(x)
    rest = [g["betas"][1:] for g in y.param_groups if "betas" in g]
    moved = set()
    for step in range(STEPS - 1):
        for g, h in zip(x.param_groups, y.param_groups):
            h["lr"] = g["lr"]
            if "betas" in g:
                h["betas"] = tuple(g["betas"])
                moved.add(g["betas"][0])
            else:
                h["momentum"] = g["momentum"]
                moved.add(g["momentum"])
        set_gradients(a, b)
        x.step()
        y.step()
        scheduler.step()
        equal(a, b)
    assert len(moved) > 3
    assert rest == [g["betas"][1:] for g in x.param_groups if "betas" in g]


def test_sgd_whose_momentum_comes_from_its_schedule():
    """OneCycleLR sets one where the optimizer was made without."""
    a = parameters(5, (3, 4))
    b = twins(a)
    x, y = (two_groups(c, p, dict(lr=0.01)) for c, p in ((posneg.SGD, a), (torch.optim.SGD, b)))
    of_x, of_y = SCHEDULERS["OneCycleLR"](x), SCHEDULERS["OneCycleLR"](y)
    for step in range(STEPS - 1):
        train(a, x, of_x, [step])
        train(b, y, of_y, [step])
    close(a, b)
    assert x.param_groups[0]["momentum"] == y.param_groups[0]["momentum"] > 0


@scheduled
@pytest.mark.skipif(not hasattr(schedulers, "LRScheduler"), reason="this torch's schedulers know no rates that are tensors")
def test_a_rate_that_is_a_tensor(schedule):
    if schedule is SCHEDULERS["ReduceLROnPlateau"]:
        pytest.skip("torch's own keeps no tensor")
    a = parameters(5, (3, 4))
    b = twins(a)
    x, y = ([dict(params=p[:1]), dict(params=p[1:])] for p in (a, b))
    x, y = posneg.AdaPNM(x, lr=torch.tensor(0.01)), posneg.AdaPNM(y, lr=torch.tensor(0.01, dtype=torch.float64))
    of_x, of_y = schedule(x), schedule(y)
    train(a, x, of_x, range(STEPS - 1))
    train(b, y, of_y, range(STEPS - 1))
    close(a, b)


@pytest.mark.parametrize("name", ["CyclicLR", "OneCycleLR"])
def test_an_optimizer_copied_with_its_schedule(name):
    a = parameters(5, (3, 4))
    x = two_groups(posneg.AdaPNM, a, dict(lr=0.01))
    scheduler = known(SCHEDULERS[name])(x)
    train(a, x, scheduler, range(3))
    y, again = copy.deepcopy((x, scheduler))
    b = [p for g in y.param_groups for p in g["params"]]
    train(a, x, scheduler, range(3, 9))
    train(b, y, again, range(3, 9))
    equal(a, b)
    assert again.optimizer is y and hyperparameters(x) == hyperparameters(y)
