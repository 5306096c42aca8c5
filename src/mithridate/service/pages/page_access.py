"""Who may see which page, and which forms are taken."""

import hmac
from collections.abc import Callable, Coroutine
from typing import Annotated, Any
from urllib.parse import parse_qsl, quote, urlsplit

from fastapi import Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from mithridate.errors import ServiceError
from mithridate.service.contract.api_refusal import ApiRefusal
from mithridate.service.pages.page_sessions import Visitor, visitor_of
from mithridate.service.pages.rendering import rendered
from mithridate.service.routes.access import admin, paced, writer
from mithridate.service.service_parts import ServiceParts

COOKIE = "mithridate_session"
_MOST_FIELDS = 32


class SignedOutError(ServiceError):
    """A page was asked for by somebody who has not signed in, or whose session is over."""


def visitor(request: Request) -> Visitor:
    """Return who asks.

    Raises:
        SignedOutError: If nobody has signed in.
        ApiRefusal: If the key asks too often.
    """
    secret = request.cookies.get(COOKIE)
    found = None
    if secret:
        parts: ServiceParts = request.app.state.parts
        with parts.database.read() as connection:
            found = visitor_of(connection, secret)
    if found is None:
        raise SignedOutError("sign in first")
    request.state.caller, request.state.visitor = found.caller, found
    paced(request, found.caller)
    return found


async def operator(found: Annotated[Visitor, Depends(visitor)]) -> Visitor:
    """Return who asks for what is the operator's.

    Raises:
        ApiRefusal: If the key is not an operator's.
    """
    await admin(found.caller)
    return found


async def form_fields(request: Request) -> dict[str, str]:
    """Return the fields of a form that one of our pages has sent.

    Raises:
        ApiRefusal: If it came from elsewhere or is no form.
    """
    from_here(request)
    try:
        body = (await request.body()).decode()
        return dict(parse_qsl(body, keep_blank_values=True, max_num_fields=_MOST_FIELDS))
    except ValueError as error:
        raise ApiRefusal(400, "the form is damaged; load the page again", code="invalid_form") from error


async def changing(
    found: Annotated[Visitor, Depends(visitor)], fields: Annotated[dict[str, str], Depends(form_fields)]
) -> Visitor:
    """Return who asks to change something with a form.

    Raises:
        ApiRefusal: If the form is not of this session, or the key may only read.
    """
    check_token(found, fields)
    await writer(found.caller)
    return found


async def changing_operator(found: Annotated[Visitor, Depends(changing)]) -> Visitor:
    """Return which operator asks to change something.

    Raises:
        ApiRefusal: If the key is not an operator's.
    """
    return await operator(found)


def check_token(found: Visitor, fields: dict[str, str]) -> None:
    """Refuse a form that was not made in this session.

    Raises:
        ApiRefusal: If it was not.
    """
    if not hmac.compare_digest(fields.get("form_token", "").encode(), found.form_token.encode()):
        raise ApiRefusal(403, "the form is not of this session; load the page again", code="invalid_form_token")


def from_here(request: Request) -> None:
    """Refuse what another site makes a browser send; programs that are no browsers say nothing of the kind.

    Raises:
        ApiRefusal: If it came from another site.
    """
    origin = request.headers.get("origin")
    other = origin is not None and not _is_of(origin, request.headers.get("host"))
    if other or request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise ApiRefusal(403, "the form came from another site; use this site's own page", code="foreign_form")


def _is_of(origin: str, host: str | None) -> bool:
    """Return whether an origin is a host's."""
    try:
        return bool(host) and urlsplit(origin).netloc == host
    except ValueError:  # damaged
        return False


class PageRoute(APIRoute):
    """A route that answers with a page, also where it refuses."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        answer = super().get_route_handler()

        async def answering(request: Request) -> Response:
            try:
                return await answer(request)
            except SignedOutError:
                # After a form was sent there is nothing to come back to.
                back = f"?next={quote(request.url.path)}" if request.method == "GET" else ""
                return RedirectResponse(f"/sign-in{back}", 303)
            except RequestValidationError:
                return refused(request, ApiRefusal(400, "the address of this page is damaged; go back and try again"))
            except ApiRefusal as refusal:
                return refused(request, refusal)
            except HTTPException as error:
                if not isinstance(error.__cause__, ApiRefusal):  # raised while the body was read
                    raise
                return refused(request, error.__cause__)

        return answering


def refused(request: Request, refusal: ApiRefusal) -> Response:
    """Return a page that says why nothing was done."""
    return rendered(request, "refusal", status=refusal.status, headers=refusal.headers, refusal=refusal)


Visiting = Annotated[Visitor, Depends(visitor)]
Operating = Annotated[Visitor, Depends(operator)]
Changing = Annotated[Visitor, Depends(changing)]
ChangingOperator = Annotated[Visitor, Depends(changing_operator)]
Fields = Annotated[dict[str, str], Depends(form_fields)]
