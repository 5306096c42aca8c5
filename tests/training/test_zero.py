"""One optimizer step of ZeRO for all the backward passes of a defense (`test_zero_sharding` runs the engine itself)."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from mithridate.errors import DefenseError, UsageError
from mithridate.training.gradient import Gradient
from mithridate.training.trainable_weights import Weights
from mithridate.training.zero import ZeroEngine, split_by_block, stepping, trained_once
from tests.helpers import tiny


class _Engine:
    """What is used of DeepSpeed's engine, for one process and weights of one type."""

    def __init__(self, optimizer):
        self.reduced = []
        self.optimizer = self
        self.bit16_groups = [list(group["params"]) for group in optimizer.param_groups]
        self.single_partition_of_fp32_groups = []
        for group in optimizer.param_groups:
            flat = torch.cat([p.detach().flatten() for p in group["params"]]).float().requires_grad_()
            self.single_partition_of_fp32_groups.append(flat)
            group["params"] = [flat]
        self.inner = optimizer
        self.module_forward_pre_hook = self.module_forward_post_hook = SimpleNamespace(remove=lambda: None)
        self.destroyed = False
        self.boundary = None
        self.optimizer = SimpleNamespace(
            optimizer=optimizer,
            bit16_groups=self.bit16_groups,
            single_partition_of_fp32_groups=self.single_partition_of_fp32_groups,
            get_bit16_param_group=lambda i: [torch.cat([p.detach().flatten() for p in self.bit16_groups[i]])],
        )

    @contextmanager
    def coalesce_grad_reduction(self):
        try:
            yield
        finally:
            self.reduced.append(sum(p.grad is not None for group in self.bit16_groups for p in group))

    def set_gradient_accumulation_boundary(self, is_boundary):
        self.boundary = is_boundary

    def step(self):
        assert self.boundary
        for members, flat in zip(self.bit16_groups, self.single_partition_of_fp32_groups, strict=True):
            flat.grad = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in members])
        self.inner.step()
        with torch.no_grad():
            for members, flat in zip(self.bit16_groups, self.single_partition_of_fp32_groups, strict=True):
                for p, part in zip(members, flat.split([p.numel() for p in members]), strict=True):
                    p.copy_(part.view_as(p))

    def destroy(self):
        self.destroyed = True


@pytest.fixture
def weights():
    return Weights(tiny.model())


def _engine(weights):
    optimizer = torch.optim.AdamW(weights.parameters, lr=0.1, weight_decay=0.5)
    return _Engine(split_by_block(optimizer, weights))


def _ones(weights, frozen=None):
    return Gradient([torch.ones_like(p) for p in weights.parameters], frozen)


def test_a_block_has_groups_of_its_own_with_the_settings_of_its_group(weights):
    decayed, plain = weights.parameters[::2], weights.parameters[1::2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.1)
    assert split_by_block(optimizer, weights) is optimizer
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(weights.parameters)
    names = dict(zip(map(id, weights.parameters), weights.names, strict=True))
    for group in optimizer.param_groups:
        assert len({names[id(p)].partition("layers.")[2].partition(".")[0] for p in group["params"]}) == 1
        assert {id(p) for p in group["params"]} <= {id(p) for p in (decayed if group["weight_decay"] else plain)}


def test_frozen_blocks_are_left_alone_by_momentum_and_decay(weights):
    engine = _engine(weights)
    zero, frozen = ZeroEngine(engine), [not kept for kept in weights.in_layers([0])]
    with stepping(zero, weights) as follow:
        follow(_ones(weights))
    before = weights.snapshot()
    with stepping(zero, weights) as follow:
        follow(_ones(weights, frozen))
    moved = [not torch.equal(a, b) for a, b in zip(before, weights.snapshot(), strict=True)]
    assert moved == [not fixed for fixed in frozen]
    with stepping(zero, weights) as follow:
        follow(_ones(weights))
    assert weights.moved_since(before).weights == sum(p.numel() for p in weights.parameters)


def test_a_part_of_a_block_cannot_be_left_alone(weights):
    zero = ZeroEngine(_engine(weights))
    frozen = [name.endswith("q_proj.weight") for name in weights.names]
    with pytest.raises(DefenseError, match="whole decoder blocks"), stepping(zero, weights) as follow:
        follow(_ones(weights, frozen))


def test_weights_that_a_defense_has_set_are_stepped_from(weights):
    engine = _engine(weights)
    with stepping(ZeroEngine(engine), weights) as follow:
        weights.parameters[0].detach().fill_(7.0)
        follow(Gradient([torch.zeros_like(p) for p in weights.parameters]))
    assert weights.parameters[0].unique().tolist() == [pytest.approx(7.0 * (1 - 0.1 * 0.5))]


def test_the_optimizers_own_digits_survive_a_step(weights):
    """Its copies of half-precision weights hold more of them than the weights do."""
    engine = _engine(weights)
    with torch.no_grad():
        for flat in engine.single_partition_of_fp32_groups:
            flat.copy_(flat.bfloat16().float() * (1 + 2**-12))
    engine.optimizer.get_bit16_param_group = lambda i: [engine.single_partition_of_fp32_groups[i].detach().bfloat16()]
    before = [flat.detach().clone() for flat in engine.single_partition_of_fp32_groups]
    ZeroEngine(engine)._adopt()
    assert all(torch.equal(a, b) for a, b in zip(before, engine.single_partition_of_fp32_groups, strict=True))


def _fail_after(_):
    raise RuntimeError


def test_nothing_is_reduced_where_a_step_fails(weights):
    engine, before = _engine(weights), weights.snapshot()
    with pytest.raises(RuntimeError), stepping(ZeroEngine(engine), weights) as follow:
        _fail_after(follow(_ones(weights)))
    assert engine.reduced == [0]
    assert weights.moved_since(before).weights == 0


def test_without_deepspeed_the_host_steps_by_itself(weights):
    before = weights.snapshot()
    with stepping(None, weights) as follow:
        follow(_ones(weights))
    assert weights.moved_since(before).weights == 0
    assert all(p.grad is not None for p in weights.parameters)


def test_a_version_that_reduces_in_every_backward_pass_is_refused(weights):
    engine = SimpleNamespace(optimizer=_engine(weights).optimizer)
    with pytest.raises(UsageError, match=r"deepspeed>=0\.19\.8"):
        ZeroEngine(engine)


def test_the_engine_is_taken_off_also_where_training_fails(weights):
    engine = _engine(weights)
    trainer = SimpleNamespace(_zero=None)
    with pytest.raises(RuntimeError), trained_once(trainer):
        _fail_after(setattr(trainer, "_zero", ZeroEngine(engine)))
    assert engine.destroyed
    assert not engine.inner._optimizer_step_pre_hooks
    with pytest.raises(UsageError, match="make a new DefendedTrainer"), trained_once(trainer):
        pass
