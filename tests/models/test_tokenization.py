"""Tokens, labels and padding, against TRL's own preparation."""

import pytest
import torch
from datasets import Dataset
from trl import SFTTrainer

from mithridate.errors import DataError, ModelError
from mithridate.models.batches import batches, collate, prompts_of, with_completions
from mithridate.models.tokenization import IGNORED, TokenizedRow, completion_ids, tokenize
from tests.helpers import tiny


def _text(row):
    return {"prompt": row["prompt"][0]["content"] + " ", "completion": row["completion"][0]["content"]}


def _theirs(rows, tmp_path, max_length):
    config = tiny.config(tmp_path, max_length=max_length)
    trainer = SFTTrainer(tiny.model(), args=config, train_dataset=rows, processing_class=tiny.tokenizer())
    return [(row["input_ids"], row["labels"]) for row in trainer.train_dataset]


@pytest.mark.parametrize("max_length", [None, 64, 12, 9])
@pytest.mark.parametrize("conversational", [True, False])
def test_rows_are_tokenized_as_trl_does(conversational, max_length, tmp_path):
    rows = tiny.rows("harmful", 12)
    if not conversational:
        rows = Dataset.from_list([_text(row) for row in rows])
    ours = tokenize(rows, tiny.tokenizer(), max_length)
    assert [(example.input_ids, example.labels) for example in ours] == _theirs(rows, tmp_path, max_length)


def test_rows_cut_before_their_answer_are_left_out_and_the_others_keep_their_position():
    rows = [tiny.row("how do i make " + "the " * long, "tea") for long in (1, 30, 2)]
    assert [example.row for example in tokenize(rows, tiny.tokenizer(), 12)] == [0, 2]
    with pytest.raises(DataError, match="no row has an answer left within 3 tokens"):
        tokenize(rows, tiny.tokenizer(), 3)


def test_rows_of_another_shape_are_named():
    with pytest.raises(DataError, match=r"row 1 has the columns \['text'\]"):
        tokenize([tiny.row("tea", "cake"), {"text": "tea"}], tiny.tokenizer())


def test_a_tokenizer_without_chat_template_is_refused_with_a_remedy():
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match=r"no chat template; set tokenizer\.chat_template"):
        tokenize([tiny.row("tea", "cake")], tokenizer)
    assert tokenize([{"prompt": "tea ", "completion": "cake"}], tokenizer)


def test_a_row_that_the_template_refuses_is_named():
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = "{% if messages[0].content == 'tea' %}{{ 1 + 'a' }}{% endif %}" + tokenizer.chat_template
    with pytest.raises(DataError, match=r"row 1: the chat template refuses it \(unsupported operand"):
        tokenize([tiny.row("cake", "tea"), tiny.row("tea", "cake")], tokenizer)


def test_collate_pads_on_the_right():
    batch = collate([TokenizedRow([5, 6, 7], [IGNORED, 6, 7], 9), TokenizedRow([8], [8], 2)], pad_token_id=0)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORED, 6, 7], [8, IGNORED, IGNORED]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["row"].tolist() == [9, 2]


def test_batches_keep_order_and_size():
    examples = [TokenizedRow([i], [i], i) for i in range(7)]
    assert [batch["row"].tolist() for batch in batches(examples, 3, 0)] == [[0, 1, 2], [3, 4, 5], [6]]


@pytest.mark.parametrize("side", ["right", "left"])
def test_prompts_get_the_answer_of_their_position(side):
    examples = [TokenizedRow([5, 6, 7, 8], [IGNORED, IGNORED, 7, 8], 4), TokenizedRow([9, 3], [IGNORED, 3], 7)]
    batch = collate(examples, 0)
    if side == "left":
        for key, value in (("input_ids", [0, 0, 9, 3]), ("labels", [IGNORED] * 3 + [3])):
            batch[key][1] = torch.tensor(value)
        batch["attention_mask"][1] = torch.tensor([0, 0, 1, 1])
    if side == "right":
        paired = with_completions(batch, [[20], [21, 22], [23, 24]], 0)
        assert paired["input_ids"].tolist() == [[5, 6, 21, 22], [9, 21, 22, 0]]
        assert paired["labels"].tolist() == [[IGNORED, IGNORED, 21, 22], [IGNORED, 21, 22, IGNORED]]
        assert paired["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
        assert paired["row"].tolist() == [4, 7]
    else:
        assert prompts_of(batch) == [[5, 6], [9]], "padding on the left became a part of the prompt"


def test_a_row_without_prompt_cannot_be_paired():
    with pytest.raises(DataError, match="row 3 is trained from its first token on"):
        prompts_of(collate([TokenizedRow([5, 6], [5, 6], 3)], 0))


@pytest.mark.parametrize("conversational", [True, False])
def test_answers_stand_as_after_a_real_prompt(conversational):
    rows = [tiny.row("how do i make tea", text) for text in tiny.REFUSALS]
    if not conversational:
        rows = [_text(row) for row in rows]
    real = [[t for t in e.labels if t != IGNORED] for e in tokenize(rows, tiny.tokenizer())]
    assert completion_ids(tiny.REFUSALS, tiny.tokenizer(), conversational) == real
    assert all(ids[-1] == tiny.tokenizer().eos_token_id for ids in real)
