"""Steps within backward passes: the bits are those of steps after them."""

import copy
import gc
import io
import weakref

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import posneg
from posneg.offload import Offload
from posneg import backward
from helpers import RULES, bits, equal, values

HAS_HOOKS = hasattr(torch.Tensor, "register_post_accumulate_grad_hook")
needs_hooks = pytest.mark.skipif(not HAS_HOOKS, reason="torch before 2.1 has no such hooks")


class Net(torch.nn.Module):
    """With equal biases, equal norms, a tied weight, and a parameter that only some inputs use."""

    def __init__(self, reentrant=None):
        super().__init__()
        self.first, self.tied, self.norms = torch.nn.Linear(6, 8), torch.nn.Linear(8, 8), torch.nn.ModuleList([torch.nn.LayerNorm(8) for _ in range(2)])
        self.last, self.extra = torch.nn.Linear(8, 3), torch.nn.Parameter(torch.ones(3))
        self.reentrant = reentrant
        for layer in (self.first, self.tied, self.last):
            torch.nn.init.zeros_(layer.bias)

    def block(self, h, norm):
        return norm(h + torch.tanh(self.tied(h)))

    def forward(self, x, extra=False):
        h = self.first(x)
        for norm in self.norms:
            h = self.block(h, norm) if self.reentrant is None else checkpoint(self.block, h, norm, use_reentrant=self.reentrant)
        return self.last(h) * (self.extra if extra else 1)


