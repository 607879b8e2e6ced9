"""A process of the tests of torch.distributed.checkpoint: what its tools carry, in each of their ways, is continued with the same bits,
also by another number of processes, as by one.

The bits of bfloat16 are drawn by numbers that travel in the state.
"""

import argparse
import copy
import itertools

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions, get_model_state_dict, get_optimizer_state_dict, set_model_state_dict, set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import posneg
from helpers import bits


KINDS = {
    "bfloat16": dict(state_dtype=torch.bfloat16),
    "masters": dict(master_weights=True),
    "mxfp8": dict(state_dtype="mxfp8"),
    "mxfp8, masters": dict(state_dtype="mxfp8", master_weights=True),
}


def whole():
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(6, 41), torch.nn.LayerNorm(41), torch.nn.Linear(41, 5)).bfloat16()


def sharded(mesh):
    net = whole()
    for layer in net:
        fully_shard(layer, mesh=mesh)
    return fully_shard(net, mesh=mesh)


def train(net, optimizer, first, steps):
    for step in range(first, first + steps):
        for i, p in enumerate(net.parameters()):
            if not p.requires_grad:
                continue
            g = torch.randn(p.shape, generator=torch.Generator().manual_seed(100 * step + i)).to(p.dtype)
            p.grad = torch.distributed.tensor.distribute_tensor(g, p.device_mesh, p.placements) if hasattr(p, "placements") else g
        optimizer.step()


def same(net, optimizer, again, resumed):
    assert len({o.fingerprint(n.named_parameters()) for n, o in ((net, optimizer), (again, resumed))}) == 1
    assert all(torch.equal(*(t.full_tensor() if hasattr(t, "full_tensor") else t for t in pair)) for pair in zip(net.parameters(), again.parameters()))
    for mine, other in zip(*(o.state_dict()["state"].values() for o in (optimizer, resumed))):
        assert ("master_low" in mine) == resumed.param_groups[0]["master_weights"]
        assert any(name.endswith("_scales") for name in mine) == (resumed.param_groups[0]["state_dtype"] == "mxfp8")
        for name, t in mine.items():
            if torch.is_tensor(t) and t.dim():
                a, b = (bits(s[name].full_tensor() if hasattr(s[name], "full_tensor") else s[name]) for s in (mine, other))
                assert torch.equal(a, b) and a.any(), name


def carry(mesh, rank, folder, how):
    net = sharded(mesh)
    optimizer = posneg.AdaPNM(net.parameters(), **how, seed=7)
    train(net, optimizer, 0, 3)
    ways = {}
    for full, offload, flat in itertools.product((False, True), (False, True), (False, True)):
        ways[f"{full}, {offload}, {flat}"] = StateDictOptions(full_state_dict=full, cpu_offload=offload, flatten_optimizer_state_dict=flat)
    ways["broadcast"] = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    saved = {}
    for name, options in ways.items():
        ask = StateDictOptions(full_state_dict=True, cpu_offload=True) if name == "broadcast" else options
        got = get_model_state_dict(net, options=ask), get_optimizer_state_dict(net, optimizer, options=ask)
        saved[name] = copy.deepcopy(got)  # some are the memory that is trained on
    for i, (save, name) in enumerate([(dcp.save, "False, False, False"), (dcp.save, "False, False, True"), (dcp.async_save, "False, False, False")]):
        result = save({"model": saved[name][0], "optimizer": saved[name][1]}, checkpoint_id=f"{folder}/{i}")
        if result is not None and hasattr(result, "result"):
            result.result()
    train(net, optimizer, 3, 2)

    for name, options in ways.items():
        if options.full_state_dict and options.flatten_optimizer_state_dict:
            continue  # torch cannot load what is both
        again = sharded(mesh)
        resumed = posneg.AdaPNM(again.parameters(), **how)
        model_state, state = saved[name]
        # The offloaded ones are rank 0's alone, for whom they are broadcast.
        whole = name.startswith("True, True") or name == "broadcast"
        if whole:
            options = ways["broadcast"]
        set_model_state_dict(again, model_state if rank == 0 or not whole else {}, options=options)
        set_optimizer_state_dict(again, resumed, state if rank == 0 or not whole else {}, options=options)
        train(again, resumed, 3, 2)
        same(net, optimizer, again, resumed)

    for i in range(3):
        again = sharded(mesh)
        resumed = posneg.AdaPNM(again.parameters(), **how)
        options = StateDictOptions(flatten_optimizer_state_dict=i == 1)
        states = {"model": get_model_state_dict(again, options=options), "optimizer": get_optimizer_state_dict(again, resumed, options=options)}
        dcp.load(states, checkpoint_id=f"{folder}/{i}")
        set_model_state_dict(again, states["model"], options=options)
        set_optimizer_state_dict(again, resumed, states["optimizer"], options=options)
        train(again, resumed, 3, 2)
        same(net, optimizer, again, resumed)


