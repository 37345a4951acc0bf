"""The last quarter of an hour in numbers, one row a second: rates, and what becomes of the backlog.

No clock in here: whoever samples brings the time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

KEPT_ROWS = 900
RATE_OVER_S = 5.0
TREND_OVER_S = 30.0
STALLED_AFTER_S = 60.0
_BACKLOG_S = 3.0  # of intake: less than that is what is under way anyway
_BACKLOG_EVENTS = 500


class Totals(NamedTuple):
    """What had been counted at one moment. All but `waiting` and its bytes only grow."""

    at_s: float  # monotonic
    taken_in: int = 0
    acked: int = 0
    derived: int = 0
    waiting: int = 0
    waiting_bytes: int = 0


class Forecast(NamedTuple):
    """Where the backlog goes. `state` is `local` (no cloud configured), `live`, `draining`, `growing` or
    `outage`; the times are None where they cannot be said."""

    state: str
    waiting: int
    empty_in_s: float | None
    full_in_s: float | None


class Row(NamedTuple):
    """One second for the charts."""

    time_ms: int
    in_per_s: float
    out_per_s: float
    waiting: int


class History:
    """Rows for the charts, and the rates and trends behind them."""

    def __init__(self) -> None:
        self._totals: deque[Totals] = deque(maxlen=round(TREND_OVER_S) + 1)
        self._rows: deque[Row] = deque(maxlen=KEPT_ROWS)
        self._progress_at_s: float | None = None

    def add(self, time_ms: int, totals: Totals) -> None:
        """One more second."""
        last = self._totals[-1] if self._totals else None
        if last is None or totals.acked != last.acked or not totals.waiting:
            self._progress_at_s = totals.at_s
        self._totals.append(totals)
        before = last or totals
        self._rows.append(
            Row(time_ms, _rate(before, totals, "taken_in"), _rate(before, totals, "acked"), totals.waiting)
        )

    @property
    def latest(self) -> Row | None:
        return self._rows[-1] if self._rows else None

    def rows(self) -> Iterable[Row]:
        return self._rows

    def rate(self, name: str) -> float:
        """Of one of the totals, per second, over the last few seconds."""
        if not self._totals:
            return 0.0
        return _rate(self._before(RATE_OVER_S), self._totals[-1], name)

    def stalled_s(self) -> float:
        """For how long nothing was acknowledged although something waited."""
        if self._progress_at_s is None:
            return 0.0
        return self._totals[-1].at_s - self._progress_at_s

    def forecast(self, *, has_cloud: bool, connected: bool, max_bytes: int) -> Forecast:
        """What becomes of the backlog, if it goes on as in the last half minute."""
        if not self._totals:
            return Forecast("live" if has_cloud else "local", 0, None, None)
        now, before = self._totals[-1], self._before(TREND_OVER_S)
        growth, swelling = _rate(before, now, "waiting"), _rate(before, now, "waiting_bytes")
        full_in_s = (max_bytes - now.waiting_bytes) / swelling if swelling > 0 else None
        if not has_cloud:
            return Forecast("local", now.waiting, None, None)
        if not connected:
            return Forecast("outage", now.waiting, None, full_in_s)
        if now.waiting <= max(_BACKLOG_EVENTS, _BACKLOG_S * self.rate("taken_in")):
            return Forecast("live", now.waiting, None, None)
        if growth < 0:
            return Forecast("draining", now.waiting, now.waiting / -growth, None)
        return Forecast("growing", now.waiting, None, full_in_s)

    def _before(self, span_s: float) -> Totals:
        """The oldest totals that are no older than `span_s`."""
        limit_s = self._totals[-1].at_s - span_s
        return next(totals for totals in self._totals if totals.at_s >= limit_s)


def _rate(before: Totals, now: Totals, name: str) -> float:
    elapsed_s = now.at_s - before.at_s
    return (getattr(now, name) - getattr(before, name)) / elapsed_s if elapsed_s > 0 else 0.0
