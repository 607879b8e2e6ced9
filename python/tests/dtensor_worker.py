"""A process of the tests of DTensors: what a step of each process does to its part is what a step of one process does to the whole.
"""

import copy

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.placement_types import _StridedShard

import posneg
from posneg._placements import retyped
from helpers import bits


def placements(rows):
    """Meshes, and how tensors of so many rows may lie on them."""
    world = dist.get_world_size()
    flat = init_device_mesh("cpu", (world,))
    for ways in [(Replicate(),), (Shard(0),), (Shard(1),)]:
        yield flat, ways
    if world == 4:
        square = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
        for ways in [
            (Replicate(), Shard(0)), (Shard(0), Replicate()), (Shard(0), Shard(1)), (Shard(1), Shard(0)), (Shard(0), Shard(0)),
            *([(_StridedShard(0, split_factor=2), Shard(0))] if rows % 4 == 0 else []),  # torch cannot cut others so
        ]:
            yield square, ways


def parameter(whole, mesh, ways):
    return torch.nn.Parameter(distribute_tensor(whole.clone(), mesh, ways))


def cut(t, mesh, ways):
    """distribute_tensor, also of int16, which gloo does not send."""
    if t.dtype != torch.int16:
        return distribute_tensor(t, mesh, ways)
    return retyped(distribute_tensor(t.view(torch.bfloat16), mesh, ways), torch.int16)


def whole_of(t):
    return retyped(t, torch.bfloat16).full_tensor().view(torch.int16) if t.dtype == torch.int16 else t.full_tensor()


def refused(optimizer, error, text):
    try:
        optimizer.step()
    except error as e:
        assert text in str(e), e
    else:
        raise AssertionError("not refused")


def gradients():
    """Gradients that lie, or are summed, in any way, for parameters that lie in any way."""
    for shape in [(4, 6), (5, 3), (1, 2), (7, 7)]:
        whole, gradient = torch.randn(shape), torch.randn(shape)
        for mesh, ways in placements(len(whole)):
            n, coordinates = mesh.ndim, mesh.get_coordinate()
            for others in [ways for other, ways in placements(len(whole)) if other == mesh]:
                p = parameter(whole, mesh, ways)
                p.grad = distribute_tensor(gradient, mesh, others)
                check(p, whole, gradient)
            for kind, size in (("sum", 1 / mesh.size()), ("avg", 1.0), ("max", 1.0)):
                p = parameter(whole, mesh, ways)
                part = gradient * size if kind != "max" else gradient - sum(coordinates)
                p.grad = DTensor.from_local(part, mesh, [Partial(kind)] * n, run_check=False)
                check(p, whole, gradient)


def check(p, whole, gradient):
    optimizer = posneg.SGD([p], lr=1.0, momentum=0.5)
    before = p.grad.placements
    optimizer.step(), optimizer.step()
    torch.testing.assert_close(p.full_tensor(), whole - gradient - 1.5 * gradient)
    assert p.grad.placements == before


def tensor_parallel():
    """The smallest case: torch.optim gives the same on both ranks."""
    world, rank = dist.get_world_size(), dist.get_rank()
    mesh = init_device_mesh("cpu", (world,))
    layer = distribute_module(torch.nn.Linear(2, 1, bias=False), mesh)
    torch.nn.init.zeros_(layer.weight)
    optimizer = posneg.SGD(layer.parameters(), lr=1.0)
    data = torch.arange(1.0, 2 * world + 1).reshape(world, 2)
    layer(distribute_tensor(data, mesh, [Shard(0)])).sum().backward()
    assert layer.weight.grad.placements != layer.weight.placements
    optimizer.step()
    assert layer.weight.to_local().tolist() == (-data.sum(0, keepdim=True)).tolist()


def unlike():
    """What cannot be cut as the parameter is."""
    world = dist.get_world_size()
    mesh = init_device_mesh("cpu", (world,))
    other = init_device_mesh("cpu", (world, 1))
    p, q = parameter(torch.zeros(4, 2), mesh, [Shard(0)]), torch.nn.Parameter(torch.zeros(4, 2))
    for g, error, text in [
        (torch.ones(4, 2), TypeError, "distribute_tensor()"),
        (distribute_tensor(torch.ones(4, 2), other, [Shard(0), Shard(0)]), RuntimeError, "the same mesh"),
        (distribute_tensor(torch.ones(2, 4), mesh, [Shard(0)]), ValueError, "(2, 4) for a parameter of shape (4, 2)"),
    ]:
        for first in (True, False):
            p.grad = None
            optimizer = posneg.SGD([p], lr=1.0)
            if not first:
                p.grad = torch.zeros_like(p)
                optimizer.step()
            set_grad(p, g)
            refused(optimizer, error, text)
    set_grad(q, distribute_tensor(torch.ones(4, 2), mesh, [Shard(0)]))
    refused(posneg.SGD([q], lr=1.0), TypeError, "full_tensor()")
    partial = torch.nn.Parameter(DTensor.from_local(torch.zeros(3), mesh, [Partial()], run_check=False))
    set_grad(partial, torch.zeros_like(partial))
    refused(posneg.SGD([partial], lr=1.0), RuntimeError, "Replicate()")
    assert not p.to_local().any() and not q.any()


