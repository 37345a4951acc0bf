"""Past results for the API: from the history, where one is kept, and the newest from the buffer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from gateway.buffer.event_history import TimeRange, found_in
from gateway.buffer.history.blocks import PastResult
from gateway.buffer.history.past_results import PastResults
from gateway.buffer.reader import Reader
from gateway.status.gateway_status import GatewayStatus

ROWS_AT_ONCE = 500


class StoredResults:
    """Finds results by time; `reader` is that of the buffer. For one thread. Raises ReadError."""

    def __init__(self, status: GatewayStatus) -> None:
        self._keeper = status.past
        self._past: PastResults | None = None
        self._openings = 0
        self.corrupt = 0
        """Results and blocks that were left out because they cannot be read."""

    def close(self) -> None:
        if self._past is not None:
            self._past.close()
            self._past = None

    def found(self, reader: Reader, wanted: TimeRange, after_id: int) -> Iterator[list[PastResult]]:
        """The results behind `after_id`, in the order of their ids; some parts are empty."""
        copied_to = offset = 0
        past = self._opened()
        if past is not None:
            for rows in past.found(wanted, after_id):
                yield from _parts(rows)
            copied_to, offset = past.copied_to, past.offset
            self.corrupt, past.damaged_blocks = self.corrupt + past.damaged_blocks, 0
        for ids in found_in(reader, wanted, max(copied_to, after_id - offset)):
            yield []
            for some in _parts(ids):
                yield self._read(reader, some, offset)

    def _read(self, reader: Reader, ids: list[int], offset: int) -> list[PastResult]:
        events, corrupt = reader.without_corrupt(reader.by_ids(ids))
        self.corrupt += len(corrupt)
        return [
            PastResult(buffer_id + offset, time_ms, topic, payload)
            for buffer_id, time_ms, topic, payload in zip(
                events.ids,
                events.event_times_ms,
                reader.names(events.stream_ids),
                reader.payloads(events),
                strict=True,
            )
        ]

    def _opened(self) -> PastResults | None:
        openings = 0 if self._keeper is None else self._keeper.metrics.openings
        if openings != self._openings:  # a damaged file may have been replaced
            self.close()
        if self._keeper is not None and openings and self._past is None:
            self._past, self._openings = PastResults(self._keeper.path), openings
        return self._past


_T = TypeVar("_T")


def _parts(rows: list[_T]) -> Iterator[list[_T]]:
    for start in range(0, len(rows), ROWS_AT_ONCE):
        yield rows[start : start + ROWS_AT_ONCE]
