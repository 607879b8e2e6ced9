"""The options of a whole step, such as clip_norm: attributes of every optimizer, and not options of a group."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Callable, Dict, Generic, Optional, Tuple, TypeVar, overload

import torch

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
else:
    ProcessGroup = Any  # a torch may be built without

Fields = Tuple[float, float, bool, bool, Optional[int]]  # clip_norm, clip_value, skip_non_finite, zero_grads, squares: of pnm_options
NOTHING: Fields = (0.0, 0.0, False, False, None)

STEP_OPTIONS = "step_options"  # the key of the saved options in state dicts

T = TypeVar("T")


def number(name: str, value: Any) -> float:
    """The value of an option as a float. A string raises an error: YAML parses 1e-3 as one."""
    with contextlib.suppress(TypeError, ValueError, RuntimeError, OverflowError):
        if not isinstance(value, str):
            return float(value)
    raise ValueError(f"Invalid {name}: {value!r}, must be a number")


def _bound(name: str, value: Any) -> Optional[float]:
    if value is None:
        return None
    if isinstance(value, bool) or not number(name, value) > 0:
        raise ValueError(f"Invalid {name}: {value}, must be > 0, or None for no bound")
    return float(value)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"Invalid {name}: {value!r}, must be True or False")
    return value


def _group(name: str, value: Any) -> Any:
    if value is not None and not (torch.distributed.is_available() and isinstance(value, torch.distributed.ProcessGroup)):
        raise TypeError(f"Invalid {name}: {value!r}, must be a torch.distributed process group with this process in it, or None")
    return value


class Around:
    """The options of an optimizer's whole step, and the results of the last step."""

    clip_norm: Optional[float]
    clip_value: Optional[float]
    skip_non_finite: bool
    zero_grads: bool
    process_group: Optional[ProcessGroup]

    def __init__(self) -> None:
        self.clip_norm = self.clip_value = self.process_group = None
        self.skip_non_finite = self.zero_grads = False
        self.fields = NOTHING  # this very tuple, if all options are off
        self.measures = False  # an option needs the norm
        self.grad_norm: Optional[float] = None
        self.skipped = False

    def fields_with(self, squares: int, skip: bool) -> Fields:
        """The fields with a sum of squares at an address. If the step must be skipped, the sum has an infinity."""
        return (*self.fields[:2], skip or self.skip_non_finite, self.zero_grads, squares)

    def set(self, **options: Any) -> None:
        """Checks and sets the given options."""
        for name, value in options.items():
            setattr(self, name, _CHECKS[name](name, value))
        fields = self.clip_norm or 0.0, self.clip_value or 0.0, self.skip_non_finite, self.zero_grads, None
        self.fields = NOTHING if fields == NOTHING else fields
        self.measures = self.clip_norm is not None or self.skip_non_finite

    def saved(self) -> Dict[str, Any]:
        return {name: getattr(self, name) for name in _SAVED}


_CHECKS: Dict[str, Callable[[str, Any], Any]] = {
    "clip_norm": _bound, "clip_value": _bound, "skip_non_finite": _flag, "zero_grads": _flag, "process_group": _group,
}
_SAVED = tuple(name for name in _CHECKS if name != "process_group")


def not_of_a_group(group: Dict[str, Any], around: Around) -> None:
    """Reports options of the whole step in a group. ZeroRedundancyOptimizer puts equal ones there, which are legal."""
    for name in _CHECKS:
        if name in group and group[name] != getattr(around, name):
            raise ValueError(
                f"Invalid {name} in a group, since it belongs to the whole optimizer: set optimizer.{name}, or optimizer.optim.{name} with "
                "ZeroRedundancyOptimizer"
            )


def check_saved(options: Any) -> None:
    """Reports step options of a state dict that are not valid."""
    if not isinstance(options, dict) or not set(options) <= set(_SAVED):
        raise ValueError(f"Invalid step_options: {options!r}, must be a dict of {', '.join(_SAVED)}")
    Around().set(**options)


class _Option(Generic[T]):
    """An attribute of an optimizer that is stored in its Around."""

    def __init__(self, _: T):
        pass

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, optimizer: None, owner: type) -> _Option[T]: ...

    @overload
    def __get__(self, optimizer: StepOptions, owner: type) -> T: ...

    def __get__(self, optimizer: Any, owner: type) -> Any:
        return self if optimizer is None else getattr(optimizer._around, self._name)

    def __set__(self, optimizer: StepOptions, value: T) -> None:
        optimizer._around.set(**{self._name: value})


class StepOptions:
    """The options of the whole step as attributes, which may change between steps.

    Their values are in an object that wrappers which share the optimizer's attributes, such as Lightning's, share, too.
    """

    _around: Around

    clip_norm = _Option[Optional[float]](None)
    clip_value = _Option[Optional[float]](None)
    skip_non_finite = _Option(False)
    zero_grads = _Option(False)
    process_group = _Option[Optional[ProcessGroup]](None)

    @property
    def grad_norm(self) -> Optional[float]:
        """The norm of all gradients of the last step, unscaled, before clipping. None without clip_norm and skip_non_finite."""
        return self._around.grad_norm

    @property
    def skipped(self) -> bool:
        """Whether the last step was skipped, by skip_non_finite or because a GradScaler found infinities.

        A GradScaler may also skip by not calling step(), without fused=True and options of the whole step; this then does not change.
        """
        return self._around.skipped


class Kept:
    """A process group for copy and pickle of an optimizer: copies keep the group, and pickles, which cannot, drop it."""

    def __init__(self, group: Optional[ProcessGroup] = None):
        self.group = group

    def __deepcopy__(self, _: Any) -> Kept:
        return self

    def __reduce__(self) -> Any:
        return Kept, ()
