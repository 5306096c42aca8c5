"""FSDP settings are taken over, set right, or refused with a reason."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin
from accelerate.utils import DistributedType
from torch import nn

from mithridate.errors import CheckpointError, UsageError
from mithridate.training.fsdp_host import require_same_kind, settle_sharding
from mithridate.training.host import refuse_host
from tests.helpers import tiny


def _trainer(kind=DistributedType.FSDP, model=None, parallel=None, version=2, **plugin):
    state = SimpleNamespace(fsdp_plugin=FullyShardedDataParallelPlugin(fsdp_version=version, **plugin))
    accelerator = SimpleNamespace(distributed_type=kind, state=state, parallelism_config=parallel)
    return SimpleNamespace(
        accelerator=accelerator, model=model or tiny.model(), compute_loss_func=None, aux_loss_enabled=False,
        _is_vision_dataset=False,
    )  # fmt: skip


REFUSED = {
    "FSDP version 1": {"version": 1},
    "offload_params": {"cpu_offload": True},
    "activation_checkpointing": {"activation_checkpointing": True},
    "ignored_modules": {"ignored_modules": [nn.Linear(1, 1)]},
    "context or sequence parallelism": {"parallel": SimpleNamespace(total_size=2)},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_settings_that_a_defense_cannot_train_under_are_refused(reason):
    with pytest.raises(UsageError, match=reason):
        settle_sharding(_trainer(**REFUSED[reason]))


def test_a_quantized_model_is_refused_where_it_would_be_split():
    model = tiny.model()
    model.is_quantized = True
    with pytest.raises(UsageError, match="quantized model under FSDP"):
        settle_sharding(_trainer(model=model))


def test_only_autocast_rounds():
    trainer = _trainer()
    trainer.accelerator.state.fsdp_plugin.set_mixed_precision("bf16")
    settle_sharding(trainer)
    policy = trainer.accelerator.state.fsdp_plugin.mixed_precision_policy
    assert (policy.param_dtype, policy.output_dtype, policy.cast_forward_inputs) == (None, None, False)


def test_weights_stored_in_half_precision_are_computed_with_in_float32():
    trainer = _trainer(model=tiny.model().to(torch.bfloat16))
    settle_sharding(trainer)
    assert trainer.accelerator.state.fsdp_plugin.mixed_precision_policy.param_dtype == torch.float32


def test_without_fsdp_nothing_is_settled():
    settle_sharding(_trainer(DistributedType.MULTI_GPU, version=1))


def test_other_engines_are_refused():
    with pytest.raises(UsageError, match="launch type XLA"):
        refuse_host(_trainer(DistributedType.XLA))
    for kind in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        refuse_host(_trainer(kind))


@pytest.mark.parametrize("split", [True, False])
def test_a_checkpoint_of_the_other_kind_is_refused(split, tmp_path):
    if split:
        (tmp_path / "pytorch_model_fsdp_0").mkdir()
    require_same_kind(tmp_path, split)
    with pytest.raises(CheckpointError, match="FSDP2"):
        require_same_kind(tmp_path, not split)
