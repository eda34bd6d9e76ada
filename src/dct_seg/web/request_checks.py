"""Request checks before every route, and the security headers of every response.

The page has no password. On 127.0.0.1 the risks are CSRF (checked by Origin) and DNS rebinding (checked by
Host). On a network, each request needs the token.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import json
from collections.abc import Callable, Collection
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOKEN_HEADER = "X-DCT-Seg-Token"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
CHANGES = ("POST", "PUT", "PATCH", "DELETE")
BODY_SECONDS = 20.0
"""Timeout in seconds between two parts of a request body."""

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "font-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Body(NamedTuple):
    """Limits of a request's body.

    Args:
        max_bytes: Maximum size in bytes.
        media_types: Accepted content types.
    """

    max_bytes: int
    media_types: tuple[str, ...] = ("application/json",)


class _RefusedBodyError(Exception):
    """Error for a body that is too large or too late, with the response's status and message."""

    def __init__(self, status: int, line: str) -> None:
        super().__init__(line)
        self.status = status


class Guard:
    """ASGI middleware that checks each request.

    Args:
        app: Application to protect.
        token: Token required in each request, except for the page's files; None for no token.
        hosts: Accepted names in the Host header, in lower case; None for any.
        body_of: Limits of the body of a request to a path.
        where: Hint on how to get the token, for the message: ``send the token that ... printed``.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str | None,
        hosts: Collection[str] | None,
        body_of: Callable[[str], Body],
        where: str,
    ) -> None:
        self.app = app
        self._token = token
        self._hosts = hosts
        self._body_of = body_of
        self._where = where

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with an error."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refused = self._refusal(scope, headers)
        if refused is not None:
            await _send_error(*refused, send)
            return
        limit = self._body_of(scope["path"]).max_bytes
        read = 0
        began = False
        is_whole = False
        refusal: _RefusedBodyError | None = None

        async def counted() -> Message:
            nonlocal read, is_whole, refusal
            try:
                message = await asyncio.wait_for(receive(), None if is_whole else BODY_SECONDS)
            except asyncio.TimeoutError:
                line = f"no part of the body arrived for {BODY_SECONDS:g} seconds; send the request again"
                refusal = _RefusedBodyError(408, line)
                raise refusal from None
            read += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if read > limit:
                refusal = _RefusedBodyError(413, _too_large(limit))
                raise refusal
            return message

        async def guarded(message: Message) -> None:
            nonlocal began
            if refusal is not None and not began:
                raise refusal  # this error takes precedence over the application's own
            if message["type"] == "http.response.start":
                began = True
                MutableHeaders(raw=message["headers"]).update(HEADERS)
            await send(message)

        try:
            await self.app(scope, counted, guarded)
        except _RefusedBodyError as error:
            if not began:
                await _send_error(error.status, str(error), send)
        except Exception:
            if not began:
                await _send_error(
                    500,
                    "the server failed on this request; earlier changes are saved; see the server's terminal",
                    send,
                )
            raise

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if self._hosts is not None and host_name(host) not in self._hosts:
            known = ", ".join(sorted(self._hosts))
            return 403, f"the Host header must be one of {known}, got '{host[:100]}'; change the address"
        if self._token is not None and not scope["path"].startswith("/assets/"):
            given = _token_of(headers) or _query_value(scope.get("query_string", b""), "token")
            if not hmac.compare_digest(given.encode(), self._token.encode()):
                return 403, f"the token is missing or wrong; {self._where} ({TOKEN_HEADER})"
        origin = headers.get("origin")
        is_foreign = origin is not None and origin_host(origin) != host.lower()
        site = headers.get("sec-fetch-site", "none")
        if is_foreign or site not in ("same-origin", "none"):
            who = f"a page of '{origin[:100]}'" if origin and is_foreign else "another site's page"
            if scope["method"] in CHANGES:
                return 403, f"{who} must not change anything here; use this server's own address"
            if scope["path"].startswith("/api/"):  # a link may open the page itself, which contains no data
                return 403, f"{who} must not read anything here; use this server's own address"
        if scope["method"] in CHANGES:
            problem = _body_problem(self._body_of(scope["path"]), headers)
            if problem is not None:
                return problem
        return None


def host_name(host: str) -> str:
    """Name in a Host header, without its port; "" if it is malformed.

    Examples:
        >>> [host_name(host) for host in ("LocalHost:8000", "[::1]:8000", "evil.example", "a b")]
        ['localhost', '::1', 'evil.example', '']
    """
    if any(character in host for character in "/\\@?# "):
        return ""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def origin_host(origin: str) -> str:
    """Host and port of an Origin header, in lower case; "" for ``null`` or a malformed one."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _token_of(headers: Headers) -> str:
    """Token in a header: our own header, a bearer token, or the password of Basic authentication."""
    kind, _, value = headers.get("authorization", "").partition(" ")
    if headers.get(TOKEN_HEADER):
        return headers[TOKEN_HEADER]
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() != "basic":
        return ""
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""


def _body_problem(body: Body, headers: Headers) -> tuple[int, str] | None:
    length = headers.get("content-length")
    if length is not None and not (length.isascii() and length.isdigit()):
        return 400, f"the Content-Length must be the body's number of bytes, got '{length[:100]}'"
    if length is not None and int(length) > body.max_bytes:
        return 413, _too_large(body.max_bytes)
    if length in (None, "0") and "transfer-encoding" not in headers:
        return None
    given = headers.get("content-type", "").partition(";")[0].strip().lower()
    if given not in body.media_types:
        return 415, f"the content type must be {' or '.join(body.media_types)}, got '{given[:100]}'"
    return None


def _too_large(limit: int) -> str:
    return f"the request body must be at most {limit // 2**20} MiB, got more; send less at a time"


def _query_value(query: bytes, name: str) -> str:
    try:
        return parse_qs(query.decode("latin-1"), max_num_fields=20).get(name, [""])[-1]
    except ValueError:
        return ""


async def _send_error(status: int, error: str, send: Send) -> None:
    body = json.dumps({"error": error}).encode()
    headers: dict[str, Any] = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
        **HEADERS,
    }
    raw = [(key.lower().encode("latin-1"), value.encode("latin-1")) for key, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
