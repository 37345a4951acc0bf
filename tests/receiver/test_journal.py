"""The journal of the Parquet output: what was written comes back, of this version and of earlier ones."""

from __future__ import annotations

import pytest

from gateway.core.errors import DecodeError
from gateway.core.events import WireEvent
from gateway.receiver.event_lines import event_line
from gateway.receiver.sinks.journal import events_of_journal_line, journal_line
from gateway.receiver.sinks.sink import Received


def received(number: int, payload: bytes) -> Received:
    event = WireEvent(
        bytes([number]) * 16, f"t/{number}", number, -5, 2**62, number or None, 1, 2, 3, payload
    )
    return Received(f"plant-{number}", event, "b" * number)


EVENTS = [received(n, payload) for n, payload in enumerate([b"", b"\xff\x00\n", b'{"T":1.50}', b'"text"'])]


def test_events_come_back_to_the_last_byte() -> None:
    line = journal_line(EVENTS)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert list(events_of_journal_line(line)) == EVENTS


def test_a_line_of_an_earlier_version_is_one_event() -> None:
    for each in EVENTS:
        assert list(events_of_journal_line(event_line(*each))) == [each]


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"[]\n", id="JSON"),
        pytest.param(journal_line(EVENTS)[:-20], id="cut"),
        pytest.param(journal_line(EVENTS).replace(b'"sizes":[0', b'"sizes":[1,0'), id="another count"),
        pytest.param(journal_line(EVENTS).replace(b'"kinds"', b'"kind"'), id="a column is missing"),
        pytest.param(journal_line(EVENTS).replace(b'"ids":"', b'"ids":"x'), id="no digits"),
    ],
)
def test_any_other_line_is_an_error_before_its_first_event(line: bytes) -> None:
    with pytest.raises(DecodeError):
        next(events_of_journal_line(line))