def set_grad(p, g):
    """Sets a gradient of whatever shape: of those that belong to another p, torch does not look at it again."""
    data = p.data
    p.data = torch.empty_like(g)
    p.grad = g
    p.data = data


def not_arrived():
    """Gradients whose exchange is still under way."""
    from torch.distributed._functional_collectives import AsyncCollectiveTensor, all_reduce

    world = dist.get_world_size()
    mesh = init_device_mesh("cpu", (world,))
    p, q = parameter(torch.zeros(8), mesh, [Replicate()]), torch.nn.Parameter(torch.zeros(8))
    optimizer = posneg.SGD([p, q], lr=1.0)
    for _ in range(2):
        p.grad = DTensor.from_local(torch.ones(8), mesh, [Partial()]).redistribute(placements=[Replicate()], async_op=True)
        q.grad = all_reduce(torch.ones(8), "sum", mesh)
        assert isinstance(q.grad, AsyncCollectiveTensor)
        optimizer.step()
    assert p.to_local().tolist() == q.tolist() == [-2.0 * world] * 8


def states():
    """Momenta and masters that lie otherwise than the parameters, as after loading."""
    for dtype, how in ((torch.float32, {}), (torch.float16, {}), (torch.bfloat16, dict(master_weights=True))):
        whole, gradient = torch.randn(4, 6).to(dtype), torch.randn(4, 6).to(dtype)
        single = torch.nn.Parameter(whole.clone())
        reference = posneg.AdaPNM([single], lr=0.1, **how)
        for _ in range(3):
            single.grad = gradient.clone()
            reference.step()
        middle = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in reference.state[single].items()}
        at_middle = single.detach().clone()
        reference.step()
        for mesh, ways in placements(len(whole)):
            for others in [*(ways for other, ways in placements(len(whole)) if other == mesh), None]:
                p = parameter(at_middle, mesh, ways)
                optimizer = posneg.AdaPNM([p], lr=0.1, **how)
                optimizer.state[p] = {
                    k: cut(v, mesh, others) if others and isinstance(v, torch.Tensor) and v.ndim else v
                    for k, v in copy.deepcopy(middle).items()
                }
                p.grad = distribute_tensor(gradient, mesh, ways)
                optimizer.step()
                assert torch.equal(p.full_tensor(), single), (mesh, ways, others, dtype)
                for k, v in optimizer.state[p].items():
                    if isinstance(v, torch.Tensor) and v.ndim:
                        assert v.placements == p.placements and torch.equal(whole_of(v), reference.state[single][k])
            p = torch.nn.Parameter(at_middle.clone())
            optimizer = posneg.AdaPNM([p], lr=0.1, **how)
            optimizer.state[p] = {
                k: cut(v.clone(), mesh, ways) if isinstance(v, torch.Tensor) and v.ndim else v for k, v in middle.items()
            }
            p.grad = gradient.clone()
            optimizer.step()
            assert torch.equal(p, single)


def draws():
    """Random numbers: a part that is contiguous in the whole draws as it does; no two elements draw alike in others."""
    for shape in [(4, 6), (5, 3), (1, 2), (7, 7), (64, 16)]:
        whole, gradient = torch.randn(shape).bfloat16(), torch.randn(shape).bfloat16()
        for mesh, ways in placements(len(whole)):
            p, single = parameter(whole, mesh, ways), torch.nn.Parameter(whole.clone())
            p.grad, single.grad = distribute_tensor(gradient, mesh, ways), gradient.clone()
            for q in (p, single):
                posneg.AdaPNM([("weight", q)], lr=0.01, state_dtype=torch.bfloat16).step()
            numbers = distribute_tensor(torch.arange(whole.numel()).reshape(shape), mesh, ways)
            expected = distribute_tensor(single.detach(), mesh, ways)
            part = numbers.to_local().flatten()
            contiguous = not len(part) or torch.equal(part, torch.arange(part[0], part[0] + len(part)))
            first = posneg._placements.first_element(p)
            if contiguous and len(part):
                assert first == int(part[0])
                assert torch.equal(bits(p.to_local()), bits(expected.to_local())), (shape, ways)
            shares = [None] * dist.get_world_size()
            dist.all_gather_object(shares, (part.tolist(), list(range(first, first + len(part)))))
            drawn = {}
            for elements, draw in shares:
                for e, d in zip(elements, draw):
                    assert drawn.setdefault(e, d) == d  # copies of an element draw alike
            assert len(set(drawn.values())) == len(drawn) == whole.numel(), (shape, ways)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(4)
    dist.init_process_group("gloo")
    for test in (gradients, tensor_parallel, unlike, not_arrived, states, draws):
        test()
    dist.barrier()  # who leaves earlier takes the connections with it
    dist.destroy_process_group()
