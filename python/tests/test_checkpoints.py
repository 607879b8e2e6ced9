"""Checkpoints in files: that runs go on with the same bits, and that nothing bad is loaded or left behind. See also test_go.py."""

import copy
import io
import json
import os
import pickle
import stat
import subprocess
import sys
import tracemalloc

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import posneg
from posneg import checkpoints
from posneg._masters import join
from posneg._state import begun
from helpers import RULES, bits, parameters, set_gradients, twins

rules = pytest.mark.parametrize("ours, options", RULES.values(), ids=RULES.keys())
FORMATS = {
    "float32": (torch.float32, {}),
    "float32, bf16 state": (torch.float32, dict(state_dtype=torch.bfloat16)),
    "float32, mxfp8 state": (torch.float32, dict(state_dtype="mxfp8")),
    "float64": (torch.float64, {}),
    "complex64": (torch.complex64, {}),
    "complex128": (torch.complex128, {}),
    "bf16": (torch.bfloat16, dict(seed=5)),
    "bf16, bf16 state": (torch.bfloat16, dict(seed=2**64 - 1, state_dtype=torch.bfloat16)),
    "bf16, masters": (torch.bfloat16, dict(master_weights=True)),
    "bf16, mxfp8 state": (torch.bfloat16, dict(seed=5, state_dtype="mxfp8")),
    "bf16, masters, mxfp8 state": (torch.bfloat16, dict(master_weights=True, state_dtype="mxfp8")),
    "f16": (torch.float16, {}),
    "f16, bf16 state": (torch.float16, dict(state_dtype=torch.bfloat16)),
}


def laid_out(dtype):
    """Parameters of all layouts; the last one never has a gradient."""
    data = [
        torch.randn(40, dtype=dtype),
        torch.randn((), dtype=dtype),
        torch.randn(0, 3, dtype=dtype),
        torch.randn(2, 3, 4, 5, dtype=dtype).contiguous(memory_format=torch.channels_last),
        torch.randn(5, 8, dtype=dtype)[:, ::2].t(),
        torch.randn(7, dtype=dtype),
    ]
    return [torch.nn.Parameter(t) for t in data]


def side_by_side(params):
    """Zeros of the same shapes."""
    return [torch.nn.Parameter(torch.zeros(p.shape, dtype=p.dtype)) for p in params]


def named(params):
    return [(f"layer.{i}", p) for i, p in enumerate(params)]


def go(params, optimizer, steps, first=0):
    for step in range(first, first + steps):
        torch.manual_seed(step)
        set_gradients(params[:-1])
        optimizer.step()


def everything(params, optimizer):
    """The bits of the parameters and of all that the optimizer keeps of them, and how many steps they have done."""
    kept = []
    for p in params:
        state = optimizer.state.get(p) or {}
        state = state if begun(state) else {}
        kept.append((bits(p).tolist(), {k: bits(v).tolist() if isinstance(v, torch.Tensor) else v for k, v in state.items() if k != "rounding"}))
    return kept


@rules
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("steps", [3, 4], ids=["odd", "even"])
def test_resumed_runs_have_the_same_bits(tmp_path, ours, options, form, steps):
    dtype, how = FORMATS[form]
    a = laid_out(dtype)
    x = ours([{"params": a[:2]}, {"params": a[2:], "weight_decay": 0.25}], **options, **how)
    go(a, x, steps)
    posneg.save_checkpoint(tmp_path / "run", x, names=named(a))

    b = laid_out(dtype) if "bf16" in form else side_by_side(a)  # random numbers are drawn in the order of the memory
    y = ours([{"params": b[:1:-1]}, {"params": b[:1]}, {"params": b[1:2]}], **{"lr": 1.0, **how, "seed": 1})
    assert posneg.load_checkpoint(tmp_path / "run", y, names=named(b)) == {}
    for more in (0, 3):
        go(a, x, more, steps), go(b, y, more, steps)
        assert everything(a[:-1], x) == everything(b[:-1], y) and bits(a[-1]).tolist() == bits(b[-1]).tolist()
    assert y.state.get(b[-1], {"step": 0})["step"] == 0


@pytest.mark.parametrize("form", FORMATS)
def test_without_parameters(tmp_path, form):
    dtype, how = FORMATS[form]
    a = laid_out(dtype)
    x = posneg.AdaPNM(a, **how)
    go(a, x, 3)
    posneg.save_checkpoint(tmp_path / "run", x, params=False)
    b = twins(a)
    y = posneg.AdaPNM(b, **how)
    with pytest.raises(posneg.CheckpointError, match="saved with params=False"):
        posneg.load_checkpoint(tmp_path / "run", y)
    posneg.load_checkpoint(tmp_path / "run", y, params=False)
    go(a, x, 3, 3), go(b, y, 3, 3)
    assert everything(a, x) == everything(b, y)
    posneg.save_checkpoint(tmp_path / "run", x)
    before = [bits(p).tolist() for p in b]
    go(a, x, 3)
    posneg.load_checkpoint(tmp_path / "run", y, params=False)
    assert [bits(p).tolist() for p in b] == before


