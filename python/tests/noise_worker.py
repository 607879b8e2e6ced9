"""A process of the tests of noise over several: what all read is what one process reads of all parameters, bit for bit."""

import torch
import torch.distributed as dist
from torch.distributed.optim import ZeroRedundancyOptimizer

import posneg
from norm_worker import SHAPES, made, whole

NUMBERS = "signal", "variance", "readings", "signal_error", "variance_error", "scale_error"
BOTH = [(posneg.PNM, dict(lr=0.1)), (posneg.AdaPNM, dict(lr=0.01))]


def numbers(noise):
    """The numbers of all parameters together, as text: a NaN equals itself."""
    return noise and str([getattr(noise, name) for name in NUMBERS])


def total(noise):
    return noise and [numbers(n) for n in (noise, *noise.groups)]


def everything(noise):
    return noise and [total(noise), *map(numbers, noise.params)]


def zero_redundancy():
    for ours, how in BOTH:
        for options in (dict(), dict(skip_non_finite=True), dict(clip_norm=0.5)):
            params, alone = made(), made()
            shared = ZeroRedundancyOptimizer([dict(params=params[:3]), dict(params=params[3:])], optimizer_class=ours, **how)
            reference = ours([dict(params=alone[:3]), dict(params=alone[3:])], noise_every=2, **how, **options)
            for name, value in dict(noise_every=2, process_group=dist.group.WORLD, **options).items():
                setattr(shared.optim, name, value)
            for step in range(8):
                bad = 4 if step == 5 and "skip_non_finite" in options else None
                for p, q, g in zip(params, alone, whole(step, bad)):
                    p.grad, q.grad = g, g.clone()
                shared.step()
                reference.step()
                ours_now, theirs = shared.optim.noise_scale(), reference.noise_scale()
                assert total(ours_now) == total(theirs) and len(theirs.groups) == 2
                assert total(shared.optim.noise) == total(reference.noise), step
            assert reference.noise.readings == (3 if "skip_non_finite" in options else 4)
            mine = [p for group in shared.optim.param_groups for p in group["params"]]
            where = [i for p in mine for i, q in enumerate(params) if p is q]
            assert list(map(numbers, shared.optim.noise.params)) == [numbers(reference.noise.params[i]) for i in where]


def some_without():
    """Parameters that each process has alone; the last has no gradient, or no parameter."""
    rank, world = dist.get_rank(), dist.get_world_size()
    for empty in (False, True):
        params, alone = made(), made()
        mine = params[rank :: world - 1] if rank < world - 1 else []
        optimizer = posneg.AdaPNM([{"params": mine}] if empty or mine else made(), process_group=dist.group.WORLD, noise_every=1)
        reference = posneg.AdaPNM(alone, noise_every=1)
        for step in range(4):
            for p, q, g in zip(params, alone, whole(step)):
                p.grad, q.grad = g, g.clone()
            optimizer.step()
            reference.step()
            assert total(optimizer.noise) == total(reference.noise)
        assert reference.noise.readings == 3


def experts():
    """Parameters that each process has alone, without a gradient in some steps. A restart in one process is one in all."""
    rank, world = dist.get_rank(), dist.get_world_size()
    params, alone = made(), made()
    optimizer = posneg.AdaPNM(params[rank::world], process_group=dist.group.WORLD, noise_every=1)
    reference = posneg.AdaPNM(alone, noise_every=1)
    for step in range(12):
        for i, (p, q, g) in enumerate(zip(params, alone, whole(step))):
            rests = (step % 3 == 0) != (i % 2 == 0)
            p.grad, q.grad = (None, None) if rests else (g, g.clone())
        if step == 6:
            reference.noise_decay = 1.0  # begins anew
            if rank == world - 1:
                optimizer.noise_decay = 1.0
            else:
                assert optimizer.noise.readings == 4
        optimizer.step()
        reference.step()
        assert total(optimizer.noise) == total(reference.noise), step
    assert reference.noise.readings == 6 and [n.readings for n in optimizer.noise.params] == [
        n.readings for n in reference.noise.params[rank::world]
    ]


