"""Every member of TRL, transformers, accelerate and PEFT that the trainer leans on.

If one of these tests fails after an upgrade, the trainer's assumption of that name has to be looked at again.
"""

import inspect

import pytest
import torch
from accelerate.state import GradientState
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import Trainer, TrainerState
from trl import SFTConfig, SFTTrainer
from trl.trainer.utils import FusedCausalLMOutput, add_fused_lm_head

from tests.helpers import tiny
from tests.helpers.training import trainer


def _parameters(function):
    return list(inspect.signature(function).parameters)


def test_training_step_is_called_with_model_inputs_and_token_count():
    assert _parameters(Trainer.training_step) == ["self", "model", "inputs", "num_items_in_batch"]
    source = inspect.getsource(Trainer._run_epoch)
    assert "self.training_step(model, inputs, num_items_in_batch)" in source
    assert "_set_sync_gradients(do_sync_step)" in source
    order = ["self.training_step(", "self._clip_grad_norm(", "on_pre_optimizer_step(", "self.optimizer.step()"]
    assert [source.index(call) for call in order] == sorted(source.index(call) for call in order)


@pytest.mark.parametrize(("cls", "name", "parameters"), [
    (SFTTrainer, "_save_checkpoint", ["self", "model", "trial"]),
    (Trainer, "_load_optimizer_and_scheduler", ["self", "checkpoint"]),
    (Trainer, "create_optimizer", ["self", "model"]),
    (SFTTrainer, "_set_signature_columns_if_needed", ["self"]),
    (Trainer, "_get_output_dir", ["self", "trial"]),
    (Trainer, "_prepare_inputs", ["self", "inputs"]),
])  # fmt: skip
def test_overridden_and_called_methods_have_their_parameters(cls, name, parameters):
    assert _parameters(getattr(cls, name)) == parameters


def test_train_takes_the_checkpoint_first_and_run_epoch_trains_one_pass():
    assert _parameters(Trainer.train)[:2] == ["self", "resume_from_checkpoint"]
    assert "self._run_epoch(" in inspect.getsource(Trainer._inner_training_loop)
    assert {"global_step", "max_steps"} <= set(_parameters(TrainerState))


def test_state_of_a_resumed_run_is_there_before_the_optimizer_is_loaded():
    """A defense's state is read where the optimizer's is."""
    assert "self._load_optimizer_and_scheduler(resume_from_checkpoint)" in inspect.getsource(
        Trainer._prepare_for_training
    )


def test_the_trainer_has_the_attributes_read(tmp_path):
    made = trainer(None, tmp_path)
    assert made._total_train_tokens == 0
    assert set(made._metrics) == {"train", "eval"}
    assert made._tokenizer.pad_token_id == 0
    assert (made.aux_loss_enabled, made._is_vision_dataset, made.compute_loss_func) == (False, False, None)
    assert made.accelerator.num_processes == 1
    assert made.accelerator.process_index == 0
    assert made._signature_columns is None
    made._set_signature_columns_if_needed()
    assert {"input_ids", "labels"} <= set(made._signature_columns)


@pytest.mark.parametrize("name", [
    "packing", "padding_free", "fp16", "label_smoothing_factor", "loss_type", "neftune_noise_alpha",
    "auto_find_batch_size", "max_length", "per_device_train_batch_size", "gradient_accumulation_steps", "seed",
    "output_dir", "device",
])  # fmt: skip
def test_the_configuration_has_the_settings_read(name, tmp_path):
    assert hasattr(tiny.config(tmp_path), name)
    assert isinstance(tiny.config(tmp_path), SFTConfig)


def test_metrics_are_averaged_lists_by_mode():
    source = inspect.getsource(SFTTrainer.log)
    assert "sum(val) / len(val)" in source
    assert "self._metrics[mode]" in source


def test_prepared_rows_are_ids_and_labels_and_other_columns_stay(tmp_path):
    rows = tiny.rows("user", 4).add_column("row", [0, 1, 2, 3])
    made = SFTTrainer(tiny.model(), args=tiny.config(tmp_path), train_dataset=rows, processing_class=tiny.tokenizer())
    assert {"input_ids", "labels", "row"} <= set(made.train_dataset.column_names)
    batch = made.data_collator([{k: made.train_dataset[i][k] for k in ("input_ids", "labels")} for i in (0, 1)])
    assert {"input_ids", "attention_mask", "labels"} <= set(batch)
    longest = max(range(2), key=lambda i: int(batch["attention_mask"][i].sum()))
    assert batch["attention_mask"][1 - longest][0] == 1, "batches are padded on the right"


def test_the_fused_head_gives_likelihoods_per_token_without_logits():
    assert _parameters(add_fused_lm_head)[:1] == ["model"]
    model = tiny.model()
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    assert model.forward.__code__.co_name == "_fused_forward"
    ids = torch.tensor([[7, 8, 9, 10]])
    labels = torch.tensor([[-100, -100, 9, 10]])
    output = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels, fused_lm_head=True)
    assert isinstance(output, FusedCausalLMOutput)
    for part in (output.log_probs, output.entropy, output.is_top1, output.label_mask):
        assert part.shape == (1, 3)
        assert not part[0, 0].item()
    assert output.log_probs.requires_grad
    expected = model(input_ids=ids).logits.log_softmax(dim=2)[0, [1, 2], [9, 10]]
    torch.testing.assert_close(output.log_probs[0, 1:], expected, atol=1e-5, rtol=0)


def test_accelerate_marks_the_last_micro_batch():
    gradients = GradientState()
    assert gradients.sync_gradients in (True, False)
    assert callable(gradients._set_sync_gradients)


def test_peft_gives_base_layers_factors_and_delta():
    for member in ("active_adapters", "get_base_layer"):
        assert hasattr(LoraLayer, member), member
    assert hasattr(PeftModel, "get_base_model")
    assert hasattr(PeftModel, "active_adapters")
    from peft.tuners.lora import Linear

    assert _parameters(Linear.get_delta_weight) == ["self", "adapter"]
