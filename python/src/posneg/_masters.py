"""float32 masters of 16-bit parameters. The parameter itself is the 16-bit copy that the model computes with.

The state has the whole master of a float16 parameter, as "master_param". A bfloat16 parameter is the upper half of its master, and the
state has the lower half, as "master_low" in int16, which saves 2 bytes per element. State dicts have its bits as bfloat16, which torch's
tools can send between processes and Optimizer.load_state_dict leaves alone; neither holds for int16. Checkpoints have whole masters.
"""

from __future__ import annotations

from typing import Any, Dict

import torch
from torch import Tensor

from ._memory import zeros
from ._placements import is_cut, local, retyped, with_part

MASTER = "master_param"
MASTER_LOW = "master_low"


def has_master(p: Tensor, group: Dict[str, Any]) -> bool:
    """Whether a parameter is a 16-bit copy of the float32 one that is trained."""
    return p.dtype == torch.float16 or p.dtype == torch.bfloat16 and group["master_weights"]


def begin(p: Tensor, place: int, row_major: bool = False) -> Dict[str, Tensor]:
    """The entries of the state for a master that begins as a copy of the parameter."""
    if p.dtype == torch.float16:
        return {MASTER: zeros(p, torch.float32, place, row_major).copy_(p.detach())}
    return {MASTER_LOW: zeros(p, torch.int16, place, row_major)}


def join(p: Tensor, low: Tensor) -> Tensor:
    """The master of a bfloat16 parameter: joinBF16 in format.go."""
    upper = local(p).detach().view(torch.int16).to(torch.int32).mul_(1 << 16)
    both = upper + local(low)
    joined = torch.where((upper ^ both) < 0, upper, both).view(torch.float32)
    return with_part(low, joined) if is_cut(low) else joined


def split(p: Tensor, master: Tensor, place: int, row_major: bool = False) -> Tensor:
    """The lower half of a master, cut like its parameter, which becomes the upper half.

    An element of the parameter that is not the rounded master was written by others: it stays, and becomes the master.
    """
    ours, theirs = local(master).view(torch.int32), local(p).detach().view(torch.int16)
    nan = local(master).isnan()
    nearest = _upper(ours + 0x7FFF + (ours >> 16 & 1))
    upper = _upper(ours + 0x8000)  # farther from zero in a tie: splitBF16 in format.go
    kept = ((theirs == nearest) | (theirs == upper)).logical_and_(nan.logical_not_())
    now = torch.where(kept, upper, theirs)
    if not torch.equal(now, theirs):
        theirs.copy_(now)
    low: Tensor = zeros(p, torch.int16, place, row_major)
    local(low).copy_(_narrow(ours).mul_(kept))
    return low


def followed(p: Tensor, master: Tensor) -> Tensor:
    """The master as the next step will see it, with the values that others have written to the parameter."""
    ours, theirs = local(master), local(p).detach()
    same = ours.to(theirs.dtype).view(torch.int16) == theirs.view(torch.int16)
    return torch.where(same, ours, theirs.to(ours.dtype))


def exported(state: Dict[str, Any]) -> Dict[str, Any]:
    """A state for state dicts."""
    return {**state, MASTER_LOW: retyped(state[MASTER_LOW], torch.bfloat16)} if MASTER_LOW in state else state


def _upper(bits: Tensor) -> Tensor:
    return (bits >> 16).to(torch.int16)


def _narrow(bits: Tensor) -> Tensor:
    """The lower halves, by a conversion of numbers within int16: others convert differently on different machines."""
    return (bits.mul(1 << 16) >> 16).to(torch.int16)
