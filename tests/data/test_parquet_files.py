"""Parquet: rows by number, and no damaged or hostile file that ends in anything but a fault."""

import datetime
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from tests.helpers.examples import examples

from mithridate.data import check_upload, load_rows, parquet_files
from mithridate.errors import DataError

Q, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    str.strip
)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(columns: dict[str, Any], name: str = "rows.parquet", **settings: Any) -> str:
    parquet.write_table(pa.table(columns), name, **settings)
    return name


@settings(max_examples=examples(40), deadline=None)
@given(
    rows=st.lists(st.tuples(texts, texts), min_size=1, max_size=8), packed=st.sampled_from(["zstd", "snappy", "none"])
)
def test_texts_come_back_as_they_were(tmp_path_factory, rows: list[tuple[str, str]], packed: str) -> None:
    path = tmp_path_factory.mktemp("p") / "rows.parquet"
    written({"prompt": [p for p, _ in rows], "response": [r for _, r in rows]}, str(path), compression=packed)
    read = load_rows(path)
    assert [(row["prompt"][0]["content"], row["completion"][0]["content"]) for row in read] == rows
    assert read["origin"][:] == [f"{path}:{i}" for i in range(1, len(rows) + 1)]


def test_rows_of_several_batches_are_numbered_on() -> None:
    path = written({"prompt": ["p"] * 200, "response": ["r"] * 150 + [None] + ["r"] * 49}, row_group_size=30)
    report = check_upload(path)
    assert (report.rows, report.fault_count) == (199, 1)
    assert str(report.faults[0]) == "rows.parquet:151: found response that is null, expected a string"


def test_nested_messages_and_nulls_of_a_table() -> None:
    turns = [[Q | {"weight": None, "name": None}, A | {"weight": 1, "name": None}], [Q, A]]
    path = written({"messages": pa.array(turns), "tools": pa.array([[], None], pa.list_(pa.string())), "id": [1, 2]})
    assert [row["prompt"] for row in load_rows(path)] == [[Q], [Q]]


def test_messages_as_an_object_of_lists() -> None:
    path = written({"conversations": [{"from": ["human", "gpt"], "value": ["q", "a"]}]})
    assert load_rows(path)[0]["completion"] == [A]
    uneven = written({"conversations": [{"from": ["human", "gpt"], "value": ["q"]}]})
    with pytest.raises(DataError, match=r"^rows\.parquet:1: found conversations that is an object"):
        load_rows(uneven)


def test_rows_of_two_formats_in_one_table_are_told_apart() -> None:
    columns = {"prompt": ["p", None], "response": ["r", None], "instruction": [None, "i"], "output": [None, "o"]}
    with pytest.raises(DataError, match=r"^rows\.parquet:2: found a row of format Alpaca, expected .* as in line 1"):
        load_rows(written(columns))


def test_dictionaries_and_large_strings_are_texts() -> None:
    columns = {"prompt": pa.array(["a", "b"]).dictionary_encode(), "response": pa.array(["x", "y"], pa.large_string())}
    assert len(load_rows(written(columns))) == 2


NOT_UTF8 = pa.Array.from_buffers(
    pa.string(),
    1,
    [None, pa.py_buffer((0).to_bytes(4, "little") + (2).to_bytes(4, "little")), pa.py_buffer(b"\xff\xfe")],
)
CASES = {
    "a date": ({"prompt": [datetime.date(2020, 1, 1)], "response": ["r"]}, ":1: found prompt that is a date"),
    "bytes": ({"prompt": [b"p"], "response": ["r"]}, ":1: found prompt that is a bytes"),
    "no UTF-8": ({"prompt": NOT_UTF8, "response": ["r"]}, ":1: found a value that cannot be read ('utf-8' codec"),
    "no rows": ({"prompt": pa.array([], pa.string())}, ":1: found a table without rows"),
    "far date": (
        {"prompt": pa.array([2**62], pa.timestamp("us")), "response": ["r"]},
        ":1: found a value that cannot be read",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_values_that_are_no_text(case: str) -> None:
    columns, message = CASES[case]
    with pytest.raises(DataError) as caught:
        load_rows(written(columns))
    assert str(caught.value).startswith("rows.parquet" + message)


def test_a_column_twice() -> None:
    parquet.write_table(pa.table([pa.array(["a"]), pa.array(["b"])], names=["prompt", "prompt"]), "rows.parquet")
    with pytest.raises(DataError, match=r"^rows\.parquet: found column 'prompt' twice, expected each column once"):
        load_rows("rows.parquet")


@pytest.mark.parametrize("content", [b"", b"PAR1", b'{"prompt": "p"}', b"PAR1" + bytes(100) + b"PAR1"])
def test_what_is_no_parquet(content: bytes) -> None:
    Path("rows.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"^rows\.parquet: found Parquet data that cannot be read \("):
        load_rows("rows.parquet")


def test_a_missing_parquet_file() -> None:
    with pytest.raises(DataError, match=r"^nowhere\.parquet: found no file, expected an existing data file$"):
        load_rows("nowhere.parquet")


def test_damage_is_a_fault_never_a_crash() -> None:
    raw = Path(written({"prompt": ["p"] * 99, "response": [f"r{i}" for i in range(99)]})).read_bytes()
    dice = random.Random(0)
    for i in range(100):
        damaged = bytearray(raw)
        for _ in range(dice.choice([1, 3, 20])):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        Path("rows.parquet").write_bytes(damaged[: dice.randrange(len(damaged))] if i % 3 == 0 else damaged)
        report = check_upload("rows.parquet")
        assert report.fault_count or report.rows == 99  # what was hit is a text, or bytes that nothing depends on


def test_rows_that_expand_without_bound_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    path = written({"prompt": ["x" * 200_000] * 300, "response": ["r"] * 300})
    assert Path(path).stat().st_size < 20_000  # one value, written once
    monkeypatch.setattr(parquet_files, "ROW_LIMIT", 100_000)
    with pytest.raises(DataError, match=r"^rows\.parquet: found rows over the limit"):
        load_rows(path)
