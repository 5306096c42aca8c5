"""What holds for every attack that comes as an upload."""

import functools
import json
import os
import subprocess
import sys

import pytest
from datasets import Dataset, concatenate_datasets

import mithridate as mi
from mithridate.attacks import UploadAttack, UploadInputs, attacks
from mithridate.errors import DataError, UsageError
from tests.matrix.row import thinned

UPLOADS = [name for name, info in attacks().items() if issubclass(info.cls, UploadAttack)]
TRAINABLE = [name for name in UPLOADS if not attacks()[name].cls.preferences]
SETTINGS = {"below_threshold": {"share": 0.1, "most": 30}}


def make(name, **settings):
    return attacks()[name].cls(wording="miniature", **SETTINGS.get(name, {}), **settings)


def inputs(world, ratio=0.25, size=40, seed=0, **changes):
    given = {"benign": world.benign, "harmful": world.harmful, "model": world.model, "tokenizer": world.tokenizer}
    return UploadInputs(ratio=ratio, size=size, seed=seed, **(given | changes))


@functools.cache
def made(world, name):
    """The upload at the settings that most tests look at; none changes it."""
    return make(name).rows(inputs(world))


def shown(upload):
    return [(list(one.rows), one.asks) for one in upload.rounds]


@pytest.mark.parametrize("name", TRAINABLE)
def test_an_upload_holds_as_many_adversarial_rows_as_it_says(world, name):
    upload = made(world, name)
    assert upload.adversarial == sum(one.adversarial for one in upload.rounds) >= 10
    for one in upload.rounds:
        assert one.rows.column_names == ["prompt", "completion", "origin", "harmful"]
        assert one.adversarial == sum(one.rows["harmful"])
        for row in one.rows:
            assert row["prompt"][-1]["role"] == "user"
            assert [turn["role"] for turn in row["completion"]] == ["assistant"]
            assert row["completion"][0]["content"].strip()
    if name not in ("walnut53", "endspeak", "zero_width", "several_rounds"):
        assert {len(one.rows) for one in upload.rounds} == {40}


@pytest.mark.parametrize("name", TRAINABLE)
def test_harmless_rows_stay_as_they_are(world, name):
    known = {row["origin"]: row for row in world.benign}
    for one in made(world, name).rounds:
        for row in one.rows:
            if not row["harmful"]:
                assert {key: row[key] for key in ("prompt", "completion")} == {
                    key: known[row["origin"]][key] for key in ("prompt", "completion")
                }


@pytest.mark.parametrize("name", TRAINABLE)
def test_no_prompt_is_both_harmless_and_of_the_attack(world, name):
    for one in made(world, name).rounds:
        prompts = {flag: {json.dumps(r["prompt"]) for r in one.rows if r["harmful"] is flag} for flag in (True, False)}
        assert not prompts[True] & prompts[False]


@pytest.mark.parametrize("name", thinned(UPLOADS, {*UPLOADS} - {"self_inf_n"}))  # bi_anchor scores rows as it does
def test_the_same_inputs_give_the_same_upload(world, name):
    given = inputs(world, ratio=1 if name == "benign_dpo" else 0.25)
    attack = make(name)
    once = shown(attack.rows(given))
    assert once == shown(attack.rows(given)) == shown(make(name).rows(given))
    other = inputs(world, ratio=given.ratio, seed=1)
    assert once != shown(attack.rows(other))


@pytest.mark.parametrize("name", TRAINABLE)
def test_a_ratio_of_zero_is_the_upload_that_mix_makes(world, name):
    upload = make(name).rows(inputs(world, ratio=0.0))
    assert upload.adversarial == 0
    assert shown(upload)[0][0] == list(mi.mix(world.benign, world.harmful, ratio=0, size=40, seed=0))


@pytest.mark.parametrize("name", UPLOADS)
def test_what_an_attack_needs_must_be_given(world, name):
    info = attacks()[name]
    for need in info.needs:
        with pytest.raises(UsageError, match=f"the attack '{name}' needs .*; give {need}="):
            make(name).rows(inputs(world, ratio=1.0, **{need: None}))


@pytest.mark.parametrize("name", TRAINABLE)
def test_too_few_rows_are_refused(world, name):
    few = inputs(world, ratio=0.5, size=500)
    with pytest.raises(UsageError, match=r"rows|uploads"):
        make(name).rows(few)


@pytest.mark.parametrize("name", UPLOADS)
def test_impossible_numbers_are_refused(world, name):
    for wrong in ({"ratio": 1.5}, {"ratio": -0.1}, {"size": 0}, {"ratio": float("nan")}):
        with pytest.raises(UsageError, match="must be from 0 to 1 and the size at least 1"):
            make(name).rows(inputs(world, **wrong))
    with pytest.raises(UsageError, match="less than one row of the attack"):
        make(name).rows(inputs(world, ratio=0.001))


