"""The step in the backward pass: each parameter is updated as soon as its gradient is complete, and the gradient is freed."""

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

BATCH = 1 << 20  # bytes of parameters: smaller ones wait for each other, for Python takes longer than their update


def step_in_backward(model_or_params: Union[torch.nn.Module, Iterable[Tensor]], optimizer: Optimizer) -> StepInBackward:
    """Updates each parameter inside backward(), as soon as its gradient is complete, and frees the gradient.

    The gradients never take memory all at once. Results are bit-identical to those of a step after backward(). Keep calling
    optimizer.step(): it runs the closure, counts for schedulers, and updates parameters without hooks.

    Every backward pass is a step, except within `with handle.accumulate():`, where passes only add to the gradients. clip_value works.
    clip_norm and skip_non_finite raise an error, since they need all gradients before the first update. So do create_graph=True,
    torch.amp.GradScaler, and DistributedDataParallel, which averages gradients later. FSDP2 averages them before the hooks, and works.

    Needs torch 2.1.

    Args:
        model_or_params: the model, or some of its parameters. Those of a model that the optimizer does not have get no hooks.
        optimizer: one of this package.

    Returns:
        a handle, with accumulate() and remove(). The hooks act while the optimizer or the handle exists, until remove(). Meanwhile,
        hooks of another optimizer on the same parameters are refused.

    >>> model = torch.nn.Linear(3, 1)
    >>> optimizer = posneg.AdamW(model.parameters())
    >>> handle = posneg.step_in_backward(model, optimizer)
    >>> model(torch.ones(2, 3)).sum().backward()
    >>> model.weight.grad is None, optimizer.state[model.weight]["step"].item()
    (True, 1.0)
    """
    return StepInBackward(model_or_params, optimizer)


class StepInBackward:
    """What step_in_backward returns: it holds the optimizer, which holds its hooks."""

    def __init__(self, model_or_params: Union[torch.nn.Module, Iterable[Tensor]], optimizer: Optimizer):
        if not hasattr(Tensor, "register_post_accumulate_grad_hook"):
            raise RuntimeError(f"posneg: step_in_backward needs torch 2.1 or newer, this is {torch.__version__}")
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"posneg: step_in_backward needs an optimizer such as posneg.AdamW, not {type(optimizer).__name__}")
        if optimizer._in_backward is not None:
            raise RuntimeError("posneg: this optimizer steps in backward passes already; call remove() of the handle first")
        self._optimizer = optimizer
        self._hooks = optimizer._in_backward = _Hooks(model_or_params, optimizer)

    def remove(self) -> None:
        """Takes the hooks away: optimizer.step() updates all parameters again."""
        self._hooks.remove()
        if self._optimizer._in_backward is self._hooks:
            self._optimizer._in_backward = None

    @contextlib.contextmanager
    def accumulate(self) -> Iterator[None]:
        """Backward passes within only add to the gradients; the next one without, or optimizer.step(), is the step."""
        self._hooks.held += 1
        try:
            yield
        finally:
            self._hooks.held -= 1


class _Hooks:
    """The hooks of an optimizer's parameters. The optimizer holds them, and they do not hold it: both go when nobody needs them."""

    def __init__(self, model_or_params: Union[torch.nn.Module, Iterable[Tensor]], optimizer: Optimizer):
        self._of = weakref.ref(optimizer)
        self.held = 0  # by how many accumulate()
        self._begun: Any = None  # the optimizer's state, once parameters have been numbered in it
        self._waiting: Dict[int, List[Tensor]] = {}  # by backward pass, parameters whose gradient is complete
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
        """Hooks parameters that are not yet: others may come to require gradients, or into the optimizer, between steps."""
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
        """What gives the parameters in question, of which it holds none."""
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
                raise ValueError(f"posneg: step_in_backward: parameter {i}, of shape {tuple(p.shape)}, is not one of the optimizer's")
        references = [weakref.ref(p) for p in {id(p): p for p in params}.values()]
        return lambda: [p for p in (r() for r in references) if p is not None]

    def _place(self, p: Tensor) -> Optional[Tuple[int, int]]:
        """The number of a parameter's group, and the parameter's in it."""
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
                f"use clip_value, or do without step_in_backward"
            )

    def update(self, plans: Plans, p: Tensor) -> None:
        """Updates a parameter whose gradient is complete, or has it wait for others that are small."""
        if self.held or p.grad is None or self._place(p) is None:
            return
        self._check_options()
        if torch.is_grad_enabled():
            raise RuntimeError("posneg: step_in_backward frees gradients, which backward(create_graph=True) still needs")
        if self._optimizer.state is not self._begun:
            self._begin()
        task = -1 if _compiled() else torch._C._current_graph_task_id()  # of the backward pass, where it has an end that can be awaited
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
        """Updates what is left when a backward pass ends."""
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
                g["params"][0].grad = None

    def _before_step(self, optimizer: Any, *_: Any) -> None:
        self._waiting.clear()  # of passes that an exception has ended
        if getattr(optimizer, "found_inf", None) is not None:  # which GradScaler sets
            forget_scaler(optimizer)
            raise RuntimeError(
                "posneg: a GradScaler was used with step_in_backward, which has updated the parameters with gradients that were scaled; "
                "train in bfloat16, which needs no scaler, or do without step_in_backward"
            )

        self._hook()

    def _after_step(self, *_: Any) -> None:
        """Frees the gradients that the step itself has used, as of parameters that have just been hooked."""
        for p in self._params():
            p.grad = None

    def _begin(self) -> None:
        """Numbers all parameters that draw random numbers, in their order, which a backward pass reverses."""
        if not self._distributed and processes() > 1:
            raise RuntimeError(_NOT_AVERAGED)
        optimizer = self._optimizer
        for group in optimizer.param_groups:
            slots = optimizer._slots(group)
            for p, name in zip(group["params"], param_names(group)):
                if p.requires_grad and draws(p, slots, group):
                    rounding(p, dict(optimizer.state.get(p, {})), slots, group, name)  # which the parameter keeps from then on
        self._begun = optimizer.state


@untraced
@torch.no_grad()
def _at_end(hooks: _Hooks, task: int) -> None:
    hooks.finish(task)


@untraced
def _hook(of: Callable[[], Optional[_Hooks]], plans: Plans, p: Tensor) -> None:
    """A parameter's. It must not hold the optimizer, which holds the parameter: torch's hooks are hidden from the garbage collector."""
    hooks = of()
    if hooks is not None:
        hooks.update(plans, p)


_NOT_AVERAGED = (
    "posneg: step_in_backward would update before gradients are averaged over the processes, as DistributedDataParallel and FSDP1 do "
    "later; use FSDP2, which averages them first"
)


def _compiled() -> bool:
    """Whether torch.compile has made the backward pass, which then forgets what is to be done at its end."""
    return bool(getattr(sys.modules.get("torch._dynamo.compiled_autograd"), "in_compiled_autograd_region", False))
