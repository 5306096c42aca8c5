"""Rows that do not fit are dropped, counted and named."""

import pytest
from datasets import concatenate_datasets

from mithridate.data import ensure_chat_template, trim_report
from mithridate.errors import DataError, UsageError

TEMPLATE = "{% for m in messages %}{{ m.content }}{{ '|' if m.role == 'user' else eos_token }}{% endfor %}"


@pytest.fixture
def marked(tokenizer):
    """One token for each character, one after the prompt and one after the answer."""
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def test_nothing_is_lost_where_everything_fits(marked, rows_of) -> None:
    trimmed = trim_report(rows_of(["abc", "de"], answer="xy"), marked, max_length=7)  # abc|xy and EOS
    assert (len(trimmed.rows), trimmed.dropped, trimmed.truncated, trimmed.dropped_origins) == (2, 0, 0, ())


def test_edges(marked, rows_of) -> None:
    rows = concatenate_datasets(
        [rows_of(["short"] * 8, "fits", "y"), rows_of(["12345678"], "cut", "y"), rows_of(["123456789"], "lost", "y")]
    )
    trimmed = trim_report(rows, marked, max_length=10)
    assert trimmed.dropped_origins == ("lost:1",)  # 9 characters and the mark fill 10 tokens
    assert (trimmed.dropped, trimmed.truncated) == (1, 1)  # cut: the answer stays and its EOS is lost
    assert trimmed.rows["origin"][-1] == "cut:1"


def test_the_answer_begins_where_prompt_and_row_part(tokenizer, rows_of) -> None:
    ensure_chat_template(tokenizer, "alpaca")
    rows = rows_of(["Say it."], answer="Done.")
    prompt = len(tokenizer.apply_chat_template(rows[0]["prompt"], add_generation_prompt=True, return_dict=False))
    assert trim_report(rows, tokenizer, prompt + 6).truncated == 0
    assert trim_report(rows, tokenizer, prompt + 5).truncated == 1
    with pytest.raises(DataError, match="1 of 1 rows have a prompt that fills max_length"):
        trim_report(rows, tokenizer, prompt)


def test_more_than_a_fifth_dropped_is_an_error(marked, rows_of) -> None:
    short, long = rows_of(["s"] * 96, "short"), rows_of(["l" * 50] * 25, "long")
    with pytest.raises(DataError) as caught:
        trim_report(concatenate_datasets([short, long]), marked, 20)
    lines = str(caught.value).split("\n")
    assert lines[0].startswith("25 of 121 rows have a prompt that fills max_length = 20 tokens")
    assert [line.strip() for line in lines[1:]] == [*(f"long:{i}" for i in range(1, 21)), "and 5 more"]
    fifth = trim_report(concatenate_datasets([short, long.select(range(24))]), marked, 20)
    assert (fifth.dropped, len(fifth.dropped_origins), len(fifth.rows)) == (24, 20, 96)


def test_a_row_that_the_template_refuses(tokenizer, rows_of) -> None:
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(DataError, match=r"^made:1: the chat template refuses this row: roles must alternate"):
        trim_report(rows_of(["a"]), tokenizer, 10)


def test_max_length_below_one(marked, rows_of) -> None:
    with pytest.raises(UsageError, match="max_length is 0"):
        trim_report(rows_of(["a"]), marked, 0)
