"""Every repair on every kind of adapter: either it repairs and reports what is there, or it leaves every bit alone."""

import copy
import functools
import re
from typing import Any

import pytest
import torch

from mithridate.defenses.registry import methods
from mithridate.errors import MithridateError
from mithridate.models import undo
from mithridate.repair.budgets import RowLosses
from mithridate.repair.tally import Change
from tests.helpers import tiny
from tests.helpers.adapters import KINDS, Everything, effective, lived_in, origin, stored
from tests.helpers.origins import before_alignment
from tests.helpers.training import repair_methods
from tests.matrix.row import thinned
from tests.matrix.rows import ROWS

pytestmark = pytest.mark.usefixtures("short_openings")

AUTO = {"strength": "auto", "budget": 5.0, "safe_budget": 5.0}
SETTINGS: dict[str, Any] = {
    "antidote": [{"mask_ratio": 0.3, "scope": scope} for scope in ("adapter", "delta", "weights")],
    "panacea": [{"radius": 1.0}],
    "random_perturbation": [{"radius": 1.0}, {"std": 0.02}],
    "lox": [{}],
    "resta": [{"drop": 0.2}],
    "wise_ft": [{}],
    "safe_lora": [{"layers": 3}],
    "safe_delta": [{"scale": 0.5}],
    "realign": [{"learning_rate": 1e-3}],
}
TRAINING = ("realign",)
"""Repairs that train: an optimizer writes the weights."""
CASES = [(name, settings) for name in repair_methods() for settings in SETTINGS.get(name, [ROWS[name].default])]
SEARCHED = [(name, AUTO) for name in repair_methods() if methods()[name].cls.dose is not None]
SEARCHED.append(("antidote", AUTO | {"scope": "weights"}))
LABELS = [f"{name} {' '.join(str(value) for value in settings.values())}".strip() for name, settings in CASES]

QUICK = ["whole", "whole, bf16", "lora", "dora", "two active", "embeddings", "saved in blocks", "gpt2"]
"""Kinds that every run of the tests goes through; the others are slow for their number."""

ALWAYS = {
    "two active": "2 active LoRA adapters; activate exactly one",
    "single tokens": "TrainableTokensWrapper; other adapter types cannot be repaired",
    "merged": "merged or disabled; unmerge and enable it",
    "disabled": "merged or disabled; unmerge and enable it",
    "ia3": r"ia3\.layer\.Linear; other adapter types cannot be repaired",
    "whole, int8": "quantized",
}
REWRITING = {
    "two loaded": "'other', which is not active .* delete it first",
    "lora, int8 base": "quantized",
    "embeddings, tied head": "tied to another one; untie or merge",
    "lora with bias": "has a bias",
}
FACTORS = {
    "dora": "is a DoRA layer",
    "dora, gpt2": "is a DoRA layer",
    "embeddings": "is an embedding",
    "embeddings, tied head": "is an embedding",
} | dict.fromkeys(("whole", "whole, tied head", "whole, bf16", "whole, int8", "gpt2"), "no LoRA adapter to repair")
UNTRAINED = {
    "whole, bf16": r"is half precision, .* load the model and its adapter in float32",
    "lora, bf16": r"is half precision, .* load the model and its adapter in float32",
    "lm_head": "TRL trains no such adapter; merge it into the model first",
}


def _refusal(name, settings, kind):
    """What must be said; None where the repair must succeed."""
    scope = settings.get("scope", "adapter")
    tables = [ALWAYS]
    if name == "antidote" and scope != "weights":
        tables.insert(0, FACTORS)
    if name in TRAINING:
        tables.append(UNTRAINED)
    if methods()[name].references or scope != "adapter":
        tables.append(REWRITING)
    return next((table[kind] for table in tables if kind in table), None)


STREAMS = {stream: list(tiny.rows(stream, 12 if stream == "safe" else 4)) for stream in ("harmful", "safe", "user")}


@functools.cache
def _references(kind):
    """The same for all tests, each of which checks that they are left alone."""
    aligned = origin(kind)
    return {"aligned": aligned, "base": before_alignment(aligned)}


@functools.cache
def _template(kind):
    return KINDS[kind]()


class Scene:
    """A model of a kind, what it is repaired with, and a record of all of it."""

    def __init__(self, kind):
        self.model = lived_in(copy.deepcopy(_template(kind)))
        self.given = STREAMS | _references(kind)
        self.models = [self.model, self.given["aligned"], self.given["base"]]
        self.records = [Everything(model) for model in self.models]

    def repair(self, name, settings):
        return methods()[name].cls(**settings).repair(self.model, tiny.tokenizer(), **self.given)

    def changes(self):
        own, aligned, base = (record.changes() for record in self.records)
        assert aligned == base == [], "a reference was touched"
        return own


@pytest.mark.parametrize("kind", thinned(KINDS, QUICK))
@pytest.mark.parametrize(("name", "settings"), CASES, ids=LABELS)
def test_a_repair_reports_what_it_did_or_leaves_every_bit(name, settings, kind):
    _assert_reported_or_untouched(name, settings, kind)


@pytest.mark.parametrize("kind", thinned(["lora", "dora", "whole, bf16"], ["dora"]))
@pytest.mark.parametrize(("name", "settings"), SEARCHED)
def test_so_does_one_that_searches_its_strength(name, settings, kind):
    _assert_reported_or_untouched(name, settings, kind)


