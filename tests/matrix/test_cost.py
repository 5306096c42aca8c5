"""Forward and backward passes equal the registered cost, counted by hooks in rows."""

import pytest
import torch

from mithridate.defenses.registry import methods
from tests.helpers import tiny
from tests.helpers.counting import Counted
from tests.helpers.training import repair_methods, run, trainer, training_methods
from tests.matrix.rows import ROWS


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("name", training_methods())
def test_passes_per_step(name, micro_batches, tmp_path):
    info = methods()[name]
    shape = {"per_device_train_batch_size": 4 // micro_batches, "gradient_accumulation_steps": micro_batches}
    made = trainer(info.cls(**ROWS[name].default), tmp_path, max_steps=3, **shape)
    with Counted(made.model) as counted:
        made.train()
    assert (counted.forward, counted.backward) == (3 * 4 * info.forward, 3 * 4 * info.backward)


@pytest.mark.parametrize("name", repair_methods())
def test_passes_over_the_harmful_rows(name):
    info, harmful = methods()[name], tiny.rows("harmful", 10)
    model = run("sft", max_steps=2).trainer.model
    saved = {n: p.detach().clone() for n, p in model.state_dict().items()}
    with Counted(model) as counted:
        info.cls(**ROWS[name].default).repair(model, tiny.tokenizer(), harmful=harmful)
    model.load_state_dict(saved)
    assert (counted.forward, counted.backward) == (10 * info.forward, 10 * info.backward)
    assert torch.is_grad_enabled()
