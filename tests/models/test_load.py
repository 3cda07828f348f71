"""The number of torch threads is the one asked for, whatever else starts threads; damaged folders are named."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("torch")

_PROGRAM = """
import torch
from heredity.models.load import threads
from heredity.kernels import sparse
import numpy as np

with threads(1):
    sparse.count_positive(np.ones((4, 4), np.float32), np.zeros(4, np.int64))
    print(torch.get_num_threads())
"""


def test_numbas_first_launch_leaves_torchs_threads_alone() -> None:
    environment = {**os.environ, "NUMBA_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.split() == ["1"]
