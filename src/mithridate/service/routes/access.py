"""Who may ask for what: every route below ``/v1`` asks here first."""

from typing import Annotated

from fastapi import Depends, Request

from mithridate.service.contract.api_refusal import ApiRefusal
from mithridate.service.keys.api_keys import Caller, caller_of
from mithridate.service.keys.rate_limit import RateLimit
from mithridate.service.service_parts import ServiceParts


async def parts_of(request: Request) -> ServiceParts:
    """Return the parts of the service that answers a request."""
    # Asynchronous, as all of these that wait for nothing: FastAPI sends others to a thread each.
    parts: ServiceParts = request.app.state.parts
    return parts


def reader(request: Request) -> Caller:
    """Return who asks, after checking the key and its pace.

    Raises:
        ApiRefusal: If there is no key, or it is unknown, revoked or too fast.
    """
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret:
        raise ApiRefusal(401, "give an API key as 'Authorization: Bearer KEY'", code="missing_api_key")
    parts: ServiceParts = request.app.state.parts
    with parts.database.read() as connection:
        caller = caller_of(connection, secret.strip())
    if caller is None:
        # Without the key, which may be a mistyped one of another service.
        raise ApiRefusal(401, "the API key is unknown or revoked; ask the operator for one", code="invalid_api_key")
    paced(request, caller)
    request.state.caller = caller
    return caller


def paced(request: Request, caller: Caller) -> None:
    """Count a request of a key, to the API or for a page.

    Raises:
        ApiRefusal: If the key asks too often.
    """
    limit: RateLimit = request.app.state.rate_limit
    if wait := limit.take(caller.key):
        raise ApiRefusal(
            429,
            f"this key asks too often; wait {wait:.1f} seconds",
            code="rate_limit_exceeded",
            headers={"Retry-After": str(int(wait) + 1)},
        )


async def writer(caller: Annotated[Caller, Depends(reader)]) -> Caller:
    """Return who asks to change something.

    Raises:
        ApiRefusal: If the key may only read.
    """
    if caller.role == "read":
        raise ApiRefusal(403, "this API key may only read; take one with role write", code="read_only_key")
    return caller


async def admin(caller: Annotated[Caller, Depends(reader)]) -> Caller:
    """Return who asks for what only operators may see.

    Raises:
        ApiRefusal: If the key is not an operator's.
    """
    if caller.role != "admin":
        raise ApiRefusal(403, "this needs an API key with role admin", code="admin_only")
    return caller


Parts = Annotated[ServiceParts, Depends(parts_of)]
Reader = Annotated[Caller, Depends(reader)]
Writer = Annotated[Caller, Depends(writer)]
Admin = Annotated[Caller, Depends(admin)]
