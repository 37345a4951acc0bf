"""Pulls signed configurations from an HTTPS server, for sites that have no cloud broker or no such topic.

- It never follows a redirect off https, and sends credentials only to the address that is configured.
- A body is read up to the size of a configuration, and within the timeout, before anything looks at it.
- An ETag is remembered once what came with it is kept: else the next request brings it again.
"""

from __future__ import annotations

import base64
import logging
import random
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, Any

from gateway.core.errors import GatewayError
from gateway.core.threads import RoleThread
from gateway.mqtt.transport import trusting
from gateway.wire.signed_config import MAX_BYTES

log = logging.getLogger(__name__)

_FIRST_WITHIN_S = 10.0  # the gateways of a fleet that start together do not ask together
_RETRY_S = 10.0  # doubles with each failure in a row, up to the interval
_TOLD_AFTER = 3  # failures in a row; one alone is a server that restarts
_CHUNK_BYTES = 64 * 1024


class FetchError(GatewayError):
    """Raised when a configuration cannot be fetched; the message says why."""


@dataclass(frozen=True)
class FetchSpec:
    """Address, interval and credentials. Files are read at each request: a new one counts at once."""

    url: str
    every_s: float
    timeout_s: float
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    token_file: Path | None = None
    username: str | None = None
    password_file: Path | None = None


class FetchMetrics:
    """Plain numbers, written by the fetcher's thread, read by any."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        """Requests: `new`, `unchanged`, `failed`."""
        self.failures = 0
        """Failures since the last request that was answered."""
        self.last_error = ""
        self.answered_at_s: float | None = None
        """Monotonic time of the last answer; None before the first."""


class _OnlyHttps(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if not newurl.lower().startswith("https://"):
            raise FetchError(f"it redirects to {newurl.partition(':')[0]}, and only https is followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class ConfigFetcher:
    """`gateway.config-pull`: asks for the configuration again and again; `offer` judges what is new.

    `offer` raises OSError when it cannot keep it.
    """

    def __init__(self, spec: FetchSpec, offer: Callable[[bytes], None]) -> None:
        self.metrics = FetchMetrics()
        self.thread = RoleThread("config-pull", self._run)
        self._spec = spec
        self._offer = offer
        self._etag = ""
        self._stopping = threading.Event()
        self._chance = random.Random()

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        """End the thread; a request that is under way ends by itself, and what it brings is ignored."""
        self._stopping.set()
        self.thread.join(1.0)

    @property
    def reached(self) -> bool:
        """True if the last request since the start was answered."""
        return self.metrics.answered_at_s is not None and not self.metrics.failures

    @property
    def problem(self) -> str:
        """Return why no configuration can be fetched; empty where it can, or may soon."""
        if self.metrics.failures < _TOLD_AFTER:
            return ""
        return f"the configuration cannot be fetched from {self._spec.url}: {self.metrics.last_error}"

    # --- the thread ---

    def _run(self) -> None:
        wait_s = self._chance.uniform(0.0, min(self._spec.every_s, _FIRST_WITHIN_S))
        while not self._stopping.wait(wait_s):
            wait_s = self._ask() * self._chance.uniform(0.8, 1.2)

    def _ask(self) -> float:
        """Make one request; return how long to wait for the next."""
        metrics = self.metrics
        try:
            outcome = self._fetch()
        except (FetchError, OSError, HTTPException, ValueError) as exc:
            metrics.last_error = str(exc) or type(exc).__name__
            metrics.failures += 1
            metrics.outcomes["failed"] += 1
            log.warning("no configuration from %s: %s", self._spec.url, metrics.last_error)
            return min(self._spec.every_s, _RETRY_S * 2.0 ** (min(metrics.failures, 16) - 1))
        metrics.failures = 0
        metrics.answered_at_s = time.monotonic()
        metrics.outcomes[outcome] += 1
        return self._spec.every_s

    def _fetch(self) -> str:
        context = trusting(self._spec.ca_file)
        if self._spec.cert_file is not None:
            context.load_cert_chain(self._spec.cert_file, self._spec.key_file)
        opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), _OnlyHttps)
        try:
            with opener.open(self._request(), timeout=self._spec.timeout_s) as answer:
                return self._take(answer)
        except urllib.error.HTTPError as exc:
            with exc:
                if exc.code == HTTPStatus.NOT_MODIFIED:
                    return "unchanged"
            raise FetchError(f"it answers {exc.code} {exc.reason}") from exc
        except urllib.error.URLError as exc:
            raise FetchError(str(exc.reason)) from exc

    def _request(self) -> urllib.request.Request:
        spec = self._spec
        request = urllib.request.Request(spec.url)  # noqa: S310 - the configuration takes https only
        if self._etag:
            request.add_header("If-None-Match", self._etag)
        # Unredirected: another host must not get them.
        if spec.token_file is not None:
            request.add_unredirected_header("Authorization", f"Bearer {_secret(spec.token_file)}")
        elif spec.username is not None and spec.password_file is not None:
            pair = f"{spec.username}:{_secret(spec.password_file)}".encode()
            request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(pair).decode()}")
        return request

    def _take(self, answer: HTTPResponse) -> str:
        if answer.status == HTTPStatus.NO_CONTENT:
            return "unchanged"
        payload = self._body(answer)
        if self._stopping.is_set():
            return "unchanged"
        self._offer(payload)
        self._etag = answer.headers.get("ETag", "")
        return "new"

    def _body(self, answer: HTTPResponse) -> bytes:
        """Read the whole body. Raises FetchError for one that is too large or takes too long."""
        deadline_s = time.monotonic() + self._spec.timeout_s
        body = bytearray()
        while chunk := answer.read1(_CHUNK_BYTES):
            body += chunk
            if len(body) > MAX_BYTES:
                raise FetchError(f"it sends more than {MAX_BYTES:,} bytes")
            if time.monotonic() > deadline_s:
                raise FetchError(f"it takes longer than {self._spec.timeout_s:g} s")
        if answer.length:
            raise FetchError(f"the connection ended {answer.length:,} bytes before its end")
        return bytes(body)


def _secret(path: Path) -> str:
    return path.read_text().strip()
