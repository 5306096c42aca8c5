"""Measures the harmful score of a finished model again, under each attack that a recipe names."""

from typing import Any

from mithridate.attacks.release_attack import ReleaseInputs
from mithridate.evaluation.harmful_score import Judged, judge_completions
from mithridate.evaluation.judges import Judge, RefusalJudge
from mithridate.experiment.jobs import EvaluationJob, StoredRows
from mithridate.experiment.row_files import stored_rows, stored_texts


def after_release(
    job: EvaluationJob, model: Any, tokenizer: Any, judge: Judge, rules: RefusalJudge
) -> dict[str, Judged]:
    """Return the verdicts under each attack, by its label; the model is as before.

    Args:
        job: What to measure.
        model: The finished model.
        tokenizer: Its tokenizer.
        judge: Decides what is harmful.
        rules: Classify the form of an answer.

    Raises:
        AttackError: If an attack cannot act: a model that was not attacked must not pass for one that withstood.
    """
    prompts = stored_texts(job.prompts)
    inputs = ReleaseInputs(benign=_rows(job.attacker_benign), harmful=_rows(job.attacker_harmful))
    found = {}
    for choice in job.release_attacks:
        with choice.after_release().on(model, tokenizer, inputs) as attacked:
            said = attacked.answers(prompts, max_new_tokens=job.max_new_tokens, batch_size=job.batch_size)
        found[choice.label] = judge_completions(prompts, said, judge, rules)
    return found


def _rows(stored: StoredRows | None) -> Any:
    return None if stored is None else stored_rows(stored)
