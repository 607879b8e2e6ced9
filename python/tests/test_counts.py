"""The step counts: tensors, as torch's tools expect them; and what of a state is refused."""

import copy
import io
import math
import pickle

import pytest
import torch

import posneg
from helpers import RULES, equal, parameters, saved, set_gradients, twins, values

rules = pytest.mark.parametrize("ours, options", RULES.values(), ids=RULES.keys())


def go(optimizer, *lists, steps=1):
    for _ in range(steps):
        set_gradients(*lists)
        optimizer.step()


@rules
@pytest.mark.parametrize("reset", ["zeroed", "cleared", "state.clear"])
def test_resets(ours, options, reset):
    """Tools begin anew by zeroing each tensor of a state, or by clearing it: then the next step is the first."""
    a = parameters(5, (3, 4))
    x = ours(a, **options)
    go(x, a, steps=3)
    assert all(type(s["step"]) is torch.Tensor and s["step"].item() == 3 for s in x.state.values())
    if reset == "state.clear":
        x.state.clear()
    for s in x.state.values():
        for v in list(s.values()):
            v.zero_()
        if reset == "cleared":
            s.clear()
    b = twins(a)
    y = ours(b, **options)
    for _ in range(2):
        set_gradients(a, b)
        x.step(), y.step()
        equal(a, b)
    assert [s["step"].item() for s in x.state.values()] == [2, 2]


def test_counts_go_beyond_float32():
    a = parameters(3)
    x = posneg.AdaPNM(a)
    go(x, a)
    x.state[a[0]]["step"].fill_(2**24)
    go(x, a, steps=3)
    assert x.state[a[0]]["step"].item() == 2**24 + 3


@pytest.mark.parametrize("step", [3, 3.0, torch.tensor(3), torch.tensor(3.0), torch.tensor([3], dtype=torch.int32)], ids=repr)
def test_counts_that_others_set(step):
    a = parameters(3)
    x = posneg.PNM(a, lr=1.0)
    go(x, a)
    x.state[a[0]]["step"] = step
    go(x, a, steps=2)
    assert x.state[a[0]]["step"].item() == 5 and (not isinstance(step, torch.Tensor) or step.item() == 3)


def test_counts_are_tensors_of_their_own():
    """Copies, files and other optimizers get one number each, and share nothing."""
    a = parameters(*[2] * 50)
    x = posneg.SGD(a, lr=0.1)
    go(x, a)
    file = io.BytesIO()
    torch.save(x.state[a[7]]["step"], file)
    assert len(pickle.dumps(x.state[a[7]]["step"])) < 1000 and file.tell() < 3000
    assert len({s["step"].data_ptr() for s in x.state.values()}) == 50
    y = posneg.SGD(twins(a), lr=0.1)
    y.load_state_dict(x.state_dict())
    go(x, a)
    z = copy.deepcopy(x)
    go(y, y.param_groups[0]["params"])
    go(x, a)
    assert [{s["step"].item() for s in o.state.values()} for o in (x, y, z)] == [{3}, {2}, {2}]


def test_a_state_dict_that_was_not_copied():
    a = parameters(3)
    b = twins(a)
    x, y = posneg.AdamW(a), posneg.AdamW(b)
    go(x, a)
    y.load_state_dict(x.state_dict())
    go(x, a)
    go(y, b)
    assert x.state[a[0]]["step"].item() == y.state[b[0]]["step"].item() == 2


