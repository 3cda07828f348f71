"""Named matrices and the files they are read from."""

import numpy as np
import pytest

from heredity.errors import ConfigError
from heredity.geometry import Matrix, read_matrix


def test_reads_plain_and_quoted_rows_alike(tmp_path):
    plain, quoted = tmp_path / "plain.csv", tmp_path / "quoted.csv"
    plain.write_text("seed_1_data_9, seed_2_data_7\n1.0,-0.06\n-0.06,1.0\n")
    quoted.write_text('"seed_1_data_9, seed_2_data_7"\n"1.0,-0.06"\n"-0.06,1.0"\n\n')
    for file in (plain, quoted):
        matrix = read_matrix(file)
        assert matrix.names == ("seed_1_data_9", "seed_2_data_7")
        np.testing.assert_array_equal(np.asarray(matrix), [[1.0, -0.06], [-0.06, 1.0]])
        assert matrix.labels("data") == ("9", "7")
        assert matrix.labels("seed") == ("1", "2")


def test_select_keeps_the_order_given():
    matrix = Matrix(("a", "b", "c"), np.array([[1.0, 0.1, 0.2], [0.1, 1.0, 0.3], [0.2, 0.3, 1.0]]))
    chosen = matrix.select(["c", "a"])
    assert chosen.names == ("c", "a")
    np.testing.assert_array_equal(chosen.values, [[1.0, 0.2], [0.2, 1.0]])
    with pytest.raises(ConfigError, match="no row named 'd'"):
        matrix.select(["d"])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is empty"),
        ("a,b\n1,2\n", "2 names but 1 × 2 numbers"),
        ("a,b\n1,x\nx,1\n", "could not convert"),
        ("a,b\n1,nan\nnan,1\n", r"not a finite number at \[a, b\]"),
        ("a,b\n1,0.5\n0.1,1\n", "not symmetric"),
        ("a,a\n1,0\n0,1\n", "two rows are named 'a'"),
        ("a,b\n1,2\n3\n", "inhomogeneous|2 names"),
    ],
)
def test_bad_files_say_what_is_wrong(tmp_path, text, complaint):
    file = tmp_path / "bad.csv"
    file.write_text(text)
    with pytest.raises(ConfigError, match=complaint) as caught:
        read_matrix(file)
    assert str(file) in caught.value.message
    assert caught.value.hint


def test_missing_file_and_missing_field():
    with pytest.raises(ConfigError, match=r"nowhere\.csv: cannot be read"):
        read_matrix("nowhere.csv")
    with pytest.raises(ConfigError, match="no field 'data'"):
        Matrix(("a",), np.ones((1, 1))).labels("data")
