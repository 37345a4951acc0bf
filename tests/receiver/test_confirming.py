"""What a receiver confirms is on the disk of its output, whatever the output is."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from gateway.core.events import Message
from gateway.mqtt.link import Link
from gateway.receiver.session import Receiver
from gateway.receiver.sinks.choice import sink_of
from gateway.receiver.sinks.sink import resume
from gateway.wire.audit_record import AuditRecord, StreamClaim, audit_messages
from gateway.wire.confirmation import Confirmation, read_confirmation
from gateway.wire.frame import EventColumns, encode_columns
from tests.receiver.test_session import PLANT, events

OUTPUTS = {
    "lines": "{}/events.ndjson",
    "SQLite": "sqlite:///{}/events.db",
    "Parquet": "parquet:{}/events",
    "InfluxDB": "influx+http://127.0.0.1:9/write?db=none#{}/influx",
}


class Wire:
    """A link that keeps what is published and acknowledged on it."""

    congested = False

    def __init__(self) -> None:
        self.acknowledged = 0
        self.told: list[Confirmation] = []

    def ack(self, *messages: Message) -> None:
        self.acknowledged += len(messages)

    def publish(self, topic: str, payload: bytes) -> int:
        assert topic == "gateway/plant-7/down/confirm"
        self.told.append(read_confirmation(payload))
        return len(self.told)


def audit(time_ms: int, last: int) -> Message:
    claim = (StreamClaim("tele/a", 1, last),)
    (payload,) = audit_messages(AuditRecord("plant-7", "s", time_ms, {}, claim, (), "b", confirm=True))
    return Message(PLANT.audit, payload, 1, False, False, 1, 1, 1)


def frame(first: int, last: int) -> Message:
    event_ids, *columns = zip(*events(range(first, last + 1)), strict=True)
    told = EventColumns(b"".join(event_ids), *columns)
    payload = encode_columns("plant-7", bytes(16), told, buffer_id="b")
    return Message(PLANT.batch(0), payload, 1, False, False, 1, 1, 1)


@pytest.mark.parametrize("output", ["lines", "SQLite", "Parquet"])
def test_what_is_written_is_confirmed_and_what_is_claimed_and_not_there_is_asked_for(
    output: str, tmp_path: Path
) -> None:
    sink = sink_of(OUTPUTS[output].format(tmp_path))
    receiver, wire = Receiver("gateway", "+", sink, resume(sink), confirm_every_s=0), Wire()
    link = cast(Link, wire)
    receiver.received(link, [frame(1, 9)])
    receiver.work(link)
    assert not wire.told  # the gateway has not said that it waits for it
    receiver.received(link, [audit(1000, 9)])
    receiver.work(link)
    ((stream,),) = (told.streams for told in wire.told)
    assert (stream.have, stream.missing) == (((1, 9),), ())
    receiver.received(link, [audit(2000, 12), frame(13, 14)])
    receiver.work(link)
    (stream,) = wire.told[-1].streams
    assert (wire.told[-1].audit_ms, stream.have, stream.missing) == (2000, ((1, 9), (13, 14)), ((10, 12),))
    sink.close()


@pytest.mark.parametrize("output", OUTPUTS)
def test_what_could_not_be_written_is_not_confirmed(
    output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = sink_of(OUTPUTS[output].format(tmp_path))
    receiver, wire = Receiver("gateway", "+", sink, resume(sink), confirm_every_s=0), Wire()
    link = cast(Link, wire)
    receiver.received(link, [audit(1000, 1)])

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sink, "write", full)
    with pytest.raises(OSError, match="No space"):
        receiver.received(link, [frame(1, 9)])
    receiver.work(link)
    receiver.leaving(link)
    assert not wire.told
    assert wire.acknowledged == 1
    sink.close()
