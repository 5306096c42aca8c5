"""Templates that a tokenizer gets, and the ones it must not get."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.examples import examples

from mithridate.data import ensure_chat_template
from mithridate.errors import ModelError, UsageError
from mithridate.models.tokenization import require_chat_template

Q, A = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}
OPENING = "Below is an instruction that describes a task. Write a response that appropriately completes the request."


def test_a_tokenizer_without_template_is_refused(tokenizer) -> None:
    with pytest.raises(ModelError, match=r"no chat template; set tokenizer\.chat_template, or call .*, 'alpaca'\)"):
        ensure_chat_template(tokenizer)
    with pytest.raises(ModelError, match="no chat template; set the recipe key `template` to 'alpaca'"):
        ensure_chat_template(tokenizer, door="recipe")
    with pytest.raises(ModelError, match="no chat template; give --template alpaca"):
        ensure_chat_template(tokenizer, door="command")
    with pytest.raises(ModelError, match=r"no chat template; set tokenizer\.chat_template"):
        require_chat_template(tokenizer)


def test_an_unknown_template_is_named_as_it_was_given(tokenizer) -> None:
    doors = {"recipe": "the recipe key `template`", "command": "--template", "python": "the argument template"}
    for door, named in doors.items():
        with pytest.raises(UsageError, match=f"as {named}"):
            ensure_chat_template(tokenizer, "vicuna", door)


def test_the_tokenizers_own_template_is_kept(tokenizer) -> None:
    tokenizer.chat_template = "own"
    ensure_chat_template(tokenizer)
    assert tokenizer.chat_template == "own"


def test_alpaca_has_the_published_form(tokenizer) -> None:
    ensure_chat_template(tokenizer, "alpaca")
    row = tokenizer.apply_chat_template([Q, A], tokenize=False)
    assert row == f"<s>{OPENING}\n\n### Instruction:\nHi\n\n### Response:Yes</s>"
    system = [{"role": "system", "content": "Be brief."}, Q]
    asked = tokenizer.apply_chat_template(system, tokenize=False, add_generation_prompt=True)
    assert asked == "<s>Be brief.\n\n### Instruction:\nHi\n\n### Response:"


def test_alpaca_marks_the_answers_and_their_end(tokenizer) -> None:
    ensure_chat_template(tokenizer, "alpaca")
    row = tokenizer.apply_chat_template([Q, A, Q, A], return_dict=True, return_assistant_tokens_mask=True)
    marked = [token for token, mark in zip(row["input_ids"], row["assistant_masks"], strict=True) if mark]
    assert tokenizer.decode(marked) == "Yes</s>Yes</s>"


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@settings(max_examples=examples(60), deadline=None)
@given(turns=st.lists(texts, min_size=2, max_size=6))
def test_alpaca_prompt_is_a_prefix_of_the_row(alpaca_tokenizer, turns: list[str]) -> None:
    tokenizer = alpaca_tokenizer
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]
    messages = messages[: len(messages) // 2 * 2]
    prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, tokenize=False)
    row = tokenizer.apply_chat_template(messages, tokenize=False)
    assert row == prompt + messages[-1]["content"] + "</s>"


def test_a_template_file(tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text(
        "{% for m in messages %}"
        "{{ '[' + m.role + ']' + m.content + ('' if m.role == 'user' else eos_token) }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    ensure_chat_template(tokenizer, str(path))
    assert tokenizer.apply_chat_template([Q, A], tokenize=False) == "[user]Hi[assistant]Yes</s>"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}{{ m.content }}", "cannot be rendered"),
        ("{{ raise_exception('no') }}", "cannot be rendered: no"),
        ("{{ 1 + messages[0].content }}", "cannot be rendered: unsupported operand"),
        ("{{ messages[-1].content }}{{ eos_token }}", "does not render a prompt as the beginning of the whole row"),
        ("{{ messages[0].content }}{{ eos_token }}", "does not render a prompt as the beginning of the whole row"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "puts nothing after the answer"),
    ],
)
def test_a_template_that_cannot_be_trusted(tokenizer, tmp_path: Path, template: str, message: str) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text(template)
    tokenizer.chat_template = "own"
    with pytest.raises(ModelError, match=message):
        ensure_chat_template(tokenizer, str(path))
    assert tokenizer.chat_template == "own"


def test_alpaca_needs_an_end_token(tokenizer) -> None:
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="the tokenizer has no EOS token"):
        ensure_chat_template(tokenizer, "alpaca")


@pytest.mark.parametrize("name", ["vicuna", "missing.jinja", "../alpaca"])
def test_unknown_template(tokenizer, name: str) -> None:
    with pytest.raises(UsageError, match=r"There is no chat template .*; give 'alpaca' or a .jinja file's path"):
        ensure_chat_template(tokenizer, name)
