"""An output head with LoRA on it, or copied by ``modules_to_save``, takes part in whatever is computed."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from mithridate.defenses.panacea import Panacea
from mithridate.defenses.sft import SFT
from mithridate.errors import UsageError
from mithridate.models.batches import batches
from mithridate.models.fused_head import fused_head
from mithridate.models.tokenization import IGNORED, tokenize
from mithridate.repair.budgets import RowLosses
from mithridate.repair.repairable import repairable
from mithridate.training.scoring import Likelihood
from mithridate.training.trainable_weights import Weights
from tests.helpers import tiny
from tests.helpers.gradients import weighted_gradient
from tests.helpers.training import trainer

ADAPTED = {
    "lora": {"target_modules": ["lm_head"]},
    "saved": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
}
PLAIN = {"target_modules": ["q_proj"]}
EXAMPLES = tokenize(tiny.rows("harmful", 8), tiny.tokenizer())


def _adapted(settings):
    torch.manual_seed(0)
    model = get_peft_model(tiny.model(), LoraConfig(r=2, **settings))
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def _nll(model, example):
    """By the model's own logits, in float64."""
    logits = model(input_ids=torch.tensor([example.input_ids])).logits[0].double().log_softmax(-1)
    places = [place for place, label in enumerate(example.labels[1:]) if label != IGNORED]
    return -sum(logits[place, example.labels[place + 1]] for place in places), len(places)


@pytest.mark.parametrize("settings", [*ADAPTED.values(), PLAIN], ids=[*ADAPTED, "plain"])
def test_scores_are_those_of_the_models_own_logits(settings):
    model = _adapted(settings).eval()
    losses = RowLosses(model, repairable(model), EXAMPLES, 4)()
    for loss, example in zip(losses, EXAMPLES, strict=True):
        nll, tokens = _nll(model, example)
        assert float(loss) == pytest.approx(float(nll.detach()) / tokens, abs=1e-5)


@pytest.mark.parametrize("settings", [*ADAPTED.values(), PLAIN], ids=[*ADAPTED, "plain"])
def test_gradients_are_those_of_the_models_own_logits(settings):
    model = _adapted(settings).eval()
    weights = Weights(model)
    ours = weighted_gradient(Likelihood(model, weights), batches(EXAMPLES, 3, 0))
    scored = [_nll(model, example) for example in EXAMPLES]
    loss = sum(nll for nll, _ in scored) / sum(tokens for _, tokens in scored)
    for mine, expected in zip(ours.tensors, torch.autograd.grad(loss, weights.parameters), strict=True):
        torch.testing.assert_close(mine, expected.to(mine), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("settings", ADAPTED.values(), ids=ADAPTED)
def test_the_head_is_displaced_by_panacea(settings):
    model = _adapted(settings)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    Panacea(radius=1.0).repair(model, tiny.tokenizer(), harmful=tiny.rows("harmful", 8))
    assert any("lm_head" in n for n, p in model.named_parameters() if not torch.equal(p, before[n]))


def test_a_saved_head_is_trained_and_evaluated(tmp_path):
    made = trainer(
        SFT(), tmp_path, max_steps=6, learning_rate=0.1,
        extra={"peft_config": LoraConfig(r=2, **ADAPTED["saved"]), "eval_dataset": tiny.rows("user", 8)},
    )  # fmt: skip
    before = {n: p.detach().clone() for n, p in made.model.named_parameters() if p.requires_grad and "lm_head" in n}
    assert before
    made.train()
    after = dict(made.model.named_parameters())
    assert all(not torch.equal(after[n], p) for n, p in before.items())
    made.model.eval()
    scored = [_nll(made.model, example) for example in tokenize(tiny.rows("user", 8), tiny.tokenizer())]
    expected = float(sum(nll.detach() for nll, _ in scored)) / sum(tokens for _, tokens in scored)
    assert made.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-5)


def test_a_head_that_the_host_does_not_train_is_refused(tmp_path):
    with pytest.raises(UsageError, match="the adapter is on the output head too, and TRL trains no such adapter"):
        trainer(SFT(), tmp_path, full=True, extra={"model": _adapted(ADAPTED["lora"])})


def test_without_the_flag_such_a_model_runs_as_ever():
    model = _adapted(ADAPTED["lora"]).eval()
    ids = torch.tensor([[7, 8, 9]])
    expected = model(input_ids=ids, labels=ids)
    with fused_head(model):
        again = model(input_ids=ids, labels=ids)
    assert torch.equal(again.logits, expected.logits)
    assert torch.equal(again.loss, expected.loss)
