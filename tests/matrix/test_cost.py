"""Forward and backward passes equal the registered cost, counted by hooks in rows."""

import pytest
import torch

from mithridate.defenses.registry import methods
from tests.helpers import tiny
from tests.helpers.counting import Counted
from tests.helpers.origins import everything, restored
from tests.helpers.training import repair_methods, run, trainer, training_methods
from tests.matrix.row import rows_passed, thinned
from tests.matrix.rows import ROWS


@pytest.mark.parametrize("micro_batches", thinned([1, 2], [2]))
@pytest.mark.parametrize("name", training_methods())
def test_passes_per_step(name, micro_batches, tmp_path):
    row, defense = ROWS[name], methods()[name].cls(**ROWS[name].default)
    shape = {"per_device_train_batch_size": 4 // micro_batches, "gradient_accumulation_steps": micro_batches}
    made = trainer(defense, tmp_path, max_steps=3, **shape)
    with Counted(made.model) as counted:
        made.train()
    assert (counted.forward, counted.backward) == rows_passed(defense, row, row.default, 3, 4)


@pytest.mark.parametrize("name", sorted(methods().keys() - {"random_perturbation"}))  # which has no default size
def test_registered_passes_are_those_of_the_default_settings(name):
    info = methods()[name]
    assert info.cls().passes == (info.forward, info.backward)


@pytest.mark.parametrize("name", repair_methods())
def test_passes_over_the_rows_of_a_repair(name):
    """Passes of the model it is compared with count as well."""
    info, given = methods()[name], everything(10)
    model = run("sft", max_steps=2).trainer.model
    with restored(model), Counted(model) as own, Counted(given["aligned"]) as other:
        info.cls(**ROWS[name].default).repair(model, tiny.tokenizer(), **given)
    assert (own.forward + other.forward, own.backward + other.backward) == (10 * info.forward, 10 * info.backward)
    assert torch.is_grad_enabled()
