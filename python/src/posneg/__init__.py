"""PNM, AdaPNM, SGD, Adam and AdamW for PyTorch on the CPU: torch.optim's classes around a fused step.

>>> from posneg import AdaPNM
>>> optimizer = AdaPNM(model.parameters(), lr=1e-3)
"""

from ._library import isa
from .checkpoints import to_pytorch_optimizer
from .optimizers import SGD, PNM, AdaPNM, Adam, AdamW

__version__ = "0.1.0"
__all__ = ["PNM", "AdaPNM", "SGD", "Adam", "AdamW", "isa", "to_pytorch_optimizer"]
