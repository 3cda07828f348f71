"""Draws depend on the seed, the purpose and the name, and on nothing else."""

import subprocess
import sys

import numpy as np

from heredity import seeds


def test_same_names_same_draws_other_names_other_draws() -> None:
    draw = seeds.generator(0, "split", "plays").random(4)
    np.testing.assert_array_equal(draw, seeds.generator(0, "split", "plays").random(4))
    for other in (
        seeds.generator(1, "split", "plays"),
        seeds.generator(0, "split", "lua"),
        seeds.generator(0, "splitplays"),
    ):
        assert not np.array_equal(draw, other.random(4))


def test_keys_do_not_depend_on_the_hash_seed() -> None:
    code = "from heredity import seeds; print(seeds.key(7, 'a', 1))"
    values = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": h},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for h in ("0", "1")
    }
    assert values == {f"{seeds.key(7, 'a', 1)}\n"}
