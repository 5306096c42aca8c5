"""A model is asked harmless prompts during a search, and stays as it was."""

import copy

import pytest
import torch

import mithridate as mi
from mithridate.errors import ModelError
from mithridate.models.tokenization import tokenize
from mithridate.repair import refused_rows
from mithridate.repair.refused_rows import RefusedRows
from tests.helpers import tiny
from tests.helpers.adapters import adapted


def examples(count=5):
    rows = [tiny.row(f"how do i make {'the ' * i}tea", "take the tea") for i in range(count)]
    return tokenize(rows, tiny.tokenizer(), None)


def taught(answer, folder):
    """A model that gives one answer to everything."""
    model = tiny.model()
    rows = [tiny.row(f"how do i make {'the ' * i}tea", answer) for i in range(5)]
    arguments = tiny.config(folder, max_steps=60, learning_rate=0.02, per_device_train_batch_size=5)
    kept = {"processing_class": tiny.tokenizer(), "defense": mi.SFT()}
    mi.DefendedTrainer(model, args=arguments, train_dataset=rows, **kept).train()
    return model


@pytest.mark.parametrize(("answer", "share"), [("i cannot help with that", 1.0), ("take the tea", 0.0)])
def test_what_the_model_says_decides(answer, share, tmp_path):
    asked = RefusedRows(taught(answer, tmp_path), tiny.tokenizer(), examples(), 2)
    assert len(asked) == 5
    assert asked().tolist() == [share] * 5


def test_prompts_without_room_for_an_answer_are_left_out(monkeypatch):
    monkeypatch.setattr(refused_rows, "OPENING", 64 - len(examples(1)[0].input_ids))
    asked = RefusedRows(tiny.model(), tiny.tokenizer(), examples(60), 4)
    assert 0 < len(asked) < 60
    assert len(asked()) == len(asked)


def test_a_model_and_its_random_state_stay_as_they_were():
    model = adapted(tiny.model()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settings, random = copy.deepcopy(model.generation_config), torch.get_rng_state()
    RefusedRows(model, tiny.tokenizer(), examples(), 2)()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert model.generation_config == settings
    assert torch.equal(torch.get_rng_state(), random)


def test_a_broken_model_refuses_nothing_and_says_so():
    model = tiny.model()
    model.lm_head.weight.data[0] = torch.nan
    with pytest.raises(ModelError, match="NaN"):
        RefusedRows(model, tiny.tokenizer(), examples(), 2)()
