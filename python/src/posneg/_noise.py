"""The gradient noise, read from the two momenta of PNM and AdaPNM. docs/noise.md derives the formulas."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from . import _library
from ._norm import Spread, add_up, spread
from ._options import number, share


@dataclass(frozen=True)
class Noise:
    """The gradient of a loss and the noise of its minibatches, as estimated from the momenta.

    Attributes:
        signal: an estimate of |G|**2, where G is the mean gradient. It has no bias, so it is negative at times where G is small.
        variance: an estimate of the trace of the covariance of one minibatch's gradient.
        readings: the number of readings that were averaged. 0: there is none, and all numbers are NaN.
        signal_error, variance_error, scale_error: standard errors of signal, variance and scale; NaN before the second reading.
        groups: the same for each parameter group.
        params: the same for each parameter, in the order of the groups.
    """

    signal: float
    variance: float
    readings: int = 1
    signal_error: float = math.nan
    variance_error: float = math.nan
    scale_error: float = math.nan
    groups: Tuple[Noise, ...] = field(default=(), repr=False)
    params: Tuple[Noise, ...] = field(default=(), repr=False)

    @property
    def scale(self) -> float:
        """The gradient noise scale, variance / signal, in minibatches: multiply it by the size of a minibatch."""
        if self.signal:
            return self.variance / self.signal
        return math.inf if self.variance > 0 else math.nan


class NoiseAverage:
    """An average of readings of the gradient noise: a single reading is noisy.

    The average of an optimizer's own readings is its attribute noise. Use this class to average over another span, or the readings of
    noise_scale(). The scale is the ratio of the averages, which has less bias than an average of ratios.

    Args:
        decay: the weight of a reading in relation to the next one, in (0, 1]. 1 weights all readings equally; with a smaller number, the
            average follows about the last 1 / (1 - decay) readings. Default: 1.0.

    >>> average = posneg.NoiseAverage(decay=0.9)
    >>> average.add(posneg.Noise(signal=2.0, variance=30.0), step=10, beta1=0.9)
    >>> average.add(posneg.Noise(signal=1.0, variance=60.0), step=20, beta1=0.9)
    >>> round(average.estimate().scale, 3), average.estimate().readings
    (31.071, 2)
    """

    def __init__(self, decay: float = 1.0):
        self._decay = share("decay", decay)
        self._readings, self._step = 0, 0
        self._weight = self._signal = self._variance = 0.0  # the sum of the readings' weights, and the averages
        self._ss = self._sv = self._vv = 0.0  # weighted sums of products of the deviations of signal (s) and variance (v) from them
        self._linear, self._product = _Serial(), _Serial()  # of errors linear in those of the momenta, and of products of two
        self._ratio = 0.0  # how much of the variance's mean square error the product in the signal's error has

    def add(self, noise: Noise, step: int, beta1: float) -> None:
        """Adds a reading after a step. Steps are numbered upwards; a reading before step 2 does not count, since there is none.

        beta1 is that of the optimizer: it determines how much of their errors two readings share.
        """
        if not 0 <= number("beta1", beta1) < 1:
            raise ValueError(f"Invalid beta1: {beta1}, must be in [0, 1)")
        if step < max(1, self._step):
            raise ValueError(f"Invalid step: {step}, must be >= 1 and >= {self._step}, the step of the last reading")
        if step > 1:
            self._add(noise.signal, noise.variance, int(step), float(beta1))

    def _add(self, signal: float, variance: float, step: int, beta1: float) -> None:
        b, decay = beta1 * beta1, self._decay
        left = _remaining(b, step - self._step)
        self._linear.add(decay, left)
        self._product.add(decay, left * left)
        kept = (1 - b) / (1 + b)  # V of docs/noise.md, late
        self._ratio = kept * kept / 2
        before = decay * self._weight
        self._weight = before + 1
        share = before / self._weight
        s, v = signal - self._signal, variance - self._variance
        self._signal += s / self._weight
        self._variance += v / self._weight
        self._ss = decay * self._ss + share * s * s
        self._sv = decay * self._sv + share * s * v
        self._vv = decay * self._vv + share * v * v
        self._readings += 1
        self._step = step

    def estimate(self) -> Noise:
        """Returns the averages and their standard errors."""
        if not self._readings:
            return Noise(math.nan, math.nan, 0)
        mean = Noise(self._signal, self._variance, self._readings)
        linear, product = self._linear.share(self._weight), self._product.share(self._weight)

        def error(square: float, of_linear: float) -> float:
            """From a mean square of deviations, and the variance of the linear part. Deviations from an average are too small."""
            of_product = _divided(max(0.0, square - of_linear * (1 - linear)), 1 - product)
            return math.sqrt(of_linear * linear + of_product * product)

        ss, sv, vv = self._ss / self._weight, self._sv / self._weight, self._vv / self._weight
        of_signal = _divided(max(0.0, ss - self._ratio * vv), 1 - linear)
        scale = mean.scale
        residual = vv - 2 * scale * sv + scale * scale * ss  # of variance - scale * signal
        return Noise(
            mean.signal, mean.variance, self._readings, error(ss, of_signal), error(vv, 0.0),
            _divided(error(residual, scale * scale * of_signal), abs(mean.signal)),
        )


class _Serial:
    """How much the errors of readings have in common. w(i) is the weight of reading i, rho(i, j) the correlation of two."""

    def __init__(self) -> None:
        self._pairs = self._last = 0.0  # the sums of w(i)·w(j)·rho(i, j) and of w(i)·rho(i, last)

    def add(self, decay: float, rho: float) -> None:
        before = decay * self._last * rho
        self._pairs = decay * decay * self._pairs + 2 * before + 1
        self._last = before + 1

    def share(self, weight: float) -> float:
        """The variance of the average, divided by that of one reading."""
        return self._pairs / (weight * weight)


def _remaining(b: float, steps: int) -> float:
    """How much of the momenta's errors is left after a number of steps, as a mean over the two: each loses the factor b every second step.

    The products are those of Go's optim.NoiseAverage, in its order.
    """
    left, n = (1 + b) / 2 if steps % 2 else 1.0, steps // 2
    while n:
        if n & 1:
            left *= b
        b *= b
        n >>= 1
    return left


def _divided(a: float, b: float) -> float:
    return a / b if b else math.nan


class Reading(NamedTuple):
    """A reading of a parameter, or the sum of those of several."""

    signal: float
    variance: float
    step: int  # the last one of its parameters; 0 if there is no reading
    beta1: float  # the largest one of its parameters

    def noise(self) -> Noise:
        return Noise(self.signal, self.variance, bool(self.step) + 0)


NOTHING = Reading(math.nan, math.nan, 0, 0.0)


class Readings(NamedTuple):
    """The readings of all parameters after a step."""

    total: Reading
    groups: List[Reading]
    params: List[Reading]

    def noise(self) -> Noise:
        n = self.total.noise()
        return Noise(
            n.signal, n.variance, n.readings,
            groups=tuple(r.noise() for r in self.groups), params=tuple(r.noise() for r in self.params),
        )


class Sums(NamedTuple):
    """What the library has read: pairs of sums of squares of some of the parameters."""

    due: Sequence[int]  # the numbers of these parameters
    steps: Sequence[int]  # that they have done
    words: np.ndarray  # a row for each


NO_SUMS = Sums((), (), np.zeros((0, _library.NOISE), np.int64))


class Averages:
    """The averages of an optimizer's readings. They begin anew when its parameters are others, or their counts of steps go back."""

    def __init__(self, decay: float):
        self._decay = decay
        self._params: List[int] = []
        self._total = NoiseAverage(decay)
        self._groups: List[NoiseAverage] = []
        self._each: List[NoiseAverage] = []
        self._estimate: Optional[Noise] = None

    def add(self, params: Sequence[Tensor], readings: Readings) -> None:
        ids, new = list(map(id, params)), (readings.total, *readings.groups, *readings.params)
        if ids != self._params or len(new) != len(self._all()) or any(r.step and r.step < a._step for r, a in zip(new, self._all())):
            self._params, self._total = ids, NoiseAverage(self._decay)
            self._groups = [NoiseAverage(self._decay) for _ in readings.groups]
            self._each = [NoiseAverage(self._decay) for _ in ids]
        for average, reading in zip(self._all(), new):
            if reading.step:
                average._add(*reading)
        self._estimate = None

    def _all(self) -> Tuple[NoiseAverage, ...]:
        return (self._total, *self._groups, *self._each)

    def estimate(self) -> Optional[Noise]:
        """The averages; None before the first reading."""
        if self._estimate is None and self._total._readings:
            n = self._total.estimate()
            self._estimate = Noise(
                n.signal, n.variance, n.readings, n.signal_error, n.variance_error, n.scale_error,
                tuple(a.estimate() for a in self._groups), tuple(a.estimate() for a in self._each),
            )
        return self._estimate


