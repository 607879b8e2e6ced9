"""accelerate: what prepare() makes of an optimizer, in bfloat16 and with a scaler, and its states in folders."""

import pytest
import torch

import posneg
from helpers import close, equal, values
from hosts import need

accelerate = need("accelerate")

STEPS = 8


def model():
    torch.manual_seed(2)
    return torch.nn.Sequential(torch.nn.Linear(6, 40), torch.nn.Tanh(), torch.nn.Linear(40, 3))


def batches(dtype=torch.float32):
    return [torch.randn(8, 6, generator=torch.Generator().manual_seed(i)).to(dtype) for i in range(2 * STEPS)]


@pytest.fixture(autouse=True)
def fresh():
    yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


def prepare(net, optimizer, **how):
    accelerator = accelerate.Accelerator(cpu=True, **how)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=2 * STEPS + 1)
    return (accelerator, *accelerator.prepare(net, optimizer, schedule))


def train(accelerator, net, optimizer, schedule, data, clip=None, clip_value=None):
    norms = []
    for batch in data:
        with accelerator.accumulate(net):
            accelerator.backward(net(batch).float().square().mean())
            if accelerator.sync_gradients:
                if clip is not None:
                    norms.append(float(accelerator.clip_grad_norm_(net.parameters(), clip)))
                if clip_value is not None:
                    accelerator.clip_grad_value_(net.parameters(), clip_value)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return norms


@pytest.mark.parametrize("clip", [dict(), dict(clip=0.05), dict(clip_value=0.01)], ids=["", "norm", "value"])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_as_with_torch(precision, accumulate, clip):
    nets = []
    for cls in (posneg.AdamW, torch.optim.AdamW):
        net = model()
        how = prepare(net, cls(net.parameters()), mixed_precision=precision, gradient_accumulation_steps=accumulate)
        norms = train(*how, batches(), **clip)
        assert len(norms) == (2 * STEPS // accumulate if "clip" in clip else 0)
        nets.append(net)
    close(*(net.parameters() for net in nets), steps=100)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_step_clips(precision):
    """By itself instead of accelerate: grad_norm is read of the optimizer within."""
    nets, norms = [model(), model()], []
    a = prepare(nets[0], posneg.AdamW(nets[0].parameters(), clip_norm=0.05), mixed_precision=precision)
    a[2].optimizer.register_step_post_hook(lambda optimizer, *_: norms.append(optimizer.grad_norm))
    train(*a, batches())
    b = prepare(nets[1], torch.optim.AdamW(nets[1].parameters()), mixed_precision=precision)
    expected = train(*b, batches(), clip=0.05)
    close(*(net.parameters() for net in nets), steps=100)
    assert norms == pytest.approx(expected, rel=1e-4) and a[2].optimizer.grad_norm == norms[-1]


KINDS = {
    "float32": dict(),
    "bfloat16": dict(dtype=torch.bfloat16),
    "masters": dict(dtype=torch.bfloat16, master_weights=True),
    "mxfp8": dict(state_dtype="mxfp8"),
    "float16": dict(dtype=torch.float16),
}


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("how", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("at", [3, 4], ids=["odd", "even"])
def test_resumed(tmp_path, how, at, safe):
    how = dict(how)
    dtype = how.pop("dtype", torch.float32)

    def begin():
        net = model().to(dtype)
        return prepare(net, posneg.AdaPNM(net.named_parameters(), **how))

    whole = begin()
    train(*whole, batches(dtype)[:at])
    whole[0].save_state(str(tmp_path / "state"), safe_serialization=safe)
    train(*whole, batches(dtype)[at:])
    again = begin()
    again[0].load_state(str(tmp_path / "state"))
    train(*again, batches(dtype)[at:])
    equal(whole[1].parameters(), again[1].parameters())
    equal(values(whole[2]), values(again[2]))
    assert again[2].param_groups[0]["betas"] == whole[2].param_groups[0]["betas"]


@pytest.mark.skipif(not hasattr(torch.amp, "GradScaler"), reason="this torch has no torch.amp.GradScaler")
@pytest.mark.parametrize("fused", [None, True], ids=["", "fused"])
def test_a_scaler(fused):
    """On the CPU accelerate makes none, so that its wrapper gets one here. It reports a step that was skipped."""
    from accelerate.optimizer import AcceleratedOptimizer

    accelerate.Accelerator(cpu=True)
    nets = []
    for ours in (True, False):
        net = model()
        optimizer = posneg.AdamW(net.parameters(), fused=fused) if ours else torch.optim.AdamW(net.parameters(), fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
        wrapped = AcceleratedOptimizer(optimizer, scaler=scaler)
        for step, batch in enumerate(batches()):
            loss = net(batch).square().mean() * (float("inf") if step == 4 else 1)
            scaler.scale(loss).backward()
            wrapped.step()
            assert wrapped.step_was_skipped == (step == 4 and not fused), step
            wrapped.zero_grad()
        nets.append(net)
    close(*(net.parameters() for net in nets), steps=100)


def test_a_file_for_go_in_between(tmp_path):
    """The optimizer that prepare() gives back is a wrapper: save_checkpoint wants the one in it."""
    net = model()
    accelerator, net, optimizer, schedule = prepare(net, posneg.AdaPNM(net.parameters()))
    train(accelerator, net, optimizer, schedule, batches()[:3])
    with pytest.raises(TypeError, match="optimizer.optimizer"):
        posneg.save_checkpoint(tmp_path / "run", optimizer)
    posneg.save_checkpoint(tmp_path / "run", optimizer.optimizer, names=net.named_parameters())
    train(accelerator, net, optimizer, schedule, batches()[3:])
    again = model()
    other = posneg.AdaPNM(again.parameters())
    posneg.load_checkpoint(tmp_path / "run", other, names=again.named_parameters())
    equal([other.state[again[0].weight]["step"]], [torch.tensor(3.0, dtype=torch.float64)])
