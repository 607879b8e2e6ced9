"""A process of the test of FSDP2: its shards are updated as the whole parameters of one process are."""

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import posneg
from distributed_worker import loss, model


def train(in_backward, **how):
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    sharded, whole = model(), model()
    for layer in sharded:
        if isinstance(layer, torch.nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    optimizers = [posneg.AdaPNM(net.parameters(), lr=0.05, **how) for net in (sharded, whole)]
    if in_backward:
        posneg.step_in_backward(sharded, optimizers[0])
    for step in range(20):
        for net, optimizer in zip((sharded, whole), optimizers):
            optimizer.zero_grad()
            loss(net, step).backward()
            optimizer.step()
        assert optimizers[0].grad_norm == optimizers[1].grad_norm
    for a, b in zip(sharded.parameters(), whole.parameters()):
        assert torch.equal(a.full_tensor(), b)
        for name, buffer in optimizers[0].state[a].items():
            expected = optimizers[1].state[b][name]
            if name == "step":
                assert buffer == expected == 20
            else:
                assert buffer.to_local().numel() < b.numel() and torch.equal(buffer.full_tensor(), expected)
        assert (a.grad is None) == in_backward


def main():
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    train(in_backward=False)
    train(in_backward=False, clip_norm=0.1, clip_value=0.05, skip_non_finite=True)
    train(in_backward=True)
    dist.barrier()  # who leaves earlier takes the connections with it
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
