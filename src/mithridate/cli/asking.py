"""Asks a model everything that ``mithridate evaluate`` judges, in one process or in several."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from mithridate.cli.models import open_model
from mithridate.evaluation.accuracy import Task, task_questions
from mithridate.evaluation.generation import generate
from mithridate.evaluation.spread import spread_over_processes
from mithridate.experiment.shared_work import SharedWork, shared
from mithridate.experiment.step_figures import Progress
from mithridate.models.loading import device
from mithridate.training.processes import running_processes


class Questions(NamedTuple):
    """What to ask, and of which model.

    Attributes:
        model: Folder or hub id.
        template: Chat template.
        dtype: Type of the weights, or ``auto``.
        prompts: Harmful prompts.
        look_alikes: Harmless prompts that look harmful; None to leave them out.
        test: Test rows of the user's task; None to leave it out.
        task: How answers to the task are matched.
        max_new_tokens: Longest answer to a prompt, in tokens.
        batch_size: Prompts per batch.
    """

    model: str
    template: str | None
    dtype: str
    prompts: Sequence[str]
    look_alikes: Sequence[str] | None
    test: Any
    task: Task
    max_new_tokens: int
    batch_size: int


def answers(questions: Questions, processes: int) -> dict[str, list[str]]:
    """Return the model's answers by set of prompts: ``harmful``, and ``look_alikes`` and ``task`` where asked.

    Args:
        questions: What to ask.
        processes: Processes that share the prompts.
    """
    if processes == 1:
        return _ask(questions, _unreported)
    # Each would otherwise take as many threads as there are cores.
    threads = max(1, torch.get_num_threads() // processes)
    found: dict[str, list[str]] = shared(SharedWork(_ask, (questions,), processes, threads), _unreported)
    return found


def _ask(questions: Questions, report: Progress) -> dict[str, list[str]]:
    model, tokenizer = open_model(questions.model, questions.template, questions.dtype)
    first = running_processes(device()).rank == 0
    size: dict[str, Any] = {"batch_size": questions.batch_size, "progress": first}
    longest = questions.max_new_tokens
    with spread_over_processes():
        said = {"harmful": generate(model, tokenizer, questions.prompts, max_new_tokens=longest, **size)}
        if questions.look_alikes is not None:
            said["look_alikes"] = generate(model, tokenizer, questions.look_alikes, max_new_tokens=longest, **size)
        if questions.test is not None:
            said["task"] = task_questions(questions.test, questions.task).answers(model, tokenizer, **size)
    return said


def _unreported(done: int, total: int) -> None:
    """Report nothing; each set of prompts has a bar of its own."""
