"""The optimizers. Their arguments are those of the authors' implementation, or of torch.optim."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Dict, Optional, Tuple, Union

import torch
from torch import Tensor

from ._optimizer import Optimizer, Params, check_betas, check_filled, non_negative
from ._plan import Group

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
else:
    ProcessGroup = Any  # a torch may be built without

Number = Union[float, Tensor]  # a tensor has one element


def _same(names: str) -> Dict[str, Optional[str]]:
    return {name: name for name in names.split()}


class PNM(Optimizer):
    """Positive-Negative Momentum (Xie, Yuan, Zhu, Sugiyama, ICML 2021, Algorithm 2).

    lr has no default, as in the authors' code: theirs is 1.0 where torch's SGD with momentum 0.9 has 0.1.

    Args:
        betas: the decay of the momenta, in [0, 1), and the weight of the negative one (the paper's beta0), any number.
        weight_decay: shrinks parameters by lr * weight_decay a step if decoupled, or else joins the gradients (L2).
        maximize: ascend instead of descend.
        fused: have torch.amp.GradScaler leave it to the step to divide by the scale, as torch's fused optimizers do: it spares a
            pass, but gradients cannot be clipped before. It changes nothing else, and is always so for float16 parameters.
        state_dtype: torch.bfloat16, or "bfloat16", keeps momenta and averages in half the memory; "mxfp8" keeps momenta in a quarter,
            with a scale for each 32 elements of a row, and averages in bfloat16; None is float32, or float64 for such parameters.
        master_weights: keep exact float32 masters of bfloat16 parameters, instead of rounding them stochastically: the parameter
            is the upper half, and the state has the lower one, "master_low". float16 parameters always have a master, "master_param".
        seed: of stochastic rounding.
        clip_norm: bounds the Euclidean norm of all gradients of the step together, > 0. Infinity only measures it, as grad_norm.
        clip_value: bounds the size of each element of the gradients, after clip_norm, > 0.
        skip_non_finite: leave parameters and state as they are if a gradient has a NaN or an infinity; skipped tells.
        zero_grads: set the gradients to zero in the step, also where it is skipped.
        norm_group: a process group over whose ranks the parameters are spread, as ZeroRedundancyOptimizer spreads them: clip_norm and
            skip_non_finite see the gradients of all. DTensors need none. All ranks must step, with the same of these options.

    The last five are attributes of the optimizer, which may change between steps. They are done in the step's pass over memory, but that
    clip_norm and skip_non_finite read the gradients once before. After a step, grad_norm has the norm of the gradients (unscaled, before
    clipping), or None where neither option asked for it, and skipped whether the step has left everything as it was.
    """

    _rule_name = "PNM"
    _kind = 1
    _hyperparameters = _same("lr betas weight_decay decoupled maximize")

    def __init__(
        self,
        params: Params,
        lr: Number,
        betas: Tuple[Number, Number] = (0.9, 1.0),
        weight_decay: float = 0,
        decoupled: bool = True,
        *,
        maximize: bool = False,
        fused: Optional[bool] = None,
        state_dtype: Union[torch.dtype, str, None] = None,
        master_weights: bool = False,
        seed: int = 0,
        clip_norm: Optional[float] = None,
        clip_value: Optional[float] = None,
        skip_non_finite: bool = False,
        zero_grads: bool = False,
        norm_group: Optional[ProcessGroup] = None,
    ):
        super().__init__(
            params,
            dict(
                lr=lr, betas=betas, weight_decay=weight_decay, decoupled=decoupled, maximize=maximize,
                fused=fused, state_dtype=state_dtype, master_weights=master_weights, seed=seed,
            ),
            clip_norm=clip_norm, clip_value=clip_value, skip_non_finite=skip_non_finite, zero_grads=zero_grads, norm_group=norm_group,
        )

    def _check(self, group: Group) -> None:
        super()._check(group)
        check_betas(group, "beta1 beta0", decays=1)
        if not group["decoupled"] and not any(group["betas"]):
            raise ValueError(f"Invalid betas: {group['betas']} without decoupled, which is plain gradient descent: use posneg.SGD for that")

    def _rule(self, group: Group) -> Tuple[Any, ...]:
        beta1, beta0 = group["betas"]
        return _rule(self._kind, group, decoupled=group["decoupled"], beta1=beta1, beta0=beta0)


class AdaPNM(Optimizer):
    """The adaptive form of PNM (Algorithm 3 of the paper).

    At equal lr its steps are 0.447 of AdamW's in the long run. See PNM for the arguments that are not here.

    Args:
        betas: the decays of the momenta and of the average of squares, in [0, 1), and the weight of the negative momentum
            (the paper's beta0), any number.
        weight_decay: shrinks parameters by lr * weight_decay a step if decoupled (the authors use 5e-4 / lr), or else joins
            the gradients (L2).
        amsgrad: divide by the root of the largest average so far.
        exact_bias: divide by the weight that the momentum updated last really has given out; the authors' bias correction is
            too large on odd steps.
    """

    _rule_name = "AdaPNM"
    _kind = 2
    _hyperparameters = _same("lr betas eps weight_decay amsgrad decoupled maximize exact_bias")

    def __init__(
        self,
        params: Params,
        lr: Number = 1e-3,
        betas: Tuple[Number, Number, Number] = (0.9, 0.999, 1.0),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = True,
        decoupled: bool = True,
        *,
        maximize: bool = False,
        exact_bias: bool = False,
        fused: Optional[bool] = None,
        state_dtype: Union[torch.dtype, str, None] = None,
        master_weights: bool = False,
        seed: int = 0,
        clip_norm: Optional[float] = None,
        clip_value: Optional[float] = None,
        skip_non_finite: bool = False,
        zero_grads: bool = False,
        norm_group: Optional[ProcessGroup] = None,
    ):
        super().__init__(
            params,
            dict(
                lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, decoupled=decoupled,
                maximize=maximize, exact_bias=exact_bias,
                fused=fused, state_dtype=state_dtype, master_weights=master_weights, seed=seed,
            ),
            clip_norm=clip_norm, clip_value=clip_value, skip_non_finite=skip_non_finite, zero_grads=zero_grads, norm_group=norm_group,
        )

    def _check(self, group: Group) -> None:
        super()._check(group)
        non_negative(group, "eps")
        check_betas(group, "beta1 beta2 beta0", decays=2)
        check_filled(group, decays=2)

    def _rule(self, group: Group) -> Tuple[Any, ...]:
        beta1, beta2, beta0 = group["betas"]
        return _rule(
            self._kind, group, decoupled=group["decoupled"], amsgrad=group["amsgrad"], exact_bias=group["exact_bias"],
            beta1=beta1, beta2=beta2, beta0=beta0, eps=group["eps"],
        )


class SGD(Optimizer):
    """torch.optim.SGD, with its arguments; foreach changes nothing. See PNM for the last nine."""

    _rule_name = "SGD"
    _kind = 3
    _hyperparameters = {**_same("lr momentum dampening weight_decay nesterov maximize"), "decoupled": None}

    def __init__(
        self,
        params: Params,
        lr: Number = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: Optional[bool] = None,
        differentiable: bool = False,
        fused: Optional[bool] = None,
        state_dtype: Union[torch.dtype, str, None] = None,
        master_weights: bool = False,
        seed: int = 0,
        clip_norm: Optional[float] = None,
        clip_value: Optional[float] = None,
        skip_non_finite: bool = False,
        zero_grads: bool = False,
        norm_group: Optional[ProcessGroup] = None,
    ):
        _refuse(differentiable=differentiable)
        super().__init__(
            params,
            dict(
                lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov,
                maximize=maximize, fused=fused, state_dtype=state_dtype, master_weights=master_weights, seed=seed,
            ),
            clip_norm=clip_norm, clip_value=clip_value, skip_non_finite=skip_non_finite, zero_grads=zero_grads, norm_group=norm_group,
        )

    def _check(self, group: Group) -> None:
        super()._check(group)
        non_negative(group, "momentum")
        if not math.isfinite(group["dampening"]):
            raise ValueError(f"Invalid dampening: {group['dampening']}, must be finite")
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")

    def _rule(self, group: Group) -> Tuple[Any, ...]:
        return _rule(
            self._kind, group, nesterov=group["nesterov"], momentum=group["momentum"], dampening=group["dampening"]
        )


class Adam(Optimizer):
    """torch.optim.Adam, with its arguments; foreach changes nothing. See PNM for the last nine."""

    _rule_name = "Adam"
    _kind = 4
    _hyperparameters = {**_same("lr betas eps weight_decay amsgrad maximize"), "decoupled": "decoupled_weight_decay"}

    def __init__(
        self,
        params: Params,
        lr: Number = 1e-3,
        betas: Tuple[Number, Number] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: Optional[bool] = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: Optional[bool] = None,
        decoupled_weight_decay: bool = False,
        state_dtype: Union[torch.dtype, str, None] = None,
        master_weights: bool = False,
        seed: int = 0,
        clip_norm: Optional[float] = None,
        clip_value: Optional[float] = None,
        skip_non_finite: bool = False,
        zero_grads: bool = False,
        norm_group: Optional[ProcessGroup] = None,
    ):
        _refuse(capturable=capturable, differentiable=differentiable)
        super().__init__(
            params,
            dict(
                lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, maximize=maximize,
                decoupled_weight_decay=decoupled_weight_decay,
                fused=fused, state_dtype=state_dtype, master_weights=master_weights, seed=seed,
            ),
            clip_norm=clip_norm, clip_value=clip_value, skip_non_finite=skip_non_finite, zero_grads=zero_grads, norm_group=norm_group,
        )

    def _check(self, group: Group) -> None:
        super()._check(group)
        non_negative(group, "eps")
        check_betas(group, "beta1 beta2", decays=2)
        check_filled(group, decays=2)

    def _rule(self, group: Group) -> Tuple[Any, ...]:
        beta1, beta2 = group["betas"]
        return _rule(
            self._kind, group, decoupled=group["decoupled_weight_decay"], amsgrad=group["amsgrad"],
            beta1=beta1, beta2=beta2, eps=group["eps"],
        )


class AdamW(Adam):
    """torch.optim.AdamW, with its arguments; foreach changes nothing. See PNM for the last nine."""

    def __init__(
        self,
        params: Params,
        lr: Number = 1e-3,
        betas: Tuple[Number, Number] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: Optional[bool] = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: Optional[bool] = None,
        state_dtype: Union[torch.dtype, str, None] = None,
        master_weights: bool = False,
        seed: int = 0,
        clip_norm: Optional[float] = None,
        clip_value: Optional[float] = None,
        skip_non_finite: bool = False,
        zero_grads: bool = False,
        norm_group: Optional[ProcessGroup] = None,
    ):
        super().__init__(
            params, lr, betas, eps, weight_decay, amsgrad,
            maximize=maximize, capturable=capturable, differentiable=differentiable, decoupled_weight_decay=True,
            fused=fused, state_dtype=state_dtype, master_weights=master_weights, seed=seed,
            clip_norm=clip_norm, clip_value=clip_value, skip_non_finite=skip_non_finite, zero_grads=zero_grads, norm_group=norm_group,
        )

    def _check(self, group: Group) -> None:
        super()._check(group)
        if not group["decoupled_weight_decay"]:
            raise ValueError("Weight decay that is not decoupled: use posneg.Adam for that")

    def __setstate__(self, state: Dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group["decoupled_weight_decay"] = True  # torch 1 has saved no such option, or Adam's


class Lion(Optimizer):
    """Lion (Chen and others, Symbolic Discovery of Optimization Algorithms, NeurIPS 2023), with the arguments of its authors' class.

    A step moves each parameter by lr, so that lr must be 3 to 10 times smaller than AdamW's, and weight_decay as many times larger.
    See PNM for the arguments that are not here. A NaN in a gradient reaches the parameters: the sign of a NaN is NaN, and not 0 as in
    torch.sign.

    Args:
        betas: the weight of the momentum in the average whose sign is the step, and the decay of the momentum, in [0, 1).
        weight_decay: shrinks parameters by lr * weight_decay a step if decoupled, as the authors have it, or else joins the
            gradients (L2).
    """

    _rule_name = "Lion"
    _kind = 5
    _hyperparameters = _same("lr betas weight_decay decoupled maximize")

    def __init__(
        self,
        params: Params,
        lr: Number = 1e-4,
        betas: Tuple[Number, Number] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        decoupled: bool = True,
        maximize: bool = False,
        fused: Optional[bool] = None,
        state_dtype: Union[torch.dtype, str, None] = None,
        master_weights: bool = False,
        seed: int = 0,
        clip_norm: Optional[float] = None,
        clip_value: Optional[float] = None,
        skip_non_finite: bool = False,
        zero_grads: bool = False,
        norm_group: Optional[ProcessGroup] = None,
    ):
        super().__init__(
            params,
            dict(
                lr=lr, betas=betas, weight_decay=weight_decay, decoupled=decoupled, maximize=maximize,
                fused=fused, state_dtype=state_dtype, master_weights=master_weights, seed=seed,
            ),
            clip_norm=clip_norm, clip_value=clip_value, skip_non_finite=skip_non_finite, zero_grads=zero_grads, norm_group=norm_group,
        )

    def _check(self, group: Group) -> None:
        super()._check(group)
        check_betas(group, "beta1 beta2", decays=2)
        if not any(group["betas"]):
            raise ValueError(f"Invalid betas: {group['betas']}, must not both be 0")

    def _rule(self, group: Group) -> Tuple[Any, ...]:
        beta1, beta2 = group["betas"]
        return _rule(self._kind, group, decoupled=group["decoupled"], beta1=beta1, beta2=beta2)


def _rule(
    kind: int,
    group: Group,
    *,
    decoupled: bool = False,
    amsgrad: bool = False,
    nesterov: bool = False,
    exact_bias: bool = False,
    beta1: float = 0,
    beta2: float = 0,
    beta0: float = 0,
    eps: float = 0,
    momentum: float = 0,
    dampening: float = 0,
) -> Tuple[Any, ...]:
    """The fields of pnm_rule, in their order."""
    return (
        kind, decoupled, amsgrad, group["maximize"], nesterov, exact_bias, (0,) * 6,
        float(group["lr"]), beta1, beta2, beta0, eps, group["weight_decay"], momentum, dampening, (0,) * 8,
    )


def _refuse(**options: bool) -> None:
    for name, value in options.items():
        if value:
            raise ValueError(f"posneg has no {name} step, which is for graphs of torch operations: use torch.optim for that")
