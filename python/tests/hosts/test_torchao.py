"""torchao's CPUOffloadOptimizer, which makes an optimizer for each parameter.

It wants an accelerator. Where there is none, the CPU stands in: its streams do nothing, and no memory is pinned.
"""

import contextlib
import types

import pytest
import torch

import posneg
from helpers import close, equal, saved
from hosts import need

need("torchao")
from torchao.optim import CPUOffloadOptimizer, cpu_offload  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KINDS = {
    "float32": dict(),
    "bfloat16": dict(dtype=torch.bfloat16),
    "masters": dict(dtype=torch.bfloat16, master_weights=True),
    "mxfp8": dict(dtype=torch.bfloat16, state_dtype="mxfp8"),
}
kinds = pytest.mark.parametrize("how", KINDS.values(), ids=KINDS.keys())


class Stream:
    def wait_stream(self, _):
        pass

    def record_event(self):
        return self

    def synchronize(self):
        pass


class StandIn(types.ModuleType):
    """The module torch, as torchao sees it, whose accelerator is the CPU."""

    def __init__(self):
        super().__init__("torch")
        self.cuda = types.SimpleNamespace(Stream=Stream, current_stream=Stream, stream=lambda _: contextlib.nullcontext())

    def __getattr__(self, name):
        return getattr(torch, name)

    @staticmethod
    def empty_like(t, pin_memory=False, **how):
        return torch.empty_like(t, **how)


@pytest.fixture(autouse=True)
def accelerator(monkeypatch):
    if DEVICE == "cpu":
        monkeypatch.setattr(cpu_offload, "torch", StandIn())
        monkeypatch.setattr(cpu_offload, "get_available_devices", lambda: ["cpu", "cuda"])


def model(dtype=torch.float32, device=DEVICE):
    torch.manual_seed(2)
    return torch.nn.Sequential(torch.nn.Linear(6, 40), torch.nn.Tanh(), torch.nn.Linear(40, 3)).to(dtype).to(device)


def batch(net, step):
    p = next(net.parameters())
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(step)).to(p)


def train(net, optimizer, steps, schedule=None):
    for step in steps:
        net(batch(net, step)).float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if schedule:
            schedule.step()


def split(how):
    how = dict(how)
    return how.pop("dtype", torch.float32), dict(lr=0.01, **how)


@kinds
def test_as_one_optimizer(how):
    """The same bits as the class itself, on the same gradients. Names, by which bfloat16 is rounded, go with groups of one parameter."""
    dtype, options = split(how)
    net, plain = model(dtype), model(dtype, "cpu")
    groups = [dict(params=[p], param_names=[name]) for name, p in net.named_parameters()]
    optimizer = CPUOffloadOptimizer(groups, posneg.AdaPNM, minimal_size=0, **options)
    other = posneg.AdaPNM(plain.named_parameters(), **options)
    for step in range(7):
        net(batch(net, step)).float().square().mean().backward()
        for p, q in zip(net.parameters(), plain.parameters()):
            q.grad = p.grad.cpu().clone()
        optimizer.step()
        optimizer.zero_grad()
        other.step()
    equal([p.cpu() for p in net.parameters()], plain.parameters())


@kinds
def test_resumed(how):
    dtype, options = split(how)
    net = model(dtype)
    optimizer = CPUOffloadOptimizer(net.parameters(), posneg.AdaPNM, minimal_size=0, **options)
    train(net, optimizer, range(3))
    weights, state = saved([net.state_dict(), optimizer.state_dict()])
    train(net, optimizer, range(3, 7))
    again = model(dtype)
    again.load_state_dict(weights)
    resumed = CPUOffloadOptimizer(again.parameters(), posneg.AdaPNM, minimal_size=0, **options)
    resumed.load_state_dict(state)
    train(again, resumed, range(3, 7))
    equal(net.parameters(), again.parameters())


def test_groups_and_schedules():
    """Its groups are those of its optimizers, so that schedules of the rate reach these."""
    ends = []
    for cls in (posneg.AdamW, torch.optim.AdamW):
        net = model()
        groups = [dict(params=list(net[0].parameters()), weight_decay=0.5), dict(params=list(net[2].parameters()), lr=0.02)]
        optimizer = CPUOffloadOptimizer(groups, cls, minimal_size=0, lr=0.01)
        train(net, optimizer, range(7), torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 7))
        ends.append(list(net.parameters()))
    close(*ends, steps=100)


def test_small_parameters():
    """They stay on the accelerator, and go to the class there, unless minimal_size says otherwise: the error does, too."""
    net = model(device="meta" if DEVICE == "cpu" else DEVICE)
    optimizer = CPUOffloadOptimizer(net.parameters(), posneg.AdaPNM, lr=0.01)
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    with pytest.raises(RuntimeError, match="minimal_size=0"):
        optimizer.step()
