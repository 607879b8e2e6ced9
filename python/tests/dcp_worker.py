"""A process of the tests of torch.distributed.checkpoint: what its tools carry, in each of their ways, is continued with the same bits.

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


def sharded(mesh):
    torch.manual_seed(3)
    net = torch.nn.Sequential(torch.nn.Linear(6, 17), torch.nn.LayerNorm(17), torch.nn.Linear(17, 5)).bfloat16()
    for layer in net:
        fully_shard(layer, mesh=mesh)
    return fully_shard(net, mesh=mesh)


def train(net, optimizer, first, steps):
    for step in range(first, first + steps):
        for i, p in enumerate(net.parameters()):
            g = torch.randn(p.shape, generator=torch.Generator().manual_seed(100 * step + i)).bfloat16()
            p.grad = torch.distributed.tensor.distribute_tensor(g, p.device_mesh, p.placements)
        optimizer.step()


def same(net, optimizer, again, resumed):
    assert all(torch.equal(p.full_tensor(), q.full_tensor()) for p, q in zip(net.parameters(), again.parameters()))
    for mine, other in zip(*(o.state_dict()["state"].values() for o in (optimizer, resumed))):
        assert ("master_low" in mine) == resumed.param_groups[0]["master_weights"]
        if "master_low" in mine:
            a, b = (s["master_low"].full_tensor().view(torch.int16) for s in (mine, other))
            assert torch.equal(a, b) and a.any()


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


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", required=True)
    folder = parser.parse_args().folder
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, mesh = dist.get_rank(), init_device_mesh("cpu", (dist.get_world_size(),))
    for kind, how in (("bfloat16", dict(state_dtype=torch.bfloat16)), ("masters", dict(master_weights=True))):
        carry(mesh, rank, f"{folder}/{kind}", dict(lr=0.05, **how))
    dist.barrier()  # who leaves earlier takes the connections with it
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
