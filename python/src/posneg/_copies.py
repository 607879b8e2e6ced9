"""Copies of a device's parameters on the host, memory for their gradients, and the transfers in both directions."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from typing import Any, Deque, List, NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from ._rooms import rooms
from ._state import check_kind
from ._streams import Stream

_PLACE_OF_GRADIENTS = 6  # behind those of the state: _memory.py


class Copy:
    """A copy of a parameter, and memory (its room) for the gradient."""

    def __init__(self, param: Tensor, lanes: Lanes):
        self.param, self.lanes, self.look = param, lanes, look(param)
        self.host = torch.nn.Parameter(_empty(param), requires_grad=False)  # memory that has not been touched
        self.hooked = False
        self.stale = False  # the copy is updated, and the parameter is not yet
        self.pending = False  # the room has a gradient, or a sum, that the device no longer has
        self.flying = 0  # the number of gradients being transferred
        self._room: Optional[Tensor] = None
        self._has: Any = None  # the gradient that the room has, or will have, and its version
        self._same: Any = None  # the parameter's version and address when it last equalled the copy

    def fits(self) -> bool:
        return bool(look(self.param) == self.look)

    def has(self, g: Tensor) -> bool:
        """Whether g is the gradient in the room, or being transferred there, and unchanged since."""
        return self._has is not None and self._has[0]() is g and self._has[1] == g._version

    def bring(self, g: Tensor) -> None:
        """Starts the transfer of a gradient into the room."""
        self.lanes.bring(self, g, add=False)
        self._has = None if g.is_inference() else (weakref.ref(g), g._version)  # those have no version

    def take(self, g: Tensor) -> None:
        """Starts the transfer of a gradient into the room, added to a pending one. The caller may then free the gradient."""
        self.lanes.bring(self, g, add=self.pending)
        self.pending = True

    def room_for(self, g: Tensor) -> Tensor:
        """The room for a gradient, or for its addition to the sum there. Gradient, sum and parameter may have different types."""
        if self._room is None:
            furnish([self])
        assert self._room is not None
        dtype = torch.promote_types(self._room.dtype, g.dtype) if self.pending else g.dtype
        if self._room.dtype != dtype:
            room = rooms([_empty(self.param).to(dtype)], _PLACE_OF_GRADIENTS, self.lanes.down.pinned)[0]
            if self.pending:
                self.lanes.land_of(self)
                room.copy_(self._room)
            self._room = room
        return self._room

    @property
    def furnished(self) -> bool:
        return self._room is not None

    def furnish(self, host: Tensor, room: Tensor) -> None:
        self.host.data, self._room = host, room

    def forget(self) -> None:
        """Gives back memory that no step needs."""
        if not self.furnished:
            self.host.data, self._same = _empty(self.param), None

    def set_gradient(self, due: bool) -> None:
        """Sets the gradient of the copy to the room, or to None."""
        room = self._room if due else None
        if self.host.grad is room:
            return
        if room is not None and room.dtype != self.host.dtype:
            self.host.grad_dtype = None  # lets the gradient have another type
        self.host.grad = room

    def follow(self) -> None:
        """Updates the copy if others have written to the parameter."""
        now = self._now()
        if now != self._same:
            self.lanes.fetch(self.host.detach(), self.param.detach())
            self._same = now

    def send(self) -> None:
        """Starts copying the copy to the parameter."""
        self.lanes.send(self.param, self.host)
        self._same, self.stale = self._now(), False

    def _now(self) -> Any:
        return self.param._version, self.param.data_ptr()


def furnish(copies: Sequence[Copy]) -> None:
    """Gives copies without memory the memory that steps need."""
    for pinned in (False, True):
        some = [copy for copy in copies if not copy.furnished and copy.lanes.down.pinned == pinned]
        models = [_empty(copy.param) for copy in some]
        for copy, host, room in zip(some, rooms(models, 0, pinned), rooms(models, _PLACE_OF_GRADIENTS, pinned)):
            copy.furnish(host, room)


class _Flight(NamedTuple):
    """The transfer of a gradient to the host. It keeps the gradient's memory alive until the end."""

    event: Any
    copy: Copy
    gradient: Sequence[Tensor]
    room: Tensor
    landed: Tensor  # the room, or what is to be added to it

    @property
    def size(self) -> int:
        return self.landed.numel() * self.landed.element_size()


