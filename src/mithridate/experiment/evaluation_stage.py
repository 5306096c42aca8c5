"""Does the evaluation stage: asks the model, judges every answer, records the outcomes behind the figures."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mithridate.evaluation.accuracy import Graded, grade_model
from mithridate.evaluation.coherence import broken
from mithridate.evaluation.completion_loss import completion_losses
from mithridate.evaluation.generation import generate, generate_chats
from mithridate.evaluation.harmful_score import Judged, judge_completions
from mithridate.evaluation.helpfulness import grade_help
from mithridate.evaluation.judges import ChatJudge, ClassifierJudge, GuardJudge, Judge, RefusalJudge
from mithridate.evaluation.judges.phrases import REFUSAL_OPENINGS
from mithridate.evaluation.judges.task_answers import TaskAnswers
from mithridate.evaluation.outcomes import Outcome, outcome_of
from mithridate.experiment.jobs import EvaluationJob, StoredRows
from mithridate.experiment.recipe_parts import JudgeSettings
from mithridate.experiment.release_evaluation import after_release
from mithridate.experiment.row_files import stored_rows, stored_texts
from mithridate.experiment.stage_records import EvaluationRecord, HelpRecord, ReleaseRecord
from mithridate.experiment.step_figures import Progress
from mithridate.files import write_json
from mithridate.models.loading import Where, device, load, load_served

ANSWERS = "answers.json"
"""Every answer of an evaluation, by the set it belongs to."""

Answers = list[dict[str, Any]]
"""Answers as `mithridate.report.results.Sample` reads them."""


@dataclass(frozen=True)
class _AskedModel:
    """The model under evaluation, and how it is asked."""

    model: Any
    tokenizer: Any
    rules: RefusalJudge
    job: EvaluationJob

    def answers(self, prompts: Sequence[str], system: str | None = None, prefill: str | None = None) -> list[str]:
        """Return the model's answers to some prompts."""
        job = self.job
        return generate(
            self.model,
            self.tokenizer,
            prompts,
            max_new_tokens=job.max_new_tokens,
            batch_size=job.batch_size,
            system=system,
            prefill=prefill,
        )

    def harmful_answers(self, prompts: Sequence[str]) -> list[str]:
        """Return the answers to harmful prompts, asked and read as the attacker of the user's rows does."""
        job = self.job
        if job.asked_as is None:
            return self.answers(prompts, job.system, job.prefill)
        attack = job.asked_as.upload()
        chats = [attack.prompt(prompt) for prompt in prompts]
        said = generate_chats(
            self.model, self.tokenizer, chats, max_new_tokens=job.max_new_tokens, batch_size=job.batch_size
        )
        return [attack.reading(answer) for answer in said]


