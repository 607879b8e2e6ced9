"""Runs that move between Python and Go, through a checkpoint each time, end with the bits of those that stay.

As a program it records anew the files from which the Go half's own test continues, without Python:

    PYTHONPATH=python python3 python/tests/test_go.py
"""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch

import posneg
from helpers import RULES

SHAPES = {"layer.weight": (3, 37), "layer.bias": (17,), 'größe\\ "x".late': (2, 3), "scale": ()}
LATE = 'größe\\ "x".late'  # has no gradient in the first two steps
EXPERT = "layer.bias"  # in the test of noise, has one in each third step only
GROUPS = [["layer.weight", LATE], ["layer.bias", "scale"]]

# What the parameters are here, what the optimizer does with them, and how resume/main.go is told so.
FORMATS = {
    "float32": (torch.float32, {}, []),
    "float32, bf16 state": (torch.float32, dict(state_dtype=torch.bfloat16), ["-state=bf16"]),
    "float32, mxfp8 state": (torch.float32, dict(state_dtype="mxfp8"), ["-state=mxfp8"]),
    "float64": (torch.float64, {}, ["-params=float64"]),
    "bf16": (torch.bfloat16, {}, ["-params=bf16"]),
    "bf16, bf16 state": (torch.bfloat16, dict(state_dtype=torch.bfloat16), ["-params=bf16", "-state=bf16"]),
    "bf16, mxfp8 state": (torch.bfloat16, dict(state_dtype="mxfp8"), ["-params=bf16", "-state=mxfp8"]),
    "bf16, masters": (torch.bfloat16, dict(master_weights=True), ["-copies=bf16"]),
    "f16, masters": (torch.float16, {}, ["-copies=f16"]),
    "f16, masters, bf16 state": (torch.float16, dict(state_dtype=torch.bfloat16), ["-copies=f16", "-state=bf16"]),
}


@pytest.fixture(scope="session")
def resume(tmp_path_factory):
    """The Go half: a program that loads a file, performs steps and writes another."""
    go = shutil.which(os.environ.get("GO", "go"))
    if go is None and os.environ.get("POSNEG_TEST_WITHOUT_GO"):
        pytest.skip("there is no Go, and POSNEG_TEST_WITHOUT_GO is set")
    assert go, "Go is not on the PATH: install it, or set POSNEG_TEST_WITHOUT_GO=1 to skip what needs it"
    program = tmp_path_factory.mktemp("go") / "resume"
    subprocess.run([go, "build", "-o", program, "."], cwd=Path(__file__).with_name("resume"), check=True)
    return program


def beginning(shape):
    """Numbers in [-1, 1), the same on every machine and version."""
    n = int(torch.tensor(shape).prod())
    return ((torch.arange(1, n + 1) * 2654435761 % 2**20).double() / 2**19 - 1).reshape(shape)


class Run:
    """A rule, formats, and the files of runs of them."""

    def __init__(self, folder, resume, rule, form, flat):
        self.folder, self.resume, self.flat = folder, resume, flat
        self.optimizer, self.options = RULES[rule]
        self.dtype, self.how, self.flags = FORMATS[form]
        self.files = 0

    def file(self):
        self.files += 1
        return str(self.folder / f"{self.files}.safetensors")

    def start(self):
        """A file without state. The groups' options differ, and none is a default's."""
        named = {name: torch.nn.Parameter(beginning(shape).to(self.dtype)) for name, shape in SHAPES.items()}
        lr = self.options.get("lr", 0.01)
        groups = [{"params": [(name, named[name]) for name in names], "lr": lr * (1 + g)} for g, names in enumerate(GROUPS)]
        file = self.file()
        optimizer = self.optimizer(groups, seed=2**64 - 3, **self.options, **self.how)
        posneg.save_checkpoint(file, optimizer, names=named.items(), metadata={"epoch": "3"})
        return file

    def in_go(self, file, first, steps):
        out = self.file()
        flags = [f"-first={first}", f"-steps={steps}", f"-late={LATE}", *self.flags, *(["-flat"] if self.flat else [])]
        result = subprocess.run([self.resume, *flags, file, out], stderr=subprocess.PIPE, text=True)
        assert result.returncode == 0, result.stderr
        return out

    def stepped(self, file, first, steps, groups, expert=None):
        """An optimizer that has done these steps, and its parameters."""
        named = {name: torch.nn.Parameter(torch.zeros(shape, dtype=self.dtype)) for name, shape in SHAPES.items()}
        optimizer = self.optimizer([{"params": [named[name] for name in names]} for names in groups], lr=1.0, **self.how)
        recorded = posneg.read_fingerprint(file)
        assert recorded and posneg.load_checkpoint(file, optimizer, names=named.items(), fingerprint=recorded) == {"epoch": "3"}
        assert optimizer.fingerprint(named.items()) == recorded
        for step in range(first, first + steps):
            for name, p in named.items():
                target = (torch.arange(p.numel()) * 7 % 11 - 5) / 4
                rests = name == LATE and step < 2 or name == expert and step % 3
                p.grad = None if rests else p.detach() - target.reshape(p.shape).to(p.dtype)
            optimizer.step()
        return optimizer, named

    def in_python(self, file, first, steps, *, groups=GROUPS):
        optimizer, named = self.stepped(file, first, steps, groups)
        out = self.file()
        posneg.save_checkpoint(out, optimizer, names=named.items(), metadata={"epoch": "3"})
        return out

    def in_python_otherwise(self, file, first, steps):
        """The same with the parameters in another order and in other groups."""
        return self.in_python(file, first, steps, groups=[[name] for names in reversed(GROUPS) for name in reversed(names)])


