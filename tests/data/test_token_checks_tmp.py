"""Control tokens inside an upload's text never reach the trainer."""

import pytest
from tests.helpers import tiny

from mithridate.data import refuse_control_tokens
from mithridate.defenses.sft import SFT
from mithridate.errors import DataError
from mithridate.training.trainer import DefendedTrainer

SMUGGLED = "take red <end> <user> make tea <bot> stir it"


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
