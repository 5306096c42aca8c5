"""Measures of tokens over the vocabulary, a few tokens at a time."""

import pytest
import torch
from benchmarks.workload import Shape, make_trainer
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile

from mithridate.defenses.registry import methods
from mithridate.models import fused_head, token_chunks
from mithridate.models.batches import batches
from mithridate.models.fused_head import scored
from mithridate.models.token_chunks import by_tokens
from mithridate.models.tokenization import tokenize
from mithridate.training.defense import Defense
from tests.helpers import tiny
from tests.matrix.row import thinned

LARGE = Shape(width=16, layers=2, vocabulary=150_000, batch=4, sequence=60, rank=0)
SETTINGS = {"tar": {"inner_steps": 2, "tamper_every": 1}, "lisa": {"safe_steps": 1, "user_steps": 1, "warmup": 0.0}}
TRAINING = sorted(name for name, info in methods().items() if issubclass(info.cls, Defense) and name != "salora")


def _loss(logits, labels):
    return cross_entropy(logits, labels, reduction="none")


def _measured(tokens):
    torch.manual_seed(0)
    logits, labels = torch.randn(tokens, 11, requires_grad=True), torch.randint(0, 11, (tokens,))
    found = by_tokens(_loss, 11, logits, labels)
    (found * torch.arange(tokens)).sum().backward()
    return found.detach(), logits.grad


@pytest.mark.parametrize("tokens", [0, 1, 7, 8])
def test_in_chunks_the_measure_and_its_gradient_have_the_same_bits(tokens, monkeypatch):
    whole = _measured(tokens)
    monkeypatch.setattr(token_chunks, "NUMBERS_AT_ONCE", 40)
    for found, expected in zip(_measured(tokens), whole, strict=True):
        assert torch.equal(found, expected)


def test_a_vocabulary_larger_than_a_chunk_is_taken_token_by_token(monkeypatch):
    monkeypatch.setattr(token_chunks, "NUMBERS_AT_ONCE", 5)
    assert len(_measured(3)[0]) == 3


def _largest_tensor(work):
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    return max(e.nbytes() for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]")


@pytest.mark.parametrize("name", thinned([n for n in TRAINING if n != "safegrad"], ["repnoise"]))
def test_no_method_holds_a_batchs_logits(name):
    """SafeGrad alone compares whole distributions."""
    defense = methods()[name].cls(**SETTINGS.get(name, {}))
    made = make_trainer(LARGE, "cpu", False, defense, rows=8, max_steps=1)
    logits = 4 * LARGE.batch * (LARGE.sequence - 1) * LARGE.vocabulary
    assert _largest_tensor(made.train) < logits / 2


def test_the_head_of_a_small_vocabulary_takes_no_buffer_for_a_large_one():
    model, rows = tiny.model(), tokenize(tiny.rows("harmful", 8), tiny.tokenizer())
    (batch,) = batches(rows, 8, 0)
    tokens = batch["input_ids"].numel()
    assert _largest_tensor(lambda: scored(model, batch).log_probs.sum().backward()) < 4 * tokens * 1000
    # As it was before, for whoever uses TRL's head elsewhere.
    assert fused_head.trl_utils._CHUNKED_LOGPROB_CHUNK_SIZE == fused_head.WORDS_AT_ONCE == 32_768


def test_its_figures_do_not_depend_on_the_words_at_once(monkeypatch):
    model, rows = tiny.model(), tokenize(tiny.rows("harmful", 8), tiny.tokenizer())
    (batch,) = batches(rows, 8, 0)
    found = []
    for words in (fused_head.WORDS_AT_ONCE, 7):
        model.zero_grad()
        monkeypatch.setattr(fused_head, "WORDS_AT_ONCE", words)
        output = scored(model, batch)
        output.log_probs.sum().backward()
        found.append((output.log_probs.detach(), model.lm_head.weight.grad.clone()))
    for narrow, wide in zip(*found, strict=True):
        torch.testing.assert_close(narrow, wide, atol=1e-6, rtol=1e-6)


def test_the_head_is_as_it_was_after_a_pass_that_failed():
    model = tiny.model()
    with pytest.raises(ZeroDivisionError), fused_head.fused_head(model):
        raise ZeroDivisionError
    assert fused_head.trl_utils._CHUNKED_LOGPROB_CHUNK_SIZE == 32_768
