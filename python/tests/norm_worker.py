"""A process of the tests of norms over several: what its share of the parameters becomes is what one process makes of all of them."""

import math

import torch
import torch.distributed as dist
from torch.distributed.optim import ZeroRedundancyOptimizer

import posneg
from helpers import CLASSES, bits, equal, twins

ALL = dict(clip_norm=0.5, clip_value=0.25, skip_non_finite=True)
SHAPES = [(5, 7), (3,), (40, 3), (), (1, 9), (64,), (2, 2, 2)]


def whole(step, bad=None):
    """The gradients of a step, the same in all processes; one has a NaN."""
    generator = torch.Generator().manual_seed(step)
    gradients = [torch.randn(shape, generator=generator) * 10.0 ** (i - 3) for i, shape in enumerate(SHAPES)]
    if bad is not None:
        gradients[bad].view(-1)[-1] = math.nan
    return gradients


def made(dtype=torch.float32):
    generator = torch.Generator().manual_seed(99)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]


def zero_redundancy():
    for ours in CLASSES:
        for dtype in (torch.float32, torch.float16, torch.float64):
            params, alone = made(dtype), made(dtype)
            shared = ZeroRedundancyOptimizer(params, optimizer_class=ours, lr=0.01)
            for name, value in ALL.items():
                setattr(shared.optim, name, value)
            shared.optim.process_group = dist.group.WORLD
            reference = ours(alone, lr=0.01, **ALL)
            for step in range(6):
                for p, q, g in zip(params, alone, whole(step, bad=step % 7 if step in (1, 4) else None)):
                    p.grad, q.grad = g.to(dtype), g.to(dtype)
                shared.step()
                reference.step()
                assert shared.optim.skipped == reference.skipped == (step in (1, 4))
                assert same(shared.optim.grad_norm, reference.grad_norm)
                equal(map(bits, params), map(bits, alone))


def same(a, b):
    return a == b or a != a and b != b


def as_arguments():
    """What ZeroRedundancyOptimizer hands on; it keeps a copy in its groups, which leaves attributes alone."""
    params = made()
    shared = ZeroRedundancyOptimizer(params, optimizer_class=posneg.AdamW, lr=0.01, clip_norm=2.0, zero_grads=True)
    assert shared.optim.clip_norm == 2.0 and shared.optim.zero_grads
    shared.optim.clip_norm = 1.0
    for p, g in zip(params, whole(0)):
        p.grad = g
    shared.step()
    assert shared.optim.clip_norm == 1.0
    shared.consolidate_state_dict(to=0)
    if dist.get_rank() == 0:
        other = posneg.AdamW(made(), clip_norm=3.0)
        other.load_state_dict(shared.state_dict())
        assert other.clip_norm == 3.0  # it saves groups and state alone


def some_without():
    """Parameters that each process has alone; the last has no gradient, or has no parameter."""
    rank, world = dist.get_rank(), dist.get_world_size()
    for empty in (False, True):
        params, alone = made(), made()
        mine = params[rank :: world - 1] if rank < world - 1 else []
        optimizer = posneg.AdaPNM([{"params": mine}] if empty or mine else made(), process_group=dist.group.WORLD, **ALL)
        reference = posneg.AdaPNM(alone, **ALL)
        for step in range(4):
            for p, q, g in zip(params, alone, whole(step, bad=2 if step == 1 else None)):
                p.grad, q.grad = g, g.clone()
            optimizer.step()
            reference.step()
            assert same(optimizer.grad_norm, reference.grad_norm) and optimizer.skipped == (step == 1)
            for p, q in zip(params, alone):
                if any(p is m for m in mine):
                    equal([bits(p)], [bits(q)])


