"""Tables of text as people save them: read right, or refused with what to write; never otherwise without a word."""

import argparse

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from espref._output import FileError
from espref.app.files import read_clouds, read_points, read_weights
from espref.app.numbers import number, option_number, option_whole
from espref.app.tables import read_table
from espref.app.text import Format


def table(folder, text, **told):
    """The table in a file with this text."""
    path = folder / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_table(path, path.read_bytes(), Format(**told))


READ = {
    "plain": ("1.5,2\n3,4\n", [[1.5, 2], [3, 4]], None),
    "header": ("x,y\n1,2\n3,4\n", [[1, 2], [3, 4]], ("x", "y")),
    "quoted": ('"x","y, z"\n"1.5","2"\n', [[1.5, 2]], ("x", "y, z")),
    "semicolons and decimal commas": ("x;y\n1,5;2,25\n3;-4,5e2\n", [[1.5, 2.25], [3, -450]], ("x", "y")),
    "semicolons and points": ("1.5;2\n3;4\n", [[1.5, 2], [3, 4]], None),
    "tabs": ("x\ty\n1\t2\n", [[1, 2]], ("x", "y")),
    "blanks": ("  1.5 2\n3    4\n", [[1.5, 2], [3, 4]], None),
    "np.savetxt": ("# x y\n1.0 2.0\n3.0 4.0\n", [[1, 2], [3, 4]], ("x", "y")),
    "old Macintosh": ("x,y\r1.5,2\r3,4\r", [[1.5, 2], [3, 4]], ("x", "y")),
    "signs and points": ("+1.5,.5\n-1.,2e3\n", [[1.5, 0.5], [-1, 2000]], None),
    "byte order mark": ("\ufeffx,y\n1,2\n", [[1, 2]], ("x", "y")),
    "UTF-16": ("x,y\n1,2\n".encode("utf-16"), [[1, 2]], ("x", "y")),
    "one column": ("5\n6\n8\n", [[5], [6], [8]], None),
    "consecutive in one column": ("x\n1\n2\n3\n", [[1], [2], [3]], ("x",)),
    "index of pandas": (",x,y\n0,1.5,2\n1,3,4\n", [[1.5, 2], [3, 4]], ("x", "y")),
    "row names of R": ('"x","y"\n"1",1.5,2\n"a b",3,4\n', [[1.5, 2], [3, 4]], ("x", "y")),
}


@pytest.mark.parametrize("kind", READ)
def test_read(tmp_path, kind):
    """What has one meaning is read with it, names included."""
    text, values, names = READ[kind]
    found = table(tmp_path, text)
    assert np.array_equal(found.values, values) and found.names == names
    assert bool(found.left_out) == (found.row_names is not None) == (kind in ("index of pandas", "row names of R"))


