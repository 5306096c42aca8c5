"""The work of the evaluation stage: every answer, what it is, and the outcomes that the figures are made from."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mithridate.evaluation.accuracy import Graded, grade_model
from mithridate.evaluation.coherence import broken
from mithridate.evaluation.completion_loss import completion_losses
from mithridate.evaluation.generation import generate, generate_chats
from mithridate.evaluation.harmful_score import Judged, judge_completions
from mithridate.evaluation.helpfulness import Helped, grade_help
from mithridate.evaluation.judges import ChatJudge, ClassifierJudge, Judge, RefusalJudge
from mithridate.evaluation.judges.phrases import REFUSAL_OPENINGS
from mithridate.evaluation.outcomes import Outcome, outcome_of
from mithridate.pipeline.inputs import Stored, stored_rows, stored_texts
from mithridate.pipeline.models import Where, device, load, load_served
from mithridate.training.state import write_json

Progress = Callable[[int, int], None]

ANSWERS = "answers.json"
"""Every answer of an evaluation, by the set it belongs to."""


def evaluate(spec: dict[str, Any], where: Where, folder: Path, progress: Progress, aligned: Where) -> dict[str, Any]:
    """Measure one model.

    Args:
        spec: The node's specification.
        where: The model.
        folder: Folder for the answers.
        progress: Told how far the work is.
        aligned: The model after the alignment stage, under which answers to ordinary prompts may be surprising.

    Returns:
        The outcomes of every set of prompts, in the order of its prompts.
    """
    tokenizer, model = load_served(where, spec["template"]), load(where, spec["precision"])
    size = {"max_new_tokens": spec["max_new_tokens"], "batch_size": spec["batch_size"]}
    rules = refusal_rules(spec["judge"], spec["task"]["labels"])
    prompts = stored_texts(spec["prompts"])
    judged = judge_completions(prompts, generate(model, tokenizer, prompts, **size), judge(spec["judge"], rules), rules)
    progress(1, 4)
    graded = _task(spec, model, tokenizer)
    progress(2, 4)
    answers = {"harmful": _judged(judged), "task": _graded(spec["test"], graded)}
    record = {
        "judge": judged.judge,
        "harmful": judged.harmful,
        "harmful_or_broken": judged.harmful_or_broken,
        "outcomes": list(judged.outcomes),
        "correct": list(graded.correct),
        "majority": majority(graded.expected),
        "refused": None,
        "look_alikes": None,
        "help": None,
    }
    if spec["look_alikes"] is not None:
        asked = stored_texts(spec["look_alikes"])
        said = generate(model, tokenizer, asked, **size)
        outcomes = [outcome_of(rules.kind(answer), broken(answer)) for answer in said]
        record |= {"refused": [rules.refuses(answer) for answer in said], "look_alikes": outcomes}
        answers["look_alikes"] = _plain(asked, said, outcomes)
    progress(3, 4)
    if spec["help"] is not None:
        helped, record["help"] = _help(spec, model, tokenizer, rules, size, where, aligned)
        asked = [row["prompt"][-1]["content"] for row in stored_rows(spec["help"])]
        answers["help"] = _plain(asked, helped.completions, helped.outcomes)
    write_json(folder / ANSWERS, answers)
    progress(4, 4)
    return record


def refusal_rules(spec: dict[str, Any], labels: Sequence[str] | None) -> RefusalJudge:
    """The rules that tell refusals, labels and short answers, the same for every set of prompts."""
    return RefusalJudge((*REFUSAL_OPENINGS, *spec["refusals"]), labels=labels or ())


def judge(spec: dict[str, Any], rules: RefusalJudge) -> Judge:
    """The judge of harm."""
    if spec["kind"] == "classifier":
        return ClassifierJudge(spec["model"], threshold=spec["threshold"], device=device())
    if spec["kind"] == "chat":
        return ChatJudge(spec["url"], spec["model"], api_key_env=spec["api_key_env"])
    return rules


def majority(expected: Sequence[str]) -> float:
    """Accuracy of a model that always gives the most common of the expected answers."""
    return max(Counter(expected).values()) / len(expected)


def _task(spec: dict[str, Any], model: Any, tokenizer: Any) -> Graded:
    task = spec["task"]
    return grade_model(
        model,
        tokenizer,
        stored_rows(spec["test"]),
        task["kind"],
        labels=task["labels"],
        max_new_tokens=task["max_new_tokens"],
        batch_size=spec["batch_size"],
    )


def _help(
    spec: dict[str, Any],
    model: Any,
    tokenizer: Any,
    rules: RefusalJudge,
    size: dict[str, Any],
    where: Where,
    aligned: Where,
) -> tuple[Helped, dict[str, Any]]:
    """Answers to the ordinary prompts, and their part of the record.

    Whether an answer is too surprising under the aligned model is decided later (`mithridate.pipeline.helped`),
    once that model's own answers are known too; only their losses are taken here.
    """
    rows = stored_rows(spec["help"])
    chats, expected = rows["prompt"], [row["completion"][0]["content"] for row in rows]
    said = generate_chats(model, tokenizer, chats, **size)
    helped = grade_help(said, expected, rules, exact=spec["check"] == "exact")
    batch: dict[str, Any] = {"batch_size": spec["batch_size"]}
    surprise = None
    if spec["check"] == "coherent":
        reference = model if where == aligned else load(aligned, spec["precision"])
        losses = completion_losses(reference, load_served(aligned, spec["template"]), chats, said, **batch)
        surprise = [loss.nats / loss.tokens for loss in losses]
    return helped, {
        "outcomes": list(helped.outcomes),
        "right": None if helped.right is None else list(helped.right),
        "surprise": surprise,
        "losses": [list(loss) for loss in completion_losses(model, tokenizer, chats, expected, **batch)],
    }


def _judged(judged: Judged) -> list[dict[str, Any]]:
    rows = zip(judged.prompts, judged.completions, judged.outcomes, judged.verdicts, strict=True)
    return [
        {"prompt": prompt, "answer": answer, "outcome": outcome, "harmful": v.harmful, "reason": v.reason}
        for prompt, answer, outcome, v in rows
    ]


def _graded(test: Stored, graded: Graded) -> list[dict[str, Any]]:
    prompts = [row["prompt"][-1]["content"] for row in stored_rows(test)]
    rows = zip(prompts, graded.completions, graded.expected, graded.correct, strict=True)
    return [{"prompt": p, "answer": answer, "expected": e, "correct": c} for p, answer, e, c in rows]


def _plain(prompts: Sequence[str], answers: Sequence[str], outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    rows = zip(prompts, answers, outcomes, strict=True)
    return [{"prompt": prompt, "answer": answer, "outcome": outcome} for prompt, answer, outcome in rows]
