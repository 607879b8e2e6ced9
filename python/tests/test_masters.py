"""float32 masters of 16-bit parameters: they are trained as float32 parameters are, whatever others write and wherever states come from."""

import copy

import pytest
import torch

import posneg
from posneg._masters import join, split
from helpers import RULES, bits, parameters, saved, set_gradients, twins

rules = pytest.mark.parametrize("ours, options", RULES.values(), ids=RULES.keys())
types = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])

FLOATS = {  # their bits, and which bfloat16 is the nearest: to even in a tie
    "zero": (0x00000000, 0x0000), "-zero": (0x80000000, 0x8000), "one": (0x3F800000, 0x3F80), "above": (0x3F800001, 0x3F80),
    "tie, up": (0x3F818000, 0x3F82), "tie, down": (0x3F808000, 0x3F80), "-tie, down": (0xBF808000, 0xBF80), "below a tie": (0x3F807FFF, 0x3F80),
    "denormal": (0x00000001, 0x0000), "-denormal": (0x80000003, 0x8000), "large denormal": (0x00008001, 0x0001),
    "largest": (0x7F7FFFFF, 0x7F80), "tie before infinity": (0x7F7F8000, 0x7F80), "infinity": (0x7F800000, 0x7F80), "-infinity": (0xFF800000, 0xFF80),
}


