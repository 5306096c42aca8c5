"""Split weights: what is written reaches the next pass, and vectors over them know their whole length."""

import pytest
import torch
from torch import distributed, nn
from torch.distributed import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from mithridate.errors import DefenseError
from mithridate.models.preconditions import require_plain_values
from mithridate.training.gradient import Gradient
from mithridate.training.processes import Processes
from mithridate.training.sharding import made_whole, reshard, sharded_modules, whole
from mithridate.training.trainable_weights import Weights
from tests.helpers import tiny

BATCH = {"input_ids": torch.tensor([[6, 7, 8, 9]]), "labels": torch.tensor([[6, 7, 8, 9]])}


@pytest.fixture
def model(tmp_path):
    """A model that one process holds as FSDP2 would."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        made, mesh = tiny.model(), init_device_mesh("cpu", (1,))
        for block in made.model.layers:
            fully_shard(block, mesh=mesh)
        yield fully_shard(made, mesh=mesh)
    finally:
        distributed.destroy_process_group()


@torch.no_grad()
def _loss(model):
    return float(model(**BATCH).loss)


def _fail_after(_):
    raise RuntimeError


def test_a_displacement_and_its_end_reach_the_next_pass(model):
    """After a pass without gradient the root's weights are whole, and a change of the shards alone is not seen."""
    weights = Weights(model)
    step = Gradient([torch.full_like(shard, 0.05) for shard in weights.shards])
    before, bits = _loss(model), weights.snapshot()
    with weights.moved(step):
        moved = _loss(model)
    assert abs(moved - before) > 1e-3
    assert _loss(model) == before
    assert all(torch.equal(a, b) for a, b in zip(bits, weights.snapshot(), strict=True))
    plain = tiny.model()
    with Weights(plain).moved(step):
        assert moved == pytest.approx(_loss(plain), abs=1e-6)


def test_a_displacement_that_fails_is_taken_back(model):
    weights = Weights(model)
    before = _loss(model)
    step = Gradient([torch.full_like(shard, 0.05) for shard in weights.shards])
    with pytest.raises(RuntimeError), weights.moved(step):
        _fail_after(_loss(model))
    assert _loss(model) == before


def test_gathered_weights_are_written_back_only_where_nothing_fails(model):
    weights = Weights(model)
    before = weights.snapshot()
    with pytest.raises(RuntimeError), weights.gathered() as found:
        _fail_after(found.parameters[1].zero_())
    assert weights.moved_since(before).weights == 0
    with weights.gathered() as found:
        assert not any(isinstance(parameter, DTensor) for parameter in found.parameters)
        found.parameters[1].zero_()
    assert weights.moved_since(before).weights == before[1].numel()
    assert weights.shards[1].abs().max() == 0


def test_what_is_written_into_a_whole_module_is_kept(model):
    layer = model.model.layers[0].mlp.down_proj
    with made_whole(model, layer), torch.no_grad():
        assert not isinstance(layer.weight, DTensor)
        layer.weight.fill_(0.5)
    assert isinstance(layer.weight, DTensor)
    assert whole(layer.weight.detach()).unique().tolist() == [0.5]


def test_without_processes_nothing_is_split():
    plain = tiny.model()
    weights = Weights(plain)
    assert (sharded_modules(plain), weights.holders) == ([], None)
    with weights.gathered() as found:
        assert found is weights
    with made_whole(plain, plain.lm_head):
        assert isinstance(plain.lm_head.weight, nn.Parameter)


def test_split_weights_are_not_repaired(model):
    reshard(model)
    with pytest.raises(DefenseError, match=r"trainer.save_model\(\)"):
        require_plain_values("lm_head.weight", model.lm_head.weight)


class _Twice(Processes):
    """Two processes that hold the same."""

    def sum(self, mine):
        return 2 * mine


def test_norms_and_dot_products_are_over_all_shards():
    half = Gradient([torch.tensor([3.0, 4.0]), torch.empty(0)], holders=_Twice())
    assert half.norm() == pytest.approx(50**0.5)
    assert half.dot(half) == 50
    for found in (half + half, 2 * half, half / 0.5, Gradient(half.tensors) + half):
        assert found.norm() == pytest.approx(200**0.5)
    assert Gradient(half.tensors).dot(half) == 50