def save(mesh, folder, how):
    """Three steps, for resume."""
    net = sharded(mesh)
    optimizer = posneg.AdaPNM(net.named_parameters(), **how, seed=7)
    train(net, optimizer, 0, 3)
    dcp.save({"model": get_model_state_dict(net), "optimizer": get_optimizer_state_dict(net, optimizer)}, checkpoint_id=folder)


def resume(mesh, folder, how):
    """Goes on from what save has saved, in other parts, as a process with the whole."""
    again, net = sharded(mesh), whole()
    resumed, optimizer = (posneg.AdaPNM(n.named_parameters(), **how, seed=7) for n in (again, net))
    train(net, optimizer, 0, 5)
    states = {"model": get_model_state_dict(again), "optimizer": get_optimizer_state_dict(again, resumed)}
    dcp.load(states, checkpoint_id=folder)
    set_model_state_dict(again, states["model"])
    set_optimizer_state_dict(again, resumed, states["optimizer"])
    train(again, resumed, 3, 2)
    same(again, resumed, net, optimizer)


def with_groups(cls, net):
    """Two groups with options of their own, and a frozen parameter."""
    frozen, *params = net.named_parameters()
    frozen[1].requires_grad_(False)
    groups = [dict(params=[p for n, p in params if decays == ("weight" in n)], weight_decay=0.1 * decays) for decays in (True, False)]
    return cls(groups, lr=0.05)


def exchange(mesh, folder, first, then, saves):
    """A run of one class is continued by another one, in other parts, as in one process: ours by torch's, and torch's by ours."""
    net = sharded(mesh).float()
    optimizer = with_groups(first if saves else then, net)
    if saves:
        train(net, optimizer, 0, 3)
        dcp.save({"model": get_model_state_dict(net), "optimizer": get_optimizer_state_dict(net, optimizer)}, checkpoint_id=folder)
        return
    states = {"model": get_model_state_dict(net), "optimizer": get_optimizer_state_dict(net, optimizer)}
    each_has_options_of_its_own = dcp.DefaultLoadPlanner(allow_partial_load=True)
    dcp.load(states, checkpoint_id=folder, planner=each_has_options_of_its_own)
    set_model_state_dict(net, states["model"])
    set_optimizer_state_dict(net, optimizer, states["optimizer"])
    train(net, optimizer, 3, 2)
    alone = whole().float()
    train(alone, with_groups(first, alone), 0, 5)
    for p, q in zip(net.parameters(), alone.parameters()):
        torch.testing.assert_close(p.full_tensor(), q, rtol=1e-5, atol=1e-5)
    assert {float(s["step"]) for s in optimizer.state.values()} == {5}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", required=True)
    parser.add_argument("--what", choices=("carry", "save", "resume"), default="carry")
    options = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, mesh = dist.get_rank(), init_device_mesh("cpu", (dist.get_world_size(),))
    for kind, how in KINDS.items():
        how, folder = dict(lr=0.05, **how), f"{options.folder}/{kind}"
        if options.what == "carry":
            carry(mesh, rank, folder, how)
        else:
            {"save": save, "resume": resume}[options.what](mesh, folder, how)
    if options.what != "carry":
        for first, then in ((posneg.AdamW, torch.optim.AdamW), (torch.optim.AdamW, posneg.AdamW)):
            exchange(mesh, f"{options.folder}/{first.__module__}", first, then, options.what == "save")
    dist.barrier()  # who leaves earlier takes the connections with it
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
