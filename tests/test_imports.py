"""`import heredity` and `heredity --help` stay light."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "ray", "sklearn", "plotly", "numba", "polars", "tokenizers")


@pytest.mark.parametrize("code", ["import heredity", "from heredity.cli import _main; _main.run(['--help'])"])
def test_nothing_heavy_is_imported(code: str) -> None:
    script = f"{code}; import sys; print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_the_weight_side_runs_without_torch() -> None:
    script = (
        "import heredity.checkpoint, heredity.gram, heredity.merging, heredity.family, heredity.writer, heredity.run;"
        "import heredity.geometry, heredity.corpora;"
        "import sys; assert not {'torch', 'transformers', 'ray', 'plotly'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
