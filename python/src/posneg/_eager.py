"""PNM, AdaPNM and Lion in torch operations, one after the other: what the tests and the benchmarks compare with.

The equations and their order are the authors': decay, then the momentum that is due (on odd steps the first one), then the
average of squares and the largest so far, then the step.
"""

from __future__ import annotations

import math
from typing import Any, Dict, Tuple, cast

import torch


class Eager(torch.optim.Optimizer):
    """A rule of the authors, as a function of a parameter, its gradient, its state and its options."""

    options: Dict[str, Any] = {}

    def __init__(self, params: Any, **options: Any):
        super().__init__(params, {**self.options, **options})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.update(p, decayed(p, p.grad, group), self.state[p], group)

    @staticmethod
    def update(p: torch.Tensor, grad: torch.Tensor, state: Dict[str, Any], group: Dict[str, Any]) -> None:
        raise NotImplementedError


def decayed(p: torch.Tensor, grad: torch.Tensor, group: Dict[str, Any]) -> torch.Tensor:
    if group["decoupled"]:
        p.mul_(1 - group["lr"] * group["weight_decay"])
        return grad
    return grad.add(p, alpha=group["weight_decay"])


def kept(p: torch.Tensor, state: Dict[str, Any], name: str) -> torch.Tensor:
    """A tensor of the state, zeros at first."""
    if name not in state:
        state[name] = torch.zeros_like(p)
    return cast(torch.Tensor, state[name])


def momenta(p: torch.Tensor, state: Dict[str, Any], first: str, second: str) -> Tuple[torch.Tensor, torch.Tensor]:
    """Counts the step, and returns the momentum that is due and the other one."""
    state["step"] = state.get("step", 0) + 1
    positive, negative = kept(p, state, first), kept(p, state, second)
    return (positive, negative) if state["step"] % 2 else (negative, positive)


def direction(due: torch.Tensor, other: torch.Tensor, grad: torch.Tensor, beta1: float, beta0: float) -> torch.Tensor:
    due.mul_(beta1**2).add_(grad, alpha=1 - beta1**2)
    return due.mul(1 + beta0).add(other, alpha=-beta0).mul(1 / math.hypot(1 + beta0, beta0))


class EagerPNM(Eager):
    options = dict(betas=(0.9, 1.0), weight_decay=0.0, decoupled=True)

    @staticmethod
    def update(p: torch.Tensor, grad: torch.Tensor, state: Dict[str, Any], group: Dict[str, Any]) -> None:
        beta1, beta0 = group["betas"]
        due, other = momenta(p, state, "pos_momentum", "neg_momentum")
        p.add_(direction(due, other, grad, beta1, beta0), alpha=-group["lr"])


class EagerAdaPNM(Eager):
    options = dict(lr=1e-3, betas=(0.9, 0.999, 1.0), eps=1e-8, weight_decay=0.0, amsgrad=True, decoupled=True)

    @staticmethod
    def update(p: torch.Tensor, grad: torch.Tensor, state: Dict[str, Any], group: Dict[str, Any]) -> None:
        beta1, beta2, beta0 = group["betas"]
        due, other = momenta(p, state, "exp_avg", "neg_exp_avg")
        step = state["step"]
        average = kept(p, state, "exp_avg_sq")
        average.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        if group["amsgrad"]:
            largest = kept(p, state, "max_exp_avg_sq")
            average = torch.max(largest, average, out=largest)
        mixed = direction(due, other, grad, beta1, beta0)
        denominator = (average.sqrt() / math.sqrt(1 - beta2**step)).add_(group["eps"])
        p.addcdiv_(mixed, denominator, value=-group["lr"] / (1 - beta1**step))


class EagerLion(Eager):
    options = dict(lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, decoupled=True)

    @staticmethod
    def update(p: torch.Tensor, grad: torch.Tensor, state: Dict[str, Any], group: Dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        state["step"] = state.get("step", 0) + 1
        momentum = kept(p, state, "exp_avg")
        p.add_((momentum * beta1).add_(grad, alpha=1 - beta1).sign_(), alpha=-group["lr"])
        momentum.mul_(beta2).add_(grad, alpha=1 - beta2)
