"""A plan is alone in its process: in a group of several it says so, whenever the group began."""

import os
import subprocess
import sys

import pytest
import torch

RANK = """
import sys
import torch
from dsenv import DataPlan

data = torch.rand(20, 3), torch.arange(20) % 2
early = DataPlan(data, epochs=2, batch_size=5)
torch.distributed.init_process_group(
    "gloo", init_method="file://" + sys.argv[1], rank=int(sys.argv[2]), world_size=int(sys.argv[3])
)
for make in (lambda: DataPlan(data, epochs=2, batch_size=5), lambda: next(early.batches())):
    try:
        make()
        print("fine")
    except ValueError as error:
        print(error)
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without torch.distributed")
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_plan_in_one_of_several_processes_raises(ranks, tmp_path):
    where = str(tmp_path / "store")
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, where, str(rank), str(ranks)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank in range(ranks)
    ]
    for rank, process in enumerate(started):
        text, _ = process.communicate(timeout=300)
        assert process.returncode == 0
        if ranks == 1:
            assert text.split() == ["fine", "fine"]
        else:
            assert text.count(f"this process is rank {rank} of 2 of a torch.distributed group") == 2
