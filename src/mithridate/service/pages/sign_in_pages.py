"""Signing in and out, and the style and script of all pages."""

import re
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from mithridate.service.keys.api_keys import caller_of
from mithridate.service.pages.page_access import COOKIE, Fields, PageRoute
from mithridate.service.pages.page_sessions import LIFETIME, begin_session, end_session, visitor_of
from mithridate.service.pages.rendering import rendered, script, style
from mithridate.service.routes.access import Parts

pages = APIRouter(route_class=PageRoute, include_in_schema=False)

_OURS = re.compile(r"/(?:(?:jobs|files|policy|audit|keys)(?:/[A-Za-z0-9_-]+)*)?")
Next = Annotated[str, Query(max_length=200)]


@pages.get("/sign-in")
def sign_in_form(request: Request, next: Next = "/") -> Response:
    """Show the form."""
    return rendered(request, "sign_in", next=_ours(next), fault=None)


@pages.post("/sign-in")
def sign_in(request: Request, parts: Parts, fields: Fields) -> Response:
    """Begin a session."""
    with parts.database.read() as connection:  # anybody may ask: strangers must not make jobs wait for the write lock
        caller = caller_of(connection, fields.get("key", "").strip())
    to = _ours(fields.get("next", "/"))
    if caller is None:
        return rendered(request, "sign_in", status=401, next=to, fault="The API key is unknown or revoked.")
    with parts.database.write() as connection:
        secret = begin_session(connection, caller)
        parts.audit.add(connection, caller.key, "page.sign_in", caller.key)
    answer = RedirectResponse(to, 303)
    secure = request.url.scheme == "https"
    answer.set_cookie(COOKIE, secret, max_age=LIFETIME, httponly=True, samesite="strict", secure=secure, path="/")
    return answer


@pages.post("/sign-out")
def sign_out(request: Request, parts: Parts, fields: Fields) -> Response:
    """End the session; also that of a key that may only read, and without a token: nothing is lost by it."""
    if secret := request.cookies.get(COOKIE):
        with parts.database.read() as connection:
            known = visitor_of(connection, secret) is not None
        if known:
            with parts.database.write() as connection:
                end_session(connection, secret)
    answer = RedirectResponse("/sign-in", 303)
    answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return answer


@pages.get("/static/service.css")
def stylesheet() -> Response:
    """Return the style."""
    return Response(style(), media_type="text/css", headers=_LASTING)


@pages.get("/static/service.js")
def scripts() -> Response:
    """Return the script."""
    return Response(script(), media_type="text/javascript", headers=_LASTING)


_LASTING = {"Cache-Control": "max-age=300", "X-Content-Type-Options": "nosniff"}


def _ours(place: str) -> str:
    """Return a page of ours to go to; anything else would let a link send people to another site."""
    return place if _OURS.fullmatch(place) else "/"