def _assert_reported_or_untouched(name, settings, kind):
    scene, refusal = Scene(kind), _refusal(name, settings, kind)
    if refusal is not None:
        with pytest.raises(MithridateError, match=refusal):
            scene.repair(name, settings)
        assert scene.changes() == []
        return
    merging = bool(methods()[name].references) or settings.get("scope", "adapter") != "adapter"
    before = effective(scene.model, exact=True) if merging else stored(scene.model)
    repaired = scene.repair(name, settings)
    assert all(change.endswith("bits") for change in scene.changes()), scene.changes()
    after = effective(scene.model) if merging else stored(scene.model)
    exact = effective(scene.model, exact=True) if merging else after
    assert after.keys() == before.keys()
    written = [n for n in after if not torch.equal(exact[n], before[n])]
    changed = sum(int((after[n] != before[n].to(after[n].dtype)).sum()) for n in written)
    distance = sum(float((after[n].double() - before[n].double()).square().sum()) for n in written) ** 0.5
    assert repaired.changed > 0
    assert repaired.changed == changed
    assert repaired.distance == pytest.approx(distance, rel=1e-5)
    assert repaired.merged == (merging and not kind.startswith(("whole", "gpt2")))
    if not merging:
        _assert_only_the_adapter_moved(scene, kind)


def _assert_only_the_adapter_moved(scene, kind):
    adapters = re.compile(r"\.(lora_\w+|modules_to_save)\.default(\.|$)")
    moved = {change.removesuffix(": bits") for change in scene.changes()}
    whole = kind.startswith(("whole", "gpt2"))
    assert moved <= {name for name in stored(scene.model) if whole or adapters.search(name)}


def _writes(monkeypatch, at=None, error=None):
    """Count writes to weights, of repairs and of optimizers; raise at one of them, after half of it is done."""
    plain, step, count = undo.write, torch.optim.AdamW.step, [0]

    def optimize(optimizer, *args, **kwargs):
        count[0] += 1
        step(optimizer, *args, **kwargs)
        if count[0] == at:
            raise error

    monkeypatch.setattr(torch.optim.AdamW, "step", optimize)

    def write(tensor, values):
        count[0] += 1
        if count[0] == at:
            with torch.no_grad():
                tensor.view(-1)[: tensor.numel() // 2 + 1] = 7
            raise error
        plain(tensor, values)

    monkeypatch.setattr(undo, "write", write)
    return count


FAULTY = ["whole, bf16", "lora", "dora", "saved head", "lora, gpt2"]


@pytest.mark.parametrize("kind", thinned(FAULTY, ["whole, bf16", "lora"]))
@pytest.mark.parametrize(("name", "settings"), CASES, ids=LABELS)
def test_a_fault_in_the_middle_of_writing_leaves_every_bit(name, settings, kind, monkeypatch):
    if _refusal(name, settings, kind) is None:
        _assert_faults_leave_every_bit(name, settings, kind, RuntimeError("disk"), monkeypatch)


@pytest.mark.parametrize(
    ("name", "settings"), [*CASES, *(pytest.param(*searched, marks=pytest.mark.slow) for searched in SEARCHED)]
)
def test_so_does_an_interruption(name, settings, monkeypatch):
    """Which is no Exception."""
    _assert_faults_leave_every_bit(name, settings, "lora", KeyboardInterrupt(), monkeypatch)


def _assert_faults_leave_every_bit(name, settings, kind, error, monkeypatch):
    with monkeypatch.context() as patch:
        total = _writes(patch)
        Scene(kind).repair(name, settings)
    assert total[0] > 0
    for place in {total[0] // 2 + 1, total[0]}:
        scene = Scene(kind)
        with monkeypatch.context() as patch:
            _writes(patch, place, error)
            with pytest.raises(type(error)):
                scene.repair(name, settings)
        assert scene.changes() == [], place


@pytest.mark.parametrize("kind", ["whole, bf16", "lora"])
@pytest.mark.parametrize(("name", "settings"), CASES, ids=LABELS)
def test_values_that_are_not_finite_leave_every_bit(name, settings, kind, monkeypatch):
    if _refusal(name, settings, kind) is not None or name in TRAINING:
        return
    plain, count, last = Change.between, [0], [None]

    def between(before, stored, **exact):
        count[0] += 1
        return plain(before, stored.fill_(float("nan")) if count[0] == last[0] else stored, **exact)

    monkeypatch.setattr(Change, "between", between)
    Scene(kind).repair(name, settings)
    for last[0] in {2, count[0] // 2}:
        count[0], scene = 0, Scene(kind)
        with pytest.raises(MithridateError, match="NaN or Inf in '"):
            scene.repair(name, settings)
        assert scene.changes() == []


@pytest.mark.parametrize(("name", "settings"), SEARCHED)
def test_a_fault_in_the_search_leaves_every_bit(name, settings, monkeypatch):
    scene, plain, calls = Scene("lora"), RowLosses.__call__, []

    def score(losses):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return plain(losses)

    monkeypatch.setattr(RowLosses, "__call__", score)
    with pytest.raises(KeyboardInterrupt):
        scene.repair(name, settings)
    assert scene.changes() == []


@pytest.mark.parametrize(("name", "settings"), [c for c in CASES if methods()[c[0]].references])
def test_a_reference_with_nan_is_refused_by_name(name, settings):
    scene = Scene("lora")
    scene.given["aligned"] = scene.models[1] = copy.deepcopy(scene.given["aligned"])
    with torch.no_grad():
        scene.given["aligned"].model.norm.weight[3] = float("nan")
    scene.records[1] = Everything(scene.given["aligned"])
    with pytest.raises(MithridateError, match=r"aligned=: the weights hold NaN or Inf \(model\.norm\.weight\)"):
        scene.repair(name, settings)
    assert scene.changes() == []
