"""`gateway receive` into a real PostgreSQL: each event once, resumed, verified."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from gateway.core.errors import DecodeError
from gateway.core.events import Message, WireEvent
from gateway.receiver.completeness import judge
from gateway.receiver.ledger import Ledger, identity
from gateway.receiver.sinks.choice import place_of, sink_of
from gateway.receiver.sinks.sink import OutputError, Received, Sink, reread, resume
from gateway.receiver.stored_output import count_of_table, events_of_table
from gateway.wire.audit_record import AuditRecord, StreamClaim
from tests.support.ports import free_port
from tests.support.postgres import new_database

psycopg = pytest.importorskip("psycopg")


@pytest.fixture
def database(postgres_url: str) -> str:
    return new_database(postgres_url)


def events(numbers: range, payload: bytes = b'{"n":1}') -> list[Received]:
    return [
        Received(
            "plant-7",
            WireEvent(
                uuid.uuid5(uuid.NAMESPACE_OID, str(n)).bytes, "tele/a", n, n, n, None, 2, 0, 0, payload
            ),
        )
        for n in numbers
    ]


def take(sink: Sink, ledger: Ledger, batch: list[Received]) -> int:
    return sink.write([each for each in batch if ledger.take(identity(*each))])


def test_each_event_is_one_row_also_when_only_the_key_knows_it(database: str) -> None:
    sink = sink_of(database)
    assert sink.open() is None
    assert sink.write(events(range(1, 101))) == 100
    assert sink.write(events(range(51, 151))) == 50
    assert sink.write([]) == 0
    sink.close()
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT count(*), min(payload) FROM gateway_events").fetchone() == (
            150,
            '{"n":1}',
        )


def test_a_restart_goes_on_with_the_state_and_what_was_written_behind_it(database: str) -> None:
    sink = sink_of(database)
    ledger = resume(sink)
    take(sink, ledger, events(range(1, 51)))
    sink.save(ledger.dump())
    take(sink, ledger, events(range(51, 101)))
    sink.close()  # as if it had been killed: the state knows only fifty

    sink = sink_of(database)
    ledger = resume(sink)
    assert ledger.events == 100
    assert take(sink, ledger, events(range(1, 111))) == 10
    assert ledger.duplicates == 100
    ledger.hear(AuditRecord("plant-7", "s", 1, {}, (StreamClaim("tele/a", 1, 110),)))
    sink.save(ledger.dump())
    sink.close()

    with psycopg.connect(database) as connection:
        connection.execute("DELETE FROM gateway_events WHERE sequence_num IN (7, 8, 70)")
    sink = sink_of(database)
    found = judge(reread(sink))
    sink.close()
    assert [(gap.first, gap.last) for gap in found.missing] == [(7, 8), (70, 70)]


def test_whole_events_come_back_in_the_order_of_their_ids(database: str) -> None:
    written = events(range(1, 40)) + events(range(40, 42), b"\xff\x00")
    sink = sink_of(database)
    sink.open()
    sink.write(written)
    found = list(events_of_table(database))
    sink.close()
    assert [Received(*one) for one in found] == sorted(written, key=lambda one: one.event.event_id)
    assert count_of_table(database) == len(written)


@pytest.mark.parametrize("payload", [b"\xff\x00", b"a\x00b", "grün".encode(), b""])
def test_any_payload_comes_back_as_it_was(database: str, payload: bytes) -> None:
    sink = sink_of(database)
    sink.open()
    sink.write(events(range(1, 2), payload))
    sink.close()
    with psycopg.connect(database) as connection:
        row = connection.execute("SELECT payload, payload_bytes FROM gateway_events").fetchone()
    assert row is not None
    text, other = row
    assert (text.encode() if other is None else other) == payload


def test_a_second_receiver_is_refused_and_a_rejected_message_is_kept(database: str) -> None:
    first, second = sink_of(database), sink_of(database)
    first.open()
    with pytest.raises(OutputError, match="another process"):
        second.open()
    second.close()
    message = Message("gateway/g/up/batch/0", b"EGBF", 1, False, False, 1, 1, 5)
    first.reject(message, DecodeError("cut short", reason="truncated"))
    first.close()
    with psycopg.connect(database) as connection:
        row = connection.execute("SELECT reason, payload FROM gateway_rejected").fetchone()
    assert row == ("truncated", b"EGBF")


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    url = f"postgresql://me:secret@127.0.0.1:{free_port()}/nowhere"
    program = [sys.executable, "-m", "gateway", "receive", "--verify", "--output", url]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "PostgreSQL" in done.stderr
    assert "secret" not in done.stderr + done.stdout


def test_the_place_of_an_output_holds_no_password() -> None:
    assert place_of("postgresql://me:secret@db/events") == "db/events"
    assert json.dumps(place_of("sqlite:///events.db")).endswith('events.db"')
