"""Reports of the gateway about itself to both brokers, for a centre that reaches no HTTP here."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import orjson

from gateway.alarms.requests import listed
from gateway.app.part import Part
from gateway.buffer.reader import Reader, ReadError
from gateway.cloud.bridge import Bridge
from gateway.config import Config
from gateway.core.errors import StoreError
from gateway.core.own_topics import OwnTopics
from gateway.core.threads import HasThread, RoleThread
from gateway.host.log_lines import LogLines
from gateway.local.republish import Republish
from gateway.status.gateway_status import GatewayStatus
from gateway.status.record import status_record

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_NEWS_EVERY_S = 5.0  # at most, for a problem that comes and goes


class ReportPart(Part):
    """`gateway.reports`: publishes the status, and metrics and log lines where that is configured.

    It also counts for the charts, which must have a past when somebody opens the page. It only reads; the
    connections are those of republish and of the first bridge.
    """

    def __init__(self, config: Config, path: Path, republish: Republish, bridges: Sequence[Bridge]) -> None:
        self.thread = RoleThread("reports", self._run)
        self._path = path
        self._republish = republish
        self._bridges = bridges
        self._tellers: list[Republish | Bridge] = [republish, *bridges]
        self._topics = OwnTopics(config.gateway.topic_prefix, config.gateway.id)
        self._status_every_s = config.metrics.status / 1000
        publish_ms = config.metrics.publish
        self._metrics_every_s = None if publish_ms is None else publish_ms / 1000
        self._lines = LogLines(config.log.publish)
        self._stopping = threading.Event()
        self._reader: Reader | None = None
        self._told: object = None  # what of the last status is news when it changes
        self._status_at_s = self._metrics_at_s = float("-inf")

    def start(self, status: GatewayStatus) -> None:
        self._status = status
        status.log_lines.append(self._lines)
        logging.getLogger().addHandler(self._lines)
        self.thread.start()

    def stop(self) -> None:
        logging.getLogger().removeHandler(self._lines)
        self._stopping.set()
        self.thread.join(5.0)

    @property
    def workers(self) -> Sequence[HasThread]:
        return (self,)

    # --- the thread ---

    def _run(self) -> None:
        try:
            while not self._stopping.wait(_LOOK_EVERY_S):
                self._look(time.monotonic())
        finally:
            if self._reader is not None:
                self._reader.close()

    def _look(self, now_s: float) -> None:
        self._status.sample_history()
        for line in self._lines.take():
            for bridge in self._bridges:
                bridge.tell(self._topics.log, line.encode())
        # A disk that refuses must not keep the status from being told: that is when it matters.
        with contextlib.suppress(OSError, StoreError, ReadError):
            self._tell_status(now_s)
        if self._metrics_every_s is not None and now_s - self._metrics_at_s >= self._metrics_every_s:
            self._metrics_at_s = now_s
            payload = metrics_payload(self._status)
            for teller in self._tellers:
                teller.tell(self._topics.metrics, payload)

    def _tell_status(self, now_s: float) -> None:
        since_s = now_s - self._status_at_s
        if since_s < min(_NEWS_EVERY_S, self._status_every_s):
            return
        alarms = len(listed(self._status.alarms))
        news = (self._status.readiness(), self._status.configuration(), alarms)
        if news == self._told and since_s < self._status_every_s:
            return
        self._told, self._status_at_s = news, now_s
        payload = orjson.dumps(status_record(self._status, self._opened(), alarms))
        for teller in self._tellers:
            teller.tell_status(payload)

    def _opened(self) -> Reader:
        if self._reader is None:
            self._reader = Reader(self._path)
        return self._reader


def metrics_payload(status: GatewayStatus) -> bytes:
    """Return all metrics as `{"time_ms": …, "metrics": {"name{label=\\"value\\"}": number}}`."""
    from gateway.http.metrics import GatewayCollector  # noqa: PLC0415 - HTTP may be off

    found = {
        _sample_name(sample.name, sample.labels): sample.value
        for metric in GatewayCollector(status).collect()
        for sample in metric.samples
    }
    return orjson.dumps({"time_ms": status.clock.now_ms(), "metrics": found})


def _sample_name(name: str, labels: dict[str, str]) -> str:
    if not labels:
        return name
    inside = ",".join(f'{label}="{value}"' for label, value in labels.items())
    return f"{name}{{{inside}}}"
