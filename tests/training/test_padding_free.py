"""Rows laid end to end train to the weights of padded ones, with every defense, or are refused."""

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model
from transformers import MambaConfig, MambaForCausalLM, masking_utils

import mithridate as mi
from mithridate.errors import UsageError
from mithridate.models.batches import collate
from mithridate.models.decoder import DECODER_PARTS
from mithridate.models.tokenization import IGNORED, TokenizedRow
from mithridate.training.scoring import Likelihood
from mithridate.training.trainable_weights import Weights
from tests.families.models import FAMILIES, SHARED, family
from tests.helpers import tiny
from tests.helpers.training import distance, run, streams, trainer
from tests.matrix.row import thinned
from tests.matrix.rows import cut_and_shared

TRAININGS = cut_and_shared()
QUICK = ["antibody_alignment", "antibody_tuning", "joint_alignment", "safety_mixing", "sbr", "sft", "vaccine"]
"""Every kind of pass and of stream; the other trainings are slow for their number."""
SHAPE = {"max_steps": 6, "rows": 24, "per_device_train_batch_size": 8}


@pytest.mark.parametrize("name", thinned(TRAININGS, QUICK))
def test_unpadded_passes_train_the_weights_of_padded_ones(name):
    padded, unpadded = (run(*TRAININGS[name], **SHAPE, padding_free=free) for free in (False, True))
    assert distance(padded.weights, unpadded.weights) <= 1e-5
    for one, other in zip(padded.logs, unpadded.logs, strict=True):
        for figure in one:
            assert one[figure] == pytest.approx(other[figure], abs=1e-4, rel=1e-5), figure
    if padded.trainer.row_weights is not None:
        mine, theirs = padded.trainer.row_weights, unpadded.trainer.row_weights
        assert mine.times.tolist() == theirs.times.tolist()
        assert mine.sums.tolist() == pytest.approx(theirs.sums.tolist(), abs=1e-5)


