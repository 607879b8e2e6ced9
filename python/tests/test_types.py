"""What type checkers say of the package and of programs that use it. They read PyTorch's annotations, which old versions lack in part."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import posneg

ANNOTATED = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 6)  # so that the package itself can be checked

RIGHT = '''
from typing import Any, Dict, List, Optional, Type, Union

import torch
from torch.optim.lr_scheduler import LambdaLR

import posneg

model = torch.nn.Linear(2, 1)
optimizers: List[torch.optim.Optimizer] = [
    posneg.PNM(model.parameters(), lr=torch.tensor(0.1), decoupled=False, maximize=True),
    posneg.AdaPNM(model.named_parameters(), 1e-3, (0.9, 0.999, 1), eps=1e-8, amsgrad=False, exact_bias=True, state_dtype="mxfp8"),
    posneg.AdamW([{"params": model.parameters(), "lr": 1.0}], betas=(0.9, torch.tensor(0.99)), state_dtype=torch.bfloat16),
    posneg.SGD(enumerate(model.parameters()), momentum=0.9, nesterov=True, weight_decay=1, foreach=None),
    posneg.Adam([p for p in model.parameters() if p.requires_grad], fused=True, capturable=False),
    posneg.offload.Offload(model.parameters(), posneg.AdaPNM, buckets=2, lr=1e-3, betas=(0.9, 0.999, 1)),
    posneg.Lion(iter(model.parameters()), master_weights=True, seed=3, clip_norm=1, skip_non_finite=True, process_group=None),
]


def build(kind: Union[Type[posneg.PNM], Type[posneg.AdamW]], **options: Any) -> torch.optim.Optimizer:
    return kind(model.parameters(), **options)


def evaluate() -> torch.Tensor:
    return torch.ones(1)


optimizer = posneg.AdamW(model.parameters())
optimizer.step()
loss: float = optimizer.step(lambda: 1.0)
optimizer.step(evaluate).item()
optimizer.zero_grad(set_to_none=True)
optimizer.clip_norm, optimizer.clip_value = 1.0, None
norm: Optional[float] = optimizer.grad_norm
noisy = posneg.PNM(model.parameters(), lr=1.0, noise_every=10, noise_decay=0.9)
noisy.noise_every = None
read: posneg.Noise = noisy.noise_scale()
average = posneg.NoiseAverage(decay=0.9)
average.add(read, step=2, beta1=0.9)
scales: List[float] = [n.scale for n in (average.estimate(), *read.groups, *read.params)]
if noisy.noise is not None:
    print(noisy.noise.scale_error.hex())
skipped: bool = optimizer.skipped
LambdaLR(optimizer, lambda epoch: 0.5**epoch).step()
optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], "lr": 0.1})
for group in optimizer.param_groups:
    group["lr"] *= 0.5
posneg.set_num_threads(1 + posneg.get_num_threads())
posneg.set_num_threads(None)
handle = posneg.step_in_backward(model, optimizer)
with handle.accumulate():
    evaluate()
handle.remove()
state: Dict[str, Any] = optimizer.state_dict()
optimizer.load_state_dict(state)
exported: Dict[str, Any] = posneg.to_pytorch_optimizer(state)
try:
    posneg.save_checkpoint("run.safetensors", optimizer, names=model.named_parameters(), metadata={"epoch": "3"})
    saved: posneg.Fingerprint = posneg.save_checkpoint("run.safetensors", optimizer)
    same: bool = saved + saved == optimizer.fingerprint(model.named_parameters()) or saved == posneg.read_fingerprint("run.safetensors")
    posneg.load_checkpoint("run.safetensors", optimizer, fingerprint=posneg.Fingerprint.parse(str(saved)))
    with open("run.safetensors", "rb") as file:
        metadata: Dict[str, str] = posneg.load_checkpoint(file, optimizer, keep_options=True)
    posneg.save_checkpoint("run.safetensors", posneg.offload.Offload(model.named_parameters()))
except posneg.ChecksumError as e:
    print(e, posneg.isa().upper(), posneg.__version__.upper())
'''

# Each of these lines is an error.
WRONG = '''
import torch, posneg
model = torch.nn.Linear(2, 1)
posneg.AdaPNM(5)
posneg.PNM(model.parameters(), lr="0.1")
posneg.PNM(model.parameters())
posneg.AdaPNM(model.parameters(), betas=(0.9, 0.999))
posneg.AdamW(model.parameters(), 1e-3, (0.9, 0.999), 1e-8, 0, False, True)
posneg.SGD(model.parameters(), state_dtype=8)
posneg.Lion(model.parameters(), momentum=0.9)
posneg.load_checkpoint("run.safetensors", torch.optim.SGD(model.parameters()))
posneg.Adam(model.parameters()).step(1.0)
posneg.Adam(model.parameters()).step().item()
posneg.Adam(model.parameters()).clip_norm = "1.0"
posneg.Adam(model.parameters()).skipped = True
posneg.Adam(model.parameters()).grad_norm + 1
posneg.Adam(model.parameters()).fingerprint(5)
posneg.read_fingerprint("run.safetensors").words
posneg.AdamW(model.parameters(), noise_every=10)
posneg.PNM(model.parameters(), lr=1.0).noise.scale
posneg.NoiseAverage().add(2.0, 3, 0.9)
posneg.offload.Offload(model.parameters(), torch.optim.SGD)
posneg.step_in_backward(model, torch.optim.SGD(model.parameters()))
'''


@pytest.fixture
def files(tmp_path):
    (tmp_path / "right.py").write_text("# pyright: strict\n" + RIGHT if ANNOTATED else RIGHT)
    (tmp_path / "wrong.py").write_text(WRONG)
    if ANNOTATED:
        shutil.copytree(str(Path(posneg.__file__).parent), str(tmp_path / "posneg"))
    return tmp_path


def run(folder, *command):
    return subprocess.run([sys.executable, "-m", *map(str, command)], cwd=str(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def all_of_wrong(errors, said):
    assert sorted(set(errors)) == [("wrong.py", line) for line in range(4, 1 + len(WRONG.splitlines()))], said


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="there is no mypy")
def test_mypy(files):
    said = run(files, "mypy", "--strict", ".").stdout
    lines = [line.split(":") for line in said.splitlines() if ": error: " in line]
    all_of_wrong([(line[0], int(line[1])) for line in lines], said)


@pytest.mark.skipif(importlib.util.find_spec("pyright") is None, reason="there is no pyright")
def test_pyright(files):
    if run(files, "pyright", "--version").returncode:
        pytest.skip("pyright could not fetch what it consists of")
    (files / "pyrightconfig.json").write_text(json.dumps({"pythonVersion": "3.8"}))
    said = run(files, "pyright", "--pythonpath", sys.executable, "--outputjson").stdout
    found = json.loads(said)["generalDiagnostics"]
    errors = [(Path(f["file"]).relative_to(files), f["range"]["start"]["line"] + 1) for f in found if f["severity"] == "error"]
    all_of_wrong([(str(file), line) for file, line in errors], said)
