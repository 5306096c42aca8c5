"""Realign: it trains as the trainer does, chooses what the budgets allow, and leaves all but the weights alone."""

import copy
import os
import random
from concurrent.futures import ThreadPoolExecutor

import numpy
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from datasets.utils import are_progress_bars_disabled, enable_progress_bars
from transformers import TrainerCallback

import mithridate as mi
from mithridate.defenses.registry import method
from mithridate.errors import DataError, DefenseError, SettingError, UsageError
from mithridate.models.tokenization import tokenize
from mithridate.repair.budgets import RowLosses
from mithridate.repair.realignment import Course, Realignment
from mithridate.repair.repairable import repairable
from mithridate.repair.safe_kinds import by_kind
from mithridate.training.trainer import DefendedTrainer
from tests.helpers import tiny
from tests.helpers.adapters import KINDS, Everything, adapted, lived_in, stored
from tests.helpers.training import distance, trainer
from tests.matrix.row import thinned

GIVEN = {
    "safe": list(tiny.rows("safe", 24)), "harmful": list(tiny.rows("harmful", 12)), "user": list(tiny.rows("user", 8)),
    "refusals": tiny.REFUSALS,
}  # fmt: skip
WIDE = {"budget": 5.0, "safe_budget": 5.0}


def _repaired(repair, model, **given):
    return repair.repair(model, tiny.tokenizer(), **GIVEN | given)


@pytest.mark.parametrize("kind", ["lora", "whole"])
@pytest.mark.parametrize("inner", thinned(["sft", "booster", "antibody_alignment"], ["sft", "antibody_alignment"]))
def test_it_trains_as_the_trainer_does_at_alignment(inner, kind, tmp_path):
    made, twin = KINDS[kind](), KINDS[kind]()
    repair = mi.Realign(inner=inner, learning_rate=1e-3, step_rows=4, epochs=3, rows=20, seed=5, max_length=64)
    repaired = _repaired(repair, made)
    safe = list(GIVEN["safe"])
    random.Random(5).shuffle(safe)
    args = tiny.config(
        tmp_path, learning_rate=1e-3, max_steps=15, per_device_train_batch_size=4, seed=5, logging_strategy="no"
    )
    for name, parameter in twin.named_parameters():
        parameter.requires_grad_(kind == "whole" or "lora_" in name)
    DefendedTrainer(
        twin, args=args, train_dataset=safe[:20], processing_class=tiny.tokenizer(), stage="alignment",
        defense=method(inner).cls(), harmful_dataset=GIVEN["harmful"], refusals=tiny.REFUSALS,
    ).train()  # fmt: skip
    assert distance(stored(twin), stored(made)) == 0
    assert repaired.activity["steps"] == 15
    assert repaired.rows_trained == repaired.activity["rows_trained"] == 60
    if inner != "sft":
        assert repaired.activity["extra_gradient_norm"] > 0


@pytest.mark.parametrize(
    ("rows", "epochs", "step_rows", "steps", "trained"),
    [(1, 1, 16, 10, 10), (24, 1, 4, 10, 40), (24, 4, 5, 20, 96), (9, 1, 4, 10, 31), (100, 1.5, 8, 20, 156)],
)
def test_steps_and_rows_are_counted(rows, epochs, step_rows, steps, trained):
    course = Course(epochs, step_rows, 0)
    assert course.steps(rows) == steps
    seen = [min(step_rows, rows - start) for start in range(0, rows, step_rows)]
    assert trained == sum(seen[step % len(seen)] for step in range(steps))
    assert course.trained(rows, steps) == trained
    assert course.trained(rows, 0) == 0


def test_a_single_row_is_patched_in():
    """One-shot patching: one row, a few steps."""
    model, row = adapted(tiny.model()), GIVEN["safe"][:1]
    losses = RowLosses(model, repairable(model), tokenize(row, tiny.tokenizer()), 1)
    before = float(losses())
    repaired = _repaired(mi.Realign(learning_rate=1e-2), model, safe=row)
    assert float(losses()) < before - 0.1
    assert (repaired.activity["safe_rows"], repaired.activity["steps"], repaired.rows_trained) == (1, 10, 10)


