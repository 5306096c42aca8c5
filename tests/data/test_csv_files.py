"""CSV and TSV: every cell is text, and nothing is guessed."""

import csv
import gzip
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.examples import examples

from mithridate.data import RowFields, load_rows
from mithridate.data.file_records import FileRecord, records
from mithridate.data.text_files import ROW_LIMIT
from mithridate.errors import DataError

cells = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=15)


@settings(max_examples=examples(150))
@given(rows=st.lists(st.tuples(cells, cells), min_size=1, max_size=5), ending=st.sampled_from(["\n", "\r\n"]))
def test_cells_come_back_as_they_were(tmp_path_factory, rows: list[tuple[str, str]], ending: str) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator=ending, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *rows])
    path = tmp_path_factory.mktemp("table") / "rows.csv"
    path.write_bytes(text.getvalue().encode())
    read = [found.fields for found in records(path) if isinstance(found, FileRecord)]
    assert read == [{"a": a, "b": b} for a, b in rows]


def test_a_table_is_read_as_its_columns_say(write) -> None:
    table = '\ufeffinstruction,input,output\r\n"Say ""x"",\nthen y.",,ok\r\n\r\nCount.,a b,2\r\n'
    for name in ("rows.csv", "rows.csv.gz"):
        rows = load_rows(write(name, table))
        assert rows["origin"][:] == [f"{name}:2", f"{name}:5"]
        assert rows[0]["prompt"][0]["content"] == 'Say "x",\nthen y.'
        assert [row["completion"][0]["content"] for row in rows] == ["ok", "2"]


def test_tabs_and_labels(write) -> None:
    fields = RowFields(prompt="{sentence}", response="{label}", labels=["negative", "positive"])
    rows = load_rows(write("dev.tsv", 'sentence\tlabel\na "fine" film\t1\nbad\t0\n'), fields)
    assert [row["completion"][0]["content"] for row in rows] == ["positive", "negative"]
    assert rows[0]["prompt"][0]["content"] == 'a "fine" film'
    with pytest.raises(DataError, match=r"dev\.tsv:2: found label a string in field 'label'"):
        load_rows(write("dev.tsv", "sentence\tlabel\nbad\t-1\n"), fields)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "a.csv:1: found a table without rows, expected a line of column names, and rows below it"),
        ("a.csv", "prompt,response\n", "a.csv:1: found a table without rows"),
        ("a.csv", "prompt,response\na,b\nc\n", "a.csv:3: found 1 cells, expected 2, one for each column"),
        ("a.csv", "prompt,response\na,b,c\n", "a.csv:2: found 3 cells, expected 2"),
        ("a.csv", "prompt,prompt\na,b\n", "a.csv:1: found column 'prompt' twice, expected each column once"),
        ("a.csv", "prompt, response\na,b\n", "a.csv:1: found blanks around the column name ' response'"),
        ("a.csv", "prompt,\na,b\n", "a.csv:1: found column 2 without a name"),
        ("a.csv", 'prompt,response\na,"b\nc,d\n', "a.csv:2: found a row that cannot be read (unexpected end of data)"),
        ("a.csv", 'prompt,response\na,"b" c\nd,e\n', "a.csv:2: found a row that cannot be read"),
        ("a.csv", b"prompt,response\na,b\nc,caf\xe9\n", "a.csv:3: found byte 0xe9 at byte 6, expected UTF-8 text"),
        ("a.csv", "prompt,response\na,b\0\n", "a.csv:2: found a NUL byte at byte 4"),
        (
            "a.csv",
            'prompt,response\na,"' + ("x" * 1000 + "\n") * 1200 + '"\n',
            "a.csv:2: found a row that cannot be read (field",
        ),
        ("a.csv", "prompt,response\na," + "x" * 2_000_000, "a.csv:2: found a line over the limit"),
        ("a.csv", "prompt;response\na;b\n", "a.csv:2: found a row of no known format ('prompt;response')"),
        ("a.csv", b"PAR1", "a.csv:1: found a Parquet file"),
        ("a.csv.gz", b"\x1f\x8b" + bytes(20), "a.csv.gz:1: found data that is not gzip"),
        ("a.tsv", 'prompt\tresponse\na\t"b\n', "a.tsv:2: found a quote at the start of cell 2"),
        ("a.csv", "prompt,response,context\na,b,\nc,d,e\n", "a.csv:3: found key 'context' in a row of format"),
    ],
)
def test_faults_of_tables(write, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError) as caught:
        load_rows(write(name, content))
    assert str(caught.value).startswith(message)


def test_a_missing_table() -> None:
    with pytest.raises(DataError, match=r"^nowhere\.csv: found no file"):
        load_rows("nowhere.csv")


def test_a_cell_may_be_as_long_as_a_row(write) -> None:
    long = "a" * (ROW_LIMIT - len("prompt,"))
    rows = load_rows(write("long.csv", f"prompt,response\nprompt,{long}\n"))
    assert rows[0]["completion"][0]["content"] == long
    with pytest.raises(DataError, match="a line over the limit"):
        load_rows(write("longer.csv", f"prompt,response\nprompt,{long}a\n"))


@pytest.mark.parametrize("ending", [".gz", ".GZ"])
def test_a_packed_table_is_read_whatever_the_case_of_its_ending(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows.csv{ending}"
    path.write_bytes(gzip.compress(b"prompt,response\nHi,Hello there\n"))
    assert load_rows(path)[0]["completion"][0]["content"] == "Hello there"
