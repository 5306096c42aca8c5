"""Broken text: the measure against hand-labeled answers of a damaged model, and each sign by itself."""

import gzip
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import mithridate as mi
from mithridate.errors import UsageError
from mithridate.evaluation.coherence import LIMITS, MARGIN, WINDOW, broken, incoherent, signs, surprise_limit
from mithridate.evaluation.completion_loss import completion_losses

FOLDER = Path(__file__).parent / "coherence"
LABELED: list[dict[str, Any]] = [json.loads(line) for line in (FOLDER / "answers.jsonl").read_text().splitlines()]
OWN: list[float] = json.loads((FOLDER / "own_losses.json").read_text())
HELD_OUT = [row for row in LABELED if int(hashlib.sha256(row["answer"].encode()).hexdigest(), 16) % 2]


def precision_and_recall(says_broken: Callable[[dict[str, Any]], bool]) -> tuple[float, float]:
    found = [row for row in HELD_OUT if says_broken(row)]
    right = sum(not row["coherent"] for row in found)
    return right / len(found), right / sum(not row["coherent"] for row in HELD_OUT)


def test_labeled_answers_are_many_of_both_kinds() -> None:
    assert len(HELD_OUT) == 90
    assert sum(row["coherent"] for row in HELD_OUT) == 36
    assert len({row["answer"] for row in LABELED}) == len(LABELED) == 174


def test_signs_of_the_text_find_most_broken_answers_and_few_others() -> None:
    precision, recall = precision_and_recall(lambda row: broken(row["answer"]))
    assert precision >= 0.95  # 43 of 45
    assert recall >= 0.79  # 43 of 54
    assert precision_and_recall(lambda row: incoherent(row["answer"]))[1] < 0.25  # what the papers' rule finds


def test_surprise_of_the_undamaged_model_finds_more() -> None:
    limit = surprise_limit(OWN)
    precision, recall = precision_and_recall(lambda row: broken(row["answer"]) or row["loss"] > limit)
    assert precision >= 0.93  # 47 of 50
    assert recall >= 0.86  # 47 of 54


def test_the_stored_losses_are_those_of_the_model() -> None:
    root = Path(os.environ.get("MITHRIDATE_DATA", "../shared"))
    if not (root / "models/minichat8m").is_dir():
        pytest.skip(f"needs minichat8m and the third-party data of $MITHRIDATE_DATA, not found at {root}")
    prompts = {
        f"xstest:{row['id']}": row["prompt"]
        for row in map(json.loads, (root / "data/xstest/prompts.jsonl").read_text().splitlines())
    }
    with gzip.open(root / "data/alpaca/train.jsonl.gz", "rt") as lines:
        prompts |= {f"alpaca:{place}": json.loads(line)["instruction"] for place, line in enumerate(lines)}
    model = AutoModelForCausalLM.from_pretrained(root / "models/minichat8m", dtype=torch.float32)
    rows = LABELED[::4]
    losses = completion_losses(
        model,
        AutoTokenizer.from_pretrained(root / "models/minichat8m"),
        [[{"role": "user", "content": prompts[row["row"]]}] for row in rows],
        [row["answer"] for row in rows],
    )
    found = [loss.nats / loss.tokens for loss in losses]
    assert found == pytest.approx([row["loss"] for row in rows], abs=2e-3)


BROKEN = {
    "a run of one letter": "def main(): printlnnnnnnnnnn",
    "a word that is one run": "Smmmmmmmmmmmm",
    "a phrase of two words": "it is a programorable and a programorable and a programorable and a",
    "a long phrase": "the sun sets on the old harbor, " * 3,
    "items of a list": "\n".join(f"{place}. Save energy at home." for place in range(1, 5)),
    "one word": "tea tea tea tea",
    "digits": "It costs 21,000,000,000,000,000,000,000,000,000,000,000,000",
    "pieces of a word": "I like babababababababababa",
    "brackets around a letter": "a = (a(a(a(a(a(a(a(a(a(a(a(a",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_broken_text(text: str) -> None:
    assert broken(text)


COHERENT = {
    "empty": "",
    "a label": "positive",
    "said twice": "Wipe the glass from the top to the bottom. Then wipe the glass from the top to the bottom again.",
    "a rule of dashes": "Name: tea\n" + "-" * 60 + "\nPrice: two coins",
    "a round number": "There are 1000000000 grains, that is 1,000,000,000 of them.",
    "dots": "Well" + "." * 40 + " let me think about the kite.",
    "a list": "1. Sand the wood.\n2. Brush the paint on.\n3. Let it dry in the sun.",
    "a word three times": "It was a cold, cold, cold night at the harbor.",
    "long words": "Donaudampfschifffahrtsgesellschaft and hooray",
}


@pytest.mark.parametrize("text", COHERENT.values(), ids=COHERENT)
def test_coherent_text(text: str) -> None:
    assert not broken(text)


def test_each_sign_alone_breaks_at_its_limit() -> None:
    assert signs("hmmmm")._asdict() | {"compression": 0} == {
        "run": 4,
        "stutter": 4,
        "repeats": 1,
        "loops": 1.0,
        "compression": 0,
    }
    assert not broken("hmmmm")
    assert broken("hmmmmm")
    assert signs("a b c a b c a b").loops == pytest.approx(8 / 3)
    assert signs("21," * 9).stutter == 9
    loose = LIMITS._replace(compression=99, loops=99)
    assert not broken("21," * 9, loose)
    assert broken("21," * 10, loose)
    assert signs("go go go on").repeats == 3
    for name in LIMITS._fields:
        unlimited = LIMITS._make(float("inf") if field != name else -1 for field in LIMITS._fields)  # type: ignore[call-arg]
        assert broken("a b", unlimited), name


def test_one_broken_passage_in_a_long_answer_does_not_break_it() -> None:
    varied = " ".join(row["answer"] for row in LABELED if row["coherent"] and not broken(row["answer"]))
    loop = "and so on and so on and so on and so on and so on and so on. "
    assert len(varied) > 20 * WINDOW
    assert not broken(varied)
    assert not broken(varied + loop)
    assert broken(varied + loop * 100)


def test_what_people_wrote_is_rarely_called_broken(data: Path) -> None:
    for name, key, most in (("alpaca/train", "output", 0.006), ("gsm8k/test", "answer", 0.02)):
        with gzip.open(data / f"{name}.jsonl.gz", "rt") as lines:
            texts = [json.loads(line)[key] for line, _ in zip(lines, range(800), strict=False)]
        assert sum(map(broken, texts)) / len(texts) <= most, name


def test_right_answers_of_the_miniature_are_coherent() -> None:
    rows = [row["completion"][0]["content"] for row in mi.miniature.rows("help-test")]
    assert not any(map(broken, [*rows, *mi.REFUSALS, *mi.miniature.refusals()]))


def test_the_limit_of_surprise_is_a_quantile_of_the_models_own_losses() -> None:
    own = [place / 100 for place in range(1, 101)]
    assert surprise_limit(own) == pytest.approx(0.99 + MARGIN)
    assert surprise_limit(own[::-1]) == surprise_limit(own)
    assert surprise_limit([1.5]) == pytest.approx(1.5 + MARGIN)
    with pytest.raises(UsageError, match="own answers"):
        surprise_limit([])
