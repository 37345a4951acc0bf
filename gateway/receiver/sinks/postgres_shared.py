"""The tables of PostgreSQL, written by several receivers of one group (`gateway receive --share GROUP`).

Invariants:
- What is in the table is there once, whoever writes it: the event's id is the primary key.
- No receiver sees all events of a stream, so none keeps a state; the claims of the gateways are in the table
  `gateway_claims`, a row for each gateway, and each receiver adds to them what it hears.
- A member's number, and with it its session at the broker, belongs to the connection that holds its lock.
  The lock ends with the connection, so that what a killed member leaves is free for the others.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from gateway.core.sequence_sets import Stretch
from gateway.receiver.device_names import DeviceNames
from gateway.receiver.ledger import Identity, Ledger, Series
from gateway.receiver.sinks.postgres import ADVISORY_LOCK, EventDatabase
from gateway.receiver.sinks.sink import IN_USE_HINT, OutputError
from gateway.wire.audit_record import AuditRecord

log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS gateway_members (share text, member integer, PRIMARY KEY (share, member));
CREATE INDEX IF NOT EXISTS gateway_events_numbers ON gateway_events (stream, sequence_num);
"""
# A machine that lost its power must not hold its locks for two hours.
_KEEPALIVE = "SET tcp_keepalives_idle = 20; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 4"
_PRESENT = """
SELECT DISTINCT sequence_num FROM gateway_events WHERE stream = %s AND gateway = %s AND buffer = %s
AND sequence_num BETWEEN %s AND %s ORDER BY sequence_num LIMIT %s
"""
_LOOKED_UP = 100_000  # numbers in one answer


class SharedDatabase(EventDatabase):
    """A sink of one member of the group `share`."""

    def __init__(self, url: str, share: str, devices: DeviceNames | None = None) -> None:
        super().__init__(url, devices)
        self.group = share
        self._members: set[int] = set()
        self._taken_last = -1

    def open(self) -> bytes | None:
        with self._errors():
            connection = self._connect()
            (locked,) = self._one("SELECT pg_try_advisory_lock_shared(%s)", ADVISORY_LOCK)
            if not locked:
                raise OutputError(f"a receiver without --share writes to {self.name}", hint=IN_USE_HINT)
            with self._schema_lock():
                self._create(connection)
                connection.execute(_SCHEMA)
                self._adopt_state()
            connection.execute(_KEEPALIVE)
            connection.commit()
        return None

    def behind_state(self) -> Iterator[Identity]:
        return iter(())

    def save(self, state: bytes) -> None:
        """Do nothing: one member knows only a part of what the table holds."""

    # --- what the gateways claim ---

    def hear(self, record: AuditRecord) -> None:
        """Add the claims of one audit record to those that are there."""
        with self._errors(), self._open_connection.transaction():
            self._lock_row(record.gateway_id)
            ledger = self._claims_of(record.gateway_id)
            word = ledger.words.get(record.gateway_id)
            if word is not None and record.time_ms < word.time_ms:
                if record.session != word.session:
                    return  # of a run of the gateway that is over
                record = record._replace(time_ms=word.time_ms, buffer=word.buffer)
            ledger.hear(record)
            self._put_claims(record.gateway_id, ledger)

    def present(self, series: Series, wanted: Sequence[Stretch]) -> list[Stretch]:
        """Return those of the numbers `wanted` that are in the table."""
        found: list[Stretch] = []
        with self._errors(), self._open_connection.transaction():
            for first, last in wanted:
                found += ((number, number) for number in self._numbers(series, first, last))
        return found

    def _numbers(self, series: Series, first: int, last: int) -> Iterator[int]:
        """Yield the rows' numbers from `first` to `last`; the work goes by the rows, not by the claim."""
        names = series.stream, series.gateway_id, series.buffer_id
        while first <= last:
            rows = self._open_connection.execute(_PRESENT, (*names, first, last, _LOOKED_UP)).fetchall()
            yield from (number for (number,) in rows)
            if len(rows) < _LOOKED_UP:
                return
            first = rows[-1][0] + 1

    # --- the members ---

    def join(self) -> int:
        """Return the lowest number that no living member has; it is this one's until `close`."""
        with self._errors():
            number = next(number for number in range(1 << 31) if self._try(number))
            self._open_connection.execute(
                "INSERT INTO gateway_members VALUES (%s, %s) ON CONFLICT DO NOTHING", (self.group, number)
            )
            self._open_connection.commit()
            self._members.add(number)
        return number

    def take_abandoned(self) -> int | None:
        """Return the number of a member that is gone, and take it; None where there is none."""
        with self._errors(), self._open_connection.transaction():
            rows = self._open_connection.execute(
                "SELECT member FROM gateway_members WHERE share = %s ORDER BY member", (self.group,)
            ).fetchall()
        # Round and round, so that one whose session cannot be emptied does not hold up the others.
        for (number,) in sorted(rows, key=lambda row: (row[0] <= self._taken_last, row[0])):
            if number not in self._members:
                with self._errors():
                    if self._try(number):
                        self._members.add(number)
                        self._taken_last = number
                        return int(number)
        return None

    def forget(self, number: int) -> None:
        """The session of that member is empty and ended."""
        with self._errors(), self._open_connection.transaction():
            self._open_connection.execute(
                "DELETE FROM gateway_members WHERE share = %s AND member = %s", (self.group, number)
            )
        self.release(number)

    def release(self, number: int) -> None:
        """Let another member take that number; its session may still hold messages."""
        with self._errors():
            self._one("SELECT pg_advisory_unlock(hashtext(%s), %s)", f"gateway {self.group}", number)
            self._open_connection.commit()
            self._members.discard(number)

    def _try(self, number: int) -> bool:
        (locked,) = self._one(
            "SELECT pg_try_advisory_lock(hashtext(%s), %s)", f"gateway {self.group}", number
        )
        self._open_connection.commit()
        return bool(locked)

    def _lock_row(self, gateway_id: str) -> None:
        """Lock a gateway's row until the end of the transaction, also where there is no row yet."""
        self._one("SELECT pg_advisory_xact_lock(hashtext('gateway claims'), hashtext(%s))", gateway_id)

    def _claims_of(self, gateway_id: str) -> Ledger:
        ledger = Ledger()
        (state,) = self._one("SELECT state FROM gateway_claims WHERE gateway = %s", gateway_id)
        if state is not None:
            ledger.load(bytes(state))
        return ledger

    def _put_claims(self, gateway_id: str, ledger: Ledger) -> None:
        self._open_connection.execute(
            "INSERT INTO gateway_claims VALUES (%s, %s)"
            " ON CONFLICT (gateway) DO UPDATE SET state = excluded.state",
            (gateway_id, ledger.dump()),
        )

    def _adopt_state(self) -> None:
        """Take over the claims that a receiver without a group has kept."""
        (state,) = self._one("SELECT state FROM gateway_receiver")
        if state is None:
            return
        ledger = Ledger()
        ledger.load(bytes(state))
        for gateway_id in {*ledger.words, *ledger.buffers}:
            self._put_claims(gateway_id, ledger.claims_of(gateway_id))
        self._open_connection.execute("DELETE FROM gateway_receiver")
        log.info("the claims of %d gateways are now shared", len(ledger.words))
