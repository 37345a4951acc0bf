"""What audit records claim again, so that what the cloud broker lost shows, in busy and in idle streams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest

from gateway.buffer.store import Store
from gateway.buffer.writer import Writer
from gateway.cloud import auditor as tested
from gateway.cloud.auditor import Auditor
from gateway.core.events import Status
from gateway.delivery.states import DeliveryEvent
from gateway.mqtt.link import Link
from gateway.wire.audit_record import StreamClaim, read_audit
from tests.support.buffers import event, opened


class Wire:
    """A link that keeps what is published on it."""

    congested = False
    max_packet_bytes = None

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def publish(self, topic: str, payload: bytes) -> int:
        self.sent.append(payload)
        return len(self.sent)


class Site:
    """A buffer that delivers everything at once, and the auditor over it."""

    def __init__(self, store: Store, path: Path) -> None:
        self._store = store
        self._time_ms = 1
        writer = cast(Writer, type("Idle", (), {"pending_events": 0})())
        self.auditor = Auditor("t", "g", path, writer, lambda: self._time_ms, 0.0)
        self.wire = Wire()

    def deliver(self, *streams: str) -> None:
        with self._store.transaction():
            self._store.append([event(stream) for stream in streams])
            self._store.checkpoint([])
        with self._store.transaction():
            ids = self._store.claim(100_000)
            self._store.move(ids, Status.SYNCING, DeliveryEvent.PUBACK)

    def audit(self) -> list[StreamClaim]:
        """Make one audit, which the broker acknowledges; returns its claims."""
        link = cast(Link, self.wire)
        self.auditor._due_s = 0.0
        before = len(self.wire.sent)
        self.auditor.work(link)
        for packet_id in range(before + 1, len(self.wire.sent) + 1):
            self.auditor.published(link, packet_id, 0)
        return [claim for payload in self.wire.sent[before:] for claim in read_audit(payload).claims]


@contextmanager
def site(path: Path) -> Iterator[Site]:
    with opened(path) as store:
        made = Site(store, path)
        yield made
        made.auditor.finish()


def whole(claims: Sequence[StreamClaim]) -> set[str]:
    return {claim.stream for claim in claims if claim.first == 1}


def test_a_stream_with_new_events_in_every_audit_is_claimed_from_its_first_again(tmp_path: Path) -> None:
    with site(tmp_path / "events.db") as gateway:
        gateway.deliver("busy", "idle")
        gateway.audit()
        for last in range(2, 5):
            gateway.deliver("busy")
            claims = gateway.audit()
            assert {(one.first, one.last) for one in claims if one.stream == "busy"} == {
                (last, last),
                (1, last),
            }
            assert "idle" in whole(claims)


def test_every_stream_has_its_turn_however_many_are_busy(tmp_path: Path) -> None:
    busy, idle = [f"busy/{n}" for n in range(80)], [f"idle/{n}" for n in range(40)]
    with site(tmp_path / "events.db") as gateway:
        gateway.deliver(*busy, *idle)
        gateway.audit()
        seen: set[str] = set()
        for _ in range(8):
            gateway.deliver(*busy)
            claims = gateway.audit()
            assert len(whole(claims)) == 32  # a record stays small
            seen |= whole(claims)
        assert seen == {*busy, *idle}


def test_streams_left_out_of_a_record_for_its_runs_come_in_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tested, "_REPEATED_RUNS", -1)  # one claim in each record
    with site(tmp_path / "events.db") as gateway:
        gateway.deliver("a", "b", "c")
        gateway.audit()
        assert set.union(*(whole(gateway.audit()) for _ in range(3))) == {"a", "b", "c"}
