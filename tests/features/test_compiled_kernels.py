"""Kernels give the same bits just compiled and from numba's cache: else the first run on a machine is one of a kind."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import hashlib
import numpy as np
from heredity.kernels import rectify
draw = np.random.default_rng(0)
pre, slope = draw.standard_normal((2, 64, 1000)).astype(np.float32)
bias = draw.standard_normal(64).astype(np.float32)
counts, sums, back = np.empty(64, np.int64), np.empty(64, np.float32), np.empty(64, np.float32)
rectify.rectify(pre, bias, counts, sums)
rectify.rectify_back(pre, slope, 0.1, back)
print([hashlib.sha256(a.tobytes()).hexdigest()[:12] for a in (pre, slope, counts, sums, back)])
"""


def test_codes_and_their_sums_do_not_depend_on_numbas_cache(tmp_path: Path) -> None:
    answers = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True,
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
        ).stdout
        for _ in range(2)
    ]  # fmt: skip
    assert any(tmp_path.rglob("*.nbc"))
    assert answers[0] == answers[1]
