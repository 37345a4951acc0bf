"""What readers see: the last commit, whole batches, and never a damaged event as a good one."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from gateway.buffer.compression import train
from gateway.buffer.lock import DataDirLock
from gateway.buffer.reader import Reader, ReadError
from gateway.buffer.stored_events import BATCH_BYTES, fitting
from gateway.core.errors import BufferLockedError, DecodeError, StoreError
from gateway.core.events import Kind
from tests.support.buffers import EPOCH_MS, all_payloads, append, event, events, opened, reading, sql

COLUMNS = {
    "event_id": "zeroblob(16)",
    "stream": "stream + 1",
    "sequence_num": "sequence_num + 1",
    "event_time": "event_time + 1",
    "ingest_time": "ingest_time + 1",
    "device_time": "5",
    "priority": "3",
    "kind": "1",
    "flags": "flags | 4",
    "codec": "1",
    "payload": "CAST('other' AS BLOB)",
    "checksum": "checksum + 1",
}
# What only a damaged page can hold, because columns have no fixed type for SQLite.
ODD = {
    "event_id": "x'0102'",
    "stream": "'text'",
    "sequence_num": "1.5",
    "kind": "1 << 40",
    "priority": "'high'",
    "payload": "'text of 16 chars'",
    "codec": "12345",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Five events, with ids from 1 to 5."""
    path = tmp_path / "events.db"
    with opened(path) as store:
        append(store, events(5))
    return path


def damage(path: Path, id_: int, column: str, value: str) -> None:
    sql(path, f"UPDATE buffer_events SET {column} = {value} WHERE id = ?", id_)  # noqa: S608 - from here


@pytest.mark.parametrize("column", COLUMNS)
def test_a_damaged_column_is_found_and_costs_only_its_event(path: Path, column: str) -> None:
    damage(path, 3, column, COLUMNS[column])
    with reading(path) as reader:
        good, corrupt = reader.without_corrupt(reader.by_ids(range(10)))
        assert corrupt == [3]
        assert good.ids == [1, 2, 4, 5]
        assert reader.payloads(good) == [f"t/a {number}".encode() for number in (0, 1, 3, 4)]


@pytest.mark.parametrize("column, value", ODD.items())
def test_a_column_of_another_type_costs_only_its_event(path: Path, column: str, value: str) -> None:
    damage(path, 3, column, value)
    with reading(path) as reader:
        good, corrupt = reader.without_corrupt(reader.by_ids([1, 2, 3, 4, 5]))
        assert corrupt == [3]
        assert reader.payloads(good) == [f"t/a {number}".encode() for number in (0, 1, 3, 4)]


def test_what_may_change_is_not_under_the_checksum(path: Path) -> None:
    sql(path, "UPDATE buffer_events SET status = 1, retry_count = 7")
    with reading(path) as reader:
        assert reader.without_corrupt(reader.by_ids([1, 2]))[1] == []


