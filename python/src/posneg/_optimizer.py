"""The base of all optimizers: torch.optim.Optimizer's protocol around the library's step."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from itertools import chain
from typing import Any, Callable, Dict, Iterable, Optional, Sequence, Tuple, TypeVar, Union, overload

import numpy as np
import torch
from torch import Tensor

from . import _masters, _mx, _noise
from ._cache import Plans
from ._contents import Names, fingerprint
from ._counts import STEP, step_tensor
from ._fingerprint import Fingerprint
from ._layout import to_zero
from ._library import LR, path, state_names
from ._masters import MASTER_LOW
from ._noise import Noise
from ._options import NO_NOISE, NOTHING, STEP_OPTIONS, Around, Kept, StepOptions, check_saved, not_of_a_group, number
from ._plan import Group, all_params, check_overlap, owner, sums_of
from ._rounding import param_names, take_names
from ._state import check_low, check_state, name_state_dtype
from ._threads import get_num_threads
from .state_dicts import from_any

_FLAGS = "decoupled", "decoupled_weight_decay", "amsgrad", "maximize", "nesterov", "exact_bias", "master_weights"

_Method = TypeVar("_Method", bound=Callable[..., Any])
_Loss = TypeVar("_Loss")


def untraced(f: _Method) -> _Method:
    """Makes torch.compile break its graph at f, as at torch.optim's methods. torch loads the compiler when f is called."""
    disabled: _Method = getattr(torch, "_disable_dynamo", lambda g: g)(f)
    return disabled


# The parameters that torch.optim takes, and numbers as names. (torch 2.5 has a name for this type.)
Params = Union[Iterable[Tensor], Iterable[Dict[str, Any]], Iterable[Tuple[str, Tensor]], Iterable[Tuple[int, Tensor]]]


