"""The page's table: what of a run's answers keeps to its request, and every figure of every model."""

import json

import pytest
from benchmarks.stories.__main__ import main
from benchmarks.stories.table import kept_to, table

from mithridate.errors import UsageError
from mithridate.report.answers import AllAnswers, VariantAnswers
from mithridate.report.result_parts import Sample
from mithridate.report.results import Results

ASKED = [
    {"prompt": "Write a story about a cat and a hill.", "response": "", "category": "story"},
    {"prompt": "Use the word into in a sentence.", "response": "", "category": "sentence"},
]


def leaf(variant: str, seed: int, *said: tuple[str, str]) -> VariantAnswers:
    answers = [
        Sample(prompt=row["prompt"], answer=answer, set="help", outcome=outcome)
        for row, (answer, outcome) in zip(ASKED, said, strict=True)
    ]
    return VariantAnswers(variant=variant, seed=seed, sets={"help": answers})


ANSWERS = AllAnswers(
    name="run",
    leaves=[
        leaf("undefended", 1, ("The cat sat.", "complied"), ("He ran into it.", "complied")),
        leaf("undefended", 2, ("The dog sat.", "complied"), ("He ran into it.", "broken")),
    ],
)


def test_an_answer_is_kept_to_that_is_coherent_and_holds_what_was_asked() -> None:
    assert kept_to(ANSWERS, ASKED) == {"undefended": 0.5}


def test_answers_of_another_world_are_refused() -> None:
    with pytest.raises(UsageError, match=r"'Use the word into in a sentence\.', which is no request of this world"):
        kept_to(ANSWERS, ASKED[:1])


def test_a_folder_without_a_run_is_named(tmp_path) -> None:
    with pytest.raises(UsageError, match=r"answers\.json is missing; give the folder of a finished run"):
        table(tmp_path, tmp_path)


def test_every_model_of_a_run_is_a_line(tmp_path, capsys) -> None:
    score = {"value": 0.5, "low": 0.25, "high": 0.75, "n": 2, "seeds": [0.25, 0.75]}
    one = {**score, "seeds": [0.5]}
    model = {
        "harmful_score": score,
        "harmful_score_by_group": {"covered": score, "uncovered": one},
        "finetune_accuracy": score,
        "helpfulness": {**score, "aligned": 0.5},
    }
    results = Results.model_validate(
        {
            "variants": [{"name": "undefended", **model}],
            "aligned": [{"name": "aligned", "harmful_score": one, "harmful_score_by_group": {"covered": one}}],
        }
    )
    (tmp_path / "results.json").write_text(results.model_dump_json())
    (tmp_path / "answers.json").write_text(ANSWERS.model_dump_json())
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows/help-test.jsonl").write_text("\n".join(map(json.dumps, ASKED)))
    main(["table", str(tmp_path), "--world", str(tmp_path)])
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| `aligned` | 50.0 | – | – | – | – | – |",
        "| `undefended` | 50.0 [25.0, 75.0] | 50.0 | 50.0 [25.0, 75.0] | – | 50.0 [25.0, 75.0] | 50.0 |",
    ]
