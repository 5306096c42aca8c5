"""DeepSpeed settings are taken over, set right, or refused with a reason."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType

from mithridate.errors import CheckpointError, UsageError
from mithridate.training.zero_host import refuse_zero, require_same_engine, settle_zero
from tests.helpers import tiny


def _args(optim="adamw_torch_fused", sections=None, **zero):
    config = {"zero_optimization": {"stage": 2} | zero} | (sections or {})
    return SimpleNamespace(optim=optim, max_grad_norm=0.3, deepspeed_plugin=SimpleNamespace(deepspeed_config=config))


def _trainer(kind=DistributedType.DEEPSPEED, processes=1, model=None, **zero):
    host = SimpleNamespace(distributed_type=kind, num_processes=processes, device=torch.device("cpu"))
    return SimpleNamespace(accelerator=host, args=_args(**zero), model=model or tiny.model())


REFUSED = {
    "ZeRO-3": {"stage": 3},
    "stage 0": {"stage": 0},
    "stage None": {"stage": None},
    "offload_optimizer": {"offload_optimizer": {"device": "cpu"}},
    "offload_param": {"offload_param": {"device": "nvme"}},
    "zero_optimization.zenflow": {"zenflow": {}},
    "'optimizer, scheduler' in the DeepSpeed config": {"sections": {"scheduler": {}, "optimizer": {}}},
    "torch_autocast": {"sections": {"torch_autocast": {"enabled": True}}},
    "optim='adafactor'": {"optim": "adafactor"},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_settings_that_a_defense_cannot_train_under_are_refused(reason):
    with pytest.raises(UsageError, match=reason):
        refuse_zero(_args(**REFUSED[reason]))


def test_what_accelerate_fills_in_is_accepted():
    nothing = {"device": "none", "nvme_path": None}
    refuse_zero(
        _args(offload_optimizer=nothing, offload_param=nothing, stage3_gather_16bit_weights_on_model_save=False)
    )
    refuse_zero(SimpleNamespace(deepspeed_plugin=None))


@pytest.mark.parametrize(
    ("reason", "host"),
    [
        ("without a launcher", {"kind": DistributedType.NO}),
        ("without use_cpu=True", {"processes": 2}),
        ("quantized model under DeepSpeed", {"model": SimpleNamespace(is_quantized=True)}),
    ],
)
def test_a_host_on_which_accelerate_would_train_otherwise_is_refused(reason, host, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(UsageError, match=reason):
        settle_zero(_trainer(**host))


def test_a_gpu_that_deepspeed_would_turn_to_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UsageError, match="GPU is visible"):
        settle_zero(_trainer())


@pytest.mark.parametrize(("given", "clipped"), [({}, 0.3), ({"gradient_clipping": 0.3}, 0.3)])
def test_gradients_are_clipped_also_where_the_config_does_not_say_so(given, clipped):
    trainer = _trainer(sections=given)
    settle_zero(trainer)
    assert trainer.args.deepspeed_plugin.deepspeed_config["gradient_clipping"] == clipped


def _written_by(processes, checkpoint):
    (checkpoint / "global_step2").mkdir(parents=True)
    for rank in range(processes):
        (checkpoint / f"global_step2/zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").touch()
    return checkpoint


def _resuming(processes):
    host = SimpleNamespace(num_processes=processes)
    return SimpleNamespace(is_fsdp_enabled=False, is_deepspeed_enabled=processes > 0, accelerator=host)


@pytest.mark.parametrize(
    ("before", "now", "reason"),
    [
        (2, 0, "under DeepSpeed; resume it under DeepSpeed with 2 processes"),
        (0, 2, "written without DeepSpeed"),
        (2, 4, "4 cannot share it; resume it with 2"),
    ],
)
def test_a_checkpoint_of_another_engine_or_size_is_refused(before, now, reason, tmp_path):
    checkpoint = _written_by(before, tmp_path)
    require_same_engine(checkpoint, _resuming(before))
    with pytest.raises(CheckpointError, match=reason):
        require_same_engine(checkpoint, _resuming(now))
