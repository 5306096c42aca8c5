"""Antibody's fine-tuning at a temperature that is measured: what it is, that it stays, and what cannot be measured."""

import copy
import math
import random
from pathlib import Path

import pytest
import torch
from peft import get_peft_model

from mithridate.defenses.antibody import AntibodyTuning
from mithridate.errors import CheckpointError, DefenseError, SettingError
from mithridate.models.tokenization import IGNORED, completion_ids, tokenize
from mithridate.training.logged_figures import logged_means
from mithridate.training.trainer import DefendedTrainer
from tests.helpers import tiny
from tests.helpers.training import distance, finished, run, streams, trainer
from tests.matrix.row import thinned
from tests.matrix.worlds import World

AUTO = {"temperature": "auto", "likelihood": "sequence"}
SHAPE = {"max_steps": 4}
STREAMS = (("safe", 32), ("harmful", 24))


@torch.no_grad()
def _nll(model, prompt, answer):
    logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].double().log_softmax(dim=-1)
    return -sum(float(logits[len(prompt) + place - 1, token]) for place, token in enumerate(answer))


def _deviation(likelihood, model=None):
    """Of d over all rows of the provider, row by row; each safe row counts a 64th, each harmful one a 48th."""
    model, words = (model or tiny.model()).eval(), tiny.tokenizer()
    refusals = completion_ids(tiny.REFUSALS, words, True)
    weighed = []
    for kind, size in STREAMS:
        for place, row in enumerate(tokenize(tiny.rows(kind, size), words)):
            prompt = row.input_ids[: row.labels.count(IGNORED)]
            answer, refusal = row.input_ids[len(prompt) :], refusals[place % len(refusals)]
            both = [(_nll(model, prompt, end), len(end) if likelihood == "token" else 1) for end in (refusal, answer)]
            weighed.append((both[0][0] / both[0][1] - both[1][0] / both[1][1], 0.5 / size))
    mean = sum(share * ratio for ratio, share in weighed)
    return math.sqrt(sum(share * (ratio - mean) ** 2 for ratio, share in weighed))


def _temperatures(made):
    return [log["temperature"] for log in made.logs]


@pytest.mark.parametrize("likelihood", ["token", "sequence"])
@pytest.mark.parametrize("spread", thinned([1 / 3, 0.7], [1 / 3]))
def test_it_is_a_share_of_the_ratios_deviation_under_the_aligned_model(likelihood, spread):
    chosen = AUTO | {"likelihood": likelihood, "spread": spread}
    found = _temperatures(run("antibody_tuning", chosen, **SHAPE))
    assert found == [found[0]] * 4, "it was measured again on a model that had moved"
    assert found[0] == pytest.approx(spread * _deviation(likelihood), rel=1e-5)


def test_results_show_it():
    made = run("antibody_tuning", AUTO, **SHAPE)
    assert logged_means(made.trainer.state.log_history)["temperature"] == pytest.approx(_temperatures(made)[0])


def test_the_training_is_that_at_the_same_number_bit_for_bit():
    """The measurement leaves random states, modes and gradients alone."""
    auto = run("antibody_tuning", AUTO, dropout=0.3, **SHAPE)
    (temperature, *_) = _temperatures(auto)
    given = run("antibody_tuning", AUTO | {"temperature": temperature}, dropout=0.3, **SHAPE)
    assert distance(auto.weights, given.weights) == 0
    assert "temperature" not in given.logs[0]
    other = run("antibody_tuning", AUTO | {"temperature": 2 * temperature}, dropout=0.3, **SHAPE)
    assert distance(auto.weights, other.weights) > 1e-4