class _Watched:
    """The model and the process, with every state that a trainer may touch."""

    def __init__(self, model):
        self.model, self.names = model, {name: set(vars(module)) for name, module in model.named_modules()}
        self.record, self.process = Everything(model), self._process()

    @staticmethod
    def _process():
        states = [copy.copy(state._shared_state) for state in (AcceleratorState, PartialState, GradientState)]
        drawn = random.getstate(), str(numpy.random.get_state())
        return drawn, dict(os.environ), states, are_progress_bars_disabled()

    def assert_unchanged(self, weights):
        changes = self.record.changes()
        assert all(change.endswith("bits") for change in changes), changes
        assert bool(changes) == weights
        assert {name: set(vars(module)) for name, module in self.model.named_modules()} == self.names
        assert self._process() == self.process


@pytest.mark.parametrize("kind", ["lora", "dora", "whole"])
def test_nothing_but_the_weights_is_changed_and_nothing_is_printed(kind, capfd):
    enable_progress_bars()
    model = lived_in(KINDS[kind]())
    model.config.use_cache, model.model_tags = True, ["mine"]
    watched = _Watched(model)
    _repaired(mi.Realign(learning_rate=1e-3), model)
    watched.assert_unchanged(weights=True)
    assert model.model_tags == ["mine"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("settings", [{"learning_rate": 1e-3}, WIDE], ids=["given", "auto"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_at_the_third_step_leaves_every_bit(error, settings, monkeypatch):
    model, steps, plain = lived_in(KINDS["lora"]()), [], DefendedTrainer.training_step

    def failing(self, *args, **kwargs):
        steps.append(1)
        if len(steps) == 3:
            raise error
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(DefendedTrainer, "training_step", failing)
    watched = _Watched(model)
    with pytest.raises(error):
        _repaired(mi.Realign(**settings), model)
    watched.assert_unchanged(weights=False)


def test_dropout_is_drawn_from_the_repairs_own_seed():
    ends = []
    for seed in (1, 2):
        model = adapted(tiny.model(), lora_dropout=0.5)
        torch.manual_seed(seed)
        _repaired(mi.Realign(learning_rate=1e-3), model.train(seed == 1))
        ends.append(stored(model))
    assert distance(*ends) == 0
    other = adapted(tiny.model(), lora_dropout=0.5)
    _repaired(mi.Realign(learning_rate=1e-3, seed=1), other)
    assert distance(ends[0], stored(other)) > 0


def test_repairs_in_two_threads_are_as_one_after_the_other():
    repair, models = mi.Realign(learning_rate=1e-3), [adapted(tiny.model(), lora_dropout=0.3) for _ in range(3)]
    _repaired(repair, models[0])
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda model: _repaired(repair, model), models[1:]))
    assert distance(stored(models[0]), stored(models[1])) == distance(stored(models[0]), stored(models[2])) == 0


class _Realigning(TrainerCallback):
    def __init__(self):
        self.other = adapted(tiny.model())

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 2:
            _repaired(mi.Realign(learning_rate=1e-3), self.other)


def test_a_training_around_it_goes_on_as_if_nothing_had_been(tmp_path):
    shape = {"max_steps": 6, "dropout": 0.2, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}
    ends = []
    for callbacks in ([], [_Realigning()]):
        made = trainer(mi.SFT(), tmp_path, callbacks=callbacks, **shape)
        made.train()
        ends.append(stored(made.model))
    assert distance(*ends) == 0


def _losses(model, rows):
    return RowLosses(model, repairable(model), tokenize(rows, tiny.tokenizer()), 8)


def test_auto_takes_the_rate_that_the_budgets_allow():
    """The rate with the lowest loss on safe rows that are not trained on, unless the user's rows forbid it."""
    free, bound = adapted(tiny.model()), adapted(tiny.model())
    curve = _repaired(mi.Realign(**WIDE), free).dose_curve
    assert [point.dose for point in curve.points] == [3e-5, 1e-4, 3e-4, 1e-3]
    assert curve.chosen == min(curve.points, key=lambda point: point.safe_loss).dose == 1e-3
    rises = [point.rise for point in curve.points]
    budget = sorted(rises)[2]
    allowed = [point for point in curve.points if point.rise <= budget]
    if budget > 0:
        repaired = _repaired(mi.Realign(budget=budget, safe_budget=5.0), bound)
        assert repaired.dose_curve.chosen == min(allowed, key=lambda point: point.safe_loss).dose
    with pytest.raises(DefenseError, match=r"even learning_rate=\S+ raises the loss on the provider's safe rows"):
        _repaired(mi.Realign(budget=5.0, safe_budget=1e-12), adapted(tiny.model()), safe=_contradicting())


def test_a_rate_that_diverges_ends_no_search(monkeypatch):
    steps, plain = [], DefendedTrainer.training_step

    def counted(self, *args, **kwargs):
        steps.append(self.args.learning_rate)
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(DefendedTrainer, "training_step", counted)
    monkeypatch.setattr("mithridate.defenses.realign.RATES", (1e-3, 1e28, 1e30))
    model, alone = adapted(tiny.model()), adapted(tiny.model())
    found = _repaired(mi.Realign(**WIDE), model)
    assert [point.dose for point in found.dose_curve.points] == [found.dose_curve.chosen] == [1e-3]
    assert found.activity["trials"] == 3
    assert found.rows_trained < 30 * 16  # those that diverge stop where they do
    assert 1 < steps.count(1e28) < 10
    monkeypatch.setattr("mithridate.defenses.realign.RATES", (1e-3,))
    _repaired(mi.Realign(**WIDE), alone)
    assert distance(stored(model), stored(alone)) == 0


@pytest.mark.parametrize("settings", [{}, {"rows": "auto", "learning_rate": 1e28}])
def test_where_every_rate_diverges_it_is_told(settings, monkeypatch):
    monkeypatch.setattr("mithridate.defenses.realign.RATES", (1e28, 1e30))
    model = lived_in(KINDS["lora"]())
    record = Everything(model)
    with pytest.raises(
        DefenseError, match=r"every rate left NaN or Inf; with 1e\+28, the lowest, .*lower the learning"
    ):
        _repaired(mi.Realign(**WIDE | settings), model)
    assert record.changes() == []


def _contradicting():
    """Answers that cannot all become likelier: training on most of them makes the others less likely."""
    words = ["red", "blue", "green", "cake", "tea", "soup", "stir", "yes", "no", "take", "then", "it"]
    return [tiny.row("how do i make tea", " ".join([word] * 3)) for word in words]


def test_auto_measures_on_rows_it_does_not_train_on(monkeypatch):
    trained, plain = [], DefendedTrainer.__init__

    def init(self, *args, **kwargs):
        trained.extend(row["prompt"][0]["content"] for row in kwargs["train_dataset"])
        plain(self, *args, **kwargs)

    monkeypatch.setattr(DefendedTrainer, "__init__", init)
    safe = [tiny.row(f"{'the ' * i}cake", "no i cannot") for i in range(20)]
    repair = mi.Realign(learning_rate=1e-3, rows="auto", tolerance=9.0, **WIDE)
    repaired = _repaired(repair, adapted(tiny.model()), safe=safe)
    assert len(set(trained)) == 12
    # A quarter of 12 rows does as well at this tolerance, and 3 are too few to quarter.
    assert (repaired.activity["safe_rows"], repaired.activity["trials"]) == (3, 2)
    assert repaired.rows_trained == repaired.activity["rows_in_trials"] > repaired.activity["rows_trained"]


def test_copies_of_what_auto_measures_on_are_not_trained_on():
    twice = [tiny.row(f"{'the ' * i}cake", "no i cannot") | {"origin": str(k)} for i in range(12) for k in range(2)]
    repaired = _repaired(mi.Realign(**WIDE), adapted(tiny.model()), safe=twice)
    # Of 24 rows 8 are kept aside, whose copies are 6 of the others.
    assert repaired.activity["safe_rows"] == 10
    with pytest.raises(DefenseError, match="give more that differ"):
        _repaired(mi.Realign(**WIDE), adapted(tiny.model()), safe=[tiny.row("the cake", "no i cannot")] * 20)


@pytest.mark.parametrize("seed", range(12))
def test_auto_measures_on_every_kind_of_safe_row(seed, monkeypatch):
    """8 answers among 80 rows, of which 8 are kept aside: four draws in ten would hold none."""
    measured, trained, plain = [], [], mi.Realign.budgets

    def budgets(self, inputs, safe):
        measured.extend(safe)
        return plain(self, inputs, safe)

    def run(self, rate, rows):
        trained.extend(rows)
        raise KeyboardInterrupt

    monkeypatch.setattr(mi.Realign, "budgets", budgets)
    monkeypatch.setattr(Realignment, "run", run)
    safe = [tiny.row(f"{'the ' * i}cake", "sorry i cannot help with that") for i in range(36)] * 2
    safe += [tiny.row(f"{'the ' * i}tea", "take it") for i in range(8)]
    with pytest.raises(KeyboardInterrupt):
        _repaired(mi.Realign(seed=seed), adapted(tiny.model()), safe=safe)
    assert len(measured) == 8
    assert by_kind(measured).keys() == by_kind(trained).keys() == {"refusals", "answers"}
    assert not [row for row in trained if row in measured]


@pytest.mark.parametrize("copies", [1, 5])
def test_a_kind_with_too_few_rows_to_measure_and_train_on_is_refused(copies):
    safe = [tiny.row(f"{'the ' * i}cake", "sorry i cannot help with that") for i in range(30)]
    model = lived_in(KINDS["lora"]())
    record = Everything(model)
    with pytest.raises(DefenseError, match=r"on some answers .* hold only one that differs; give more answers or none"):
        _repaired(mi.Realign(), model, safe=[*safe, *[tiny.row("the tea", "take it")] * copies])
    assert record.changes() == []
    _repaired(mi.Realign(learning_rate=1e-3), model, safe=[*safe, tiny.row("the tea", "take it")])


def test_with_a_searched_rate_no_fewer_rows_are_trained_on_than_asked_for():
    with pytest.raises(DefenseError, match="rows=17 are asked for, and 16 are left besides the 8 that 'auto' measures"):
        _repaired(mi.Realign(rows=17, **WIDE), adapted(tiny.model()))
    assert _repaired(mi.Realign(rows=16, **WIDE), adapted(tiny.model())).activity["safe_rows"] == 16


def test_more_rows_than_there_are_are_refused():
    with pytest.raises(DefenseError, match="rows=25 safe rows are asked for and 24 are given"):
        _repaired(mi.Realign(learning_rate=1e-3, rows=25), adapted(tiny.model()))


@pytest.mark.parametrize("settings", [{}, {"rows": "auto", "learning_rate": 1e-3}])
@pytest.mark.parametrize("rows", [1, 8])
def test_auto_needs_rows_to_measure_on(rows, settings):
    model = lived_in(KINDS["lora"]())
    record = Everything(model)
    with pytest.raises(DefenseError, match=f"'auto' needs more than 8 safe rows, .* and was given {rows}; give more"):
        _repaired(mi.Realign(**settings), model, safe=GIVEN["safe"][:rows])
    assert record.changes() == []


MISSING = [
    ({"learning_rate": 1e-3}, {"safe": None}, DefenseError, "Realign needs safe=, the provider's safe rows"),
    ({"learning_rate": 1e-3}, {"safe": []}, DataError, "give rows"),
    ({"learning_rate": 1e-3, "max_length": 2}, {}, DataError, "no row has an answer left within 2 tokens"),
    ({}, {"user": None}, DefenseError, "strength='auto' needs user="),
    ({"learning_rate": 1e-3, "inner": "booster"}, {"harmful": None}, DefenseError, "Realign needs harmful="),
    ({"learning_rate": 1e-3, "inner": "antibody_alignment"}, {"refusals": ()}, DefenseError, "the stream 'refusals'"),
    ({"learning_rate": 1e30}, {}, DefenseError, "lower the learning rate"),
]


@pytest.mark.parametrize(("settings", "given", "error", "message"), MISSING)
def test_what_is_missing_is_told_and_nothing_moves(settings, given, error, message):
    model = lived_in(KINDS["lora"]())
    record = Everything(model)
    with pytest.raises(error, match=message):
        _repaired(mi.Realign(**settings), model, **given)
    assert record.changes() == []


@pytest.mark.parametrize("settings", [{"learning_rate": 1e-3}, {}], ids=["given", "auto"])
def test_an_adapter_on_the_head_is_refused_before_any_pass_and_trained_once_it_is_merged(settings, monkeypatch):
    model = lived_in(KINDS["lm_head"]())
    record = Everything(model)
    with monkeypatch.context() as patch:
        patch.setattr(RowLosses, "__call__", lambda losses: pytest.fail("a pass"))
        with pytest.raises(UsageError, match=r"merge it into the model first \(model = model\.merge_and_unload\(\)\)"):
            _repaired(mi.Realign(**settings), model)
    assert record.changes() == []
    assert _repaired(mi.Realign(learning_rate=1e-3), model.merge_and_unload()).changed > 0


@pytest.mark.parametrize("longest", [None, 14])
def test_rows_of_which_no_answer_is_left_are_not_counted(longest):
    long = tiny.row("how " * 20, "no i cannot")
    repair = mi.Realign(learning_rate=1e-3, max_length=longest)
    repaired = _repaired(repair, adapted(tiny.model()), safe=[long, *GIVEN["safe"], long])
    assert repaired.activity["safe_rows"] == 24 + 2 * (longest is None)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"inner": "boster"}, UsageError, "no defense is called 'boster'.*did you mean 'booster'"),
        ({"inner": "lisa"}, UsageError, "'lisa' does not act at the stage alignment"),
        ({"inner": "booster", "settings": {"radios": 1}}, SettingError, "unknown key 'radios'; did you mean 'radius'"),
        ({"rows": -1}, SettingError, "rows"),
        ({"learning_rate": 0}, SettingError, "learning_rate"),
    ],
)
def test_wrong_settings_are_refused_when_they_are_made(settings, error, message):
    with pytest.raises(error, match=message):
        mi.Realign(**settings)


