"""State dicts of other implementations.

This package saves what torch and the authors of PNM save: for each parameter its buffers, under the same names, and its own `step`.
pytorch_optimizer (https://github.com/kozistr/pytorch_optimizer) counts steps in the group, and has other names for some options.
"""

from __future__ import annotations

from typing import Any, Dict

from ._mx import widened

StateDict = Dict[str, Any]

_RENAMED = {"weight_decouple": "decoupled", "ams_bound": "amsgrad"}  # pytorch_optimizer's options
_UNSUPPORTED = ("fixed_decay", "adanorm", "adam_debias")  # its options that change the step


def from_any(state_dict: StateDict) -> StateDict:
    """Converts a state dict to this package's form. The tensors are those of the argument."""
    state = {key: dict(value) if isinstance(value, dict) else value for key, value in state_dict["state"].items()}
    groups = []
    for saved in state_dict["param_groups"]:
        group = dict(saved)
        step = group.pop("step", None)
        for name in _UNSUPPORTED:
            if group.pop(name, False):
                raise ValueError(f"posneg cannot continue a run with {name}=True")
        for theirs, ours in _RENAMED.items():
            if theirs in group:
                group[ours] = group.pop(theirs)
        if step is not None:
            for i in group["params"]:
                if i in state:
                    state[i].setdefault("step", step)
        groups.append(group)
    return {**state_dict, "state": state, "param_groups": groups}


def to_pytorch_optimizer(state_dict: StateDict) -> StateDict:
    """Converts a state dict for pytorch_optimizer's class of the same name. Momenta in mxfp8 become float32.

    Raises a ValueError if the parameters of a group have done different numbers of steps, which pytorch_optimizer cannot store.
    """
    groups = []
    state = {key: {k: v for k, v in widened(value).items() if k != "step"} for key, value in state_dict["state"].items()}
    for saved in state_dict["param_groups"]:
        group = dict(saved)
        steps = {int(state_dict["state"][i]["step"]) for i in group["params"] if i in state}
        if len(steps) > 1:
            raise ValueError(
                f"posneg: pytorch_optimizer has one count of steps for a group, but the parameters of this one have done {sorted(steps)}"
            )
        if steps:
            group["step"] = steps.pop()
        for theirs, ours in _RENAMED.items():
            if ours in group:
                group[theirs] = group.pop(ours)
        group["fixed_decay"] = False
        groups.append(group)
    return {**state_dict, "state": state, "param_groups": groups}