def found_by_one():
    """What GradScaler has found in one process alone: none reads, and none waits for another."""
    p = torch.nn.Parameter(torch.ones(4))
    for options in (dict(), dict(clip_norm=1.0)):
        optimizer = posneg.PNM([p], lr=0.1, process_group=dist.group.WORLD, noise_every=1, **options)
        for step in range(4):
            p.grad = torch.full((4,), 8.0 + step)
            found = step == 2 and dist.get_rank() == 0
            optimizer.grad_scale, optimizer.found_inf = torch.tensor(4.0), torch.tensor(float(found))
            optimizer.step()
            assert (optimizer.noise.readings if optimizer.noise else 0) == (0, 1, 1, 2)[step]


def dtensors():
    from torch.distributed.tensor import DTensor, Replicate, distribute_tensor

    from dtensor_worker import parameter, placements

    ways = [way for way in placements(3) if all(w.is_replicate() or w.dim == 0 for w in way[1])]
    for turn in range(len(ways)):
        for state_dtype in (None, "mxfp8"):
            alone = made()
            params = [
                torch.nn.Parameter(p.detach().clone()) if not p.ndim or i == 1 else parameter(p.detach(), *ways[(i + turn) % len(ways)])
                for i, p in enumerate(alone)
            ]
            how = dict(lr=0.01, noise_every=2, state_dtype=state_dtype)
            optimizer, reference = (posneg.AdaPNM(enumerate(of), **how) for of in (params, alone))
            for step in range(6):
                for i, (p, q, g) in enumerate(zip(params, alone, whole(step))):
                    q.grad = g.clone()
                    p.grad = distribute_tensor(g, p.device_mesh, [Replicate()] * p.device_mesh.ndim) if isinstance(p, DTensor) else g
                    if step == 3 and i == 2:
                        p.grad = q.grad = None
                optimizer.step()
                reference.step()
                assert everything(optimizer.noise) == everything(reference.noise), (ways[turn], step)
            assert everything(optimizer.noise_scale()) == everything(reference.noise_scale()) and reference.noise.readings == 3


def fully_sharded():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(5)
    nets = [torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.Tanh(), torch.nn.Linear(9, 3)) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in (nets[0][0], nets[0][2], nets[0]):
        fully_shard(layer, mesh=mesh)
    x, y = (posneg.AdaPNM(net.named_parameters(), noise_every=2) for net in nets)
    for step in range(6):
        data = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
        for net in nets:
            net.zero_grad()
            net(data).square().mean().backward()
        if dist.get_world_size() == 3:  # the mean of three equal gradients may differ from them in the last bit
            for p, q in zip(nets[0].parameters(), nets[1].parameters()):
                q.grad = p.grad.full_tensor()
        x.step(), y.step()
    assert everything(x.noise) == everything(y.noise) and x.noise.readings == 3
    assert everything(x.noise_scale()) == everything(y.noise_scale())


def pipeline():
    """Stages with parameters of their own, of another number of groups, each cut among the processes of its stage."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    from dtensor_worker import parameter

    if dist.get_world_size() != 4:
        return
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("stage", "part"))
    stage, alone = mesh["stage"].get_local_rank(), made()
    used = [i for i, shape in enumerate(SHAPES) if shape]
    mine = [i for i in used if i % 2 == stage]
    params = {i: parameter(alone[i].detach(), mesh["part"], [Shard(0)]) for i in mine}
    groups = [[p] for p in params.values()] if stage else [list(params.values())]
    optimizer = posneg.PNM([dict(params=g) for g in groups], lr=0.1, process_group=mesh["stage"].get_group(), noise_every=1)
    reference = posneg.PNM([alone[i] for i in used], lr=0.1, noise_every=1)
    for step in range(4):
        for i, g in enumerate(whole(step)):
            alone[i].grad = g
            if i in params:
                params[i].grad = distribute_tensor(g, mesh["part"], [Shard(0)])
        optimizer.step()
        reference.step()
    ours, theirs = optimizer.noise, reference.noise
    assert numbers(ours) == numbers(theirs)
    assert [n.readings for n in ours.groups] == [3] * sum(i % 2 for i in used)
    for i, n in zip(mine, ours.params):
        assert numbers(n) == numbers(theirs.params[used.index(i)])


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    tests = [zero_redundancy, some_without, experts, found_by_one]
    if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 6):
        tests += [dtensors, fully_sharded, pipeline]
    for test in tests:
        test()
    dist.barrier()  # who leaves earlier takes the connections with it
    dist.destroy_process_group()
