"""PNM, AdaPNM, SGD, Adam, AdamW and Lion for PyTorch on the CPU: classes like those of torch.optim, around a fused step.

>>> from posneg import AdaPNM
>>> optimizer = AdaPNM(model.parameters(), lr=1e-3)
"""

from importlib import metadata as _metadata

from . import _system

if _system.refusal():  # before torch is imported
    raise ImportError(f"posneg: {_system.refusal()}")

from . import offload
from ._fingerprint import Fingerprint
from ._library import isa
from ._noise import Noise, NoiseAverage
from ._threads import get_num_threads, set_num_threads
from .backward import step_in_backward
from .checkpoints import CheckpointError, ChecksumError, FingerprintError, load_checkpoint, read_fingerprint, save_checkpoint
from .optimizers import SGD, PNM, AdaPNM, Adam, AdamW, Lion
from .state_dicts import to_pytorch_optimizer

try:
    __version__ = _metadata.version("posneg")
except _metadata.PackageNotFoundError:  # on the path without being installed
    __version__ = "0+unknown"
__all__ = [
    "PNM", "AdaPNM", "SGD", "Adam", "AdamW", "Lion",
    "Noise", "NoiseAverage",
    "save_checkpoint", "load_checkpoint", "CheckpointError", "ChecksumError",
    "Fingerprint", "FingerprintError", "read_fingerprint",
    "offload", "step_in_backward", "get_num_threads", "set_num_threads", "isa", "to_pytorch_optimizer",
]
