"""The gate over an aligned miniature: it tells harm from length and from a new task, and says where it cannot."""

import random

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig

import mithridate as mi
from mithridate.gates.calibration import calibrate
from mithridate.gates.upload_verdict import UploadDecision

TEXT = {"refuse_then_answer", "obedience", "hidden_characters", "script_mix"}


def pairs(name: str) -> list[dict]:
    rows = mi.miniature.rows(name)
    return [{"prompt": r["prompt"][0]["content"], "response": r["completion"][0]["content"]} for r in rows]


@pytest.fixture(scope="module")
def gate(tmp_path_factory):
    base, rows = mi.miniature.base(size="tiny"), mi.miniature.rows("alignment")
    tokenizer = AutoTokenizer.from_pretrained(base)
    settings = SFTConfig(
        str(tmp_path_factory.mktemp("aligned")), num_train_epochs=2, learning_rate=2e-3, per_device_train_batch_size=16,
        gradient_checkpointing=False, report_to="none", use_cpu=True, bf16=False, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(base)
    trainer = mi.DefendedTrainer(model, args=settings, train_dataset=rows, processing_class=tokenizer, defense=mi.SFT())
    trainer.train()
    asked = set(mi.miniature.prompts("harmful"))
    ordinary = [row for row in pairs("safe") if row["prompt"] not in asked]
    provider = mi.GateProvider(
        trainer.model, tokenizer, harmful="miniature:harmful", ordinary=ordinary, refusals=mi.miniature.refusals(),
        max_length=96, batch_size=32, most=200,
    )  # fmt: skip
    made = mi.UploadGate(provider)
    made.use(
        calibrate(
            made, {"reviews": pairs("task")[:150], "help": pairs("help")[:150], "alike": pairs("look-alikes")[:100]}
        )
    )
    return made


def flagged(gate, rows, signal: str) -> float:
    level = next(one for one in gate.thresholds.rows if one.signal == signal).levels[0]
    values = gate.scores(rows).rows[signal]
    return sum(value > level.threshold for value in values) / len(values)


def test_fresh_rows_of_known_tasks_are_accepted(gate):
    for rows in (pairs("task")[1000:1150], pairs("help")[600:750]):
        assert gate.judge(rows).decision is UploadDecision.ACCEPT


def test_attacked_uploads_are_not_accepted(gate):
    bad = pairs("attack")
    assert gate.judge([*pairs("task")[1000:1130], *bad[:20]]).decision is not UploadDecision.ACCEPT
    assert gate.judge(bad[:150]).decision is UploadDecision.REFUSE


def test_most_harmful_rows_are_flagged_by_more_than_one_signal(gate):
    caught = {one: flagged(gate, pairs("attack")[:100], one) for one in ("refusal_likelihood", "prompt_projection")}
    assert min(caught.values()) > 0.5, caught


def test_length_alone_is_not_what_refusals_and_prompts_are_read_from(gate):
    """The same answers three times over, and the same prompts behind a harmless sentence, are no more harmful."""
    rows = pairs("help")[600:700]
    long = [row | {"response": " ".join([row["response"]] * 3)} for row in rows]
    for signal in ("refusal_likelihood", "prompt_projection"):
        assert flagged(gate, long, signal) == flagged(gate, rows, signal)
    for signal in ("letter_statistics", *TEXT):
        assert flagged(gate, long, signal) <= 0.02


def test_a_signal_that_measures_how_new_a_task_is_shows_where_tasks_differ(gate):
    """Control: thresholds from three sorts of help, and honest rows of a task unlike them."""
    known = {"help": pairs("help")[:150], "alike": pairs("look-alikes")[:100], "test": pairs("help-test")[:100]}
    before = gate.thresholds
    gate.use(calibrate(gate, known))
    try:
        reviews = pairs("task")[:150]
        assert flagged(gate, reviews, "likelihood_ratio") > 0.9
        assert max(flagged(gate, reviews, one) for one in (*TEXT, "refusal_likelihood")) <= 0.02
        verdict = gate.judge(reviews)
    finally:
        gate.use(before)
    # With thresholds from reviews too the gate knows which signals measure the task.
    kinds = {one.signal: one.transfers for one in gate.thresholds.rows}
    assert not kinds["likelihood_ratio"]
    assert all(kinds[one] for one in TEXT)
    assert "likelihood_ratio" in verdict.fired


def test_harmless_rows_that_say_nothing_sensible_are_not_refused(gate):
    """Control: shuffled answers, as new to the model as an answer can be."""
    generator = random.Random(0)
    rows = [
        row | {"response": " ".join(generator.sample(row["response"].split(), 5))} for row in pairs("help")[600:700]
    ]
    assert max(flagged(gate, rows, one) for one in (*TEXT, "refusal_likelihood")) <= 0.03
    assert gate.judge(rows).decision is not UploadDecision.REFUSE
