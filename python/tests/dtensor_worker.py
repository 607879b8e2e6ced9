"""A process of the tests of DTensors: what a step of each process does to its part is what a step of one process does to the whole.
"""

import copy

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.placement_types import _StridedShard

import posneg
from posneg import _mx
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


def sent(t):
    """The type in which gloo sends the bits of a tensor."""
    return {torch.int16: torch.bfloat16, _mx.ELEMENTS: torch.uint8, _mx.SCALES: torch.uint8}.get(t.dtype, t.dtype)


def cut(t, mesh, ways):
    return retyped(distribute_tensor(t.view(sent(t)), mesh, ways), t.dtype)


def whole_of(t):
    return retyped(t, sent(t)).full_tensor().view(t.dtype)


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
    for dtype, how in (
        (torch.float32, {}), (torch.float16, {}), (torch.bfloat16, dict(master_weights=True)),
        (torch.float32, dict(state_dtype="mxfp8")), (torch.bfloat16, dict(state_dtype="mxfp8", master_weights=True)),
    ):
        shape = (4, 32 * dist.get_world_size() - 1) if how.get("state_dtype") else (4, 6)
        whole, gradient = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
        single = torch.nn.Parameter(whole.clone())
        reference = posneg.AdaPNM([(7, single)], lr=0.1, **how)
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
                if how.get("state_dtype") and any(isinstance(way, _StridedShard) or way == Shard(1) for way in ways):
                    assert not torch.equal(p.full_tensor(), at_middle)  # it draws other numbers
                    continue
                assert torch.equal(p.full_tensor(), single), (mesh, ways, others, dtype)
                for k, v in optimizer.state[p].items():
                    if isinstance(v, torch.Tensor) and v.ndim:
                        assert v.placements == p.placements and torch.equal(bits(whole_of(v)), bits(reference.state[single][k]))
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


def blocks():
    """mxfp8: what is cut within a block is refused, and no two elements draw alike however rows are cut."""
    world = dist.get_world_size()
    mesh = init_device_mesh("cpu", (world,))
    large = torch.randn(96000 * world)
    p, single = parameter(large, mesh, [Shard(0)]), torch.nn.Parameter(large.clone())
    for _ in range(2):
        for q in (p, single):
            q.grad = torch.ones_like(q)
    both = [posneg.AdaPNM([("weight", q)], state_dtype="mxfp8") for q in (p, single)]
    for optimizer in (*both, *both):
        optimizer.step()
    assert torch.equal(p.full_tensor(), single)
    assert torch.equal(whole_of(both[0].state[p]["exp_avg_scales"]).view(torch.uint8), both[1].state[single]["exp_avg_scales"].view(torch.uint8))

    within = "within a block of its mxfp8 state: it can be cut at"
    for shape, ways, text in [
        ((65568 * world - 1,), [Shard(0)], None),
        ((3, 32 * world - 1), [Shard(1)], None),
        ((3, 2 * world, 16), [Shard(1)], None),
        ((65568 * world - 32,), [Shard(0)], within),
        ((3, 48 * world), [Shard(1)], f"element 48 of each row, {within} 32 or 64"),
        ((3, 2 * world, 8), [Shard(1)], within),
        ((3, 4, 32 * world), [Shard(2)], "dimension 2"),
        ((3, 3, 64), [Shard(1)], "cut the scales" if world == 2 else None),
    ]:
        p = parameter(torch.zeros(shape), mesh, ways)
        p.grad = torch.zeros_like(p)
        optimizer = posneg.AdaPNM([("weight", p)], state_dtype="mxfp8")
        if text is None or world == 1:
            optimizer.step()
        else:
            refused(optimizer, ValueError, text if dist.get_rank() == 0 else "mxfp8")
    for shape in [(4, 64 * world), (5, 32 * world - 1), (3, 2 * world, 16), (7, 5)]:
        for on, ways in placements(shape[0]):
            p = parameter(torch.zeros(shape), on, ways)
            try:
                _mx.check_cut(p, "it")
                bad = False
            except ValueError:
                bad = True
            first, row, n = _mx.first_element(p), max(1, _mx.local_row(p)), p.to_local().numel()
            drawn = [(first + i) // row * -(-row // 32) * 32 + (first + i) % row for i in range(n)]
            elements = distribute_tensor(torch.arange(p.numel()).reshape(shape), on, ways).to_local().flatten().tolist()
            shares = [None] * world
            dist.all_gather_object(shares, (bad, elements, drawn))
            if any(share[0] for share in shares):
                continue
            known = {}
            for _, elements, drawn in shares:
                for e, d in zip(elements, drawn):
                    assert known.setdefault(e, d) == d
            assert len(set(known.values())) == len(known) == p.numel(), (shape, ways)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(4)
    dist.init_process_group("gloo")
    for test in (gradients, tensor_parallel, unlike, not_arrived, states, draws, blocks):
        test()
    dist.barrier()  # who leaves earlier takes the connections with it
    dist.destroy_process_group()