def test_a_second_file_has_the_random_numbers_of_the_first(tmp_path):
    a = parameters(50, 60, 70, dtype=torch.bfloat16)
    x = posneg.PNM(a, lr=0.1, seed=7)
    go(a, x, 1)
    posneg.save_checkpoint(tmp_path / "1", x, names=named(a))
    for i in range(1, 3):
        b = side_by_side(a)
        y = posneg.PNM(b[::-1] if i % 2 else b, lr=0.1)
        posneg.load_checkpoint(tmp_path / f"{i}", y, names=named(b))
        go(a, x, 1, i), go(b, y, 1, i)
        assert [bits(p).tolist() for p in a] == [bits(p).tolist() for p in b]
        posneg.save_checkpoint(tmp_path / f"{i + 1}", y, names=named(b))
    c = twins(b)
    z = posneg.PNM(c[::-1], lr=0.1)
    z.load_state_dict(posneg.PNM(c[::-1], lr=0.1).state_dict())  # a state dict carries them, too
    posneg.load_checkpoint(tmp_path / "2", z, names=named(c))
    w = posneg.PNM(twins(c)[::-1], lr=0.1)
    w.load_state_dict(copy.deepcopy(z.state_dict()))
    d = w.param_groups[0]["params"][::-1]
    go(c, z, 2), go(d, w, 2)
    assert [bits(p).tolist() for p in c] == [bits(p).tolist() for p in d]


def test_conversions(tmp_path):
    a = parameters(30, 20)
    x = posneg.AdaPNM(a)
    go(a, x, 3)
    posneg.save_checkpoint(tmp_path / "wide", x)
    for dtype, how in (FORMATS["bf16, bf16 state"], FORMATS["bf16, masters"], FORMATS["f16"]):
        b = [torch.nn.Parameter(torch.zeros(p.shape, dtype=dtype)) for p in a]
        y = posneg.AdaPNM(b, **how)
        posneg.load_checkpoint(tmp_path / "wide", y)
        for p, q in zip(a, b):
            if "master_low" in y.state[q]:
                assert torch.equal(join(q, y.state[q]["master_low"]), p)
            else:
                assert torch.equal(p.to(dtype), q)  # to the nearest
            if p in x.state:
                kept = y.state[q]["exp_avg_sq"]
                assert kept.dtype == how.get("state_dtype", torch.float32) and torch.equal(x.state[p]["exp_avg_sq"].to(kept.dtype), kept)
            if "master_param" in y.state[q]:
                assert torch.equal(y.state[q]["master_param"], p)
        assert ("master_param" in y.state[b[1]]) == (dtype == torch.float16)
        assert ("master_low" in y.state[b[1]]) == how.get("master_weights", False)
        go(b, y, 1)
    wide = posneg.AdaPNM(parameters(30, 20, dtype=torch.float64))
    with pytest.raises(posneg.CheckpointError, match="F32.*torch.float64"):
        posneg.load_checkpoint(tmp_path / "wide", wide)


