"""A process of the tests of DeepSpeed: ZeRO with the optimizer offloaded to the CPU's memory, on the CPU as the accelerator."""

import argparse
import os

import deepspeed
import torch
import torch.distributed as dist

import posneg

STEPS = 6
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # compiled for a minute, where gloo does


def model():
    torch.manual_seed(2)
    return torch.nn.Sequential(torch.nn.Linear(6, 40), torch.nn.Tanh(), torch.nn.Linear(40, 41), torch.nn.Tanh(), torch.nn.Linear(41, 3))


def groups(net):
    """Two, each of a type of parameters, as of models whose biases do not decay."""
    return [dict(params=[p for p in net.parameters() if p.dim() == d], weight_decay=0.1 * (d - 1)) for d in (2, 1)]


def begin(stage, cls, clip=0.0, **options):
    net = model()
    config = {
        "train_micro_batch_size_per_gpu": 8,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": stage, "offload_optimizer": {"device": "cpu"}, "sub_group_size": 1000, "stage3_param_persistence_threshold": 0,
        },
        "bf16": {"enabled": True},
        "gradient_clipping": clip,
    }
    optimizer = cls(groups(net), lr=0.01, **options)
    return deepspeed.initialize(model=net, optimizer=optimizer, config=config)[0], optimizer


def loss(net, step):
    """The same on all ranks, so that the mean of their gradients is exactly that of one."""
    data = torch.randn(8, 6, generator=torch.Generator().manual_seed(step)).bfloat16()
    return net(data).float().square().mean()


def train(engine, first=0, last=STEPS):
    norms = []
    for step in range(first, last):
        engine.backward(loss(engine, step))
        engine.step()
        norms.append(float(engine.get_global_grad_norm() or 0))
    return norms


def masters(engine):
    """What DeepSpeed trains, in float32: the whole parameters, of all ranks."""
    if engine.zero_optimization_stage() < 3:
        from deepspeed.utils import safe_get_full_fp32_param

        return [safe_get_full_fp32_param(p).clone() for p in engine.module.parameters()]
    return [engine.optimizer.get_full_hp_param(p).clone() for p in engine.module.parameters()]


def alone(cls, **options):
    """The plain class, on gradients of the same bfloat16 model; its masters."""
    net = model()
    leaves = [torch.nn.Parameter(p.detach().bfloat16().float()) for p in net.parameters()]  # as DeepSpeed begins
    net.bfloat16()
    order = {id(p): q for p, q in zip(net.parameters(), leaves)}
    optimizer = cls([dict(g, params=[order[id(p)] for p in g["params"]]) for g in groups(net)], lr=0.01, **options)
    for step in range(STEPS):
        net.zero_grad()
        loss(net, step).backward()
        for p, q in zip(net.parameters(), leaves):
            q.grad = p.grad.float()
        optimizer.step()
        for p, q in zip(net.parameters(), leaves):
            p.data.copy_(q.data)
    return leaves


def same(a, b):
    for p, q in zip(a, b):
        assert torch.equal(p, q), (p - q).abs().max()


def plain(stage, cls):
    """The bits of the plain class, whose groups and parameters DeepSpeed swaps before each call of step."""
    engine, optimizer = begin(stage, cls)
    train(engine)
    same(masters(engine), alone(cls))
    assert {float(s["step"]) for s in optimizer.state.values()} == {STEPS}


def clipped(stage):
    """Clipping is DeepSpeed's, by the norm over all ranks: as it does for torch's class."""
    ends = []
    for cls in (posneg.AdamW, torch.optim.AdamW):
        engine, _ = begin(stage, cls, clip=0.05)
        ends.append((train(engine), masters(engine)))
    torch.testing.assert_close(*(torch.tensor(norms) for norms, _ in ends), rtol=0.01, atol=1e-3)
    for p, q in zip(*(m for _, m in ends)):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)


def resumed(stage, folder, **options):
    """Saved after an odd step, and resumed by a new engine."""
    engine, _ = begin(stage, posneg.AdaPNM, **options)
    train(engine, 0, 3)
    engine.save_checkpoint(folder)
    train(engine, 3)
    again, _ = begin(stage, posneg.AdaPNM, **options)
    assert again.load_checkpoint(folder)[0]
    train(again, 3)
    same(masters(engine), masters(again))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--stages", type=int, nargs="+", required=True)
    parser.add_argument("--folder", required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    deepspeed.init_distributed("gloo")
    for stage in arguments.stages:
        for cls in (posneg.AdaPNM, posneg.PNM, posneg.Lion):  # three betas, and two
            plain(stage, cls)
        clipped(stage)
        for name in (None, "bfloat16", "mxfp8"):
            resumed(stage, os.path.join(arguments.folder, f"{stage} {name}"), state_dtype=name)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
