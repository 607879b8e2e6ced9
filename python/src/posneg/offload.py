"""Optimizers in the host's memory for models on an accelerator.

Gradients are copied to the host while backward produces them, on their own stream. A step updates copies of the parameters on the host,
which are copied back on another stream. This module knows no update rules: an optimizer of this package steps the copies.
"""

from __future__ import annotations

import weakref
from functools import partial
from operator import index
from typing import Any, Callable, Dict, Iterator, List, MutableMapping, Optional, Sequence, Type, TypeVar

import torch
from torch import Tensor

from ._buckets import Bucket, cut, update
from ._contents import Names, fingerprint
from ._copies import Copy, Lanes, check_param, furnish, look, said
from ._fingerprint import Fingerprint
from ._layout import to_zero
from ._noise import Noise
from ._optimizer import Optimizer, Params, add_group, run_step, untraced
from ._options import Kept, StepOptions
from ._placements import processes
from ._plan import Group, all_params, check_gradient, check_overlap, owner
from ._takers import take
from .optimizers import AdamW

_HAS_HOOKS = hasattr(Tensor, "register_post_accumulate_grad_hook")  # since torch 2.1
_MOST_FLYING = 256 << 20  # bytes of gradients being copied before they are freed; beyond these backward waits

_R = TypeVar("_R")


