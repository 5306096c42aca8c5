"""What a plan says, against what can be counted by hand."""

import functools
import json
import math

import pytest
from typer.testing import CliRunner

import mithridate as mi
from mithridate.cli.main import app
from mithridate.errors import ModelError, UsageError
from mithridate.models.tokenization import completion_ids, tokenize
from mithridate.planning.plan_records import RecipePlan
from tests.helpers import tiny
from tools import published_figures


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@functools.cache
def _plan_of(recipe):
    return mi.plan(json.loads(recipe))


def _planned(tree):
    """The plan of a recipe, made once for all tests that only read it."""
    return _plan_of(json.dumps(tree, sort_keys=True))


def _of(found, **wanted):
    stages = [one for one in found.stages if all(getattr(one, name) == value for name, value in wanted.items())]
    assert stages, wanted
    return stages[0]


def test_steps_passes_and_tokens_are_those_of_the_rows(tree):
    found = _planned(tree)
    aligned, tuned = _of(found, stage="alignment", method="sft"), _of(found, stage="finetuning")
    assert aligned.steps == 2 * 16 / 4
    assert tuned.steps == 3 * 12 / 4  # 16 rows less 4 held out
    assert _of(found, method="booster").passes == {"forward": 3, "backward": 3}
    assert tuned.tokens.low == tuned.tokens.high > 36 * 8
    assert found.trainable == found.parameters


def test_stages_that_variants_share_are_counted_once(tree):
    found = _planned(tree)
    aligned = [one for one in found.stages if one.stage == "alignment"]
    assert [one.variants for one in aligned] == [["undefended", "pushed", "found"], ["flat"], ["kept"]]
    assert math.isclose(found.flops.high, sum(one.flops.high for one in found.stages))
    assert sum(variant.flops.high for variant in found.variants) > found.flops.high


def test_a_fine_tuning_costs_three_forward_passes_with_all_weights_and_two_with_an_adapter(tree):
    whole, adapter = _planned(tree), _planned(tree | {"adapter": "fresh"})
    ratio = [_of(one, stage="finetuning").flops.low for one in (whole, adapter)]
    assert 1.2 < ratio[0] / ratio[1] < 1.6
    assert adapter.trainable < whole.trainable / 10


def test_harmful_terms_that_are_shared_cost_less(tree):
    found = _planned(tree)
    plain, flat, kept = (
        _of(found, stage="alignment", variants=names).flops.low
        for names in (["undefended", "pushed", "found"], ["flat"], ["kept"])
    )
    assert kept - plain == pytest.approx((flat - plain) / 4)
    assert flat / plain == pytest.approx(3, rel=0.5)  # the harmful rows are longer than the safe ones


def test_safe_rows_that_are_mixed_in_are_counted(tree):
    mixed = {"method": "safety_mixing", "share": 0.5}
    tree["variants"] = [{"name": "undefended"}, {"name": "mixed", "finetuning": mixed}]
    found = mi.plan(tree)
    plain, more = (_of(found, stage="finetuning", method=name).tokens.low for name in ("sft", "safety_mixing"))
    safe = _of(found, stage="alignment").tokens.low / (16 * 2)  # tokens of a row; two epochs of the safe rows
    # As many safe rows as user rows: 12 that are not held out, for three epochs.
    assert more == pytest.approx(plain + 3 * 12 * safe)


def test_a_search_is_a_span(tree):
    fixed, searched = (_of(_planned(tree), method="panacea", variants=[name]) for name in ("pushed", "found"))
    assert fixed.tries == (0, 0)
    assert searched.tries == (6, 16)
    assert fixed.flops.low == fixed.flops.high < searched.flops.low < searched.flops.high


def test_evaluation_generates_at_most_what_is_allowed(tree):
    assert _of(_planned(tree), stage="evaluation").generated == (6 * 6 + 24 * 4,) * 2