class Optimizer(StepOptions, torch.optim.Optimizer):
    """A torch.optim.Optimizer whose step is one call of the library for all parameters."""

    # In checkpoints: the rule's name; its hyperparameters, with their names in a group (None: a flag that is never set).
    _rule_name: str
    _hyperparameters: Dict[str, Optional[str]]

    _kind: int  # pnm_rule_kind
    _two_momenta = False  # the rule has gradient noise to read

    # What a load in progress, or one that failed, has loaded in part: "state", or "parameters" if these are concerned, too.
    _half_loaded: Optional[str] = None

    def __init__(self, params: Params, defaults: Dict[str, Any], **step_options: Any):
        path()  # raises an error now if there is no library
        self._around = Around(self._two_momenta)
        self._around.set(**step_options)
        self._plans = Plans()
        self._in_backward: Any = None  # the handle of step_in_backward
        self._complete = False  # the constructor has added all groups
        super().__init__(params, defaults)  # type: ignore[arg-type]  # numbers for names
        self._check_overlap()
        self._complete = True

    def _slots(self, group: Group) -> Sequence[str]:
        """The names of a parameter's state, in the engine's order. Loads the library."""
        rule = self._rule(group)
        return state_names((*rule[:LR], 0.0, *rule[LR + 1 :]))  # lr does not matter, and would only fill the cache

    def _rule(self, group: Group) -> Tuple[Any, ...]:
        """The fields of pnm_rule."""
        raise NotImplementedError

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether torch.amp.GradScaler leaves dividing by the scale, and skipping, to step().

        Programs that clip gradients need them divided before the step. So this must be asked for by fused=True, as in torch, unless the
        step itself clips (or has other options of the whole step), or gradients are float16, which GradScaler refuses to divide.
        """
        if not hasattr(torch.amp, "GradScaler"):
            return False
        if self._around.fields is not NOTHING or self._in_backward is not None:
            return True
        return any(g.get("fused") or any(p.dtype == torch.float16 for p in g["params"]) for g in self.param_groups)

    def _check(self, group: Group) -> None:
        """Reports an option of a group that is out of its range."""
        if not math.isfinite(number("lr", group["lr"])):  # a schedule may make it negative past its end, as in torch
            raise ValueError(f"Invalid lr: {group['lr']}, must be finite")
        non_negative(group, "weight_decay")
        for name in _FLAGS:
            if not isinstance(group.get(name, False), (int, np.bool_)):
                raise ValueError(f"Invalid {name}: {group[name]!r}, must be True or False")
        name_state_dtype(group)
        if not hasattr(group["seed"], "__index__"):
            raise ValueError(f"Invalid seed: {group['seed']!r}, must be a whole number")

    def _check_overlap(self) -> None:
        check_overlap(self.param_groups, range(len(all_params(self.param_groups))))

    def add_param_group(self, param_group: Dict[str, Any]) -> None:
        """Adds a group: a dict with "params", as in the constructor, and the options that differ from the constructor's.

        An option out of its range, or a parameter that shares memory with another one, raises a ValueError. Nothing is added then.
        """
        add_group(self, param_group, self._check_added)
        self._around.begin_noise()

    def _check_added(self, group: Group) -> None:
        not_of_a_group(group, self._around)
        self._check(group)
        non_negative(group, "lr")
        check_eps(group, group["params"])
        param_names(group)
        if self._complete:
            self._check_overlap()

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], _Loss]) -> _Loss: ...

    @untraced
    @torch.no_grad()
    def step(self, closure: Optional[Callable[[], Any]] = None) -> Any:
        """Performs a step. closure, if given, computes the loss and the gradients again; step returns its result."""
        return run_step(self, closure, self._step)

    def _step(self, scale: Optional[Tensor], found_inf: Optional[Tensor]) -> None:
        """Performs a step; scale and found_inf come from a GradScaler."""
        found, around = found_inf is not None and bool(float(found_inf)), self._around
        around.begin(found)
        if not found or around.measures:
            self._update(1.0 if scale is None else float(scale), found)
        elif around.zero_grads:
            self._zero()
        if around.reading:
            sums = around.sums or _noise.NO_SUMS
            if self._in_backward is not None:
                updated, own = self._in_backward.updated, set(sums.due)
                sums = self._sums([i for i, p in enumerate(all_params(self.param_groups)) if id(p) in updated or i in own])
            self._read_noise(sums)
        around.end()

    def _read_noise(self, sums: _noise.Sums) -> None:
        """Adds a reading to the averages. All processes come here, also those that have skipped the step."""
        around = self._around
        readings = self._readings(sums, around.skipped, around.steps + 1, around.averages)
        if readings is not None:
            averages, around.averages = around.averages, None  # an interrupt begins them anew
            if averages is None or readings.anew:
                averages = _noise.Averages(around.noise_decay, all_params(self.param_groups), readings)
            averages.add(readings)
            around.averages = averages

    def _readings(self, sums: _noise.Sums, skip: bool, at: int, averages: Optional[_noise.Averages]) -> Optional[_noise.Readings]:
        rules = map(self._rule, self.param_groups)
        return _noise.read(self.param_groups, rules, sums, self.process_group, skip, at, averages)

    def _sums(self, which: Optional[Sequence[int]] = None) -> _noise.Sums:
        """Reads the state of the parameters with these numbers, or of all."""
        return sums_of(self.param_groups, self.state, self._slots, list(map(self._rule, self.param_groups)), which, get_num_threads())

    @untraced
    @torch.no_grad()
    def noise_scale(self) -> Noise:
        """Reads the gradient noise now, from the state alone: of PNM and AdaPNM, from step 2 on.

        A single reading is noisy; the option noise_every averages readings. If parameters are divided among processes, all must call.
        """
        if not self._two_momenta:
            raise TypeError(f"posneg: {type(self).__name__} has no gradient noise to read: {NO_NOISE}")
        self._check_loaded()
        readings = self._readings(self._sums(), False, 1, None)
        assert readings is not None
        return readings.noise()

    def _zero(self) -> None:
        """Sets the gradients to zero: all of them or none, even if a signal handler raises an exception."""
        list(map(Tensor.zero_, to_zero(p.grad for p in all_params(self.param_groups) if p.grad is not None)))

    def _update(self, loss_scale: float, skip: bool) -> None:
        self._check_loaded()
        plan, now = self._plans.find(self.param_groups, self.state, self._slots)
        plan.step(now, self.param_groups, map(self._rule, self.param_groups), loss_scale, get_num_threads(), self._around, skip)

    def _check_loaded(self) -> None:
        if self._half_loaded:
            raise RuntimeError("posneg: a checkpoint was loaded only in part, so the state is a mixture: load one again")

    @torch.no_grad()
    def fingerprint(self, names: Names = None) -> Fingerprint:
        """Returns 128 bits that identify parameters, state and step counts. Two runs have the same bits if their fingerprints are equal.

        It does not depend on the machine, on the number of threads, or on groups and their options. A DTensor counts as the whole tensor,
        and with process_group, the parameters of all its processes count: all processes must then call this method. save_checkpoint records
        the same number.

        Args:
            names: as in save_checkpoint. They are a part of what the fingerprint identifies.
        """
        return fingerprint(self, names)

    def state_dict(self) -> Dict[str, Any]:
        """Returns the state and the options, for load_state_dict of the same class here or in torch.

        The dict has "state", with a dict for each parameter's number; "param_groups", the groups with numbers for their parameters; and
        "step_options", with clip_norm and the other options of the whole step. As in torch, the tensors are not copies: the next step
        changes them. Some bfloat16 and uint8 tensors hold the bits of another type, which other programs cannot use.
        """
        self._check_loaded()
        for group in self.param_groups:
            name_state_dtype(group)
        saved: Dict[str, Any] = super().state_dict()
        keys = chain.from_iterable(g["params"] for g in saved["param_groups"])
        for index, (key, p) in enumerate(zip(keys, all_params(self.param_groups))):
            state = saved["state"].get(key, {})
            if MASTER_LOW in state:
                check_low(p, state[MASTER_LOW], owner(self.param_groups, index))
            if state:
                saved["state"][key] = _mx.exported(_masters.exported(state))
        saved[STEP_OPTIONS] = self._around.saved()
        return saved

    def __getstate__(self) -> Any:
        self._check_loaded()
        state: Dict[str, Any] = dict(super().__getstate__())
        state["state"] = defaultdict(dict, {p: _mx.exported(s) for p, s in self.state.items()})  # float8 cannot be pickled
        state[STEP_OPTIONS] = {**self._around.saved(), "process_group": Kept(self.process_group)}
        return state

    def __setstate__(self, state: Dict[str, Any]) -> None:
        options = state.pop(STEP_OPTIONS, {})
        super().__setstate__(state)
        around = vars(self).setdefault("_around", Around(self._two_momenta))
        if options:
            around.set(**{**options, "process_group": options["process_group"].group})
        self._plans, self._half_loaded, self._complete = Plans(), None, True
        self._in_backward = None
        for s in self.state.values():
            if isinstance(s.get(STEP), (int, float)):
                s[STEP] = step_tensor(s[STEP])
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        """Loads a state dict of this package, of torch, of the PNM authors' code or of pytorch_optimizer.

        Options that the saved groups do not have stay as they are. So do clip_norm and the other options of the whole step, if the dict
        has no "step_options".
        """
        loaded: Dict[str, Any] = {}

        def last(_: Any, given: Dict[str, Any]) -> Dict[str, Any]:
            loaded.update(from_any(given))
            loaded["param_groups"] = [{**_options(g), **s} for g, s in zip(self.param_groups, loaded["param_groups"])] + (
                loaded["param_groups"][len(self.param_groups) :]
            )
            self._check_loadable(loaded)
            return loaded

        if hasattr(self, "register_load_state_dict_pre_hook"):  # torch 2.3 and later
            handle = self.register_load_state_dict_pre_hook(last)
            try:
                super().load_state_dict(state_dict)
            finally:
                handle.remove()
        else:
            super().load_state_dict(last(self, state_dict))
        self._undo_casts(loaded)
        self._around.set(**loaded.get(STEP_OPTIONS, {}))
        self._around.begin_noise()

    def _check_loadable(self, loaded: Dict[str, Any]) -> None:
        """Reports a state dict that does not fit, before anything changes."""
        check_saved(loaded.get(STEP_OPTIONS, {}), self._around)
        groups = loaded["param_groups"]
        if [len(g["params"]) for g in groups] != [len(g["params"]) for g in self.param_groups]:
            return  # torch's load_state_dict reports it
        params, index = all_params(self.param_groups), 0
        for group, own in zip(groups, self.param_groups):
            self._check(group)
            check_eps(group, own["params"])
            for i in group["params"]:
                check_state(params[index], loaded["state"].get(i, {}), self._slots(group), owner(self.param_groups, index))
                index += 1

    def _undo_casts(self, loaded: Dict[str, Any]) -> None:
        """Restores the tensors that torch has rounded to the type of a 16-bit parameter, and copies the counts of steps."""
        ids = chain.from_iterable(g["params"] for g in loaded["param_groups"])
        params = chain.from_iterable(g["params"] for g in self.param_groups)
        for i, p in zip(ids, params):
            if STEP in self.state.get(p, {}):  # torch keeps the tensor itself, in which the other optimizer goes on counting
                self.state[p][STEP] = step_tensor(self.state[p][STEP])
            for name, value in loaded["state"].get(i, {}).items():
                if isinstance(value, Tensor) and self.state[p][name].dtype != value.dtype:
                    self.state[p][name] = value.detach().clone().to(p.device)


def add_group(optimizer: torch.optim.Optimizer, group: Any, check: Callable[[Group], None]) -> None:
    """Calls torch's add_param_group, and check with the completed group. If check raises an error, nothing is added."""
    if isinstance(group, dict):
        take_names(group)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="optimizer contains a parameter group with duplicate parameters")  # check refuses them
        torch.optim.Optimizer.add_param_group(optimizer, group)
    try:
        check(optimizer.param_groups[-1])
    except BaseException:
        optimizer.param_groups.pop()
        raise


