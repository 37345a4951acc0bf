"""Requests for what is kept at the edge: what is read, and what is answered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core.errors import DecodeError
from gateway.wire.backfill import BackfillRequest, backfill_answer, read_backfill_request

WANTED: dict[str, Any] = {"stream": "a/+", "from_ms": 1, "to_ms": 2}


def test_a_request_comes_back_in_its_answer() -> None:
    request = read_backfill_request(json.dumps({**WANTED, "label": "ticket 7"}).encode())
    assert request == BackfillRequest("a/+", 1, 2, "ticket 7")
    assert json.loads(backfill_answer(request, "done", events=3)) == {
        "state": "done",
        **WANTED,
        "label": "ticket 7",
        "events": 3,
    }


@pytest.mark.parametrize(
    "change",
    [
        {"stream": 5},
        {"stream": "a/#/b"},
        {"from_ms": "1"},
        {"to_ms": 2.5},
        {"from_ms": True},
        {"to_ms": 2**60},
        {"label": "x" * 5000},
    ],
)
def test_what_is_no_request_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(DecodeError):
        read_backfill_request(json.dumps({**WANTED, **change}).encode())


@pytest.mark.parametrize("payload", [b"", b"[]", b"{}", b"\xff", b'{"stream":"a"}'])
def test_other_payloads_are_refused(payload: bytes) -> None:
    with pytest.raises(DecodeError):
        read_backfill_request(payload)
