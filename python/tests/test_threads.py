"""How many threads a step has, and who touches the memory of the state first."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import posneg
from posneg import _library, _threads
from helpers import parameters, set_gradients


@pytest.fixture(autouse=True)
def as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    posneg.set_num_threads(None)


@pytest.fixture
def used(monkeypatch):
    """A function that makes a step and returns with how many threads."""
    seen = []
    run = _library.Call.run
    monkeypatch.setattr(_library.Call, "run", lambda call, scale, workers, *rest: (seen.append(workers), run(call, scale, workers, *rest)))
    params = parameters(3)
    set_gradients(params)
    optimizer = posneg.PNM(params, lr=1.0)

    def step():
        optimizer.step()
        assert posneg.get_num_threads() == seen[-1]
        return seen[-1]

    return step


def test_as_many_as_torch_or_as_said(used):
    for threads in (1, 3):
        torch.set_num_threads(threads)
        assert used() == threads
    posneg.set_num_threads(2)
    assert used() == 2
    torch.set_num_threads(1)
    assert used() == 2
    posneg.set_num_threads(None)
    assert used() == 1


@pytest.mark.parametrize("n, error", [(0, ValueError), (-1, ValueError), (4097, ValueError), (2.0, TypeError), ("2", TypeError)])
def test_other_numbers_are_refused(n, error):
    posneg.set_num_threads(3)
    with pytest.raises(error, match=str(n)[:1] if error is ValueError else None):
        posneg.set_num_threads(n)
    assert posneg.get_num_threads() == 3


def importing(value):
    program = "import posneg; posneg.set_num_threads(5); posneg.set_num_threads(None); print(posneg.get_num_threads())"
    env = {**os.environ, "POSNEG_NUM_THREADS": value}
    return subprocess.run([sys.executable, "-c", program], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120)


def test_environment(monkeypatch):
    assert importing("4096").stdout == "4096\n"
    monkeypatch.setenv("POSNEG_NUM_THREADS", "")
    assert _threads._of_environment() is None


@pytest.mark.parametrize("value", ["0", "4097", "-2", "two", "1.5"])
def test_environment_is_refused(monkeypatch, value):
    monkeypatch.setenv("POSNEG_NUM_THREADS", value)
    with pytest.raises(ValueError, match=f"POSNEG_NUM_THREADS is .?{value}.?, must be"):
        _threads._of_environment()


def test_import_says_what_is_refused():
    run = importing("many")
    assert run.returncode == 1 and "POSNEG_NUM_THREADS is 'many'" in run.stderr


def torchrun(*cpus, processes=2, wrapped=False, **environment):
    """How many threads a process that torchrun has started has, had it such CPUs; then with torch.set_num_threads(2)."""
    worker = [sys.executable, str(Path(__file__).with_name("threads_worker.py")), *cpus]
    if wrapped:
        worker = ["sh", "-c", '"$@"; exit $?', "sh", *worker]
    run = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--master_port=0", "--no_python"),
            *("--tee=0:1", "--redirects=1:1"),  # without these, torchrun of torch 1.13 fails on Python 3.11
            *worker,
        ],
        env={**{k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=300,
    )
    assert run.returncode == 0, run.stderr
    return list(map(int, run.stdout.split("threads ")[1].split()))


@pytest.mark.skipif(
    not torch.distributed.is_available() or not Path("/proc/self/environ").exists(), reason="this torch or this system has no torchrun"
)
def test_torchrun():
    cpus = {"16,16,16": 5, "1,1,1": 1, "4,16,4": 4, "16,16,6": 2}  # of the process, of torchrun, by a quota
    assert torchrun(*cpus, processes=3, wrapped=True) == [*cpus.values(), 2]
    assert torchrun("16,16,16", OMP_NUM_THREADS="1") == [1, 2]  # by the user


@pytest.mark.skipif(sys.platform != "linux", reason="mincore tells who has touched memory on Linux")
def test_state_is_touched_by_the_step_alone(monkeypatch):
    libc, page = ctypes.CDLL(None), os.sysconf("SC_PAGE_SIZE")

    def touched(t):
        """How many of a tensor's pages have memory, those at its ends apart."""
        first = -(-t.data_ptr() // page)
        count = (t.data_ptr() + t.numel() * t.element_size()) // page - first
        pages = (ctypes.c_ubyte * count)()
        assert libc.mincore(ctypes.c_void_p(first * page), ctypes.c_size_t(count * page), pages) == 0
        return sum(p & 1 for p in pages) / count

    p = torch.nn.Parameter(torch.zeros(4 << 20, dtype=torch.bfloat16))
    p.grad = torch.ones_like(p)
    optimizer = posneg.AdaPNM([p], master_weights=True)
    before = {}
    run = _library.Call.run

    def look_and_run(*arguments):
        before.update({k: touched(t) for k, t in optimizer.state[p].items() if isinstance(t, torch.Tensor) and t.numel() > 1})
        return run(*arguments)

    monkeypatch.setattr(_library.Call, "run", look_and_run)
    optimizer.step()
    assert before == dict.fromkeys(["exp_avg", "neg_exp_avg", "exp_avg_sq", "max_exp_avg_sq", "master_low"], 0)
    assert touched(optimizer.state[p]["exp_avg"]) == 1
