"""Requests for what a gateway has kept at the edge, and its answers: JSON, as docs/wire-format.md has it."""

from __future__ import annotations

from typing import Literal, NamedTuple

import orjson

from gateway.core.errors import DecodeError, TopicError
from gateway.core.topics import check_filter

MAX_REQUEST_BYTES = 4096
_MAX_TIME_MS = 2**53

State = Literal["started", "done", "refused"]


class BackfillRequest(NamedTuple):
    """The events of the streams that a topic filter matches, which happened from `from_ms` until before
    `to_ms`. `label` comes back in the answers."""

    stream: str
    from_ms: int
    to_ms: int
    label: str = ""


def read_backfill_request(payload: bytes) -> BackfillRequest:
    """Read a request. Raises DecodeError with the reason `malformed`."""
    if len(payload) > MAX_REQUEST_BYTES:
        raise DecodeError(f"a request of {len(payload)} bytes", reason="malformed")
    try:
        found = orjson.loads(payload)
        request = BackfillRequest(
            found["stream"], found["from_ms"], found["to_ms"], str(found.get("label", ""))
        )
        check_filter(request.stream)
    except (ValueError, KeyError, TypeError, AttributeError, TopicError) as exc:
        raise DecodeError(
            f"not a request such as {{'stream': 'a/#', 'from_ms': 1, 'to_ms': 2}}: {exc}", reason="malformed"
        ) from exc
    for at in (request.from_ms, request.to_ms):
        if type(at) is not int or abs(at) > _MAX_TIME_MS:
            raise DecodeError(f"from_ms and to_ms are milliseconds, not {at!r}", reason="malformed")
    return request


def backfill_answer(request: BackfillRequest | None, state: State, **facts: object) -> bytes:
    """Return the answer to a request: the request itself, its state, and what belongs to that."""
    asked = (
        {} if request is None else {name: value for name, value in request._asdict().items() if value != ""}
    )
    return orjson.dumps({"state": state, **asked, **facts})
