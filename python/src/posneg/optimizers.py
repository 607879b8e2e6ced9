"""The optimizers. They take the arguments of the authors' implementation or of torch.optim, and some more."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Dict, Optional, Tuple, Union

import torch
from torch import Tensor

from ._optimizer import Optimizer, Params, check_betas, check_filled, non_negative
from ._options import number
from ._plan import Group

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
else:
    ProcessGroup = Any  # a torch may be built without

Number = Union[float, Tensor]  # a tensor has one element


def _same(names: str) -> Dict[str, Optional[str]]:
    return {name: name for name in names.split()}


class PNM(Optimizer):
    """Positive-Negative Momentum (Xie, Yuan, Zhu, Sugiyama, ICML 2021, arXiv 2103.17182, Algorithm 2).

    There are two momenta, updated alternately: if a step updates m, the next step updates n. Their weighted difference has more of the
    gradients' noise than a single momentum. Step t of a parameter p with gradient g::

        if maximize: g = -g
        if not decoupled: g = g + weight_decay * p
        m = beta1**2 * m + (1 - beta1**2) * g
        u = ((1 + beta0) * m - beta0 * n) / sqrt((1 + beta0)**2 + beta0**2)
        if decoupled: p = (1 - lr * weight_decay) * p
        p = p - lr * u

    The state of a parameter: step, pos_momentum (m on odd steps), neg_momentum.

    Args:
        params: parameters, (name, parameter) pairs such as model.named_parameters(), or dicts that define groups.
        lr: learning rate, finite and >= 0: a float, or a tensor with one element. It has no default, as in the authors' code. The authors
            use 1.0 where torch's SGD with momentum 0.9 takes 0.1.
        betas: beta1, the decay of the momenta, in [0, 1), and beta0, the weight of the negative momentum, any finite number.
            Both may be 0 only with decoupled. Default: (0.9, 1.0).
        weight_decay: finite and >= 0. Default: 0.
        decoupled: multiply parameters by 1 - lr * weight_decay, instead of adding weight_decay * p to gradients (L2). Default: True.
        maximize: ascend instead of descend. Default: False.
        fused: if True, step() itself divides the gradients by the scale of torch.amp.GradScaler. This saves a pass over memory, but
            gradients stay scaled until step(). float16 parameters and the options from clip_norm to zero_grads imply it. Default: None.
        state_dtype: type of the state. None: float32. torch.bfloat16 or "bfloat16": half that memory. "mxfp8": momenta take a quarter of
            it, with one scale for up to 32 elements of a row, and averages of squares are bfloat16. float64 and complex parameters always
            have state of their own type. Default: None.
        master_weights: keep exact float32 masters of bfloat16 parameters, with 2 bytes of state per element, instead of rounding
            the parameters stochastically. float16 parameters always have masters. Default: False.
        seed: seed of stochastic rounding, any integer. Default: 0.
        clip_norm: bound on the Euclidean norm of all gradients together, > 0; infinity only measures the norm. After a step, the attribute
            grad_norm has the norm. This option and the next four are also attributes, which may change between steps. Default: None.
        clip_value: bound on the absolute value of each element of the gradients, > 0, applied after clip_norm. Default: None.
        skip_non_finite: skip the step if a gradient has a NaN or an infinity: parameters and state stay as they are, and the attribute
            skipped is True. Default: False.
        zero_grads: set the gradients to zero in the step, even if it is skipped. Default: False.
        process_group: process group whose ranks share the parameters, as with ZeroRedundancyOptimizer: clip_norm, skip_non_finite and the
            gradient noise of PNM and AdaPNM then cover all its ranks, and all of them must step. DTensors need no group. Default: None.
        noise_every: read the gradient noise in every n-th step, n >= 1. The attribute noise has the average of the readings. This option
            and the next one are also attributes; setting one of them begins a new average. Default: None.
        noise_decay: the weight of a reading in relation to the next one, in (0, 1]: see NoiseAverage. Default: 1.0.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = posneg.PNM([w], lr=1.0, weight_decay=5e-4)
        >>> w.square().sum().backward()
        >>> optimizer.step()
        >>> w
        Parameter containing:
        tensor([0.6596], requires_grad=True)
    """

    _rule_name = "PNM"
    _kind = 1
    _two_momenta = True
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
        process_group: Optional[ProcessGroup] = None,
        noise_every: Optional[int] = None,
        noise_decay: float = 1.0,
    ):
        super().__init__(
            params,
            dict(
                lr=lr, betas=betas, weight_decay=weight_decay, decoupled=decoupled, maximize=maximize,
                fused=fused, state_dtype=state_dtype, master_weights=master_weights, seed=seed,
            ),
            clip_norm=clip_norm, clip_value=clip_value, skip_non_finite=skip_non_finite, zero_grads=zero_grads, process_group=process_group,
            noise_every=noise_every, noise_decay=noise_decay,
        )

    def _check(self, group: Group) -> None:
        super()._check(group)
        check_betas(group, "beta1 beta0", decays=1)
        if not group["decoupled"] and not any(group["betas"]):
            raise ValueError(f"Invalid betas: {group['betas']} with decoupled=False is plain gradient descent: use posneg.SGD for that")

    def _rule(self, group: Group) -> Tuple[Any, ...]:
        beta1, beta0 = group["betas"]
        return _rule(self._kind, group, decoupled=group["decoupled"], beta1=beta1, beta0=beta0)


class AdaPNM(Optimizer):
    """AdaPNM, the adaptive form of Positive-Negative Momentum (Xie, Yuan, Zhu, Sugiyama, ICML 2021, arXiv 2103.17182, Algorithm 3).

    There are two momenta, updated alternately: if a step updates m, the next step updates n. Their weighted difference is divided as in
    Adam. At equal lr, steps are 0.447 times AdamW's in the long run. Step t of a parameter p with gradient g::

        if maximize: g = -g
        if not decoupled: g = g + weight_decay * p
        m = beta1**2 * m + (1 - beta1**2) * g
        v = beta2 * v + (1 - beta2) * g**2
        w = max(w, v) if amsgrad else v
        u = ((1 + beta0) * m - beta0 * n) / sqrt((1 + beta0)**2 + beta0**2)
        c = 1 - beta1**(t + t % 2) if exact_bias else 1 - beta1**t
        if decoupled: p = (1 - lr * weight_decay) * p
        p = p - lr * u / c / (sqrt(w / (1 - beta2**t)) + eps)

    The state of a parameter: step, exp_avg (m on odd steps), neg_exp_avg, exp_avg_sq (v), max_exp_avg_sq (w, with amsgrad).

    Args:
        params: parameters, (name, parameter) pairs such as model.named_parameters(), or dicts that define groups.
        lr: learning rate, finite and >= 0: a float, or a tensor with one element. Default: 1e-3.
        betas: beta1 and beta2, the decays of the momenta and of the average of squares, in [0, 1), and beta0, the weight of the
            negative momentum, any finite number. Default: (0.9, 0.999, 1.0).
        eps: added to the root, finite and >= 0. It must not be 0 if both decays are 0. Unless all parameters are float64, it must
            be 0 or at least 1e-45. Default: 1e-8.
        weight_decay: finite and >= 0; the authors use 5e-4 / lr. Default: 0.0.
        amsgrad: divide by the root of the largest average so far. Default: True.
        decoupled: multiply parameters by 1 - lr * weight_decay, instead of adding weight_decay * p to gradients (L2). Default: True.
        maximize: ascend instead of descend. Default: False.
        exact_bias: divide by the true sum of the momentum's weights. The authors' correction is the same on even steps and too large
            on odd ones: their first step is 1.70 * lr. Default: False.
        fused: if True, step() itself divides the gradients by the scale of torch.amp.GradScaler. This saves a pass over memory, but
            gradients stay scaled until step(). float16 parameters and the options from clip_norm to zero_grads imply it. Default: None.
        state_dtype: type of the state. None: float32. torch.bfloat16 or "bfloat16": half that memory. "mxfp8": momenta take a quarter of
            it, with one scale for up to 32 elements of a row, and averages of squares are bfloat16. float64 and complex parameters always
            have state of their own type. Default: None.
        master_weights: keep exact float32 masters of bfloat16 parameters, with 2 bytes of state per element, instead of rounding
            the parameters stochastically. float16 parameters always have masters. Default: False.
        seed: seed of stochastic rounding, any integer. Default: 0.
        clip_norm: bound on the Euclidean norm of all gradients together, > 0; infinity only measures the norm. After a step, the attribute
            grad_norm has the norm. This option and the next four are also attributes, which may change between steps. Default: None.
        clip_value: bound on the absolute value of each element of the gradients, > 0, applied after clip_norm. Default: None.
        skip_non_finite: skip the step if a gradient has a NaN or an infinity: parameters and state stay as they are, and the attribute
            skipped is True. Default: False.
        zero_grads: set the gradients to zero in the step, even if it is skipped. Default: False.
        process_group: process group whose ranks share the parameters, as with ZeroRedundancyOptimizer: clip_norm, skip_non_finite and the
            gradient noise of PNM and AdaPNM then cover all its ranks, and all of them must step. DTensors need no group. Default: None.
        noise_every: read the gradient noise in every n-th step, n >= 1. The attribute noise has the average of the readings. This option
            and the next one are also attributes; setting one of them begins a new average. Default: None.
        noise_decay: the weight of a reading in relation to the next one, in (0, 1]: see NoiseAverage. Default: 1.0.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = posneg.AdaPNM([w], lr=0.1, clip_norm=1.0, zero_grads=True)
        >>> w.square().sum().backward()
        >>> optimizer.step()
        >>> optimizer.grad_norm, w.grad
        (2.0, tensor([0.]))
        >>> w
        Parameter containing:
        tensor([0.8301], requires_grad=True)
    """

    _rule_name = "AdaPNM"
    _kind = 2
    _two_momenta = True
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
        process_group: Optional[ProcessGroup] = None,
        noise_every: Optional[int] = None,
        noise_decay: float = 1.0,
    ):
        super().__init__(
            params,
            dict(
                lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, decoupled=decoupled,
                maximize=maximize, exact_bias=exact_bias,
                fused=fused, state_dtype=state_dtype, master_weights=master_weights, seed=seed,
            ),
            clip_norm=clip_norm, clip_value=clip_value, skip_non_finite=skip_non_finite, zero_grads=zero_grads, process_group=process_group,
            noise_every=noise_every, noise_decay=noise_decay,
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
    """Gradient descent with momentum, like torch.optim.SGD: it takes the same arguments and some more, and loads the same state.

    Step t of a parameter p with gradient g::

        if maximize: g = -g
        g = g + weight_decay * p
        b = momentum * b + (1 - dampening) * g if momentum and t > 1 else g
        p = p - lr * (g + momentum * b if nesterov else b)

    The state of a parameter: step, momentum_buffer (b, with momentum).

    Args:
        params: parameters, (name, parameter) pairs such as model.named_parameters(), or dicts that define groups.
        lr: learning rate, finite and >= 0: a float, or a tensor with one element. Default: 1e-3.
        momentum: finite and >= 0. Default: 0.
        dampening: any finite number; gradients are added to the momentum with the factor 1 - dampening. Default: 0.
        weight_decay: finite and >= 0, added to the gradients (L2). Default: 0.
        nesterov: use Nesterov momentum, which needs momentum > 0 and dampening 0. Default: False.
        maximize: ascend instead of descend. Default: False.
        foreach: accepted as by torch.optim, and ignored. Default: None.
        differentiable: accepted as by torch.optim, but True raises an error. Default: False.
        fused: if True, step() itself divides the gradients by the scale of torch.amp.GradScaler. This saves a pass over memory, but
            gradients stay scaled until step(). float16 parameters and the options from clip_norm to zero_grads imply it. Default: None.
        state_dtype: type of the state. None: float32. torch.bfloat16 or "bfloat16": half that memory. "mxfp8": momenta take a quarter of
            it, with one scale for up to 32 elements of a row, and averages of squares are bfloat16. float64 and complex parameters always
            have state of their own type. Default: None.
        master_weights: keep exact float32 masters of bfloat16 parameters, with 2 bytes of state per element, instead of rounding
            the parameters stochastically. float16 parameters always have masters. Default: False.
        seed: seed of stochastic rounding, any integer. Default: 0.
        clip_norm: bound on the Euclidean norm of all gradients together, > 0; infinity only measures the norm. After a step, the attribute
            grad_norm has the norm. This option and the next four are also attributes, which may change between steps. Default: None.
        clip_value: bound on the absolute value of each element of the gradients, > 0, applied after clip_norm. Default: None.
        skip_non_finite: skip the step if a gradient has a NaN or an infinity: parameters and state stay as they are, and the attribute
            skipped is True. Default: False.
        zero_grads: set the gradients to zero in the step, even if it is skipped. Default: False.
        process_group: process group whose ranks share the parameters, as with ZeroRedundancyOptimizer: clip_norm, skip_non_finite and the
            gradient noise of PNM and AdaPNM then cover all its ranks, and all of them must step. DTensors need no group. Default: None.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = posneg.SGD([w], lr=0.1, momentum=0.9)
        >>> w.square().sum().backward()
        >>> optimizer.step()
        >>> w
        Parameter containing:
        tensor([0.8000], requires_grad=True)
    """

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
        process_group: Optional[ProcessGroup] = None,
    ):
        _refuse(differentiable=differentiable)
        super().__init__(
            params,
            dict(
                lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov,
                maximize=maximize, fused=fused, state_dtype=state_dtype, master_weights=master_weights, seed=seed,
            ),
            clip_norm=clip_norm, clip_value=clip_value, skip_non_finite=skip_non_finite, zero_grads=zero_grads, process_group=process_group,
        )

    def _check(self, group: Group) -> None:
        super()._check(group)
        non_negative(group, "momentum")
        if not math.isfinite(number("dampening", group["dampening"])):
            raise ValueError(f"Invalid dampening: {group['dampening']}, must be finite")
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")

    def _rule(self, group: Group) -> Tuple[Any, ...]:
        return _rule(
            self._kind, group, nesterov=group["nesterov"], momentum=group["momentum"], dampening=group["dampening"]
        )


class Adam(Optimizer):
    """Adam (Kingma and Ba, arXiv 1412.6980), like torch.optim.Adam: it takes the same arguments and some more, and loads the same state.

    Step t of a parameter p with gradient g::

        if maximize: g = -g
        if not decoupled_weight_decay: g = g + weight_decay * p
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        w = max(w, v) if amsgrad else v
        if decoupled_weight_decay: p = (1 - lr * weight_decay) * p
        p = p - lr * m / (1 - beta1**t) / (sqrt(w / (1 - beta2**t)) + eps)

    The state of a parameter: step, exp_avg (m), exp_avg_sq (v), max_exp_avg_sq (w, with amsgrad).

    Args:
        params: parameters, (name, parameter) pairs such as model.named_parameters(), or dicts that define groups.
        lr: learning rate, finite and >= 0: a float, or a tensor with one element. Default: 1e-3.
        betas: beta1 and beta2, the decays of the averages of gradients and of their squares, in [0, 1). Default: (0.9, 0.999).
        eps: added to the root, finite and >= 0. It must not be 0 if both decays are 0. Unless all parameters are float64, it must
            be 0 or at least 1e-45. Default: 1e-8.
        weight_decay: finite and >= 0. Default: 0.
        amsgrad: divide by the root of the largest average so far. Default: False.
        foreach: accepted as by torch.optim, and ignored. Default: None.
        maximize: ascend instead of descend. Default: False.
        capturable: accepted as by torch.optim, but True raises an error. Default: False.
        differentiable: accepted as by torch.optim, but True raises an error. Default: False.
        fused: if True, step() itself divides the gradients by the scale of torch.amp.GradScaler. This saves a pass over memory, but
            gradients stay scaled until step(). float16 parameters and the options from clip_norm to zero_grads imply it. Default: None.
        decoupled_weight_decay: multiply parameters by 1 - lr * weight_decay, instead of adding weight_decay * p to gradients (L2).
            Default: False.
        state_dtype: type of the state. None: float32. torch.bfloat16 or "bfloat16": half that memory. "mxfp8": momenta take a quarter of
            it, with one scale for up to 32 elements of a row, and averages of squares are bfloat16. float64 and complex parameters always
            have state of their own type. Default: None.
        master_weights: keep exact float32 masters of bfloat16 parameters, with 2 bytes of state per element, instead of rounding
            the parameters stochastically. float16 parameters always have masters. Default: False.
        seed: seed of stochastic rounding, any integer. Default: 0.
        clip_norm: bound on the Euclidean norm of all gradients together, > 0; infinity only measures the norm. After a step, the attribute
            grad_norm has the norm. This option and the next four are also attributes, which may change between steps. Default: None.
        clip_value: bound on the absolute value of each element of the gradients, > 0, applied after clip_norm. Default: None.
        skip_non_finite: skip the step if a gradient has a NaN or an infinity: parameters and state stay as they are, and the attribute
            skipped is True. Default: False.
        zero_grads: set the gradients to zero in the step, even if it is skipped. Default: False.
        process_group: process group whose ranks share the parameters, as with ZeroRedundancyOptimizer: clip_norm, skip_non_finite and the
            gradient noise of PNM and AdaPNM then cover all its ranks, and all of them must step. DTensors need no group. Default: None.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = posneg.Adam([w], lr=0.1)
        >>> w.square().sum().backward()
        >>> optimizer.step()
        >>> w
        Parameter containing:
        tensor([0.9000], requires_grad=True)
    """

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
        process_group: Optional[ProcessGroup] = None,
    ):
        _refuse(capturable=capturable, differentiable=differentiable)
        super().__init__(
            params,
            dict(
                lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, maximize=maximize,
                decoupled_weight_decay=decoupled_weight_decay,
                fused=fused, state_dtype=state_dtype, master_weights=master_weights, seed=seed,
            ),
            clip_norm=clip_norm, clip_value=clip_value, skip_non_finite=skip_non_finite, zero_grads=zero_grads, process_group=process_group,
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
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101), like torch.optim.AdamW: it takes the same arguments and more, and loads the same
    state.

    Step t of a parameter p with gradient g::

        if maximize: g = -g
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        w = max(w, v) if amsgrad else v
        p = (1 - lr * weight_decay) * p
        p = p - lr * m / (1 - beta1**t) / (sqrt(w / (1 - beta2**t)) + eps)

    The state of a parameter: step, exp_avg (m), exp_avg_sq (v), max_exp_avg_sq (w, with amsgrad).

    Args:
        params: parameters, (name, parameter) pairs such as model.named_parameters(), or dicts that define groups.
        lr: learning rate, finite and >= 0: a float, or a tensor with one element. Default: 1e-3.
        betas: beta1 and beta2, the decays of the averages of gradients and of their squares, in [0, 1). Default: (0.9, 0.999).
        eps: added to the root, finite and >= 0. It must not be 0 if both decays are 0. Unless all parameters are float64, it must
            be 0 or at least 1e-45. Default: 1e-8.
        weight_decay: finite and >= 0. Default: 1e-2.
        amsgrad: divide by the root of the largest average so far. Default: False.
        maximize: ascend instead of descend. Default: False.
        foreach: accepted as by torch.optim, and ignored. Default: None.
        capturable: accepted as by torch.optim, but True raises an error. Default: False.
        differentiable: accepted as by torch.optim, but True raises an error. Default: False.
        fused: if True, step() itself divides the gradients by the scale of torch.amp.GradScaler. This saves a pass over memory, but
            gradients stay scaled until step(). float16 parameters and the options from clip_norm to zero_grads imply it. Default: None.
        state_dtype: type of the state. None: float32. torch.bfloat16 or "bfloat16": half that memory. "mxfp8": momenta take a quarter of
            it, with one scale for up to 32 elements of a row, and averages of squares are bfloat16. float64 and complex parameters always
            have state of their own type. Default: None.
        master_weights: keep exact float32 masters of bfloat16 parameters, with 2 bytes of state per element, instead of rounding
            the parameters stochastically. float16 parameters always have masters. Default: False.
        seed: seed of stochastic rounding, any integer. Default: 0.
        clip_norm: bound on the Euclidean norm of all gradients together, > 0; infinity only measures the norm. After a step, the attribute
            grad_norm has the norm. This option and the next four are also attributes, which may change between steps. Default: None.
        clip_value: bound on the absolute value of each element of the gradients, > 0, applied after clip_norm. Default: None.
        skip_non_finite: skip the step if a gradient has a NaN or an infinity: parameters and state stay as they are, and the attribute
            skipped is True. Default: False.
        zero_grads: set the gradients to zero in the step, even if it is skipped. Default: False.
        process_group: process group whose ranks share the parameters, as with ZeroRedundancyOptimizer: clip_norm, skip_non_finite and the
            gradient noise of PNM and AdaPNM then cover all its ranks, and all of them must step. DTensors need no group. Default: None.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = posneg.AdamW([w], lr=0.1, weight_decay=0.5)
        >>> w.square().sum().backward()
        >>> optimizer.step()
        >>> w
        Parameter containing:
        tensor([0.8500], requires_grad=True)
    """

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
        process_group: Optional[ProcessGroup] = None,
    ):
        super().__init__(
            params, lr, betas, eps, weight_decay, amsgrad,
            maximize=maximize, capturable=capturable, differentiable=differentiable, decoupled_weight_decay=True,
            fused=fused, state_dtype=state_dtype, master_weights=master_weights, seed=seed,
            clip_norm=clip_norm, clip_value=clip_value, skip_non_finite=skip_non_finite, zero_grads=zero_grads, process_group=process_group,
        )

    def _check(self, group: Group) -> None:
        super()._check(group)
        if not group["decoupled_weight_decay"]:
            raise ValueError("Invalid decoupled_weight_decay: False; use posneg.Adam for coupled weight decay")

    def __setstate__(self, state: Dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group["decoupled_weight_decay"] = True  # torch 1 has not saved this option, or has saved Adam's


class Lion(Optimizer):
    """Lion (Chen and others, Symbolic Discovery of Optimization Algorithms, NeurIPS 2023, arXiv 2302.06675).

    A step moves each parameter by lr. The authors divide AdamW's lr by 3 to 10, and multiply its weight_decay by the same factor. Step t
    of a parameter p with gradient g::

        if maximize: g = -g
        if not decoupled: g = g + weight_decay * p
        u = sign(beta1 * m + (1 - beta1) * g)
        if decoupled: p = (1 - lr * weight_decay) * p
        p = p - lr * u
        m = beta2 * m + (1 - beta2) * g

    The sign of a NaN is NaN, whereas torch.sign gives 0. The state of a parameter: step, exp_avg (m).

    Args:
        params: parameters, (name, parameter) pairs such as model.named_parameters(), or dicts that define groups.
        lr: learning rate, finite and >= 0: a float, or a tensor with one element. Default: 1e-4.
        betas: beta1, the weight of the momentum in the step, and beta2, the decay of the momentum, both in [0, 1) and not both 0.
            Default: (0.9, 0.99).
        weight_decay: finite and >= 0. Default: 0.0.
        decoupled: multiply parameters by 1 - lr * weight_decay, instead of adding weight_decay * p to gradients (L2). Default: True.
        maximize: ascend instead of descend. Default: False.
        fused: if True, step() itself divides the gradients by the scale of torch.amp.GradScaler. This saves a pass over memory, but
            gradients stay scaled until step(). float16 parameters and the options from clip_norm to zero_grads imply it. Default: None.
        state_dtype: type of the state. None: float32. torch.bfloat16 or "bfloat16": half that memory. "mxfp8": momenta take a quarter of
            it, with one scale for up to 32 elements of a row, and averages of squares are bfloat16. float64 and complex parameters always
            have state of their own type. Default: None.
        master_weights: keep exact float32 masters of bfloat16 parameters, with 2 bytes of state per element, instead of rounding
            the parameters stochastically. float16 parameters always have masters. Default: False.
        seed: seed of stochastic rounding, any integer. Default: 0.
        clip_norm: bound on the Euclidean norm of all gradients together, > 0; infinity only measures the norm. After a step, the attribute
            grad_norm has the norm. This option and the next four are also attributes, which may change between steps. Default: None.
        clip_value: bound on the absolute value of each element of the gradients, > 0, applied after clip_norm. Default: None.
        skip_non_finite: skip the step if a gradient has a NaN or an infinity: parameters and state stay as they are, and the attribute
            skipped is True. Default: False.
        zero_grads: set the gradients to zero in the step, even if it is skipped. Default: False.
        process_group: process group whose ranks share the parameters, as with ZeroRedundancyOptimizer: clip_norm, skip_non_finite and the
            gradient noise of PNM and AdaPNM then cover all its ranks, and all of them must step. DTensors need no group. Default: None.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = posneg.Lion([w], lr=0.1)
        >>> w.square().sum().backward()
        >>> optimizer.step()
        >>> w
        Parameter containing:
        tensor([0.9000], requires_grad=True)
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
        process_group: Optional[ProcessGroup] = None,
    ):
        super().__init__(
            params,
            dict(
                lr=lr, betas=betas, weight_decay=weight_decay, decoupled=decoupled, maximize=maximize,
                fused=fused, state_dtype=state_dtype, master_weights=master_weights, seed=seed,
            ),
            clip_norm=clip_norm, clip_value=clip_value, skip_non_finite=skip_non_finite, zero_grads=zero_grads, process_group=process_group,
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
            raise ValueError(f"Invalid {name}: True needs a step of torch operations: use torch.optim for that")