@pytest.mark.parametrize("name", ["antibody_tuning", "repnoise"])
def test_unpadded_micro_batches_equal_one_padded_batch(name):
    cut = SHAPE | {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    whole, pieces = run(*TRAININGS[name], **SHAPE), run(*TRAININGS[name], **cut, padding_free=True)
    assert distance(whole.weights, pieces.weights) <= 2e-5


def test_stock_trl_with_padding_trains_the_same():
    stock, ours = run(None, **SHAPE), run("sft", **SHAPE, padding_free=True)
    assert distance(stock.weights, ours.weights) <= 1e-5


def test_no_padding_reaches_the_model(tmp_path):
    made = trainer(mi.SFT(), tmp_path, **SHAPE, padding_free=True)
    seen = []
    made.model.get_input_embeddings().register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    made.train()
    assert len(seen) == 3 + SHAPE["max_steps"]  # the trial of the model, and one pass a step
    assert all(len(ids) == 1 and (ids != 0).all() for ids in seen[3:])
    assert made.args.max_length == 64, "rows are cut as before"


def _rows():
    """Of several lengths; the second is trained from its first token on."""
    lengths, trained = (5, 9, 2, 1, 7), (2, 0, 1, 0, 6)
    drawn = torch.Generator().manual_seed(0)
    found = []
    for row, (length, start) in enumerate(zip(lengths, trained, strict=True)):
        ids = torch.randint(5, 29, (length,), generator=drawn).tolist()
        found.append(TokenizedRow(ids, [IGNORED] * start + ids[start:], row))
    return found


def _left(batch):
    """The same rows, padded on the left."""
    shifts = (batch["attention_mask"] == 0).sum(dim=1).tolist()
    moved = {
        n: torch.stack([v.roll(s) for v, s in zip(t, shifts, strict=True)]) for n, t in batch.items() if n != "row"
    }
    return moved | {"row": batch["row"]}


LEARNED = ("gpt2", "opt")
"""Families with learned positions, which padding on the left would shift where nothing is laid end to end."""
PASSES = [
    (name, attention, side)
    for name in FAMILIES
    for attention in ("eager", "sdpa")
    for side in ("right", "left")
    # transformers' OPT does not hand positions on to its mask, and its Gemma 2 has no SDPA.
    if name != "opt" and (name, attention) != ("gemma2", "sdpa") and (side == "right" or name not in LEARNED)
]


@pytest.mark.parametrize(("name", "attention", "side"), PASSES)
def test_a_pass_and_its_gradient_are_those_of_padded_rows(name, attention, side):
    model = family(name)
    model.set_attn_implementation(attention)
    right = collate(_rows(), 0)
    found = []
    for unpadded, batch in ((False, right), (True, right if side == "right" else _left(right))):
        likelihood = Likelihood(model, Weights(model), unpadded=unpadded)
        rows = likelihood.score(batch, hidden=DECODER_PARTS)
        model.zero_grad()
        (rows.nll * torch.arange(1, 6)).sum().backward()
        grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        hidden = {part: [state[rows.real] for state in states] for part, states in rows.hidden.items()}
        found.append((rows, grads, hidden))
    (padded, grads, hidden), (laid, laid_grads, laid_hidden) = found
    torch.testing.assert_close(laid.nll, padded.nll, atol=1e-5, rtol=1e-5)
    assert laid.tokens.tolist() == padded.tokens.tolist() == [3, 8, 1, 0, 1]
    torch.testing.assert_close(laid_grads, grads, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(laid_hidden, hidden, atol=1e-5, rtol=1e-5)


def test_logits_are_laid_back_into_rows():
    model, batch = tiny.model(), collate(_rows(), 0)
    padded, laid = (Likelihood(model, Weights(model), unpadded=u).score(batch, logits=True) for u in (False, True))
    assert laid.logits.shape == padded.logits.shape
    torch.testing.assert_close(laid.logits[laid.mask], padded.logits[padded.mask], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(laid.log_probs, padded.log_probs, atol=1e-5, rtol=1e-5)


def test_half_precision_is_no_reason_to_refuse(tmp_path):
    trainer(mi.SFT(), tmp_path, **SHAPE, padding_free=True, bf16=True).train()
    half = {"model": tiny.model().to(torch.bfloat16)}
    trainer(mi.SFT(), tmp_path, **SHAPE, padding_free=True, extra=half).train()


def _refused(tmp_path, model, peft_config=None):
    made = mi.DefendedTrainer(
        model, args=tiny.config(tmp_path, padding_free=True), train_dataset=tiny.rows("user"), defense=mi.SFT(),
        processing_class=tiny.tokenizer(), peft_config=peft_config, **streams(),
    )  # fmt: skip
    before = {name: weight.clone() for name, weight in made.model.state_dict().items()}
    with pytest.raises(UsageError, match=r"padding_free=True for .*; leave it out"):
        made.train()
    assert distance(before, made.model.state_dict()) == 0


def test_attention_that_does_not_look_at_positions_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda position_ids: None)
    _refused(tmp_path, tiny.model())


def test_a_model_that_does_not_hand_positions_on_to_its_mask_is_refused(tmp_path):
    _refused(tmp_path, family("opt"))


def test_a_state_that_one_row_hands_on_to_the_next_is_refused(tmp_path):
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "initializer_range": 0.3}
    _refused(tmp_path, MambaForCausalLM(MambaConfig(**SHARED, **shape)))


def test_prompt_tuning_is_refused(tmp_path):
    tuned = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    _refused(tmp_path, get_peft_model(tiny.model(), tuned))


def test_packing_is_refused_with_its_reason(tmp_path):
    with pytest.raises(UsageError, match=r"packing=True .*as many rows as happen to fit.*padding_free=True"):
        trainer(mi.SFT(), tmp_path, packing=True)