def run_step(
    optimizer: torch.optim.Optimizer, closure: Optional[Callable[[], Any]], update: Callable[[Optional[Tensor], Optional[Tensor]], None]
) -> Any:
    """Calls the closure, and update with grad_scale and found_inf of a GradScaler. Returns the closure's result."""
    loss = None
    if closure is not None:
        with torch.enable_grad():
            loss = closure()
    try:
        update(getattr(optimizer, "grad_scale", None), getattr(optimizer, "found_inf", None))
    except BaseException:
        forget_scaler(optimizer)
        raise
    return loss


def forget_scaler(optimizer: torch.optim.Optimizer) -> None:
    """Removes the attributes that GradScaler sets for a step. It leaves them after a failed step, and they would affect later ones."""
    for name in ("grad_scale", "found_inf"):
        vars(optimizer).pop(name, None)


def _options(group: Group) -> Dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}


def non_negative(group: Group, *names: str) -> None:
    for name in names:
        if not 0 <= number(name, group[name]) < math.inf:
            raise ValueError(f"Invalid {name}: {group[name]}, must be finite and >= 0")


def check_eps(group: Group, params: Sequence[Tensor]) -> None:
    """Checks that an eps above 0 does not become 0 in the type of the arithmetic."""
    eps = group.get("eps", 0)
    if eps and not np.float32(eps) and any(p.dtype not in (torch.float64, torch.complex128) for p in params):
        raise ValueError(f"Invalid eps: {eps}, which is 0 in float32; must be 0 or at least 1e-45")


def check_betas(group: Group, names: str, decays: int) -> None:
    """Checks that there is a beta for each name, and that the first ones, which are decay rates, are in [0, 1)."""
    betas = group["betas"]
    wanted = names.split()
    if not hasattr(betas, "__len__") or len(betas) != len(wanted):
        raise ValueError(f"Invalid betas: {betas}, must be ({', '.join(wanted)})")
    for i, beta in enumerate(betas):
        value = number(f"beta parameter at index {i}", beta)
        if i < decays and not 0 <= value < 1:
            raise ValueError(f"Invalid beta parameter at index {i}: {beta}, must be in [0, 1)")
        if not math.isfinite(value):
            raise ValueError(f"Invalid beta parameter at index {i}: {beta}, must be finite")


def check_filled(group: Group, decays: int) -> None:
    """Checks that the decays and eps are not all 0: the update would be 0 / 0 for a gradient of 0."""
    if not any(group["betas"][:decays]) and not group.get("eps"):
        raise ValueError(f"Invalid betas and eps: {group['betas']} and {group.get('eps')}, the decays and eps must not all be 0")