class Offload(StepOptions, torch.optim.Optimizer):
    """An optimizer on the host for parameters on an accelerator. State, masters and arithmetic are on the host.

    >>> optimizer = posneg.offload.Offload(model.parameters(), posneg.AdaPNM, lr=1e-3, clip_norm=1.0)

    Use it like optimizer_class: param_groups have the model's parameters, state dicts and checkpoints are those of optimizer_class, and
    a step gives bit-identical results to a step of optimizer_class on the host.

    Args:
        params: parameters, or groups of them: plain tensors on any devices. Move the model to its devices, and convert its types, before
            you make the optimizer.
        optimizer_class: a class of this package.
        buckets: the number of parts, of about equal size in bytes, in which parameters are updated. The step begins with the last part, and
            copies each part back while it updates the next one. None: one per 64 MiB of parameters, at most 8; this has not been measured
            on a GPU. Results do not depend on the number.
        overlap: copy each gradient as soon as backward produces it, instead of in step(). None: True, unless torch.distributed has
            several processes, where gradients may change later. fused=False implies False. The attribute overlap may be set at any time: if
            a step takes several backward passes, set it to False before all but the last one to save copies.
        free_gradients: free each gradient on the device once it is copied. Several backward passes then add up on the host, until step()
            or this optimizer's zero_grad(). Code that reads p.grad between backward and step, such as torch's clip_grad_norm_, finds
            None: use clip_norm. A step under torch.amp.GradScaler raises an error.
        options: the options of optimizer_class; master_weights is True by default. With fused=False, torch.amp.GradScaler divides the
            gradients before the step, which Lightning's gradient_clip_val needs in mixed precision, and step() copies all gradients.
            clip_norm does not need fused=False.
    """

    _inner: Any = None  # the optimizer of the copies, made with the first group

    def __init__(
        self,
        params: Params,
        optimizer_class: Type[Optimizer] = AdamW,
        *,
        buckets: Optional[int] = None,
        overlap: Optional[bool] = None,
        free_gradients: bool = False,
        **options: Any,
    ):
        if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, Optimizer)):
            raise TypeError(f"Invalid optimizer_class: {optimizer_class!r}, must be a class of posneg such as posneg.AdamW")
        if buckets is not None and not (hasattr(buckets, "__index__") and index(buckets) >= 1):
            raise ValueError(f"Invalid buckets: {buckets!r}, must be an integer >= 1, or None")
        if overlap not in (None, True, False):
            raise ValueError(f"Invalid overlap: {overlap!r}, must be True, False or None")
        if free_gradients and not _HAS_HOOKS:
            raise RuntimeError(f"posneg: free_gradients needs torch 2.1 or later, this is {torch.__version__}")
        self.overlap = overlap
        self._made_with = {**options, "optimizer_class": optimizer_class, "buckets": buckets, "free_gradients": free_gradients}
        self._made_with.pop("process_group", None)  # cannot be pickled
        self._make: Callable[..., Optimizer] = partial(optimizer_class, **{"master_weights": True, **options})
        self._buckets, self._frees = buckets, free_gradients
        self._copies: List[Copy] = []
        self._lanes: Dict[torch.device, Lanes] = {}
        self._hooks: List[Any] = []
        self._cut: List[Bucket] = []
        weakref.finalize(self, _remove, self._hooks)
        super().__init__(params, {})  # type: ignore[arg-type]  # numbers for names
        self.defaults = self._inner.defaults
        self._around = self._inner._around  # shared, as the options of groups cannot be

    @property  # type: ignore[override]  # torch has a dict
    def state(self) -> MutableMapping[Tensor, Dict[str, Any]]:
        """The state of the model's parameters, on the host."""
        return _States(self._copies, self._inner)

    @state.setter
    def state(self, new: MutableMapping[Tensor, Dict[str, Any]]) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        _States(self._copies, self._inner).become(new)

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether GradScaler tells the step if it has divided the gradients: unscale_() leaves no other trace."""
        if not _HAS_HOOKS or any(group.get("fused") is False for group in self.param_groups):
            return bool(self._inner._step_supports_amp_scaling)
        return True

    def add_param_group(self, param_group: Group) -> None:
        add_group(self, param_group, self._copy)
        self._cut = cut(self._copies, self.param_groups, self._buckets)
        self._take_options()
        self._hook()

    def _copy(self, group: Group) -> None:
        """Makes copies of a group's parameters, and adds them to the inner optimizer."""
        first = len(self._copies)
        for i, p in enumerate(group["params"], first):
            check_param(p, owner(self.param_groups, i))
        check_overlap(self.param_groups, range(first + len(group["params"])))
        if self._frees:
            take(group["params"], self)
        copies = [Copy(p, self._lanes_of(p.device)) for p in group["params"]]
        furnish([copy for copy in copies if copy.param.requires_grad])
        copied = {**group, "params": [copy.host for copy in copies]}
        if self._inner is None:
            self._inner = self._make([copied])
        else:
            self._inner.add_param_group(copied)
        self._copies += copies

    def _lanes_of(self, device: torch.device) -> Lanes:
        if device not in self._lanes:
            self._lanes[device] = Lanes(device)
        return self._lanes[device]

    def _hook(self) -> None:
        """Has backward call _arrived when a gradient is complete."""
        if not _HAS_HOOKS:
            return
        me = weakref.ref(self)  # the model must not keep its optimizers alive
        for copy in self._copies:
            if not copy.hooked and copy.param.requires_grad:
                copy.hooked = True
                p: Any = copy.param
                self._hooks.append(p.register_post_accumulate_grad_hook(partial(_arrived, me, weakref.ref(copy))))

    def _overlaps(self) -> bool:
        if not self._step_supports_amp_scaling:  # a GradScaler may divide gradients, and leave no trace
            return False
        return processes() == 1 if self.overlap is None else self.overlap

    def _arrived(self, copy: Copy) -> None:
        g = copy.param.grad
        if g is None or not copy.fits() or not self._overlaps():
            return
        try:
            check_gradient(g, copy.param)
        except (ValueError, TypeError, RuntimeError):
            return  # the step reports it
        with torch.no_grad():
            self._bring(copy, g)
            copy.lanes.land(_MOST_FLYING if self._frees else None)

    def _bring(self, copy: Copy, g: Tensor) -> None:
        if self._frees:
            copy.take(g)
            copy.param.grad = None
        else:
            copy.bring(g)

    @untraced
    @torch.no_grad()
    def step(self, closure: Optional[Callable[[], Any]] = None) -> Any:
        """Performs a step. closure, if given, computes the loss and the gradients again; step returns its result.

        step returns when the parameters are updated on the host. Work queued on the current stream after that uses the new parameters.
        """
        return run_step(self, closure, self._step)

    def _step(self, scale: Optional[Tensor], found_inf: Optional[Tensor]) -> None:
        """Performs a step; scale and found_inf come from a GradScaler."""
        if found_inf is not None and self._frees:
            raise RuntimeError(
                "posneg: a GradScaler looks for infinities in p.grad, which free_gradients=True has freed; "
                "set free_gradients=False, or train in bfloat16, which needs no scaler"
            )
        found, around = found_inf is not None and bool(float(found_inf)), self._around
        around.begin(found)
        self._check_params()
        self._settle()
        due = not found or around.measures
        if due:
            self._collect(found_inf is not None and scale is None)
        params = all_params(self.param_groups) if self.zero_grads else ()
        zeroed = to_zero(p.grad for p in params if p.grad is not None)
        if due:
            self._update(1.0 if scale is None else float(scale), found)
        if around.reading:
            of = [i for i, copy in enumerate(self._copies) if copy.host.grad is not None and not around.skipped]
            self._inner._read_noise(self._inner._sums(of))
        around.end()
        self._drop()
        for g in zeroed:
            g.zero_()

    def _check_params(self) -> None:
        if list(map(id, all_params(self.param_groups))) != [id(copy.param) for copy in self._copies]:
            raise RuntimeError("posneg: the parameters of a group were replaced; pass new parameters to add_param_group()")
        for i, copy in enumerate(self._copies):
            if not copy.fits():
                raise RuntimeError(
                    f"posneg: {owner(self.param_groups, i)} was {said(copy.look)} when the optimizer was made and is "
                    f"{said(look(copy.param))} now: give the model its device and type before you make the optimizer"
                )

    def _collect(self, divided: bool) -> None:
        """Determines which copies have a gradient, and copies those that hooks have not copied, or that have changed since."""
        missing = []
        for copy in self._copies:
            g = copy.param.grad
            if g is not None and (divided or not copy.has(g)):
                check_gradient(g, copy.param)
                missing.append((copy, g))
        self._hook()
        furnish([copy for copy, _ in missing])
        for copy, g in reversed(missing):  # in the order in which the step waits for them
            self._bring(copy, g)
        for copy in self._copies:
            copy.set_gradient(copy.pending if self._frees else copy.param.grad is not None)

    def _update(self, scale: float, skip: bool) -> None:
        """Updates the copies that have a gradient, and sends them back. After an error, none is updated."""
        inner = self._inner
        inner._check_loaded()
        self._hand_on_options()
        for group in inner.param_groups:
            inner._check(group)
        for copy in self._copies:
            if copy.host.grad is not None:
                copy.follow()
        try:
            update(self._cut, inner, scale, self._around, skip, _send)
        finally:
            self._send()

    def _send(self) -> None:
        """Sends updated copies to the devices."""
        _send(self._copies)
        for lanes in self._lanes.values():
            lanes.see()

    def _settle(self) -> None:
        """Waits until all updated copies are on the devices, and no transfer uses the host's copies."""
        self._send()
        for lanes in self._lanes.values():
            lanes.settle()

    def _drop(self) -> None:
        """Drops gradients that only the host has."""
        if self._frees:
            for copy in self._copies:
                copy.lanes.land_of(copy)
                copy.pending = False

    def zero_grad(self, *arguments: Any, **named: Any) -> None:
        super().zero_grad(*arguments, **named)
        self._drop()

    def noise_scale(self) -> Noise:
        """Reads the gradient noise now, as the method of optimizer_class does."""
        noise: Noise = self._inner.noise_scale()
        return noise

    def _hand_on_options(self) -> None:
        """Copies the options of the groups to the inner optimizer."""
        for group, inner in zip(self.param_groups, self._inner.param_groups):
            inner.update((name, value) for name, value in group.items() if name != "params")

    def _take_options(self) -> None:
        """Copies the options of the inner optimizer to the groups."""
        for group, inner in zip(self.param_groups, self._inner.param_groups):
            params = group["params"]
            group.clear()
            group.update(inner, params=params)

    def state_dict(self) -> Dict[str, Any]:
        """Returns a state dict of optimizer_class."""
        for hook in _hooks(self, "_optimizer_state_dict_pre_hooks"):
            hook(self)
        self._hand_on_options()
        saved: Dict[str, Any] = self._inner.state_dict()
        for hook in _hooks(self, "_optimizer_state_dict_post_hooks"):
            changed = hook(self, saved)
            saved = saved if changed is None else changed
        return saved

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        """Loads any state dict that optimizer_class loads."""
        for hook in _hooks(self, "_optimizer_load_state_dict_pre_hooks"):
            changed = hook(self, state_dict)
            state_dict = state_dict if changed is None else changed
        self._hand_on_options()
        self._inner.load_state_dict(state_dict)
        self._take_options()
        for hook in _hooks(self, "_optimizer_load_state_dict_post_hooks"):
            hook(self)

    @torch.no_grad()
    def on_host(self, call: Callable[[Optimizer, Names], _R], names: Names, loads: bool) -> _R:
        """Calls a function that saves or loads, with the inner optimizer and the names of the model's parameters."""
        self._check_params()
        self._settle()
        self._hand_on_options()
        for copy in self._copies:
            copy.follow()
        host = {id(copy.param): copy.host for copy in self._copies}
        try:
            done = call(self._inner, names and [(name, host.get(id(p), p)) for name, p in names])
            for copy in self._copies if loads else ():
                copy.stale = True
            self._send()
            self._settle()
        finally:
            for copy in self._copies:
                copy.forget()
        self._take_options()
        return done

    def fingerprint(self, names: Names = None) -> Fingerprint:
        """Returns 128 bits that identify parameters, state and step counts: those of optimizer_class with the same run on the host."""
        return self.on_host(fingerprint, names, loads=False)

    def __getstate__(self) -> Dict[str, Any]:
        if any(copy.pending for copy in self._copies):
            raise RuntimeError("posneg: an optimizer with gradients on the host cannot be copied: call step() or zero_grad() first")
        groups = [{name: group[name] for name in ("params", "param_names") if name in group} for group in self.param_groups]
        return {
            "made_with": self._made_with, "overlap": self.overlap, "groups": groups, "state_dict": self.state_dict(),
            "process_group": Kept(self.process_group),
        }

    def __setstate__(self, state: Dict[str, Any]) -> None:
        Offload.__init__(self, state["groups"], overlap=state["overlap"], **state["made_with"])
        self.load_state_dict(state["state_dict"])
        self.process_group = state["process_group"].group