REFUSED = {
    "decimal commas in one column": ("1,5\n2,75\n", "--decimal comma"),
    "decimal commas under a name": ("x\n1,5\n2,75\n", "row 2: '1,5' may be one number"),
    "decimal commas between blanks": ("1,5 2,5\n2,5 3,5\n", "--decimal comma"),
    "thousands": ("a;b\n1,500;2,500\n", "row 2: 1,500 may have a decimal comma or thousands"),
    "column of row numbers, named": ("Id,x,y\n7,2.5,3\n5,3,4\n", "column 'Id' seems to number the rows"),
    "PassengerId": ("PassengerId,x,y\n7,2.5,3\n5,3,4\n", "column 'PassengerId' seems"),
    "row.names": ("row.names,x,y\n7,2.5,3\n5,3,4\n", "column 'row.names' seems"),
    "patient_id": ("x,patient_id\n2.5,3\n3,9\n", "column 'patient_id' seems"),
    "column of row numbers, unnamed": ("1,0.5\n2,0.3\n3,0.2\n", "column '1' seems to number the rows (1, 2, ...)"),
    "row numbers from 0 at the end": ("a,b\n.5,0\n.3,1\n.2,2\n", "column 'b' seems to number the rows (0, 1, ...)"),
    "header of whole numbers": ("0,1\n0.5,0.2\n1.5,2.5\n", "row 1: 0, 1 may be a point or a header"),
    "header of years": ("2019,2020\n1.5,2.5\n2.5,3.5\n", "row 1: 2019, 2020 may be a point or a header"),
    "header of a series": ("0\n1.5\n2.5\n", "row 1: 0 may be a point or a header"),
    "missing first row": ("NA,NA\n1,2\n", "row 1: missing values, or a header"),
    "half a header": ("x,2\n3,4\n", "row 1: expected a number, got 'x'"),
    "blank row": ("x,y\n1,2\n\n3,4\n", "row 3: blank"),
    "empty row": ("x,y\n1,2\n,\n3,4\n", "row 3: blank"),
    "blank row in a column": ("1.5\n\n2.5\n", "row 2: blank"),
    "missing value": ("x,y\n1,2\n3,\n", "row 3, column y: missing value ''"),
    "NA": ("x,y\n1,N/A\n", "row 2, column y: missing value 'N/A'"),
    "a dash": ("x,y\n1,-\n", "row 2, column y: missing value '-'"),
    "underscore": ("x,y\n10117_1109,5\n", "row 2, column x: expected a number, got '10117_1109'"),
    "full-width digits": ("x,y\n\uff11,5\n", "row 2, column x: expected a number"),
    "Arabic-Indic digits": ("x,y\n\u0661,5\n", "row 2, column x: expected a number"),
    "minus sign of typography": ("x,y\n\u22121,5\n", "row 2, column x: expected a number"),
    "hexadecimal": ("x,y\n0x10,5\n", "row 2, column x: expected a number"),
    "percent": ("x,y\n1%,5\n", "row 2, column x: expected a number"),
    "dates": ("t,x\n2020-01-01,3\n", "row 2, column t: expected a number"),
    "words": ("a,species\n5.1,setosa\n4.9,setosa\n", "leave the column out by --columns a"),
    "true and false": ("a,b\n5.1,TRUE\n", "row 2, column b: expected a number"),
    "infinity": ("x,y\n1,-inf\n", "row 2, column y: expected finite numbers"),
    "too large": ("x,y\n1,1e999\n", "row 2, column y: expected finite numbers"),
    "too small": ("x,y\n1,1e-400\n", "too small for a float"),
    "too many digits": ("x,y\n1,12345678901234567890\n", "more digits than a float"),
    "header again": ("x,y\n1,2\nx,y\n3,4\n", "row 3, column x: expected a number"),
    "comment within": ("x,y\n1,2\n#3,4\n", "row 3, column x: expected a number"),
    "ragged": ("x,y\n1,2\n3,4,5\n", "row 3: expected 2 columns, got 3"),
    "another delimiter": ("x|y\n1|2\n", "expected a number, got '1|2'"),
    "not UTF-8": ("x,y\né,2\n".encode("cp1252"), "row 2: not utf-8; name the encoding"),
    "binary": (b"\x00\x01\x02\x03", "not a text file of numbers"),
    "nothing": ("\n \n", "no numbers in it"),
    "a header alone": ("x,y\n", "no numbers in it"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(tmp_path, kind):
    """What is in doubt is one line that names the file, the row and the column, and says what to write."""
    text, message = REFUSED[kind]
    with pytest.raises(FileError) as error:
        table(tmp_path, text)
    assert str(error.value).startswith(str(tmp_path / "t.csv")) and message in str(error.value)
    assert "\n" not in str(error.value)


TOLD = {
    "decimal commas": ("1,5\n2,75\n", {"decimal": ","}, [[1.5], [2.75]]),
    "decimal commas between blanks": ("1,5 2,5\n2,5 3,5\n", {"decimal": ","}, [[1.5, 2.5], [2.5, 3.5]]),
    "pairs": ("1,5\n2,75\n", {"delimiter": "comma"}, [[1, 5], [2, 75]]),
    "thousandths": ("a;b\n1,500;2,500\n", {"decimal": ","}, [[1.5, 2.5]]),
    "no header": ("0,1\n0.5,0.2\n", {"header": False}, [[0, 1], [0.5, 0.2]]),
    "a header": ("0,1\n0.5,0.2\n", {"header": True}, [[0.5, 0.2]]),
    "an index": ("Id,x\n7,2.5\n5,3\n", {"index_column": True}, [[2.5], [3]]),
    "no index": ("Id,x\n7,2.5\n5,3\n", {"index_column": False}, [[7, 2.5], [5, 3]]),
    "columns by name": ("Id,x,y\n7,2.5,1\n5,3,2\n", {"columns": ("y", "x")}, [[1, 2.5], [2, 3]]),
    "columns by number": ("Id,x,y\n7,2.5,1\n5,3,2\n", {"columns": ("2", "3")}, [[2.5, 1], [3, 2]]),
    "without words": ("a,species,b\n5.1,setosa,1\n", {"columns": ("a", "b")}, [[5.1, 1]]),
    "an encoding": ("é,y\n1,2\n".encode("cp1252"), {"encoding": "cp1252"}, [[1, 2]]),
    "another delimiter": ("x|y\n1|2\n", {"delimiter": "|"}, [[1, 2]]),
}


@pytest.mark.parametrize("kind", TOLD)
def test_told(tmp_path, kind):
    """What the messages say to write resolves the doubt."""
    text, told, values = TOLD[kind]
    assert np.array_equal(table(tmp_path, text, **told).values, values)


@given(word=st.text(st.sampled_from("0123456789+-.eE_ \uff11\u0661xn,"), max_size=8))
def test_grammar_of_numbers(word):
    """A number has ASCII digits, one point, one exponent; where there is one, it is Python's number."""
    try:
        value = number(word)
    except ValueError:
        return
    assert value == float(word) and word.isascii() and "_" not in word and word == word.strip()


@pytest.mark.parametrize("word", ["1_0", "\uff11", "0x1", "1e", "", "nan", "1 0", "1,5"])
def test_options_have_the_same_grammar(word):
    """--beta 1_0 is refused as a cell would be."""
    for read in (option_number, option_whole):
        with pytest.raises(argparse.ArgumentTypeError, match="expected a"):
            read(word)
    assert option_number("inf") == np.inf and option_whole("12") == 12


def options(**told):
    """What the command line gives to the reader."""
    names = "source target source_weights target_weights columns header index delimiter decimal encoding"
    return argparse.Namespace(**dict.fromkeys(names.split()) | told)


def test_columns_are_compared_by_name(tmp_path):
    """x,y against y,x is refused; by --columns both are read in one order; by number they are taken as they stand."""
    source, target = tmp_path / "s.csv", tmp_path / "t.csv"
    source.write_text("x,y\n1,2\n3,5\n")
    target.write_text("y,x\n2,1\n5,3\n")
    with pytest.raises(FileError, match=r"t\.csv: expected the columns x, y like .*; write --columns x,y"):
        read_clouds(options(source=source, target=target))
    by_name = read_clouds(options(source=source, target=target, columns="x,y"))
    assert np.array_equal(by_name.x, by_name.y) and by_name.names == ("x", "y")
    target.write_text("lat,lon\n2,1\n5,3\n")
    with pytest.raises(FileError, match=r"write --columns 1,2 to take columns by their place"):
        read_clouds(options(source=source, target=target))
    by_place = read_clouds(options(source=source, target=target, columns="1,2"))
    assert np.array_equal(by_place.y, [[2, 1], [5, 3]])


def test_weights_belong_to_their_rows(tmp_path):
    """Where points and weights name their rows, the names must agree, in this order."""
    points, weights = tmp_path / "p.csv", tmp_path / "w.csv"
    points.write_text(",x,y\na,1,2\nb,3,4\n")
    weights.write_text(",w\na,1\nb,3\n")
    told = options(source=points, target=points, source_weights=weights)
    assert read_clouds(told).a == pytest.approx([0.25, 0.75])
    weights.write_text(",w\nb,3\na,1\n")
    with pytest.raises(FileError, match=r"w\.csv: expected the rows of the points, which begin otherwise at number 1"):
        read_clouds(told)


def test_what_was_read_is_said(tmp_path):
    """File, number of points and columns, their names, and what was left out."""
    points = tmp_path / "p.csv"
    points.write_text(",x,y\na,1,2\nb,3,4\n")
    clouds = read_clouds(options(source=points, target=points))
    assert clouds.said[0] == f"{points}: 2 points, 2 columns: x, y; its first column is left out"


def test_archives(tmp_path):
    """An .npz of one array is that array; of several, the name is asked for, and FILE.npz:name gives it."""
    x, y = np.arange(4.0).reshape(2, 2), np.ones((3, 2))
    np.savez(tmp_path / "one.npz", x)
    np.savez(tmp_path / "two.npz", x=x, y=y)
    assert np.array_equal(read_points(tmp_path / "one.npz"), x)
    assert np.array_equal(read_points(f"{tmp_path}/two.npz:y"), y)
    with pytest.raises(FileError, match=r"expected the name of an array, such as .*two\.npz:x; it holds x, y"):
        read_points(tmp_path / "two.npz")
    with pytest.raises(FileError, match="it holds x, y"):
        read_points(f"{tmp_path}/two.npz:z")


@pytest.mark.parametrize(
    "content",
    [
        b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f8'((",
        b"\x93NUMPY\x01\x00\x76\x00" + b"{'descr': '<f8', 'fortran_order': False, 'shape': (2, 2".ljust(117) + b"\n",
        b"\x93NUMPY\x01\x00\x76\x00"
        + b"{'descr': '<q9', 'fortran_order': False, 'shape': (2, 2), }".ljust(117)
        + b"\n",
        b"\x93NUMPY\x01\x00\x76\x00"
        + b"{'descr': '<f8', 'fortran_order': False, 'shape': (9, 9), }".ljust(117)
        + b"\n",
        b"\x93NUMPY\x01\x00\x76\x00"
        + b"{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 2), }".ljust(117)
        + b"\n",
        b"\x93NUMPY\x09\x00\x76\x00" + b"{}".ljust(117) + b"\n",
    ],
)
def test_damaged_headers(tmp_path, content):
    """Whatever stands in a header, the error is one line with the file."""
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    with pytest.raises(FileError) as error:
        read_points(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_exotic_dtypes(tmp_path):
    """What float64 cannot hold is refused with the row; half precision is read, bfloat16 is named."""
    for array, message in (
        (np.array([[1], [2**53 + 1]]), "row 2: 9007199254740993 has more digits than float64"),
        (np.array([[np.longdouble(1) + np.longdouble(2) ** -60]]), "row 1: "),
        (np.zeros((2, 2), dtype="V2"), "bfloat16"),
        (np.array([["2020-01-01"]], dtype="datetime64[D]"), "expected an array of real numbers"),
        (np.zeros(3, dtype=[("x", float)]), "expected an array of real numbers"),
    ):
        np.save(tmp_path / "x.npy", array)
        with pytest.raises(FileError, match=message):
            read_points(tmp_path / "x.npy")
    np.save(tmp_path / "x.npy", np.float16([[1.5]]))
    assert read_points(tmp_path / "x.npy").dtype == np.float64


def test_parquet(tmp_path):
    """Columns by name, without the index of pandas; missing values and words are refused."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "x.parquet"
    columns = {"x": [1.0, 2.0], "y": [3, 4], "__index_level_0__": [7, 9]}
    parquet.write_table(pyarrow.table(columns), path)
    assert np.array_equal(read_points(path), [[1, 3], [2, 4]])
    assert np.array_equal(read_points(path, Format(columns=("y",))), [[3], [4]])
    for bad, message in (({"x": [1.0, None]}, "1 missing values"), ({"x": ["a", "b"]}, "expected numbers, got string")):
        parquet.write_table(pyarrow.table(bad), path)
        with pytest.raises(FileError, match=message):
            read_points(path)
    path.write_bytes(b"PAR1 no")
    with pytest.raises(FileError, match="not a Parquet file"):
        read_points(path)


def test_weights_in_a_table_with_row_names(tmp_path):
    """--index of the points does not take the one column of the weights away."""
    (tmp_path / "w.csv").write_text("w\n1\n3\n")
    found = read_weights(tmp_path / "w.csv", 2, Format(index_column=True, columns=("x",)))
    assert found == pytest.approx([0.25, 0.75])


@pytest.mark.parametrize(
    "row",
    ["1_000,2_000", "\u0663,\u0664", "\uff11,\uff12", "12%,4%", '"1,234","5,678"', "1D3,2D3", "0x10,0x11", "$1,$2"],
)
def test_misspelt_numbers_are_no_header(tmp_path, row):
    """A first row of numbers in another grammar is a point that cannot be read, and is not lost as a header."""
    with pytest.raises(FileError, match="row 1, column 1: expected a number"):
        table(tmp_path, f"{row}\n1.5,3\n2.5,4\n")


def test_pandas_without_names(tmp_path):
    """DataFrame.to_csv of unnamed columns: a row of column numbers, a column of row numbers."""
    found = table(tmp_path, ",0,1\n0,0.5,0.7\n1,0.1,0.2\n")
    assert found.values.tolist() == [[0.5, 0.7], [0.1, 0.2]] and found.names == ("0", "1")


def test_identifiers_that_grow(tmp_path):
    """Whole numbers that increase beside fractions are asked about, unless they are called a coordinate."""
    rows = "".join(f"{name},{k / 8 + 0.01},{0.5 - k / 7}\n" for k, name in enumerate((103, 204, 305, 777, 1000)))
    for header in ("", "patient,u,v\n"):
        with pytest.raises(FileError, match=r"seems to number the rows .* --no-index"):
            table(tmp_path, header + rows)
    assert table(tmp_path, "year,u,v\n" + rows).values.shape == (5, 3)
    assert table(tmp_path, rows, index_column=False).values.shape == (5, 3)


def test_names_in_parquet(tmp_path):
    """The named index of pandas is left out; a column that is called an identifier is asked about."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "x.parquet"
    columns = pyarrow.table({"id": [7, 9], "x": [0.5, 0.25]})
    parquet.write_table(columns, path)
    with pytest.raises(FileError, match="column 'id' seems to number the rows"):
        read_points(path)
    parquet.write_table(columns.replace_schema_metadata({"pandas": '{"index_columns": ["id"]}'}), path)
    assert read_points(path).tolist() == [[0.5], [0.25]]


@pytest.mark.parametrize(
    "text",
    [
        "-1,364e+01\n2,189e+00\n",
        "x\n1,5E3\n2,5E3\n",
        '"a b"\nr0 28,7\nr1 -4,9\n',
        'n "a b"\n5 1,25e+01\n6 7,76e+00\n8 9,5e+00\n',
        '"v"\n"1" "0,5"\n"2" "0,7"\n',
    ],
)
def test_decimal_commas_are_not_delimiters(tmp_path, text):
    """Exponents, quotes and names of rows do not hide that a comma may be decimal."""
    with pytest.raises(FileError, match="decimal comma"):
        table(tmp_path, text)
    assert table(tmp_path, text, decimal=",", index_column="n " in text or None).values.shape[1] == 1


INDEX = {"none": None, "pandas": "", "R": '""', "rownames": "rownames", "shorter header": None}


@given(
    values=arrays(np.int64, st.tuples(st.integers(3, 6), st.integers(1, 4)), elements=st.integers(-9999, 9999)),
    signs=st.sampled_from([(".", ","), (".", ";"), (".", "\t"), (".", " "), (",", ";"), (",", "\t"), (",", " ")]),
    style=st.sampled_from(["{:.3f}", "{:.17e}", "{:g}"]),
    head=st.sampled_from(["names", "a name", "0", None]),
    index=st.sampled_from(sorted(INDEX)),
    marks=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_right_or_refused(values, signs, style, head, index, marks, tmp_path_factory):
    """However a table of fractions is saved, with or without numbers of its rows: it is read right, or refused."""
    decimal, delimiter = signs
    texts = [[style.format(value / 1000 + 0.0005).replace(".", decimal) for value in row] for row in values]
    rows = [[*([] if index == "none" else [f'"{k}"']), *row] for k, row in enumerate(texts, 1)]
    if head is not None:
        names = [str(k) if head == "0" else f'"{head} {k}"' for k in range(values.shape[1])]
        rows.insert(0, ([] if INDEX[index] is None else [INDEX[index]]) + names)
    text = ("\ufeff" if marks[0] else "") + ("\r\n" if marks[1] else "\n").join(map(delimiter.join, rows))
    path = tmp_path_factory.mktemp("tables") / "x.csv"
    path.write_bytes(text.encode("utf-8") + b"\n\n" * marks[2])
    try:
        found = read_points(path)
    except FileError:
        return
    assert np.array_equal(found, [[float(word.replace(",", ".")) for word in row] for row in texts])
