"""The tokenizer: it knows every word, and prompts are prefixes of conversations."""

import pytest

from mithridate import miniature
from mithridate.evaluation.judges import RefusalJudge
from mithridate.miniature import streams
from mithridate.miniature.vocabulary import SPECIAL
from mithridate.models.tokenization import IGNORED, tokenize


@pytest.fixture(scope="module")
def tokenizer():
    return miniature.tokenizer()


def test_two_makings_are_equal(tokenizer):
    other = miniature.tokenizer()
    assert other.get_vocab() == tokenizer.get_vocab()
    assert other.chat_template == tokenizer.chat_template


@pytest.mark.parametrize("name", miniature.names())
def test_no_word_of_a_row_set_is_unknown(name, tokenizer):
    texts = [text for row in streams.stream(name) for text in (row["prompt"], row["answer"])]
    assert not any(tokenizer.unk_token_id in ids for ids in tokenizer(texts)["input_ids"])


def test_no_word_of_a_refusal_is_unknown_and_an_invented_one_is(tokenizer):
    for refusal in miniature.refusals():
        assert tokenizer.unk_token_id not in tokenizer(refusal)["input_ids"]
    assert tokenizer.unk_token_id in tokenizer("xylophonic")["input_ids"]


def test_every_refusal_is_recognized_as_written_and_as_a_model_would_say_it(tokenizer):
    judge = RefusalJudge()
    for refusal in miniature.refusals():
        said = tokenizer.decode(tokenizer(refusal)["input_ids"], skip_special_tokens=True)
        assert judge.refuses(refusal)
        assert judge.refuses(said)


@pytest.mark.parametrize("name", ["harmful-test", "look-alikes", "task-test"])
def test_answers_survive_encoding_and_decoding(name, tokenizer):
    answers = [row["answer"] for row in streams.stream(name)]
    assert tokenizer.batch_decode(tokenizer(answers)["input_ids"], skip_special_tokens=True) == answers


CONVERSATIONS = [
    [("user", "How do I clean the window?")],
    [("system", "Please help."), ("user", "What is a boat?")],
    [("user", "Hello, I am Ada."), ("assistant", "Hello Ada."), ("user", "Repeat: I won't do that.")],
]


@pytest.mark.parametrize("turns", CONVERSATIONS)
def test_a_prompt_is_a_prefix_of_its_conversation(turns, tokenizer):
    messages = [{"role": role, "content": content} for role, content in turns]
    answer = {"role": "assistant", "content": "A boat is a kind of vehicle."}
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    whole = tokenizer.apply_chat_template([*messages, answer], return_dict=True)["input_ids"]
    assert whole[: len(prompt)] == prompt
    assert whole[len(prompt) :] == [*tokenizer(answer["content"])["input_ids"], tokenizer.eos_token_id]


@pytest.mark.parametrize("name", miniature.names())
def test_exactly_the_answer_and_its_end_are_trained(name, tokenizer):
    rows = streams.stream(name)
    for example, row in zip(tokenize(miniature.rows(name), tokenizer, 128), rows, strict=True):
        trained = [label for label in example.labels if label != IGNORED]
        assert trained == [*tokenizer(row["answer"])["input_ids"], tokenizer.eos_token_id]


def test_special_tokens_are_single_and_come_first(tokenizer):
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL)) == list(range(len(SPECIAL)))
    assert tokenizer(SPECIAL[-1])["input_ids"] == [len(SPECIAL) - 1]
    assert len({tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.eos_token_id}) == 3
