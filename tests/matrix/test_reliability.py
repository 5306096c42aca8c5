"""Displacements leave no trace, evaluation leaves no trace, and whatever goes wrong stops the run."""

from contextlib import contextmanager

import pytest
import torch
from datasets import Dataset
from peft import PeftModel

from mithridate.defenses.registry import methods
from mithridate.errors import DataError, DefenseError, MithridateError
from mithridate.training.scoring import Likelihood
from mithridate.training.trainable_weights import Weights
from mithridate.training.trainer import DefendedTrainer
from tests.helpers import tiny
from tests.helpers.origins import everything, restored
from tests.helpers.training import distance, repair_methods, run, streams, trainer, training_methods
from tests.matrix.row import thinned
from tests.matrix.rows import ROWS

DISPLACED = ("kept", "at_start")
"""The blocks in which weights are displaced."""

EVALUATED = {"max_steps": 4}

EXTRA = {"safe": "safe_dataset", "harmful": "harmful_dataset", "refusals": "refusals"}


def _defense(name):
    return methods()[name].cls(**ROWS[name].default)


@pytest.mark.parametrize("name", training_methods())
def test_weights_are_restored_bit_for_bit_after_every_displacement(name, tmp_path, monkeypatch):
    moved = []

    def watched(displaced):
        @contextmanager
        def inside(self):
            before = self.snapshot()
            with displaced(self):
                yield
                moved.append(any(not torch.equal(a, b) for a, b in zip(before, self.parameters, strict=True)))
            assert all(torch.equal(a, b) for a, b in zip(before, self.parameters, strict=True))

        return inside

    for name_of in DISPLACED:
        monkeypatch.setattr(Weights, name_of, watched(getattr(Weights, name_of)))
    trainer(_defense(name), tmp_path, max_steps=3).train()
    assert any(moved) == ROWS[name].displaces, "no displacement moved anything"


WATCHED = [
    *("antibody_alignment", "antibody_tuning", "bds", "lisa", "panacea_tuning", "safegrad"),
    *("salora", "sbr", "sft", "t_vaccine", "vaccine"),
]
"""Evaluated in between at every commit: those that remember something, displace weights or hook into the model."""


@pytest.mark.parametrize("name", [name for name in training_methods() if ROWS[name].displaces])
def test_weights_are_restored_when_a_pass_fails_inside_a_displacement(name, tmp_path, monkeypatch):
    made = trainer(_defense(name), tmp_path, max_steps=3)
    before = {n: p.detach().clone() for n, p in made.model.named_parameters()}
    original, moved = Likelihood.score, []

    def failing(self, *args, **kwargs):
        if moved:
            raise RuntimeError("a pass failed")
        return original(self, *args, **kwargs)

    def entered(displaced):
        @contextmanager
        def inside(self):
            with displaced(self):
                moved.append(True)
                yield

        return inside

    monkeypatch.setattr(Likelihood, "score", failing)
    for name_of in DISPLACED:
        monkeypatch.setattr(Weights, name_of, entered(getattr(Weights, name_of)))
    with pytest.raises(RuntimeError, match="a pass failed"):
        made.train()
    assert moved
    assert distance(before, dict(made.model.named_parameters())) == 0


@pytest.mark.parametrize("name", thinned(training_methods(), WATCHED))
def test_evaluation_in_the_middle_changes_no_bit(name, tmp_path):
    """Without dropout: transformers' evaluation loader draws one number of the global generator."""
    watched = trainer(
        _defense(name), tmp_path, extra={"eval_dataset": tiny.rows("user", 8)},
        eval_strategy="steps", eval_steps=2, **EVALUATED,
    )  # fmt: skip
    watched.train()
    evaluated = [log for log in watched.state.log_history if "eval_loss" in log]
    assert len(evaluated) == 2
    after = {n: p for n, p in watched.model.named_parameters() if p.requires_grad}
    assert distance(run(name, ROWS[name].default, **EVALUATED).weights, after) == 0


@pytest.mark.parametrize("name", training_methods())
def test_only_the_adapter_moves(name):
    model = run(name, ROWS[name].default, **EVALUATED).trainer.model
    untouched = tiny.model().state_dict()
    for weight, values in model.get_base_model().state_dict().items():
        if ".lora_" not in weight:
            assert torch.equal(values, untouched[weight.replace(".base_layer.", ".")]), weight


@pytest.mark.parametrize("name", training_methods())
def test_a_missing_stream_stops_the_run_before_it_starts(name, tmp_path):
    info = methods()[name]
    for stream in info.streams:
        given = {**streams(), EXTRA[stream]: None} if stream != "refusals" else {**streams(), "refusals": ()}
        with pytest.raises(DefenseError, match=f"{name} needs the stream '{stream}'"):
            DefendedTrainer(
                tiny.model(), args=tiny.config(tmp_path), train_dataset=tiny.rows("user"), defense=_defense(name),
                processing_class=tiny.tokenizer(), peft_config=tiny.lora(), **given,
            )  # fmt: skip