def master(p, optimizer):
    state = optimizer.state[p]
    return join(p, state["master_low"]) if p.dtype == torch.bfloat16 else state["master_param"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_masters_go_without_asking_and_what_is_written_to_parameters_counts(tmp_path, dtype):
    a = parameters(30, 20, dtype=dtype)
    x = posneg.SGD(a, lr=2.0**-14, master_weights=True)
    go(a, x, 2)
    posneg.save_checkpoint(tmp_path / "run", x, params=False)
    b = twins(a)
    y = posneg.SGD(b, lr=0.0, master_weights=True)
    posneg.load_checkpoint(tmp_path / "run", y, params=False)
    set_gradients(a, b, scale=0.0)
    x.param_groups[0]["lr"] = y.param_groups[0]["lr"] = 0.0
    x.step(), y.step()
    assert torch.equal(master(a[0], x), master(b[0], y)) and not torch.equal(master(b[0], y), b[0].float())


@pytest.mark.parametrize("params", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_others_have_written_is_saved(tmp_path, dtype, params):
    a = parameters(30, 20, dtype=dtype)
    x = posneg.SGD(a, lr=2.0**-14, master_weights=True)
    go(a, x, 2)
    a[0].data[:10] = 3
    a[0].data[10:12] = float("nan")
    posneg.save_checkpoint(tmp_path / "run", x, params=params)
    b = twins(a)
    y = posneg.SGD(b, lr=0.0, master_weights=True)
    posneg.load_checkpoint(tmp_path / "run", y, params=params)
    set_gradients(a, b)
    x.param_groups[0]["lr"] = y.param_groups[0]["lr"] = 0.0
    x.step(), y.step()
    assert torch.equal(bits(a[0])[:10], bits(b[0])[:10]) and torch.equal(a[0][12:], b[0][12:]) and b[0][10:12].isnan().all()
    x, y = master(a[0], x), master(b[0], y)
    assert torch.equal(x[:10], y[:10]) and torch.equal(x[12:], y[12:])


def test_a_file_of_float32_masters_of_which_some_are_ties(tmp_path):
    """They round to even, or away from zero as the upper half does: the master is the file's."""
    wide = [torch.nn.Parameter(torch.tensor([1 + 2.0**-8, 1 + 3 * 2.0**-8, -1 - 2.0**-8, 1 + 2.0**-20, 0.0, 1e-40, float("inf")]))]
    x = posneg.SGD(wide, lr=0.0)
    wide[0].grad = torch.zeros_like(wide[0])
    x.step()
    posneg.save_checkpoint(tmp_path / "wide", x)
    for params in (True, False):
        b = [torch.nn.Parameter(wide[0].detach().bfloat16())]
        y = posneg.SGD(b, lr=0.0, master_weights=True)
        posneg.load_checkpoint(tmp_path / "wide", y, params=params)
        b[0].grad = torch.zeros_like(b[0])
        y.step()
        assert torch.equal(bits(master(b[0], y)), bits(wide[0]))


def test_schedulers_go_on(tmp_path):
    def run():
        a = parameters(5, 6)
        optimizer = posneg.AdamW([{"params": a[:1]}, {"params": a[1:], "lr": 0.5}], lr=0.1)
        return a, optimizer, lambda last=-1: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 0.5**n, last_epoch=last)

    a, x, scheduler = run()
    scheduled = scheduler()
    for _ in range(3):
        go(a, x, 1), scheduled.step()
    posneg.save_checkpoint(tmp_path / "run", x)
    _, y, scheduler = run()
    posneg.load_checkpoint(tmp_path / "run", y)
    resumed = scheduler(last=2)  # fails without initial_lr
    x.step(), y.step(), scheduled.step(), resumed.step()
    assert [g["lr"] for g in y.param_groups] == [g["lr"] for g in x.param_groups] and y.param_groups[1]["initial_lr"] == 0.5


def test_keep_options(tmp_path):
    a = parameters(40, 50, dtype=torch.bfloat16)
    x = posneg.AdaPNM(a, lr=0.1, seed=3)
    go(a, x, 3)
    posneg.save_checkpoint(tmp_path / "run", x)
    y = posneg.AdaPNM(a, lr=0.7, seed=4)
    before = copy.deepcopy({k: v for k, v in y.param_groups[0].items() if k != "params"})
    posneg.load_checkpoint(tmp_path / "run", y, keep_options=True)
    assert before == {k: v for k, v in y.param_groups[0].items() if k != "params"} and y.state[a[0]]["step"] == 3
    assert y.state[a[0]]["rounding"] == x.state[a[0]]["rounding"]
    z = posneg.AdaPNM(a, amsgrad=False)
    with pytest.raises(posneg.CheckpointError, match="max_exp_avg_sq.*group 0"):
        posneg.load_checkpoint(tmp_path / "run", z, keep_options=True)
    posneg.load_checkpoint(tmp_path / "run", z)
    assert z.param_groups[0]["amsgrad"] is True
    posneg.save_checkpoint(tmp_path / "run", posneg.PNM([{"params": [p], "lr": float(i)} for i, p in enumerate(a)], lr=1.0))
    whole = posneg.PNM(a, lr=7.0)
    posneg.load_checkpoint(tmp_path / "run", whole, keep_options=True)  # groups of the file may differ
    assert whole.param_groups[0]["lr"] == 7.0


def test_state_that_others_have_saved_is_saved_whole(tmp_path):
    """What load_state_dict took over is brought into this package's form at the next step; the file has it before."""
    a = parameters(5, 6)
    x = torch.optim.SGD(a, lr=0.1, momentum=0.9)
    go(a, x, 2)
    b = twins(a)
    y = posneg.SGD(b, lr=1.0)
    y.load_state_dict(x.state_dict())
    posneg.save_checkpoint(tmp_path / "run", y)
    z = posneg.SGD(b, lr=1.0)
    posneg.load_checkpoint(tmp_path / "run", z)
    assert z.state[b[0]]["step"] == 1 and torch.equal(z.state[b[0]]["momentum_buffer"], x.state[a[0]]["momentum_buffer"])
    assert z.param_groups[0]["momentum"] == 0.9


# Bad files: what to do to a good one, and what the error says.


def groups_where(change):
    def edit(tensors, metadata):
        groups = json.loads(metadata["posneg.groups"])
        change(groups)
        metadata["posneg.groups"] = json.dumps(groups)

    return edit


def text(old, new):
    def edit(tensors, metadata):
        assert old in metadata["posneg.groups"]
        metadata["posneg.groups"] = metadata["posneg.groups"].replace(old, new, 1)

    return edit


def first_tensor(**changes):
    return groups_where(lambda groups: groups[0]["tensors"][0].update(changes))


def all_groups(**changes):
    return groups_where(lambda groups: [group.update(changes) for group in groups])


EDITS = {
    "no checkpoint": (lambda t, m: m.pop("posneg.checkpoint"), "not a checkpoint"),
    "newer": (lambda t, m: m.update({"posneg.checkpoint": "2"}), "newer version.*'2'"),
    "no groups": (lambda t, m: m.pop("posneg.groups"), "no posneg.groups"),
    "no JSON": (lambda t, m: m.update({"posneg.groups": "[{]"}), "posneg.groups"),
    "deep JSON": (lambda t, m: m.update({"posneg.groups": "[" * 100_000}), "'\\[' instead of an object"),
    "no array": (lambda t, m: m.update({"posneg.groups": "{}"}), "'{' instead of an array"),
    "no object": (lambda t, m: m.update({"posneg.groups": "[3]"}), "'3' instead of an object"),
    "a group missing": (groups_where(lambda groups: groups.pop()), "'1' only in the optimizer"),
    "a key twice": (text('"lr":', '"lr": 3, "lr":'), "twice"),
    "not a number": (text("0.01", "NaN"), "NaN"),
    "infinity": (text("0.01", "1e999"), "too large"),
    "a huge number": (text("0.01", "1" + 400 * "0"), "must be finite"),
    "no rule": (groups_where(lambda groups: groups[0].pop("rule")), "rule is missing"),
    "another rule": (lambda t, m: m.update({"posneg.groups": m["posneg.groups"].replace("AdaPNM", "Adam")}), "holds 'Adam', which AdaPNM"),
    "an option missing": (groups_where(lambda groups: groups[0].pop("eps")), "has no 'eps'"),
    "an option unknown": (all_groups(nesterov=True), "'nesterov'"),
    "a string": (all_groups(lr="0.1"), "lr is '0.1', must be a number"),
    "a flag as number": (all_groups(amsgrad=1), "amsgrad is 1, must be true"),
    "a number as flag": (all_groups(eps=True), "eps is True, must be a number"),
    "out of range": (all_groups(weight_decay=-1), "Invalid weight_decay"),
    "too few betas": (all_groups(betas=[0.9, 0.999]), "Invalid betas"),
    "betas of strings": (all_groups(betas=["0.9", 0.9, 1]), "must be a number"),
    "other in its place": (all_groups(other={"seed": 3}), "'seed'"),
    "other as number": (all_groups(other=3), "other is 3"),
    "tensors as object": (all_groups(tensors={}), "'{' instead of an array"),
    "a tensor as number": (all_groups(tensors=[3]), "tensor 0: it is 3"),
    "no name": (groups_where(lambda groups: groups[0]["tensors"][0].pop("name")), "name is missing"),
    "an empty name": (first_tensor(name=""), "empty"),
    "a name twice": (first_tensor(name="1"), "two tensors called '1'"),
    "another name": (first_tensor(name="x"), "'x' only in the file, and '0' only"),
    "half a character": (first_tensor(name="\ud800"), "surrogates not allowed"),
    "step missing": (groups_where(lambda groups: groups[0]["tensors"][0].pop("step")), "step is missing"),
    "a negative step": (first_tensor(step=-1), "step is -1"),
    "half a step": (first_tensor(step=1.5), "step is 1.5"),
    "the last step": (first_tensor(step=2**63 - 1), "step is 9"),
    "a flag as step": (first_tensor(step=True), "step is True"),
    "rounding of two": (first_tensor(rounding=[1, 2]), "rounding has 2"),
    "rounding too large": (first_tensor(rounding=[2**64, 2, 3]), "rounding is 18446744073709551616"),
    "rounding of a fraction": (first_tensor(rounding=[1, 2, 3.5]), "rounding is 3.5"),
    "a key unknown": (first_tensor(color=1), "'color'"),
    "groups that differ": (groups_where(lambda groups: groups[1].update(lr=0.5)), "'0' and '1' in groups with different options"),
    "a buffer missing": (lambda t, m: t.pop("state.1.neg_exp_avg"), "has no 'state.1.neg_exp_avg'"),
    "state missing": (lambda t, m: [t.pop(key) for key in list(t) if key.startswith("state.0")], "has no 'state.0.exp_avg'"),
    "parameters missing": (lambda t, m: t.pop("params.1"), "no parameters of '1'"),
    "a tensor too many": (lambda t, m: t.update({"state.2.exp_avg": torch.zeros(3)}), "belong to no parameter: 'state.2.exp_avg'"),
    "a shape": (lambda t, m: t.update({"state.0.exp_avg": torch.zeros(4, 3)}), r"shape \[4, 3\], must have shape \[3, 4\]"),
    "a length": (lambda t, m: t.update({"state.0.exp_avg": torch.zeros(11)}), r"shape \[11\]"),
    "two dimensions for one": (lambda t, m: t.update({"state.1.exp_avg": torch.zeros(5, 1)}), r"shape \[5, 1\]"),
    "a wide type": (lambda t, m: t.update({"params.0": torch.zeros(3, 4, dtype=torch.float64)}), "F64"),
    "a whole type": (lambda t, m: t.update({"state.0.exp_avg": torch.zeros(3, 4, dtype=torch.int32)}), "I32"),
    "a half type": (lambda t, m: t.update({"params.0": torch.zeros(3, 4, dtype=torch.float16)}), "F16"),
}


def long_header(data):
    return (2**63).to_bytes(8, "little") + data[8:]


BYTES = {
    "empty": lambda data: b"",
    "seven bytes": lambda data: data[:7],
    "half a header": lambda data: data[:100],
    "truncated": lambda data: data[:-1],
    "longer": lambda data: data + b"\0",
    "a long header": long_header,
    "not JSON": lambda data: data[:8] + b"[" + data[9:],
    "text": lambda data: b"not a checkpoint" * 10,
}


@pytest.fixture
def good(tmp_path):
    """A file, and an optimizer for it that is elsewhere: its parameters, itself, and what must stay the same."""
    a = parameters((3, 4), 5, dtype=torch.float32)
    x = posneg.AdaPNM([{"params": [p]} for p in a], lr=0.01)
    both = a + parameters(1)
    go(both, x, 3)
    file = tmp_path / "good"
    posneg.save_checkpoint(file, x, metadata={"epoch": "3"})
    b = twins(a)
    y = posneg.AdaPNM(b, lr=0.3)
    go(b + parameters(1), y, 2)
    return file, b, y


def loads_nothing(file, params, optimizer, match, error=posneg.CheckpointError):
    """Asserts that loading fails and changes nothing, by a step of the optimizer beside a copy of it."""
    other = twins(params)
    beside = posneg.AdaPNM(other)
    beside.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    before = copy.deepcopy(optimizer.state_dict()["param_groups"]), everything(params, optimizer)
    with pytest.raises(error, match=match) as caught:
        posneg.load_checkpoint(file, optimizer)
    assert str(file) in str(caught.value)
    assert (optimizer.state_dict()["param_groups"], everything(params, optimizer)) == before
    set_gradients(params, other)
    optimizer.step(), beside.step()
    assert everything(params, optimizer) == everything(other, beside)


@pytest.mark.parametrize("edit, match", EDITS.values(), ids=EDITS.keys())
def test_bad_contents_are_refused(good, edit, match):
    file, params, optimizer = good
    tensors = load_file(file)
    with safe_open(file, "pt") as f:
        metadata = f.metadata()
    metadata["posneg.checkpoint"] = "1"  # no checksum of the header
    edit(tensors, metadata)
    save_file(tensors, file, metadata)
    loads_nothing(file, params, optimizer, match)


@pytest.mark.parametrize("edit", BYTES.values(), ids=BYTES.keys())
def test_broken_files_are_refused(good, edit):
    file, params, optimizer = good
    file.write_bytes(edit(file.read_bytes()))
    loads_nothing(file, params, optimizer, "header|metadata")


def test_a_group_without_tensors_may_be_of_any_rule(good):
    file, params, optimizer = good
    tensors = load_file(file)
    with safe_open(file, "pt") as f:
        metadata = f.metadata()
    metadata["posneg.checkpoint"] = "1"
    groups_where(lambda groups: groups.append({"rule": "PNM", "lr": 1, "tensors": []}))(tensors, metadata)
    save_file(tensors, file, metadata)
    assert posneg.load_checkpoint(file, optimizer) == {"epoch": "3"}


def test_the_good_file_is_good(good):
    file, params, optimizer = good
    assert posneg.load_checkpoint(file, optimizer) == {"epoch": "3"}


def test_what_is_no_file(good, tmp_path):
    _, params, optimizer = good
    loads_nothing(tmp_path / "nowhere", params, optimizer, "nowhere", FileNotFoundError)
    loads_nothing(tmp_path, params, optimizer, "not a file")
    os.mkfifo(tmp_path / "pipe")
    loads_nothing(tmp_path / "pipe", params, optimizer, "not a file")


def test_other_classes(tmp_path):
    a = parameters(5)
    posneg.save_checkpoint(tmp_path / "adam", posneg.Adam(a))
    posneg.save_checkpoint(tmp_path / "adamw", posneg.AdamW(a))
    with pytest.raises(posneg.CheckpointError, match="posneg.Adam"):
        posneg.load_checkpoint(tmp_path / "adam", posneg.AdamW(a))
    x = posneg.Adam(a)
    posneg.load_checkpoint(tmp_path / "adamw", x)
    assert x.param_groups[0]["decoupled_weight_decay"] is True
    posneg.save_checkpoint(tmp_path / "sgd", posneg.SGD(a))
    with safe_open(tmp_path / "sgd", "pt") as f:
        metadata = f.metadata()
    metadata["posneg.groups"] = metadata["posneg.groups"].replace('"decoupled":false', '"decoupled":true')
    metadata["posneg.checkpoint"] = "1"
    save_file({}, tmp_path / "sgd", metadata)
    with pytest.raises(posneg.CheckpointError, match="has decoupled, which SGD does not have"):
        posneg.load_checkpoint(tmp_path / "sgd", posneg.SGD(a))


def test_a_file_that_ends_while_it_is_read(good, monkeypatch):
    """An optimizer that is loaded in part does not step."""
    file, params, optimizer = good
    data = file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "_verify", lambda *_: os.truncate(file, len(data) - 200))
        with pytest.raises(posneg.CheckpointError, match="only in part"):
            posneg.load_checkpoint(file, optimizer)
    for use in (
        optimizer.step,
        optimizer.state_dict,
        lambda: copy.deepcopy(optimizer),
        lambda: pickle.dumps(optimizer),
        lambda: posneg.save_checkpoint(file, optimizer),
    ):
        with pytest.raises(RuntimeError, match="only in part"):
            use()
    file.write_bytes(data)
    with pytest.raises(posneg.CheckpointError, match="params=True"):
        posneg.load_checkpoint(file, optimizer, params=False)
    posneg.load_checkpoint(file, optimizer)
    optimizer.step()


