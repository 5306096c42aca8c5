"""Gradients of weighted likelihoods: online softmax against the direct formula."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mithridate.errors import DefenseError
from mithridate.models.batches import collate
from mithridate.models.modes import evaluating
from mithridate.models.tokenization import IGNORED, tokenize
from mithridate.training.scoring import Likelihood
from mithridate.training.trainable_weights import Weights
from tests.helpers import tiny
from tests.helpers.examples import examples
from tests.helpers.gradients import weighted_gradient

MODEL = tiny.model()
EXAMPLES = tokenize(tiny.rows("harmful", 6), tiny.tokenizer())
LOGS = st.lists(st.one_of(st.floats(-500, 500), st.just(-math.inf)), min_size=6, max_size=6)


def _direct(shares):
    """∇ Σ w·NLL / Σ w·tokens from the model's own logits, row by row."""
    MODEL.zero_grad(set_to_none=True)
    top, bottom = 0.0, 0.0
    for share, example in zip(shares, EXAMPLES, strict=True):
        logits = MODEL(input_ids=torch.tensor([example.input_ids])).logits[0]
        labels = torch.tensor(example.labels)[1:]
        picked = logits[:-1].log_softmax(dim=1)[labels != IGNORED, labels[labels != IGNORED]]
        top, bottom = top - share * picked.sum(), bottom + share * len(picked)
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(top / bottom, list(MODEL.parameters()))])


def _batches(cuts):
    edges = [0, *sorted(cuts), len(EXAMPLES)]
    return [collate(EXAMPLES[a:b], 0) for a, b in itertools.pairwise(edges) if b > a]


def _ours(logs, cuts):
    place = {example.row: i for i, example in enumerate(EXAMPLES)}
    gradient = weighted_gradient(
        Likelihood(MODEL, Weights(MODEL)),
        _batches(cuts),
        lambda rows: torch.tensor([logs[place[int(r)]] for r in rows.row], dtype=torch.float64),
    )
    return torch.cat([tensor.reshape(-1) for tensor in gradient.tensors])


@settings(max_examples=examples(25))
@given(LOGS, st.lists(st.integers(1, 5), max_size=3))
def test_weights_are_a_softmax_over_all_batches(logs, cuts):
    """Log-weights of ±500 would overflow without the running maximum."""
    top = max(logs)
    ours = _ours(logs, cuts)
    if top == -math.inf:
        assert not ours.any()
    else:
        torch.testing.assert_close(ours, _direct([math.exp(log - top) for log in logs]), atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("cuts", [[], [3], [1, 2, 3, 4, 5]])
def test_equal_log_weights_are_plain_training(cuts):
    torch.testing.assert_close(_ours([3.7] * 6, cuts), _direct([1.0] * 6), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_weight_that_is_no_number_names_its_row(bad):
    with pytest.raises(DefenseError, match="the weight of row 4 is not a number"):
        _ours([0.0, 0.0, 0.0, 0.0, bad, 0.0], [2])


def test_rows_without_a_trained_token_are_refused():
    batch = collate(EXAMPLES[:2], 0)
    batch["labels"].fill_(IGNORED)
    with pytest.raises(DefenseError, match="without a single trained token"):
        weighted_gradient(Likelihood(MODEL, Weights(MODEL)), [batch])


@torch.no_grad()
def test_scores_are_sums_over_answer_tokens_and_generation_stays_as_it_was():
    scored = Likelihood(MODEL, Weights(MODEL)).score(collate(EXAMPLES, 0))
    for example, nll, tokens in zip(EXAMPLES, scored.nll, scored.tokens, strict=True):
        answer = [label for label in example.labels if label != IGNORED]
        logits = MODEL(input_ids=torch.tensor([example.input_ids])).logits[0]
        direct = -logits.log_softmax(dim=1)[range(-len(answer) - 1, -1), answer].sum()
        assert int(tokens) == len(answer)
        assert float(nll) == pytest.approx(float(direct), abs=1e-5)
    assert MODEL.generate(torch.tensor([[7, 8]]), max_new_tokens=2, do_sample=False).shape[1] <= 4


def test_a_model_is_given_the_fused_head_once():
    model = tiny.model()
    Likelihood(model, Weights(model))
    forward = model.forward
    Likelihood(model, Weights(model))
    assert model.forward == forward


def test_evaluating_drops_nothing_and_puts_every_mode_back():
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Dropout(0.5), torch.nn.Dropout(0.5))
    model.train()
    model[1].eval()
    ones = torch.ones(4, 8)
    with evaluating(model):
        first, second = model(ones), model(ones)
    assert torch.equal(first, second)
    assert [module.training for module in model.modules()] == [True, True, False, True]
    with pytest.raises(ZeroDivisionError), evaluating(model):
        raise ZeroDivisionError
    assert [module.training for module in model.modules()] == [True, True, False, True]
