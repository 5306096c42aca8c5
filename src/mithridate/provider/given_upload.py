"""Reads a customer's upload once, checks it against the policy and splits it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from mithridate.data import check_disjoint, load_rows, split_rows
from mithridate.errors import DataError
from mithridate.experiment.jobs import StoredRows
from mithridate.experiment.recipe_parts import TaskMatching
from mithridate.experiment.row_files import RowFiles
from mithridate.provider.decision import Upload
from mithridate.provider.policy_rows import PolicyRows
from mithridate.provider.policy_tree import Policy


@dataclass(frozen=True)
class GivenUpload:
    """An upload, read and split.

    Attributes:
        train: Rows to train on.
        held_out: Rows on which a repair may choose its dose.
        test: Rows that nothing is trained or chosen on.
        matching: How answers to the customer's task are matched.
    """

    upload: Upload
    train: StoredRows
    held_out: StoredRows
    test: StoredRows
    matching: TaskMatching


def read_upload(policy: Policy, data: str | Path | Dataset, rows: PolicyRows, files: RowFiles) -> GivenUpload:
    """Read an upload.

    Args:
        policy: What is allowed.
        data: The upload.
        rows: The provider's rows and audit prompts.
        files: Where the parts are stored.

    Raises:
        DataError: If it has faults, too few or too many rows, or holds audit prompts.
    """
    found = load_rows(data)
    name = "rows given in Python" if isinstance(data, Dataset) else str(data)
    limits = policy.finetuning
    if not limits.least_rows <= len(found) <= limits.most_rows:
        raise DataError(
            f"{name} has {len(found)} rows; policy '{policy.name}' takes {limits.least_rows} to {limits.most_rows:,}"
        )
    # A customer who trains on the audit's own prompts would pass it by heart.
    check_disjoint({"upload": found, "audit": rows.audit_prompts}, (("upload", "audit"),))
    stored = files.keep_rows("upload", found)
    split = split_rows(found, limits.held_out, policy.seed)
    upload = Upload(name=Path(name).name, sha256=stored.sha256, rows=len(found), held_out=len(split.held_out))
    # Two halves: a dose that was chosen on the very rows that tell the accuracy would flatter it.
    halves = split_rows(split.held_out, 0.5, policy.seed)
    return GivenUpload(
        upload=upload,
        train=files.keep_rows("train", split.kept),
        held_out=files.keep_rows("held-out", halves.kept),
        test=files.keep_rows("test", halves.held_out),
        matching=_matching([row["completion"][0]["content"] for row in found], policy),
    )


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
