"""All passes of a step over the same rows draw the same dropout masks."""

import math
from contextlib import nullcontext

import pytest
import torch
from peft import LoraConfig, get_peft_model

from mithridate.models.batches import batches
from mithridate.models.tokenization import tokenize
from mithridate.training.processes import Processes
from mithridate.training.randomness import Randomness
from mithridate.training.row_stream import Stream
from mithridate.training.scoring import Likelihood
from mithridate.training.step import Step
from mithridate.training.step_rows import Clock
from mithridate.training.trainable import Weights
from tests.helpers import tiny
from tests.helpers.training import run

USER = tokenize(tiny.rows("user", 8), tiny.tokenizer())
HARMFUL = tokenize(tiny.rows("harmful", 12), tiny.tokenizer())
REFUSALS = [[22, 7, 4]]


def _model():
    torch.manual_seed(0)
    model = get_peft_model(tiny.model(), LoraConfig(r=4, lora_dropout=0.5, target_modules=["q_proj", "v_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.train()


def _step(model, number=0, rank=0):
    return Step(
        main="user", micro_batches=list(batches(USER, 3, 0)),
        likelihood=Likelihood(model, Weights(model), processes=Processes(rank)),
        streams={"harmful": Stream(HARMFUL, 4, 0)}, refusals=REFUSALS, micro_batch_size=2, pad_token_id=0,
        clock=Clock(number, 10, 0, len(USER)),
    )  # fmt: skip


def _same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first.tensors, second.tensors, strict=True))


@pytest.mark.parametrize("stream", ["user", "harmful", HARMFUL[3:6]], ids=["main", "drawn", "rows"])
def test_the_same_rows_draw_the_same_masks(stream):
    step = _step(_model())
    first = step.gradient(stream)
    step.gradient("harmful", completions="refusals")
    assert _same(first, step.gradient(stream))
    assert not _same(first, _step(_model(), number=1).gradient(stream)) or stream == "user"


def test_the_rows_that_are_trained_on_draw_new_masks_in_the_next_step():
    model = _model()
    assert not _same(_step(model).gradient("user"), _step(model, 1).gradient("user"))


def test_a_stream_drawn_anew_and_another_process_draw_masks_of_their_own():
    step = _step(_model())
    twice = [HARMFUL[0], HARMFUL[0]]
    losses = [step.gradient(rows) for rows in (twice, HARMFUL[:1])]
    assert not _same(*losses)
    assert not _same(step.gradient(HARMFUL[:1]), _step(_model(), rank=1).gradient([HARMFUL[1], HARMFUL[0]]))


def test_the_difference_of_nearby_gradients_is_small():
    """At a radius of 1e-6 it is second derivatives times 1e-6, not the distance of two masks."""
    step = _step(_model())
    harm = step.gradient("harmful")
    with step.moved(-1e-6 * harm.unit()):
        eased = step.gradient("harmful")
    assert 0 < (harm - eased).norm() < 1e-3 * harm.norm()


@pytest.mark.parametrize(
    ("name", "figure", "settings"),
    [
        ("booster", "extra_gradient_norm", {}),
        ("antibody_alignment", "sharpness_norm", {}),
        ("panacea_tuning", "extra_gradient_norm", {}),
    ],
)
def test_the_extra_term_of_a_method_falls_with_its_radius(name, figure, settings):
    """By a factor of ten; between masks of their own it would hardly fall at all."""
    large, small = (
        run(name, settings | {"radius": radius}, dropout=0.5, max_steps=1).logs[0][figure] for radius in (1e-2, 1e-3)
    )
    assert large / small == pytest.approx(10, rel=0.2)


def test_activations_and_their_perturbation_are_those_of_one_pass():
    step = _step(_model())
    felt = step.activation_gradient("user", "attention")
    with step.perturbed("attention", 0.0 * felt):
        assert _same(step.gradient("user"), step.gradient("user"))


def test_a_refusals_likelihood_is_that_of_the_same_masks_and_leaves_no_trace():
    def found(weigh, paired=None):
        torch.manual_seed(5)
        step = _step(_model())
        gradient = step.gradient("user", log_weights=weigh, paired=paired)
        return gradient, torch.rand(1)

    plain = found(lambda rows: torch.zeros(len(rows.nll)))
    weighed = found(lambda rows: 0 * rows.paired.nll, "refusals")
    assert _same(plain[0], weighed[0])
    assert plain[1] == weighed[1]


def test_scores_without_gradient_are_those_of_the_gradients_pass():
    step = _step(_model())
    scored = torch.cat([rows.nll for rows in step.score("user")])
    seen = []
    step.gradient("user", loss=lambda rows: seen.append(rows.nll.detach()) or rows.per_token(rows.nll))
    assert torch.equal(scored, torch.cat(seen))


def test_only_the_first_pass_over_the_trained_rows_moves_the_processes_own_generator():
    torch.manual_seed(1)
    shared = Randomness(torch.device("cpu"))
    with shared.shared("a"):
        first = torch.rand(3)
    after = torch.get_rng_state()
    for rows, seed in (("a", None), ("b", 7), ("b", 7)):
        with shared.shared(rows, seed), nullcontext():
            drawn = torch.rand(3)
            with shared.again():
                assert torch.equal(torch.rand(3), drawn)
        assert torch.equal(torch.get_rng_state(), after)
        assert torch.equal(drawn, first) == (rows == "a")
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), first)
    assert math.isfinite(float(first.sum()))
