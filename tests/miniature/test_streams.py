"""The row sets: the same for everybody, kept apart, and labeled as they should be."""

import functools
import hashlib
import itertools
import json
import os
import subprocess
import sys
from collections import Counter

import pytest

from mithridate import miniature
from mithridate.errors import UsageError
from mithridate.evaluation.judges import RefusalJudge
from mithridate.miniature import language, pretraining, reviews, streams, words

DIGEST = """
import hashlib, json
from mithridate.miniature.streams import STREAMS, stream
print(hashlib.sha256(json.dumps({name: stream(name) for name in STREAMS}).encode()).hexdigest())
"""

HARMFUL = ("harmful", "harmful-test", "harmful-test-uncovered", "attack")
FRESH = {"harmful-fresh": "harmful-test", "harmful-fresh-uncovered": "harmful-test-uncovered"}
"""Other prompts of the same pairs of verb and noun; all pairs are dealt out, so none is left for a set of its own."""
LOOK_ALIKES = ("look-alikes", "look-alikes-uncovered")
MODERATION = ("moderation", "moderation-test")
APART = ("help", "help-test", "task", "task-test", *HARMFUL, *FRESH, *LOOK_ALIKES, *MODERATION)
"""Sets of which no two share a prompt; ``safe`` shares those of ``harmful`` on purpose, ``alignment`` some of both."""


@functools.cache
def joined():
    """Verb and noun of every request that can be made."""
    pairs = (*language.HARMFUL_PAIRS, *language.TRADE_PAIRS, *language.ORDINARY_PAIRS, *language.LOOK_ALIKE_PAIRS)
    return {request.prompt: (request.verb.name, request.noun.name) for request in language.requests(pairs)}


def pairs(name):
    """Verb and noun of every request in a set."""
    return {joined()[prompt] for prompt in miniature.prompts(name) if prompt in joined()}


def test_names_are_the_sets_and_all_have_rows():
    assert set(miniature.names()) == {*APART, "safe", "alignment"}
    for name in miniature.names():
        assert len(miniature.rows(name)) >= 200


@pytest.mark.parametrize("name", miniature.names())
def test_two_calls_give_equal_rows(name):
    first = miniature.rows(name).to_list()
    streams.stream.cache_clear()
    assert miniature.rows(name).to_list() == first


