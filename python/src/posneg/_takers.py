"""The object that takes a parameter's gradient in backward passes, and frees it. A second one would find no gradient, and is refused."""

from __future__ import annotations

import functools
import weakref
from typing import Any, Sequence

from torch import Tensor


@functools.lru_cache(maxsize=None)
def _takers() -> Any:
    """Weak references to those who take, by parameters."""
    from torch.utils.weak import WeakTensorKeyDictionary  # since torch 2.0, as hooks for this are since 2.1

    return WeakTensorKeyDictionary()


def _nobody() -> None:
    return None


def take(params: Sequence[Tensor], who: Any) -> None:
    """Registers `who` to take the gradients, as long as it exists, or until give_back."""
    takers = _takers()
    for i, p in enumerate(params):
        if takers.get(p, _nobody)() not in (None, who):
            raise RuntimeError(
                f"posneg: another optimizer takes the gradient of parameter {i}, of shape {tuple(p.shape)}, in backward passes; "
                f"delete that optimizer, or call remove() of the handle that step_in_backward returned for it"
            )
    takers.update((p, weakref.ref(who)) for p in params)


def takes(who: Any, p: Tensor) -> bool:
    return bool(_takers().get(p, _nobody)() is who)


def give_back(who: Any) -> None:
    takers = _takers()
    for p in [p for p, taker in takers.items() if taker() is who]:
        del takers[p]
