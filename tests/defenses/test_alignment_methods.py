"""What the formulas of Vaccine, T-Vaccine, RepNoise and TAR do not show by themselves."""

import itertools
import random

import pytest
import torch
from transformers import TrainerCallback

from mithridate.defenses.repnoise import _activations, mean_mmd, mmd_squared
from mithridate.defenses.tar import TAR
from mithridate.defenses.vaccine import TVaccine, Vaccine
from mithridate.models.decoder import layer_of
from mithridate.training.scored_rows import ScoredRows
from mithridate.training.scoring import Likelihood
from mithridate.training.step import Step
from mithridate.training.step_rows import Clock
from mithridate.training.trainable_weights import Weights
from tests.helpers import tiny
from tests.helpers.counting import Counted
from tests.helpers.training import trainer
from tests.matrix.worlds import World


def _noise_of_last_pass(model, act):
    """What was added to attention outputs: the residual stream behind, less that before and the output itself."""
    seen, added = {}, {}
    handles = []
    for name, module in model.named_modules():
        block = layer_of(f"{name}.")
        if name.endswith("input_layernorm"):
            handles.append(module.register_forward_pre_hook(lambda m, args, b=block: seen.update({b: args[0]})))
        if name.endswith("self_attn"):
            handles.append(
                module.register_forward_hook(lambda m, args, out, b=block: seen.update({b: seen[b] + out[0]}))
            )
        if name.endswith("post_attention_layernorm"):
            handles.append(
                module.register_forward_pre_hook(lambda m, args, b=block: added.update({b: args[0] - seen[b]}))
            )
    act()
    for handle in handles:
        handle.remove()
    return [noise.detach() for noise in added.values()]


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("radius", [0.5, 4.0])
def test_vaccines_noise_has_its_length_and_leaves_padding_alone(radius, lora):
    world = World(random.Random(3), lora)
    data = world.data()
    world.rng.randint = lambda low, high: high  # the whole step as one micro-batch
    step = world.step("safe", data)
    (batch,) = step._rows.batches("safe")
    padding = batch["attention_mask"] == 0
    assert padding.any(), "rows of one length"
    noise = _noise_of_last_pass(world.model, lambda: Vaccine(radius=radius).gradient(step))
    assert len(noise) == world.slow.layers
    assert sum(float(part.square().sum()) for part in noise) ** 0.5 == pytest.approx(radius, rel=1e-9)
    assert all(float(part[padding].abs().max()) < 1e-12 for part in noise)


class _Watch(TrainerCallback):
    """The blocks that were drawn for every step, and, from the second on, those whose weights moved in it."""

    def __init__(self):
        self.trainer, self.drawn, self.moved, self.before = None, [], [], None

    def on_step_end(self, args, state, control, model=None, **_):
        now = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        self.drawn.append({str(block) for block in self.trainer.memory["blocks"]})
        if self.before is not None:
            self.moved.append({layer_of(n) for n, p in now.items() if not torch.equal(p, self.before[n])})
        self.before = now


@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_t_vaccine_holds_blocks_bit_for_bit_against_momentum_and_decay(full, tmp_path):
    watch, defense = _Watch(), TVaccine(blocks=1, draw_every=2)
    watch.trainer = trainer(defense, tmp_path, full=full, callbacks=[watch], max_steps=12, weight_decay=0.5)
    watch.trainer.train()
    assert any(a != b for a, b in itertools.pairwise(watch.drawn)), "no block was held after it had momentum"
    outside = {None} if full else set()
    assert watch.moved == [outside | drawn for drawn in watch.drawn[1:]]


CHANCES = [0.5, 0.3, 0.15, 0.05]
DRAWS = 4000