def read(
    groups: Sequence[Dict[str, Any]], rules: Iterable[Tuple[Any, ...]], sums: Sums, process_group: Any, skip: bool
) -> Optional[Readings]:
    """The readings of the parameters of all groups, of this process or of a process group. None if one of its processes skips."""
    params = [p for group in groups for p in group["params"]]
    of_params = _of_params([len(group["params"]) for group in groups], rules, _with_all_parts(params, sums))
    of_groups, first = [], 0
    for group in groups:
        last = first + len(group["params"])
        of_groups.append(of_params[first:last])
        first = last
    everywhere = [(skip, of_groups)]
    if process_group is not None:
        everywhere = [everywhere[0]] * torch.distributed.get_world_size(process_group)
        torch.distributed.all_gather_object(everywhere, (skip, of_groups), process_group)
    if any(skipped for skipped, _ in everywhere):
        return None
    count = max(len(parts) for _, parts in everywhere)
    merged = [[r for _, parts in everywhere for r in (parts[g] if g < len(parts) else ())] for g in range(count)]
    return Readings(_total([r for part in merged for r in part]), list(map(_total, merged)), of_params)


def _with_all_parts(params: Sequence[Tensor], sums: Sums) -> Sums:
    """The sums, with those of the parts that other processes have. As in _norm, all processes come to the same exchanges."""
    rows: Dict[Spread, List[int]] = {}
    for i, p in enumerate(params):
        rows.setdefault(spread(p), []).append(i)
    rows.pop(None, None)
    if not rows:
        return sums
    due = list(sums.due)
    whole = np.zeros((len(params), _library.NOISE), np.int64)
    whole[due] = sums.words
    for where, those in rows.items():
        assert where
        mesh, dimensions = where
        part = whole[those]
        for d in dimensions:
            add_up(part, mesh.get_group(d))
        whole[those] = part
    return Sums(due, sums.steps, whole[due])


def _of_params(counts: Sequence[int], rules: Iterable[Tuple[Any, ...]], sums: Sums) -> List[Reading]:
    fields, group_of = np.array(list(rules), _library.RULE), [g for g, count in enumerate(counts) for _ in range(count)]
    steps, betas = list(map(int, sums.steps)), fields["beta1"].tolist()
    found, of_params = _library.noise(fields, [group_of[i] for i in sums.due], steps, sums.words), [NOTHING] * sum(counts)
    for i, step, (signal, variance) in zip(sums.due, steps, found):
        if step > 1:
            of_params[i] = Reading(signal, variance, step, betas[group_of[i]])
    return of_params


def _total(readings: Sequence[Reading]) -> Reading:
    """The sum, whose bits do not depend on the order."""
    there = [r for r in readings if r.step]
    if not there:
        return NOTHING
    signal, variance = (_sum([r[k] for r in there]) for k in (0, 1))
    return Reading(signal, variance, max(r.step for r in there), max(r.beta1 for r in there))


def _sum(values: Sequence[float]) -> float:
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):  # infinities of both signs, or too large
        return sum(values)