# Arguments.


def test_names_must_fit(tmp_path):
    a = parameters(5, 6)
    x = posneg.PNM(a, lr=1.0)
    for names, error, match in (
        ([("a", a[0])], ValueError, "parameter 1"),
        ([("a", a[0]), ("a", a[1])], ValueError, "two parameters called 'a'"),
        ([("a", a[0]), ("", a[1])], TypeError, "pairs"),
        ([(0, a[0]), (1, a[1])], TypeError, "pairs"),
    ):
        with pytest.raises(error, match=match):
            posneg.save_checkpoint(tmp_path / "run", x, names=names)
    assert not os.listdir(tmp_path)
    posneg.save_checkpoint(tmp_path / "run", x, names=[("b", a[1]), ("frozen", parameters(3)[0]), ("a", a[0]), ("tied", a[0])])
    with safe_open(tmp_path / "run", "pt") as f:
        assert [t["name"] for t in json.loads(f.metadata()["posneg.groups"])[0]["tensors"]] == ["a", "b"]


@pytest.mark.parametrize("metadata, error", [({"posneg.x": ""}, ValueError), ({"epoch": 3}, TypeError), ({3: ""}, TypeError)])
def test_metadata_must_be_strings_of_its_own(tmp_path, metadata, error):
    with pytest.raises(error, match="metadata"):
        posneg.save_checkpoint(tmp_path / "run", posneg.PNM(parameters(5), lr=1.0), metadata=metadata)
    assert not os.listdir(tmp_path)


