"""Steps in backward passes: each parameter is updated as soon as its gradient is complete, and the gradient is freed."""

from __future__ import annotations

import contextlib
import sys
import weakref
from functools import partial
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Tuple, Union

import torch
from torch import Tensor

from ._cache import Plans
from ._optimizer import Optimizer, forget_scaler, untraced
from ._options import Around
from ._placements import is_cut, processes
from ._plan import part_of
from ._rounding import draws, param_names, rounding
from ._takers import give_back, take, takes
from ._threads import get_num_threads

BATCH = 1 << 20  # bytes of parameters per call: small parameters wait for more, since Python takes longer than their update


def step_in_backward(model_or_params: Union[torch.nn.Module, Iterable[Tensor]], optimizer: Optimizer) -> StepInBackward:
    """Updates each parameter inside backward(), as soon as its gradient is complete, and frees the gradient.

    The gradients are never in memory all at once. The results are bit-identical to those of a step after backward(). Keep calling
    optimizer.step(): it runs the closure, counts for schedulers, and updates parameters without hooks.

    Every backward pass is a step, except within `with handle.accumulate():`, where backward passes only add to the gradients. clip_value
    works. clip_norm and skip_non_finite raise an error, since they need all gradients before the first update. create_graph=True,
    torch.amp.GradScaler and DistributedDataParallel (which averages gradients later) raise an error, too. FSDP2 averages gradients before
    the hooks, and works.

    Needs torch 2.1 or later.

    Args:
        model_or_params: the model, or some of its parameters. If the optimizer does not have a parameter of the model, that parameter gets
            no hook.
        optimizer: an optimizer of this package.

    Returns:
        a handle with accumulate() and remove(). The hooks work until remove(), or until neither the optimizer nor the
        handle exists any more. During that time, hooks of another optimizer on the same parameters raise an error.

    >>> model = torch.nn.Linear(3, 1)
    >>> optimizer = posneg.AdamW(model.parameters())
    >>> handle = posneg.step_in_backward(model, optimizer)
    >>> model(torch.ones(2, 3)).sum().backward()
    >>> model.weight.grad is None, optimizer.state[model.weight]["step"].item()
    (True, 1.0)
    """
    return StepInBackward(model_or_params, optimizer)


class StepInBackward:
    """The handle that step_in_backward returns. It keeps the optimizer alive, which keeps its hooks."""

    def __init__(self, model_or_params: Union[torch.nn.Module, Iterable[Tensor]], optimizer: Optimizer):
        if not hasattr(Tensor, "register_post_accumulate_grad_hook"):
            raise RuntimeError(f"posneg: step_in_backward needs torch 2.1 or newer, this is {torch.__version__}")
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"posneg: step_in_backward needs an optimizer such as posneg.AdamW, not {type(optimizer).__name__}")
        if optimizer._in_backward is not None:
            raise RuntimeError("posneg: this optimizer already steps in backward passes; call remove() of its handle first")
        self._optimizer = optimizer
        self._hooks = optimizer._in_backward = _Hooks(model_or_params, optimizer)

    def remove(self) -> None:
        """Removes the hooks: optimizer.step() updates all parameters again."""
        self._hooks.remove()
        if self._optimizer._in_backward is self._hooks:
            self._optimizer._in_backward = None

    @contextlib.contextmanager
    def accumulate(self) -> Iterator[None]:
        """A context in which backward passes only add to the gradients. The next backward pass outside, or optimizer.step(), steps."""
        self._hooks.held += 1
        try:
            yield
        finally:
            self._hooks.held -= 1


