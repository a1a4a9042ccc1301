"""Files: what is read, what is refused and in which words, and that nothing is ever half written."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from espref._output import FileError, atomic, check_writable
from espref.app.files import read_points, read_weights
from espref.app.text import Format

FINITE = st.floats(allow_nan=False, allow_infinity=False)


@given(array=arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=5), elements=FINITE))
def test_round_trip(array, tmp_path_factory):
    """What is written as .npy, or as .csv with all digits, is read back bit for bit."""
    folder = tmp_path_factory.mktemp("clouds")
    np.save(folder / "x.npy", array)
    np.savetxt(folder / "x.csv", array, delimiter=",", fmt="%.17g")
    as_told = Format(delimiter="comma", header=False, index_column=False)
    assert np.array_equal(read_points(folder / "x.npy"), array)
    assert np.array_equal(read_points(folder / "x.csv", as_told), array)


def test_header_and_spaces(tmp_path):
    """A header, a byte order mark, spaces, blank lines at the end and Windows line ends are tolerated."""
    path = tmp_path / "x.CSV"
    path.write_bytes("\ufefflatitude, longitude\r\n1, 2\r\n 3,4e0 \r\n\r\n".encode())
    assert np.array_equal(read_points(path), [[1, 2], [3, 4]])


def test_column_is_a_cloud_on_the_line(tmp_path):
    """A vector, or a single column, is a cloud of dimension 1."""
    np.save(tmp_path / "x.npy", np.arange(3, dtype=np.int16))
    (tmp_path / "x.csv").write_text("1\n2\n3\n")
    assert read_points(tmp_path / "x.npy").shape == read_points(tmp_path / "x.csv").shape == (3, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no numbers in it"),
        ("a,b\n", "no numbers in it"),
        ("1.5,2\n3\n", "row 2: expected 2 columns, got 1"),
        ("a,b\n1,2\n3,4,5\n", "row 3: expected 2 columns, got 3"),
        ("a,b\n1,2\n\n3,4\n", "row 3: blank; rows are not left out, since weights belong to them by position"),
        ("1.0,2\n3,four4\n", "row 2, column 2: expected a number, got 'four4'"),
        ("1.0,2\n3,\n", "row 2, column 2: missing value ''"),
        ("x,2\n3,4\n", "row 1: expected a number, got 'x'; if this row is the header, write --header"),
        ("a,b\n1,2\nnan,4\n", "row 3, column a: missing value 'nan'"),
        ("a,b\n1,2\n-inf,4\n", "row 3, column a: expected finite numbers, got -inf"),
        ("1.0,2\n3,1e999\n", "row 2, column 2: expected finite numbers, got 1e999, which is too large"),
    ],
)
def test_bad_csv(tmp_path, text, message):
    """The error is one line with the file and, where there is one, the row, counted from 1 with the header."""
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(FileError) as error:
        read_points(path)
    assert str(error.value) == f"{path}: {message}"


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((0, 2)), "expected one row per point, shape (n, d) with n, d >= 1, got shape (0, 2)"),
        (np.zeros((2, 2, 2)), "expected one row per point, shape (n, d) with n, d >= 1, got shape (2, 2, 2)"),
        (np.float64(1), "expected one row per point, shape (n, d) with n, d >= 1, got shape ()"),
        (np.array([[1.0, 2], [3, np.nan]]), "row 2: expected finite numbers, got nan"),
        (np.array([[1j]]), "expected an array of real numbers, got complex128"),
        (np.array([["a"]]), "expected an array of real numbers, got <U1"),
    ],
)
def test_bad_npy(tmp_path, array, message):
    """Arrays that are no cloud are refused."""
    path = tmp_path / "x.npy"
    np.save(path, array)
    with pytest.raises(FileError) as error:
        read_points(path)
    assert str(error.value) == f"{path}: {message}"


def test_pickles_are_never_loaded(tmp_path):
    """An object array would run code on loading; it is refused."""
    path = tmp_path / "x.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    for content in (path.read_bytes(), b"hello"):  # nor does the message advise to
        path.write_bytes(content)
        with pytest.raises(
            FileError, match=r"x\.npy: not a plain array of NumPy \(it holds objects, or is another kind"
        ):
            read_points(path)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"PK\x03\x04 no zip", b"\xff\xfe\x00"])
@pytest.mark.parametrize("suffix", ["npy", "csv"])
def test_damaged_files(tmp_path, content, suffix):
    """Truncated, empty and binary files are refused in one line."""
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(content)
    with pytest.raises(FileError) as error:
        read_points(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_archive_under_the_name_of_an_array(tmp_path):
    """A .npz archive renamed to .npy is refused."""
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    os.rename(tmp_path / "x.npz", tmp_path / "x.npy")
    with pytest.raises(FileError, match="got an archive"):
        read_points(tmp_path / "x.npy")


def test_missing_folder_and_unknown_suffix(tmp_path):
    """Unreadable paths name themselves."""
    (tmp_path / "folder.csv").mkdir()
    for name, message in (
        ("no.npy", "No such file"),
        ("folder.csv", "Is a directory"),
        ("x.xls", "expected a file that ends in"),
    ):
        with pytest.raises(FileError, match=message) as error:
            read_points(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)


def test_weights_are_scaled(tmp_path):
    """Counts become weights of sum 1, from a row or a column, huge ones too."""
    for text in ("1\n3\n", "1.0,3\n", "weight\n1\n3\n", "1e308\n3e308\n".replace("3e308", "1.5e308")):
        (tmp_path / "w.csv").write_text(text)
        weights = read_weights(tmp_path / "w.csv", 2)
        assert weights.sum() == pytest.approx(1, abs=1e-15)
        assert weights[1] == pytest.approx(0.6 if "e308" in text else 0.75)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("w\n1\n-2\n", "row 3: expected nonnegative weights, got -2.0"),
        ("1.0,-2\n", "row 1: expected nonnegative weights, got -2.0"),
        ("0.0\n0\n", "expected weights with a positive sum, all are zero"),
        ("1\n2\n3\n", "expected 2 weights, one for each point, got shape (3,)"),
        ("1.0,2\n3,4\n", "expected 2 weights, one for each point, got shape (2, 2)"),
    ],
)
def test_bad_weights(tmp_path, text, message):
    """Weights that are none are refused, with file and row."""
    path = tmp_path / "w.csv"
    path.write_text(text)
    with pytest.raises(FileError) as error:
        read_weights(path, 2)
    assert str(error.value) == f"{path}: {message}"


def test_atomic_writes_all_or_nothing(tmp_path):
    """The file appears at the end of the block; when the block fails the old file stays and no draft is left."""
    path = tmp_path / "out.json"
    with atomic(path) as draft:
        draft.write_text("first")
        assert not path.exists()
    assert path.read_text() == "first"
    with pytest.raises(KeyboardInterrupt), atomic(path) as draft:
        draft.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "first" and os.listdir(tmp_path) == ["out.json"]


def test_atomic_files_have_ordinary_permissions(tmp_path):
    """The draft is private; what it becomes has the permissions of any new file."""
    with atomic(tmp_path / "a") as draft:
        draft.write_text("x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_check_writable(tmp_path):
    """Impossible outputs are refused before the work begins; no file is no problem."""
    check_writable(None)
    check_writable(tmp_path / "new.json")
    with pytest.raises(FileError, match="this is a folder"):
        check_writable(tmp_path)
    with pytest.raises(FileError, match="does not exist"):
        check_writable(tmp_path / "no" / "new.json")
