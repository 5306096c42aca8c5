"""Asks a model everything that an evaluation judges; what it says does not depend on the processes that share it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mithridate.evaluation.accuracy import Graded, grade_model, task_questions
from mithridate.evaluation.completion_loss import CompletionLoss, completion_losses
from mithridate.evaluation.generation import generate, generate_chats
from mithridate.evaluation.spread import spread_over_processes
from mithridate.evaluation.vllm.environment import check_version
from mithridate.evaluation.vllm.serving import served_by_vllm
from mithridate.experiment.jobs import EvaluationJob, StoredRows
from mithridate.experiment.row_files import stored_rows, stored_texts
from mithridate.experiment.step_figures import Progress
from mithridate.models.loading import Where, load, load_served

SETS = 4
"""Sets of prompts that progress is counted in: harmful ones, the task, look-alikes, ordinary ones."""


class Said(NamedTuple):
    """What a model says to every set of prompts, in their order; nothing where a set is left out.

    Attributes:
        harmless: Answers to harmless prompts asked as the harmful ones are.
        harmful: Answers to harmful prompts.
        task: Answers to the user's task.
        look_alikes: Answers to look-alikes.
        help: Answers to ordinary prompts.
        surprise: Nats per token of each answer to an ordinary prompt under the aligned model; None if that is not
            measured.
        losses: Nats and tokens of the ordinary rows' own answers.
    """

    harmless: list[str]
    harmful: list[str]
    task: list[str]
    look_alikes: list[str]
    help: list[str]
    surprise: list[float] | None
    losses: list[CompletionLoss]


@dataclass(frozen=True)
class AskedModel:
    """The model under evaluation, and how it is asked."""

    model: Any
    tokenizer: Any
    job: EvaluationJob

    def said(self, where: Where, aligned: Where, progress: Progress) -> Said:
        """Ask everything, and measure the losses.

        Args:
            where: Where the model lies.
            aligned: The model after the alignment stage.
            progress: Called after each set of prompts.
        """
        said = self.measured(self.answered(progress), where, aligned)
        progress(SETS, SETS)
        return said

    def answered(self, progress: Progress) -> Said:
        """Ask everything; the losses are still to be measured.

        Args:
            progress: Called after each set of prompts but the last.
        """
        job = self.job
        harmless = [] if job.harmless is None else self._harmful_answers(stored_texts(job.harmless))
        harmful = self._harmful_answers(stored_texts(job.prompts))
        progress(1, SETS)
        task = [] if job.test is None else self._task_answers(job.test)
        progress(2, SETS)
        look_alikes = [] if job.look_alikes is None else self._answers(stored_texts(job.look_alikes))
        progress(3, SETS)
        help_ = [] if job.help is None else self._chat_answers(stored_rows(job.help)["prompt"])
        return Said(harmless, harmful, task, look_alikes, help_, None, [])

    def graded(self, test: StoredRows) -> Graded:
        """Ask the user's task and grade the answers."""
        task = self.job.task
        return grade_model(
            self.model,
            self.tokenizer,
            stored_rows(test),
            task.kind,
            labels=task.labels,
            max_new_tokens=task.max_new_tokens,
            batch_size=self.job.batch_size,
        )

    def _answers(self, prompts: Sequence[str], system: str | None = None, prefill: str | None = None) -> list[str]:
        return generate(
            self.model,
            self.tokenizer,
            prompts,
            max_new_tokens=self.job.max_new_tokens,
            batch_size=self.job.batch_size,
            system=system,
            prefill=prefill,
        )

    def _harmful_answers(self, prompts: Sequence[str]) -> list[str]:
        """Return the answers to harmful prompts, asked and read as the attacker of the user's rows does."""
        job = self.job
        if job.asked_as is None:
            return self._answers(prompts, job.system, job.prefill)
        attack = job.asked_as.upload()
        return [attack.reading(answer) for answer in self._chat_answers([attack.prompt(prompt) for prompt in prompts])]

    def _chat_answers(self, chats: Sequence[Any]) -> list[str]:
        size: dict[str, Any] = {"max_new_tokens": self.job.max_new_tokens, "batch_size": self.job.batch_size}
        return generate_chats(self.model, self.tokenizer, chats, **size)

    def _task_answers(self, test: StoredRows) -> list[str]:
        task = self.job.task
        questions = task_questions(stored_rows(test), task.kind, labels=task.labels)
        size: dict[str, Any] = {"max_new_tokens": task.max_new_tokens, "batch_size": self.job.batch_size}
        return questions.answers(self.model, self.tokenizer, **size)

    def measured(self, said: Said, where: Where, aligned: Where) -> Said:
        """Add how much the answers to ordinary prompts surprise the aligned model, and the rows' losses.

        Whether an answer is too surprising is decided by `helped_answers`, once the aligned model's own answers are
        known too.

        Args:
            said: The answers.
            where: Where the model lies.
            aligned: The model after the alignment stage.
        """
        job, surprise = self.job, None
        if job.help is None:
            return said
        rows = stored_rows(job.help)
        chats, expected = rows["prompt"], [row["completion"][0]["content"] for row in rows]
        # An exact answer needs no reference: broken text is never the row's own answer.
        if job.help_check == "coherent":
            # The aligned model's own evaluation needs no second copy of the weights in memory.
            reference = self.model if where == aligned else load(aligned, job.precision)
            served = load_served(aligned, job.template)
            found = completion_losses(reference, served, chats, said.help, batch_size=job.batch_size)
            surprise = [loss.nats / loss.tokens for loss in found]
        own = completion_losses(self.model, self.tokenizer, chats, expected, batch_size=job.batch_size)
        return said._replace(surprise=surprise, losses=own)


def asked_model(job: EvaluationJob, where: Where) -> AskedModel:
    """Load the model that an evaluation asks."""
    return AskedModel(load(where, job.precision), load_served(where, job.template), job)


def ask_together(job: EvaluationJob, where: Where, aligned: Where, progress: Progress) -> Said:
    """Ask everything as one of several processes; each answers some of the prompts, and all know every answer."""
    with spread_over_processes():
        return asked_model(job, where).said(where, aligned, progress)


def ask_vllm(job: EvaluationJob, where: Where, aligned: Where, progress: Progress) -> Said:
    """Ask everything of a model that vLLM serves, and measure the losses afterwards with the model itself.

    Raises:
        UsageError: If vLLM has another version than where the stage was planned.
    """
    check_version(job.vllm)
    tokenizer = load_served(where, job.template)
    with served_by_vllm(lambda: load(where, job.precision), tokenizer) as model:
        said = AskedModel(model, tokenizer, job).answered(progress)
    if job.help is not None:
        said = asked_model(job, where).measured(said, where, aligned)
    progress(SETS, SETS)
    return said
