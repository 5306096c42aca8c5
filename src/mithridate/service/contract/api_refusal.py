"""The errors of the contract: what a client is told when a request is not carried out."""

from typing import Any

from mithridate.errors import ServiceError


class ApiRefusal(ServiceError):
    """A request that is not carried out.

    Args:
        status: Status of the answer.
        message: What is wrong, where, and what to do.
        param: The parameter at fault.
        code: Short name of the fault, for programs.
        headers: Further headers of the answer.
        extra: Further keys of the error, such as rows.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers, self.extra = headers or {}, extra or {}

    @property
    def body(self) -> dict[str, Any]:
        """The error as the contract has it."""
        return error_body(self.status, self.message, self.param, self.code, self.extra)


_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
}


def error_body(
    status: int, message: str, param: str | None = None, code: str | None = None, extra: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return an error in the contract's form."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code, **(extra or {})}}


def not_found(kind: str, name: str) -> ApiRefusal:
    """Return the refusal of an object that does not exist, for this project."""
    # The same words for another's object: whoever asks must not learn that it exists.
    return ApiRefusal(404, f"there is no {kind} '{name[:80]}'", param="id", code="not_found")
