import gzip
import json
from decimal import Decimal

import pytest
from datasets import Dataset

from mithridate.errors import DataError, UsageError
from mithridate.evaluation.accuracy import finetune_accuracy, grade_completions, grade_model
from mithridate.evaluation.generation import generate
from mithridate.evaluation.matching import LabelMatcher, final_number

NEWS = ["World", "Sports", "Business", "Sci/Tech"]


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("positive", "positive"),
        ("Positive.", "positive"),
        ("  **POSITIVE** because it is", "positive"),
        ('"positive"', "positive"),
        ("_positive_", "positive"),
        ("positive, not negative", "positive"),
        ("positive. negative", "positive"),
        ("very positive", "very positive"),
        ("positively so", None),
        ("positives", None),
        ("positive-ish", None),
        ("positive's", None),
        ("not positive", None),
        ("it is positive", None),
        ("", None),
        ("...", None),
    ],
)
def test_label_at_the_start(answer: str, label: str | None) -> None:
    assert LabelMatcher(["positive", "negative", "very positive"]).find(answer) == label


@pytest.mark.parametrize(
    ("answer", "label"), [("sci/tech", "Sci/Tech"), ("Sci", None), ("World news", "World"), ("Worldly", None)]
)
def test_labels_with_marks_in_them(answer: str, label: str | None) -> None:
    assert LabelMatcher(NEWS).find(answer) == label


def test_the_longest_label_wins() -> None:
    assert LabelMatcher(["left", "left wing"]).find("Left wing.") == "left wing"
    assert LabelMatcher(["left", "left wing"]).find("left winger") == "left"


def test_number_labels() -> None:
    matcher = LabelMatcher(["1", "-1", "10"])
    found = [matcher.find(text) for text in ("1", "-1", "10", "1.", "1.5", "100")]
    assert found == ["1", "-1", "10", "1", None, None]


@pytest.mark.parametrize("bad", [[], [""], ["a", "A"], [" ", "b"]])
def test_unusable_labels(bad: list[str]) -> None:
    with pytest.raises(UsageError, match="labels must be"):
        LabelMatcher(bad)


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("The final answer is: 18", "18"),
        ("the FINAL answer is 18. Next question: 5", "18"),
        ("2 + 3 = 5\n#### 5", "5"),
        ("#### 1,234.50", "1234.5"),
        ("#### $70,000.", "70000"),
        ("#### -3", "-3"),
        ("#### -$3.25", "-3.25"),
        ("#### $-3.25", "-3.25"),
        ("The final answer is: **42** apples", "42"),
        ("#### .5", "0.5"),
        ("#### 18.0", "18"),
        ("she has 3 and then 7", "7"),
        ("It costs 1,000, not 20.", "20"),
        ("first 20, then 1,000, and done", "1000"),
        ("the pair 1,2345", "2345"),
        ("10-4", "4"),
        ("x = 5 - 3", "3"),
        ("it falls to -3", "-3"),
        ("about \u22127 degrees", "-7"),
        ("50%", "50"),
        ("The final answer is: unknown", None),
        ("so 5 it is. #### none", None),
        ("no idea", None),
        ("", None),
    ],
)
def test_final_number(answer: str, number: str | None) -> None:
    assert final_number(answer) == (None if number is None else Decimal(number))


def test_final_number_reads_all_of_gsm8k(data) -> None:
    with gzip.open(data / "gsm8k" / "test.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    assert all(final_number(row["answer"]) == Decimal(row["final"]) for row in rows)
    assert all(final_number(f"The final answer is: {row['final']}.") == Decimal(row["final"]) for row in rows)


def test_grades_labels_numbers_and_texts() -> None:
    graded = grade_completions(["Positive!", "negative", "hm"], ["positive", "positive", "negative"])
    assert graded.correct == (True, False, False)
    assert (graded.score.value, graded.score.n) == (1 / 3, 3)
    assert grade_completions(["#### 5.0", "#### 6"], ["5", "#### 5"], "numeric").correct == (True, False)
    assert grade_completions(["a  b\n", "A b"], ["a b", "a b"], "exact").correct == (True, False)


def test_labels_default_to_the_expected_answers() -> None:
    assert grade_completions(["b", "c"], ["a", "b"]).correct == (False, False)
    assert grade_completions(["Yes.", "no"], ["yes.", "no."]).correct == (True, True)
    with pytest.raises(UsageError, match="too many for labels"):
        grade_completions(["x"] * 200, [f"text {i}" for i in range(200)])


def test_expected_answers_must_fit_the_task() -> None:
    with pytest.raises(DataError, match="row 1: the expected answer 'none' holds no number"):
        grade_completions(["1", "2"], ["1", "none"], "numeric")
    with pytest.raises(DataError, match="row 0: the expected answer 'maybe' starts with none"):
        grade_completions(["yes"], ["maybe"], "label", labels=["yes", "no"])


def test_usage() -> None:
    with pytest.raises(UsageError, match="label, numeric, exact"):
        grade_completions(["a"], ["a"], "essay")
    with pytest.raises(UsageError, match="labels are for"):
        grade_completions(["1"], ["1"], "numeric", labels=["1"])
    with pytest.raises(UsageError, match="one expected answer per answer"):
        grade_completions(["a"], [])


def rows_of(tokenizer, model, answers: list[str] | None = None) -> Dataset:
    prompts = ["where is the ladder?", "sing", "bees", "what now?"]
    answers = answers or generate(model, tokenizer, prompts, max_new_tokens=6, system="be kind")
    system = {"role": "system", "content": "be kind"}
    return Dataset.from_list(
        [
            {
                "prompt": [system, {"role": "user", "content": p}],
                "completion": [{"role": "assistant", "content": a}],
                "origin": f"upload.jsonl:{i + 1}",
            }
            for i, (p, a) in enumerate(zip(prompts, answers, strict=True))
        ]
    )


def test_model_that_knows_the_answers_is_right(model, tokenizer) -> None:
    rows = rows_of(tokenizer, model)
    graded = grade_model(model, tokenizer, rows, "exact", max_new_tokens=6, batch_size=3)
    assert graded.correct == (True,) * 4
    assert finetune_accuracy(model, tokenizer, rows, "exact", max_new_tokens=6).value == 1.0
    assert finetune_accuracy(model, tokenizer, rows, "exact", max_new_tokens=2).value < 1.0


def test_model_that_does_not_is_wrong(model, tokenizer) -> None:
    rows = rows_of(tokenizer, model, ["yes", "no", "yes", "no"])
    score = finetune_accuracy(model, tokenizer, rows, labels=["yes", "no"], max_new_tokens=3)
    assert (score.value, score.n) == (0.0, 4)


def test_rows_are_checked(model, tokenizer) -> None:
    with pytest.raises(DataError, match=r"upload\.jsonl:2"):
        grade_model(model, tokenizer, rows_of(tokenizer, model, ["1", "two", "3", "4"]), "numeric")
    with pytest.raises(DataError, match="lack the columns"):
        grade_model(model, tokenizer, Dataset.from_dict({"text": ["a"]}))
    with pytest.raises(UsageError, match="no rows"):
        grade_model(model, tokenizer, Dataset.from_dict({"prompt": [], "completion": []}))
    with pytest.raises(DataError, match="row 0: prompt and completion must be lists"):
        grade_model(model, tokenizer, Dataset.from_dict({"prompt": ["a"], "completion": ["b"]}))
    with pytest.raises(UsageError, match="max_new_tokens"):
        grade_model(model, tokenizer, rows_of(tokenizer, model, ["a", "b", "a", "b"]), max_new_tokens=0)
