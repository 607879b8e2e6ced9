"""DeepSpeed's ZeRO-Offload, with its two configuration keys for other optimizers."""

import pytest

from hosts import need
from test_distributed import run

need("deepspeed")


@pytest.mark.parametrize("world, stages", [(1, (1, 3)), (2, (1, 2, 3))])
def test_offload(tmp_path, world, stages):
    run(world, "hosts/deepspeed_worker.py", stages=stages, folder=tmp_path)
