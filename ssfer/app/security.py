"""Check every request's headers and add security headers to every response.

The server listens on the loopback interface. A page of another site in the same browser could still send it requests,
directly or under its own name that resolves to 127.0.0.1 (DNS rebinding). So the Host header must name this machine,
an Origin header must name this server, and there are no CORS headers.
"""

from __future__ import annotations

import json
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class LocalOnly:
    """ASGI middleware that refuses other hosts and origins with 403 and adds HEADERS to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # no websockets

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_encoded(HEADERS)]
            await send(message)

        if refusal := _refusal(scope):
            body = json.dumps({"error": refusal}).encode()
            kind = {"content-type": "application/json", "content-length": str(len(body))}
            await send_with_headers({"type": "http.response.start", "status": 403, "headers": _encoded(kind)})
            await send({"type": "http.response.body", "body": body})
            return
        await self._app(scope, receive, send_with_headers)


def _refusal(scope: MutableMapping[str, Any]) -> str | None:
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    host, origin = headers.get("host", ""), headers.get("origin")
    if _name(f"//{host}") not in LOOPBACK:
        return "this server answers requests to 127.0.0.1 or localhost only; the Host header names another machine"
    if origin is not None and origin != f"http://{host}":
        return "this server answers its own page and programs on this machine, not pages of other sites"
    return None


def _name(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:  # such as an unclosed bracket
        return None


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]