def test_options_that_a_file_cannot_hold(tmp_path):
    x = posneg.PNM(parameters(5), lr=1.0)
    x.param_groups[0]["extra"] = object()
    with pytest.raises(TypeError, match="group 0 has 'extra'"):
        posneg.save_checkpoint(tmp_path / "run", x)
    x.param_groups[0]["extra"] = torch.tensor(3.0)
    x.param_groups[0]["lr"] = float("nan")
    with pytest.raises(ValueError, match="Invalid lr"):
        posneg.save_checkpoint(tmp_path / "run", x)
    x.param_groups[0]["lr"] = torch.tensor(0.25)
    posneg.save_checkpoint(tmp_path / "run", x)
    posneg.load_checkpoint(tmp_path / "run", x)
    assert x.param_groups[0]["lr"] == 0.25 and x.param_groups[0]["extra"] == 3.0


@pytest.mark.parametrize("extra", [{1: 2, "1": 3}, "\ud800", {"deep": ["\udfff"]}, 10**5000], ids=["keys", "surrogate", "deep", "long"])
def test_what_could_not_be_read_again_is_not_written(good, extra):
    file, _, optimizer = good
    before = file.read_bytes()
    optimizer.param_groups[0]["extra"] = extra
    with pytest.raises((ValueError, TypeError)):
        posneg.save_checkpoint(file, optimizer)
    assert file.read_bytes() == before


