"""Reads a customer's validation rows, whose loss is told and by which nothing is decided."""

from typing import Any

from mithridate.data import check_disjoint, check_upload, load_rows
from mithridate.data.row_faults import listing
from mithridate.errors import DataError
from mithridate.experiment.jobs import StoredRows
from mithridate.experiment.row_files import RowFiles, stored_rows
from mithridate.provider.given_upload import GivenUpload
from mithridate.provider.policy_tree import Policy
from mithridate.provider.refused_upload import RefusedUpload, UploadData, name_of


def read_validation(
    policy: Policy, data: UploadData, given: GivenUpload | RefusedUpload, files: RowFiles, tokenizer: Any
) -> StoredRows | None:
    """Read and store validation rows.

    Args:
        policy: What is allowed.
        data: The rows.
        given: The upload.
        files: Where they are stored.
        tokenizer: The tokenizer that the upload is trained with.

    Returns:
        The rows; None where the upload is refused, so that nothing is trained.

    Raises:
        DataError: If a row has a fault, if more than a fifth of them has no answer within the policy's ``max_length``,
            if there are more than the policy takes of an upload, or if one shares a prompt with the upload, whose loss
            would be that of a row trained on.
    """
    if isinstance(given, RefusedUpload):
        return None
    found = load_rows(data)
    refuse_crowd(policy, len(found))
    _refuse_unfit(policy, data, tokenizer)
    check_disjoint({"upload": stored_rows(given.rows), "validation": found}, (("upload", "validation"),))
    return files.keep_rows("validation", found)


def _refuse_unfit(policy: Policy, data: UploadData, tokenizer: Any) -> None:
    """Refuse rows that only the tokenizer shows to be unusable, before anything is trained."""
    report, name = check_upload(data, tokenizer=tokenizer, max_length=policy.max_length), name_of(data)
    if report.fault_count:
        head = f"{name}: validation rows that cannot be used: {report.fault_count:,}; rewrite or remove them"
        raise DataError(listing(head, map(str, report.faults), report.fault_count))
    if report.tokens is not None and report.tokens.unusable is not None:
        raise DataError(f"{name}: {report.tokens.unusable}")


def refuse_crowd(policy: Policy, count: int) -> None:
    """Refuse more validation rows than a policy takes of an upload, since each costs a pass of the model.

    Raises:
        DataError: If there are more.
    """
    most = policy.finetuning.most_rows
    if count > most:
        said = f"the validation rows are {count:,}; policy '{policy.name}' takes up to {most:,}; give fewer of them"
        raise DataError(said)
