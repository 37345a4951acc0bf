"""The state of each gateway of a fleet, from its status and audit records alone.

A status record says how many events wait and when the oldest of them came in: everything before it is in the
cloud. Gateways of an earlier version say only that they are online; then the audit records have to do. These
say how many events have which status: a gateway without open ones has brought everything to the cloud that it
had taken in by then, two records tell how fast the rest drains. The arrival of a record shows how far the
gateway's clock is off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from gateway.host.certificates import SOON_S
from gateway.wire.audit_record import AuditRecord

OPEN = ("pending", "syncing")
"""Statuses of events that are still on their way."""
_BAD = ("failed", "corrupt")
_CERTIFICATE_DAYS = SOON_S / 86_400
CLOCK_WRONG_MS = 5_000
"""A clock that differs by more from that of this machine is told; a record takes a moment on its way."""


class GatewayState(NamedTuple):
    """One row of the board. None: not known yet."""

    gateway: str
    state: str | None
    """`online` or `offline`, as its retained status or its will says."""
    version: str | None
    complete_until_ms: int | None
    """Everything that it took in before is in the cloud."""
    open: int | None
    lag_ms: int | None
    """Age of `complete_until_ms`."""
    told_ms: int | None
    """Time of its newest record with numbers."""
    clock: str | None
    """State of its clock as it says itself."""
    clock_ms: int | None
    """Its clock minus that of this machine, of its newest audit record."""
    empty_in_s: float | None
    """Forecast: when what is open will have drained. None: not known, or it does not drain."""
    configuration: str | None
    """The one in use: its version, or else its hash."""
    alarms: tuple[str, ...]
    more: Mapping[str, Any]
    """Further facts of its status record."""


class _Known:
    def __init__(self) -> None:
        self.status: Mapping[str, Any] = {}
        self.status_ms: int | None = None
        self.waiting = 0  # of the newest status with numbers: the last will has none
        self.heard_ms: int | None = None
        self.record: AuditRecord | None = None
        self.open_before: tuple[int, int] | None = None  # time and open events of the record before
        self.complete_until_ms: int | None = None
        self.clock_ms: int | None = None
        self.shed: dict[tuple[str, str, int], int] = {}
        self.lost: dict[tuple[str, str, int], int] = {}

    def reached(self, until_ms: int | None) -> None:
        if until_ms is not None and (self.complete_until_ms is None or until_ms > self.complete_until_ms):
            self.complete_until_ms = until_ms

    @property
    def told_ms(self) -> int | None:
        """Time of the newest record."""
        times = (self.status_ms, None if self.record is None else self.record.time_ms)
        return max((one for one in times if one is not None), default=None)

    @property
    def open(self) -> int | None:
        """Open events, by the newest record."""
        if self.record is None or (self.status_ms is not None and self.status_ms >= self.record.time_ms):
            return None if self.status_ms is None else self.waiting
        return open_events(self.record)


class Board:
    """Takes records as they come. `silent_after_ms`: an online gateway is expected to speak more often."""

    def __init__(self, silent_after_ms: int = 180_000) -> None:
        self._silent_after_ms = silent_after_ms
        self._known: dict[str, _Known] = {}

    @property
    def waits_for(self) -> list[str]:
        """The gateways that are online and have not told any numbers yet."""
        return sorted(
            name
            for name, known in self._known.items()
            if known.record is None and known.status_ms is None and known.status.get("state") == "online"
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
        if not isinstance(fields, dict) or not fields:
            return
        known = self._of(gateway)
        known.status = fields
        said_ms, waiting = fields.get("time_ms"), fields.get("pending")
        if type(said_ms) is not int or type(waiting) is not int:
            return  # of an earlier version, or the last will
        known.status_ms, known.waiting = said_ms, waiting
        oldest_ms = fields.get("oldest_pending_ms")
        known.reached(oldest_ms if waiting and type(oldest_ms) is int else None if waiting else said_ms)

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
            known.reached(record.time_ms)
        for one in record.shed:
            known.shed[one.reason, one.stream, one.first_ms] = one.messages
        for claim in record.claims:
            for exempt in claim.exempt:
                if not exempt.kept:
                    known.lost[exempt.reason, claim.stream, exempt.run.first] = exempt.run.size

    def states(self, now_ms: int) -> list[GatewayState]:
        """Return all gateways: those with alarms first, then those that lag most."""
        found = [self._state(name, known, now_ms) for name, known in self._known.items()]
        return sorted(found, key=lambda one: (not one.alarms, -(one.lag_ms or 0), one.gateway))

    def _of(self, gateway: str) -> _Known:
        return self._known.setdefault(gateway, _Known())

    def _state(self, name: str, known: _Known, now_ms: int) -> GatewayState:
        until_ms = known.complete_until_ms
        more = {name: value for name, value in known.status.items() if name not in ("state", "version")}
        return GatewayState(
            gateway=name,
            state=_text(known.status.get("state")),
            version=_text(known.status.get("version")),
            complete_until_ms=until_ms,
            open=known.open,
            lag_ms=None if until_ms is None else max(0, now_ms - until_ms),
            told_ms=known.told_ms,
            clock=_text(_part(known.status, "clock").get("state")),
            clock_ms=known.clock_ms,
            empty_in_s=_empty_in_s(known),
            configuration=_configuration(_part(known.status, "config")),
            alarms=tuple(self._alarms(known, now_ms)),
            more=more,
        )

    def _alarms(self, known: _Known, now_ms: int) -> Iterator[str]:
        state = known.status.get("state")
        if state not in ("online", None):
            yield str(state)
        heard_ms = max((one for one in (known.status_ms, known.heard_ms) if one is not None), default=None)
        if heard_ms is not None and now_ms - heard_ms > self._silent_after_ms:
            yield "silent"
        problems = known.status.get("problems")
        yield from map(str, problems if isinstance(problems, list) else ())
        if (raised := known.status.get("alarms")) and type(raised) is int:
            yield f"{raised:,} of its windows"
        yield from _of_configuration(_part(known.status, "config"))
        days = known.status.get("certificate_days")
        if isinstance(days, (int, float)) and days < _CERTIFICATE_DAYS:
            yield f"a certificate expires in {days:.0f} days" if days > 0 else "a certificate has expired"
        buffer = {} if known.record is None else known.record.buffer
        for name in _BAD:
            if count := max(buffer.get(name, 0), _count(known.status.get(name))):
                yield f"{count:,} {name}"
        yield from (f"{count:,} lost: {reason}" for reason, count in _by_reason(known.lost))
        yield from (f"{count:,} not taken in: {reason}" for reason, count in _by_reason(known.shed))
        if known.clock_ms is not None and abs(known.clock_ms) > CLOCK_WRONG_MS:
            yield "clock"
        if _falls_behind(known):
            yield "falls behind"


def _of_configuration(config: Mapping[str, Any]) -> Iterator[str]:
    state = config.get("remote_state")
    if state in ("refused", "taken_back"):
        yield f"configuration {config.get('remote_version')} is {str(state).replace('_', ' ')}"


def _configuration(config: Mapping[str, Any]) -> str | None:
    return _text(config.get("version") or config.get("hash"))


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
    left = known.open
    if left == 0:
        return 0.0
    told = _part(known.status, "drain").get("empty_in_s")
    if isinstance(told, (int, float)):
        return float(told)
    rate = _drain_per_s(known)
    return left / rate if left and rate is not None and rate > 0 else None


def _falls_behind(known: _Known) -> bool:
    if known.status_ms is not None:
        return _part(known.status, "drain").get("state") == "growing"
    rate = _drain_per_s(known)
    return bool(known.open) and rate is not None and rate < 0


def _part(status: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = status.get(name)
    return found if isinstance(found, dict) else {}


def _count(value: object) -> int:
    return value if type(value) is int else 0


def _text(value: object) -> str | None:
    return None if value is None else str(value)
