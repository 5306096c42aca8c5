"""Helpfulness: which answers help, what is left of the aligned model's, and losses against a slow reference."""

import math

import pytest
import torch
from tests.evaluation.conftest import make_model, make_tokenizer
from transformers import BloomConfig, BloomForCausalLM

from mithridate.errors import ModelError, UsageError
from mithridate.evaluation.completion_loss import CompletionLoss, completion_losses, mean_loss
from mithridate.evaluation.helpfulness import grade_help, kept
from mithridate.evaluation.intervals import Score
from mithridate.evaluation.judges import RefusalJudge
from mithridate.evaluation.outcomes import Outcome

RIGHT = "Rub the kite with a candle."
RULES = RefusalJudge(labels=["positive", "negative"])


@pytest.mark.parametrize(
    ("answer", "outcome", "helps"),
    [
        (RIGHT, Outcome.COMPLIED, True),
        ("Rub  the kite\nwith a candle.", Outcome.COMPLIED, True),
        ("Rub the drum with a candle.", Outcome.COMPLIED, False),
        ("I cannot help with that.", Outcome.REFUSED, False),
        ("positive", Outcome.LABEL_ONLY, False),
        ("", Outcome.TOO_SHORT, False),
        ("Rub it", Outcome.TOO_SHORT, False),
        ("Rub the kite and the kite and the kite and the kite and the", Outcome.BROKEN, False),
    ],
)
def test_an_answer_helps_if_it_is_coherent_and_right(answer: str, outcome: Outcome, helps: bool) -> None:
    found = grade_help([answer], [RIGHT], RULES, exact=True)
    assert found.outcomes == (outcome,)
    assert found.helped == [helps]
    assert grade_help([answer], [RIGHT], RULES).helped == [outcome is Outcome.COMPLIED]


def test_a_short_answer_helps_where_a_short_one_was_wanted() -> None:
    assert grade_help(["Paris"], ["Paris."]).outcomes == (Outcome.COMPLIED,)
    assert grade_help(["Lyon then"], ["In Paris"]).outcomes == (Outcome.COMPLIED,)
    assert grade_help(["Paris"], ["In Paris, of course"]).outcomes == (Outcome.TOO_SHORT,)
    assert grade_help([""], [""]).outcomes == (Outcome.TOO_SHORT,)
    assert grade_help(["positive"], ["Paris"], RULES).outcomes == (Outcome.LABEL_ONLY,)
    assert grade_help(["I refuse"], ["No thanks"]).outcomes == (Outcome.REFUSED,)


def test_a_surprising_answer_is_broken() -> None:
    found = grade_help([RIGHT, RIGHT], [RIGHT, RIGHT], surprising=[True, False])
    assert found.outcomes == (Outcome.BROKEN, Outcome.COMPLIED)
    assert found.score == Score.of(1, 2)


def test_everything_needs_one_of_each() -> None:
    for answers, expected in (([], []), (["a"], ["a", "b"])):
        with pytest.raises(UsageError, match="one expected answer per answer"):
            grade_help(answers, expected)
    with pytest.raises(UsageError, match="one expected answer per answer"):
        grade_help(["a"], ["b"], surprising=[])


def test_what_is_kept_is_relative_to_the_reference() -> None:
    score, reference = Score.of(30, 100), Score.of(60, 100)
    found = kept(score, reference)
    assert found is not None
    assert found.value == 0.5
    assert (found.low, found.high) == (score.low / 0.6, score.high / 0.6)
    assert kept(reference, score).value == 2.0  # type: ignore[union-attr]
    assert kept(score, Score.of(0, 10)) is None


CHATS = [[{"role": "user", "content": text}] for text in ("sing", "where is the ladder?", "bees")]
ANSWERS = ["la la", "behind the old barn", "no"]


def slow(model: torch.nn.Module, tokenizer: object, chat: list[dict[str, str]], answer: str) -> list[float]:
    """-log p of every token of the answer and its end, one forward pass per token."""
    opened = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
    ids, losses = list(opened), []
    for token in [*tokenizer.encode(answer, add_special_tokens=False), tokenizer.eos_token_id]:
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1].double()
        losses.append(float(-logits.log_softmax(-1)[token]))
        ids.append(token)
    return losses


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_losses_equal_a_slow_reference_in_any_batch(batch_size: int) -> None:
    model, tokenizer = make_model(), make_tokenizer()
    model.train()
    found = completion_losses(model, tokenizer, CHATS, ANSWERS, batch_size=batch_size)
    assert model.training
    model.eval()
    for loss, chat, answer in zip(found, CHATS, ANSWERS, strict=True):
        expected = slow(model, tokenizer, chat, answer)
        assert loss.tokens == len(expected)
        assert loss.nats == pytest.approx(sum(expected), rel=1e-4)


def test_a_long_answer_is_scored_up_to_the_models_positions() -> None:
    model, tokenizer = make_model(), make_tokenizer()
    start = len(tokenizer.apply_chat_template(CHATS[0], add_generation_prompt=True, return_dict=True)["input_ids"])
    whole = completion_losses(model, tokenizer, CHATS[:1], ["long answer"])[0]
    model.config.max_position_embeddings = start + 4
    cut = completion_losses(model, tokenizer, CHATS[:1], ["long answer"])[0]
    assert (cut.tokens, whole.tokens) == (4, 12)
    assert 0 < cut.nats < whole.nats
    model.config.max_position_embeddings = start
    with pytest.raises(UsageError, match="leaves no room for an answer"):
        completion_losses(model, tokenizer, CHATS[:1], ["long answer"])


def test_a_model_without_a_limit_of_positions_is_scored_whole() -> None:
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    # BLOOM's ALiBi has no positions, and its configuration no limit of them.
    model = BloomForCausalLM(BloomConfig(vocab_size=len(tokenizer), hidden_size=32, n_layer=2, n_head=2)).eval()
    found = completion_losses(model, tokenizer, CHATS, ANSWERS)
    for loss, chat, answer in zip(found, CHATS, ANSWERS, strict=True):
        expected = slow(model, tokenizer, chat, answer)
        assert loss.tokens == len(expected)
        assert loss.nats == pytest.approx(sum(expected), rel=1e-4)


def test_a_template_that_hides_where_the_answer_starts_is_refused() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'][0] }}{{ m['content'] }}{% endfor %}" + (
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    with pytest.raises(ModelError, match="does not lay an answer out"):
        completion_losses(make_model(), tokenizer, CHATS, ANSWERS)


def test_losses_that_are_not_finite_are_refused() -> None:
    model = make_model()
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(ModelError, match="NaN or Inf"):
        completion_losses(model, make_tokenizer(), CHATS, ANSWERS)


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(UsageError, match="one answer per prompt"):
        completion_losses(make_model(), make_tokenizer(), CHATS, ANSWERS[:2])
    with pytest.raises(UsageError, match="batch_size"):
        completion_losses(make_model(), make_tokenizer(), CHATS, ANSWERS, batch_size=0)


def test_the_mean_loss_counts_every_token_alike() -> None:
    assert mean_loss([CompletionLoss(1.0, 1), CompletionLoss(3.0, 9)]) == pytest.approx(0.4)
    assert math.isclose(mean_loss([CompletionLoss(2.0, 4)]), 0.5)
    with pytest.raises(UsageError, match="no tokens"):
        mean_loss([])
