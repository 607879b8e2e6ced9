"""What docs/choosing.md says of settings, from steps of both optimizers; and that its measurements are those of the other pages."""

import math
import re
import types
from pathlib import Path

import pytest
import torch
from posneg._eager import Eager, EagerAdaPNM, EagerPNM, direction, momenta

import posneg

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "choosing.md").read_text(encoding="utf-8")


def table(text, head):
    """The rows of the table whose head begins so, as lists of cells."""
    lines = text[text.index(f"| {head}"):].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]


def numbers(text):
    return [float(number.replace("−", "-")) for number in re.findall(r"[−+]?\d+(?:\.\d+)?", text)]


class RangerLite(Eager):
    """nnue-pytorch's at 9f72946, without lookahead, norm loss and weight decay."""

    options = dict(betas=(0.9, 0.999), eps=1e-7, pnm_momentum=1.0, weight_decay=0.0, decoupled=True)

    @staticmethod
    def update(p, grad, state, group):
        beta1, beta2 = group["betas"]
        due, other = momenta(p, state, "grad_ma", "neg_grad_ma")
        t = state["step"]
        v = state.setdefault("variance_ma", torch.zeros_like(p))
        v.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        u = direction(due, other, grad, beta1, group["pnm_momentum"]) / (1 - beta1 ** ((t + 1) // 2 * 2))
        p.sub_(group["lr"] * u / ((v / (1 - beta2**t)).sqrt() + group["eps"]))


def made(code):
    """The optimizer that the code makes, of a parameter of its own."""
    p = torch.nn.Parameter(torch.ones(5, dtype=torch.float64))
    authors = types.SimpleNamespace(PNM=EagerPNM, AdaPNM=EagerAdaPNM)
    names = dict(params=[p], torch=torch, posneg=posneg, pnm_optim=authors, RangerLite=RangerLite)
    if "pytorch_optimizer" in code:
        names["pytorch_optimizer"] = pytest.importorskip("pytorch_optimizer")
    return eval(code, names), p  # code of the page


def moves(code, gradient, steps, **options):
    """How far the optimizer moves its parameter from 1."""
    optimizer, p = made(code)
    optimizer.param_groups[0].update(options)
    for _ in range(steps):
        p.grad = torch.full_like(p, gradient)
        optimizer.step()
    return 1 - p[0].item()


rows = table(PAGE, "from")
for i, row in enumerate(rows):
    row[0] = row[0] or rows[i - 1][0]


@pytest.mark.parametrize("old, new, step", rows, ids=[row[1] for row in rows])
def test_settings(old, new, step):
    old, new = old.strip("`"), new.strip("`")
    if step == "equal":
        (one, p), (other, q) = made(old), made(new)
        for grad in torch.randn(7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64):
            p.grad, q.grad = grad.clone(), grad.clone()
            one.step()
            other.step()
        torch.testing.assert_close(p, q, rtol=1e-6, atol=0)
        return
    a, b = ([moves(code, 1.0, n, weight_decay=0.0) for n in (400, 800)] for code in (old, new))
    assert (b[1] - b[0]) / (a[1] - a[0]) == pytest.approx(float(step), abs=1e-3)
    # Without a gradient the decay is left; coupled, it is one.
    assert moves(new, 0.0, 500) == pytest.approx(moves(old, 0.0, 500), rel=0.03)


@pytest.mark.parametrize("beta0, gamma, lr, limit, step", [numbers(" ".join(row)) for row in table(PAGE, "β0 |")])
def test_learning_rates(beta0, gamma, lr, limit, step):
    exact = -0.9 / 1.9 if beta0 == -0.474 else beta0
    g = (1 + exact) ** 2 + exact**2
    largest = 2 * math.sqrt(g / (2 * g - 1))
    assert (gamma, lr, limit, step) == pytest.approx((g, math.sqrt(g / 5), largest, largest / math.sqrt(g)), rel=3e-3)
    for beta1 in (0.5, 0.9) if beta0 >= 0 else (0.9,):
        for factor in 0.98, 1.02:
            p = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
            optimizer = posneg.PNM([p], lr=factor * largest, betas=(beta1, exact))
            for _ in range(3000):
                p.grad = p.detach().clone()
                optimizer.step()
            assert (p.abs() < 1).item() == (factor < 1), (beta1, factor, p)


def test_first_steps():
    pnm = "posneg.PNM(params, lr=1.0)"
    assert moves(pnm, 1.0, 1) * math.sqrt(5) == pytest.approx(float(re.search(r"the first is ([\d.]+) of", PAGE)[1]), abs=0.005)
    first, exact = re.search(r"([\d.]+)·LR, because .* makes it ([\d.]+)·LR", PAGE).groups()
    assert moves("posneg.AdaPNM(params, lr=1.0)", 1.0, 1) == pytest.approx(float(first), abs=0.005)
    assert moves("posneg.AdaPNM(params, lr=1.0, exact_bias=True)", 1.0, 1) == pytest.approx(float(exact), abs=0.005)


@pytest.mark.parametrize("row", table(PAGE, "if |"), ids=lambda row: row[0])
def test_formats(row):
    dtype = {} if row[1] == "default" else dict(state_dtype=re.search('"(.*)"', row[1])[1])
    for cls, written in zip((posneg.PNM, posneg.AdaPNM, posneg.AdamW), row[3:]):
        p = torch.nn.Parameter(torch.ones(1024, 1024))
        optimizer = cls([p], lr=1e-3, **dtype)
        p.grad = torch.ones_like(p)
        optimizer.step()
        taken = sum(x.numel() * x.element_size() for x in optimizer.state[p].values() if torch.is_tensor(x) and x.numel() > 1)
        assert taken / p.numel() == pytest.approx(float(written), abs=0.005)


def test_share_of_small_momenta(capsys):
    weight = torch.nn.Parameter(torch.zeros(4, 5, 32))
    optimizer = posneg.AdamW([weight])
    weight.grad = torch.ones_like(weight)
    weight.grad[1, 2, :8] = 2.0**-16
    weight.grad[2, 2, :8] = 2.0**-14
    weight.grad[3] = 0
    optimizer.step()
    exec(re.search(r"```python\n(.*?)```", PAGE, re.S)[1], dict(optimizer=optimizer, weight=weight))
    assert capsys.readouterr().out == f"{8 / weight.numel():.3%}\n"


def test_measurements():
    """The rows of generalization.md, in its order: wrong labels at two learning rates; right ones; wrong ones that are not memorized."""
    generalization = (DOCS / "generalization.md").read_text(encoding="utf-8")

    def last(pair):
        for line in re.findall(rf"^\| {pair} \|(.*)\|$", generalization, re.M):
            cells = [numbers(cell)[0] for cell in line.split("|")]
            yield from cells[1::2] if len(cells) == 4 else cells[1:2]

    def written(*expected):
        return pytest.approx(expected, abs=0.0501)  # in tenths

    memorized, little, right = table(PAGE, "training labels")
    low, high, clean, *others = last("PNM − SGD-M, matched")
    assert numbers(memorized[1]) == written(-high, -low)
    assert numbers(right[1]) == written(clean)
    assert numbers(little[1]) == written(min(others), max(others))
    gained = next(last("AdaPNM − AdamW"))
    low, high, clean, *others = last("AdaPNM − AdamW, matched")
    assert numbers(memorized[2]) == written(-low) and numbers(memorized[2]) == written(-high)
    assert numbers(little[2]) == written(min(others), max(others))
    assert right[2] == "no difference" and "+0.08 ± 0.11" in generalization
    shorter = re.search(r"gained ([\d.]+) points over AdamW at the same learning rate, but only\s+([\d.]+) points", PAGE)
    assert numbers(" ".join(shorter.groups())) == written(-gained, -low)
    at = {row[0]: numbers(row[3])[0] for row in table(generalization, "β0 | LR | best")}
    assert numbers(re.search(r"by ([\d.]+) points from", PAGE)[1]) == written(at["0, matched"] - at["1"])
    assert "−0.20 ± 0.16" in generalization and "−0.20 ± 0.16 points" in PAGE