def test_names_that_are_no_utf8_are_not_written(tmp_path):
    a = parameters(5)
    with pytest.raises(ValueError, match="surrogate"):
        posneg.save_checkpoint(tmp_path / "run", posneg.PNM(a, lr=1.0), names=[("\ud800", a[0])])
    assert not os.listdir(tmp_path)


def test_flags_that_are_numbers_and_seeds_of_any_size(tmp_path):
    for optimizer, flag in ((posneg.AdaPNM, "amsgrad"), (posneg.PNM, "maximize")):
        for seed in (-1, 2**64 + 3):
            a = parameters(5, 6, dtype=torch.bfloat16)
            x = optimizer(a, lr=True, seed=seed, **{flag: 1})
            go(a, x, 1)
            posneg.save_checkpoint(tmp_path / "run", x)
            b = twins(a)
            y = optimizer(b, lr=1.0)
            posneg.load_checkpoint(tmp_path / "run", y)
            go(a, x, 2, 1), go(b, y, 2, 1)
            assert everything(a, x) == everything(b, y) and y.param_groups[0][flag] is True


def test_who_cannot_be_saved(tmp_path):
    a = parameters(5)
    with pytest.raises(TypeError, match="distributed.md"):
        posneg.save_checkpoint(tmp_path / "run", torch.optim.SGD(a, lr=1.0))
    x = posneg.PNM(a, lr=1.0)
    a[0].to_local = lambda: a[0]  # what tells a DTensor
    for use in (posneg.save_checkpoint, posneg.load_checkpoint):
        with pytest.raises(TypeError, match="DTensor.*distributed.md"):
            use(tmp_path / "run", x)