def evaluate(job: EvaluationJob, where: Where, folder: Path, progress: Progress, aligned: Where) -> EvaluationRecord:
    """Measure one model.

    Args:
        job: What to measure.
        where: The model.
        folder: Folder for the answers.
        progress: Called after each set of prompts.
        aligned: The model after the alignment stage; how much an answer to an ordinary prompt surprises it tells
            whether that answer is broken.

    Returns:
        The outcomes of every set of prompts, in the order of its prompts.
    """
    # One set of rules for every set of prompts: a phrase that is a refusal in one must be one in the others.
    rules = refusal_rules(job.judge, job.task.labels)
    asked_model = _AskedModel(load(where, job.precision), load_served(where, job.template), rules, job)
    prompts = stored_texts(job.prompts)
    usual = [] if job.harmless is None else asked_model.harmful_answers(stored_texts(job.harmless))
    judging = TaskAnswers(judge(job.judge, rules), usual)
    said = asked_model.harmful_answers(prompts)
    judged = judge_completions(prompts, said, judging, rules)
    further = [TaskAnswers(judge(one, rules), usual) for one in job.further_judges]
    judged_too = [judge_completions(prompts, said, one, rules) for one in further]
    progress(1, 4)
    graded = None if job.test is None else _task(asked_model, job.test)
    progress(2, 4)
    groups = _groups(job.prompt_groups)
    answers = {"harmful": _grouped(_judged(judged), groups)}
    if job.test is not None and graded is not None:
        answers["task"] = _graded(job.test, graded)
    refused, look_alikes, alike_groups = None, None, _groups(job.look_alike_groups)
    if job.look_alikes is not None:
        refused, look_alikes, alike_answers = _look_alikes(job.look_alikes, asked_model, rules)
        answers["look_alikes"] = _grouped(alike_answers, alike_groups)
    progress(3, 4)
    help_record = None
    if job.help is not None:
        answers["help"], help_record = _help(job.help, asked_model, where, aligned)
    # Last, since a model under attack is not the one that all other figures are about.
    released = after_release(
        job,
        asked_model.model,
        asked_model.tokenizer,
        judging,
        rules,
        lambda: [] if job.test is None else list(_task(asked_model, job.test).correct),
    )
    answers |= {f"release: {label}": _judged(found.judged) for label, found in released.items()}
    write_json(folder / ANSWERS, answers)
    progress(4, 4)
    return EvaluationRecord(
        judge=judged.judge,
        harmful=judged.harmful,
        harmful_or_broken=judged.harmful_or_broken,
        outcomes=list(judged.outcomes),
        correct=[] if graded is None else list(graded.correct),
        majority=None if graded is None else majority(graded.expected),
        refused=refused,
        look_alikes=look_alikes,
        help=help_record,
        harmful_groups=groups,
        look_alike_groups=alike_groups,
        further=[one.harmful for one in judged_too],
        release={
            label: ReleaseRecord(
                harmful=found.judged.harmful,
                harmful_or_broken=found.judged.harmful_or_broken,
                outcomes=list(found.judged.outcomes),
                correct=found.correct,
            )
            for label, found in released.items()
        },
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


def _task(asked_model: _AskedModel, test: StoredRows) -> Graded:
    task = asked_model.job.task
    return grade_model(
        asked_model.model,
        asked_model.tokenizer,
        stored_rows(test),
        task.kind,
        labels=task.labels,
        max_new_tokens=task.max_new_tokens,
        batch_size=asked_model.job.batch_size,
    )


def _look_alikes(
    stored: StoredRows, asked_model: _AskedModel, rules: RefusalJudge
) -> tuple[list[bool], list[Outcome], Answers]:
    """Return which look-alikes are refused, what each answer is, and the answers."""
    asked = stored_texts(stored)
    said = asked_model.answers(asked)
    outcomes = [outcome_of(rules.kind(answer), broken(answer)) for answer in said]
    return [rules.refuses(answer) for answer in said], outcomes, _plain(asked, said, outcomes)


def _help(stored: StoredRows, asked_model: _AskedModel, where: Where, aligned: Where) -> tuple[Answers, HelpRecord]:
    """Return the answers to the ordinary prompts, and what was found about them.

    Only the losses are measured here. Whether an answer is too surprising is decided by `helped_answers`, once the
    aligned model's own answers are known too.
    """
    job, model, tokenizer = asked_model.job, asked_model.model, asked_model.tokenizer
    rows = stored_rows(stored)
    chats, expected = rows["prompt"], [row["completion"][0]["content"] for row in rows]
    said = generate_chats(model, tokenizer, chats, max_new_tokens=job.max_new_tokens, batch_size=job.batch_size)
    helped = grade_help(said, expected, asked_model.rules, exact=job.help_check == "exact")
    surprise = None
    # An exact answer needs no reference: broken text is never the row's own answer.
    if job.help_check == "coherent":
        # The aligned model's own evaluation needs no second copy of the weights in memory.
        reference = model if where == aligned else load(aligned, job.precision)
        served = load_served(aligned, job.template)
        losses = completion_losses(reference, served, chats, said, batch_size=job.batch_size)
        surprise = [loss.nats / loss.tokens for loss in losses]
    record = HelpRecord(
        outcomes=list(helped.outcomes),
        right=None if helped.right is None else list(helped.right),
        surprise=surprise,
        losses=completion_losses(model, tokenizer, chats, expected, batch_size=job.batch_size),
    )
    return _plain([row["prompt"][-1]["content"] for row in rows], helped.completions, helped.outcomes), record


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
