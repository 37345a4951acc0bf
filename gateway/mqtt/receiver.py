"""The reference consumer: takes what the bridge sends to the cloud broker and writes it to a file, once.

Persist, then acknowledge: a message is acknowledged when its lines have been flushed and fsynced. What was
not acknowledged comes again after a reconnect or a restart, and the ledger, rebuilt from the file, knows it.
"""

from __future__ import annotations

import fcntl
import io
import logging
import os
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import orjson

from gateway.codec import decode_batch
from gateway.errors import DecodeError, GatewayError
from gateway.events import Message, WireEvent
from gateway.files import sync_folder
from gateway.mqtt.connection import Link, Session
from gateway.receiving import Identity, Ledger, event_line, identity, identity_of_line
from gateway.uplink import event_from_message, parse_uplink_topic, uplink_filters

log = logging.getLogger(__name__)


class OutputError(GatewayError):
    """Raised when the output file cannot be used as it is."""


class EventFile:
    """A file of event lines that is appended to, and locked against a second receiver.

    `open` reads what an earlier run wrote and cuts off a last line that a crash left unfinished.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rejected_path = path.with_name(path.name + ".rejected")
        self._file: io.FileIO | None = None

    def open(self) -> Iterator[Identity]:
        """Open the file and go through the events in it. Raises OutputError or OSError."""
        is_new = not self.path.exists()
        self._file = self.path.open("ab", buffering=0)  # what failed must not be tried again on closing
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise OutputError(f"another process writes to {self.path}") from exc
        if is_new:
            sync_folder(self.path.parent)
        return self._read(self._file)

    def append(self, lines: list[bytes]) -> None:
        """Write complete lines and wait until they are on the disk. Raises OSError."""
        if self._file is None or not lines:
            return
        unwritten = memoryview(b"".join(lines))
        while unwritten:
            unwritten = unwritten[self._file.write(unwritten) :]
        os.fsync(self._file.fileno())

    def reject(self, message: Message, error: DecodeError) -> None:
        """Keep a message that could not be read, beside the file. Raises OSError."""
        with self.rejected_path.open("ab") as rejected:
            rejected.write(_rejected_line(message, error))
            rejected.flush()
            os.fsync(rejected.fileno())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read(self, file: io.FileIO) -> Iterator[Identity]:
        end = 0
        with self.path.open("rb") as written:
            for number, line in enumerate(written, start=1):
                if not line.endswith(b"\n"):
                    log.warning("%s: an unfinished last line is cut off", self.path)
                    file.truncate(end)
                    return
                end += len(line)
                yield self._identity(number, line)

    def _identity(self, number: int, line: bytes) -> Identity:
        try:
            return identity_of_line(line)
        except DecodeError as exc:
            hint = "give another --output, or remove the line if a disk error left it"
            raise OutputError(f"{self.path}, line {number}: {exc}", hint=hint) from exc


class Receiver(Session):
    """The session of the receiving connection. When it cannot go on, `failure` says why, and `done` is set.

    `prefix` is the gateways' topic prefix, `gateway_id` one of them or `+` for all.
    """

    def __init__(self, prefix: str, gateway_id: str, output: EventFile, ledger: Ledger) -> None:
        self.messages = 0
        self.written = 0
        self.rejected = 0
        self.last_arrival_s = time.monotonic()
        self.done = threading.Event()
        self.failure: Exception | None = None
        self._prefix = prefix
        self._filters = uplink_filters(prefix, gateway_id)
        self._output = output
        self._ledger = ledger

    def connected(self, link: Link, session_present: bool) -> None:
        self.last_arrival_s = time.monotonic()
        link.subscribe([(topic_filter, 1) for topic_filter in self._filters])

    def received(self, link: Link, messages: list[Message]) -> None:
        try:
            self._write(messages)
        except Exception as exc:
            # Whatever it was, the ledger has counted what is not on the disk: acknowledging anything from
            # here on could lose it. The next run rebuilds the ledger from the file.
            self.failure = exc
            self.done.set()
            raise
        for message in messages:
            if message.qos:
                link.ack(message.epoch, message.packet_id)
        self.last_arrival_s = time.monotonic()

    def wants_to_read(self) -> bool:
        return self.failure is None

    def _write(self, messages: list[Message]) -> None:
        lines: list[bytes] = []
        for message in messages:
            try:
                lines += self._new_lines(message)
            except DecodeError as exc:
                self.rejected += 1
                log.warning("%s: rejected: %s", message.topic, exc)
                self._output.reject(message, exc)
        self._output.append(lines)
        self.messages += len(messages)
        self.written += len(lines)

    def _new_lines(self, message: Message) -> list[bytes]:
        gateway_id, events = self._decode(message)
        return [
            event_line(gateway_id, event)
            for event in events
            if self._ledger.take(identity(gateway_id, event))
        ]

    def _decode(self, message: Message) -> tuple[str, list[WireEvent]]:
        topic = parse_uplink_topic(self._prefix, message.topic)
        if topic is None:
            return "", []  # a broker may send retained messages that nobody asked for
        if topic.form == "event":
            return topic.gateway_id, [event_from_message(topic.rest, message.properties, message.payload)]
        batch = decode_batch(message.payload)
        if batch.gateway_id != topic.gateway_id:
            raise DecodeError(f"a frame of {batch.gateway_id} on another gateway's topic", reason="gateway")
        return batch.gateway_id, batch.events


def _rejected_line(message: Message, error: DecodeError) -> bytes:
    fields = {
        "topic": message.topic,
        "arrival_ms": message.arrival_ms,
        "reason": error.reason,
        "error": str(error),
        "payload_b64": b64encode(message.payload).decode(),
    }
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)