def from_bits(numbers, dtype):
    integers = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}[dtype]
    size = 1 << 16 if integers == torch.int16 else 1 << 32
    return torch.tensor([n - size if n >= size // 2 else n for n in numbers], dtype=integers).view(dtype)


MASTERS = from_bits([m for m, _ in FLOATS.values()], torch.float32)
NEAREST = from_bits([n for _, n in FLOATS.values()], torch.bfloat16)


def master(p, state):
    return state["master_param"] if p.dtype == torch.float16 else join(p, state["master_low"])


def layouts(dtype):
    return [
        torch.randn(40, dtype=torch.float32).to(dtype),
        torch.randn((), dtype=torch.float32).to(dtype),
        torch.zeros(0, 3, dtype=dtype),
        torch.randn(2, 3, 4, 5).to(dtype).contiguous(memory_format=torch.channels_last),
        torch.randn(5, 8).to(dtype)[:, ::2].t(),
    ]


def go(params, optimizer, steps=1):
    for _ in range(steps):
        set_gradients(params)
        optimizer.step()


def same(a, b):
    a, b = (t.detach().contiguous() for t in (a, b))
    nan = a.isnan()
    assert a.dtype == b.dtype and torch.equal(nan, b.isnan())
    assert torch.equal(bits(a)[~nan.flatten()], bits(b)[~nan.flatten()])


@types
@rules
def test_trained_as_float32(ours, options, dtype):
    a = [torch.nn.Parameter(t) for t in layouts(dtype)]
    b = [torch.nn.Parameter(p.detach().float()) for p in a]
    x, y = ours(a, **options, master_weights=True), ours(b, **options)
    for _ in range(5):
        set_gradients(a)
        for p, q in zip(a, b):
            q.grad = p.grad.float()
        x.step(), y.step()
        for p, q in zip(a, b):
            same(master(p, x.state[p]), q)
            distance = (p.detach().double() - q.detach().double()).abs() - (q.detach().to(dtype).double() - q.detach().double()).abs()
            assert not distance.numel() or distance.max() <= 0  # it is the nearest, or as near
            kept = x.state[p]["master_low" if dtype == torch.bfloat16 else "master_param"]
            assert kept.dtype == (torch.int16 if dtype == torch.bfloat16 else torch.float32) and kept.shape == p.shape


WRITES = {
    "zeros": lambda p: p.zero_(),
    "-zeros": lambda p: p.fill_(-0.0),
    "infinity": lambda p: p.fill_(float("inf")),
    "NaN": lambda p: p[::2].fill_(float("nan")),
    "copy": lambda p: p.copy_(torch.randn(p.shape)),
    "scaled": lambda p: p.mul_(0.75),
    "one ulp": lambda p: p[1::3].view(torch.int16).add_(1),
    "the same": lambda p: p.copy_(p.clone()),
    "average": lambda p: p.mul_(0.9).add_(torch.ones_like(p), alpha=0.1),
    "some": lambda p: p[:5].fill_(3),
}


@types
@pytest.mark.parametrize("through", ["in place", "data", "memory"])
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
@pytest.mark.parametrize("gaps", [False, True], ids=["", "gaps"])
def test_what_others_write_is_where_the_next_step_begins(dtype, through, write, gaps):
    whole = torch.randn(60).to(dtype)
    p = torch.nn.Parameter(whole[::2] if gaps else whole)
    x = posneg.AdamW([p], lr=0.01, master_weights=True)
    go([p], x, 2)
    before, old = master(p, x.state[p]).clone(), p.detach().clone()
    with torch.no_grad():
        if through == "in place":
            write(p)
        elif through == "data":
            write(p.data)
        else:
            other = p.detach().clone()
            write(other)
            p.data = other
    if dtype == torch.bfloat16:
        begins, wrote = join(p, x.state[p]["master_low"]), p.detach().float()
        near = (begins - wrote).abs() <= wrote.abs() / 256 + 1e-38  # half the distance of bfloat16 numbers
        assert near[wrote.isfinite()].all()
    else:
        begins = torch.where(bits(p) == bits(old), before, p.detach().float())
    q = torch.nn.Parameter(begins.clone())
    y = posneg.AdamW([q], lr=0.01)
    state = copy.deepcopy(x.state_dict())
    for name in ("master_param", "master_low"):
        state["state"][0].pop(name, None)
    y.load_state_dict(state)
    set_gradients([p])
    q.grad = p.grad.float()
    x.step(), y.step()
    same(master(p, x.state[p]), q)


@types
def test_weights_that_are_swapped_and_swapped_back(dtype):
    """As for a validation with an average of the weights."""
    a = parameters(40, dtype=dtype)
    b = twins(a)
    x, y = posneg.Lion(a, lr=0.01, master_weights=True), posneg.Lion(b, lr=0.01, master_weights=True)
    for _ in range(3):
        set_gradients(a, b)
        x.step(), y.step()
        kept = a[0].detach().clone()
        a[0].data.copy_(torch.randn(40))
        a[0].data.copy_(kept)
    same(a[0], b[0])
    same(master(a[0], x.state[a[0]]), master(b[0], y.state[b[0]]))


def test_split_and_joined():
    """As splitBF16 and joinBF16 in format.go."""
    p = torch.nn.Parameter(NEAREST.clone())
    low = split(p, MASTERS, 0)
    same(join(p, low), MASTERS)
    for upper, rest, joined in [(0x3F80, -0x8000, 0x3F7F8000), (0x0000, -1, 0), (0x8000, -1, 0x80000000), (0x7F80, -1, 0x7F7FFFFF), (0xFF7F, 5, 0xFF7F0005)]:
        same(join(from_bits([upper], torch.bfloat16), torch.tensor([rest], dtype=torch.int16)), from_bits([joined], torch.float32))
    nan = torch.tensor([float("nan")])
    p = nan.bfloat16()
    assert split(p, nan, 0).tolist() == [0] and p.isnan()
    everything = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    for rest in (0, 1, 0x7FFF, -0x8000, -1):
        number = join(everything, torch.full_like(everything, rest, dtype=torch.int16))
        other = everything.clone()
        low = split(other, number, 0)
        same(join(other, low)[~number.isnan()], number[~number.isnan()])


def from_state_dict(x, p):
    x.load_state_dict({"state": {0: {"step": 3.0, "momentum_buffer": torch.zeros(p.shape), "master_param": MASTERS.clone()}}, "param_groups": x.state_dict()["param_groups"]})
    return x, p


def from_a_pickle(x, p):
    x.state[p] = {"step": torch.tensor(3.0), "momentum_buffer": torch.zeros(p.shape), "master_param": MASTERS.clone()}
    x = saved_whole(x)
    return x, x.param_groups[0]["params"][0]


def saved_whole(x):
    import io

    file = io.BytesIO()
    torch.save(x, file)
    file.seek(0)
    return torch.load(file, **({"weights_only": False} if torch.__version__ >= "2" else {}))


@pytest.mark.parametrize("load", [from_state_dict, from_a_pickle])
@pytest.mark.parametrize("written", ["nearest even", "split", "others"])
def test_states_with_whole_masters(load, written):
    start = NEAREST.clone()
    if written == "split":
        split(start, MASTERS, 0)
        assert not torch.equal(start, NEAREST)
    elif written == "others":
        start.copy_(torch.randn(len(start)))
    p = torch.nn.Parameter(start.clone())
    x, p = load(posneg.SGD([p], lr=0.0, momentum=0.5, master_weights=True), p)
    p.grad = torch.zeros_like(p)
    x.step()
    assert "master_param" not in x.state[p]
    finite = MASTERS.isfinite()  # the momentum times 0 is NaN there
    same(join(p, x.state[p]["master_low"])[finite], (start.float() if written == "others" else MASTERS)[finite])


def test_the_order_of_loading_does_not_matter():
    """Parameters often come after the optimizer's state: until a step, the old master is not compared with them."""
    a = parameters(50, dtype=torch.bfloat16)
    x = posneg.AdamW(a, lr=0.01, master_weights=True)
    go(a, x, 3)
    ends = []
    for optimizer_first in (False, True):
        b = parameters(50, dtype=torch.bfloat16)
        y = posneg.AdamW(b, master_weights=True)
        for what in ("optimizer", "parameters") if optimizer_first else ("parameters", "optimizer"):
            if what == "optimizer":
                y.load_state_dict(saved(x.state_dict()))
            else:
                b[0].data.copy_(a[0])
        ends.append((b, y))
    torch.manual_seed(0)
    go(a, x)
    for b, y in ends:
        torch.manual_seed(0)
        go(b, y)
        same(a[0], b[0])
        same(master(a[0], x.state[a[0]]), master(b[0], y.state[b[0]]))


@types
@pytest.mark.parametrize("copied", [copy.deepcopy, saved_whole, lambda x: x], ids=["deepcopy", "pickle", "state dict"])
def test_goes_on_with_the_same_bits(dtype, copied):
    a = [torch.nn.Parameter(t) for t in layouts(dtype)]
    x = posneg.AdaPNM(a, lr=0.01, master_weights=True)
    go(a, x, 3)
    y = copied(x)
    if y is x:
        b = [torch.nn.Parameter(t.detach().clone()) for t in a]
        y = posneg.AdaPNM(b, master_weights=True)
        state = saved(x.state_dict())
        for p, s in zip(a, state["state"].values()):
            assert {n: s[n].dtype for n in s if "master" in n} == ({"master_low": dtype} if dtype == torch.bfloat16 else {"master_param": torch.float32})
        y.load_state_dict(state)
    else:
        assert all(("master_low" in s) == (dtype == torch.bfloat16) for s in y.state.values())
    b = y.param_groups[0]["params"]
    for _ in range(2):
        set_gradients(a, b)
        x.step(), y.step()
    for p, q in zip(a, b):
        same(p, q)
        same(master(p, x.state[p]), master(q, y.state[q]))


@types
def test_torchs_classes_take_the_state(dtype):
    a = parameters(50, dtype=dtype)
    x = posneg.AdamW(a, lr=0.01, master_weights=True)
    go(a, x, 3)
    b = twins(a)
    y = torch.optim.AdamW(b, lr=0.01)
    y.load_state_dict(saved(x.state_dict()))
    if dtype == torch.bfloat16:
        go(b, y)
    else:  # torch 1 cannot, on the CPU
        b[0].data.mul_(0.75)
    z = posneg.AdamW(twins(b), lr=0.01, master_weights=True)  # and back: the master was of another step, and the parameter counts
    z.load_state_dict(saved(y.state_dict()))
    c = z.param_groups[0]["params"]
    set_gradients(c, scale=0.0)
    z.param_groups[0].update(lr=0.0)
    z.step()
    same(b[0], c[0])


def test_masters_that_are_given_up_and_taken_again():
    a = parameters(50, dtype=torch.bfloat16)
    x = posneg.AdamW(a, lr=0.01, master_weights=True)
    go(a, x, 2)
    y = posneg.AdamW(twins(a), lr=0.01)
    y.load_state_dict(saved(x.state_dict()))
    y.param_groups[0]["master_weights"] = False
    go(y.param_groups[0]["params"], y)
    assert not {"master_low", "master_param"} & y.state[y.param_groups[0]["params"][0]].keys()
    x.param_groups[0]["master_weights"] = False
    go(a, x)
    assert "master_low" not in x.state[a[0]]
    x.param_groups[0]["master_weights"] = True
    before = a[0].detach().float()
    x.param_groups[0]["lr"] = 0.0
    go(a, x)
    same(join(a[0], x.state[a[0]]["master_low"]), before)
    for dtype in (torch.float16, torch.float32, torch.bfloat16):
        a[0].data, a[0].grad = a[0].data.to(dtype), None
        go(a, x)
        assert {"master_low", "master_param"} & x.state[a[0]].keys() == {torch.float16: {"master_param"}, torch.float32: set(), torch.bfloat16: {"master_low"}}[dtype]


@pytest.mark.parametrize("low, text", [
    (torch.zeros(5, dtype=torch.int32), r"torch\.int32 .*must be torch\.int16"),
    (torch.zeros(5), r"torch\.float32 .*must be torch\.int16"),
    (torch.zeros(4, dtype=torch.int16), r"torch\.int16 of shape \(4,\), must be .*the parameter's shape \(5,\)"),
    ([0] * 5, "a list, must be torch.int16"),
])
def test_what_is_no_lower_half(low, text):
    p = torch.nn.Parameter(torch.ones(5, dtype=torch.bfloat16))
    x = posneg.SGD([p], lr=1.0, master_weights=True)
    p.grad = torch.ones_like(p)
    x.step()
    x.state[p]["master_low"] = low
    for use in (x.step, x.state_dict, lambda: x.load_state_dict({"state": {0: {"step": 1.0, "master_low": low}}, "param_groups": [{"params": [0]}]})):
        with pytest.raises(ValueError, match=f"'master_low' of parameter 0 of group 0 is {text}"):
            use()
    assert p.tolist() == [0] * 5


def test_lower_halves_in_a_state_dict():
    """As somebody may have put them there: torch casts them to the parameter's type, which is undone."""
    a = parameters(50, dtype=torch.bfloat16)
    x = posneg.AdamW(a, lr=0.01, master_weights=True)
    go(a, x, 2)
    y = posneg.AdamW(twins(a), lr=0.01, master_weights=True)
    y.load_state_dict({**x.state_dict(), "state": {0: dict(x.state[a[0]])}})
    b = y.param_groups[0]["params"]
    assert torch.equal(y.state[b[0]]["master_low"], x.state[a[0]]["master_low"]) and y.state[b[0]]["master_low"].dtype == torch.int16


@types
def test_hooks_and_foreach_see_the_parameter(dtype):
    p = torch.nn.Parameter(torch.ones(5, dtype=dtype))
    x = posneg.AdamW([p], lr=0.01, master_weights=True)

    def double(*_):
        torch._foreach_mul_([p.data], 2.0)

    if hasattr(x, "register_step_pre_hook"):
        x.register_step_pre_hook(double)
    else:  # torch 1
        double()
    p.grad = torch.zeros_like(p)
    x.param_groups[0]["weight_decay"] = 0.0
    x.step()
    assert p.tolist() == [2] * 5
