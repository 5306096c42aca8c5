"""Does the evaluation stage: asks the model, judges every answer, records the outcomes behind the figures."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mithridate.evaluation.accuracy import Graded, task_questions
from mithridate.evaluation.coherence import broken
from mithridate.evaluation.harmful_score import Judged, judge_completions
from mithridate.evaluation.helpfulness import grade_help
from mithridate.evaluation.judges import ChatJudge, ClassifierJudge, GuardJudge, Judge, RefusalJudge
from mithridate.evaluation.judges.phrases import REFUSAL_OPENINGS
from mithridate.evaluation.judges.task_answers import TaskAnswers
from mithridate.evaluation.outcomes import Outcome, outcome_of
from mithridate.experiment.asked_model import AskedModel, Said, ask_together, ask_vllm, asked_model
from mithridate.experiment.jobs import EvaluationJob, StoredRows
from mithridate.experiment.recipe_parts import JudgeSettings
from mithridate.experiment.release_evaluation import UnderAttack, after_release
from mithridate.experiment.row_files import stored_rows, stored_texts
from mithridate.experiment.shared_work import SharedWork, shared
from mithridate.experiment.stage_records import EvaluationRecord, HelpRecord, ReleaseRecord
from mithridate.experiment.step_figures import Progress
from mithridate.files import write_json
from mithridate.models.loading import Where, device

ANSWERS = "answers.json"
"""Every answer of an evaluation, by the set it belongs to."""

Answers = list[dict[str, Any]]
"""Answers as `mithridate.report.results.Sample` reads them."""


def evaluate(
    job: EvaluationJob, where: Where, folder: Path, progress: Progress, aligned: Where, processes: int = 1
) -> EvaluationRecord:
    """Measure one model.

    Args:
        job: What to measure.
        where: The model.
        folder: Folder for the answers.
        progress: Called after each set of prompts.
        aligned: The model after the alignment stage; how much an answer to an ordinary prompt surprises it tells
            whether that answer is broken.
        processes: How many share the prompts, unless vLLM has them all. One judges, and one puts a model under attack.

    Returns:
        The outcomes of every set of prompts, in the order of its prompts.
    """
    # One set of rules for every set of prompts: a phrase that is a refusal in one must be one in the others.
    rules = refusal_rules(job.judge, job.task.labels)
    # Before the model is asked: a judge that cannot be loaded must not be found out after hours of answers.
    judges = [judge(one, rules) for one in (job.judge, *job.further_judges)]
    asked = None if processes > 1 or job.vllm is not None else asked_model(job, where)
    if job.vllm is not None:
        said = ask_vllm(job, where, aligned, progress)  # one server, which all processes' devices would not speed up
    elif asked is None:
        said = _together(job, where, aligned, processes, progress)
    else:
        said = asked.said(where, aligned, progress)
    judging, *further = [TaskAnswers(one, said.harmless) for one in judges]
    judged, *judged_too = [
        judge_completions(stored_texts(job.prompts), said.harmful, one, rules) for one in (judging, *further)
    ]
    graded, alike, helped = _task(job, said), _look_alikes(job, said, rules), _help(job, said, rules)
    # Last, since a model under attack is not the one that all other figures are about.
    released = _released(asked or asked_model(job, where), judging, rules) if job.release_attacks else {}
    write_json(folder / ANSWERS, _answers(job, judged, graded, alike, helped, released))
    return EvaluationRecord(
        judge=judged.judge,
        harmful=judged.harmful,
        harmful_or_broken=judged.harmful_or_broken,
        outcomes=list(judged.outcomes),
        correct=[] if graded is None else list(graded.correct),
        majority=None if graded is None else majority(graded.expected),
        refused=None if alike is None else alike.refused,
        look_alikes=None if alike is None else alike.outcomes,
        help=None if helped is None else helped.record,
        harmful_groups=_groups(job.prompt_groups),
        look_alike_groups=_groups(job.look_alike_groups),
        further=[one.harmful for one in judged_too],
        release={label: _release_record(found) for label, found in released.items()},
    )


def refusal_rules(settings: JudgeSettings, labels: Sequence[str] | None) -> RefusalJudge:
    """Return the rules that recognize refusals, labels and short answers, the same for every set of prompts."""
    return RefusalJudge((*REFUSAL_OPENINGS, *settings.refusals), labels=labels or ())


def judge(settings: JudgeSettings, rules: RefusalJudge) -> Judge:
    """Return the judge of harm."""
    # The assertions below are for type checkers; `JudgeSettings` has refused a judge without its model or URL.
    if settings.kind == "classifier":
        assert settings.model is not None
        return ClassifierJudge(settings.model, threshold=settings.threshold, device=device())
    if settings.kind == "guard":
        assert settings.model is not None
        return GuardJudge(
            settings.model,
            settings.form,
            base_url=settings.url,
            api_key_env=settings.api_key_env,
            device=device(),
        )
    if settings.kind == "chat":
        assert settings.model is not None
        assert settings.url is not None
        return ChatJudge(settings.url, settings.model, api_key_env=settings.api_key_env)
    return rules


def majority(expected: Sequence[str]) -> float:
    """Return the accuracy of a model that always gives the most common of the expected answers."""
    return max(Counter(expected).values()) / len(expected)


def _released(asked: AskedModel, judging: Judge, rules: RefusalJudge) -> dict[str, UnderAttack]:
    """Return what the model does under each attack on it, by its label."""
    test = asked.job.test
    return after_release(
        asked.job,
        asked.model,
        asked.tokenizer,
        judging,
        rules,
        lambda: [] if test is None else list(asked.graded(test).correct),
    )


def _release_record(found: UnderAttack) -> ReleaseRecord:
    return ReleaseRecord(
        harmful=found.judged.harmful,
        harmful_or_broken=found.judged.harmful_or_broken,
        outcomes=list(found.judged.outcomes),
        correct=found.correct,
    )


def _together(job: EvaluationJob, where: Where, aligned: Where, processes: int, progress: Progress) -> Said:
    """Return what the model says, asked by several processes."""
    said: Said = shared(SharedWork(ask_together, (job, where, aligned), processes, job.threads), progress)
    return said


def _task(job: EvaluationJob, said: Said) -> Graded | None:
    """Return the graded answers to the task's questions; None where there are none."""
    if job.test is None:
        return None
    return task_questions(stored_rows(job.test), job.task.kind, labels=job.task.labels).graded(said.task)


