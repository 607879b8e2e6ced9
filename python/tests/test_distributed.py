"""Several processes: ZeroRedundancyOptimizer around our optimizers, under DistributedDataParallel."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import posneg
from distributed_worker import model, train
from helpers import equal, values

pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available())
    if hasattr(torch.distributed, "is_gloo_available")
    else not torch.distributed.is_available(),
    reason="this torch has no gloo",
)

WORKER = "distributed_worker.py"


def start(world, worker=WORKER, **options):
    """Starts the processes as torchrun would."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    arguments = [str(a) for name, value in options.items() for a in (f"--{name}", *(value if isinstance(value, tuple) else (value,)))]
    return [
        subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / worker), *arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world), "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]


def run(world, worker=WORKER, **options):
    processes = start(world, worker, **options)
    try:
        for p in processes:
            error = p.communicate(timeout=180)[1]
            assert p.returncode == 0, error
    finally:
        for p in processes:
            p.kill()
    return torch.load(options["save"]) if "save" in options else None


def alone(name, steps=20, masters=False, **how):
    """The same training in this process, with as many threads, on which the bits of torch's products depend."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        net = model(torch.bfloat16 if masters else torch.float32)
        optimizer = getattr(posneg, name)(net.parameters(), lr=0.05, master_weights=masters, **how)
        train(net, optimizer, 0, steps)
    finally:
        torch.set_num_threads(threads)
    return net, optimizer


@pytest.mark.parametrize("name, world", [("AdaPNM", 2), ("AdaPNM", 4), ("PNM", 4), ("SGD", 2)])
def test_same_bits_as_one_process(tmp_path, name, world):
    result = run(world, optimizer=name, save=tmp_path / "end")
    net, optimizer = alone(name)
    equal(result["model"].values(), net.state_dict().values())
    consolidated = getattr(posneg, name)(net.parameters(), lr=1.0)
    consolidated.load_state_dict(result["optimizer"])
    equal(values(consolidated), values(optimizer))
    total = sum(v.numel() for v in values(optimizer))
    assert sum(result["shares"]) == total and max(result["shares"]) <= total / world + 4 * 17 * 9


def test_random_numbers_do_not_depend_on_who_owns_a_parameter(tmp_path):
    result = run(2, optimizer="AdaPNM", state_dtype="bfloat16", save=tmp_path / "end")
    equal(result["model"].values(), alone("AdaPNM", state_dtype="bfloat16")[0].state_dict().values())


@pytest.mark.parametrize("before, after, steps", [(2, 4, 7), (4, 2, 8), (2, 1, 7)])  # odd and even
def test_resumed_by_another_number_of_processes(tmp_path, before, after, steps):
    run(before, optimizer="AdaPNM", last=steps, save=tmp_path / "middle")
    result = run(after, optimizer="AdaPNM", first=steps, load=tmp_path / "middle", save=tmp_path / "end")
    equal(result["model"].values(), alone("AdaPNM")[0].state_dict().values())


def test_mxfp8_of_owned_parameters(tmp_path):
    how = dict(optimizer="AdaPNM", state_dtype="mxfp8")
    run(2, **how, last=7, save=tmp_path / "middle")
    result = run(4, **how, first=7, load=tmp_path / "middle", save=tmp_path / "end")
    expected = run(1, **how, save=tmp_path / "alone")  # another process, in which these parameters are the first of their content
    equal(result["model"].values(), expected["model"].values())
    for name in ("exp_avg", "neg_exp_avg_scales", "exp_avg_sq"):
        equal(*([s[name] for _, s in sorted(got["optimizer"]["state"].items())] for got in (result, expected)))


@pytest.mark.parametrize("before, after", [(2, 4), (4, 2)])
def test_masters_of_owned_parameters(tmp_path, before, after):
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6):
        pytest.skip("this torch's gloo sends no bfloat16")
    middle = run(before, "distributed_worker.py", optimizer="AdaPNM", masters=(), last=7, save=tmp_path / "middle")
    result = run(after, "distributed_worker.py", optimizer="AdaPNM", masters=(), first=7, load=tmp_path / "middle", save=tmp_path / "end")
    for got, steps in ((middle, 7), (result, 20)):
        net, optimizer = alone("AdaPNM", steps, masters=True)
        equal(got["model"].values(), net.state_dict().values())
        equal(*([s["master_low"].view(torch.int16) for _, s in sorted(o["state"].items())] for o in (got["optimizer"], optimizer.state_dict())))


def test_a_killed_process_ends_the_others(tmp_path):
    processes = start(2, optimizer="AdaPNM", save=tmp_path / "end", die=(1, 5))
    begin = time.monotonic()
    try:
        error = processes[0].communicate(timeout=120)[1]
    finally:
        for p in processes:
            p.kill()
            p.wait()
    assert processes[0].returncode not in (0, -9) and "Error" in error
    assert processes[1].returncode == -9 and time.monotonic() - begin < 120 and not (tmp_path / "end").exists()


@pytest.mark.parametrize("world", [2, 4])
def test_fsdp2(world):
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6):
        pytest.skip("this torch has no FSDP2")
    run(world, "fsdp_worker.py")


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_dtensors(world):
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6):
        pytest.skip("this torch has no torch.distributed.tensor")
    run(world, "dtensor_worker.py")


@pytest.mark.parametrize("world", [2, 3, 4])
def test_norm_over_all_processes(world):
    run(world, "norm_worker.py")


@pytest.mark.parametrize("world", [2, 3, 4])
def test_fingerprints(world):
    run(world, "fingerprint_worker.py")


@pytest.mark.parametrize("world", [1, 2, 3])
def test_distributed_checkpoints(tmp_path, world):
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6):
        pytest.skip("this torch has no FSDP2")
    run(world, "dcp_worker.py", folder=tmp_path)


@pytest.mark.parametrize("before, after", [(2, 3), (3, 2), (2, 1)])
def test_distributed_checkpoints_of_another_number_of_processes(tmp_path, before, after):
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6):
        pytest.skip("this torch has no FSDP2")
    run(before, "dcp_worker.py", folder=tmp_path, what="save")
    run(after, "dcp_worker.py", folder=tmp_path, what="resume")
