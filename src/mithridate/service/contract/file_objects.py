"""Files and uploads in parts, as clients see them."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Row

Purpose = Literal["fine-tune", "fine-tune-results"]


class RowError(BaseModel):
    """One row of a file that cannot be used.

    Attributes:
        line: One-based line.
        code: Short name of the fault, for programs.
        message: What was found there, and what was expected.
    """

    line: int
    code: str
    message: str


class RowErrors(BaseModel):
    """The rows of a file that cannot be used.

    Attributes:
        count: All of them.
        rows: The first of them.
    """

    count: int
    rows: list[RowError]


class FileObject(BaseModel):
    """A file; ``row_errors`` and ``sha256`` are ours."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: Purpose
    status: Literal["uploaded", "processed", "error"]
    expires_at: int | None = None
    status_details: str | None = None
    sha256: str
    row_errors: RowErrors | None = None


class DeletedFile(BaseModel):
    """A file that was deleted."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool = True


def file_object(row: Row[Any]) -> FileObject:
    """Return a file's row as clients see it."""
    return FileObject.model_validate(row, from_attributes=True)


class ExpiresAfter(BaseModel):
    """When a file expires: seconds after it was made."""

    model_config = ConfigDict(extra="forbid")

    anchor: Literal["created_at"]
    seconds: int = Field(ge=3600, le=2592000)


class UploadRequest(BaseModel):
    """What a client says of an upload before its parts."""

    model_config = ConfigDict(extra="forbid")

    filename: str = Field(min_length=1, max_length=4096)
    purpose: Literal["fine-tune"]
    bytes: int = Field(ge=1, lt=2**53)
    mime_type: str = Field(max_length=255)
    expires_after: ExpiresAfter | None = None


class CompletionRequest(BaseModel):
    """The parts of an upload in their order."""

    model_config = ConfigDict(extra="forbid")

    part_ids: list[str] = Field(min_length=1, max_length=10000)
    md5: str | None = Field(None, pattern=r"^[0-9a-fA-F]{32}$")


class UploadObject(BaseModel):
    """An upload in parts."""

    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: Purpose
    status: Literal["pending", "completed", "cancelled", "expired"]
    file: FileObject | None = None


class PartObject(BaseModel):
    """One part of an upload."""

    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str
