"""Renders pages from templates, with everything that is not ours escaped."""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

HEADERS = {
    # No script and no style but our own files; nothing is loaded from elsewhere, and no other site shows our pages.
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}

STATES = {
    "validating_files": "checking the files",
    "queued": "waiting for a worker",
    "running": "running",
    "paused": "paused",
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
}
"""States of a job in words."""


def rendered(
    request: Request, template: str, *, status: int = 200, headers: Mapping[str, str] | None = None, **context: Any
) -> HTMLResponse:
    """Return a page.

    Args:
        request: What is answered.
        template: Name of the template.
        status: Status of the answer.
        headers: Further headers.
        context: What the template shows.
    """
    found = getattr(request.state, "visitor", None)
    text = _environment().get_template(f"{template}.html.j2").render(visitor=found, **context)
    return HTMLResponse(text, status, {**HEADERS, **(headers or {})})


def style() -> str:
    """Return the style of all pages: that of the reports, and what forms and lists need besides."""
    report = (files("mithridate.report") / "templates" / "report.css").read_text(encoding="utf-8")
    return report + _own("service.css")


def script() -> str:
    """Return the script of all pages, without which they work too."""
    return _own("service.js")


def _own(name: str) -> str:
    return (files("mithridate.service.pages") / "templates" / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("mithridate.service.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"when": _when, "amount": _amount, "state": _state}
    return environment


def _when(seconds: float) -> Markup:
    at = datetime.fromtimestamp(seconds, UTC)
    return Markup('<time datetime="{}">{}</time>').format(at.isoformat(), f"{at:%Y-%m-%d %H:%M:%S} UTC")


def _amount(size: float) -> str:
    if size < 1024:
        return f"{size} bytes"
    for unit in ("KiB", "MiB"):
        size /= 1024
        if size < 1024:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} GiB"


def _state(name: str) -> str:
    return STATES.get(name, name)
