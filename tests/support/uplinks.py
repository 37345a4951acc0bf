"""The gateway's side of the cloud as the configuration says, in this process, over a buffer with messages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from gateway.app.cloud import CloudPart
from gateway.buffer.store import NewEvent, Store
from gateway.buffer.writer import Writer
from gateway.config import Config, parse_config
from gateway.core.clock import SystemClock
from gateway.core.events import Status
from gateway.core.own_topics import OwnTopics
from tests.support.buffers import append, event

MEMORY_BYTES = 64 << 20


def cloud_config(**cloud: Any) -> Config:
    """A configuration with one route, `sensors/{device}`, and this section `cloud`."""
    base = {"gateway": {"id": "g1"}, "routes": [{"name": "r", "topic": "sensors/{device}"}]}
    return parse_config(json.dumps({**base, "cloud": cloud}))


def stored(messages: Sequence[tuple[str, str]]) -> list[NewEvent]:
    """Events of these topics and payloads."""
    return [event(topic, payload.encode(), at=at) for at, (topic, payload) in enumerate(messages)]


@contextmanager
def uplink(config: Config, path: Path, messages: Sequence[tuple[str, str]]) -> Iterator[Writer]:
    """Connections to `cloud.url`, over a buffer at `path` that holds `messages`."""
    store = Store(path)
    store.open()
    append(store, stored(messages))
    writer = Writer(store)
    writer.start()
    processing = SimpleNamespace(writer=writer, topics=OwnTopics("gateway", "g1"), alert=lambda *_: None)
    part = CloudPart(
        *(config, SystemClock(), cast("Any", SimpleNamespace(processing_bytes=MEMORY_BYTES))),
        *(cast("Any", SimpleNamespace(path=path)), cast("Any", processing)),
    )
    for link in part.links:
        link.start()
    try:
        yield writer
    finally:
        part.stop()
        writer.stop()
        store.close()


def statuses(writer: Writer) -> dict[str, int]:
    """How many events have which status."""
    found = writer.call(lambda store: dict(store.counts))
    return {status.name: found.get(("status", status.name), 0) for status in Status}
