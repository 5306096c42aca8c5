"""The certificates by which addresses of the web are trusted, loaded once."""

import ssl
from functools import cache

import httpx


@cache
def certificates() -> ssl.SSLContext:
    """Return the certificates that every HTTP client of ours trusts; loading them takes longer than most requests."""
    return httpx.create_ssl_context()