class Lanes:
    """The transfers between the host and a device, with a stream for each direction."""

    def __init__(self, device: torch.device):
        self.down, self.up = Stream(device), Stream(device)
        self._sent = self.up.mark()
        self._flying: Deque[_Flight] = deque()
        self._bytes = 0
        self._lock = threading.RLock()  # hooks run in threads of autograd's

    def bring(self, copy: Copy, g: Tensor, add: bool) -> None:
        """Starts the transfer of a gradient into its room, or its addition to the sum there. land_of() waits for the end."""
        with self._lock, self.down.after_current():
            room = copy.room_for(g)
            source = _laid_out(g, room)
            landed = room
            if add:
                landed = torch.empty_strided(room.shape, room.stride(), dtype=g.dtype, device="cpu", pin_memory=self.down.pinned)
            self.down.copy(landed, source)
            flight = _Flight(self.down.mark(), copy, (g, source), room, landed)
            self._flying.append(flight)
            self._bytes += flight.size
            copy.flying += 1

    def land(self, most: Optional[int]) -> None:
        """Ends transfers that have arrived. Waits while more than `most` bytes are being transferred."""
        with self._lock:
            while self._flying and (self._flying[0].event.query() or most is not None and self._bytes > most):
                self._land_one()

    def land_of(self, copy: Copy) -> None:
        """Waits for the gradients of a copy."""
        with self._lock:
            while copy.flying:
                self._land_one()

    def _land_one(self) -> None:
        flight = self._flying[0]
        flight.event.synchronize()
        self._flying.popleft()
        if flight.landed is not flight.room:
            flight.room.add_(flight.landed)
        self._bytes -= flight.size
        flight.copy.flying -= 1

    def fetch(self, to: Tensor, p: Tensor) -> None:
        """Copies a parameter to the host, and waits for it."""
        with self.down.after_current():
            source = _laid_out(p, to)
            self.down.copy(to, source)
            self.down.mark().synchronize()

    def send(self, p: Tensor, host: Tensor) -> None:
        """Starts copying to a parameter. Work queued on the current stream after see() waits for it."""
        with self.up.after_current():
            self.up.copy(p, host)
            self._sent = self.up.mark()

    def see(self) -> None:
        """Makes the current stream wait for everything sent so far."""
        self.up.before_current()

    def settle(self) -> None:
        """Waits for everything sent so far."""
        self._sent.synchronize()


def check_param(p: Tensor, what: str) -> None:
    """Reports a parameter that cannot be copied back and forth."""
    if type(p) not in (Tensor, torch.nn.Parameter):
        advice = "; FSDP2 has a CPUOffloadPolicy, with which posneg's classes work as they are" if hasattr(p, "to_local") else ""
        raise TypeError(f"posneg: {what} is a {type(p).__name__}, must be a plain tensor{advice}")
    if p.is_meta:
        raise RuntimeError(f"posneg: {what} is on the meta device: give the model its device and numbers first")
    check_kind(p)


def look(p: Tensor) -> Any:
    """The properties of a parameter that its copy has, too, and that must not change."""
    return p.dtype, p.shape, p.device


def said(looks: Any) -> str:
    dtype, shape, device = looks
    return f"{dtype} of shape {tuple(shape)} on {device}"


def _empty(p: Tensor) -> Tensor:
    """A tensor on the host that looks like a parameter, without gaps and without contents."""
    model = torch.empty_like(p.detach(), device="meta")
    return torch.empty_strided(model.shape, model.stride(), dtype=p.dtype, device="cpu")


def _laid_out(t: Tensor, model: Tensor) -> Tensor:
    """t with its elements in model's order, on the same device: transfers copy memory without reordering it."""
    t = t.detach().resolve_conj().resolve_neg()
    if t.stride() == model.stride():
        return t
    return torch.empty_strided(model.shape, model.stride(), dtype=t.dtype, device=t.device).copy_(t)
