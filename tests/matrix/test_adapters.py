"""Adapters of every kind under every training method: trained as the model runs them, or refused in a sentence."""

import pytest
import torch
from peft import IA3Config, LoHaConfig, LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model

from mithridate.defenses.registry import methods
from mithridate.errors import MithridateError
from mithridate.models.batches import batches
from mithridate.models.tokenization import IGNORED, tokenize
from mithridate.training.scoring import Likelihood
from mithridate.training.trainable import Weights
from tests.helpers import tiny
from tests.helpers.gradients import weighted_gradient
from tests.helpers.training import distance, trainer, training_methods
from tests.matrix.row import thinned
from tests.matrix.rows import ROWS

TARGETS = ["q_proj", "down_proj"]
KINDS = {
    "dora": LoraConfig(r=2, use_dora=True, target_modules=TARGETS),
    "rslora": LoraConfig(r=2, use_rslora=True, target_modules=TARGETS),
    "with embeddings": LoraConfig(r=2, target_modules=["q_proj", "embed_tokens"]),
    "with saved embeddings": LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"]),
    "with bias": LoraConfig(r=2, target_modules=TARGETS, lora_bias=True),
    "ia3": IA3Config(target_modules=TARGETS, feedforward_modules=["down_proj"]),
    "loha": LoHaConfig(r=2, target_modules=TARGETS),
    "prompt": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "prefix": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
}
REFUSED = {
    ("lox_alignment", "dora"), ("lox_alignment", "with embeddings"), ("lox_alignment", "with bias"),
    ("lox_alignment", "ia3"), ("lox_alignment", "loha"), ("lox_alignment", "prompt"), ("lox_alignment", "prefix"),
    ("salora", "dora"), ("salora", "with embeddings"), ("salora", "with bias"), ("salora", "ia3"), ("salora", "loha"),
    ("salora", "prompt"), ("salora", "prefix"),
}  # fmt: skip
EXAMPLES = tokenize(tiny.rows("harmful", 6), tiny.tokenizer())


def _random(kind):
    torch.manual_seed(0)
    model = get_peft_model(tiny.model(), KINDS[kind])
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, mean=float(parameter.detach().mean()), std=0.2)
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_models_own_loss(kind):
    model = _random(kind)
    weights, total, tokens = Weights(model), 0.0, 0
    ours = weighted_gradient(Likelihood(model, weights), batches(EXAMPLES, 4, 0))
    for example in EXAMPLES:
        output = model(
            input_ids=torch.tensor([example.input_ids]), attention_mask=torch.ones(1, len(example.input_ids))
        )
        own = output.logits[0, -len(example.input_ids) :].log_softmax(-1)
        for place, label in enumerate(example.labels[1:]):
            if label != IGNORED:
                total, tokens = total - own[place, label], tokens + 1
    expected = torch.autograd.grad(total / tokens, weights.parameters)
    for mine, theirs in zip(ours.tensors, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("kind", thinned(KINDS, ["dora", "prompt"]))
@pytest.mark.parametrize("name", training_methods())
def test_an_adapter_is_trained_or_refused_before_it_moves(name, kind, tmp_path):
    made = trainer(methods()[name].cls(**ROWS[name].default), tmp_path, extra={"peft_config": KINDS[kind]}, max_steps=2)
    before = {n: p.detach().clone() for n, p in made.model.named_parameters()}
    if (name, kind) in REFUSED:
        with pytest.raises(MithridateError):
            made.train()
        assert distance(before, dict(made.model.named_parameters())) == 0
        return
    made.train()
    after = dict(made.model.named_parameters())
    assert all(torch.isfinite(p).all() for p in after.values())
    assert {n for n, p in before.items() if not torch.equal(p, after[n])} <= {
        n for n, p in after.items() if p.requires_grad
    }
    assert distance(before, after) > 0