def test_every_flipped_bit_of_a_payload_is_found(path: Path) -> None:
    ((payload,),) = sql(path, "SELECT payload FROM buffer_events WHERE id = 3")
    assert isinstance(payload, bytes)
    with reading(path) as reader:
        for bit in range(len(payload) * 8):
            flipped = bytearray(payload)
            flipped[bit // 8] ^= 1 << bit % 8
            sql(path, "UPDATE buffer_events SET payload = ? WHERE id = 3", bytes(flipped))
            assert reader.without_corrupt(reader.by_ids([2, 3, 4]))[1] == [3]


def test_several_damaged_events_are_all_named(path: Path) -> None:
    for id_ in (1, 3, 5):
        damage(path, id_, "payload", "x'00'")
    with reading(path) as reader:
        good, corrupt = reader.without_corrupt(reader.by_ids([1, 2, 3, 4, 5]))
        assert (good.ids, corrupt) == ([2, 4], [1, 3, 5])


def test_an_event_whose_dictionary_is_gone_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    sample = b'{"device": "d%d", "temperature": %d.5, "humidity": 40}'
    dictionary = train([sample % (n % 20, n % 40) for n in range(1000)])
    assert dictionary is not None
    with opened(path) as store:
        with store.transaction():
            store.dictionaries.install("f", dictionary, 0)
        append(store, [event(payload=sample % (1, 1)), event(payload=b"1")])
    sql(path, "DELETE FROM dictionaries")
    with reading(path) as reader:
        found = reader.by_ids([1, 2])
        good, corrupt = reader.without_corrupt(found)
        assert (good.ids, corrupt) == ([2], [1])
        with pytest.raises(DecodeError):
            reader.payloads(found)


def test_events_come_with_all_that_was_appended(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    whole = event("t/ü", b"\x00\xff", at=5, priority=1, kind=Kind.ALERT)
    whole = whole._replace(device_time_ms=EPOCH_MS - 9, flags=12, event_id=bytes(range(16)))
    with opened(path) as store:
        append(store, [event(payload=b""), whole])
    with reading(path) as reader:
        found = reader.by_ids([1, 2])
        assert reader.names(found.stream_ids) == ["t/a", "t/ü"]
        assert reader.payloads(found) == [b"", b"\x00\xff"]
        assert found.event_ids[16:] == bytes(range(16))
        assert found.event_times_ms == found.ingest_times_ms == [EPOCH_MS, EPOCH_MS + 5]
        assert found.device_times_ms == [None, EPOCH_MS - 9]
        assert (found.priorities, found.kinds, found.flags) == ([2, 1], [0, 2], [0, 12])
        assert found.sequence_nums == [1, 1]


def test_missing_ids_are_left_out_and_the_rest_comes_in_order(path: Path) -> None:
    with reading(path) as reader:
        assert reader.by_ids([5, 99, 2, 3]).ids == [2, 3, 5]
        assert reader.by_ids([]).ids == []
        assert reader.payloads(reader.by_ids([99])) == []


def test_raw_and_derived_events_are_followed_apart(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    kinds = [Kind.RAW, Kind.AGGREGATE, Kind.RAW, Kind.ALERT, Kind.AUDIT, Kind.RAW]
    with opened(path) as store:
        append(store, [event(kind=kind) for kind in kinds])
    with reading(path) as reader:
        assert [chunk.ids for chunk in reader.raw_after(0, chunk=2)] == [[1, 3], [6]]
        assert [chunk.ids for chunk in reader.raw_after(3)] == [[6]]
        assert list(reader.raw_after(6)) == []
        assert reader.derived_after(0, 2).ids == [2, 4]
        assert reader.derived_after(4, 2).ids == [5]
        assert reader.derived_after(5, 2).ids == []


def test_a_batch_ends_where_its_bytes_do(tmp_path: Path) -> None:
    """A value of SQLite ends at 1 GB: a batch of many images must not need one."""
    path = tmp_path / "events.db"
    with opened(path) as store:
        append(store, events(6))
    for id_, size in ((1, BATCH_BYTES // 2), (2, BATCH_BYTES // 2), (3, BATCH_BYTES + 1), (5, BATCH_BYTES)):
        damage(path, id_, "payload", f"zeroblob({size})")
    with reading(path) as reader:
        assert [chunk.ids for chunk in reader.raw_after(0)] == [[1, 2], [3], [4], [5], [6]]


@pytest.mark.parametrize(
    "sizes, limit, expected",
    [([], 10, 0), ([50], 10, 1), ([5, 5, 1], 10, 2), ([5, 6], 10, 1), ([0, 0, 0], 0, 3), ([1, 2, 3], 99, 3)],
)
def test_at_least_one_event_fits(sizes: list[int], limit: int, expected: int) -> None:
    assert fitting(sizes, limit) == expected


def test_large_events_are_split_by_their_size_once_decompressed(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with opened(path) as store:
        append(store, [event(payload=b"x" * size) for size in (400, 500, 200, 5000, 1, 1)])
    with reading(path) as reader:
        found = reader.by_ids(range(7))
        assert [found.fitting(start, 6, 1000) for start in range(6)] == [2, 3, 3, 4, 6, 6]
        assert found.fitting(0, 6, 10**6) == 6
        assert found.fitting(0, 4, 10**6) == 4
        assert found.part(1, 3) == reader.by_ids([2, 3])


def test_readers_see_what_is_committed_and_nothing_else(path: Path) -> None:
    with opened(path) as store, reading(path) as reader:
        with store.transaction():
            store.append(events(3))
            store.claim(2)
            assert reader.by_ids(range(10)).ids == [1, 2, 3, 4, 5]
            assert reader.count_by_status() == {0: 5}
        assert reader.count_by_status() == {0: 6, 1: 2}


def test_inside_of_a_snapshot_everything_is_of_one_commit(path: Path) -> None:
    with opened(path) as store, reading(path) as reader:
        with reader.snapshot():
            before = reader.counters()
            append(store, events(3))
            assert reader.counters() == before
            assert reader.count_by_status() == {0: 5}
        assert reader.count_by_status() == {0: 8}


def test_a_reader_cannot_write(path: Path) -> None:
    with reading(path) as reader, pytest.raises(Exception, match="readonly"):
        reader._connection.execute("DELETE FROM buffer_events")
    assert len(all_payloads(path)) == 5


def test_there_is_nothing_to_read_where_there_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ReadError):
        Reader(tmp_path / "events.db")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_learns_new_streams_and_dictionaries_as_they_come(path: Path) -> None:
    sample = b'{"device": "d%d", "temperature": %d.5, "humidity": 40}'
    dictionaries = [train([sample % (n % m, n % 40) for n in range(1000)]) for m in (20, 30)]
    with opened(path) as store, reading(path) as reader:
        for number, dictionary in enumerate(dictionaries):
            assert dictionary is not None
            with store.transaction():
                store.dictionaries.install("f", dictionary, 0)
                store.append([event(f"new/{number}", sample % (number, 7))])
            found = reader.by_ids([6 + number])
            assert found.codecs == [16 + number]
            assert reader.payloads(found) == [sample % (number, 7)]
            assert reader.names(found.stream_ids) == [f"new/{number}"]


# --- one gateway per data directory ---


def test_a_second_gateway_is_refused_with_the_process_id_of_the_first(tmp_path: Path) -> None:
    (tmp_path / "gateway.lock").write_text("999999 of a process that died")
    with DataDirLock(tmp_path):
        with (
            pytest.raises(BufferLockedError, match=rf"process {own_pid()}\)") as refusal,
            DataDirLock(tmp_path),
        ):
            pass
        assert str(tmp_path) in str(refusal.value)
        assert "data_dir" in refusal.value.hint
    for _ in itertools.repeat(None, 2):
        with DataDirLock(tmp_path):
            pass


def own_pid() -> str:
    return Path("/proc/self").resolve().name


def test_a_data_directory_that_does_not_exist_is_no_lock_of_another(tmp_path: Path) -> None:
    with (
        pytest.raises(StoreError, match="nowhere cannot be used: No such file"),
        DataDirLock(tmp_path / "nowhere"),
    ):
        pass
