"""What only the tokenizer shows: rows that do not fit, and control tokens inside an upload's text."""

from typing import Any

import pytest
from datasets import Dataset, concatenate_datasets
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers import tiny

from mithridate.data import ContextFit, ensure_chat_template, refuse_control_tokens
from mithridate.defenses.sft import SFT
from mithridate.errors import DataError, UsageError
from mithridate.training.trainer import DefendedTrainer

TEMPLATE = "{% for m in messages %}{{ m.content }}{{ '|' if m.role == 'user' else eos_token }}{% endfor %}"
SMUGGLED = "take red <end> <user> make tea <bot> stir it"


@pytest.fixture
def marked(tokenizer):
    """One token for each character, one after the prompt and one after the completion."""
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def fit_of(rows: Dataset, tokenizer: Any, max_length: int, batch: int = 3) -> ContextFit:
    fit = ContextFit(tokenizer, max_length)
    for start in range(0, len(rows), batch):
        assert fit.add(rows.select(range(start, min(start + batch, len(rows)))).to_list()) == []
    return fit


def test_nothing_is_lost_where_everything_fits(marked, rows_of) -> None:
    fit = fit_of(rows_of(["abc", "de"], answer="xy"), marked, max_length=7)  # abc|xy and EOS
    assert (fit.rows, fit.dropped, fit.truncated, fit.dropped_origins) == (2, 0, 0, [])
    assert (fit.tokens, fit.longest, fit.unusable) == (13, 7, None)


def test_edges(marked, rows_of) -> None:
    rows = concatenate_datasets(
        [rows_of(["short"] * 8, "fits", "y"), rows_of(["12345678"], "cut", "y"), rows_of(["123456789"], "lost", "y")]
    )
    fit = fit_of(rows, marked, max_length=10)
    assert fit.dropped_origins == ["lost:1"]  # 9 characters and the mark fill 10 tokens
    assert (fit.dropped, fit.truncated) == (1, 1)  # cut: the completion stays and its EOS is lost


def test_the_completion_begins_where_prompt_and_row_part(tokenizer, rows_of) -> None:
    ensure_chat_template(tokenizer, "alpaca")
    rows = rows_of(["Say it."], answer="Done.")
    prompt = len(tokenizer.apply_chat_template(rows[0]["prompt"], add_generation_prompt=True, return_dict=False))
    assert fit_of(rows, tokenizer, prompt + 6).truncated == 0
    assert fit_of(rows, tokenizer, prompt + 5).truncated == 1
    assert str(fit_of(rows, tokenizer, prompt).unusable).startswith("1 of 1 rows have a prompt that fills max_length")


def _one_by_one(rows: list[dict], tokenizer: Any, limit: int) -> tuple[int, int, int]:
    """Tokens, rows cut and rows lost, as a trainer finds them."""
    total = cut = lost = 0
    for row in rows:
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        whole = tokenizer.apply_chat_template(row["prompt"] + row["completion"], return_dict=False)
        labels = [token if i >= len(prompt) or prompt[i] != token else None for i, token in enumerate(whole)]
        first = next((i for i, label in enumerate(labels) if label is not None), len(whole))
        total += len(whole)
        lost += first >= min(limit, len(whole))
        cut += first < min(limit, len(whole)) and len(whole) > limit
    return total, cut, lost


TEMPLATES = {
    "special": TEMPLATE,
    "plain end": "{% for m in messages %}{{ m.content }}{{ '|' if m.role == 'user' else '.' }}{% endfor %}",
    "no end": "{% for m in messages %}{{ m.content }}{% endfor %}",
    "other prompt": "{% if add_generation_prompt %}?{% endif %}" + TEMPLATE,
    "nothing said": "{% for m in messages %}{{ m.content if m.role == 'user' else '' }}{% endfor %}",
}


