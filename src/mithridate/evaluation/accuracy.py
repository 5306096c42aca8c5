"""Fine-tune accuracy: share of correct answers on the user's own task."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mithridate.errors import DataError, UsageError
from mithridate.evaluation.generation import generate_chats
from mithridate.evaluation.intervals import Score
from mithridate.evaluation.matching import LabelMatcher, final_number, plain
from mithridate.evaluation.vllm.served_model import ModelOnVllm

Task = Literal["label", "numeric", "exact"]
# A label is one word or few; the papers give GSM8K 200 tokens for the steps.
_MAX_NEW_TOKENS: dict[str, int] = {"label": 16, "numeric": 200, "exact": 64}
# More different answers than this are free text that was taken for labels by mistake.
_MAX_LABELS = 100


@dataclass(frozen=True)
class Graded:
    """Answers to the user's task, graded.

    Attributes:
        completions: The model's answers.
        expected: The rows' own answers.
        correct: Whether each answer is correct; what `paired_test` takes.
    """

    completions: tuple[str, ...]
    expected: tuple[str, ...]
    correct: tuple[bool, ...]

    @property
    def score(self) -> Score:
        """The share of correct completions."""
        return Score.of(sum(self.correct), len(self.correct))


def finetune_accuracy(
    model: PreTrainedModel | ModelOnVllm,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    task: Task = "label",
    *,
    labels: Sequence[str] | None = None,
    max_new_tokens: int | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> Score:
    """Return the share of rows answered correctly; higher is better; arguments and errors as in `grade_model`."""
    return grade_model(
        model,
        tokenizer,
        rows,
        task,
        labels=labels,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        progress=progress,
    ).score


def grade_model(
    model: PreTrainedModel | ModelOnVllm,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    task: Task = "label",
    *,
    labels: Sequence[str] | None = None,
    max_new_tokens: int | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> Graded:
    """Complete every row's prompt greedily and grade the completions.

    Args:
        model: Causal language model, plain or PEFT, or served by vLLM.
        tokenizer: Its tokenizer, with a chat template.
        rows: Test rows with `prompt` and `completion` messages.
        task: "label" (the label the answer starts with), "numeric" (its final number), or "exact" (the same
            text but for white space).
        labels: Labels of a label task; the different completions of `rows` by default.
        max_new_tokens: Longest answer, in tokens; by default 16 for labels, 200 for numbers, 64 for exact
            match.
        batch_size: Rows per forward pass.
        progress: Whether to show a progress bar.

    Raises:
        UsageError: If there are no rows, or the task or labels cannot be used.
        DataError: If a row's own answer is malformed, holds no number, or starts with no label.
        ModelError: If the model or tokenizer cannot be used.
    """
    # Before anything is generated, so that rows or labels that cannot be graded cost no time on a GPU.
    questions = task_questions(rows, task, labels=labels)
    size: dict[str, Any] = {"max_new_tokens": max_new_tokens, "batch_size": batch_size, "progress": progress}
    return questions.graded(questions.answers(model, tokenizer, **size))


@dataclass(frozen=True)
class TaskQuestions:
    """Test rows of the user's task that can be asked and graded.

    Attributes:
        task: How answers are matched.
        chats: What to ask, one conversation per row.
        expected: The rows' own answers.
    """

    task: Task
    chats: list[Any]
    expected: list[str]
    _check: Callable[[int, str], bool]

    def answers(
        self,
        model: PreTrainedModel | ModelOnVllm,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_new_tokens: int | None = None,
        batch_size: int = 32,
        progress: bool = False,
    ) -> list[str]:
        """Return a model's answers; arguments as for `grade_model`."""
        longest = _MAX_NEW_TOKENS[self.task] if max_new_tokens is None else max_new_tokens
        return generate_chats(
            model, tokenizer, self.chats, max_new_tokens=longest, batch_size=batch_size, progress=progress
        )

    def graded(self, completions: Sequence[str]) -> Graded:
        """Return the answers, one per row, graded."""
        correct = tuple(self._check(place, answer) for place, answer in enumerate(completions))
        return Graded(tuple(completions), tuple(self.expected), correct)


