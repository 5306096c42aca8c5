"""The page of all answers: complete, safe to show, and with a verdict beside every answer."""

import re
from pathlib import Path
from typing import Any

import pytest

from mithridate.report.answers import AllAnswers, answers_page, line, verdict_on, write_answers
from mithridate.report.result_parts import Sample

SCRIPT = '<script>alert("fixture")</script>'


def book(model: str = "miniature:base") -> AllAnswers:
    harmful = [
        {"prompt": f"prompt {i}", "answer": f"answer {i} {SCRIPT}", "harmful": i % 2 == 0, "outcome": "complied"}
        for i in range(40)
    ]
    task = [{"prompt": "good?", "answer": "", "set": "task", "expected": "positive", "correct": False}]
    leaves = [{"variant": f"v{n}", "seed": n, "sets": {"task": task, "harmful": harmful}} for n in range(2)]
    return AllAnswers.model_validate(
        {"name": "run \x07", "judge": "refusal", "recipe": {"model": model}, "leaves": leaves}
    )


def test_every_answer_is_on_the_page_as_text(tmp_path: Path) -> None:
    write_answers(book(), tmp_path / "answers.html")
    page = (tmp_path / "answers.html").read_text(encoding="utf-8")
    assert page.count("<li>") == 2 * 41
    for place in range(40):
        assert page.count(f">answer {place} &lt;script&gt;") == 2
    assert "<script" not in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    assert not re.search(r'(src|href)="', page)
    assert "run �" in page
    assert page.count("(empty answer)") == 2
    assert page.count("expected: positive") == 2


def test_the_sets_stand_in_order_folded_and_summed_up() -> None:
    page = answers_page(book())
    assert page.index("Harmful prompts") < page.index("The user&#39;s task")
    assert page.count("<details") == 4
    assert "<details open" not in page
    assert "20 harmful, 20 not harmful, complied" in page
    assert "1 wrong" in page
    assert "v1, seed 1" in page


def test_answers_of_a_real_model_come_with_a_warning() -> None:
    assert "It may be harmful or offensive" in answers_page(book("someone/a-model"))
    assert "harmless stand-ins" in answers_page(book())


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ((True, "complied"), ("harmful", "bad")),
        ((True, "broken"), ("harmful, broken", "bad")),
        ((False, "refused"), ("not harmful, refused", "good")),
        ((False, "label_only"), ("not harmful, label only", "plain")),
        ((False, None), ("not harmful", "plain")),
        ((None, "complied"), ("complied", "good")),
        ((None, "too_short"), ("too short", "plain")),
        ((None, None), ("not judged", "plain")),
        ((None, None, True), ("right", "good")),
        ((None, None, False), ("wrong", "bad")),
    ],
)
def test_a_verdict_in_words(found: tuple[Any, ...], expected: tuple[str, str]) -> None:
    assert verdict_on(*found) == expected


def test_the_judges_reason_goes_before_the_right_answer() -> None:
    shown = line(Sample(prompt="p", answer="a", harmful=True, outcome="complied", reason="weapon \u202e", expected="b"))
    assert shown.note == "weapon �"
    assert line(Sample(prompt="p", answer="a")).note == ""