class _LookAlikes(NamedTuple):
    """What was found about the answers to look-alikes."""

    refused: list[bool]
    outcomes: list[Outcome]
    answers: Answers


def _look_alikes(job: EvaluationJob, said: Said, rules: RefusalJudge) -> _LookAlikes | None:
    """Return what was found about the answers to look-alikes; None where there are none."""
    if job.look_alikes is None:
        return None
    outcomes = [outcome_of(rules.kind(answer), broken(answer)) for answer in said.look_alikes]
    answers = _plain(stored_texts(job.look_alikes), said.look_alikes, outcomes)
    return _LookAlikes([rules.refuses(answer) for answer in said.look_alikes], outcomes, answers)


class _Helped(NamedTuple):
    """What was found about the answers to ordinary prompts."""

    record: HelpRecord
    answers: Answers


def _help(job: EvaluationJob, said: Said, rules: RefusalJudge) -> _Helped | None:
    """Return what was found about the answers to ordinary prompts; None where there are none."""
    if job.help is None:
        return None
    rows = stored_rows(job.help)
    expected = [row["completion"][0]["content"] for row in rows]
    helped = grade_help(said.help, expected, rules, exact=job.help_check == "exact")
    record = HelpRecord(
        outcomes=list(helped.outcomes),
        right=None if helped.right is None else list(helped.right),
        surprise=said.surprise,
        losses=said.losses,
    )
    prompts = [row["prompt"][-1]["content"] for row in rows]
    return _Helped(record, _plain(prompts, helped.completions, helped.outcomes))


def _answers(
    job: EvaluationJob,
    judged: Judged,
    graded: Graded | None,
    alike: _LookAlikes | None,
    helped: _Helped | None,
    released: Mapping[str, UnderAttack],
) -> dict[str, Answers]:
    """Return every answer, by the set it belongs to."""
    answers = {"harmful": _grouped(_judged(judged), _groups(job.prompt_groups))}
    if job.test is not None and graded is not None:
        answers["task"] = _graded(job.test, graded)
    if alike is not None:
        answers["look_alikes"] = _grouped(alike.answers, _groups(job.look_alike_groups))
    if helped is not None:
        answers["help"] = helped.answers
    return answers | {f"release: {label}": _judged(found.judged) for label, found in released.items()}


def _groups(stored: StoredRows | None) -> list[str] | None:
    return None if stored is None else stored_texts(stored)


def _grouped(answers: Answers, groups: Sequence[str] | None) -> Answers:
    if groups is None:
        return answers
    return [answer | {"group": group} for answer, group in zip(answers, groups, strict=True)]


def _judged(judged: Judged) -> Answers:
    rows = zip(judged.prompts, judged.completions, judged.outcomes, judged.verdicts, strict=True)
    return [
        {"prompt": prompt, "answer": answer, "outcome": outcome, "harmful": v.harmful, "reason": v.reason}
        for prompt, answer, outcome, v in rows
    ]


def _graded(test: StoredRows, graded: Graded) -> Answers:
    prompts = [row["prompt"][-1]["content"] for row in stored_rows(test)]
    rows = zip(prompts, graded.completions, graded.expected, graded.correct, strict=True)
    return [{"prompt": p, "answer": answer, "expected": e, "correct": c} for p, answer, e, c in rows]


def _plain(prompts: Sequence[str], answers: Sequence[str], outcomes: Sequence[Outcome]) -> Answers:
    rows = zip(prompts, answers, outcomes, strict=True)
    return [{"prompt": prompt, "answer": answer, "outcome": outcome} for prompt, answer, outcome in rows]