@pytest.mark.parametrize("foreach, fused", [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("there", [torch.optim.AdamW, posneg.AdamW])
def test_torch_goes_on(there, foreach, fused):
    """With whichever of its implementations; and what it has saved is continued here."""
    try:
        theirs = lambda p: torch.optim.AdamW(p, lr=0.1, **(dict(fused=True) if fused else dict(foreach=foreach)))
        go(theirs([q := parameters(2)[0]]), [q])
    except (RuntimeError, TypeError):
        pytest.skip("this torch has no fused AdamW on the CPU")
    first, second = (theirs, lambda p: posneg.AdamW(p, lr=0.1))[:: 1 if there is posneg.AdamW else -1]
    a = parameters(5, (3, 4))
    x = first(a)
    go(x, a, steps=3)
    b = twins(a)
    y = second(b)
    y.load_state_dict(saved(x.state_dict()))
    for _ in range(3):
        set_gradients(a, b)
        x.step(), y.step()
        torch.testing.assert_close(a, b)
    assert {s["step"].item() for s in y.state.values()} == {6}


BAD_STEPS = [3.7, -1, math.nan, math.inf, 2.0**60, "3", torch.tensor(3.7), torch.tensor([1.0, 2.0]), "x", None]


@pytest.mark.parametrize("step", BAD_STEPS, ids=repr)
@pytest.mark.parametrize("way", ["loaded", "set", "filled"])
def test_bad_counts(step, way):
    a = parameters(3, 4)
    x = posneg.AdaPNM(a)
    go(x, a)
    bad = copy.deepcopy(x.state_dict())
    before, kept, values_before = twins(a), x.state[a[1]]["exp_avg"], [v.clone() for v in values(x)]
    message = "the step of parameter 1 of group 0"
    if way == "loaded":
        bad["state"][1]["step"] = step
        with pytest.raises(ValueError, match=message):
            x.load_state_dict(bad)
    else:
        if way == "set":
            x.state[a[1]]["step"] = step
        elif isinstance(step, (int, float)):
            x.state[a[1]]["step"].fill_(step)
        else:
            return
        with pytest.raises(ValueError, match=message):
            go(x, a)
    assert x.state[a[1]]["exp_avg"] is kept and x.state[a[0]]["step"].item() == 1
    equal([*a, *values(x)], [*before, *values_before])


@pytest.mark.parametrize("ours, options", [RULES["PNM"], RULES["AdaPNM"], RULES["AdamW"]], ids=["PNM", "AdaPNM", "AdamW"])
def test_momenta_without_a_count(ours, options):
    a = parameters(3)
    x = ours(a, **options)
    go(x, a)
    bad = copy.deepcopy(x.state_dict())
    del bad["state"][0]["step"]
    with pytest.raises(ValueError, match="parameter 0 of group 0 has no 'step'"):
        x.load_state_dict(bad)
    del x.state[a[0]]["step"]
    with pytest.raises(ValueError, match="parameter 0 of group 0 has no 'step'"):
        x.step()


BAD_STATES = {
    "sparse": dict(exp_avg=torch.zeros(3).to_sparse()),
    "meta": dict(exp_avg=torch.zeros(3, device="meta")),
    "complex": dict(exp_avg=torch.zeros(3, dtype=torch.complex64)),
    "integers": dict(exp_avg=torch.zeros(3, dtype=torch.int32)),
    "negative rounding": dict(rounding=-1),
    "rounding of a fraction": dict(rounding=1.5),
}


@pytest.mark.parametrize("bad", [*BAD_STATES.values(), None], ids=[*BAD_STATES, "seed"])
def test_bad_states_change_nothing(bad):
    a = parameters(3, 4)
    x = posneg.AdamW(a)
    go(x, a)
    given, before = copy.deepcopy(x.state_dict()), [id(v) for s in x.state.values() for v in s.values()]
    given["state"][0].update(bad or {})
    if bad is None:
        given["param_groups"][0]["seed"] = 1.5
    with pytest.raises(ValueError, match="parameter 0 of group 0" if bad else "Invalid seed: 1.5"):
        x.load_state_dict(given)
    assert before == [id(v) for s in x.state.values() for v in s.values()] and x.param_groups[0]["seed"] == 0


def test_a_type_of_state_that_is_not_there():
    a = parameters(3)
    x = posneg.PNM(a, lr=1.0)
    go(x, a)
    bad = copy.deepcopy(x.state_dict())
    bad["param_groups"][0]["state_dtype"] = torch.float16
    for change in (lambda: x.load_state_dict(bad), lambda: (x.param_groups[0].update(state_dtype=torch.float16), x.step())):
        with pytest.raises(ValueError, match="state_dtype.*float16"):
            change()
        assert x.state[a[0]]["pos_momentum"].dtype == torch.float32


def test_names_that_torch_knows():
    model = torch.nn.Linear(2, 3)
    try:
        x = posneg.PNM(model.named_parameters(), lr=1.0)
    except TypeError:
        pytest.skip("this torch takes no names")
    go(x, list(model.parameters()))
    x.state[model.bias]["step"].fill_(0.5)
    with pytest.raises(ValueError, match="parameter 'bias'"):
        x.step()


def test_loading_leaves_the_given_state_alone():
    a = parameters(3)
    x = posneg.AdamW(a)
    go(x, a)
    given = x.state_dict()
    step = given["state"][0]["step"]
    y = posneg.AdamW(twins(a))
    y.load_state_dict(given)
    assert given["state"][0]["step"] is step
    go(y, y.param_groups[0]["params"])
    assert float(step) == 1 == float(x.state[a[0]]["step"])