@pytest.mark.parametrize("name", [n for n in training_methods() if "harmful" in methods()[n].streams])
@pytest.mark.parametrize("empty", [[], Dataset.from_list([])])
def test_an_empty_stream_stops_the_run_before_it_starts(name, empty, tmp_path):
    with pytest.raises(DataError, match="harmful_dataset has no rows; give at least one"):
        DefendedTrainer(
            tiny.model(), args=tiny.config(tmp_path), train_dataset=tiny.rows("user"), defense=_defense(name),
            processing_class=tiny.tokenizer(), peft_config=tiny.lora(), **streams() | {"harmful_dataset": empty},
        )  # fmt: skip


@pytest.mark.parametrize("broken", [float("nan"), pytest.param(float("inf"), marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", training_methods())
def test_broken_weights_stop_the_run(name, broken, tmp_path):
    made = trainer(_defense(name), tmp_path, max_steps=3)
    made.model.get_base_model().model.layers[0].mlp.up_proj.weight.data[0, 0] = broken
    with pytest.raises(DefenseError, match=r"norm (nan|inf)|not finite"):
        made.train()
    assert made.state.global_step == 0


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", repair_methods())
def test_broken_weights_are_not_repaired(name, broken):
    model = tiny.model()
    model.model.layers[0].mlp.up_proj.weight.data[0, 0] = broken
    settings = ROWS[name].default | ({"scope": "weights"} if name == "antidote" else {})
    with pytest.raises(MithridateError, match="hold NaN or Inf"):
        methods()[name].cls(**settings).repair(model, tiny.tokenizer(), harmful=tiny.rows("harmful", 4))


@pytest.mark.parametrize("name", training_methods())
def test_an_exception_inside_a_defense_ends_the_run(name, tmp_path, monkeypatch):
    cls, calls = methods()[name].cls, []
    original = cls.gradient

    def failing(self, step):
        calls.append(step)
        if len(calls) == 2:
            raise ZeroDivisionError("inside the defense")
        return original(self, step)

    monkeypatch.setattr(cls, "gradient", failing)
    made = trainer(_defense(name), tmp_path, max_steps=4)
    with pytest.raises(ZeroDivisionError, match="inside the defense"):
        made.train()
    assert made.state.global_step == 1, "training went on without the defense"


@pytest.mark.parametrize("name", [name for name in repair_methods() if methods()[name].forward])
def test_a_repair_needs_its_rows(name):
    for stream in methods()[name].streams:
        with pytest.raises(DefenseError, match=f"{stream}="):
            _defense(name).repair(tiny.model(), tiny.tokenizer(), **everything() | {stream: None})
        model = run("sft", max_steps=2).trainer.model
        with pytest.raises(DataError, match="give rows"):
            _defense(name).repair(model, tiny.tokenizer(), **everything() | {stream: []})


@pytest.mark.parametrize("name", [name for name in repair_methods() if methods()[name].references])
def test_a_repair_needs_the_models_it_compares_with(name):
    for reference in methods()[name].references:
        with pytest.raises(DefenseError, match=f"needs {reference}=, the model before"):
            _defense(name).repair(tiny.model(), tiny.tokenizer(), **everything() | {reference: None})


def test_a_random_displacement_of_panaceas_length_needs_harmful_rows():
    with pytest.raises(DefenseError, match="harmful="):
        methods()["random_perturbation"].cls(radius="auto").repair(tiny.model(), tiny.tokenizer())  # type: ignore[call-arg, attr-defined]


@pytest.mark.parametrize("name", repair_methods())
def test_a_repaired_adapter_is_saved_loaded_and_merged(name, tmp_path):
    model, ids = run("sft", max_steps=12).trainer.model, torch.tensor([[7, 8, 9, 10, 11]])
    with restored(model):
        repaired = _defense(name).repair(model, tiny.tokenizer(), **everything())
        model.eval()
        expected = model(input_ids=ids).logits
        model.save_pretrained(tmp_path)
        whole = {n.replace(".base_layer.", "."): t.clone() for n, t in model.get_base_model().state_dict().items()}
    base = tiny.model()
    if repaired.merged:
        base.load_state_dict({n: t for n, t in whole.items() if ".lora_" not in n})
    loaded = PeftModel.from_pretrained(base, tmp_path).eval()
    torch.testing.assert_close(loaded(input_ids=ids).logits, expected, atol=1e-6, rtol=0)
    merged = loaded.merge_and_unload(safe_merge=True)
    torch.testing.assert_close(merged(input_ids=ids).logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", repair_methods())
def test_a_repair_done_twice_over_gives_the_same_bits(name):
    """A repair that was killed is simply done again on the stored model."""
    model, ends = run("sft", max_steps=12).trainer.model, []
    for _ in range(2):
        with restored(model):
            _defense(name).repair(model, tiny.tokenizer(), **everything())
            ends.append({n: p.detach().clone() for n, p in model.named_parameters()})
    assert distance(*ends) == 0


@pytest.mark.parametrize("name", repair_methods())
def test_a_repair_leaves_the_model_as_it_found_it_otherwise(name):
    model = run("sft", max_steps=12).trainer.model
    model.train()
    before = {n: p.requires_grad for n, p in model.named_parameters()}
    with restored(model):
        _defense(name).repair(model, tiny.tokenizer(), **everything(4))
    assert model.training
    assert {n: p.requires_grad for n, p in model.named_parameters()} == before
    assert all(p.grad is None for p in model.parameters())