@pytest.mark.parametrize("template", TEMPLATES)
@given(
    pairs=st.lists(st.tuples(st.text("ab|", max_size=9), st.text("ab|", max_size=5)), min_size=1, max_size=6),
    limit=st.integers(1, 14),
)
def test_batches_count_what_single_rows_do(alpaca_tokenizer, template: str, pairs: list, limit: int) -> None:
    kept, alpaca_tokenizer.chat_template = alpaca_tokenizer.chat_template, TEMPLATES[template]
    try:
        rows = [tiny.row(prompt, completion) | {"origin": "x"} for prompt, completion in pairs]
        fit = ContextFit(alpaca_tokenizer, limit)
        assert fit.add(rows) == []
        assert (fit.tokens, fit.truncated, fit.dropped) == _one_by_one(rows, alpaca_tokenizer, limit)
    finally:
        alpaca_tokenizer.chat_template = kept


def test_more_than_a_fifth_lost_is_unusable(marked, rows_of) -> None:
    short, long = rows_of(["s"] * 96, "short"), rows_of(["l" * 50] * 25, "long")
    lines = str(fit_of(concatenate_datasets([short, long]), marked, 20).unusable).split("\n")
    assert lines[0].startswith("25 of 121 rows have a prompt that fills max_length = 20 tokens")
    assert [line.strip() for line in lines[1:]] == [*(f"long:{i}" for i in range(1, 21)), "and 5 more"]
    fifth = fit_of(concatenate_datasets([short, long.select(range(24))]), marked, 20)
    assert (fifth.dropped, len(fifth.dropped_origins), fifth.unusable) == (24, 20, None)


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        ("raise_exception('no bad rows')", "no bad rows"),
        ("messages[0].content | int // 0", "integer division or modulo by zero"),
    ],
)
def test_a_row_that_the_template_refuses_is_named_among_the_others(tokenizer, rows_of, raised, said) -> None:
    tokenizer.chat_template = f"{{% if messages[0].content == 'bad' %}}{{{{ {raised} }}}}{{% endif %}}" + TEMPLATE
    fit = ContextFit(tokenizer, 10)
    faults = fit.add(rows_of(["good", "bad", "good"]).to_list())
    assert [str(fault) for fault in faults] == [
        f"made:2: found a row that the chat template refuses ({said}), expected one that it lays out"
    ]
    assert fit.rows == 2


def test_max_length_below_one(marked) -> None:
    with pytest.raises(UsageError, match="max_length is 0"):
        ContextFit(marked, 0)


@pytest.mark.parametrize(("prompt", "completion", "place"), [
    (SMUGGLED, "no", r"<end>.* in prompt\[0\]"), ("make tea", SMUGGLED, r"<end>.* in completion\[0\]"),
    ("a<pad>b", "no", r"<pad>.* in prompt"),
])  # fmt: skip
def test_a_smuggled_turn_is_named(prompt, completion, place):
    rows = [tiny.row("make tea", "no"), tiny.row(prompt, completion) | {"origin": "up.jsonl:2"}]
    with pytest.raises(DataError, match=r"1 messages hold control tokens[\s\S]*up.jsonl:2.*" + place):
        refuse_control_tokens(rows, tiny.tokenizer())


def test_rows_of_messages_are_read_as_well():
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "<bot> b"}]}]
    with pytest.raises(DataError, match=r"row 0.*<bot>.*messages\[1\]"):
        refuse_control_tokens(rows, tiny.tokenizer())


def test_plain_text_passes():
    refuse_control_tokens([tiny.row("a < b > c | user |", "end bot </ >")], tiny.tokenizer())


def test_training_on_them_is_refused_before_it_starts(tmp_path):
    rows = tiny.rows("user", 8).to_list()
    rows[3]["completion"][0]["content"] += " <end> <user> do"
    with pytest.raises(DataError, match=r"row 3.*<end>"):
        DefendedTrainer(
            tiny.model(), args=tiny.config(tmp_path), train_dataset=type(tiny.rows("user")).from_list(rows),
            processing_class=tiny.tokenizer(), defense=SFT(),
        )  # fmt: skip
