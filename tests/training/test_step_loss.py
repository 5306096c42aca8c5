"""Losses over a whole step, against the same loss differentiated in one piece."""

import itertools

import pytest
import torch
from peft import LoraConfig, get_peft_model

from mithridate.errors import DefenseError
from mithridate.models.batches import collate
from mithridate.models.tokenization import tokenize
from mithridate.training.scoring import Likelihood
from mithridate.training.step import Step
from mithridate.training.trainable import Weights
from tests.helpers import tiny

EXAMPLES = tokenize(tiny.rows("user", 6), tiny.tokenizer())
CUTS = {"6x1": [], "2x3": [2, 4], "uneven": [1, 5], "1x6": [1, 2, 3, 4, 5]}


def _step(model, cuts=(), **changes):
    edges = [0, *cuts, len(EXAMPLES)]
    micro = [collate(EXAMPLES[a:b], 0) for a, b in itertools.pairwise(edges)]
    arguments = {
        "main": "user", "micro_batches": micro, "likelihood": Likelihood(model, Weights(model)), "streams": {},
        "refusals": [[22, 7, 4], [9, 4]], "micro_batch_size": 2, "pad_token_id": 0,
    }  # fmt: skip
    return Step(**arguments | changes)


def _features(rows):
    """Ragged states of the completions, and one number per row."""
    states = [h[mask] for h, mask in zip(rows.hidden["block"][0], rows.completion, strict=True)]
    return {"states": states, "nll": list(rows.mean_nll)}


def _loss(rows):
    """No sum over rows: distances between all pairs, and a logarithm of a mean."""
    means = torch.stack([state.mean(dim=0) for state in rows["states"]])
    return torch.cdist(means, means).square().mean().sqrt() + torch.stack(rows["nll"]).mean().log()


def _whole(model):
    """The same by autograd through all rows at once."""
    weights = Weights(model)
    rows = Likelihood(model, weights).score(collate(EXAMPLES, 0), hidden=("block",))
    found = _features(rows)
    return torch.autograd.grad(_loss(found), weights.parameters, allow_unused=True)


@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS.keys())
def test_however_the_step_is_cut_the_gradient_is_that_of_the_whole(cuts):
    model = tiny.model().double()
    expected = _whole(model)
    found = _step(model, cuts).gradient("user", step_loss=_loss, features=_features, hidden=("block",))
    assert found.norm() > 0
    for ours, theirs in zip(found.tensors, expected, strict=True):
        torch.testing.assert_close(ours, torch.zeros_like(ours) if theirs is None else theirs, atol=1e-6, rtol=1e-4)


def test_a_linear_loss_is_the_plain_gradient():
    model = tiny.model().double()
    step = _step(model, [2, 4])
    tokens = step.totals("user").tokens

    def loss(rows):
        return torch.stack(rows["nll"]).sum() / tokens

    found = step.gradient("user", step_loss=loss, features=lambda rows: {"nll": list(rows.nll)})
    assert (found - step.gradient("user")).norm() <= 1e-5 * found.norm()


def test_both_passes_draw_the_same_masks():
    """With masks of their own the derivative would belong to other features than those it is propagated through."""
    torch.manual_seed(0)
    model = get_peft_model(tiny.model(), LoraConfig(r=4, lora_dropout=0.5, target_modules=["q_proj", "v_proj"])).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    seen = []

    def features(rows):
        seen.append(rows.nll.detach())
        return {"nll": list(rows.nll)}

    _step(model, [2, 4]).gradient("user", step_loss=lambda rows: torch.stack(rows["nll"]).sum(), features=features)
    assert len(seen) == 6
    assert all(torch.equal(first, second) for first, second in zip(seen[:3], seen[3:], strict=True))


def test_the_loss_is_told_rows_in_order_and_the_training_rows_are_observed_once():
    step, told = _step(tiny.model(), [2, 4]), []

    def loss(rows):
        told.append((rows.rows, sorted(rows)))
        return torch.stack(rows["nll"]).sum()

    step.gradient("user", step_loss=loss, features=lambda rows: {"nll": list(rows.nll)})
    assert told == [([example.row for example in EXAMPLES], ["nll"])]
    assert step.observed.tokens == step.totals("user").tokens


def test_a_feature_that_the_loss_does_not_read_changes_nothing():
    model = tiny.model().double()
    step = _step(model, [3])
    plain = step.gradient("user", step_loss=_loss, features=_features, hidden=("block",))
    more = step.gradient(
        "user", step_loss=_loss, features=lambda rows: _features(rows) | {"idle": list(rows.nll)}, hidden=("block",)
    )
    assert (plain - more).norm() == 0


def _nll(rows):
    return {"nll": list(rows.nll)}


BAD = {
    "one feature too few": (lambda rows: {"nll": list(rows.nll)[1:]}, lambda rows: rows["nll"][0], "give one each"),
    "whole numbers": (lambda rows: {"row": list(rows.row)}, lambda rows: rows["row"][0], "has no derivative"),
    "no features": (lambda rows: {}, lambda rows: torch.zeros(()), "returned none"),
    "detached": (lambda rows: {"nll": list(rows.nll.detach())}, lambda rows: rows["nll"][0], "do not detach"),
    "another name": (_nll, lambda rows: rows["loss"][0], r"reads the feature 'loss'; features= returned \['nll'\]"),
    "no number": (_nll, lambda rows: torch.stack(rows["nll"]), r"shape \(6,\), expected one number"),
    "a constant": (_nll, lambda rows: torch.ones(()), "expected one number that depends on the features"),
    "a float": (_nll, lambda rows: 3.0, "returned float"),
    "not finite": (_nll, lambda rows: torch.log(-rows["nll"][0]), "is nan"),
}


@pytest.mark.parametrize(("features", "loss", "message"), BAD.values(), ids=BAD.keys())
def test_features_and_losses_that_cannot_be_used_are_refused(features, loss, message):
    with pytest.raises(DefenseError, match=message):
        _step(tiny.model(), [2]).gradient("user", step_loss=loss, features=features)


def test_refusals_can_be_paired_with_the_rows_in_a_loss_over_the_step():
    model = tiny.model().double()

    def features(rows):
        return {"gap": list(rows.paired.nll - rows.nll)}

    def loss(rows):
        return torch.stack(rows["gap"]).logsumexp(dim=0)

    whole, cut = (
        _step(model, cuts).gradient("user", step_loss=loss, features=features, paired="refusals")
        for cuts in ([], [1, 4])
    )
    assert whole.norm() > 0
    assert (whole - cut).norm() <= 1e-5 * whole.norm()
