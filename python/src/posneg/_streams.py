"""Copies between the host and a device, on a stream beside what the device computes."""

from __future__ import annotations

import contextlib
from typing import Any, Iterator

import torch
from torch import Tensor


class _Done:
    """An event that has happened."""

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        pass


class Stream:
    """A stream of a device. On a device without streams, as the CPU, each copy is done when copy() returns, and nobody need wait."""

    def __init__(self, device: torch.device):
        module: Any = getattr(torch, device.type, None)
        self._device = device
        self._module = module if device.type != "cpu" and hasattr(module, "Stream") and hasattr(module, "Event") else None
        self._stream = self._module.Stream(device) if self._module else None

    @property
    def pinned(self) -> bool:
        """Whether copies run beside the host where its memory is pinned."""
        return self._stream is not None

    @contextlib.contextmanager
    def after_current(self) -> Iterator[None]:
        """What is asked for meanwhile is done on this stream, after what the current one has been asked for."""
        if self._module is None or self._stream is None:
            yield
            return
        self._stream.wait_stream(self._module.current_stream(self._device))
        with self._module.stream(self._stream):
            yield

    def copy(self, to: Tensor, from_: Tensor) -> None:
        to.copy_(from_, non_blocking=self.pinned)

    def mark(self) -> Any:
        """An event: all copies so far are done."""
        return self._stream.record_event() if self._stream is not None else _Done()

    def before_current(self) -> None:
        """What the current stream is asked for from now on is done after all copies so far."""
        if self._module is not None:
            self._module.current_stream(self._device).wait_stream(self._stream)
