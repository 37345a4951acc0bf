"""The history's file: what was added is found, packed or not, in order; the oldest goes first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from gateway.buffer.event_history import TimeRange
from gateway.buffer.history.blocks import PastResult, pack, unpack
from gateway.buffer.history.history_audit import audit_history
from gateway.buffer.history.past_results import PastResults
from gateway.buffer.history.results_file import PACKED_AFTER_MS, NewResult, ResultsFile
from gateway.core.errors import DecodeError, StoreError
from gateway.core.events import Kind
from tests.support.buffers import EPOCH_MS, sql

MINUTE_MS = 60_000
EVER = 1 << 62


def result(number: int, key: str = "a", sequence: int | None = None) -> NewResult:
    """The result of minute `number`, with that id."""
    time_ms = EPOCH_MS + number * MINUTE_MS
    payload = b'{"window":"m","key":"%b","start_ms":%d}' % (key.encode(), time_ms)
    return NewResult(
        PastResult(number, time_ms, f"g/aggregates/m/{key}", payload), sequence or number, time_ms
    )


def add(file: ResultsFile, *found: NewResult) -> None:
    with file.transaction():
        file.add(found, max(one.result.id for one in found))


def found(
    path: Path, stream: str = "#", from_ms: int = 0, to_ms: int = EVER, after: int = 0
) -> list[PastResult]:
    wanted = TimeRange(stream, frozenset({Kind.AGGREGATE}), from_ms, to_ms)
    with closing(PastResults(path)) as past:
        return [row for rows in past.found(wanted, after) for row in rows]


@pytest.fixture
def file(tmp_path: Path) -> Iterator[ResultsFile]:
    with closing(ResultsFile(tmp_path / "history.db")) as opened:
        yield opened


def test_a_block_gives_back_what_was_packed() -> None:
    rows = [PastResult(7, 100, "t", b"{}"), PastResult(9, 50, "t", b'{"a":"\xc3\xbc"}')]
    block = pack([7, 9], [100, 50], [row.payload for row in rows])
    assert unpack("t", block) == rows
    with pytest.raises(DecodeError):
        unpack("t", block[:-3])
    with pytest.raises(DecodeError):
        unpack("t", bytes([*block[:-5], block[-5] ^ 1, *block[-4:]]))


@pytest.mark.parametrize("packed", ["none", "some", "all"])
def test_results_are_found_by_time_and_series_whether_they_are_packed_or_not(
    file: ResultsFile, packed: str
) -> None:
    every = [result(number, "ab"[number % 2], 1 + number // 2) for number in range(1, 21)]
    add(file, *every[:10])
    if packed != "none":
        file.pack_fresh()
    add(file, *every[10:])
    if packed == "all":
        file.pack_fresh()
    rows = [one.result for one in every]
    assert found(file.path) == rows
    assert found(file.path, "g/aggregates/m/a") == [row for row in rows if row.topic.endswith("a")]
    assert found(file.path, after=13) == rows[13:]
    start_ms = EPOCH_MS + 5 * MINUTE_MS
    assert found(file.path, from_ms=start_ms, to_ms=start_ms + 10 * MINUTE_MS) == rows[4:14]
    assert found(file.path, "g/aggregates/m/c") == []


def test_what_waits_for_an_hour_is_packed(file: ResultsFile) -> None:
    assert not file.is_packing_due(EPOCH_MS)
    add(file, result(0))
    assert not file.is_packing_due(EPOCH_MS + PACKED_AFTER_MS - 1)
    assert file.is_packing_due(EPOCH_MS + PACKED_AFTER_MS)


def test_a_result_that_never_came_counts_as_missed(file: ResultsFile) -> None:
    add(file, result(1, sequence=500))  # the history began late: what was before is not missed
    add(file, result(2, sequence=501), result(3, sequence=504))
    assert file.numbers["missed"] == 2
    assert file.held() == 3


def test_the_oldest_segment_goes_first_and_whole(file: ResultsFile) -> None:
    for start in (1, 11, 21):
        add(file, *(result(number) for number in range(start, start + 10)))
        file.pack_fresh()
    assert file.remove_before(result(10).stored_ms) == 0
    assert file.remove_before(result(10).stored_ms + 1) == 10
    assert file.remove_before(result(10).stored_ms + 1) == 0
    assert file.remove_oldest("size") == 10
    assert [row.id for row in found(file.path)] == [*range(21, 31)]
    assert (file.held(), file.numbers["removed_age"], file.numbers["removed_size"]) == (10, 10, 10)
    assert file.oldest_ms() == result(30).stored_ms


def test_a_new_buffer_goes_on_behind_the_old_one(file: ResultsFile) -> None:
    add(file, *(result(number) for number in range(1, 6)))
    file.begin_again()
    add(file, result(1), result(2))
    assert [row.id for row in found(file.path)] == [1, 2, 3, 4, 5, 6, 7]
    assert (file.numbers["position"], file.numbers["missed"]) == (2, 0)


def test_a_failed_transaction_changes_nothing(file: ResultsFile) -> None:
    add(file, result(1))
    with pytest.raises(apsw.ConstraintError):
        add(file, result(2), result(1, "b"))
    assert (file.held(), file.numbers["position"]) == (1, 1)
    add(file, result(2, "b", 1))
    assert [row.topic[-1] for row in found(file.path)] == ["a", "b"]


def test_everything_is_there_after_a_new_start(file: ResultsFile) -> None:
    add(file, result(1), result(2))
    file.pack_fresh()
    add(file, result(3))
    with closing(ResultsFile(file.path)) as again:
        assert again.numbers == file.numbers
        add(again, result(4))
    assert [row.id for row in found(file.path)] == [1, 2, 3, 4]


def test_a_damaged_block_is_left_out_and_counted(file: ResultsFile) -> None:
    add(file, result(1), result(2, "b", 1))
    file.pack_fresh()
    sql(file.path, "UPDATE blocks SET data = substr(data, 1, 20) WHERE series = 1")
    with closing(PastResults(file.path)) as past:
        wanted = TimeRange("#", frozenset({Kind.AGGREGATE}), 0, EVER)
        assert [row.id for rows in past.found(wanted) for row in rows] == [2]
        assert past.damaged_blocks == 1


def test_the_file_of_a_newer_gateway_is_refused(file: ResultsFile) -> None:
    sql(file.path, "UPDATE numbers SET value = 2 WHERE name = 'version'")
    with pytest.raises(StoreError, match="newer gateway"):
        ResultsFile(file.path)


def test_the_audit_reads_every_block(file: ResultsFile) -> None:
    add(file, *(result(number) for number in range(1, 11)))
    file.pack_fresh()
    add(file, result(11))
    found = audit_history(file.path)
    assert (found.results, found.oldest_ms, found.problems) == (11, result(10).stored_ms, ())
    sql(file.path, "UPDATE blocks SET data = substr(data, 1, 20)")
    sql(file.path, "DELETE FROM fresh")
    assert audit_history(file.path).problems == (
        "history: 11 results should be here, but 10 are",
        "history: 1 blocks are damaged; the first is 1",
    )
