"""Methods of the fine-tuning stage: what their formulas do not show in two steps."""

import math
import random
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mithridate.defenses.bds import BDS
from mithridate.defenses.constrained_sft import ConstrainedSFT
from mithridate.defenses.lisa import Lisa
from mithridate.defenses.safegrad import SafeGrad
from mithridate.defenses.safety_mixing import SafetyMixing
from mithridate.defenses.sbr import SBR
from mithridate.errors import DefenseError
from mithridate.training.scored_rows import ScoredRows
from mithridate.training.state import load_state, save_state
from tests.helpers.training import run, trainer
from tests.matrix.row import thinned
from tests.matrix.table.lisa import lisa
from tests.matrix.table.safegrad import alignment
from tests.matrix.worlds import Slow, World, pairs

FUSED = {"atol": 1e-5, "rtol": 1e-4}
"""TRL's fused head works in float32."""


def _flat(gradient):
    return torch.cat([tensor.reshape(-1) for tensor in gradient.tensors])


def _figures(name, figure, settings, **options):
    return [log[figure] for log in run(name, settings, **options).logs]


@pytest.mark.parametrize(
    ("safe_steps", "user_steps", "warmup"),
    [(2, 3, 0.0), (1, 1, 0.0), (2, 1, 0.5), (2, 3, 0.5), (3, 2, 0.0), (0, 2, 0.0)],
)
@pytest.mark.parametrize("resumed", [False, True], ids=["straight", "resumed"])
def test_lisa_holds_each_phase_near_the_end_of_the_other(safe_steps, user_steps, warmup, resumed, tmp_path):
    """Over several switches, also where every step knows only what was saved."""
    settings = {"safe_steps": safe_steps, "user_steps": user_steps, "strength": 0.7, "warmup": warmup}
    world, defense, memory, ours_memory = World(random.Random(3), lora=True), Lisa(**settings), {}, {}
    slow, total = Slow(world), 12
    for number in range(total):
        if resumed:
            save_state(tmp_path, ours_memory)
            ours_memory = load_state(tmp_path)
        data, w = world.data(number, total), world.flat()
        ours = defense.gradient(world.step("user", data, ours_memory))
        torch.testing.assert_close(_flat(ours), lisa(slow, w, data, settings, memory), **FUSED)
        world.weights.add(-0.1 * ours)
    assert {"safe", "user"} <= memory.keys() or safe_steps == 0


def test_lisa_switches_on_optimizer_steps():
    settings = {"safe_steps": 2, "user_steps": 3, "warmup": 0.0}
    shape = {"max_steps": 12, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}
    assert _figures("lisa", "on_safe_rows", settings, **shape) == [1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1]
    pulled = [norm > 0 for norm in _figures("lisa", "extra_gradient_norm", settings, **shape)]
    first_of_a_phase = {0, 2, 5, 7, 10}
    assert pulled == [number > 1 and number not in first_of_a_phase for number in range(12)]


def test_lisa_pulls_after_the_warm_up_only():
    settings = {"safe_steps": 1, "user_steps": 2, "warmup": 0.5}
    pulled = [norm > 0 for norm in _figures("lisa", "extra_gradient_norm", settings, max_steps=12)]
    assert not any(pulled[:6])
    assert pulled[8]
    assert pulled[11]


def _scored(log_probs, mask):
    batch = {"row": torch.arange(len(mask)), "labels": torch.zeros(len(mask), mask.shape[1] + 1)}
    return ScoredRows(batch, log_probs * mask, mask)


def test_constrained_sft_weighs_tokens_by_their_place_and_ratio():
    settings = {"first": 0.5, "early": 2.0, "rest": 0.1, "floor": 0.05}
    generator = torch.Generator().manual_seed(0)
    now, before = (-5 * torch.rand(3, 10, generator=generator, dtype=torch.float64) for _ in range(2))
    starts, lengths = [0, 2, 1], [9, 7, 1]
    mask = torch.zeros(3, 10, dtype=torch.bool)
    for row, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        mask[row, start : start + length] = True
    rows = _scored(now, mask)
    rows.reference = _scored(before, mask)
    weights = ConstrainedSFT(**settings)._weights(rows)
    floored = 0
    for row, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        for place in range(length):
            beta = 0.5 if place == 0 else 2.0 if place < 5 else 0.1
            ratio = float(now[row, start + place] - before[row, start + place])
            expected = 2 / (1 + math.exp(beta * ratio))
            floored += expected < 0.05
            assert float(weights[row, start + place]) == pytest.approx(max(expected, 0.05))
    assert floored, "the floor never acted"


def test_constrained_sft_starts_as_plain_sft():
    """At the start every token has the weight 1; it falls once the user's answers are likelier than before."""
    weights = _figures("constrained_sft", "token_weight", {}, max_steps=12)
    assert weights[0] == pytest.approx(1, abs=1e-6)
    assert weights[-1] < 0.95


