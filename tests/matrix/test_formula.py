"""Every method against its slow float64 reference: 60 random nets, rows and settings each."""

import random

import pytest
import torch

from mithridate.defenses.registry import methods
from mithridate.training.given_streams import TRAINED
from tests.helpers.origins import origins
from tests.helpers.slow_llama import merged, plain_names
from tests.helpers.training import repair_methods, training_methods
from tests.matrix.row import thinned
from tests.matrix.rows import ROWS
from tests.matrix.worlds import Slow, World, text_rows, tokenizer

CASES = range(60)
QUICK = range(6)
STEPS = 2
TOLERANCE = {"atol": 1e-5, "rtol": 1e-4}


@pytest.mark.parametrize("case", thinned(CASES, QUICK))
@pytest.mark.parametrize("name", training_methods())
def test_gradients_of_several_steps_equal_the_reference(name, case):
    rng = random.Random(f"{name} {case}")
    info, row = methods()[name], ROWS[name]
    settings = row.draw(rng)
    world = World(rng, lora=row.needs_lora(settings) or rng.random() < 0.5, fresh=row.fresh_adapter)
    defense, memory, ours_memory = info.cls(**settings), {}, {}
    slow = Slow(world)
    w = slow.start
    for number in range(STEPS):
        data = world.data(number, STEPS)
        step = world.step(TRAINED[info.stages[0]], data, ours_memory)
        if number == 0:
            defense.start(step)
        ours = defense.gradient(step)
        expected = row.reference(slow, w, data, settings, memory)
        flat = torch.cat([tensor.reshape(-1) for tensor in ours.tensors])
        torch.testing.assert_close(flat, expected, **TOLERANCE)
        world.weights.add(-0.1 * ours)
        w = world.flat()
    defense.finish(world.weights, ours_memory)
    ended = row.ends(slow, w, settings, memory) if row.ends else w
    torch.testing.assert_close(world.flat(), ended, **TOLERANCE)


@pytest.mark.parametrize("case", thinned(CASES, QUICK))
@pytest.mark.parametrize("name", repair_methods())
def test_repaired_weights_equal_the_reference(name, case):
    rng = random.Random(f"{name} {case}")
    info, row = methods()[name], ROWS[name]
    settings = row.draw(rng)
    world = World(rng, lora=row.needs_lora(settings) or rng.random() < 0.5)
    rows = world.rows(rng.randint(1, 6))
    models = origins(world.model, rng)
    states = {name: merged(plain_names(m.state_dict()), world.slow.scale) for name, m in models.items()}
    expected = row.reference(world, rows, settings, *([states] if info.references else []))
    info.cls(**settings).repair(world.model, tokenizer(), harmful=text_rows(rows), safe=text_rows(rows), **models)
    repaired = plain_names(world.model.state_dict())
    if row.merges(settings):
        repaired, expected = (merged(state, world.slow.scale) for state in (repaired, expected))
    assert repaired.keys() == expected.keys()
    for weight in expected:
        torch.testing.assert_close(repaired[weight], expected[weight], **TOLERANCE)


def test_the_slow_net_is_the_same_net():
    world = World(random.Random(5), lora=True)
    ids = [3, 4, 5, 6, 2, 9]
    theirs = world.model(input_ids=torch.tensor([ids])).logits[0]
    torch.testing.assert_close(world.slow.logits(world.state, ids), theirs, atol=1e-6, rtol=1e-6)