def test_t_vaccine_draws_blocks_in_proportion_and_without_replacement():
    model = tiny.model(layers=len(CHANCES))
    step = Step(
        main="safe", micro_batches=[], likelihood=Likelihood(model, Weights(model)), streams={}, refusals=[],
        micro_batch_size=1, pad_token_id=0,
    )  # fmt: skip
    for wanted in (1, 2):
        defense = TVaccine(blocks=wanted)
        counts = [0] * len(CHANCES)
        for number in range(DRAWS):
            step._rows.clock = Clock(number=number)
            blocks = defense._draw(step, CHANCES)
            assert len(set(blocks)) == len(blocks) == wanted
            for block in blocks:
                counts[block] += 1
        for block, chance in enumerate(CHANCES):
            others = [c for i, c in enumerate(CHANCES) if i != block]
            expected = chance + (wanted - 1) * sum(other * chance / (1 - other) for other in others)
            deviation = (expected * (1 - expected) / DRAWS) ** 0.5
            assert counts[block] / DRAWS == pytest.approx(expected, abs=4 * deviation)


SHAPES = [
    {"inner_steps": 0},
    {"inner_steps": 3, "tamper_every": 2},
    {"inner_steps": 4, "tamper_every": 1, "switching": True},
    {"inner_steps": 1, "tamper_every": 2, "tamper": "dpo"},
    {"inner_steps": 3, "tamper_every": 1, "tamper": "dpo"},
    {"inner_steps": 0, "tamper": "dpo"},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_tars_passes_are_those_it_makes(shape, tmp_path):
    defense = TAR(rates=(0.01,), **shape)
    made = trainer(defense, tmp_path, max_steps=2)
    with Counted(made.model) as counted:
        made.train()
    rows = 2 * made.args.per_device_train_batch_size
    assert (counted.forward, counted.backward) == (rows * defense.passes.forward, rows * defense.passes.backward)


def test_tars_adversary_reduces_the_harmful_loss_before_it_is_undone(tmp_path, monkeypatch):
    """On the one batch it attacks with, at a rate at which few steps suffice."""
    world = World(random.Random(2), lora=False)
    data = world.data()
    data = data._replace(later=[data.harmful] * len(data.later))
    step, losses, attack = world.step("safe", data), [], TAR._attack

    def watched(self, step, on_safe_rows):
        gradient = attack(self, step, on_safe_rows)
        losses.append(sum(float(rows.nll.sum()) for rows in step.score("harmful")))
        return gradient

    monkeypatch.setattr(TAR, "_attack", watched)
    before = world.flat()
    TAR(inner_steps=8, tamper_every=8, rates=(0.02,)).gradient(step)
    assert losses[-1] < 0.9 * losses[0]
    assert torch.equal(before, world.flat())


def test_mmd_is_zero_between_equal_samples_and_grows_with_distance():
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(1)).double()
    direction = torch.ones(8, dtype=torch.float64)
    values = [float(mmd_squared(x, x + shift * direction)) for shift in (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)]
    assert values[0] == pytest.approx(0, abs=1e-12)
    assert all(later > earlier + 1e-3 for earlier, later in itertools.pairwise(values))


def test_repnoise_measures_half_precision_activations_precisely():
    """Far from zero, the distances of bf16 vectors are lost unless they are taken in a wider type."""
    ids = torch.zeros(4, 6, dtype=torch.long)
    batch = {"input_ids": ids, "labels": ids, "attention_mask": ids + 1, "row": torch.arange(4)}
    near = [torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(seed)) + 10 for seed in (1, 2)]
    hidden, noise = ([part.bfloat16() for part in both] for both in near)
    rows = ScoredRows(batch, torch.zeros(4, 5), torch.ones(4, 5).bool(), {"mlp": hidden})
    samples, noise = _activations(rows), [torch.stack(list(sample)) for sample in zip(*noise, strict=True)]
    exact = float(mean_mmd([s.double() for s in samples], [n.double() for n in noise]))
    ours = float(mean_mmd(samples, [n.to(s) for n, s in zip(noise, samples, strict=True)]))
    assert exact > 0.1
    assert ours == pytest.approx(exact, rel=1e-3)
