"""Duplicates, gaps, order and lines: the receiver's logic, without a broker or a file."""

from __future__ import annotations

import json
import uuid
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import DecodeError
from gateway.core.events import WireEvent
from gateway.core.sequence_sets import Stretches
from gateway.receiver.event_lines import event_line, event_of_line, identity_of_line
from gateway.receiver.ledger import Gap, Identity, Ledger, identity

EVENT = WireEvent(bytes(range(16)), "tele/a", 7, 1000, 1250, None, 2, 0, 0, b'{"T":21.5}')
INT64 = st.integers(-(2**63), 2**63 - 1)


def event(number: int, *, stream: str = "t", gateway: str = "g", ingest_ms: int | None = None) -> Identity:
    """An event whose id follows from its number, stream, gateway and time of arrival."""
    ingest_time_ms = number if ingest_ms is None else ingest_ms
    event_id = uuid.uuid5(uuid.NAMESPACE_OID, f"{gateway}/{stream}/{number}/{ingest_time_ms}").bytes
    return Identity(gateway, event_id, stream, number, ingest_time_ms)


def taken(ledger: Ledger, *events: Identity) -> list[bool]:
    return [ledger.take(each) for each in events]


@given(st.lists(st.integers(0, 40)), st.lists(st.integers(0, 40), max_size=3))
def test_stretches_are_a_set_of_numbers(numbers: list[int], forgotten: list[int]) -> None:
    stretches, naive = Stretches(), set[int]()
    for number in numbers:
        assert stretches.add(number) is (number not in naive)
        naive.add(number)
    for number in forgotten:
        stretches.forget_from(number)
        naive = {each for each in naive if each < number}
    runs = list(stretches)
    assert {each for first, last in runs for each in range(first, last + 1)} == naive
    assert all(last + 1 < first for (_, last), (first, _) in pairwise(runs))
    assert stretches.last == max(naive, default=None)
    missing = {each for first, last in stretches.gaps() for each in range(first, last + 1)}
    assert missing == set(range(min(naive, default=0), max(naive, default=0))) - naive


def test_a_million_events_in_order_are_one_stretch() -> None:
    stretches = Stretches()
    assert all(stretches.add(number) for number in range(1, 1_000_001))
    assert list(stretches) == [(1, 1_000_000)]


def test_an_event_is_taken_once() -> None:
    ledger = Ledger()
    assert taken(ledger, event(1), event(2), event(1), event(2), event(3)) == [True, True, False, False, True]
    assert (ledger.events, ledger.duplicates, ledger.reordered) == (3, 2, 0)


def test_a_number_tells_a_duplicate_long_after_its_id_was_forgotten() -> None:
    ledger = Ledger(recent_ids=2)
    taken(ledger, *map(event, range(1, 101)))
    assert taken(ledger, event(1), event(50)) == [False, False]


def test_an_id_tells_a_duplicate_that_came_back_under_another_number() -> None:
    ledger = Ledger()
    assert taken(ledger, event(1), event(1)._replace(sequence_num=2), event(3)) == [True, False, True]
    assert list(ledger.gaps()) == []


def test_the_same_number_of_another_stream_or_gateway_is_another_event() -> None:
    ledger = Ledger()
    assert all(taken(ledger, event(1), event(1, stream="u"), event(1, gateway="h")))
    assert ledger.streams == 3


def test_a_gap_is_reported_until_it_is_filled() -> None:
    ledger = Ledger()
    taken(ledger, event(5), event(9), event(10), event(12))
    assert list(ledger.gaps()) == [Gap("g", "t", 6, 8), Gap("g", "t", 11, 11)]
    taken(ledger, event(7), event(11), event(6), event(8))
    assert (list(ledger.gaps()), ledger.reordered) == ([], 4)


def test_a_gateway_that_lost_its_buffer_and_counts_anew_loses_nothing_more() -> None:
    ledger = Ledger(recent_ids=2)
    taken(ledger, *map(event, range(1, 11)))
    reborn = [event(number, ingest_ms=100 + number) for number in range(1, 13)]
    assert taken(ledger, *reborn) == [True] * 12
    assert (ledger.renumbered, ledger.duplicates, list(ledger.gaps())) == (1, 0, [])
    assert taken(ledger, *reborn) == [False] * 12


def test_a_gateway_restored_from_a_backup_keeps_what_was_there_before_it() -> None:
    #  1 2 3 4 5 6      sent, then the disk dies
    #  1 2 3 4 5'6'7'   restored to 4: five and six are other events now
    ledger = Ledger()
    taken(ledger, *map(event, range(1, 7)))
    after = [event(number, ingest_ms=100 + number) for number in range(5, 8)]
    assert taken(ledger, event(4), *after) == [False, True, True, True]
    assert (ledger.renumbered, list(ledger.gaps())) == (1, [])


