"""A repaired copy answers as the same weights loaded anew: nothing of the original runs in it."""

import copy

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

import mithridate as mi
from mithridate.models.loading import save_merged
from tests.helpers import tiny
from tests.helpers.adapters import Everything, adapted, stored
from tests.helpers.origins import everything, restored
from tests.helpers.training import run

GIVEN = everything(4)
REPAIRS = [
    mi.Antidote(mask_ratio=0.5), mi.Antidote(mask_ratio=0.5, scope="delta"), mi.Panacea(radius=3.0),
    mi.RandomPerturbation(radius=3.0), mi.WiSEFT(), mi.RESTA(), mi.LoX(), mi.SafeLoRA(layers=3),
    mi.SafeDelta(scale=0.5), mi.Realign(learning_rate=1e-2),
]  # fmt: skip
IDS = torch.tensor([[2, 5, 6, 7, 8, 3]])


@pytest.fixture
def tuned():
    model = run("sft", max_steps=12).trainer.model
    with restored(model):
        yield model


def _answers(model):
    model = model.eval()
    with torch.no_grad():
        logits = model(input_ids=IDS).logits
        return logits, model.generate(input_ids=IDS, max_new_tokens=6, do_sample=False)


def _loaded(model, repaired, folder):
    if repaired.merged:
        save_merged(model, tiny.tokenizer(), folder)
        return AutoModelForCausalLM.from_pretrained(folder)
    model.save_pretrained(folder)
    return PeftModel.from_pretrained(tiny.model(), folder)


@pytest.mark.parametrize("repair", REPAIRS, ids=lambda repair: f"{repair.info.name} {getattr(repair, 'scope', '')}")
def test_a_repaired_copy_answers_as_its_weights_loaded_anew(repair, tuned, tmp_path):
    own, untouched = _answers(tuned), stored(tuned)
    twin = copy.deepcopy(tuned)
    repaired = repair.repair(twin, tiny.tokenizer(), **GIVEN)
    found = _answers(twin)
    assert not torch.allclose(found[0], own[0], atol=1e-3), "the copy still answers as the original"
    expected = _answers(_loaded(copy.deepcopy(twin), repaired, tmp_path))
    torch.testing.assert_close(found[0], expected[0], atol=1e-4, rtol=1e-4)
    assert torch.equal(found[1], expected[1])
    assert all(torch.equal(p, untouched[n]) for n, p in tuned.named_parameters())
    torch.testing.assert_close(_answers(tuned)[0], own[0], atol=0, rtol=0)


@pytest.mark.parametrize("repair", REPAIRS, ids=lambda repair: f"{repair.info.name} {getattr(repair, 'scope', '')}")
def test_copy_and_original_are_repaired_alike(repair, tuned):
    twin = copy.deepcopy(tuned)
    outcomes = [repair.repair(model, tiny.tokenizer(), **GIVEN).model_dump() for model in (twin, tuned)]
    assert outcomes[0] == outcomes[1]
    assert all(torch.equal(p, q) for p, q in zip(twin.parameters(), tuned.parameters(), strict=True))


@pytest.mark.parametrize("repair", REPAIRS, ids=lambda repair: f"{repair.info.name} {getattr(repair, 'scope', '')}")
def test_nothing_is_left_on_the_model_but_its_weights(repair):
    """No replaced forward either, which a copy would carry along."""
    model = tiny.model() if repair.info.references else adapted(tiny.model())
    given = GIVEN | {"aligned": tiny.model(seed=1)}
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    record = Everything(model)
    repair.repair(model, tiny.tokenizer(), **given)
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before
    assert [change for change in record.changes() if not change.endswith("bits")] == []
