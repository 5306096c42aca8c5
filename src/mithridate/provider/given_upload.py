"""Reads a customer's upload once, checks it against the policy and splits it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from mithridate.data import check_upload, load_rows, split_rows
from mithridate.data.overlap import last_user_turn, normalized
from mithridate.data.preference_loading import both_answers, load_preferences
from mithridate.errors import DataError
from mithridate.evaluation.generation import encoded_chats
from mithridate.experiment.jobs import StoredRows
from mithridate.experiment.recipe_parts import TaskMatching
from mithridate.experiment.row_files import RowFiles
from mithridate.provider.decision import Upload
from mithridate.provider.policy_rows import PolicyRows
from mithridate.provider.policy_tree import Policy
from mithridate.provider.prompt_templates import PromptTemplate, prompt_templates
from mithridate.provider.refused_upload import RefusedUpload, UploadData, name_of, refused, with_faults


@dataclass(frozen=True)
class GivenUpload:
    """An upload, read and split.

    Attributes:
        rows: All its rows, for the gate; of preference pairs both answers, each as a row.
        train: Rows to train on, or pairs.
        held_out: Rows on which a repair may choose its dose.
        test: Rows that nothing is trained or chosen on.
        matching: How answers to the customer's task are matched.
        templates: Prompt templates that its rows share.
    """

    upload: Upload
    rows: StoredRows
    train: StoredRows
    held_out: StoredRows
    test: StoredRows
    matching: TaskMatching
    templates: list[PromptTemplate]


def read_upload(
    policy: Policy,
    data: UploadData,
    rows: PolicyRows,
    files: RowFiles,
    tokenizer: Any,
    positions: float = math.inf,
    *,
    pairs: bool = False,
) -> GivenUpload | RefusedUpload:
    """Read an upload.

    Args:
        policy: What is allowed.
        data: The upload.
        rows: The provider's rows and audit prompts.
        files: Where the parts are stored.
        tokenizer: The tokenizer that the upload is trained with.
        positions: Tokens that the model was made for.
        pairs: Whether the rows are preference pairs.

    Returns:
        The upload, or why it is refused: rows with faults, too few or too many of them, harmful prompts of the audit
        among them, or a prompt template in which no model could be audited.

    Raises:
        DataError: If there is no such file or data set.
    """
    report = check_upload(data, tokenizer=tokenizer, max_length=policy.max_length, preferences=pairs)
    count, called = (report.conversations, "pairs") if pairs else (report.rows, "rows")
    if report.fault_count:
        if not isinstance(data, Dataset) and _missing(data):
            raise DataError(str(report.faults[0]))
        return with_faults(data, count, report.faults, report.fault_count)
    limits = policy.finetuning
    if not limits.least_rows <= count <= limits.most_rows:
        allowed = f"takes {limits.least_rows} to {limits.most_rows:,}"
        return refused(data, count, [f"the upload has {count:,} {called}; policy '{policy.name}' {allowed}"])
    if report.tokens is not None and report.tokens.unusable is not None:
        return refused(data, count, [report.tokens.unusable.splitlines()[0].rstrip(":")])
    found = load_preferences(data) if pairs else load_rows(data)
    if asked := _audited(found, rows):
        return refused(data, len(found), [asked])
    templates = prompt_templates(found["prompt"], policy.audit.prompt_templates)
    if crowded := _crowded(templates, rows, tokenizer, positions - policy.audit.max_new_tokens):
        return refused(data, len(found), [crowded])
    stored = files.keep_rows("upload", both_answers(found) if pairs else found)
    split = split_rows(found, limits.held_out, policy.seed)
    upload = Upload(name=name_of(data), sha256=stored.sha256, rows=len(found), held_out=len(split.held_out))
    # Two halves: a dose that was chosen on the very rows that tell the accuracy would flatter it.
    # Of pairs the preferred answer is the right one.
    held_out = split.held_out.remove_columns("rejected") if pairs else split.held_out
    halves = split_rows(held_out, 0.5, policy.seed)
    return GivenUpload(
        upload=upload,
        rows=stored,
        train=files.keep_rows("train", split.kept),
        held_out=files.keep_rows("held-out", halves.kept),
        test=files.keep_rows("test", halves.held_out),
        matching=_matching([row["completion"][0]["content"] for row in found], policy),
        templates=templates,
    )


def _missing(data: str | Path) -> bool:
    """Tell whether there is no file to find fault with: then it is the call that is wrong, and nothing is decided."""
    try:
        return not Path(data).is_file()
    except (OSError, ValueError):  # a name that is too long, or holds a NUL
        return True


def _audited(found: Dataset, rows: PolicyRows) -> str:
    """Return why rows are refused that hold harmful prompts of the audit; empty if none does.

    A model that was tuned on them would pass the audit by heart.
    """
    audit = set(map(normalized, rows.audit_prompts))
    if all(normalized(last_user_turn(prompt)) not in audit for prompt in found["prompt"]):
        return ""
    # Neither which nor how many: an upload of guesses must not find the audit out.
    return "the upload holds prompts that models are judged by, so that no model tuned on it could be judged"


def _crowded(templates: list[PromptTemplate], rows: PolicyRows, tokenizer: Any, room: float) -> str:
    """Return why rows are refused in whose template an audit prompt has no room; empty if each has."""
    for template in templates:
        chats = [template.chat(prompt) for prompt in rows.audit_prompts]
        if max(map(len, encoded_chats(tokenizer, chats))) > room:
            return (
                f"{template.rows:,} rows share a template of {template.words:,} words around their prompts, in which "
                "the model could not be asked anything else; shorten it"
            )
    return ""


FEW_LABELS = 20
"""Different answers up to which they are taken for labels."""


def _matching(answers: Sequence[str], policy: Policy) -> TaskMatching:
    """Return how answers to the customer's task are matched: as labels where there are few, word by word otherwise."""
    labels = set(answers)
    # Each label must be seen a few times, or ten different free answers would pass for ten labels.
    if 1 < len(labels) <= FEW_LABELS and len(answers) >= 5 * len(labels):
        # The labels are not named: the audit takes an answer that is only a label for harmless, so whoever names labels
        # names answers that no judge calls harmful.
        return TaskMatching(kind="label", max_new_tokens=min(16, policy.audit.max_new_tokens))
    return TaskMatching(kind="exact", max_new_tokens=policy.audit.max_new_tokens)
