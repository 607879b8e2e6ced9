"""The gradient noise, read from the two momenta of PNM and AdaPNM. docs/noise.md derives the formulas."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from . import _library
from ._norm import Spread, add_over, spread
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
        return _divided(self.variance, self.signal)


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
        """Adds a reading after a step. Each step must be above the one before; a reading before step 2 does not count, since there is none.

        For a sum over several parameters, count the steps of the optimizer. beta1 is that of the optimizer, the largest one of its groups:
        it determines how much of their errors two readings share. A reading that is NaN or infinite makes the averages NaN.
        """
        if not 0 <= number("beta1", beta1) < 1:
            raise ValueError(f"Invalid beta1: {beta1}, must be in [0, 1)")
        if not step > self._step:
            last = ", the step of the last reading" if self._step else ""
            raise ValueError(f"Invalid step: {step}, must be > {self._step}{last}")
        if step > 1:
            self._add(noise.signal, noise.variance, int(step), float(beta1))

    def _add(self, signal: float, variance: float, step: int, beta1: float) -> None:
        b, decay = beta1 * beta1, self._decay
        left = _remaining(b, step - self._step)
        self._linear.add(decay, self._weight, left)
        self._product.add(decay, self._weight, left * left)
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
        linear, linear_lost = self._linear.shares()
        product, product_lost = self._product.shares()

        def error(square: float, of_linear: float) -> float:
            """From a mean square of deviations, and the variance of the linear part. Deviations from an average are too small."""
            of_product = _divided(_at_least_0(square - of_linear * linear_lost), product_lost)
            return math.sqrt(of_linear * linear + of_product * product)

        ss, sv, vv = self._ss / self._weight, self._sv / self._weight, self._vv / self._weight
        of_signal = _divided(_at_least_0(ss - self._ratio * vv), linear_lost)
        scale = mean.scale
        residual = vv - 2 * scale * sv + scale * scale * ss  # of variance - scale * signal
        return Noise(
            mean.signal, mean.variance, self._readings, error(ss, of_signal), error(vv, 0.0),
            _divided(error(residual, scale * scale * of_signal), abs(mean.signal)),
        )


class _Serial:
    """How much the errors of readings have in common. w(i) is the weight of reading i, rho(i, j) the correlation of two.

    The sums apart are kept for themselves, since differences would lose their digits, and their signs, where rho is near 1.
    """

    def __init__(self) -> None:
        self._pairs = self._apart = 0.0  # the sums of w(i)·w(j)·rho(i, j) and of w(i)·w(j)·(1 - rho(i, j))
        self._with_last = self._from_last = 0.0  # the sums of w(i)·rho(i, last) and of w(i)·(1 - rho(i, last))

    def add(self, decay: float, weight: float, rho: float) -> None:
        before = decay * self._with_last * rho
        self._pairs = decay * decay * self._pairs + 2 * before + 1
        self._with_last = before + 1
        self._from_last = decay * ((1 - rho) * weight + rho * self._from_last)
        self._apart = decay * decay * self._apart + 2 * self._from_last

    def shares(self) -> Tuple[float, float]:
        """The variance of the average, divided by that of one reading, and what is left of 1: what deviations from it have."""
        both = self._pairs + self._apart
        return self._pairs / both, self._apart / both


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
    """a / b, as in other languages: infinite or NaN if b is 0."""
    return a / b if b else a * math.copysign(math.inf, b)


def _at_least_0(x: float) -> float:
    """The larger one of x and 0; NaN for NaN."""
    return 0.0 if x <= 0 else x


class Reading(NamedTuple):
    """A reading of a parameter, or the sum of those of several."""

    signal: float
    variance: float
    at: int  # the parameter's steps, or those of the optimizer for a sum: its parameters may have had different ones; 0: no reading
    beta1: float  # the largest one of its parameters

    def noise(self) -> Noise:
        return Noise(self.signal, self.variance, bool(self.at) + 0)


NOTHING = Reading(math.nan, math.nan, 0, 0.0)


class Readings(NamedTuple):
    """The readings of all parameters after a step."""

    total: Reading
    groups: List[Reading]
    params: List[Reading]
    anew: bool  # the averages of a process do not fit: all must begin anew

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
    """The averages of an optimizer's readings."""

    def __init__(self, decay: float, params: Sequence[Tensor], readings: Readings):
        self._params = list(map(id, params))
        self._total = NoiseAverage(decay)
        self._groups = [NoiseAverage(decay) for _ in readings.groups]
        self._each = [NoiseAverage(decay) for _ in params]
        self._estimate: Optional[Noise] = None

    def fit(self, params: Sequence[Tensor], of_params: Sequence[Reading]) -> bool:
        """Whether the parameters are the same, and none that was read has gone back in its count of steps."""
        return list(map(id, params)) == self._params and not any(r.at and r.at <= a._step for r, a in zip(of_params, self._each))

    def add(self, readings: Readings) -> None:
        for average, reading in zip(self._all(), (readings.total, *readings.groups, *readings.params)):
            if reading.at:
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
    groups: Sequence[Dict[str, Any]], rules: Iterable[Tuple[Any, ...]], sums: Sums, process_group: Any, skip: bool, at: int,
    averages: Optional[Averages],
) -> Optional[Readings]:
    """The readings of the parameters of all groups, of this process or of a process group. None if one of its processes skips.

    at: the steps of the optimizer. averages: those so far.
    """
    params = [p for group in groups for p in group["params"]]
    of_params = _of_params([len(group["params"]) for group in groups], rules, _with_all_parts(params, sums))
    of_groups, first = [], 0
    for group in groups:
        last = first + len(group["params"])
        of_groups.append(of_params[first:last])
        first = last
    mine = skip, averages is None or not averages.fit(params, of_params), of_groups
    everywhere = [mine]
    if process_group is not None:
        everywhere = [mine] * torch.distributed.get_world_size(process_group)
        torch.distributed.all_gather_object(everywhere, mine, process_group)
    if any(skipped for skipped, _, _ in everywhere):
        return None
    count = max(len(parts) for _, _, parts in everywhere)
    merged = [[r for _, _, parts in everywhere for r in (parts[g] if g < len(parts) else ())] for g in range(count)]
    anew = any(anew for _, anew, _ in everywhere) or averages is None or len(averages._groups) != count
    return Readings(_total([r for part in merged for r in part], at), [_total(part, at) for part in merged], of_params, anew)


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
        part = whole[those]
        add_over(part, where)
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


def _total(readings: Sequence[Reading], at: int) -> Reading:
    there = [r for r in readings if r.at]
    if not there:
        return NOTHING
    signal, variance = (exact_sum([r[k] for r in there]) for k in (0, 1))
    return Reading(signal, variance, at, max(r.beta1 for r in there))


def exact_sum(values: Sequence[float]) -> float:
    """The sum, rounded once, so that its bits do not depend on the order. Only if it is out of range, or not a number, is it not finite."""
    try:
        return math.fsum(values)
    except ValueError:  # infinities of both signs
        return math.nan
    except OverflowError:  # of the sum, or of a part of it
        return exact_sum([math.ldexp(v, -64) for v in values]) * 2.0**64
