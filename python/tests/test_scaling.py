"""torch.amp.GradScaler."""

import copy
import functools

import pytest
import torch

import posneg
import posneg.offload
from helpers import CLASSES, close, equal, parameters, set_gradients, twins

needs_scaler = pytest.mark.skipif(not hasattr(torch.amp, "GradScaler"), reason="this torch has no torch.amp.GradScaler")


def test_scale_and_found_inf():
    a = parameters(5)
    b = twins(a)
    x, y = posneg.PNM(a, lr=1.0), posneg.PNM(b, lr=1.0)
    for found in (False, True, False):
        set_gradients(b)
        a[0].grad = b[0].grad * 1024
        before = a[0].grad.clone()
        x.grad_scale, x.found_inf = torch.tensor(1024.0), torch.tensor(float(found))
        x.step()
        if not found:
            y.step()
        equal(a, b)
        equal([a[0].grad], [before])
    assert x.state[a[0]]["step"] == 2


@needs_scaler
@pytest.mark.parametrize("fused", [None, True], ids=["", "fused"])
@pytest.mark.parametrize("unscale", [False, True], ids=["", "unscale_"])
def test_scaler(unscale, fused):
    model = torch.nn.Linear(4, 3)
    twin = torch.nn.Linear(4, 3)
    twin.load_state_dict(model.state_dict())
    x, y = posneg.AdamW(model.parameters(), fused=fused), torch.optim.AdamW(twin.parameters(), fused=True)
    scalers = [torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=2) for _ in range(2)]
    for step in range(8):
        data = torch.randn(2, 4) * (float("inf") if step in (2, 5) else 1)
        for m, o, scaler in ((model, x, scalers[0]), (twin, y, scalers[1])):
            o.zero_grad()
            scaler.scale(m(data).square().sum()).backward()
            if unscale:
                scaler.unscale_(o)
                torch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)
            scaler.step(o)
            scaler.update()
        close(model.parameters(), twin.parameters())
    assert scalers[0].get_scale() == scalers[1].get_scale() != 2.0**12
    assert {s["step"].item() for s in x.state.values()} == {6}


@needs_scaler
def test_float16_model_with_scaler():
    """Whose gradients torch's unscale_ refuses."""
    model = torch.nn.Linear(4, 3).half()
    optimizer, scaler = posneg.AdaPNM(model.parameters()), torch.amp.GradScaler("cpu")
    before = model.weight.detach().clone()
    model.weight.grad, model.bias.grad = torch.ones(3, 4).half(), torch.ones(3).half()
    scaler.scale(torch.zeros(()))
    scaler.step(optimizer)
    scaler.update()
    assert not torch.equal(model.weight, before)


@needs_scaler
def test_who_divides_by_the_scale():
    p, half = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2).half())
    for ours in CLASSES:
        assert not ours([p], lr=1.0)._step_supports_amp_scaling
        for optimizer in (ours([p], lr=1.0, fused=True), ours([half], lr=1.0)):
            assert optimizer._step_supports_amp_scaling and copy.deepcopy(optimizer)._step_supports_amp_scaling


@needs_scaler
@pytest.mark.parametrize("kind", ["plain", "Offload", "Offload that frees", "in backward"])
def test_a_step_that_fails_leaves_no_scale(kind):
    """GradScaler takes its scale away after a step that has not failed."""
    if kind in ("Offload that frees", "in backward") and not hasattr(torch.Tensor, "register_post_accumulate_grad_hook"):
        pytest.skip("before torch 2.1")
    p = torch.nn.Parameter(torch.ones(3))
    make = {"Offload": posneg.offload.Offload, "Offload that frees": functools.partial(posneg.offload.Offload, free_gradients=True)}
    optimizer = make.get(kind, posneg.SGD)([p], **({"optimizer_class": posneg.SGD} if kind in make else {}), lr=1.0, fused=True)
    handle = posneg.step_in_backward([p], optimizer) if kind == "in backward" else None
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    optimizer.param_groups[0]["lr"] = float("nan") if kind in ("plain", "Offload") else 0.0
    scaler.scale(p.sum()).backward()
    with pytest.raises((ValueError, RuntimeError), match="must be finite|GradScaler"):
        scaler.step(optimizer)
    if handle is not None:
        handle.remove()
    optimizer.param_groups[0]["lr"] = 1.0
    optimizer.zero_grad()
    p.sum().backward()
    optimizer.step()
    assert p.tolist() == [0.0] * 3
