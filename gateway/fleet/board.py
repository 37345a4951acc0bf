"""The state of each gateway of a fleet, from its status and audit records alone.

An audit record says how many events have which status in the gateway's buffer, and when that was. So a
gateway whose buffer held nothing open has brought everything to the cloud that it had taken in by then. Two
records tell how fast the rest drains, and the arrival of a record how far the gateway's clock is off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from gateway.wire.audit_record import AuditRecord

OPEN = ("pending", "syncing")
"""Statuses of events that are still on their way."""
_BAD = ("failed", "corrupt")
CLOCK_WRONG_MS = 5_000
"""A clock that differs by more from that of this machine is told; a record takes a moment on its way."""


class GatewayState(NamedTuple):
    """One row of the board. None: not known yet."""

    gateway: str
    state: str | None
    """`online` or `offline`, as its retained status or its will says."""
    version: str | None
    complete_until_ms: int | None
    """Time of the last record with nothing open."""
    open: int | None
    lag_ms: int | None
    """Age of `complete_until_ms`."""
    audited_ms: int | None
    clock_ms: int | None
    """Its clock minus that of this machine, of the newest record that was not kept for us."""
    empty_in_s: float | None
    """Forecast: when what is open will have drained. None: not known, or it does not drain."""
    alarms: tuple[str, ...]
    more: Mapping[str, Any]
    """Further facts of its status record."""


class _Known:
    def __init__(self) -> None:
        self.status: Mapping[str, Any] = {}
        self.heard_ms: int | None = None
        self.record: AuditRecord | None = None
        self.open_before: tuple[int, int] | None = None  # time and open events of the record before
        self.complete_until_ms: int | None = None
        self.clock_ms: int | None = None
        self.shed: dict[tuple[str, str, int], int] = {}
        self.lost: dict[tuple[str, str, int], int] = {}


class Board:
    """Takes records as they come. `silent_after_ms`: an online gateway is expected to speak more often."""

    def __init__(self, silent_after_ms: int = 180_000) -> None:
        self._silent_after_ms = silent_after_ms
        self._known: dict[str, _Known] = {}

    @property
    def waits_for(self) -> list[str]:
        """The gateways that are online and have not sent a record yet."""
        return sorted(
            name
            for name, known in self._known.items()
            if known.record is None and known.status.get("state") == "online"
        )

    @property
    def is_empty(self) -> bool:
        """True if no gateway was heard of."""
        return not self._known

    def take_status(self, gateway: str, payload: bytes) -> None:
        """Take a status message; an empty one, which removes a retained one, is ignored."""
        try:
            fields = orjson.loads(payload or b"{}")
        except orjson.JSONDecodeError:
            fields = {"state": "unreadable"}
        if isinstance(fields, dict) and fields:
            self._of(gateway).status = fields

    def take_audit(self, record: AuditRecord, arrived_ms: int) -> None:
        """Take an audit record, or a part of one."""
        known = self._of(record.gateway_id)
        if known.record is not None and record.time_ms < known.record.time_ms:
            return
        if known.record is not None and record.time_ms > known.record.time_ms:
            known.open_before = known.record.time_ms, open_events(known.record)
        known.record = record
        known.heard_ms = arrived_ms
        known.clock_ms = record.time_ms - arrived_ms
        if not open_events(record):
            known.complete_until_ms = record.time_ms
        for one in record.shed:
            known.shed[one.reason, one.stream, one.first_ms] = one.messages
        for claim in record.claims:
            for exempt in claim.exempt:
                if not exempt.kept:
                    known.lost[exempt.reason, claim.stream, exempt.run.first] = exempt.run.size

    def states(self, now_ms: int) -> list[GatewayState]:
        """All gateways: those with alarms first, then those that lag most."""
        found = [self._state(name, known, now_ms) for name, known in self._known.items()]
        return sorted(found, key=lambda one: (not one.alarms, -(one.lag_ms or 0), one.gateway))

    def _of(self, gateway: str) -> _Known:
        return self._known.setdefault(gateway, _Known())

    def _state(self, name: str, known: _Known, now_ms: int) -> GatewayState:
        record, until_ms = known.record, known.complete_until_ms
        status = dict(known.status)
        return GatewayState(
            gateway=name,
            state=_text(status.pop("state", None)),
            version=_text(status.pop("version", None)),
            complete_until_ms=until_ms,
            open=None if record is None else open_events(record),
            lag_ms=None if until_ms is None else max(0, now_ms - until_ms),
            audited_ms=None if record is None else record.time_ms,
            clock_ms=known.clock_ms,
            empty_in_s=_empty_in_s(known),
            alarms=tuple(self._alarms(known, now_ms)),
            more=status,
        )

    def _alarms(self, known: _Known, now_ms: int) -> list[str]:
        record, state = known.record, known.status.get("state")
        found = [] if state in ("online", None) else [str(state)]
        if known.heard_ms is not None and now_ms - known.heard_ms > self._silent_after_ms:
            found.append("silent")
        if record is not None:
            found += [f"{record.buffer[name]:,} {name}" for name in _BAD if record.buffer.get(name)]
        found += [f"{count:,} lost: {reason}" for reason, count in _by_reason(known.lost)]
        found += [f"{count:,} not taken in: {reason}" for reason, count in _by_reason(known.shed)]
        if known.clock_ms is not None and abs(known.clock_ms) > CLOCK_WRONG_MS:
            found.append("clock")
        if record is not None and open_events(record) and _grows(known):
            found.append("falls behind")
        return found


def _by_reason(ranges: Mapping[tuple[str, str, int], int]) -> list[tuple[str, int]]:
    """The totals of ranges. A claim that is made again stands for the same range."""
    totals: Counter[str] = Counter()
    for (reason, _, _), count in ranges.items():
        totals[reason] += count
    return sorted(totals.items())


def open_events(record: AuditRecord) -> int:
    """Number of events of a gateway that are not in the cloud yet."""
    return sum(record.buffer.get(name, 0) for name in OPEN)


def _drain_per_s(known: _Known) -> float | None:
    if known.record is None or known.open_before is None:
        return None
    before_ms, before = known.open_before
    return (before - open_events(known.record)) / ((known.record.time_ms - before_ms) / 1000)


def _empty_in_s(known: _Known) -> float | None:
    if known.record is None:
        return None
    left, rate = open_events(known.record), _drain_per_s(known)
    if not left:
        return 0.0
    return left / rate if rate is not None and rate > 0 else None


def _grows(known: _Known) -> bool:
    rate = _drain_per_s(known)
    return rate is not None and rate < 0


def _text(value: object) -> str | None:
    return None if value is None else str(value)