def found_by_one():
    """What GradScaler has found in one process: all skip, and none waits for another."""
    p = torch.nn.Parameter(torch.ones(4))
    for options in (dict(clip_norm=1.0), dict(skip_non_finite=True, zero_grads=True)):
        optimizer = posneg.SGD([p], lr=1.0, process_group=dist.group.WORLD, **options)
        before = p.detach().clone()
        p.grad = torch.full((4,), 8.0)
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(4.0), torch.tensor(float(dist.get_rank() == 0))
        optimizer.step()
        assert optimizer.skipped and optimizer.grad_norm == math.sqrt(4 * dist.get_world_size() * 8.0**2) / 4
        assert torch.equal(p, before) and bool(p.grad.any()) != ("zero_grads" in options)
        optimizer.found_inf = torch.tensor(0.0)
        optimizer.step()
        assert not optimizer.skipped and torch.equal(p, before) == ("zero_grads" in options)


def dtensors():
    from torch.distributed.tensor import DTensor, Partial, Replicate, distribute_tensor

    from dtensor_worker import parameter, placements

    world = dist.get_world_size()
    for others in (False, True):
        for zero in (False, True):
            ways = [way for way in placements(3) if all(w.is_replicate() or w.dim == 0 for w in way[1])]
            alone = made()
            params = [
                torch.nn.Parameter(p.detach().clone()) if not p.ndim or i == 1 else parameter(p.detach(), *ways[i % len(ways)])
                for i, p in enumerate(alone)
            ]
            optimizer = posneg.AdaPNM(enumerate(params), lr=0.01, zero_grads=zero, **ALL)
            reference = posneg.AdaPNM(enumerate(alone), lr=0.01, **ALL)
            for step in range(5):
                for i, (p, q, g) in enumerate(zip(params, alone, whole(step, bad=4 if step == 2 else None))):
                    q.grad = g.clone()
                    if step == 3 and i == 2:
                        p.grad = q.grad = None
                    elif isinstance(p, DTensor) and others and world != 3:  # a third of a sum is not exact
                        p.grad = DTensor.from_local(g / world, p.device_mesh, [Partial()] * p.device_mesh.ndim, run_check=False)
                    elif isinstance(p, DTensor):
                        p.grad = distribute_tensor(g, p.device_mesh, [Replicate()] * p.device_mesh.ndim if others else p.placements)
                    else:
                        p.grad = g
                optimizer.step()
                reference.step()
                assert same(optimizer.grad_norm, reference.grad_norm), (optimizer.grad_norm, reference.grad_norm)
                assert optimizer.skipped == (step == 2)
                for p, q in zip(params, alone):
                    assert torch.equal(p.full_tensor() if isinstance(p, DTensor) else p, q)
                    if p.grad is not None:
                        g = p.grad.to_local() if isinstance(p, DTensor) else p.grad
                        assert bool(g.ne(0).any()) != zero or not g.numel()


def pipeline():
    """Stages with parameters of their own, each cut among the processes of its stage."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    from dtensor_worker import parameter

    if dist.get_world_size() != 4:
        return
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("stage", "part"))
    stage, alone = mesh["stage"].get_local_rank(), made()
    mine = [i for i, shape in enumerate(SHAPES) if i % 2 == stage and shape]
    params = {i: parameter(alone[i].detach(), mesh["part"], [Shard(0)]) for i in mine}
    used = [alone[i] for i, shape in enumerate(SHAPES) if shape]
    optimizer = posneg.Adam(params.values(), process_group=mesh["stage"].get_group(), **ALL)
    reference = posneg.Adam(used, **ALL)
    for step in range(3):
        for i, g in enumerate(whole(step, bad=1 if step == 1 else None)):
            alone[i].grad = g
            if i in params:
                params[i].grad = distribute_tensor(g, mesh["part"], [Shard(0)])
        optimizer.step()
        reference.step()
        assert same(optimizer.grad_norm, reference.grad_norm) and optimizer.skipped == reference.skipped == (step == 1)
        equal([p.full_tensor() for p in params.values()], [alone[i] for i in mine])


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    tests = [zero_redundancy, as_arguments, some_without, found_by_one]
    if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 6):
        tests += [dtensors, pipeline]
    for test in tests:
        test()
    dist.barrier()  # who leaves earlier takes the connections with it
    dist.destroy_process_group()