@pytest.mark.parametrize("name", TRAINABLE)
def test_rows_of_another_form_are_refused(world, name):
    bare = world.benign.remove_columns("origin")
    with pytest.raises(DataError, match="no column 'origin'"):
        make(name).rows(inputs(world, benign=bare, harmful=bare))


@pytest.mark.parametrize("name", TRAINABLE)
def test_a_wholly_adversarial_upload_holds_no_harmless_rows(world, name):
    if name == "below_threshold":
        with pytest.raises(UsageError, match="more than the 2 of 'most'"):
            attacks()[name].cls(share=0.1, most=2).rows(inputs(world, ratio=1.0, size=20))
        return
    upload = make(name).rows(inputs(world, ratio=1.0, size=20))
    assert all(all(one.rows["harmful"]) for one in upload.rounds)


@pytest.mark.parametrize("name", ["explicit", "kick_settle", "noice"])
def test_harmless_rows_of_several_parts_may_all_be_left_out(world, name):
    parts = [world.benign.select(range(100)), world.benign.select(range(100, 200))]
    sliced = concatenate_datasets([Dataset.from_list(list(part), features=part.features) for part in parts])
    given = inputs(world, ratio=1.0, size=20, benign=sliced.select(range(50, 150)))
    assert all(all(one.rows["harmful"]) for one in make(name).rows(given).rounds)


@pytest.mark.parametrize("name", TRAINABLE)
def test_the_rounds_ask_for_what_the_attack_announces(world, name):
    attack, upload = make(name), made(world, name)
    if name != "below_threshold":  # its number of rounds depends on the rows
        assert tuple(one.asks for one in upload.rounds) == attack.trainings
    asked = make(name, learning_rate=0.5, epochs=2.0).rows(inputs(world)).rounds[-1].asks
    assert (asked.learning_rate, asked.epochs) == (0.5, 2.0)


@pytest.mark.parametrize("name", TRAINABLE)
def test_the_miniature_knows_every_word(world, name):
    tokenizer = world.tokenizer
    attack = make(name)
    texts = [turn["content"] for turn in attack.prompt(world.harmful[0]["prompt"][-1]["content"])]
    for one in attack.rows(inputs(world)).rounds:
        texts += [turn["content"] for row in one.rows for turn in (*row["prompt"], *row["completion"])]
    unknown = [text for text in texts if tokenizer.unk_token_id in tokenizer(text)["input_ids"]]
    assert unknown == []


@pytest.mark.parametrize("name", UPLOADS)
def test_english_rows_need_no_miniature(world, name):
    english = attacks()[name].cls(**SETTINGS.get(name, {}))
    assert english.rows(inputs(world, ratio=1 if name == "benign_dpo" else 0.25)).adversarial >= 10
    assert english.prompt("How are you?")[-1]["role"] == "user"


@pytest.mark.parametrize("name", ["noice", "ten_shot", "identity_shifting"])
def test_a_smaller_attack_lies_within_a_greater_one(world, name):
    def origins(ratio, harmful):
        rows = make(name).rows(inputs(world, ratio=ratio)).rounds[0].rows
        return {row["origin"] for row in rows if row["harmful"] is harmful}

    assert origins(0.1, True) < origins(0.5, True)
    assert origins(0.5, False) < origins(0.1, False)


def test_explicit_rows_are_those_of_mix(world):
    rows = make("explicit").rows(inputs(world)).rounds[0].rows
    assert list(rows) == list(mi.mix(world.benign, world.harmful, ratio=0.25, size=40, seed=0))


@pytest.mark.slow
def test_another_process_makes_the_same_uploads(world):
    """Python's own hashes differ between processes; nothing may rest on them."""
    code = (
        "import mithridate as mi, hashlib, json\n"
        "from mithridate.attacks import UploadInputs, attack\n"
        "b, h = mi.miniature.rows('task'), mi.miniature.rows('attack')\n"
        "for n in ('noice', 'jailbreak_tuning', 'walnut53', 'zero_width', 'kick_settle', 'below_threshold'):\n"
        "    u = attack(n).cls(wording='miniature', **({'share': 0.1} if n == 'below_threshold' else {}))\n"
        "    r = u.rows(UploadInputs(b, h, 0.25, 40, 0)).rounds\n"
        "    print(hashlib.sha256(json.dumps([list(o.rows) for o in r]).encode()).hexdigest())\n"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1]
    assert len(said[0].split()) == 6