def contents(file):
    """All that a file says, whatever the order of its tensors and groups, and the shapes, which some runs do not have."""
    data = Path(file).read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    groups = json.loads(header.pop("__metadata__")["posneg.groups"])
    described = {t.pop("name"): (t, group) for group in groups for t in group.pop("tensors")}
    ranges = {name: slice(*(begin + offset for offset in t["data_offsets"])) for name, t in header.items()}
    return described, {name: (t["dtype"], data[ranges[name]]) for name, t in header.items()}


@pytest.mark.parametrize("legs", [(1, 2, 2), (2, 2, 1)], ids=["odd", "even"])
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("rule", RULES)
def test_runs_that_move(tmp_path, resume, rule, form, legs):
    run = Run(tmp_path, resume, rule, form, flat=legs[0] == 1)
    start = run.start()
    go, python, otherwise = run.in_go, run.in_python, run.in_python_otherwise
    ends, fingerprints = [], set()
    for ways in ((python,) * 3, (go,) * 3, (go, otherwise, go), (python, go, otherwise)):
        file, done = start, 0
        for way, steps in zip(ways, legs):
            file, done = way(file, done, steps), done + steps
        ends.append(contents(file))
        fingerprints.add(posneg.read_fingerprint(file))
    assert len(fingerprints) == 1
    steps = {t["step"] for t, _ in ends[0][0].values()}
    assert steps == {3, 5} and not any(t == end for t in contents(start) for end in ends[0])
    for end in ends[1:]:
        assert end == ends[0]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("rule", [name for name in RULES if "PNM" in name])
def test_noise(tmp_path, resume, rule, form):
    """Both read the same numbers, and average them alike: for all parameters together, each group and each parameter."""
    run = Run(tmp_path, resume, rule, form, flat=False)
    start = run.start()
    flags = ["-noise", "-steps=12", f"-late={LATE}", f"-expert={EXPERT}", *run.flags]
    said = subprocess.run([resume, *flags, start, run.file()], check=True, stdout=subprocess.PIPE, text=True).stdout
    run.how = dict(run.how, noise_every=1, noise_decay=0.75)
    optimizer = run.stepped(start, 0, 12, GROUPS, EXPERT)[0]
    averages, readings = ([n, *n.groups, *n.params] for n in (optimizer.noise, optimizer.noise_scale()))
    numbers = []
    for average, now in zip(averages, readings):
        errors = average.signal_error, average.variance_error, average.scale_error
        numbers.append([average.readings, average.signal, average.variance, *errors, now.signal, now.variance])
    assert str([[int(line.split()[0]), *map(float.fromhex, line.split()[1:])] for line in said.splitlines()]) == str(numbers)
    assert [n[0] for n in numbers] == [11, 11, 11, 11, 9, 3, 11]


# Runs of which Go has the file after an odd step, and that two steps later.
RECORDED = {
    "pnm-float32": ("PNM", "float32"),
    "sgd-float64": ("SGD, momentum", "float64"),
    "adapnm-bf16": ("AdaPNM", "bf16, bf16 state"),
    "adamw-masters": ("AdamW, AMSGrad", "f16, masters"),
    "adapnm-mxfp8": ("AdaPNM", "bf16, mxfp8 state"),
}
FOLDER = Path(__file__).with_name("resume") / "testdata"


def record(folder, scratch):
    for name, (rule, form) in RECORDED.items():
        run = Run(scratch, None, rule, form, flat=False)
        before = run.in_python(run.start(), 0, 3)
        after = run.in_python(before, 3, 2)
        shutil.copy(before, folder / f"{name}-3.safetensors")
        shutil.copy(after, folder / f"{name}-5.safetensors")


def test_recorded_files_are_what_is_written(tmp_path):
    (tmp_path / "scratch").mkdir()
    record(tmp_path, tmp_path / "scratch")
    files = sorted(file.name for file in tmp_path.glob("*.safetensors"))
    assert files == sorted(file.name for file in FOLDER.iterdir()) and len(files) == 2 * len(RECORDED)
    for file in files:
        assert contents(tmp_path / file) == contents(FOLDER / file)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        record(FOLDER, Path(scratch))
