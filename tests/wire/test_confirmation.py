"""What a receiver tells a gateway, as JSON and back."""

from __future__ import annotations

import json

import pytest

from gateway.core.errors import DecodeError
from gateway.wire.confirmation import (
    MAX_RANGES,
    MESSAGE_BYTES,
    Confirmation,
    StreamConfirmation,
    confirmation_messages,
    read_confirmation,
)

STATEMENT = Confirmation(
    "plant-7", "ab" * 8, 1_700_000_000_000, (StreamConfirmation("tele/a", ((1, 4), (8, 4711)), ((5, 7),)),)
)


def test_a_statement_is_what_the_docs_show() -> None:
    (payload,) = confirmation_messages(STATEMENT)
    assert json.loads(payload) == {
        "version": 1,
        "gateway": "plant-7",
        "buffer_id": "abababababababab",
        "audit_ms": 1_700_000_000_000,
        "streams": [{"stream": "tele/a", "have": [[1, 4], [8, 4711]], "missing": [[5, 7]]}],
    }
    assert read_confirmation(payload) == STATEMENT


def test_many_streams_and_ranges_come_in_several_messages_that_say_the_same() -> None:
    ranges = tuple((3 * n + 1, 3 * n + 2) for n in range(3 * MAX_RANGES))
    streams = [StreamConfirmation(f"tele/{n}", ((1, n + 1),)) for n in range(2_000)]
    whole = STATEMENT._replace(streams=(StreamConfirmation("a", ranges, ((5, 5),)), *streams))
    payloads = list(confirmation_messages(whole))
    assert max(map(len, payloads)) < MESSAGE_BYTES + 20_000
    parts = [one for payload in payloads for one in read_confirmation(payload).streams]
    assert sum((part.have for part in parts if part.stream == "a"), ()) == ranges
    assert sum((part.missing for part in parts if part.stream == "a"), ()) == ((5, 5),)
    assert [part for part in parts if part.stream != "a"] == streams


def test_nothing_to_tell_is_no_message() -> None:
    assert list(confirmation_messages(STATEMENT._replace(streams=()))) == []


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"gateway": ""},
        {"buffer_id": None},
        {"audit_ms": "now"},
        {"streams": {}},
        {"streams": [1]},
        {"streams": [{"stream": "a", "have": [[0, 1]]}]},
        {"streams": [{"stream": "a", "have": [[2, 1]]}]},
        {"streams": [{"stream": "a", "have": [[1, 5], [5, 6]]}]},
        {"streams": [{"stream": "a", "have": [[1, 2**63]]}]},
        {"streams": [{"stream": "a", "missing": [[1, 2, 3]]}]},
        {"streams": [{"stream": "a", "missing": [[True, 2]]}]},
        {"streams": [{"have": [[1, 2]]}]},
    ],
)
def test_what_is_no_statement_is_refused(change: dict[str, object]) -> None:
    (payload,) = confirmation_messages(STATEMENT)
    with pytest.raises(DecodeError, match="not a confirmation") as refused:
        read_confirmation(json.dumps(json.loads(payload) | change).encode())
    assert refused.value.reason == "confirmation"


@pytest.mark.parametrize("payload", [b"", b"[]", b"\xff", b"{" * 300_000])
def test_neither_is_what_is_no_object(payload: bytes) -> None:
    with pytest.raises(DecodeError):
        read_confirmation(payload)