def test_time_is_work_over_speed_and_training_is_shared(tree):
    one, four = (mi.plan(tree, flops_per_second=1e6, devices=n) for n in (1, 4))
    assert one.seconds.low == pytest.approx(one.flops.low / 1e6)
    assert _of(four, stage="finetuning").seconds.low == pytest.approx(_of(one, stage="finetuning").seconds.low / 4)
    assert four.device_hours.low == pytest.approx(one.device_hours.low)
    assert _planned(tree).seconds is None


def test_differences_in_float32_take_longer_on_a_device(tree):
    half = mi.plan(tree | {"precision": "bfloat16", "adapter": "fresh"}, device="h200")
    assert _of(half, method="sft").full_precision == 0
    booster = _of(half, method="booster")
    assert 0.5 < booster.full_precision < 0.9
    assert booster.seconds.low > 5 * booster.flops.low / (989e12 * 0.4)


def test_what_cannot_be_read_is_assumed_and_said(tree, world):
    tree["streams"]["safe"] = {"source": str(world / "missing.jsonl"), "size": 40}
    tree["streams"]["user"]["harmful"] = str(world / "missing.jsonl")
    found = mi.plan(tree, tokens=20)
    assert _of(found, method="sft", stage="alignment").tokens.low == 2 * 40 * 20
    assert _of(found, stage="finetuning").steps == 9
    told = "\n".join(found.assumptions)
    assert "streams.safe cannot be read" in told
    assert "streams.user.harmful cannot be read" in told
    assert "20 tokens" in told


def test_without_a_tokenizer_no_tokens_are_counted(tree, world, tmp_path):
    (tmp_path / "config.json").write_bytes((world / "model" / "config.json").read_bytes())
    found = mi.plan(tree | {"model": str(tmp_path)})
    assert "tokenizer cannot be read" in found.assumptions[0]
    assert _of(found, stage="finetuning").tokens.low == 36 * tree["max_length"]


def test_recomputed_activations_cost_work_and_save_memory(tree):
    plain = _of(mi.plan(tree), stage="finetuning")
    tree["finetuning"]["gradient_checkpointing"] = True
    again = _of(mi.plan(tree), stage="finetuning")
    assert again.flops.low == pytest.approx(4 / 3 * plain.flops.low, rel=0.05)
    assert again.memory[1].activations < plain.memory[1].activations


def test_memory_of_each_form_and_of_a_share(tree):
    forms = {form.form: form for form in _of(mi.plan(tree, devices=2), method="booster").memory}
    assert list(forms) == ["LoRA", "all weights", "LoRA, FSDP over 2", "all weights, FSDP over 2"]
    whole, split = forms["all weights"], forms["all weights, FSDP over 2"]
    assert whole.optimizer == 2 * whole.gradients == 2 * whole.weights
    assert whole.vectors == 2 * whole.weights
    assert split.weights == whole.weights / 2
    assert split.gathered > 0
    for form in forms.values():
        parts = form.model_dump(exclude={"form", "total"})
        assert form.total == sum(parts.values())


def test_an_adapter_that_fits_no_layer_matters_only_where_one_is_trained(tree):
    tree["lora"]["targets"] = ["c_attn"]
    assert [form.form for form in _of(mi.plan(tree), stage="finetuning").memory] == ["all weights"]
    with pytest.raises(mi.errors.RecipeError, match="does not fit the model"):
        mi.plan(tree | {"adapter": "fresh"})


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"device": "h200", "measure": True}, "give one of"),
        ({"device": "h20"}, "did you mean 'h200'"),
        ({"devices": 0}, "at least 1"),
        ({"tokens": 1}, "at least 2"),
        ({"flops_per_second": 0}, "above 0"),
        ({"flops_per_second": float("nan")}, "above 0"),
    ],
)
def test_what_cannot_be_asked_is_refused(tree, asked, said):
    with pytest.raises(UsageError, match=said):
        mi.plan(tree, **asked)


def test_a_model_without_settings_is_refused(tree, tmp_path):
    with pytest.raises(ModelError, match=r"config\.json"):
        mi.plan(tree | {"model": str(tmp_path)})
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be read"):
        mi.plan(tree | {"model": str(tmp_path)})


