"""Access control: the Host header, the token, and headers that protect the browser.

- A request whose Host is a name that this gateway does not go by is refused. A foreign page can
  point its own name at 127.0.0.1 (DNS rebinding), but it cannot change the Host header that goes with it.
- With a token configured, everything but health and the sign-in page needs it: `Authorization: Bearer …`, or
  the cookie that the sign-in sets. Without one the gateway listens on the loopback interface only.
- No other origin may read anything: there are no CORS headers, and the page may load nothing from elsewhere.
  A request that changes something and names another origin is refused.
"""

from __future__ import annotations

import math
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.http.access import Access
from gateway.http.guesses import Guesses

COOKIE = "gateway_session"
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/login"})
"""Paths open without a token: for supervisors, and for signing in."""
OPEN_FOLDER = "/assets/"
_READING = frozenset({"GET", "HEAD", "OPTIONS"})

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Guard:
    """ASGI middleware in front of everything."""

    def __init__(self, app: ASGIApp, access: Access, guesses: Guesses) -> None:
        self._app = app
        self._access = access
        self._guesses = guesses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY_HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refusal(scope["method"], scope["path"], Headers(scope=scope), address_of(scope))
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refusal(self, method: str, path: str, headers: Headers, address: str) -> Response | None:
        foreign = self._foreign(method, path, headers)
        if foreign is not None:
            return foreign
        if path in OPEN_PATHS or path.startswith(OPEN_FOLDER) or self._access.token is None:
            return None
        if wait_s := self._guesses.wait_s(address, time.monotonic()):
            return too_many_guesses(wait_s)
        if self._is_admitted(headers, address):
            return None
        if "text/html" in headers.get("accept", ""):
            return RedirectResponse("/login", 303)
        text = "A token is needed: send `Authorization: Bearer TOKEN` with http.token of the configuration."
        return PlainTextResponse(text, 401, {"WWW-Authenticate": "Bearer"})

    def _foreign(self, method: str, path: str, headers: Headers) -> Response | None:
        """Refuse another name, and changes that the page of another one wants."""
        host = headers.get("host", "")
        if not self._access.knows_host(host):
            text = f"This gateway does not have the name {host!r}. Add it to http.hosts, or use its address."
            return PlainTextResponse(text, 421)
        # The sign-in is a form, and forms of pages without a referrer name no origin.
        is_change = method not in _READING and path != "/login"
        if is_change and not self._access.trusts_origin(headers.get("origin"), host):
            text = "Another page may not change anything here. Behind a proxy, add its name to http.hosts."
            return PlainTextResponse(text, 403)
        return None

    def _is_admitted(self, headers: Headers, address: str) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            given, admitted = token.strip(), self._access.admits(token.strip())
        else:
            given = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
            admitted = self._access.admits_cookie(given)
        if given and not admitted:
            self._guesses.note_wrong(address, given, time.monotonic())
        return admitted


def address_of(scope: Scope) -> str:
    """Return where a request comes from."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def too_many_guesses(wait_s: float) -> Response:
    """Return the answer to an address that has tried too many tokens; the next one is not looked at."""
    seconds = math.ceil(wait_s)
    text = f"Too many wrong tokens came from this address. Try again in {seconds} s."
    return PlainTextResponse(text, 429, {"Retry-After": str(seconds)})