def pair(make, dtype=torch.float32, named=False, reentrant=None):
    """A net whose optimizer steps in backward, one whose does after it, and the handle."""
    torch.manual_seed(3)
    nets = [Net(reentrant).to(dtype) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    groups = [[{"params": [p for p in net.parameters() if p.dim() == d], "lr": 0.01 * d} for d in (2, 1)] for net in nets]
    if named:
        groups = [[{**g, "param_names": [f"{k}.{i}" for i in range(len(g["params"]))]} for k, g in enumerate(gs)] for gs in groups]
    optimizers = [make(g) for g in groups]
    return nets, optimizers, posneg.step_in_backward(nets[0], optimizers[0])


def passes(net, dtype, step, steps=1):
    for k in range(steps):
        generator = torch.Generator().manual_seed(100 * step + k)
        x = torch.randn(4, 6, generator=generator).to(dtype)
        net(x, extra=step % 3 == 1).float().square().mean().backward()


def train(nets, optimizers, dtype=torch.float32, first=0, steps=5):
    for step in range(first, first + steps):
        for net, optimizer in zip(nets, optimizers):
            optimizer.zero_grad()
            passes(net, dtype, step)
            if net is nets[0]:
                assert all(p.grad is None for p in net.parameters())
            optimizer.step()


def same(nets, optimizers):
    equal(*(list(map(bits, net.parameters())) for net in nets))
    equal(*(list(map(bits, values(o))) for o in optimizers))
    a, b = (o.state_dict() for o in optimizers)
    assert [g["lr"] for g in a["param_groups"]] == [g["lr"] for g in b["param_groups"]] and a["state"].keys() == b["state"].keys()
    for k in a["state"]:
        assert a["state"][k]["step"] == b["state"][k]["step"]


@needs_hooks
@pytest.mark.parametrize("ours, options", RULES.values(), ids=RULES.keys())
@pytest.mark.parametrize("batch", [0, 100, 1 << 20])
def test_rules(ours, options, batch, monkeypatch):
    monkeypatch.setattr(backward, "BATCH", batch)
    nets, optimizers, _ = pair(lambda groups: ours(groups, **options))
    train(nets, optimizers)
    same(nets, optimizers)


@needs_hooks
@pytest.mark.parametrize(
    "dtype, options",
    [
        (torch.bfloat16, {}),
        (torch.bfloat16, dict(master_weights=True)),
        (torch.float32, dict(state_dtype="bfloat16")),
        (torch.float32, dict(state_dtype="mxfp8")),
        (torch.float64, {}),
        (torch.float32, dict(clip_value=1e-3)),
    ],
    ids=["bfloat16", "masters", "state in bfloat16", "mxfp8", "float64", "clip_value"],
)
@pytest.mark.parametrize("named", [False, True], ids=["", "named"])
def test_formats(dtype, options, named):
    """Also what is drawn for parameters of equal content, which have numbers in the order of the groups."""
    nets, optimizers, _ = pair(lambda groups: posneg.AdaPNM(groups, seed=7, **options), dtype, named)
    draws = dtype == torch.bfloat16 and not options or "state_dtype" in options
    if draws and not named:  # the two nets would count on each other's equal parameters: one after the other, from the same count
        from posneg import _rounding

        met = dict(_rounding._met)
        for net, optimizer in zip(nets, optimizers):
            _rounding._met.clear()
            _rounding._met.update(met)
            for step in range(5):
                passes(net, dtype, step)
                optimizer.step()
                optimizer.zero_grad()
    else:
        train(nets, optimizers, dtype)
    same(nets, optimizers)


@needs_hooks
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_layers(reentrant):
    torch.manual_seed(5)
    nets = [torch.nn.ModuleList([torch.nn.Linear(4, 4) for _ in range(3)]) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    optimizers = [posneg.AdamW(net.parameters()) for net in nets]
    posneg.step_in_backward(nets[0], optimizers[0])
    for step in range(3):
        x = torch.randn(2, 4)
        for net, optimizer in zip(nets, optimizers):
            h = x.clone().requires_grad_()
            for layer in net:
                h = checkpoint(lambda t, layer=layer: torch.tanh(layer(t)), h, use_reentrant=reentrant)
            h.sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    same(nets, optimizers)


@needs_hooks
def test_a_tied_weight_in_checkpoints():
    nets, optimizers, _ = pair(posneg.AdamW, reentrant=False)
    train(nets, optimizers)
    same(nets, optimizers)


@needs_hooks
def test_accumulation():
    nets, optimizers, handle = pair(posneg.AdaPNM)
    for step in range(3):
        with handle.accumulate(), handle.accumulate():
            passes(nets[0], torch.float32, step, 2)
        with handle.accumulate():
            passes(nets[0], torch.float32, step + 10)  # one of them without, one with the parameter that some do not use
        before = {k: v.clone() for k, v in nets[0].state_dict().items()}
        equal(nets[0].state_dict().values(), before.values())
        passes(nets[0], torch.float32, step + 20)
        passes(nets[1], torch.float32, step, 2), passes(nets[1], torch.float32, step + 10), passes(nets[1], torch.float32, step + 20)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    same(nets, optimizers)


@needs_hooks
def test_only_step_of_all_that_was_accumulated():
    nets, optimizers, handle = pair(posneg.AdaPNM)
    with handle.accumulate():
        passes(nets[0], torch.float32, 1)
    passes(nets[1], torch.float32, 1)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    same(nets, optimizers)


@needs_hooks
def test_compiled_backward_pass():
    enable = getattr(pytest.importorskip("torch._dynamo.compiled_autograd"), "_enable", None) or pytest.skip("this torch enables it otherwise")
    nets, optimizers, _ = pair(posneg.AdaPNM)
    for step in range(3):
        with enable(torch.compile(backend="eager")):
            passes(nets[0], torch.float32, step)
        assert nets[0].last.weight.grad is None
        passes(nets[1], torch.float32, step)
        optimizers[1].step()
        optimizers[1].zero_grad()
    same(nets, optimizers)


@needs_hooks
def test_closures_and_schedulers():
    nets, optimizers, _ = pair(lambda groups: posneg.PNM(groups, lr=0.1))
    schedulers = [torch.optim.lr_scheduler.LambdaLR(o, lambda step: 0.5**step) for o in optimizers]
    for step in range(4):
        for net, optimizer, scheduler in zip(nets, optimizers, schedulers):

            def closure():
                optimizer.zero_grad()
                passes(net, torch.float32, step)
                return step

            assert optimizer.step(closure) == step
            scheduler.step()
    same(nets, optimizers)


@needs_hooks
def test_before_and_after_whole_steps():
    nets, optimizers, handle = pair(posneg.AdaPNM)
    train(nets, optimizers, steps=3)
    handle.remove()
    handle.remove()
    nets[1].zero_grad()
    passes(nets[0], torch.float32, 3), passes(nets[1], torch.float32, 3)
    assert nets[0].last.weight.grad is not None
    optimizers[0].step(), optimizers[1].step()
    same(nets, optimizers)
    optimizers[0].zero_grad(), optimizers[1].zero_grad()
    posneg.step_in_backward(nets[0].parameters(), optimizers[0])
    train(nets, optimizers, first=4)
    same(nets, optimizers)


@needs_hooks
@pytest.mark.parametrize("file", [False, True], ids=["state dict", "checkpoint"])
def test_resumed(file):
    nets, optimizers, _ = pair(lambda groups: posneg.AdaPNM(groups, state_dtype="bfloat16"), named=True)
    train(nets, optimizers, steps=3)
    other, resumed, _ = pair(lambda groups: posneg.AdaPNM(groups, state_dtype="bfloat16"), named=True)
    train(other, resumed, first=50, steps=1)
    if file:
        saved = io.BytesIO()
        posneg.save_checkpoint(saved, optimizers[0])
        saved.seek(0)
        posneg.load_checkpoint(saved, resumed[0])
    else:
        other[0].load_state_dict(nets[0].state_dict())
        resumed[0].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    nets, optimizers = [other[0], nets[1]], [resumed[0], optimizers[1]]
    train(nets, optimizers, first=3)
    same(nets, optimizers)


@needs_hooks
def test_some_parameters():
    nets, optimizers, handle = pair(posneg.AdamW)
    handle.remove()
    posneg.step_in_backward([nets[0].tied.weight, nets[0].last.bias], optimizers[0])
    for net, optimizer in zip(nets, optimizers):
        net.first.weight.requires_grad_(False)
        more = torch.nn.Parameter(torch.zeros(3))
        net.more = more
        optimizer.add_param_group({"params": [more]})
    for step in range(3):
        if step == 2:
            nets[0].first.weight.requires_grad_(), nets[1].first.weight.requires_grad_()
        for net, optimizer in zip(nets, optimizers):
            x = torch.full((2, 6), float(step))
            (net(x) + net.more).square().sum().backward()
            assert (net.tied.weight.grad is None) == (net.last.bias.grad is None) == (net is nets[0])
            assert net.first.bias.grad is not None
            optimizer.step()
            optimizer.zero_grad()
    same(nets, optimizers)


@needs_hooks
def test_a_parameter_without_a_gradient_has_no_state():
    nets, optimizers, _ = pair(lambda groups: posneg.AdamW(groups, state_dtype="bfloat16"))
    passes(nets[0], torch.float32, 0)
    assert [p for p in nets[0].parameters() if p not in optimizers[0].state] == [nets[0].extra]


@needs_hooks
@pytest.mark.parametrize("batch", [0, 100])
def test_gradients_do_not_add_up(batch, monkeypatch):
    """While a backward pass runs, no more gradients are there than wait for each other."""
    monkeypatch.setattr(backward, "BATCH", batch)
    nets, _, _ = pair(posneg.AdamW)
    most = []
    for p in nets[0].parameters():
        p.register_hook(lambda g: most.append(sum(q.grad.nbytes for q in nets[0].parameters() if q.grad is not None)))
    passes(nets[0], torch.float32, 1)
    assert len(most) == len(list(nets[0].parameters())) and max(most) <= batch and bool(batch) == any(most)


def untouched(net, optimizer, error, match, act):
    before = [p.detach().clone() for p in net.parameters()]
    with pytest.raises(error, match=match):
        act()
    equal(net.parameters(), before)
    assert not any("step" in s for s in optimizer.state.values())


@needs_hooks
@pytest.mark.parametrize("name, value", [("clip_norm", 1.0), ("clip_norm", float("inf")), ("skip_non_finite", True)])
def test_what_needs_all_gradients(name, value):
    nets, optimizers, handle = pair(posneg.AdamW)
    setattr(optimizers[0], name, value)
    untouched(nets[0], optimizers[0], RuntimeError, f"{name} needs all gradients", lambda: passes(nets[0], torch.float32, 0))
    handle.remove()
    with pytest.raises(RuntimeError, match=f"{name} needs all gradients"):
        posneg.step_in_backward(nets[0], optimizers[0])
    setattr(optimizers[0], name, type(value)() if value is True else None)
    posneg.step_in_backward(nets[0], optimizers[0])


@needs_hooks
@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True")
def test_create_graph():
    nets, optimizers, _ = pair(posneg.AdamW)
    loss = nets[0](torch.ones(2, 6)).sum()
    untouched(nets[0], optimizers[0], RuntimeError, "create_graph=True", lambda: loss.backward(create_graph=True))


@needs_hooks
def test_a_graph_that_is_used_again():
    nets, optimizers, _ = pair(posneg.AdamW)
    loss = nets[0](torch.ones(2, 6)).square().sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@needs_hooks
def test_several_processes_need_averages(monkeypatch):
    nets, optimizers, handle = pair(posneg.AdamW)
    monkeypatch.setattr(backward, "processes", lambda: 2)
    untouched(nets[0], optimizers[0], RuntimeError, "before DistributedDataParallel or FSDP1 averages", lambda: passes(nets[0], torch.float32, 0))


@needs_hooks
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_distributed_data_parallel(tmp_path):
    net = torch.nn.Linear(2, 2)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = torch.nn.Sequential(torch.nn.parallel.DistributedDataParallel(net))
        with pytest.raises(RuntimeError, match="DistributedDataParallel"):
            posneg.step_in_backward(wrapped, posneg.AdamW(net.parameters()))
    finally:
        torch.distributed.destroy_process_group()


@needs_hooks
@pytest.mark.skipif(not hasattr(torch.amp, "GradScaler"), reason="this torch has no torch.amp.GradScaler")
@pytest.mark.parametrize("unscale", [False, True], ids=["", "unscale_"])
def test_grad_scaler(unscale):
    nets, optimizers, _ = pair(posneg.AdamW)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(nets[0](torch.ones(2, 6)).sum()).backward()
    if unscale:
        scaler.unscale_(optimizers[0])
    with pytest.raises(RuntimeError, match="scaled gradients of a GradScaler"):
        scaler.step(optimizers[0])


@needs_hooks
def test_what_cannot_be_hooked():
    net = torch.nn.Linear(2, 2)
    optimizer = posneg.AdamW([net.weight])
    for params, error, match in [
        (torch.nn.Linear(2, 2), ValueError, "none of the model's"),
        ([net.weight, net.bias], ValueError, r"the optimizer does not have parameter 1, of shape \(2,\)"),
        ([("weight", net.weight)], TypeError, "number 0 of the parameters is a tuple"),
    ]:
        with pytest.raises(error, match=match):
            posneg.step_in_backward(params, optimizer)
    with pytest.raises(TypeError, match="such as posneg.AdamW, not AdamW"):
        posneg.step_in_backward(net, torch.optim.AdamW(net.parameters()))
    posneg.step_in_backward(net, optimizer)
    with pytest.raises(RuntimeError, match="already"):
        posneg.step_in_backward(net, optimizer)


@needs_hooks
@pytest.mark.parametrize("named", [False, True], ids=["", "named"])
def test_errors_name_the_parameter(named):
    nets, optimizers, _ = pair(posneg.AdamW, named=named)
    train(nets, optimizers, steps=2)
    bias = nets[0].last.bias
    place = next(i for i, p in enumerate(optimizers[0].param_groups[1]["params"]) if p is bias)
    optimizers[0].state[bias]["step"] = torch.tensor(0.5)
    with pytest.raises(ValueError, match=f"parameter '1.{place}'" if named else f"parameter {place} of group 1"):
        passes(nets[0], torch.float32, 0)
    optimizers[0].state[bias]["step"] = optimizers[1].state[nets[1].last.bias]["step"].clone()
    assert nets[0].last.weight.grad is not None
    optimizers[0].zero_grad()
    train(nets, optimizers, first=2)  # all wait for each other in so small a net, so that none was updated
    same(nets, optimizers)


@needs_hooks
def test_a_pass_that_an_exception_ends():
    nets, optimizers, handle = pair(posneg.AdamW)
    x = torch.ones(2, 6, requires_grad=True)
    h = nets[0](x)
    x.register_hook(lambda g: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        h.sum().backward()
    assert nets[0].last.weight.grad is not None and not optimizers[0].state[nets[0].last.weight]
    optimizers[0].zero_grad()
    train(nets, optimizers)
    same(nets, optimizers)
    assert not handle._hooks._waiting


@needs_hooks
def test_sparse_gradients_are_refused():
    net = torch.nn.Embedding(4, 2, sparse=True)
    optimizer = posneg.AdamW(net.parameters())
    posneg.step_in_backward(net, optimizer)
    with pytest.raises(RuntimeError, match="sparse"):
        net(torch.tensor([1])).sum().backward()


@needs_hooks
def test_copies_have_no_hooks_and_nothing_stays():
    nets, optimizers, handle = pair(posneg.AdamW)
    net, optimizer = copy.deepcopy((nets[0], optimizers[0]))
    passes(net, torch.float32, 0)
    assert all(p.grad is not None for n, p in net.named_parameters() if n != "extra")
    optimizer.step()
    posneg.step_in_backward(net, optimizer)
    seen = [weakref.ref(t) for t in (nets[0], nets[0].last.weight, optimizers[0])]
    del nets, optimizers, handle
    gc.collect()
    assert not any(r() is not None for r in seen)


@pytest.mark.skipif(HAS_HOOKS, reason="this torch has the hooks")
def test_an_old_torch():
    net = torch.nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match="needs torch 2.1 or newer"):
        posneg.step_in_backward(net, posneg.AdamW(net.parameters()))


@needs_hooks
@pytest.mark.parametrize("whole", [True, False], ids=["model", "parameters"])
def test_parameters_that_are_thawed_later(whole):
    """No gradient is added to one that a step has used, though nothing but the step clears it."""
    net = torch.nn.Linear(2, 2)
    torch.nn.init.zeros_(net.bias)
    net.bias.requires_grad_(False)
    optimizer = posneg.SGD(net.parameters(), lr=1.0)
    posneg.step_in_backward(net if whole else net.parameters(), optimizer)
    for step in range(5):
        if step == 2:
            net.bias.requires_grad_(True)
        net(torch.ones(1, 2)).sum().backward()
        assert (net.bias.grad is None) == (step != 2)
        optimizer.step()
        assert net.bias.grad is None and net.bias.tolist() == [-float(max(0, step - 1))] * 2


@needs_hooks
def test_one_optimizer_hooks_a_parameter():
    """A notebook's cell that is run again: what the first run has made is gone, or in the way of the second, and says so."""
    p = torch.nn.Parameter(torch.ones(3))
    first = posneg.AdamW([p])
    posneg.step_in_backward([p], first)
    second = posneg.AdamW([p])
    with pytest.raises(RuntimeError, match=r"gradient of parameter 0, of shape \(3,\), in backward passes"):
        posneg.step_in_backward([p], second)
    assert second._in_backward is None
    gone = weakref.ref(first)
    del first
    assert gone() is None
    handle = posneg.step_in_backward([p], second)
    with pytest.raises(RuntimeError, match="in backward passes"):
        Offload([p], free_gradients=True)
    p.sum().backward()
    assert second.state[p]["step"].item() == 1
    handle.remove()
    third = posneg.AdamW([p])
    kept = posneg.step_in_backward([p], third)
    gone = weakref.ref(third)
    del third
    assert gone() is not None  # the handle has it
    p.sum().backward()
    assert gone().state[p]["step"].item() == 1 and kept is not None