def test_the_ledger_forgets_old_ids() -> None:
    ledger = Ledger(recent_ids=3)
    taken(ledger, *map(event, range(1, 5)))
    assert taken(ledger, event(1)._replace(sequence_num=5), event(4)._replace(sequence_num=6)) == [
        True,
        False,
    ]


@given(st.lists(st.lists(st.tuples(st.sampled_from("tu"), st.integers(1, 30)), max_size=30), max_size=4))
def test_however_often_and_in_whatever_order_they_come_each_is_taken_once(
    runs: list[list[tuple[str, int]]],
) -> None:
    """After each run the ledger is rebuilt from what was taken, as a restarted receiver does."""
    taken_before: list[Identity] = []
    for run in runs:
        ledger = Ledger(recent_ids=5)
        assert all(taken(ledger, *taken_before))
        for stream, number in run:
            one = event(number, stream=stream, ingest_ms=0)
            assert ledger.take(one) is (one not in taken_before)
            if one not in taken_before:
                taken_before.append(one)


def line(**changes: object) -> dict[str, object]:
    written = event_line("plant-7", EVENT._replace(**changes))  # type: ignore[arg-type]
    assert written.endswith(b"\n")
    assert written.count(b"\n") == 1
    fields: dict[str, object] = json.loads(written)
    return fields


def test_a_line_says_everything_about_its_event() -> None:
    assert line(flags=9, device_time_ms=999) == {
        "event_id": "00010203-0405-0607-0809-0a0b0c0d0e0f",
        "gateway": "plant-7",
        "stream": "tele/a",
        "sequence_num": 7,
        "event_time_ms": 1000,
        "ingest_time_ms": 1250,
        "device_time_ms": 999,
        "priority": "normal",
        "kind": "raw",
        "flags": ["retained", "corrected"],
        "payload": {"T": 21.5},
    }


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        (b"21.5", 21.5),
        (b'{"a":\r\n  1}', {"a": 1}),
        (b"null", None),
        (b"online", "online"),
        (b"NaN", "NaN"),
        (b"", ""),
        ("grün\n".encode(), "grün\n"),
    ],
)
def test_a_payload_is_json_where_it_is_json_and_text_otherwise(payload: bytes, shown: object) -> None:
    fields = line(payload=payload)
    assert fields["payload"] == shown
    assert "payload_b64" not in fields


def test_a_number_keeps_every_digit() -> None:
    digits = b"12345678901234567890.10"
    assert b'"payload":' + digits in event_line("g", EVENT._replace(payload=digits))


def test_bytes_that_are_no_text_are_base64() -> None:
    fields = line(payload=b"\xff\x00")
    assert fields["payload_b64"] == "/wA="
    assert "payload" not in fields


def test_values_without_a_name_stay_numbers() -> None:
    fields = line(priority=9, kind=8, flags=0b1000_0001)
    assert (fields["priority"], fields["kind"], fields["flags"]) == (9, 8, ["retained", 128])


@given(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.builds(
        WireEvent,
        event_id=st.binary(min_size=16, max_size=16),
        stream=st.text(st.characters(exclude_categories=["Cs"])),
        sequence_num=INT64,
        event_time_ms=INT64,
        ingest_time_ms=INT64,
        device_time_ms=st.none() | INT64,
        priority=st.integers(0, 255),
        kind=st.integers(0, 255),
        flags=st.integers(0, 65_535),
        payload=st.binary()
        | st.sampled_from(
            [b"[1,\n2]", b'"\\n"', b'"21.5"', b' "x" ', b'\n{"a": "b"} ', b"1e400", b"[" * 2000]
        ),
    ),
)
def test_every_event_is_one_line_that_tells_who_it_is(gateway_id: str, wire_event: WireEvent) -> None:
    written = event_line(gateway_id, wire_event)
    assert written.index(b"\n") == len(written) - 1
    assert identity_of_line(written) == identity(gateway_id, wire_event)
    assert event_of_line(written) == (gateway_id, wire_event, "")


@pytest.mark.parametrize(
    "other",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"event_id":',
        event_line("g", EVENT).replace(b'"sequence_num":7', b'"sequence_num":"7"'),
        event_line("g", EVENT).replace(b'"00010203-', b'"'),
        event_line("g", EVENT).replace(b'"event_id":"00010203-0405-0607-0809-0a0b0c0d0e0f"', b'"event_id":5'),
    ],
)
def test_a_line_of_somebody_else_is_refused(other: bytes) -> None:
    with pytest.raises(DecodeError, match="not a line"):
        identity_of_line(other)
