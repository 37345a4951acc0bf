"""`--output parquet:DIR`: every event once, after crashes too, and readable by DuckDB."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

import pytest

from gateway.core.events import WireEvent
from gateway.receiver.completeness import Completeness, judge
from gateway.receiver.device_names import DeviceNames
from gateway.receiver.event_lines import event_line
from gateway.receiver.ledger import identity
from gateway.receiver.sinks.choice import is_there, place_of, sink_of
from gateway.receiver.sinks.parquet import ParquetFolder
from gateway.receiver.sinks.sink import OutputError, Received, Sink, reread, resume
from gateway.receiver.stored_output import events_of_output
from gateway.wire.audit_record import AuditRecord, StreamClaim

duckdb = pytest.importorskip("duckdb")
DAY_MS = 86_400_000
START_MS = 1_700_000_000_000 // DAY_MS * DAY_MS


def events(numbers: range, payload: bytes = b'{"T":1.5}') -> list[Received]:
    return [
        Received(
            "plant-7",
            WireEvent(
                uuid.uuid5(uuid.NAMESPACE_OID, str(n)).bytes,
                *("tele/a/SENSOR", n, START_MS + n * DAY_MS // 10, START_MS + n, None, 1, 0, 0, payload),
            ),
            "b",
        )
        for n in numbers
    ]


def take(sink: Sink, batch: list[Received]) -> int:
    ledger = resume(sink)
    taken = sink.write([each for each in batch if ledger.take(identity(*each))])
    sink.save(ledger.dump())
    return taken


def proof(folder: Path) -> Completeness:
    sink = ParquetFolder(folder)
    try:
        return judge(reread(sink))
    finally:
        sink.close()


def ask(folder: Path, sql: str) -> list[tuple[object, ...]]:
    with duckdb.connect() as connection:
        found: list[tuple[object, ...]] = connection.execute(
            sql.replace("EVENTS", f"read_parquet('{folder}/*/*.parquet')")
        ).fetchall()
        return found


def test_duckdb_reads_what_was_received_by_day(tmp_path: Path) -> None:
    sink = sink_of(f"parquet:{tmp_path}/events", DeviceNames(["tele/{device}/SENSOR"]))
    assert take(sink, [*events(range(1, 26)), *events(range(26, 27), b"\xff\x00")]) == 26
    sink.close()
    folder = tmp_path / "events"
    assert sorted(path.name for path in folder.glob("day=*")) == [
        "day=2023-11-14",
        "day=2023-11-15",
        "day=2023-11-16",
    ]
    sql = "SELECT day, count(*), min(device), sum((payload ->> '$.T')::DOUBLE), count(payload_bytes)"
    assert ask(folder, f"{sql}::INTEGER FROM EVENTS GROUP BY day ORDER BY 2")[0][1:] == (7, "a", 9.0, 1)
    assert ask(folder, "SELECT epoch_ms(min(event_time)) FROM EVENTS") == [(START_MS + DAY_MS // 10,)]
    assert not list(folder.glob("*.ndjson"))


def test_a_killed_receiver_knows_what_it_had_written(tmp_path: Path) -> None:
    killed = ParquetFolder(tmp_path, journal_events=10)
    assert take(killed, events(range(1, 13))) == 12  # ten and more become files
    killed.write(events(range(13, 16)))  # behind the state, in the journal
    with next(tmp_path.glob("*.ndjson")).open("ab") as journal:
        journal.write(b'{"event_id":"half a li')
    crashed = tmp_path / "crashed"
    shutil.copytree(tmp_path, crashed, ignore=shutil.ignore_patterns("crashed"))
    killed.close()

    sink = ParquetFolder(crashed, journal_events=10)
    assert take(sink, events(range(1, 21))) == 5
    sink.close()
    assert ask(crashed, "SELECT count(*), count(DISTINCT event_id) FROM EVENTS") == [(20, 20)]


def test_a_crash_before_the_journal_is_removed_puts_nothing_there_twice(tmp_path: Path) -> None:
    sink = ParquetFolder(tmp_path)
    take(sink, events(range(1, 6)))
    journal = next(tmp_path.glob("*.ndjson"))
    lines = journal.read_bytes()
    sink.close()
    journal.write_bytes(lines)
    half = tmp_path / "day=2023-11-14" / "000007.parquet.new"
    half.write_bytes(b"PAR1")

    sink = ParquetFolder(tmp_path)
    assert take(sink, events(range(1, 8))) == 2
    sink.close()
    assert ask(tmp_path, "SELECT count(*), count(DISTINCT event_id) FROM EVENTS") == [(7, 7)]
    assert not half.exists()


def test_times_of_no_year_are_in_one_folder_and_none_is_lost(tmp_path: Path) -> None:
    sink = ParquetFolder(tmp_path)
    far = [
        Received("plant-7", each.event._replace(event_time_ms=time_ms))
        for each, time_ms in zip(events(range(1, 5)), (2**62, -(2**62), 2**61, 0), strict=True)
    ]
    take(sink, far)
    sink.close()
    assert sorted(path.name for path in tmp_path.glob("day=*")) == ["day=1970-01-01", "day=unknown"]
    assert ask(tmp_path, "SELECT count(DISTINCT event_id) FROM EVENTS") == [(4,)]


def test_it_is_verified_by_its_files(tmp_path: Path) -> None:
    sink = ParquetFolder(tmp_path)
    ledger = resume(sink)
    batch = events(range(1, 11))
    for each in batch:
        ledger.take(identity(*each))
    sink.write(batch)
    ledger.hear(AuditRecord("plant-7", "s", 1, {}, (StreamClaim("tele/a/SENSOR", 1, 10),), (), "b"))
    sink.save(ledger.dump())
    sink.close()
    assert proof(tmp_path).complete
    (tmp_path / "day=2023-11-14" / "000001.parquet").unlink()
    assert proof(tmp_path).missing[0][2:4] == (1, 9)


def test_one_receiver_at_a_time_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    sink = ParquetFolder(tmp_path)
    take(sink, events(range(1, 3)))
    with pytest.raises(OutputError, match="another process writes"):
        ParquetFolder(tmp_path).open()
    sink.close()
    part = next(tmp_path.glob("*/*.parquet"))
    part.write_bytes(part.read_bytes()[:-4] + b"PAR2")
    sink = ParquetFolder(tmp_path)
    with pytest.raises(OutputError, match="cannot be read"):
        reread(sink)
    sink.close()


def test_a_journal_of_an_earlier_version_becomes_files(tmp_path: Path) -> None:
    (tmp_path / "000003.ndjson").write_bytes(b"".join(event_line(*each) for each in events(range(1, 8))))
    sink = ParquetFolder(tmp_path)
    assert take(sink, events(range(1, 11))) == 3
    sink.close()
    assert ask(tmp_path, "SELECT count(*), count(DISTINCT event_id) FROM EVENTS") == [(10, 10)]
    assert {path.name for path in tmp_path.glob("*/*.parquet")} == {"000003.parquet"}


def test_the_rows_of_a_file_are_in_the_order_of_streams_and_times(tmp_path: Path) -> None:
    mixed = [
        each._replace(event=each.event._replace(stream=f"tele/{'ba'[n % 2]}"))
        for n, each in enumerate(reversed(events(range(1, 9))))
    ]
    sink = ParquetFolder(tmp_path)
    take(sink, [each._replace(event=each.event._replace(event_time_ms=START_MS)) for each in mixed])
    sink.close()
    assert ask(tmp_path, "SELECT stream, sequence_num FROM EVENTS") == [
        *(
            (f"tele/{name}", n)
            for name, numbers in (("a", (1, 3, 5, 7)), ("b", (2, 4, 6, 8)))
            for n in numbers
        )
    ]


def test_the_place_of_a_folder(tmp_path: Path) -> None:
    assert is_there(f"parquet:{tmp_path}")
    assert not is_there(f"parquet:{tmp_path}/none")
    assert place_of(f"parquet:{tmp_path}/x/..") == f"parquet:{tmp_path}"


def test_whole_events_come_back_also_those_that_were_in_the_journal(tmp_path: Path) -> None:
    odd = [b"\xff\x00", b'"text"', b"[1,\n2]", b""]
    written = [*events(range(1, 30)), *(events(range(n, n + 1), odd[n - 30])[0] for n in range(30, 34))]
    sink = ParquetFolder(tmp_path / "out", journal_events=20)
    take(sink, written[:25])
    sink.close()
    take(sink := ParquetFolder(tmp_path / "out"), written[25:])
    sink.close()
    found = [Received(*one) for one in events_of_output(f"parquet:{tmp_path / 'out'}")]
    assert sorted(found, key=lambda one: one.event.sequence_num) == written