DORA = tiny.lora()
DORA.use_dora = True
ALIKE = {
    "dropout": ({"dropout": 0.5}, 1e-6),
    "all weights": ({"full": True}, 1e-6),
    "accumulation": ({"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}, 1e-5),
    "checkpointing": ({"gradient_checkpointing": True}, 1e-5),
    "bf16": ({"bf16": True}, 0.02),
    "DoRA": ({"extra": {"peft_config": DORA}}, 1e-5),
}


@pytest.mark.parametrize("changes", ALIKE, ids=str)
def test_it_is_the_same_however_the_model_is_trained(changes, tmp_path):
    options, tolerance = ALIKE[changes]
    made = trainer(AntibodyTuning(**AUTO), tmp_path, max_steps=1, **options)
    made.train()
    assert _temperatures(finished(made)) == [pytest.approx(_deviation("sequence") / 3, rel=tolerance)]


def test_a_floor_still_holds_rows_back():
    weights = run("antibody_tuning", AUTO | {"floor": 1e6}, **SHAPE).logs
    assert all(log["weight_effective_rows"] == 0 and log["temperature"] > 0 for log in weights)


def test_the_rows_are_drawn_by_the_seed_of_the_run():
    found = {
        seed: [_temperatures(run("antibody_tuning", AUTO | {"rows": 8}, seed=seed, max_steps=1))[0] for _ in range(2)]
        for seed in (3, 4)
    }
    assert all(first == second for first, second in found.values())
    assert found[3] != found[4]


def test_a_sample_is_distinct_rows_and_moves_no_stream():
    world = World(random.Random(6), lora=False)
    data = world.data()
    every = len(data.safe) + len(data.safer)
    drawn = world.step("user", data).sample("safe", 5)
    assert drawn == world.step("user", data).sample("safe", 5)
    assert len({id(row) for row in drawn}) == 5
    step = world.step("user", data)
    examples = step._rows._streams["safe"].examples
    assert all(row in examples for row in drawn)
    assert sorted(map(examples.index, step.sample("safe", 99))) == sorted(map(examples.index, examples))
    assert len(step.sample("safe", 99)) == every
    assert step._rows._streams["safe"].drawn == 0


def test_one_object_measures_anew_in_every_training_and_a_copy_does_too(tmp_path):
    defense = AntibodyTuning(**AUTO)
    before, found = defense.model_dump(), {}
    for seed in (0, 1):
        for given in (defense, copy.deepcopy(defense), defense.model_copy()):
            made = trainer(given, tmp_path, max_steps=1, extra={"model": tiny.model(seed)})
            made.train()
            found.setdefault(seed, set()).update(_temperatures(finished(made)))
    assert all(len(temperatures) == 1 for temperatures in found.values())
    for seed, (temperature,) in found.items():
        assert temperature == pytest.approx(_deviation("sequence", tiny.model(seed)) / 3, rel=1e-5)
    assert found[0] != found[1]
    assert defense.model_dump() == before


def test_a_second_training_of_one_trainer_measures_the_model_it_starts_from(tmp_path):
    made = trainer(AntibodyTuning(**AUTO), tmp_path, **SHAPE)
    made.train()
    moved = copy.deepcopy(made.model)
    made.train()
    assert made.state.log_history[0]["temperature"] == pytest.approx(_deviation("sequence", moved) / 3, rel=1e-5)


def test_a_resumed_training_keeps_the_temperature_of_the_start(tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 2}
    straight = run("antibody_tuning", AUTO, **SHAPE, **saving)
    folder = Path(straight.trainer.args.output_dir)
    made = trainer(AntibodyTuning(**AUTO), tmp_path, **SHAPE, **saving)
    made.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
    resumed = finished(made)
    assert _temperatures(resumed)[-1] == _temperatures(straight)[0]
    assert made.memory == {"temperature": _temperatures(straight)[0]}
    assert distance(straight.weights, resumed.weights) == 0
    moved = get_peft_model(tiny.model(), tiny.lora())
    moved.load_state_dict(straight.weights, strict=False)
    assert abs(_deviation("sequence", moved) / 3 - _temperatures(straight)[0]) > 1e-2, "nothing moved"


def test_a_checkpoint_without_a_measured_temperature_is_not_resumed(tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 2}
    for name in ("antibody_tuning", "vlguard"):
        folder = Path(run(name, {}, **SHAPE, **saving).trainer.args.output_dir)
        made = trainer(AntibodyTuning(**AUTO), tmp_path, **SHAPE, **saving)
        with pytest.raises(CheckpointError, match=r"without the stream '(safe|harmful)'"):
            made.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
    world = World(random.Random(1), lora=False)
    with pytest.raises(DefenseError, match=r"holds no measured temperature.*resume with the settings"):
        AntibodyTuning(**AUTO).gradient(world.step("user", world.data(number=1)))


FAULTS = {
    "safe_dataset": (tiny.rows("safe", 7), "at least 8 rows .* 'safe' has 7; give more rows, or a temperature"),
    "harmful_dataset": (tiny.rows("safe"), r"32 safe and 32 harmful rows have a standard deviation of .*no refusals"),
}


@pytest.mark.parametrize("stream", FAULTS)
def test_rows_that_tell_no_temperature_stop_the_run(stream, tmp_path):
    rows, message = FAULTS[stream]
    made = trainer(AntibodyTuning(**AUTO), tmp_path, max_steps=1)
    given = {"safe_dataset": "safe", "harmful_dataset": "harmful"}[stream]
    made._streams[given].examples = tokenize(rows, tiny.tokenizer())
    with pytest.raises(DefenseError, match=message):
        made.train()
    assert made.model.training
    assert made.state.global_step == 0


def test_a_likelihood_that_is_not_finite_names_its_row(tmp_path):
    made = trainer(AntibodyTuning(**AUTO), tmp_path, max_steps=1)
    made.model.get_base_model().model.layers[0].mlp.up_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(DefenseError, match=r"ratio of row [0-9]+ of the stream 'safe' is nan, not finite; check"):
        made.train()


@pytest.mark.parametrize("missing", ["safe", "harmful", "refusals"])
def test_it_needs_the_provider_s_rows_and_a_number_does_not(missing, tmp_path):
    given = streams() | ({"refusals": ()} if missing == "refusals" else {f"{missing}_dataset": None})

    def made(defense):
        return DefendedTrainer(
            tiny.model(), args=tiny.config(tmp_path), train_dataset=tiny.rows("user"), defense=defense,
            processing_class=tiny.tokenizer(), peft_config=tiny.lora(), **given,
        )  # fmt: skip

    with pytest.raises(DefenseError, match=f"antibody_tuning needs the stream '{missing}'"):
        made(AntibodyTuning(**AUTO))
    if missing != "refusals":
        assert made(AntibodyTuning()).dropped_stream_rows == {}


def test_settings_out_of_range_are_refused_in_one_sentence():
    for chosen, message in (
        ({"temperature": "aut"}, "temperature: must be a number greater than 0 or 'auto' .did you mean 'auto'"),
        ({"temperature": 0}, "temperature: must be .*greater than 0"),
        ({"temperature": "auto", "spread": 0}, "spread: must be greater than 0"),
        ({"temperature": "auto", "spread": math.inf}, "spread: must be a finite number"),
        ({"temperature": "auto", "rows": 7}, "rows: must be greater than or equal to 8"),
    ):
        with pytest.raises(SettingError, match=message):
            AntibodyTuning(**chosen)
