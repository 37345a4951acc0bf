"""A receiver that could not write takes nothing more, also not what the broker sends again at once."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import orjson
import pytest

from gateway.core.errors import DecodeError
from gateway.core.events import Message
from gateway.mqtt.link import Link
from gateway.receiver.session import Receiver
from gateway.receiver.sinks.ndjson import EventFile
from gateway.receiver.sinks.sink import resume
from gateway.wire.frame import encode_batch
from tests.receiver.test_session import PLANT, events


class Acknowledged:
    """What a link is asked to acknowledge."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def ack(self, *messages: Message) -> None:
        self.messages += messages


def test_what_comes_again_after_a_failed_write_is_not_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = EventFile(tmp_path / "events.ndjson")
    receiver = Receiver("gateway", "+", sink, resume(sink))
    acknowledged = Acknowledged()
    link = cast(Link, acknowledged)
    frame = encode_batch("plant-7", bytes(16), events(range(1, 10)))
    message = Message(PLANT.batch(0), frame, 1, False, False, 1, 1, 1)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sink, "write", full)
    with pytest.raises(OSError, match="No space"):
        receiver.received(link, [message])
    receiver.received(link, [message._replace(dup=True, epoch=2)])
    assert acknowledged.messages == []
    sink.close()


def test_what_a_crash_left_of_a_line_does_not_spoil_the_record_that_comes_again(tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    sink = EventFile(path)
    resume(sink)
    sink.keep_records([b"one"])
    message = Message("a/b", b"x", 1, False, False, 1, 1, 1)
    for name in ("records", "rejected"):
        with path.with_name(f"{path.name}.{name}").open("ab") as file:
            file.write(b"tw")
    sink.keep_records([b"two"])
    sink.reject(message, DecodeError("no frame", reason="magic"))
    assert [*sink.records()] == [b"one", b"two"]
    (line,) = path.with_name(f"{path.name}.rejected").read_bytes().splitlines()
    assert orjson.loads(line)["reason"] == "magic"
    sink.close()