# Writing.


def test_a_file_is_replaced_as_a_whole(good, monkeypatch):
    file, params, optimizer = good
    before = file.read_bytes()

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoints, "_write", interrupted)
        posneg.save_checkpoint(file, optimizer)
    with pytest.raises(FileNotFoundError):
        posneg.save_checkpoint(file.parent / "nowhere" / "file", optimizer)
    assert file.read_bytes() == before and os.listdir(file.parent) == [file.name]


def test_a_full_disk(good):
    resource = pytest.importorskip("resource", reason="this system has no limits of files")
    file, params, optimizer = good
    before = file.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match=f"too large.*{file}"):
            posneg.save_checkpoint(file, optimizer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_bytes() == before and os.listdir(file.parent) == [file.name]


@pytest.mark.parametrize("mode", [0o444, 0o200])
def test_files_that_their_owner_cannot_open_are_replaced(good, mode, monkeypatch):
    file, _, optimizer = good
    file.chmod(mode)
    sync, opened = os.fsync, os.open

    def as_owner(path, flags, *more):  # root may do everything
        if os.path.exists(path) and not os.stat(path).st_mode & 0o200 and not os.path.isdir(path):
            raise PermissionError(13, "Permission denied", path)
        return opened(path, flags, *more)

    def no_folders(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(22, "Invalid argument")  # as some network file systems do
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", as_owner)
        patch.setattr(os, "fsync", no_folders)
        posneg.save_checkpoint(file, optimizer, metadata={"epoch": "5"})
    assert stat.S_IMODE(file.stat().st_mode) == mode
    file.chmod(0o400)
    assert posneg.load_checkpoint(file, optimizer) == {"epoch": "5"}


def test_permissions_and_links(good):
    file, params, optimizer = good
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask
    file.chmod(0o640)
    link = file.with_name("link")
    link.symlink_to(file.name)
    posneg.save_checkpoint(link, optimizer, metadata={"epoch": "4"})
    assert link.is_symlink() and stat.S_IMODE(file.stat().st_mode) == 0o640
    assert posneg.load_checkpoint(file, optimizer) == {"epoch": "4"}
    os.mkfifo(file.with_name("pipe"))
    with pytest.raises(OSError, match="not a regular file"):
        posneg.save_checkpoint(file.with_name("pipe"), optimizer)


def test_files_that_are_open(good):
    """What is written to a file, and read from one, begins where it is, and needs no path."""
    file, params, optimizer = good
    stream = io.BytesIO()
    stream.write(b"before")
    posneg.save_checkpoint(stream, optimizer, metadata={"epoch": "7"})
    posneg.save_checkpoint(file, optimizer, metadata={"epoch": "7"})
    assert stream.getvalue() == b"before" + file.read_bytes()
    stream.seek(6)
    assert posneg.load_checkpoint(stream, optimizer) == {"epoch": "7"}
    with pytest.raises(posneg.CheckpointError, match="but its header would have"):
        stream.seek(0)
        posneg.load_checkpoint(stream, optimizer)

    class Slow(io.RawIOBase):
        """Takes a few bytes at a time."""

        def __init__(self):
            self.taken = b""

        def write(self, piece):
            self.taken += bytes(piece[:77])
            return min(77, len(piece))

    slow = Slow()
    posneg.save_checkpoint(slow, optimizer, metadata={"epoch": "7"})
    assert slow.taken == file.read_bytes()


def test_flipped_bits_are_found(good):
    """One of each byte; where data is flipped, verify=False takes it all the same."""
    file, params, optimizer = good
    before = everything(params, optimizer)
    whole = bytearray(file.read_bytes())
    data = 8 + int.from_bytes(whole[:8], "little")
    for at in range(len(whole)):
        bit = 1 << (at * 5 % 8)
        whole[at] ^= bit
        with pytest.raises(posneg.ChecksumError if at >= data else posneg.CheckpointError):
            posneg.load_checkpoint(io.BytesIO(whole), optimizer)
        whole[at] ^= bit
    assert everything(params, optimizer) == before
    whole[-1] ^= 1
    posneg.load_checkpoint(io.BytesIO(whole), optimizer, verify=False)
    assert everything(params, optimizer) != before
    edited = bytes(whole).replace(b'\\"lr\\":0.01', b'\\"lr\\":0.02')
    with pytest.raises(posneg.ChecksumError, match="header"):
        posneg.load_checkpoint(io.BytesIO(edited), optimizer)
    posneg.load_checkpoint(io.BytesIO(edited), optimizer, verify=False)
    assert optimizer.param_groups[0]["lr"] == 0.02


def test_names_are_not_left_out(tmp_path):
    a = parameters(5, 5)
    x = posneg.PNM(a, lr=1.0)
    go(a + parameters(1), x, 1)
    posneg.save_checkpoint(tmp_path / "numbers", x)
    posneg.save_checkpoint(tmp_path / "names", x, names=[("a", a[0]), ("b", a[1])])
    for file, names in (("numbers", lambda b: [("a", b[0]), ("b", b[1])]), ("names", lambda b: None), ("names", lambda b: [("a", b[0]), ("c", b[1])])):
        b = side_by_side(a)
        with pytest.raises(posneg.CheckpointError, match="only"):
            posneg.load_checkpoint(tmp_path / file, posneg.PNM(b, lr=1.0), names=names(b))
    b = side_by_side(a)
    posneg.load_checkpoint(tmp_path / "names", posneg.PNM(b, lr=1.0), names=[("b", b[0]), ("a", b[1])])
    assert torch.equal(b[0], a[1]) and torch.equal(b[1], a[0])
    if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 6):  # optimizers know names
        b = side_by_side(a)
        posneg.load_checkpoint(tmp_path / "names", posneg.PNM([("b", b[0]), ("a", b[1])], lr=1.0))
        assert torch.equal(b[0], a[1]) and torch.equal(b[1], a[0])


def test_loading_tells_autograd(tmp_path):
    a = [*parameters((3, 4), ()), torch.nn.Parameter(torch.randn(4, 3).t())]
    x = posneg.PNM(a, lr=1.0)
    posneg.save_checkpoint(tmp_path / "run", x)
    for p in a:
        square = (p * p).sum()
        posneg.load_checkpoint(tmp_path / "run", x)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            square.backward()


HOSTILE = {
    "no header": (b"", 1, b""),
    "metadata": (b'{"__metadata__":{', b'"%d":"",', b"}}"),
    "tensors": (b"{", b'"%d":{"dtype":"F4","shape":[0],"data_offsets":[0,0]},', b'"a":{"dtype":"F4","shape":[0],"data_offsets":[0,0]}}'),
    "depth": (b'{"a":', b"[", b""),
    "objects": (b'{"a":[', b"{},", b""),
    "a long name": (b'{"', b"x", b""),
    "a long shape": (b'{"a":{"dtype":"F4","shape":[', b"300,", b""),
    "groups": (b"[", b'{"rule":"a","tensors":[]},', None),
    "tensors of a group": (b'[{"tensors":[', b'{"name":"%d","step":0,"crc32":{}},', None),
    "hyperparameters": (b"[{", b'"%d":1,', None),
    "betas": (b'[{"betas":[', b"[],", None),
    "other": (b'[{"other":{"a":[', b"{},", None),
    "others": (b"[", b'{"rule":"a","tensors":[],"other":{"a":[{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}]}},', None),
}


@pytest.mark.parametrize("begin, repeat, end", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_headers_take_little_memory(tmp_path, begin, repeat, end):
    size = 1 << 20
    if repeat == 1:
        file = (2**27).to_bytes(8, "little")
    else:
        text = begin + b"".join(repeat.replace(b"%d", b"%d" % i) for i in range(size // len(repeat))) + (end or b"")
        if end is None:
            groups = json.dumps({"__metadata__": {"posneg.checkpoint": "1", "posneg.groups": text.decode()}})
            text = groups.encode()
        file = len(text).to_bytes(8, "little") + text
    (tmp_path / "hostile").write_bytes(file)
    x = posneg.PNM(parameters(5), lr=1.0)
    tracemalloc.start()
    with pytest.raises(posneg.CheckpointError):
        posneg.load_checkpoint(tmp_path / "hostile", x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (1 << 20) + 13 * len(file), peak / len(file)


MEMORY = """
import sys, torch, posneg
from pathlib import Path

def peak():
    return int(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")).split()[1]) * 1024

file, action = sys.argv[1:]
params = [torch.nn.Parameter(torch.ones(2**20)) for _ in range(16)]
optimizer = posneg.AdaPNM(params)
for p in params:
    p.grad = torch.ones_like(p)
optimizer.step(), optimizer.step()  # which write all of the state: zeros may have no memory
if action == "load":
    posneg.save_checkpoint(file, optimizer)
before = peak()
getattr(posneg, action + "_checkpoint")(file, optimizer)
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are read from /proc")
@pytest.mark.parametrize("action", ["save", "load"])
def test_memory(tmp_path, action):
    """A state of 256 MiB, and 64 of parameters: no copy of them, and not even of the largest tensors, 4 MiB each, but one."""
    run = subprocess.run([sys.executable, "-c", MEMORY, tmp_path / "run", action], stdout=subprocess.PIPE, text=True, check=True)
    assert int(run.stdout) < 24 << 20
