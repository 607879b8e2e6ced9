"""The options of a whole step, such as clip_norm: attributes of every optimizer, and not options of a group."""

from __future__ import annotations

import contextlib
from operator import index
from typing import TYPE_CHECKING, Any, Callable, Dict, Generic, Optional, Tuple, TypeVar, overload

import torch

from ._placements import processes

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from ._noise import Averages, Noise, Sums
else:
    ProcessGroup = Any  # a torch may be built without

Fields = Tuple[float, float, bool, bool, Optional[int]]  # clip_norm, clip_value, skip_non_finite, zero_grads, squares: of pnm_options
NOTHING: Fields = (0.0, 0.0, False, False, None)

NO_NOISE = "only PNM and AdaPNM have two momenta, whose difference is the gradient noise"

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


def share(name: str, value: Any) -> float:
    if not 0 < number(name, value) <= 1:
        raise ValueError(f"Invalid {name}: {value}, must be in (0, 1]")
    return float(value)


def _every(name: str, value: Any) -> Optional[int]:
    if value is None:
        return None
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
        raise ValueError(f"Invalid {name}: {value!r}, must be an integer >= 1, or None for no readings")
    return index(value)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"Invalid {name}: {value!r}, must be True or False")
    return value


def _group(name: str, value: Any) -> Any:
    if value is not None and not (torch.distributed.is_available() and isinstance(value, torch.distributed.ProcessGroup)):
        raise TypeError(f"Invalid {name}: {value!r}, must be a torch.distributed process group with this process in it, or None")
    return value


class Around:
    """The options of an optimizer's whole step, and the results of the last step. two_momenta: its rule has noise to read."""

    clip_norm: Optional[float]
    clip_value: Optional[float]
    skip_non_finite: bool
    zero_grads: bool
    process_group: Optional[ProcessGroup]
    noise_every: Optional[int]
    noise_decay: float

    def __init__(self, two_momenta: bool = False) -> None:
        self.two_momenta = two_momenta
        self.clip_norm = self.clip_value = self.process_group = None
        self.skip_non_finite = self.zero_grads = False
        self.fields = NOTHING  # this very tuple, if all options are off
        self.measures = False  # an option needs the norm
        self.grad_norm: Optional[float] = None
        self.skipped = False
        self.noise_every, self.noise_decay = None, 1.0
        self.steps = 0  # as many in all processes
        self.reading = False  # the step reads the noise
        self.sums: Optional[Sums] = None  # that it has read
        self.averages: Optional[Averages] = None  # from the first reading on

    def begin_noise(self) -> None:
        """Begins the readings and their average anew."""
        self.steps, self.averages = 0, None

    def begin(self, found: bool) -> None:
        """Begins a step. found: a GradScaler has found infinities."""
        self.grad_norm, self.skipped, self.sums = None, found, None
        self.reading = self.noise_every is not None and (self.steps + 1) % self.noise_every == 0

    def end(self) -> None:
        """Counts a step that was not skipped. A GradScaler may have found infinities in one process alone; all count such a step."""
        if not self.skipped or not self.measures and processes() > 1:
            self.steps += 1

    def fields_with(self, squares: int, skip: bool) -> Fields:
        """The fields with a sum of squares at an address. If the step must be skipped, the sum has an infinity."""
        return (*self.fields[:2], skip or self.skip_non_finite, self.zero_grads, squares)

    def set(self, **options: Any) -> None:
        """Checks and sets the given options."""
        for name, value in options.items():
            setattr(self, name, _CHECKS[name](name, value))
        if self.noise_every and not self.two_momenta:
            self.noise_every = None
            raise ValueError(f"Invalid noise_every: {options['noise_every']}, must be None: {NO_NOISE}")
        if not options.keys().isdisjoint(_OF_NOISE):
            self.begin_noise()
        fields = self.clip_norm or 0.0, self.clip_value or 0.0, self.skip_non_finite, self.zero_grads, None
        self.fields = NOTHING if fields == NOTHING else fields
        self.measures = self.clip_norm is not None or self.skip_non_finite

    def saved(self) -> Dict[str, Any]:
        return {name: getattr(self, name) for name in _SAVED if self.two_momenta or name not in _OF_NOISE}


_CHECKS: Dict[str, Callable[[str, Any], Any]] = {
    "clip_norm": _bound, "clip_value": _bound, "skip_non_finite": _flag, "zero_grads": _flag, "process_group": _group,
    "noise_every": _every, "noise_decay": share,
}
_OF_NOISE = "noise_every", "noise_decay"
_SAVED = tuple(name for name in _CHECKS if name != "process_group")


def not_of_a_group(group: Dict[str, Any], around: Around) -> None:
    """Reports options of the whole step in a group. ZeroRedundancyOptimizer puts equal ones there, which are legal."""
    for name in _CHECKS:
        if name in group and group[name] != getattr(around, name):
            raise ValueError(
                f"Invalid {name} in a group, since it belongs to the whole optimizer: set optimizer.{name}, or optimizer.optim.{name} with "
                "ZeroRedundancyOptimizer"
            )


def check_saved(options: Any, around: Around) -> None:
    """Reports step options of a state dict that are not valid, or not those of the optimizer's rule."""
    if not isinstance(options, dict) or not set(options) <= set(_SAVED):
        raise ValueError(f"Invalid step_options: {options!r}, must be a dict of {', '.join(_SAVED)}")
    Around(around.two_momenta).set(**options)


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
    noise_every = _Option[Optional[int]](None)
    noise_decay = _Option(1.0)

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

    @property
    def noise(self) -> Optional[Noise]:
        """The gradient noise, as an average over the readings of noise_every; None before the first one.

        Setting noise_every or noise_decay, load_state_dict, load_checkpoint and add_param_group begin a new average.
        """
        averages = self._around.averages
        return averages.estimate() if averages else None


class Kept:
    """A process group for copy and pickle of an optimizer: copies keep the group, and pickles, which cannot, drop it."""

    def __init__(self, group: Optional[ProcessGroup] = None):
        self.group = group

    def __deepcopy__(self, _: Any) -> Kept:
        return self

    def __reduce__(self) -> Any:
        return Kept, ()
