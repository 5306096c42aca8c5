"""Reads a customer's validation rows, whose loss is told and by which nothing is decided."""

from mithridate.data import check_disjoint, load_rows
from mithridate.errors import DataError
from mithridate.experiment.jobs import StoredRows
from mithridate.experiment.row_files import RowFiles, stored_rows
from mithridate.provider.given_upload import GivenUpload
from mithridate.provider.policy_tree import Policy
from mithridate.provider.refused_upload import RefusedUpload, UploadData


def read_validation(
    policy: Policy, data: UploadData, given: GivenUpload | RefusedUpload, files: RowFiles
) -> StoredRows | None:
    """Read and store validation rows.

    Args:
        policy: What is allowed.
        data: The rows.
        given: The upload.
        files: Where they are stored.

    Returns:
        The rows; None where the upload is refused, so that nothing is trained.

    Raises:
        DataError: If a row has a fault, if there are more than the policy takes of an upload, or if one shares a prompt
            with the upload, whose loss would be that of a row trained on.
    """
    if isinstance(given, RefusedUpload):
        return None
    found = load_rows(data)
    refuse_crowd(policy, len(found))
    check_disjoint({"upload": stored_rows(given.rows), "validation": found}, (("upload", "validation"),))
    return files.keep_rows("validation", found)


def refuse_crowd(policy: Policy, count: int) -> None:
    """Refuse more validation rows than a policy takes of an upload, since each costs a pass of the model.

    Raises:
        DataError: If there are more.
    """
    most = policy.finetuning.most_rows
    if count > most:
        said = f"the validation rows are {count:,}; policy '{policy.name}' takes up to {most:,}; give fewer of them"
        raise DataError(said)