class _States(MutableMapping[Tensor, Dict[str, Any]]):
    """The states of the copies, by the model's parameters."""

    def __init__(self, copies: Sequence[Copy], inner: Any):
        self._host = {id(copy.param): copy.host for copy in copies}
        self._params = {copy.host: copy.param for copy in copies}
        self._state = inner.state if inner is not None else {}

    def become(self, new: MutableMapping[Tensor, Dict[str, Any]]) -> None:
        self.clear()
        self.update(new)

    def __getitem__(self, p: Tensor) -> Dict[str, Any]:
        state: Dict[str, Any] = self._state[self._host[id(p)]]
        return state

    def get(self, p: Any, default: Any = None) -> Any:
        return self[p] if p in self else default  # not that of Mapping: getting an item makes it, as in torch

    def __setitem__(self, p: Tensor, state: Dict[str, Any]) -> None:
        """Sets a state, and moves it to the host: Lightning moves all state to the parameter's device."""
        self._state[self._host[id(p)]] = {name: v.cpu() if isinstance(v, Tensor) else v for name, v in state.items()}

    def __delitem__(self, p: Tensor) -> None:
        del self._state[self._host[id(p)]]

    def __contains__(self, p: object) -> bool:
        return self._host.get(id(p)) in self._state

    def __iter__(self) -> Iterator[Tensor]:
        return iter([self._params[host] for host in self._state])

    def __len__(self) -> int:
        return len(self._state)


def _arrived(optimizer: Callable[[], Optional[Offload]], copy: Callable[[], Optional[Copy]], _: Tensor) -> None:
    """The hook of a parameter. It keeps neither optimizer nor copy alive."""
    me, its = optimizer(), copy()
    if me is not None and its is not None:
        me._arrived(its)


def _send(copies: Sequence[Copy]) -> None:
    for copy in copies:
        if copy.stale:
            copy.send()


def _remove(hooks: List[Any]) -> None:
    for hook in hooks:
        hook.remove()


def _hooks(optimizer: Offload, kind: str) -> List[Any]:
    """The hooks that a user has registered. Old versions of torch have none."""
    return list(getattr(optimizer, kind, {}).values())
