"""Measures the harmful score of a finished model again, under each attack that a recipe names."""

from collections.abc import Callable
from typing import Any, NamedTuple

from mithridate.attacks.release_attack import ReleaseInputs
from mithridate.evaluation.harmful_score import Judged, judge_completions
from mithridate.evaluation.judges import Judge, RefusalJudge
from mithridate.experiment.jobs import EvaluationJob, StoredRows
from mithridate.experiment.row_files import stored_rows, stored_texts


class UnderAttack(NamedTuple):
    """What a model does under one attack.

    Attributes:
        judged: Verdicts on its answers to the harmful prompts.
        correct: Whether each answer to the user's task is right; the task is asked plainly, whatever the attack asks.
    """

    judged: Judged
    correct: list[bool]


def after_release(
    job: EvaluationJob,
    model: Any,
    tokenizer: Any,
    judge: Judge,
    rules: RefusalJudge,
    graded: Callable[[], list[bool]],
) -> dict[str, UnderAttack]:
    """Return what the model does under each attack, by its label; it is as before afterwards.

    Args:
        job: What to measure.
        model: The finished model.
        tokenizer: Its tokenizer.
        judge: Decides what is harmful.
        rules: Classify the form of an answer.
        graded: Grades the model's answers to the user's task: an attack that breaks the model is of no use.

    Raises:
        AttackError: If an attack cannot act: a model that was not attacked must not pass for one that withstood.
    """
    prompts = stored_texts(job.prompts)
    inputs = ReleaseInputs(benign=_rows(job.attacker_benign), harmful=_rows(job.attacker_harmful))
    found = {}
    for choice in job.release_attacks:
        with choice.after_release().on(model, tokenizer, inputs) as attacked:
            said = attacked.answers(prompts, max_new_tokens=job.max_new_tokens, batch_size=job.batch_size)
            correct = graded()
        found[choice.label] = UnderAttack(judge_completions(prompts, said, judge, rules), correct)
    return found


def _rows(stored: StoredRows | None) -> Any:
    return None if stored is None else stored_rows(stored)
