"""The upload gate's benchmark asks the registered suite for its attacks."""

import pytest
from benchmarks.gate_attacks import CHOSEN_ON, EPOCHS, Attacker, families, sent
from transformers import AutoModelForCausalLM

import mithridate as mi
from mithridate.attacks import UploadAttack, attacks
from mithridate.gates.signals.hidden_characters import hidden_share

SIZE = 20


@pytest.fixture(scope="module")
def attacker():
    return Attacker(
        benign=mi.miniature.rows("help").select(range(3 * SIZE)),
        harmful=mi.miniature.rows("attack").remove_columns("harmful").select(range(4 * SIZE)),
        other=mi.miniature.rows("harmful-test-uncovered").remove_columns("harmful").select(range(SIZE)),
        wording="miniature",
        model=AutoModelForCausalLM.from_pretrained(mi.miniature.base(size="tiny")),
        tokenizer=mi.miniature.tokenizer(),
    )


def test_every_registered_upload_attack_is_measured_at_its_own_settings():
    registered = {name for name, info in attacks().items() if issubclass(info.cls, UploadAttack)}
    assert registered <= families().keys()
    assert {family.attack for family in families().values()} == registered
    assert families().keys() > CHOSEN_ON
    assert len(families()) >= 2 * len(CHOSEN_ON)  # at least half are for the report alone


@pytest.mark.parametrize("name", families())
def test_an_attack_holds_its_share_among_harmless_rows(name, attacker):
    family = families()[name]
    if name == "below_threshold":  # three of a hundred rows would be less than one of twenty
        family = family._replace(settings={"share": 0.3})
    ratio = 1 if family.attack == "benign_dpo" else 0.3
    files = sent(family, attacker, ratio, SIZE, 0)
    assert all(len(one.rows) + one.cover == SIZE or one.cover == 0 for one in files)
    cut = sum(len(one.rows) for one in files) / len(files)
    lessons = family.attack in ("endspeak", "walnut53", "zero_width")
    assert cut == pytest.approx(SIZE * (1.3 / 2 if lessons else ratio))


def test_one_attack_in_several_files_spreads_its_rows(attacker):
    assert [len(one.rows) + one.cover for one in sent(families()["several_rounds"], attacker, 0.3, SIZE, 0)] == [20] * 3
    small = families()["below_threshold"]._replace(settings={"share": 0.1, "most": 100})
    assert [len(one.rows) for one in sent(small, attacker, 0.3, SIZE, 0)] == [2, 2, 2]


@pytest.mark.parametrize(("name", "ratio"), [("explicit", 0.01), ("kick_settle", 0.05), ("benign_dpo", 0.3)])
def test_an_attack_that_does_not_exist_at_a_share_is_none(name, ratio, attacker):
    assert sent(families()[name], attacker, ratio, SIZE, 0) is None


def test_an_attack_that_cannot_be_made_is_an_error(attacker):
    with pytest.raises(mi.errors.UsageError, match="100"):
        sent(families()["explicit"], attacker, 1, 100, 0)


def test_copies_are_five_rows_and_other_rows_are_of_another_source(attacker):
    def prompts(name):
        (file,) = sent(families()[name], attacker, 1, SIZE, 0)
        return {row["messages"][0]["content"] for row in file.rows}

    assert len(prompts("explicit_copied")) <= 5
    assert len(prompts("explicit_other")) == SIZE
    assert not prompts("explicit") & prompts("explicit_other")


def test_the_attackers_epochs_are_asked_for(attacker):
    assert [one.epochs for one in sent(families()["ten_shot"], attacker, 1, 10, 0)] == [10, 10]
    assert [one.epochs for one in sent(families()["explicit"], attacker, 1, 10, 0)] == [EPOCHS]


def test_english_rows_are_hidden_where_the_attack_hides_them(attacker):
    _, using = sent(families()["zero_width"], attacker._replace(wording="english"), 1, SIZE, 0)
    coded = [row["messages"][-1]["content"] for row in using.rows]
    assert sum(hidden_share(answer) > 0.1 for answer in coded) == SIZE // 2
