"""Forecast of the drain: how much waits, how fast the cloud takes it, and when it will be done.

No clock in here: the caller passes the time. `add` is for one thread, everything else for any.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

SAMPLE_EVERY_S = 1.0
TREND_OVER_S = 60.0
_BACKLOG_S = 3.0  # of intake: less than that is what is under way anyway
_BACKLOG_EVENTS = 500
_LIVE_SHARE = 0.5  # of the drain at most, while a backlog is there; see `buffer.backlog`


class Totals(NamedTuple):
    """Totals at one moment. All but `waiting` and its bytes only grow."""

    at_s: float  # monotonic
    taken_in: int = 0
    acked: int = 0
    derived: int = 0
    waiting: int = 0
    waiting_bytes: int = 0
    stored: int = 0
    connected: bool = True  # to the cloud


class Forecast(NamedTuple):
    """The course of the backlog. `state` is `local` (no cloud configured), `live`, `draining`, `growing` or
    `outage`; the times are None where they are unknown."""

    state: str
    waiting: int
    empty_in_s: float | None
    full_in_s: float | None


class Progress:
    """The totals of the last minute, one a second, and the trends in them."""

    def __init__(self) -> None:
        self._totals: tuple[Totals, ...] = ()  # never changed, only replaced: readers keep what they have
        self._progress_at_s: float | None = None
        self._offline_since_s: float | None = None

    def is_due(self, now_s: float) -> bool:
        """Return True when the next totals are due."""
        return not self._totals or now_s - self._totals[-1].at_s >= SAMPLE_EVERY_S

    def add(self, totals: Totals) -> None:
        """Add the totals of another second."""
        last = self._totals[-1] if self._totals else None
        if last is None or totals.acked != last.acked or not totals.waiting:
            self._progress_at_s = totals.at_s
        if totals.connected:
            self._offline_since_s = None
        elif self._offline_since_s is None:
            self._offline_since_s = totals.at_s
        oldest_s = totals.at_s - TREND_OVER_S
        self._totals = (*(one for one in self._totals if one.at_s >= oldest_s), totals)

    def stalled_s(self) -> float:
        """Return for how long nothing was acknowledged although something waited."""
        totals, progress_at_s = self._totals, self._progress_at_s
        return totals[-1].at_s - progress_at_s if totals and progress_at_s is not None else 0.0

    def drain_rate(self) -> float:
        """Events a second that the cloud acknowledged over the last minute, or since an outage in it."""
        drain = _drain(self._totals)
        return rate(drain[0], drain[-1], "acked") if drain else 0.0

    def backlog_rate(self, measured_s: float) -> float | None:
        """Events a second by which a backlog shrinks beside what comes in live. None as long as the cloud has
        not acknowledged anything for `measured_s`, or there is no connection."""
        drain = _drain(self._totals)
        if (
            not drain
            or not drain[-1].connected
            or drain[-1].at_s - drain[0].at_s < measured_s
            or drain[-1].acked == drain[0].acked
        ):
            return None
        out_per_s = rate(drain[0], drain[-1], "acked")
        return max(out_per_s - rate(drain[0], drain[-1], "stored"), out_per_s * _LIVE_SHARE)

    def forecast(self, *, has_cloud: bool, connected: bool, max_bytes: int) -> Forecast:
        """Return the forecast, assuming that the last minute continues. Of an outage, that is a minute of it:
        the seconds before say nothing about the room that it leaves."""
        totals = self._totals
        if not totals:
            return Forecast("live" if has_cloud else "local", 0, None, None)
        drain = _drain(totals)
        before, now = drain[0], drain[-1]
        growth, swelling = rate(before, now, "waiting"), rate(before, now, "waiting_bytes")
        full_in_s = (max_bytes - now.waiting_bytes) / swelling if swelling > 0 else None
        if not has_cloud:
            return Forecast("local", now.waiting, None, None)
        if not connected:
            since_s = self._offline_since_s
            is_known = since_s is not None and now.at_s - since_s >= TREND_OVER_S
            return Forecast("outage", now.waiting, None, full_in_s if is_known else None)
        if now.waiting <= max(_BACKLOG_EVENTS, _BACKLOG_S * rate(totals[0], now, "taken_in")):
            return Forecast("live", now.waiting, None, None)
        if growth < 0:
            return Forecast("draining", now.waiting, now.waiting / -growth, None)
        return Forecast("growing", now.waiting, None, full_in_s)


def rate(before: Totals, now: Totals, name: str) -> float:
    """Return the rate of one of the totals, per second."""
    elapsed_s = now.at_s - before.at_s
    return (getattr(now, name) - getattr(before, name)) / elapsed_s if elapsed_s > 0 else 0.0


def _drain(totals: tuple[Totals, ...]) -> tuple[Totals, ...]:
    """The totals since the cloud last began to acknowledge; all of them where it did not begin."""
    start = 0
    for at, (before, now) in enumerate(pairwise(totals)):
        waits_in_vain = before.waiting and now.acked == before.acked and now.at_s - before.at_s > 0
        if waits_in_vain and at == start:
            start = at + 1
    return totals[start:] if start < len(totals) - 1 else totals
