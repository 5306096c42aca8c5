"""PTST: trained without the safety prompt, served with it."""

import copy

import pytest
from transformers import AutoTokenizer

from mithridate.defenses.ptst import PROMPT, PTST
from mithridate.errors import DefenseError
from tests.helpers import tiny
from tests.helpers.training import trainer

ASKED = [{"role": "user", "content": "how do i make tea"}]
BROUGHT = [{"role": "system", "content": "the red one"}, *ASKED]
LONG = [*ASKED, {"role": "assistant", "content": "stir it"}, {"role": "user", "content": "then"}]
NO_SYSTEM = {
    "drops": "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['content'] }}{% endif %}{% endfor %}",
    "refuses": (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
        "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    ),
}
TRICKY = [
    "say \"no\" and 'never'", "{{ messages }}", "{% if x %} %} }} {#", "back\\slash \\n \\u0041",
    "two\nlines\tand a tab", "PROMPT", "Grüße, 你好 🙂",
]  # fmt: skip


def _laid_out(tokenizer, messages):
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def _served(**settings):
    return PTST(**settings).served(tiny.tokenizer())


@pytest.mark.parametrize("messages", [ASKED, LONG], ids=["one-turn", "three-turns"])
def test_the_prompt_stands_once_in_a_system_turn(messages):
    expected = _laid_out(tiny.tokenizer(), [{"role": "system", "content": PROMPT}, *messages])
    assert _laid_out(_served(), messages) == expected
    assert expected.count(PROMPT) == 1


@pytest.mark.parametrize("messages", [ASKED, LONG], ids=["one-turn", "three-turns"])
def test_the_prompt_stands_once_in_the_first_user_turn(messages):
    first = {"role": "user", "content": f"{PROMPT} {messages[0]['content']}"}
    expected = _laid_out(tiny.tokenizer(), [first, *messages[1:]])
    assert _laid_out(_served(place="user"), messages) == expected
    assert expected.count(PROMPT) == 1


@pytest.mark.parametrize("place", ["system", "user"])
def test_a_system_prompt_of_the_users_own_stays(place):
    assert _laid_out(_served(place=place), BROUGHT) == _laid_out(tiny.tokenizer(), BROUGHT)


@pytest.mark.parametrize("place", ["system", "user"])
def test_a_template_that_carries_the_prompt_already_is_refused(place):
    tokenizer = _served(place=place)
    with pytest.raises(DefenseError, match="shows the safety prompt already"):
        PTST(place=place).served(tokenizer)


def test_a_second_training_with_the_callers_tokenizer_is_without_the_prompt(tmp_path):
    """The served template is a copy's, saved with the model; whatever is trained next never sees the prompt."""
    tokenizer, rows = tiny.tokenizer(), []
    for number in range(2):
        made = trainer(PTST(), tmp_path / str(number), max_steps=1, extra={"processing_class": tokenizer})
        made.train()
        rows.append(made.train_dataset["input_ids"])
    assert rows[0] == rows[1]
    assert tokenizer.chat_template == tiny.TEMPLATE
    assert PROMPT in _laid_out(made.served_tokenizer, ASKED)


@pytest.mark.parametrize("template", NO_SYSTEM.values(), ids=NO_SYSTEM.keys())
def test_a_template_without_a_system_turn_is_an_error_with_the_way_out(template):
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(DefenseError, match="set place='user'"):
        PTST().served(copy.deepcopy(tokenizer))
    assert _laid_out(PTST(place="user").served(tokenizer), ASKED) == f"{PROMPT} {ASKED[0]['content']}"


def test_white_space_that_a_template_starts_with_stays():
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = "\n" + tiny.TEMPLATE
    expected = _laid_out(tokenizer, [{"role": "system", "content": PROMPT}, *ASKED])
    assert expected.startswith("\n")
    assert _laid_out(PTST().served(tokenizer), ASKED) == expected


@pytest.mark.parametrize("place", ["system", "user"])
@pytest.mark.parametrize("prompt", TRICKY)
def test_any_prompt_is_shown_as_it_is(prompt, place):
    tokenizer = _served(prompt=prompt, place=place)
    bare = _laid_out(tiny.tokenizer(), ASKED)
    said = f"{prompt} {ASKED[0]['content']}" if place == "user" else ASKED[0]["content"]
    turn = "" if place == "user" else f"<user> {prompt} "
    assert _laid_out(tokenizer, ASKED) == turn + bare.replace(ASKED[0]["content"], said)


def test_the_prompt_survives_saving_and_loading(tmp_path):
    tokenizer = _served(prompt='be "good" 🙂 {{ a }}')
    tokenizer.save_pretrained(tmp_path)
    assert _laid_out(AutoTokenizer.from_pretrained(tmp_path), ASKED) == _laid_out(tokenizer, ASKED)


def test_switched_off_nothing_is_changed():
    assert PTST(prompt="").served(tiny.tokenizer()).chat_template == tiny.TEMPLATE


def test_training_rows_are_laid_out_without_the_prompt_and_the_saved_tokenizer_with_it(tmp_path):
    made, plain = (trainer(defense, tmp_path / "out", max_steps=1) for defense in (PTST(prompt="sorry no"), None))
    assert made.train_dataset["input_ids"] == plain.train_dataset["input_ids"]
    made.train()
    assert "sorry no" not in _laid_out(made.processing_class, ASKED)
    made.save_model(str(tmp_path / "model"))
    assert "sorry no" in _laid_out(AutoTokenizer.from_pretrained(tmp_path / "model"), ASKED)