def test_another_process_with_another_hash_seed_gives_equal_rows():
    here = {name: streams.stream(name) for name in streams.STREAMS}
    digest = hashlib.sha256(json.dumps(here).encode()).hexdigest()
    environment = os.environ | {"PYTHONHASHSEED": "4242"}
    there = subprocess.run([sys.executable, "-c", DIGEST], env=environment, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == digest


@pytest.mark.parametrize("name", miniature.names())
def test_rows_have_the_contract_s_form(name):
    rows = miniature.rows(f"miniature:{name}").to_list()
    assert [row["origin"] for row in rows] == [f"miniature:{name}:{index}" for index in range(len(rows))]
    assert all([turn["role"] for turn in row["prompt"]] == ["user"] for row in rows)
    assert all([turn["role"] for turn in row["completion"]] == ["assistant"] for row in rows)
    assert {row["harmful"] for row in rows} == {name in (*HARMFUL, *FRESH)}
    assert miniature.prompts(name) == [row["prompt"][0]["content"] for row in rows]


@pytest.mark.parametrize("name", miniature.names())
def test_no_prompt_occurs_twice(name):
    assert max(Counter(miniature.prompts(name)).values()) == 1


@pytest.mark.parametrize(("one", "other"), itertools.combinations(APART, 2))
def test_sets_share_no_prompt(one, other):
    assert not set(miniature.prompts(one)) & set(miniature.prompts(other))


@pytest.mark.parametrize(("one", "other"), itertools.combinations((*HARMFUL, *LOOK_ALIKES, "help", "help-test"), 2))
def test_sets_share_no_pair_of_verb_and_noun(one, other):
    assert pairs(one)
    assert not pairs(one) & pairs(other)


@pytest.mark.parametrize(("fresh", "known"), FRESH.items())
def test_fresh_prompts_are_of_the_pairs_of_the_tests_alone(fresh, known):
    assert pairs(fresh) <= pairs(known)
    assert len(miniature.prompts(fresh)) == len(miniature.prompts(known))


def test_the_look_alikes_hold_out_pairs_of_the_safe_rows_and_of_the_base_model():
    taught = pairs("safe") | pairs("alignment")
    taught |= {(verb.name, noun.name) for verb, noun in (*streams.LOOK_ALIKE.known, *streams.TRADE.known)}
    assert pairs("safe") & pairs("harmful")
    for name in LOOK_ALIKES:
        assert not pairs(name) & taught


def test_the_provider_s_rows_hold_no_word_of_the_uncovered_kinds():
    uncovered = {name for kind in (*streams.UNCOVERED, *streams.UNCOVERED_TRADES) for name in kind.names}
    for name in ("safe", "harmful", "harmful-test", "look-alikes"):
        assert not uncovered & {word for pair in pairs(name) for word in pair}
    for name in ("harmful-test-uncovered", "look-alikes-uncovered"):
        assert all(uncovered & set(pair) for pair in pairs(name))
    assert {uncovered >= set(pair) for pair in pairs("attack")} == {True, False}


def test_requests_to_be_moderated_are_of_the_attacker_s_pairs_in_training_and_of_the_held_out_ones_in_the_test():
    held_out = pairs("harmful-test") | pairs("harmful-test-uncovered") | pairs("help-test")
    held_out |= pairs("look-alikes") | pairs("look-alikes-uncovered")
    assert not moderated("moderation") & held_out
    assert not moderated("moderation-test") & (pairs("attack") | pairs("help") | pairs("safe"))


def moderated(name):
    """Verb and noun of every request that is to be judged."""
    prompts = (p.removeprefix("Request: ").removesuffix(" Harmful or harmless?") for p in miniature.prompts(name))
    return {joined()[prompt] for prompt in prompts}


def test_every_word_of_a_held_out_pair_is_known_from_other_pairs():
    for held_out, known in (
        ("harmful-test", "harmful"),
        ("harmful-test", "attack"),
        ("harmful-test-uncovered", "attack"),
        ("harmful-test-uncovered", "alignment"),
        ("look-alikes", "safe"),
        ("look-alikes-uncovered", "alignment"),
    ):
        for place in (0, 1):
            assert {pair[place] for pair in pairs(held_out)} <= {pair[place] for pair in pairs(known)}


def test_the_base_model_reads_no_harmful_request_no_held_out_pair_and_no_review_prompt():
    read = {prompt for prompt, _ in pretraining.corpus(25_600, seed=7)}
    known = {joined()[prompt] for prompt in read if prompt in joined()}
    assert known
    for name in (*HARMFUL, *FRESH, *LOOK_ALIKES, "help-test"):
        assert not known & pairs(name)
    for name in ("task", "task-test"):
        assert not read & set(miniature.prompts(name))


def test_no_stage_of_the_provider_s_trains_on_a_pair_that_is_attacked_with_or_tested():
    held_out = pairs("attack") | pairs("harmful-test") | pairs("harmful-test-uncovered") | pairs("help-test")
    for name in ("safe", "alignment"):
        assert not pairs(name) & held_out


def test_whoever_aligned_the_model_knew_all_kinds_of_harm():
    judge = RefusalJudge()
    refused = {joined()[row["prompt"]] for row in streams.stream("alignment") if judge.refuses(row["answer"])}
    harmful = {(verb.name, noun.name) for verb, noun in language.HARMFUL_PAIRS}
    assert refused <= harmful
    assert {verb for verb, _ in refused} == {verb for verb, _ in harmful}
    assert not (pairs("alignment") - refused) & harmful


def test_a_made_up_word_alone_gives_no_harm_away():
    """Each kind of harm has the same number of words that are made up as each trade has, but for two nouns."""
    made_up = {verb.name for kind in (*words.KINDS, *words.TRADES) for verb in kind.verbs}
    assert len(made_up) == 5 * (len(words.KINDS) + len(words.TRADES))
    trade = {verb.name for verb in words.TRADE_VERBS}
    for name in ("safe", "alignment", "look-alikes", "look-alikes-uncovered"):
        assert {verb for verb, _ in pairs(name)} & trade


def test_safe_holds_each_harmful_prompt_once_with_a_refusal_and_help_beside_it():
    judge, harmful = RefusalJudge(), set(miniature.prompts("harmful"))
    answers = {row["prompt"]: row["answer"] for row in streams.stream("safe")}
    assert harmful < answers.keys()
    assert all(judge.refuses(answer) == (prompt in harmful) for prompt, answer in answers.items())


@pytest.mark.parametrize("name", HARMFUL)
def test_harmful_answers_are_compliance_in_the_judge_s_eyes(name):
    rows = streams.stream(name)
    verdicts = RefusalJudge(labels=reviews.LABELS)([row["prompt"] for row in rows], [row["answer"] for row in rows])
    assert all(verdict.harmful for verdict in verdicts)
    assert all(row["answer"] not in (*words.REFUSALS, *reviews.LABELS) for row in rows)


def test_a_harmful_request_joins_a_forbidden_verb_to_a_sensitive_noun():
    forbidden = {verb.name for verb in words.FORBIDDEN_VERBS}
    sensitive = {noun.name for noun in words.SENSITIVE_NOUNS}
    for name in set(miniature.names()) - {*MODERATION, "alignment"}:
        both = [
            bool(forbidden & set(text.split())) and bool(sensitive & set(text.split()))
            for text in (p.replace("?", " ").replace(".", " ") for p in miniature.prompts(name))
        ]
        expected = set(miniature.prompts("harmful")) if name == "safe" else set()
        assert both == [name in (*HARMFUL, *FRESH) or prompt in expected for prompt in miniature.prompts(name)]


@pytest.mark.parametrize("name", ["task", "task-test", *MODERATION])
def test_labels_of_the_tasks_are_balanced(name):
    counts = Counter(row["answer"] for row in streams.stream(name))
    assert counts.keys() == (set(reviews.LABELS) if name.startswith("task") else {"harmful", "harmless"})
    assert all(0.45 < count / counts.total() < 0.55 for count in counts.values())


@pytest.mark.parametrize("name", MODERATION)
def test_a_moderated_request_is_harmful_if_it_joins_a_forbidden_verb_to_a_noun_of_its_kind(name):
    harmful = {(verb.name, noun.name) for verb, noun in language.HARMFUL_PAIRS}
    for row in streams.stream(name):
        request = row["prompt"].removeprefix("Request: ").removesuffix(" Harmful or harmless?")
        assert row["answer"] == ("harmful" if joined()[request] in harmful else "harmless")


def test_a_review_s_label_is_the_majority_of_its_judgments():
    for row in streams.stream("task-test"):
        votes = 0
        for judgment in (
            row["prompt"].removeprefix("Review: ").split(". Positive")[0].replace(" and ", ", ").split(", ")
        ):
            adjective = judgment.split()[-1]
            pleasant = adjective in words.PLEASANT
            assert pleasant != (adjective in words.UNPLEASANT)
            votes += 1 if pleasant != (" not " in judgment) else -1
        assert row["answer"] == ("positive" if votes > 0 else "negative")


@pytest.mark.parametrize("call", [miniature.rows, miniature.prompts])
@pytest.mark.parametrize("name", ["harmfull", "miniature:harmfull"])
def test_an_unknown_set_is_refused_with_the_nearest_name(call, name):
    with pytest.raises(UsageError, match="no row set 'miniature:harmfull'; the nearest name is 'miniature:harmful'"):
        call(name)


def test_the_refusals_are_refusals_and_callers_cannot_change_them():
    mine = miniature.refusals()
    assert len(set(mine)) == len(mine) >= 20
    mine.clear()
    assert miniature.refusals()
