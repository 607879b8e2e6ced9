"""What the tests of hosts share."""

import importlib
import os
import random

import numpy as np
import pytest
import torch


def need(name):
    """A host's module. Where it is not installed the tests are skipped, but in .ci/hosts, which installs all, they fail."""
    return importlib.import_module(name) if os.environ.get("PNM_TEST_HOSTS") else pytest.importorskip(name)


def seed(number=0):
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