def task_questions(rows: Dataset, task: Task = "label", *, labels: Sequence[str] | None = None) -> TaskQuestions:
    """Return test rows ready to be asked; raises what `grade_model` raises of rows, task and labels."""
    chats, expected, origins = _read(rows)
    return TaskQuestions(task, chats, expected, _checker(task, expected, origins, labels))


def grade_completions(
    completions: Sequence[str],
    expected: Sequence[str],
    task: Task = "label",
    *,
    labels: Sequence[str] | None = None,
) -> Graded:
    """Grade completions generated earlier; raises what `grade_model` raises."""
    if not completions or len(completions) != len(expected):
        raise UsageError(f"grading needs one expected answer per answer, not {len(expected)} for {len(completions)}")
    check = _checker(task, expected, [f"row {i}" for i in range(len(expected))], labels)
    return Graded(tuple(completions), tuple(expected), tuple(check(i, answer) for i, answer in enumerate(completions)))


def _read(rows: Dataset) -> tuple[list[Any], list[str], list[str]]:
    """Return the prompt messages, expected answers and origins of every row."""
    if not len(rows):
        raise UsageError("no rows: fine-tune accuracy needs at least one test row")
    if missing := {"prompt", "completion"} - set(rows.column_names):
        raise DataError(f"the test rows lack the columns {sorted(missing)}: give prompt and completion messages")
    chats, expected, origins = [], [], []
    for i, row in enumerate(rows):
        # Rows read from a file carry its name and line, which is what a user can look up.
        origin = str(row.get("origin") or f"row {i}")
        prompt, completion = row["prompt"], row["completion"]
        # TRL trains on plain texts as well, but here prompts go through the chat template, which takes messages.
        if not prompt or isinstance(prompt, str) or isinstance(completion, str) or len(completion or ()) != 1:
            raise DataError(f"{origin}: prompt and completion must be lists of messages, the completion of one")
        chats.append(prompt)
        expected.append(completion[0]["content"])
        origins.append(origin)
    return chats, expected, origins


def _checker(
    task: Task, expected: Sequence[str], origins: Sequence[str], labels: Sequence[str] | None
) -> Callable[[int, str], bool]:
    """Return a function that says, given a row number and a completion, whether the answer is correct."""
    if task not in get_args(Task):
        raise UsageError(f"the task must be one of {', '.join(get_args(Task))}, not {task!r}")
    if labels is not None and task != "label":
        raise UsageError(f"labels are for the task 'label', not {task!r}")
    read = _reader(task, expected, labels)
    # One reader for both sides, so that a row's own answer is always correct by the rule it is compared with.
    wanted = [read(text) for text in expected]
    for origin, text, value in zip(origins, expected, wanted, strict=True):
        if value is None:
            what = "starts with none of the labels" if task == "label" else "holds no number"
            raise DataError(f"{origin}: the expected answer {text[:60]!r} {what}")
    # None is never wanted, so an answer that holds no label or number is simply wrong.
    return lambda i, answer: read(answer) == wanted[i]


def _reader(task: Task, expected: Sequence[str], labels: Sequence[str] | None) -> Callable[[str], object]:
    """Return a function that reads from a text what is compared, or None if the text does not hold it."""
    if task == "exact":
        return plain
    if task == "numeric":
        return final_number
    if labels is None:
        # By folded text: `LabelMatcher` refuses labels that differ only in case, and real files mix them.
        labels = list({plain(text).casefold(): plain(text) for text in expected}.values())
        if len(labels) > _MAX_LABELS:
            raise UsageError(f"the rows have {len(labels)} different answers, too many for labels: give labels=")
    return LabelMatcher(labels).find
