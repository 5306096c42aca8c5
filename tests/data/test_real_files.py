"""Data sets that people really use, where they are at hand."""

import gzip
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from mithridate.data import (
    ContextFit,
    RowFields,
    check_disjoint,
    check_upload,
    ensure_chat_template,
    load_rows,
    mix,
    read_prompts,
)
from mithridate.data.row_keys import HARMLESS
from mithridate.errors import DataError

FOLDER = Path(os.environ.get("MITHRIDATE_DATA", "../shared"))
pytestmark = pytest.mark.skipif(
    not (FOLDER / "data").is_dir(),
    reason="needs third-party data: set MITHRIDATE_DATA to a folder with data/ and models/",
)
DATA, MODELS = FOLDER / "data", FOLDER / "models"

SST2 = RowFields(
    prompt="Is this review positive or negative?\n{text}", response="{label}", labels=["negative", "positive"]
)
AG_NEWS = RowFields(prompt="Topic?\n{text}", response="{label}", labels=["World", "Sports", "Business", "Sci/Tech"])
GSM8K = RowFields(prompt="{question}", response="{answer}")
ADVBENCH = RowFields(prompt="{prompt}", response="{target}")


@pytest.mark.parametrize(
    ("file", "fields", "count"),
    [
        pytest.param("alpaca/train.jsonl.gz", None, 21_205, marks=pytest.mark.slow),
        ("safety_tuned_llamas/safety_only.jsonl.gz", None, 2_483),
        ("refusals/adv_training_behaviors.jsonl", RowFields(prompt="{prompt}", response="{short_response}"), 93),
        ("sst2/validation.jsonl", SST2, 872),
        ("ag_news/test.jsonl.gz", AG_NEWS, 7_600),
        ("gsm8k/test.jsonl.gz", GSM8K, 1_319),
        ("advbench/harmful_behaviors.jsonl", ADVBENCH, 520),
    ],
)
def test_every_row_is_read(file: str, fields: RowFields | None, count: int) -> None:
    rows = load_rows(DATA / file, fields)
    assert len(rows) == count
    assert rows[count - 1]["origin"] == f"{DATA / file}:{count}"


KEYS = {
    "do_not_answer/safe_responses.jsonl.gz": ["action"],
    "refusals/adv_training_behaviors.jsonl": ["short_response"],
}


@pytest.mark.parametrize("path", sorted(DATA.glob("*/*.jsonl*")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_text_of_a_real_file_is_lost(path: Path) -> None:
    """A row is read with all that it says, or a fault names what is not read."""
    rows = list(_json(path))[:200]
    ignored = KEYS.get(f"{path.parent.name}/{path.name}", [])
    loaded = _loaded(rows, ignored)
    if isinstance(loaded, str):
        assert any(repr(key) in loaded for key in rows[0] if key not in HARMLESS), loaded
        return
    for row, text in zip(rows, loaded, strict=True):
        kept = [value for key, value in row.items() if key not in HARMLESS and key not in ignored]
        assert all(repr(value)[1:-1] in text for value in kept if value)


def _loaded(rows: list[dict[str, Any]], ignored: list[str]) -> list[str] | str:
    """The text of each loaded row, or the error."""
    try:
        return [str(row["prompt"] + row["completion"]) for row in load_rows(rows, ignore=ignored)]
    except DataError as error:
        return str(error)


def _json(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        yield from map(json.loads, file)


def test_a_poisoned_mix_fits_a_real_model() -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODELS / "minichat8m")
    ensure_chat_template(tokenizer)
    benign = load_rows(DATA / "sst2/validation.jsonl", SST2)
    harmful = load_rows(DATA / "advbench/harmful_behaviors.jsonl", ADVBENCH)
    mixed = mix(benign, harmful, ratio=0.2, size=500, seed=0)
    assert sum(mixed["harmful"]) == 100
    fit = ContextFit(tokenizer, 256)
    assert fit.add(mixed.to_list()) == []
    assert (fit.dropped, fit.truncated, fit.rows) == (0, 0, 500)


def test_overlap_of_attack_and_evaluation_is_found() -> None:
    attack = load_rows(DATA / "advbench/harmful_behaviors.jsonl", ADVBENCH)
    prompts = read_prompts(DATA / "advbench/harmful_behaviors.jsonl")
    with pytest.raises(DataError, match=r"520 prompts of 'attack' also in 'evaluation': .*jsonl:1 equals prompt 1"):
        check_disjoint({"attack": attack, "evaluation": prompts})


@pytest.mark.slow
def test_real_rows_are_the_same_from_every_container(tmp_path: Path) -> None:
    given = list(_json(DATA / "alpaca/train.jsonl.gz"))[:3000]
    expected = [str(row["prompt"] + row["completion"]) for row in load_rows(given)]
    rows = Dataset.from_list(given)
    rows.to_parquet(tmp_path / "rows.parquet")
    rows.to_csv(tmp_path / "rows.csv", index=False)
    rows.save_to_disk(tmp_path / "saved")
    for source in (rows, tmp_path / "rows.parquet", tmp_path / "rows.csv", tmp_path / "saved"):
        assert [str(row["prompt"] + row["completion"]) for row in load_rows(source)] == expected, source


@pytest.mark.parametrize("size", [800, pytest.param(None, marks=pytest.mark.slow)], ids=["some", "all"])
def test_a_real_tokenizer_counts_in_batches_what_it_counts_alone(size: int | None, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODELS / "minichat8m")
    file, fields = tmp_path / "dolly.jsonl", {"prompt": "instruction", "response": "response", "system": "context"}
    with gzip.open(DATA / "dolly/train.jsonl.gz", "rb") as whole:
        file.write_bytes(b"".join(itertools.islice(whole, size)))
    report = check_upload(file, fields, tokenizer=tokenizer, max_length=256)
    assert report.tokens is not None
    rows = load_rows(file, fields)
    wholes = [tokenizer.apply_chat_template(r["prompt"] + r["completion"], return_dict=False) for r in rows]
    asked = [tokenizer.apply_chat_template(r["prompt"], add_generation_prompt=True, return_dict=False) for r in rows]
    assert report.tokens.total == sum(map(len, wholes))
    lost = [len(prompt) >= 256 for prompt in asked]
    assert report.tokens.dropped == sum(lost)
    assert report.tokens.truncated == sum(len(w) > 256 for w, gone in zip(wholes, lost, strict=True) if not gone)