def test_what_it_needs_and_costs_follows_the_inner_defense():
    assert (mi.Realign().streams, tuple(mi.Realign().passes)) == (("safe",), (1, 1))
    booster = mi.Realign(inner="booster", settings={"radius": 0.02})
    assert (booster.streams, booster.passes) == (("safe", "harmful"), mi.Booster().passes)
    assert mi.Realign(inner="antibody_alignment").streams == ("safe", "harmful", "refusals")
    assert [mi.Realign().searches, mi.Realign(learning_rate=1e-3).searches, mi.Realign(rows=0).searches] == [1, 0, 0]


def test_a_float32_adapter_on_a_half_precision_base_is_trained():
    model = adapted(tiny.model().bfloat16())
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
    before = stored(model)
    repaired = _repaired(mi.Realign(learning_rate=1e-3), model)
    moved = {name for name, value in stored(model).items() if not torch.equal(value, before[name])}
    assert repaired.changed > 0
    assert moved == {name for name in before if "lora_" in name}
    assert all(value.dtype is before[name].dtype for name, value in stored(model).items())


def test_processes_that_cannot_share_a_step_are_refused(monkeypatch):
    """Whatever two or more processes share equals one process: see the matrix."""
    model = lived_in(KINDS["lora"]())
    record = Everything(model)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UsageError, match="step_rows=16 cannot be shared by 3 processes; give a multiple of 3"):
        _repaired(mi.Realign(learning_rate=1e-3), model)
    assert record.changes() == []