@pytest.mark.parametrize("cases", thinned([14, 40], [14]))
def test_safegrad_takes_out_the_conflicting_part_and_no_more(cases):
    conflicts = 0
    for case in range(cases):
        rng = random.Random(case)
        world = World(rng, lora=case % 2 == 0)
        slow, data = Slow(world), world.data()
        world.weights.add(-0.3 * SafeGrad().gradient(world.step("user", data)))
        w, data = world.flat(), world.data()
        u, a = slow.gradient(w, pairs(data.main)), alignment(slow, w, data)
        g = _flat(SafeGrad(strength=0.0).gradient(world.step("user", data)))
        small = 1e-4 * float(g.norm() * a.norm())
        assert float(g @ a) >= -small
        if float(u @ a) < 0:
            conflicts += 1
            assert abs(float(g @ a)) <= small
            removed = u - g
            assert abs(float(removed @ a)) == pytest.approx(float(removed.norm() * a.norm()), rel=1e-4)
        else:
            torch.testing.assert_close(g, u, **FUSED)
    assert cases / 8 <= conflicts <= 7 * cases / 8, "one of the two cases was hardly seen"


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_safegrad_takes_nothing_out_of_the_first_step(micro_batches):
    """The model has not moved, so the alignment gradient is zero; its rounding must not choose a direction."""
    shape = {"per_device_train_batch_size": 4 // micro_batches, "gradient_accumulation_steps": micro_batches}
    log = run("safegrad", {}, max_steps=3, full=True, **shape).logs
    assert (log[0]["conflict"], log[0]["alignment_gradient_norm"]) == (0, 0)
    assert log[1]["alignment_gradient_norm"] > 0


def test_bds_lowers_the_score_of_a_row_that_stays_unlikely():
    world = World(random.Random(1), lora=False)
    slow, data = (
        Slow(world),
        world.data()._replace(main=[row._replace(position=i) for i, row in enumerate(world.rows(4))]),
    )
    losses = [float(slow.nll(slow.start, row.prompt, row.answer)) / len(row.answer) for row in data.main]
    worst, best = losses.index(max(losses)), losses.index(min(losses))
    defense, seen, memory = BDS(rate=0.5), [], {}
    for _ in range(6):
        defense.gradient(world.step("user", data, memory))
        seen.append(memory["scores"].clone())
    for before, after in zip([torch.zeros_like(seen[0]), *seen], seen, strict=False):
        assert after[worst] < before[worst]
        assert after[best] > before[best]
    assert float(seen[-1][4:].abs().max()) == 0, "rows that were not seen got a score"


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_bds_scores_do_not_depend_on_the_order_of_rows(noise):
    world = World(random.Random(2), lora=True)
    data, scores = world.data()._replace(main=world.rows(5)), []
    for rows in (data.main, data.main[::-1], [*data.main[2:], *data.main[:2]]):
        memory = {}
        BDS(noise=noise).gradient(world.step("user", data._replace(main=rows), memory))
        scores.append(memory["scores"])
    assert float(scores[0].abs().max()) > 0
    for other in scores[1:]:
        torch.testing.assert_close(other, scores[0], **FUSED)


@pytest.mark.parametrize("steps", thinned([20, 60], [20]))
def test_bds_noise_is_normal_and_new_in_every_step_and_row(steps):
    world, drawn = World(random.Random(4), lora=True), []
    for number in range(steps):
        data = world.data(number, steps)._replace(main=world.rows(5))
        scores = []
        for noise in (0.0, 2.0):
            memory = {}
            BDS(rate=0.5, noise=noise).gradient(world.step("user", data, memory))
            scores.append(memory["scores"])
        drawn += [float(scores[1][row.position] - scores[0][row.position]) for row in data.main]
    assert len(set(drawn)) == 5 * steps
    sample = torch.tensor(drawn) / math.sqrt(2 * 0.5 * 2.0)
    assert abs(float(sample.mean())) < 4 / math.sqrt(len(drawn))
    assert abs(float(sample.std()) - 1) < 4 / math.sqrt(2 * len(drawn))


def test_ldifs_starts_without_drift_and_holds_it_back():
    free, held = (_figures("ldifs", "drift", {"strength": s}, max_steps=12) for s in (0.0, 10.0))
    assert free[0] == held[0] == 0
    assert 0 < held[-1] < free[-1] / 2


def test_sbr_asks_for_as_many_anchors_as_there_are(tmp_path):
    trainer(SBR(anchors=24), tmp_path, max_steps=1).train()
    with pytest.raises(DefenseError, match="'harmful' has 24 rows, but 25 are needed"):
        trainer(SBR(anchors=25), tmp_path, max_steps=1).train()


def test_sbr_resumed_with_other_anchors_holds_those_where_the_aligned_model_had_them(tmp_path):
    often = {"save_strategy": "steps", "save_steps": 1}
    trainer(SBR(anchors=2), tmp_path / "a", max_steps=1, **often).train()
    resumed, fresh = (trainer(SBR(anchors=3), tmp_path / name, max_steps=2, **often) for name in "ab")
    resumed.train(resume_from_checkpoint=True)
    fresh.train()
    here, there = (one._training.memory["anchor_states"] for one in (resumed, fresh))
    assert len(here) == 3
    torch.testing.assert_close(here, there)


@given(st.integers(1, 99), st.lists(st.integers(1, 40), min_size=1, max_size=20))
def test_after_any_steps_the_safe_rows_are_the_share_rounded_down(hundredths, steps):
    """Exact, for shares as they are written and batches of any size."""
    defense = SafetyMixing(share=hundredths / 100)
    share, seen, mixed = Fraction(hundredths, 100), 0, 0
    for rows in steps:
        mixed += defense._due(seen + rows) - defense._due(seen)
        seen += rows
        assert mixed == math.floor(seen * share / (1 - share))


@pytest.mark.parametrize("share", [0.03, 0.2, 0.5])
def test_safe_rows_are_dealt_out_evenly_and_are_the_share_in_the_end(share):
    dealt = _figures("safety_mixing", "safe_rows", {"share": share}, max_steps=40)
    due = 4 * share / (1 - share)
    assert sum(dealt) == math.floor(40 * due + 1e-9)
    assert set(dealt) <= {math.floor(due + 1e-9), math.ceil(due - 1e-9)}
