"""fork(), which the library does not survive in the child, threads, and how these compute."""

import ctypes
import os
import subprocess
import sys
import threading
import time
import warnings

import pytest
import torch

import posneg
from posneg import _library
from helpers import equal, parameters, set_gradients, twins

warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()")


class Squares(torch.utils.data.Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, i):
        assert torch.utils.data.get_worker_info() is not None
        return torch.full((4,), float(i)) ** 2


@needs_fork
def test_data_loader_workers_run():
    model = torch.nn.Linear(4, 1)
    optimizer = posneg.AdaPNM(model.parameters())
    loader = torch.utils.data.DataLoader(Squares(), batch_size=8, num_workers=2, multiprocessing_context="fork", timeout=60)
    seen = 0.0
    for _ in range(2):  # the workers of the second epoch are forked from a process that has stepped
        for batch in loader:
            optimizer.zero_grad()
            model(batch).sum().backward()
            optimizer.step()
            seen += float(batch.sum())
    assert seen == 2 * 4 * sum(i * i for i in range(64))


def in_child(function):
    """What a forked child prints and how it ends; it is killed after a minute."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        code = 1
        try:
            os.write(write, str(function()).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    deadline = time.monotonic() + 60
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            pytest.fail("the child hangs")
        time.sleep(0.01)
    with os.fdopen(read) as pipe:
        return pipe.read(), ended[1]


@needs_fork
def test_a_step_in_a_forked_child_is_an_error():
    params = parameters(5)
    optimizer = posneg.PNM(params, lr=1.0)
    set_gradients(params)
    optimizer.step()

    def step():
        before = twins(params)
        try:
            optimizer.step()
        except RuntimeError as error:
            equal(params, before)
            return error

    said, code = in_child(step)
    assert code == 0 and "fork" in said and "'spawn'" in said
    optimizer.step()  # the parent goes on


@needs_fork
def test_a_forked_child_saves(tmp_path):
    """As programs do that go on while their run is saved."""
    params = parameters((7, 11), (5,))
    optimizer = posneg.AdaPNM(params)
    set_gradients(params)
    optimizer.step()
    expected = optimizer.fingerprint()
    said, code = in_child(lambda: posneg.save_checkpoint(tmp_path / "run", optimizer))
    assert (said, code) == (str(expected), 0)
    posneg.load_checkpoint(tmp_path / "run", optimizer, fingerprint=posneg.read_fingerprint(tmp_path / "run"))


FRESH = """
import os, torch, posneg
p = torch.nn.Parameter(torch.ones(3))
optimizer = posneg.PNM([p], lr=1.0)
p.grad = torch.ones(3)
if os.fork() == 0:
    optimizer.step()
    os._exit(0 if p[0] < 1 else 1)
raise SystemExit(os.wait()[1] != 0)
"""


@needs_fork
def test_a_child_may_step_if_its_parent_has_not():
    assert subprocess.run([sys.executable, "-c", FRESH], timeout=120).returncode == 0


def test_optimizers_in_several_threads():
    a, b = [parameters(20000, 7) for _ in range(4)], []
    for params in a:
        set_gradients(params)
        b.append(twins(params))
        for p, q in zip(params, b[-1]):
            q.grad = p.grad.clone()

    def train(params):
        optimizer = posneg.AdaPNM(params)
        for _ in range(50):
            optimizer.step()

    threads = [threading.Thread(target=train, args=(params,)) for params in a]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for params in b:
        train(params)
    for x, y in zip(a, b):
        equal(x, y)


def test_the_interpreter_is_not_locked_during_a_step():
    assert type(_library.load()) is ctypes.CDLL  # PyDLL would be


@pytest.mark.parametrize("made", ["missing", "not a library"])
def test_a_bad_library(tmp_path, made):
    file = tmp_path / "libpnm.so"
    if made != "missing":
        file.write_text("no")
    program = "import torch, posneg; p = torch.zeros(1, requires_grad=True); p.grad = p.detach(); posneg.PNM([p], lr=1.0).step()"
    run = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "POSNEG_LIBRARY": str(file)}, stderr=subprocess.PIPE, text=True, timeout=120
    )
    assert run.returncode == 1 and str(file) in run.stderr
    assert made != "missing" or "set POSNEG_LIBRARY" in run.stderr


@pytest.mark.skipif(sys.version_info < (3, 10), reason="Python does not tell the names of its own modules")
def test_import_brings_nothing_slow():
    """Not the library, and no packages but those that it requires."""
    program = (
        "import sys, torch, numpy; before = set(sys.modules); import posneg\n"
        "assert 'libpnm' not in open('/proc/self/maps').read() if sys.platform == 'linux' else True\n"
        "print(*{m.split('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names))"
    )
    run = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True, text=True, timeout=120)
    assert set(run.stdout.split()) <= {"posneg", "torch", "numpy"}


@pytest.mark.parametrize("before", [True, False], ids=["before the first step", "after it"])
def test_flush_denormal_changes_no_bit(before):
    program = f"""
import sys, torch, posneg
def train():
    p = torch.nn.Parameter(torch.arange(1 << 20, dtype=torch.int32).view(torch.float32).clone())  # all denormal
    p.grad = p.detach().flip(0)
    o = posneg.SGD([p], lr=0.75, momentum=0.9)
    for _ in range(3):
        o.step()
    return [hash(x.detach().view(torch.int32).numpy().tobytes()) for x in (p, o.state[p]["momentum_buffer"])]
if not {before}:
    train()
torch.set_flush_denormal(sys.argv[1] == "flush")
print(train())
"""

    def run(how):
        env = {**os.environ, "PYTHONHASHSEED": "0"}
        return subprocess.run([sys.executable, "-c", program, how], check=True, capture_output=True, text=True, env=env).stdout

    assert run("flush") == run("plain")