def test_measuring_this_machine_tells_a_time(tree):
    found = mi.plan(tree, measure=True)
    assert "measured" in found.speed
    assert found.seconds.low > 0


def test_the_command_prints_a_table_or_json(tree, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(tree))
    shown = CliRunner().invoke(app, ["plan", str(file), "--device", "a100", "--devices", "2"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    for words in ("booster", "1.5 + 1.5", "all weights, FSDP over 2", "device hours", "what papers report"):
        assert words in shown.output
    printed = CliRunner().invoke(app, ["plan", str(file), "--json"])
    assert RecipePlan.model_validate(json.loads(printed.output)).name == "tiny"


def test_published_figures_are_those_of_the_cards():
    assert published_figures.TARGET.read_text(encoding="utf-8") == published_figures.text()
    found = {entry["method"]: entry["value"] for entry in published_figures.entries()}
    assert {"booster", "antibody_alignment", "panacea"} <= set(found)


def _one(tree, stage, **variant):
    return _of(_planned(tree | {"variants": [{"name": "undefended"} | variant]}), stage=stage)


def test_a_repair_is_planned_over_the_rows_it_uses_and_with_its_matrices(tree):
    two, four, every, plenty = (
        _one(tree, "posttuning", posttuning={"method": "safe_delta", "rows": rows}) for rows in (2, 4, 16, 10_000)
    )
    assert two.tokens.low * 2 == pytest.approx(four.tokens.low)
    assert four.tokens.low * 4 == pytest.approx(every.tokens.low)
    assert every.flops == plenty.flops, "there are no more rows"
    assert 2 * two.flops.low > four.flops.low, "twice the rows, but the same matrices"


def test_salora_is_planned_with_its_projections(tree):
    adapted = tree | {"adapter": "fresh"}
    plain, free, projected = (
        _one(adapted, "finetuning", finetuning=chosen).flops.low
        for chosen in ("sft", {"method": "salora", "directions": 0}, {"method": "salora", "directions": 8})
    )
    assert free == plain < projected


def test_a_measured_temperature_is_planned_once_over_the_rows_that_it_takes(tree):
    fixed, eight, nine, every, plenty = (
        _one(tree, "finetuning", finetuning={"method": "antibody_tuning", "temperature": chosen, "rows": rows})
        for chosen, rows in ((1.0, 128), ("auto", 8), ("auto", 9), ("auto", 16), ("auto", 10_000))
    )
    assert fixed.steps == every.steps
    assert (every.tokens, every.flops) == (plenty.tokens, plenty.flops), "there are no more rows"
    a_row = nine.tokens.low - eight.tokens.low
    assert eight.tokens.low - fixed.tokens.low == pytest.approx(8 * a_row)
    assert every.tokens.low - fixed.tokens.low == pytest.approx(16 * a_row)
    # By hand: a mean row of each stream, and a mean refusal behind it with the token that predicts its first one.
    words, refusals = tiny.tokenizer(), completion_ids(tiny.REFUSALS, tiny.tokenizer(), conversational=True)
    refusal = sum(map(len, refusals)) / len(refusals)
    by_hand = 0.0
    for name in ("safe", "harmful"):
        rows = tokenize(mi.load_rows(tree["streams"][name]), words, tree["max_length"])
        by_hand += sum(len(row.input_ids) for row in rows) / len(rows) + refusal + 1
    assert a_row == pytest.approx(by_hand, abs=2 * 0.5), "a refusal's end is rounded to whole tokens"
    assert every.flops.low - fixed.flops.low > every.tokens.low - fixed.tokens.low


def test_refusals_behind_kept_prompts_cost_less_than_whole_rows(tree):
    plain = _one(tree, "finetuning").tokens.low
    kept, whole, dropped = (
        _one(tree | changes, "finetuning", finetuning="antibody_tuning").tokens.low
        for changes in (
            {},
            {"finetuning": tree["finetuning"] | {"gradient_checkpointing": True}},
            {"adapter": "fresh", "lora": {"rank": 2, "dropout": 0.1}},
        )
    )
    assert plain < kept < whole == dropped
