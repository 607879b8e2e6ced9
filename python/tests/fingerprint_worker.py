"""A process of the tests of fingerprints: over several processes, they are those of one."""

import io

import torch
import torch.distributed as dist
from torch.distributed.optim import ZeroRedundancyOptimizer

import posneg
from helpers import CLASSES
from posneg import _mx
from norm_worker import made, whole

NAMES = [f"layer.{i}" for i in range(7)]


def trained(optimizer, params, steps=3):
    for step in range(steps):
        for p, g in zip(params, whole(step)):
            p.grad = g.to(p.dtype)
        optimizer.step()


def zero_redundancy():
    """Each process has some of the parameters."""
    for ours in CLASSES:
        for dtype in (torch.float32, torch.float16):
            params, alone = made(dtype), made(dtype)
            shared = ZeroRedundancyOptimizer(params, optimizer_class=ours, lr=0.01)
            reference = ours(alone, lr=0.01)
            trained(shared, params)
            trained(reference, alone)
            shares = [None] * dist.get_world_size()
            dist.all_gather_object(shares, shared.optim.fingerprint(zip(NAMES, params)))
            expected = reference.fingerprint(zip(NAMES, alone))
            assert sum(shares, posneg.Fingerprint()) == expected and expected not in shares
            shared.optim.process_group = dist.group.WORLD
            assert shared.optim.fingerprint(zip(NAMES, params)) == expected
            try:
                shared.optim.fingerprint()
            except ValueError as e:
                assert "needs names" in str(e)
            else:
                raise AssertionError("it cannot know the names")


def fits(p):
    """Whether no process has a part that begins or ends within a block of mxfp8."""
    try:
        _mx.check_cut(p, "it")
        good = True
    except ValueError:
        good = False
    everywhere = [None] * dist.get_world_size()
    dist.all_gather_object(everywhere, good)
    return all(everywhere)


def dtensors():
    """Each process has parts of the parameters, in any way, or all of some."""
    from torch.distributed.tensor import distribute_tensor

    from dtensor_worker import parameter, placements

    forms = [
        (torch.float32, {}), (torch.float16, {}), (torch.bfloat16, dict(master_weights=True)), (torch.float32, dict(state_dtype="mxfp8")),
        (torch.complex64, {}),
    ]
    shapes = [(4, 6, 5), (4, 32 * dist.get_world_size() - 1)]
    if dist.get_world_size() < 4:  # with four, there are many more ways
        shapes += [(5, 3), (7,)]
    for dtype, how in forms:
        for shape in shapes:
            values, gradient = torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)
            for mesh, ways in placements(shape[0]):
                if len(shape) == 1 and any(not way.is_replicate() and way.dim == 1 for way in ways):
                    continue
                p, single = parameter(values, mesh, ways), torch.nn.Parameter(values.clone())
                plain = torch.nn.Parameter(torch.ones(3, dtype=dtype))
                optimizers = [posneg.PNM([("w", q), ("plain", plain)], lr=0.1, **how) for q in (p, single)]
                assert optimizers[0].fingerprint() == optimizers[1].fingerprint()
                if how.get("state_dtype") == "mxfp8" and not fits(p):
                    continue
                if how.get("state_dtype") and any(not way.is_replicate() and (way.dim or hasattr(way, "split_factor")) for way in ways):
                    gradient = torch.zeros_like(gradient)  # these draw other random numbers
                for optimizer, q in zip(optimizers, (p, single)):
                    q.grad = distribute_tensor(gradient.clone(), mesh, ways) if q is p else gradient.clone()
                    optimizer.step()
                found = optimizers[0].fingerprint()
                assert found == optimizers[1].fingerprint(), (dtype, how, shape, ways)
                part, replicated = p.to_local(), any(way.is_replicate() for way in ways)
                if part.numel() and (replicated or dist.get_rank() == 0):  # or else the copies differ, and the fingerprints with them
                    part.data.view(-1)[-1] = 77
                assert optimizers[0].fingerprint() != found


def pipeline():
    """Stages with parameters of their own, each cut among the processes of its stage."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard

    from dtensor_worker import parameter

    if dist.get_world_size() != 4:
        return
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("stage", "part"))
    stage, alone = mesh["stage"].get_local_rank(), [p for p in made() if p.dim()]
    params = [(str(i), parameter(p.detach(), mesh["part"], [Shard(0)])) for i, p in enumerate(alone) if i % 2 == stage]
    optimizer = posneg.Adam(params, process_group=mesh["stage"].get_group())
    assert optimizer.fingerprint() == posneg.Adam([(str(i), p) for i, p in enumerate(alone)]).fingerprint()


def from_a_file():
    """The fingerprint of a file is that of the processes that load it."""
    params, alone = made(), made()
    reference = posneg.AdaPNM(alone)
    trained(reference, alone)
    file = io.BytesIO()
    expected = posneg.save_checkpoint(file, reference, names=zip(NAMES, alone))
    loaded = posneg.AdaPNM(params)
    file.seek(0)
    posneg.load_checkpoint(file, loaded, names=zip(NAMES, params), fingerprint=expected)
    shared = ZeroRedundancyOptimizer(params, optimizer_class=posneg.AdaPNM)
    shared.load_state_dict(loaded.state_dict())
    shared.optim.process_group = dist.group.WORLD
    assert shared.optim.fingerprint(zip(NAMES, params)) == expected


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(4)
    dist.init_process_group("gloo")
    tests = [zero_redundancy, from_a_file]
    if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 6):
        tests += [dtensors, pipeline]
    for test in tests:
        test()
    dist.barrier()  # who leaves earlier takes the connections with it
    dist.destroy_process_group()
