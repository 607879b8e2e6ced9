import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # eager.py


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(1)
