"""Answers signed requests for a support bundle that come over the cloud broker.

- The bundle is made by `gateway support bundle`, in a process of its own that gives way to everything else.
- A number is used once, also over restarts: a request that is played again is ignored.
- At most one bundle in EVERY_S; further requests are answered with the reason.
"""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import orjson

from gateway.cloud.own_subscription import OwnSubscription
from gateway.core.errors import DecodeError
from gateway.core.events import Message
from gateway.core.own_topics import OwnTopics
from gateway.host.files import read_regular, write_whole
from gateway.mqtt.link import Link, Session
from gateway.wire.signatures import KeyFileError
from gateway.wire.support_request import read_support_request

log = logging.getLogger(__name__)

EVERY_S = 600.0
MOST_BYTES = 256 * 1024
NUMBER_FILE = "support-request.json"
_BUNDLE_FILE = "support-bundle.tar.gz"
_WITHIN_S = 120.0
_NUMBER_BYTES = 64


class SupportBundles(Session):
    """Takes requests and publishes bundles. `counts` are requests, by what became of them."""

    def __init__(
        self,
        topics: OwnTopics,
        public_key_file: Path,
        config: Path,
        data_dir: Path,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._topics = topics
        self._public_key_file = public_key_file
        self._config = config
        self._data_dir = data_dir
        self._most_bytes = min(most_bytes, MOST_BYTES)
        self._subscription = OwnSubscription(topics.support)
        self._process: subprocess.Popen[bytes] | None = None
        self._deadline_s = 0.0
        self._made_at_s = -math.inf
        self._answers: list[bytes] = []  # at most one per message that is acknowledged after it

    @property
    def topic(self) -> str:
        """Topic of the requests."""
        return self._topics.support

    @property
    def awaits(self) -> bool:
        """True while the broker has granted the subscription on the present connection."""
        return self._subscription.granted

    # --- on the link's thread ---

    def connected(self, link: Link, session_present: bool) -> None:
        self._subscription.connected(link)

    def subscribed(self, link: Link, codes: dict[str, int]) -> None:
        if self._subscription.answered(codes) is not None:
            log.warning("no requests for support bundles: %s refuses the subscription", link.endpoint.place)

    def disconnected(self, link: Link) -> None:
        self._subscription.disconnected()

    def received(self, link: Link, messages: list[Message]) -> None:
        for message in messages:
            try:
                self._take(message.payload)
            except OSError as exc:
                log.error("a request for a support bundle cannot be taken: %s", exc)
                self.counts["failed"] += 1
            link.ack(message)

    def work(self, link: Link) -> float:
        self._subscription.work(link)
        if self._process is not None:
            self._look(self._process)
        while self._answers and not link.congested:
            link.publish(self._topics.support_answers, self._answers.pop(0))
        return 1.0

    def finish(self) -> None:
        """End what is being made, after the link has stopped."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    # --- inside ---

    def _take(self, payload: bytes) -> None:
        try:
            key = self._public_key_file.read_bytes()
            number = read_support_request(payload, self._topics.gateway_id, key).number
        except (DecodeError, KeyFileError) as exc:
            # Without an answer: who may not ask must not be able to make this gateway speak.
            self.counts[getattr(exc, "reason", "key")] += 1
            log.error("a request for a support bundle is refused: %s", exc)
            return
        if number <= self._newest():
            self.counts["older"] += 1
            log.warning("a request for a support bundle is ignored: its number %d is not new", number)
            return
        write_whole(self._data_dir / NUMBER_FILE, str(number).encode(), mode=0o600)
        wait_s = self._made_at_s + EVERY_S - time.monotonic()
        if self._process is not None or wait_s > 0:
            self._refuse("too_soon", f"one was made a short time ago; ask again in {max(wait_s, 1.0):.0f} s")
            return
        self._begin()

    def _newest(self) -> int:
        try:
            return int(read_regular(self._data_dir / NUMBER_FILE, _NUMBER_BYTES))
        except (FileNotFoundError, ValueError):
            return 0

    def _begin(self) -> None:
        output = self._data_dir / _BUNDLE_FILE
        command = [sys.executable, "-P", "-m", "gateway", "support", "bundle", "-c", str(self._config)]
        command += ["-o", str(output), "--most", str(self._most_bytes)]
        self._made_at_s = time.monotonic()
        self._deadline_s = self._made_at_s + _WITHIN_S
        self._process = subprocess.Popen(  # noqa: S603 - this program itself
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.setpriority(os.PRIO_PROCESS, self._process.pid, 10)

    def _look(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None and time.monotonic() < self._deadline_s:
            return
        self.finish()
        self._process = None
        output = self._data_dir / _BUNDLE_FILE
        try:
            if process.returncode:
                raise OSError(f"gateway support bundle ended with code {process.returncode}")
            self._answers.append(read_regular(output, self._most_bytes))
            output.unlink()
        except OSError as exc:
            self._refuse("failed", str(exc))
            return
        self.counts["sent"] += 1
        log.warning("a support bundle is sent, as was asked for")

    def _refuse(self, reason: str, why: str) -> None:
        self.counts[reason] += 1
        log.warning("no support bundle: %s", why)
        self._answers.append(orjson.dumps({"state": "refused", "reason": why}))
