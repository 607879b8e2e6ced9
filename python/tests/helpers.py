"""What several tests need."""

import io

import torch

import posneg
from posneg._eager import EagerAdaPNM, EagerLion, EagerPNM

CLASSES = [c for c in map(posneg.__dict__.get, posneg.__all__) if isinstance(c, type) and issubclass(c, torch.optim.Optimizer)]

# Our optimizers with one that performs the same rule, and options that both have.
PAIRS = {
    "PNM": (posneg.PNM, EagerPNM, dict(lr=0.5, weight_decay=0.01)),
    "PNM, L2": (posneg.PNM, EagerPNM, dict(lr=0.5, betas=(0.8, -0.3), weight_decay=0.1, decoupled=False)),
    "AdaPNM": (posneg.AdaPNM, EagerAdaPNM, dict(lr=0.01, weight_decay=0.1)),
    "AdaPNM, L2": (posneg.AdaPNM, EagerAdaPNM, dict(lr=0.01, weight_decay=0.1, decoupled=False, amsgrad=False)),
    "SGD": (posneg.SGD, torch.optim.SGD, dict(lr=0.1, weight_decay=0.1)),
    "SGD, momentum": (posneg.SGD, torch.optim.SGD, dict(lr=0.1, momentum=0.9, dampening=0.3, weight_decay=0.1)),
    "SGD, Nesterov": (posneg.SGD, torch.optim.SGD, dict(lr=0.1, momentum=0.9, nesterov=True, maximize=True)),
    "Adam": (posneg.Adam, torch.optim.Adam, dict(lr=0.01, betas=(0.8, 0.99), weight_decay=0.1)),
    "Adam, AMSGrad": (posneg.Adam, torch.optim.Adam, dict(amsgrad=True, eps=1e-3, maximize=True)),
    "AdamW": (posneg.AdamW, torch.optim.AdamW, dict(lr=0.01)),
    "AdamW, AMSGrad": (posneg.AdamW, torch.optim.AdamW, dict(lr=0.01, amsgrad=True, weight_decay=0.5)),
    "Lion": (posneg.Lion, EagerLion, dict(lr=0.01, weight_decay=1.0)),
    "Lion, L2": (posneg.Lion, EagerLion, dict(lr=0.01, betas=(0.8, 0.95), weight_decay=0.1, decoupled=False)),
}

# Our optimizers alone, with options that together turn each of them around.
RULES = {name: (ours, options) for name, (ours, _, options) in PAIRS.items()}
RULES["AdaPNM, exact bias"] = (posneg.AdaPNM, dict(lr=0.01, betas=(0.8, 0.99, -0.3), exact_bias=True, maximize=True))


def parameters(*shapes, dtype=torch.float32):
    return [torch.nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in shapes]


def twins(params):
    """Parameters with the same values and the same layout."""
    return [torch.nn.Parameter(p.detach().clone()) for p in params]


def set_gradients(*lists, scale=1.0):
    """Gives the parameters of all lists the same random gradients."""
    for same in zip(*lists):
        g = scale * torch.randn(same[0].shape, dtype=same[0].dtype)
        for p in same:
            p.grad = g.clone()


def close(ours, theirs, steps=10):
    """Asserts that parameters or states are equal within what another order of the operations changes."""
    for a, b in zip(ours, theirs):
        limit = 16 * steps * torch.finfo(b.dtype).eps
        largest = float(b.detach().abs().max()) if b.numel() else 0.0
        torch.testing.assert_close(a, b, rtol=limit, atol=limit * max(1.0, largest))


def equal(ours, theirs):
    """Asserts that all bits are equal."""
    for a, b in zip(ours, theirs):
        assert a.dtype == b.dtype and torch.equal(a, b)


def bits(t):
    """The bits of all elements, in row-major order; two zeros differ."""
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    t = torch.view_as_real(t) if t.is_complex() else t
    return t.detach().contiguous().reshape(-1).view(integers[t.element_size()])


def values(optimizer):
    """All momenta and averages of an optimizer, in the order of its parameters."""
    state = optimizer.state_dict()["state"]
    return [
        v.view(torch.int16) if name == "master_low" else v
        for _, s in sorted(state.items())
        for name, v in sorted(s.items())
        if name not in ("step", "rounding") and v is not None
    ]


def saved(state_dict):
    """What comes back from a file."""
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file)
