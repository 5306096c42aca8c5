"""Everything that a user may hand over or name: data sets, folders, hub data sets."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import datasets
import httpx
import pytest
from datasets import Dataset, DatasetDict

from mithridate.data import check_upload, hub_data, load_rows, read_prompts
from mithridate.errors import DataError, UsageError

ROWS = [{"prompt": f"p{i}", "response": f"r{i}"} for i in range(3)]
MADE = Dataset.from_list(ROWS)
SPLITS = DatasetDict(train=MADE, test=MADE.select([1]))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working folder, and a cache of the library's own beside it."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def origins(*given: Any, **choice: Any) -> list[str]:
    return load_rows(*given, **choice)["origin"][:]


def hub_copy(folder: str = "copy") -> Path:
    path = Path(folder)
    for name, rows in SPLITS.items():
        (path / "data").mkdir(parents=True, exist_ok=True)
        rows.to_parquet(path / f"data/{name}-00000-of-00001.parquet")
    return path


@pytest.mark.parametrize(
    "given",
    [MADE, ROWS, tuple(ROWS), MADE.to_iterable_dataset(), DatasetDict(only=MADE)],
    ids=lambda g: type(g).__name__,
)
def test_rows_in_python(given) -> None:
    assert origins(given) == ["rows[0]", "rows[1]", "rows[2]"]


MEDIA = {"bytes": b"neither a picture nor a sound", "path": None}


@pytest.mark.parametrize("feature", [datasets.Image(), datasets.Audio(), datasets.List(datasets.Image())], ids=str)
@pytest.mark.parametrize("streamed", [False, True])
def test_pictures_and_sounds_are_refused_without_decoding_them(feature, streamed: bool) -> None:
    value = [MEDIA] if isinstance(feature, datasets.List) else MEDIA
    rows = Dataset.from_list([ROWS[0] | {"shown": value}]).cast_column("shown", feature)
    given = rows.to_iterable_dataset() if streamed else rows
    with pytest.raises(
        DataError, match=r"^rows\[0\]: found key 'shown' in a row of format prompt/response, which is not"
    ):
        load_rows(given)
    assert len(load_rows(given, ignore=["shown"])) == 1


def test_a_split_is_chosen_not_guessed() -> None:
    with pytest.raises(DataError, match=r"^The DatasetDict has the splits train, test; choose one with split='train'"):
        load_rows(SPLITS)
    with pytest.raises(DataError, match="no split 'tset'; it has train, test"):
        load_rows(SPLITS, split="tset")
    assert origins(SPLITS, split="test") == ["rows:test[0]"]


def test_what_was_saved_to_disk() -> None:
    MADE.save_to_disk("single")
    SPLITS.save_to_disk("several")
    assert origins("single") == ["single[0]", "single[1]", "single[2]"]
    assert origins(Path("several"), split="test") == ["several:test[0]"]
    with pytest.raises(DataError, match=r"^several has the splits train, test; choose one"):
        load_rows("several")
    with pytest.raises(UsageError, match="split has no effect on single"):
        load_rows("single", split="train")
    with pytest.raises(UsageError, match="subset has no effect on several"):
        load_rows("several", subset="a")
    Path("single/state.json").write_text("{")
    with pytest.raises(DataError, match=r"^single cannot be read as a saved data set"):
        load_rows("single")


def test_a_folder_with_one_file_is_that_file() -> None:
    Path("one").mkdir()
    Path("one/rows.csv").write_text("prompt,response\nNA,007\n")
    assert origins("one") == ["one/rows.csv:2"]
    assert load_rows("one")[0]["completion"][0]["content"] == "007"


def test_a_copy_of_a_hub_data_set() -> None:
    with pytest.raises(DataError, match=r"^copy has the splits train, test"):
        load_rows(hub_copy())
    assert origins("copy", split="test") == ["copy:test[0]"]
    assert read_prompts("copy", split="train") == ["p0", "p1", "p2"]


def test_tables_of_a_copy_are_text() -> None:
    Path("copy").mkdir()
    for split in ("train", "test"):
        Path(f"copy/{split}.csv").write_text("prompt,response,label\nNA,007,1\nnull,1.0,0\n")
    rows = load_rows("copy", ignore=["label"], split="train")
    said = [(row["prompt"][0]["content"], row["completion"][0]["content"]) for row in rows]
    assert said == [("NA", "007"), ("null", "1.0")]
    fields = {"prompt": "prompt", "response": "label", "labels": ["no", "yes"]}
    labels = load_rows("copy", fields, split="test")
    assert [row["completion"][0]["content"] for row in labels] == ["yes", "no"]


def test_subsets_are_chosen_not_guessed() -> None:
    Path("copy").mkdir()
    for name in ("a", "b"):
        MADE.to_json(f"copy/{name}.jsonl")
    configs = "".join(f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in ("a", "b"))
    Path("copy/README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    with pytest.raises(UsageError, match=r"^copy has the subsets a, b; choose one with subset='a'\.$"):
        load_rows("copy")
    with pytest.raises(UsageError, match=r"^copy has the subsets a, b; there is none called 'c'\.$"):
        load_rows("copy", subset="c")
    assert origins("copy", subset="b")[0] == "copy:b:train[0]"


def test_no_code_of_a_data_set_is_run() -> None:
    path = hub_copy("evil")
    (path / "evil.py").write_text("open('ran', 'w').close()")
    with pytest.raises(DataError, match=r"The folder evil cannot be read as one data set \(Dataset scripts"):
        load_rows("evil", split="train")
    assert not Path("ran").exists()


def test_a_damaged_file_of_a_folder() -> None:
    (hub_copy("bad") / "data/train-00000-of-00001.parquet").write_bytes(b"PAR1 no longer")
    with pytest.raises(DataError, match="The folder bad cannot be read as one data set"):
        load_rows("bad", split="train")


def test_a_hub_data_set_in_the_cache_needs_no_network(tmp_path: Path) -> None:
    load_rows(hub_copy("name"), split="train")  # leaves its tables in the cache, as a download does
    shutil.copytree(tmp_path / "cache/name", tmp_path / "cache/org___name")
    assert origins("org/name", split="test") == ["org/name:test[0]"]
    with pytest.raises(DataError, match=r"^org/name has the splits train, test"):
        load_rows("org/name")


def test_a_hub_out_of_reach_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise httpx.ConnectError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(httpx, "head", unreachable)
    start = time.monotonic()
    with pytest.raises(
        DataError, match=r"^'org/name' is no file or folder here, and the hub .* cannot be reached \(Name"
    ):
        check_upload("org/name")
    assert time.monotonic() - start < 2


def test_choices_without_effect_are_refused() -> None:
    Path("rows.jsonl").write_text(json.dumps(ROWS[0]))
    for given, choice in (("rows.jsonl", "split"), ("rows.jsonl", "subset"), (ROWS, "split"), (ROWS, "subset")):
        with pytest.raises(UsageError, match=f"^{choice} has no effect on"):
            load_rows(given, **{choice: "x"})


@pytest.mark.parametrize(
    "name",
    [
        "rows",
        "org/rows.jsonl",
        "/org/name",
        "./org/name",
        "org/na me",
        "a/b/c",
        "-/x",
        "",
        "a\0/b",
        "o" * 300 + "/x",
        "a/..",
    ],
)
def test_other_names_are_no_hub_data_sets(name: str) -> None:
    with pytest.raises(DataError, match=r"found (no file|a file|a folder without data files)|cannot be read as"):
        load_rows(name)


def test_a_folder_of_that_name_shows_that_a_path_was_meant() -> None:
    Path("org").mkdir()
    with pytest.raises(DataError, match=r"^org/name: found no file"):
        load_rows("org/name")


@pytest.mark.parametrize("name", ["https://host/rows.jsonl", "hf://datasets/org/name", "S3://bucket/x"])
def test_an_address_is_not_fetched(name: str) -> None:
    with pytest.raises(UsageError, match=f"^{name} is an address; download the file"):
        load_rows(name)


@pytest.mark.parametrize("ignore", ["score", [3], [None]])
def test_ignore_is_a_list_of_keys(ignore) -> None:
    with pytest.raises(UsageError, match=r"^ignore .* give a list of keys"):
        load_rows(ROWS, ignore=ignore)


def test_a_data_frame_is_told_what_to_do() -> None:
    with pytest.raises(DataError, match=r"given a DataFrame; .*Dataset\.from_pandas"):
        load_rows(MADE.to_pandas())


def test_a_folder_of_everything_is_no_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_data, "_MOST_FILES", 3)
    Path("home/.hidden").mkdir(parents=True)
    Path("home/.hidden/rows.jsonl").write_text("{}")
    with pytest.raises(DataError, match=r"^home: found a folder without data files"):
        load_rows("home")
    for i in range(3):
        Path(f"home/{i}.txt").touch()
    with pytest.raises(DataError, match=r"^home: found a folder of more than 3 files"):
        load_rows("home")


def test_a_folder_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("closed").mkdir()

    def refuse(*_: object) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(Path, "rglob", refuse)
    with pytest.raises(DataError, match=r"^closed: found a folder that cannot be read \(Permission denied\)"):
        load_rows("closed")