class _Hooks:
    """The hooks of an optimizer's parameters. The optimizer refers to them, but they do not keep it alive."""

    def __init__(self, model_or_params: Union[torch.nn.Module, Iterable[Tensor]], optimizer: Optimizer):
        self._of = weakref.ref(optimizer)
        self.held = 0  # the number of active accumulate() contexts
        self._begun: Any = None  # the optimizer's state after its parameters have been numbered
        self._waiting: Dict[int, List[Tensor]] = {}  # by backward pass, parameters whose gradient is complete
        self.updated: Dict[int, Tensor] = {}  # by id, the parameters that backward passes have updated since the last call of step()
        self._rest = Plans()
        self._places: Dict[int, Tuple[int, int]] = {}
        self._params = self._params_of(model_or_params)
        self._distributed = any(map(is_cut, self._params()))
        self._check_options()
        self._handles: List[Any] = []
        self._hook()
        self._handles.append(optimizer.register_step_pre_hook(self._before_step))
        self._handles.append(optimizer.register_step_post_hook(self._after_step))

    def _hook(self) -> None:
        """Hooks new parameters: between steps, parameters may be added, or begin to require gradients."""
        new: List[Any] = [p for p in self._params() if p.requires_grad and not takes(self, p)]
        take(new, self)
        self._handles += [p.register_post_accumulate_grad_hook(partial(_hook, weakref.ref(self), Plans(most=2))) for p in new]

    @property
    def _optimizer(self) -> Optimizer:
        optimizer = self._of()
        assert optimizer is not None
        return optimizer

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        give_back(self)

    def _params_of(self, model_or_params: Union[torch.nn.Module, Iterable[Tensor]]) -> Callable[[], List[Tensor]]:
        """A function that returns the parameters to hook, without keeping them alive."""
        if isinstance(model_or_params, torch.nn.Module):
            wrappers = [m for m in model_or_params.modules() if "DistributedDataParallel" in (c.__name__ for c in type(m).__mro__)]
            if wrappers:
                raise RuntimeError(_NOT_AVERAGED)
            model = weakref.ref(model_or_params)
            if not any(self._place(p) for p in model_or_params.parameters()):
                raise ValueError("posneg: step_in_backward: the optimizer has none of the model's parameters")
            return lambda: [p for p in getattr(model(), "parameters", tuple)() if self._place(p)]
        params = list(model_or_params)
        for i, p in enumerate(params):
            if not isinstance(p, Tensor):
                raise TypeError(f"posneg: step_in_backward: number {i} of the parameters is a {type(p).__name__}")
            if not self._place(p):
                raise ValueError(f"posneg: step_in_backward: the optimizer does not have parameter {i}, of shape {tuple(p.shape)}")
        references = [weakref.ref(p) for p in {id(p): p for p in params}.values()]
        return lambda: [p for p in (r() for r in references) if p is not None]

    def _place(self, p: Tensor) -> Optional[Tuple[int, int]]:
        """The number of a parameter's group, and the parameter's number in it."""
        groups = self._optimizer.param_groups
        for known in (self._places, None):
            if known is None:
                self._places = known = {id(q): (g, i) for g, group in enumerate(groups) for i, q in enumerate(group["params"])}
            g, i = known.get(id(p), (0, -1))
            if 0 <= i and g < len(groups) and i < len(groups[g]["params"]) and groups[g]["params"][i] is p:
                return g, i
        return None

    def _check_options(self) -> None:
        if self._optimizer._around.measures:
            name = "skip_non_finite" if self._optimizer.clip_norm is None else "clip_norm"
            raise RuntimeError(
                f"posneg: {name} needs all gradients before the first update, which step_in_backward cannot provide; "
                f"use clip_value instead, or call step() after backward()"
            )

    def update(self, plans: Plans, p: Tensor) -> None:
        """Updates a parameter whose gradient is complete, or lets it wait for others if it is small."""
        if self.held or p.grad is None or self._place(p) is None:
            return
        self._check_options()
        if torch.is_grad_enabled():
            raise RuntimeError("posneg: step_in_backward frees gradients, which backward(create_graph=True) still needs")
        if self._optimizer.state is not self._begun:
            self._begin()
        task = -1 if _compiled() else torch._C._current_graph_task_id()  # of the backward pass; -1 if its end cannot be awaited
        waiting = self._waiting.get(task)
        if waiting is None:
            waiting = self._waiting[task] = []
            if task >= 0:
                torch.autograd.Variable._execution_engine.queue_callback(partial(_at_end, self, task))
        waiting.append(p)
        if task < 0 or sum(q.numel() * q.element_size() for q in waiting) >= BATCH:
            self._waiting[task] = []
            self._step(plans, waiting)

    def finish(self, task: int) -> None:
        """Updates the parameters that still wait at the end of a backward pass."""
        self._step(self._rest, self._waiting.pop(task, []))

    def _step(self, plans: Plans, params: List[Tensor]) -> None:
        optimizer = self._optimizer
        optimizer._check_loaded()
        places = [self._place(p) for p in params if p.grad is not None]
        groups = [part_of(optimizer.param_groups, g, i, i + 1) for g, i in filter(None, places)]
        if groups:
            plan, now = plans.find(groups, {g["params"][0]: optimizer.state[g["params"][0]] for g in groups}, optimizer._slots)
            around = Around()
            around.set(clip_value=optimizer.clip_value)
            plan.step(now, groups, map(optimizer._rule, groups), 1.0, get_num_threads(), around, skip=False)
            for g in groups:
                p = g["params"][0]
                p.grad, self.updated[id(p)] = None, p

    def _before_step(self, optimizer: Any, *_: Any) -> None:
        self._waiting.clear()  # of backward passes that an exception has ended
        if getattr(optimizer, "found_inf", None) is not None:  # which GradScaler sets
            forget_scaler(optimizer)
            raise RuntimeError(
                "posneg: step_in_backward has updated the parameters with the scaled gradients of a GradScaler; "
                "train in bfloat16, which needs no scaler, or do not use step_in_backward"
            )

        self._hook()

    def _after_step(self, *_: Any) -> None:
        """Frees the gradients that step() itself has used, such as those of new parameters."""
        self.updated.clear()
        for p in self._params():
            p.grad = None

    def _begin(self) -> None:
        """Numbers all parameters that draw random numbers, in the optimizer's order, which a backward pass reverses."""
        if not self._distributed and processes() > 1:
            raise RuntimeError(_NOT_AVERAGED)
        optimizer = self._optimizer
        for group in optimizer.param_groups:
            slots = optimizer._slots(group)
            for p, name in zip(group["params"], param_names(group)):
                if p.requires_grad and draws(p, slots, group):
                    rounding(p, dict(optimizer.state.get(p, {})), slots, group, name)  # the parameter keeps this number
        self._begun = optimizer.state


@untraced
@torch.no_grad()
def _at_end(hooks: _Hooks, task: int) -> None:
    hooks.finish(task)


@untraced
def _hook(of: Callable[[], Optional[_Hooks]], plans: Plans, p: Tensor) -> None:
    """A parameter's hook. It must not keep the optimizer alive, which has the parameter: the garbage collector does not see hooks."""
    hooks = of()
    if hooks is not None:
        hooks.update(plans, p)


_NOT_AVERAGED = (
    "posneg: step_in_backward would update parameters before DistributedDataParallel or FSDP1 averages their gradients over the processes; "
    "use FSDP2, which averages them first"
)


def _compiled() -> bool:
    """Whether torch.compile has compiled the backward pass, which then drops callbacks at its end."""
    return bool(getattr(sys.modules.get("torch._dynamo.compiled_autograd"), "in_compiled_autograd_region", False))
