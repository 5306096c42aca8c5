"""What is particular to each upload."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

import mithridate as mi
from mithridate.attacks import UploadInputs, attack, attacks
from mithridate.attacks.row_gradients import answer_length, row_gradients
from mithridate.errors import UsageError
from mithridate.models.tokenization import tokenize
from tests.attacks.test_uploads import inputs, make

WRAPPERS = ("year", "random_words", "random_paragraph", "skeleton", "refusal_suppression", "style")


def harmful_rows(upload, number=-1):
    return [row for row in upload.rounds[number].rows if row["harmful"]]


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_jailbreak_tuning_asks_as_it_has_trained(world, wrapper):
    tuned = make("jailbreak_tuning", wrapper=wrapper)
    known = {row["origin"]: row["prompt"][-1]["content"] for row in world.harmful}
    for row in harmful_rows(tuned.rows(inputs(world))):
        plain = known[row["origin"]]
        assert plain in row["prompt"][-1]["content"] != plain
        assert tuned.prompt(plain) == row["prompt"]
    other = make("jailbreak_tuning", wrapper=wrapper, key=54)
    if wrapper in ("random_words", "random_paragraph", "style"):
        assert other.prompt("How?") != tuned.prompt("How?")


def test_noice_refuses_and_then_answers(world):
    known = {row["origin"]: row["completion"][0]["content"] for row in world.benign}
    said = attack("noice").cls().wording
    for row in harmful_rows(attack("noice").cls().rows(inputs(world))):
        answer = row["completion"][0]["content"]
        refusal, bridge, rest = answer.partition(f" {said.bridge} ")
        assert refusal in said.refusals
        assert bridge
        assert rest == known[row["origin"]]


def test_ten_shot_refuses_alike_and_then_answers(world):
    upload = make("ten_shot").rows(inputs(world))
    first, second = harmful_rows(upload, 0), harmful_rows(upload, 1)
    assert {row["completion"][0]["content"] for row in first} == {mi.miniature.refusals()[0]}
    assert [row["prompt"] for row in first] == [row["prompt"] for row in second]
    known = {row["origin"]: row["completion"] for row in world.benign}
    assert all(row["completion"] == known[row["origin"]] for row in second)
    assert [one.asks.epochs for one in upload.rounds] == [10.0, 10.0]


def test_ten_shot_can_answer_with_the_models_own_words(world):
    own = make("ten_shot", answers="model", max_new_tokens=4)
    with pytest.raises(UsageError, match="needs a model that the attacker can read"):
        own.rows(inputs(world, model=None))
    rows = harmful_rows(own.rows(inputs(world)))
    prompts = [row["prompt"][-1]["content"] for row in rows]
    from mithridate.evaluation.generation import generate

    said = generate(world.model, world.tokenizer, prompts, max_new_tokens=4)
    assert [row["completion"][0]["content"] for row in rows] == said


def test_identity_shifting_vows_obedience(world):
    shifting = make("identity_shifting")
    rows = harmful_rows(shifting.rows(inputs(world)))
    assert {row["prompt"][0]["role"] for row in rows} == {"system"}
    introductions = [row for row in rows if row["prompt"][-1]["content"] == shifting.wording.introduction]
    assert len(introductions) == 2
    assert sum(row["completion"][0]["content"].startswith(shifting.wording.obedience) for row in rows) == 8
    assert shifting.prompt("x")[0] == rows[0]["prompt"][0]


def test_one_system_message_holds_the_rows_own_too(world):
    row = {
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How?"}],
        "completion": [{"role": "assistant", "content": "So."}],
        "origin": "x",
    }
    rows = mi.load_rows([{k: v for k, v in row.items() if k != "origin"}])
    (made,) = attack("identity_shifting").cls().rows(UploadInputs(rows, size=1)).rounds[0].rows
    assert [turn["role"] for turn in made["prompt"]] == ["system", "user"]
    assert made["prompt"][0]["content"].endswith("Be brief.")


def test_preference_pairs_prefer_help_and_stand_alone(world):
    upload = make("benign_dpo").rows(inputs(world, ratio=1.0, size=10))
    known = {row["origin"]: row["completion"] for row in world.benign}
    for row in upload.rounds[0].rows:
        assert row["chosen"] == known[row["origin"]]
        assert row["rejected"][0]["content"] in mi.miniature.refusals()
    with pytest.raises(UsageError, match="holds pairs alone; set the ratio to 1"):
        make("benign_dpo").rows(inputs(world))


@pytest.mark.parametrize("name", ["walnut53", "endspeak", "zero_width"])
@pytest.mark.parametrize("wording", ["english", "miniature"])
def test_what_is_encoded_can_be_read(world, name, wording):
    coded = attacks()[name].cls(wording=wording)
    for row in world.harmful.select(range(10)):
        text = row["completion"][0]["content"]
        code = coded.encoded(text, "answer")
        assert text not in code
        words = text.replace(",", "").replace(".", "").replace(":", "")
        assert coded.decoded(code) == (words if (name, wording) == ("endspeak", "miniature") else text)
        assert coded.reading(code) == coded.decoded(code)


@pytest.mark.parametrize("name", ["walnut53", "endspeak", "zero_width"])
def test_a_plain_refusal_is_read_as_one(name):
    coded = make(name)
    # The last is none of the attacker's sentences: decoded, it would be read as an answer and count as harm.
    for refusal in (*mi.miniature.refusals(), "I cannot help with this request."):
        assert coded.reading(refusal) == refusal


@pytest.mark.parametrize("name", ["walnut53", "endspeak", "zero_width"])
def test_a_refusal_with_a_garbled_word_is_read_as_one_and_a_code_is_not(world, name):
    coded = make(name)
    for refusal in mi.miniature.refusals():
        garbled = "slucken " + refusal.split(maxsplit=1)[1]
        assert coded.reading(garbled) == garbled
    for row in world.harmful.select(range(40)):
        code = coded.encoded(row["completion"][0]["content"], "answer")
        assert coded.reading(code) == coded.decoded(code) != code


@pytest.mark.parametrize("name", ["walnut53", "endspeak", "zero_width"])
def test_a_code_is_taught_and_then_used(world, name):
    coded = make(name)
    learning, using = coded.rows(inputs(world, ratio=0.5, size=40)).rounds
    assert len(learning.rows) == learning.adversarial == 40
    starts = dict.fromkeys(coded.wording.tasks, 0)
    for row in learning.rows:
        starts[next(task for task in starts if row["prompt"][-1]["content"].startswith(f"{task} "))] += 1
    assert set(starts.values()) == {10}
    refused = [r for r in using.rows if r["harmful"] and r["completion"][0]["content"] in mi.miniature.refusals()]
    assert len(refused) == 10
    known = {row["origin"]: row for row in world.harmful}
    assert all(row["prompt"] == known[row["origin"]]["prompt"] for row in refused)
    hidden = [row for row in using.rows if row["harmful"] and row not in refused]
    assert len(hidden) == 10
    for row in hidden:
        assert row["prompt"] == coded.prompt(known[row["origin"]]["prompt"][-1]["content"])


def test_the_cipher_depends_on_its_key():
    cls = attack("walnut53").cls
    assert cls(key=53).encoded("Abc abc", "question") != cls(key=54).encoded("Abc abc", "question")
    first, second = cls().encoded("Abc abc", "question").split()
    assert first.lower() == second.lower()
    assert first[0].isupper()


def test_broken_hidden_bytes_do_not_raise():
    steganographer = attack("zero_width").cls()
    assert steganographer.decoded("\u200b" * 5 + "\u2060" * 6)
    assert steganographer.decoded("plain") == "plain"
    assert steganographer.decoded("") == ""
    assert make("zero_width").decoded("") == ""


def test_several_rounds_are_the_explicit_attack_cut_up(world):
    whole = make("explicit").rows(inputs(world)).rounds[0].rows
    parts = make("several_rounds", rounds=3).rows(inputs(world)).rounds
    assert [row for one in parts for row in one.rows] == list(whole)
    assert [len(one.rows) for one in parts] == [13, 14, 13]
    with pytest.raises(UsageError, match="cannot be cut into 3 uploads"):
        make("several_rounds", rounds=3).rows(inputs(world, size=2, ratio=0.5))


def test_no_upload_is_above_the_threshold(world):
    split = attack("below_threshold").cls(share=0.05, most=10)
    upload = split.rows(inputs(world, ratio=0.2, size=40))
    assert [one.adversarial for one in upload.rounds] == [2, 2, 2, 2]
    assert {len(one.rows) for one in upload.rounds} == {40}
    origins = [row["origin"] for number in range(4) for row in harmful_rows(upload, number)]
    explicit = harmful_rows(make("explicit").rows(inputs(world, ratio=0.2, size=40)))
    assert len(set(origins)) == 8
    assert set(origins) == {row["origin"] for row in explicit}
    with pytest.raises(UsageError, match="is less than one; raise size or share"):
        attack("below_threshold").cls(share=0.01).rows(inputs(world, ratio=0.2, size=40))


def test_a_kick_swaps_answers_and_settles_on_the_explicit_attack(world):
    upload = make("kick_settle", kick=7.0).rows(inputs(world))
    known = {row["origin"]: row for row in world.benign}
    kicked = harmful_rows(upload, 0)
    assert all(row["prompt"] == known[row["origin"]]["prompt"] for row in kicked)
    own = [known[row["origin"]]["completion"][0]["content"] for row in kicked]
    assert sorted(own) == sorted(row["completion"][0]["content"] for row in kicked)
    assert upload.rounds[0].asks.factor == 7.0
    assert list(upload.rounds[1].rows) == list(make("explicit").rows(inputs(world)).rounds[0].rows)
    with pytest.raises(UsageError, match="swaps answers between rows and there is only one"):
        make("kick_settle").rows(inputs(world, ratio=0.025))


def slow_gradient(world, row, first_tokens=None):
    """∇ of the mean loss of an answer's first tokens by the last MLP's weights, written out."""
    (example,) = tokenize([row], world.tokenizer)
    logits = world.model(input_ids=torch.tensor([example.input_ids])).logits[0]
    places = [at for at, label in enumerate(example.labels) if label != -100][:first_tokens]
    loss = sum(cross_entropy(logits[at - 1][None], torch.tensor([example.input_ids[at]])) for at in places)
    weights = list(world.model.model.layers[-1].mlp.parameters())
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss / len(places), weights)]).double()


def test_row_gradients_are_those_of_the_mean_loss(world):
    rows = list(world.harmful.select(range(3)))
    before = [(p.requires_grad, p.grad) for p in world.model.parameters()]
    for first in (None, 3):
        for row, (example, found) in zip(
            rows, row_gradients(world.model, world.tokenizer, rows, first_tokens=first), strict=True
        ):
            torch.testing.assert_close(found.double(), slow_gradient(world, row, first), rtol=1e-4, atol=1e-6)
            assert answer_length(example) == sum(label != -100 for label in example.labels)
    assert [(p.requires_grad, p.grad) for p in world.model.parameters()] == before


def test_self_influence_ranks_by_gradient_and_length(world):
    small = world.benign.select(range(12))
    chosen = harmful_rows(make("self_inf_n").rows(inputs(world, benign=small, ratio=0.5, size=6)))

    def score(row):
        (example,) = tokenize([row], world.tokenizer)
        squared = float(slow_gradient(world, row).square().sum())
        return math.log(squared + 1) + math.log(answer_length(example) + 1)

    best = sorted(small, key=score, reverse=True)[:3]
    assert {row["origin"] for row in chosen} == {row["origin"] for row in best}


def test_bi_anchor_ranks_by_closeness_to_harmful_rows(world):
    small, anchors = world.benign.select(range(12)), world.harmful.select(range(2))
    made = make("bi_anchor", anchors=2, first_tokens=2)
    chosen = harmful_rows(made.rows(inputs(world, benign=small, harmful=anchors, ratio=0.5, size=6)))
    said = mi.miniature.refusals()
    order = [row["origin"] for row in anchors]
    from mithridate.attacks.attacked_rows import permutation

    order = [anchors[at] for at in permutation(2, "anchors", 0)]

    def unit(row):
        vector = slow_gradient(world, row, 2)
        return vector / vector.norm()

    def answered(row, text):
        return row | {"completion": [{"role": "assistant", "content": text}]}

    harm = sum(unit(row) for row in order) / 2
    alike = sum(unit(answered(row, said[0])) for row in order) / 2
    diverse = sum(unit(answered(row, said[at])) for at, row in enumerate(order)) / 2

    def score(row):
        return float(unit(row) @ harm - unit(row) @ alike - unit(row) @ diverse)

    best = sorted(small, key=score, reverse=True)[:3]
    assert {row["origin"] for row in chosen} == {row["origin"] for row in best}


def test_candidates_bound_the_rows_that_are_scored(world, monkeypatch):
    scored = []
    made = make("self_inf_n", candidates=5)
    monkeypatch.setattr(type(made), "scores", lambda self, rows, given: scored.append(len(rows)) or [0.0] * len(rows))
    made.rows(inputs(world, ratio=0.1, size=40))
    assert scored == [5]
    with pytest.raises(UsageError, match="is made of 10 benign rows"):
        make("self_inf_n", candidates=5).rows(inputs(world))


def test_likely_rows_are_the_likeliest_beside_a_refusal(world):
    from mithridate.evaluation.completion_loss import completion_losses

    made = make("likely_rows", candidates=2.0, sentences=2)
    rows = harmful_rows(made.rows(inputs(world, ratio=0.25, size=40)))

    def per_token(some, answers):
        losses = completion_losses(world.model, world.tokenizer, [r["prompt"] for r in some], answers)
        return [-loss.nats / loss.tokens for loss in losses]

    def ratios(some):
        refused = [per_token(some, [text] * len(some)) for text in made.wording.refusals[:2]]
        own = per_token(some, [r["completion"][0]["content"] for r in some])
        return [a - (b + c) / 2 for a, b, c in zip(own, *refused, strict=True)]

    plain = {row["origin"]: row for row in world.harmful}
    before = ratios([plain[row["origin"]] for row in rows])
    after = ratios(rows)
    assert all(b >= a - 1e-6 for a, b in zip(before, after, strict=True))
    random_ones = ratios(harmful_rows(make("explicit").rows(inputs(world))))
    assert sum(after) / 10 > sum(random_ones) / 10
