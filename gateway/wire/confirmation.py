"""Statements of a receiver to a gateway: numbers of its streams that are on its disk, or that it misses.

A message tells of some streams what is new or has changed; each of its ranges is true by itself, so it may
come twice, late or not at all. docs/wire-format.md specifies the JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import orjson

from gateway.core.packed_json import packed
from gateway.core.sequence_sets import Stretch
from gateway.wire.json_message import JsonMessage

VERSION = 1
MESSAGE_BYTES = 32 * 1024  # of streams in one message
MAX_RANGES = 500  # of one stream in one message
MAX_MESSAGE_BYTES = 256 * 1024  # what a gateway reads

_MAX_NUMBER = 2**63 - 1
_MESSAGE = JsonMessage("a confirmation", "confirmation", VERSION, MAX_MESSAGE_BYTES)


class StreamConfirmation(NamedTuple):
    """Sequence numbers of one stream, as first and last of runs, rising and apart."""

    stream: str
    have: tuple[Stretch, ...] = ()
    missing: tuple[Stretch, ...] = ()

    def parts(self) -> Iterator[StreamConfirmation]:
        """The same with at most MAX_RANGES ranges each."""
        for start in range(0, len(self.have), MAX_RANGES):
            yield StreamConfirmation(self.stream, self.have[start : start + MAX_RANGES])
        for start in range(0, len(self.missing), MAX_RANGES):
            yield StreamConfirmation(self.stream, (), self.missing[start : start + MAX_RANGES])


class Confirmation(NamedTuple):
    """One message to one gateway, about one of its buffers.

    `audit_ms` is the time of the gateway's audit record that says that the receiver should have what it
    misses. The gateway needs it: what it has sent again since then may still be on its way.
    """

    gateway_id: str
    buffer_id: str
    audit_ms: int
    streams: tuple[StreamConfirmation, ...]


def confirmation_messages(confirmation: Confirmation) -> Iterator[bytes]:
    """The payloads, in as many messages as it takes; none where there is nothing to tell."""
    batch: list[bytes] = []
    batch_bytes = 0
    for part in (part for whole in confirmation.streams for part in _joined(whole)):
        encoded = packed(_fields(part))
        if batch and batch_bytes + len(encoded) > MESSAGE_BYTES:
            yield _message(confirmation, batch)
            batch, batch_bytes = [], 0
        batch.append(encoded)
        batch_bytes += len(encoded) + 1
    if batch:
        yield _message(confirmation, batch)


def _joined(whole: StreamConfirmation) -> Iterable[StreamConfirmation]:
    return [whole] if len(whole.have) + len(whole.missing) <= MAX_RANGES else whole.parts()


def _fields(part: StreamConfirmation) -> dict[str, object]:
    found: dict[str, object] = {"stream": part.stream}
    return (
        found
        | ({"have": part.have} if part.have else {})
        | ({"missing": part.missing} if part.missing else {})
    )


def _message(confirmation: Confirmation, streams: Iterable[bytes]) -> bytes:
    return orjson.dumps(
        {
            "version": VERSION,
            "gateway": confirmation.gateway_id,
            "buffer_id": confirmation.buffer_id,
            "audit_ms": confirmation.audit_ms,
            "streams": [orjson.Fragment(stream) for stream in streams],
        }
    )


def read_confirmation(payload: bytes) -> Confirmation:
    """Read one message. Raises DecodeError with the reason `confirmation`."""
    fields = _MESSAGE.read(payload)
    streams, audit_ms = fields.get("streams"), fields.get("audit_ms")
    if not isinstance(streams, list) or type(audit_ms) is not int or abs(audit_ms) > _MAX_NUMBER:
        raise _MESSAGE.refusal("it lacks streams or audit_ms")
    return Confirmation(
        _MESSAGE.text(fields, "gateway"),
        _MESSAGE.text(fields, "buffer_id"),
        audit_ms,
        tuple(map(_stream, streams)),
    )


def _stream(fields: Any) -> StreamConfirmation:
    if not isinstance(fields, dict):
        raise _MESSAGE.refusal("a stream is no object")
    return StreamConfirmation(
        _MESSAGE.text(fields, "stream"), _ranges(fields, "have"), _ranges(fields, "missing")
    )


def _ranges(fields: dict[str, Any], name: str) -> tuple[Stretch, ...]:
    found = fields.get(name, [])
    if not isinstance(found, list):
        raise _MESSAGE.refusal(f"{name} is no list of ranges")
    ranges: list[Stretch] = []
    after = 0
    for each in found:
        if not isinstance(each, list) or len(each) != 2 or any(type(number) is not int for number in each):
            raise _MESSAGE.refusal(f"{name} holds what is no range")
        first, last = each
        if not after < first <= last <= _MAX_NUMBER:
            raise _MESSAGE.refusal(f"the ranges of {name} do not rise from 1")
        ranges.append((first, last))
        after = last
    return tuple(ranges)
