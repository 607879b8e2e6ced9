"""What help() says of the optimizers is complete, and true."""

import ast
import doctest
import importlib
import inspect
import math
import re
import textwrap
from pathlib import Path

import pytest
import torch

import posneg
from helpers import CLASSES

each_class = pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)

# Options that turn around whatever the equations have.
TURNED = [
    dict(maximize=True, weight_decay=0.1),
    dict(decoupled=False, decoupled_weight_decay=True, weight_decay=0.1, amsgrad=True, nesterov=True, momentum=0.9),
    dict(amsgrad=False, exact_bias=True, momentum=0.9, dampening=0.3, betas=(0.8, 0.95, -0.3)),
]


def documented(kind):
    """The texts of a class's arguments, in their order."""
    section = inspect.getdoc(kind).partition("\nArgs:\n")[2].partition("\n\n")[0]
    found = re.findall(r"^    (\w+): ((?:.+\n?)(?:     .+\n?)*)", section, re.M)
    return {name: " ".join(text.split()) for name, text in found}


def arguments(kind):
    return {name: a for name, a in inspect.signature(kind).parameters.items()}


@each_class
def test_each_argument(kind):
    told, there = documented(kind), arguments(kind)
    assert list(told) == list(there)
    for name, argument in there.items():
        default = re.search(r"Default: (.+)\.$", told[name])
        if argument.default is inspect.Parameter.empty:
            assert default is None, name
        else:
            assert repr(ast.literal_eval(default.group(1))) == repr(argument.default), name


def test_arguments_of_all_classes_have_one_text():
    """IDEs show a docstring as it is in the source, so that each class has its own."""
    common = set.intersection(*(set(arguments(kind)) for kind in CLASSES)) - {"lr", "weight_decay"}
    assert {"params", "maximize", "seed", "clip_norm"} <= common
    for name in common:
        assert len({documented(kind)[name] for kind in CLASSES}) == 1, name


def block(kind):
    """The equations, which are statements of Python."""
    return textwrap.dedent(re.search(r"::\n\n(.*?)\n\n", inspect.getdoc(kind), re.S).group(1))


@each_class
@pytest.mark.parametrize("options", TURNED, ids=["ascent", "other decay", "other decays"])
def test_equations(kind, options):
    options = {name: value for name, value in options.items() if name in arguments(kind)}
    if "betas" in options:
        options["betas"] = options["betas"][: len(arguments(kind)["betas"].default)]
    p = torch.nn.Parameter(torch.tensor([0.5], dtype=torch.float64))
    optimizer = kind([p], **{"lr": 0.1, **options})
    names = dict(zip(["beta1", "beta2", "beta0"], optimizer.defaults.get("betas", ())))
    if kind is posneg.PNM:
        names["beta0"] = names.pop("beta2")
    scope = {**optimizer.defaults, **names, "sqrt": math.sqrt, "sign": lambda x: math.copysign(1, x)}
    scope.update(p=p.item(), m=0.0, n=0.0, v=0.0, w=0.0, b=0.0)
    for t in range(1, 6):
        p.grad = torch.randn(1, dtype=torch.float64)
        scope.update(g=p.grad.item(), t=t)
        optimizer.step()
        exec(block(kind), scope)
        if "n" in re.findall(r"\w+", block(kind)):
            scope.update(m=scope["n"], n=scope["m"])
        assert p.item() == pytest.approx(scope["p"], rel=1e-13), t


@each_class
def test_state(kind):
    told = re.search(r"The state of a parameter: (.+?)\.\n", inspect.getdoc(kind), re.S).group(1)
    p = torch.nn.Parameter(torch.zeros(1))
    p.grad = torch.ones(1)
    options = {name: value for name, value in dict(lr=0.1, amsgrad=True, momentum=0.9).items() if name in arguments(kind)}
    optimizer = kind([p], **options)
    optimizer.step()
    assert sorted(re.findall(r"\w+", re.sub(r"\(.*?\)", "", told))) == sorted(optimizer.state[p])


MODULES = [f"posneg.{file.stem}" for file in sorted(Path(posneg.__file__).parent.glob("*.py")) if file.stem != "__init__"]


@pytest.mark.parametrize("name", ["posneg", *MODULES])
def test_examples(name, tmp_path, monkeypatch):
    if name == "posneg.backward" and not hasattr(torch.Tensor, "register_post_accumulate_grad_hook"):
        pytest.skip("this torch has no hooks for gradients that are complete")
    monkeypatch.chdir(tmp_path)
    known = {"torch": torch, "posneg": posneg, "model": torch.nn.Linear(2, 1)}
    assert not doctest.testmod(importlib.import_module(name), extraglobs=known).failed


@each_class
def test_each_class_has_an_example(kind):
    assert doctest.DocTestFinder(recurse=False).find(kind)[0].examples
