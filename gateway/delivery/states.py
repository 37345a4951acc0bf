"""State table of buffered events on their way to the cloud.

An unlisted (status, event) pair raises DeliveryError and changes nothing. The SQL of `gateway.buffer`
names the states it moves from and to through `sources` and `target`, so that this table stays the only
place that knows.

An event becomes FAILED by REJECTION or EXHAUSTED: `delivery.refusals` says which answers of a broker are a
rejection, and `buffer.claims` counts the attempts.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from gateway.core.errors import DeliveryError
from gateway.core.events import Status


class DeliveryEvent(Enum):
    """A transition trigger: it moves an event from one status to the next."""

    CLAIM = "claim"  # the bridge took it into a frame
    PUBACK = "puback"  # the cloud broker acknowledged the frame
    FAILURE = "failure"  # refused, timed out, or the connection or the process died
    EXHAUSTED = "exhausted"  # a failure, and no retries are left
    REJECTION = "rejection"  # the cloud broker says that it will never take it
    RETRY = "retry"  # an operator wants it sent again
    DROP = "drop"  # an operator gives it up; an alert says so
    CONFIRM = "confirm"  # the receiver has it on its disk; noted by its number, see `buffer.confirmed_runs`
    EVICT = "evict"  # retention needs the room
    FORWARD = "forward"  # a kept event was requested
    RESEND = "resend"  # the receiver does not have it
    MISMATCH = "mismatch"  # its checksum is wrong: kept for inspection, never sent


ENTRIES: dict[Status, str] = {Status.PENDING: "ingested", Status.KEPT: "ingested, not to be sent"}
"""The statuses in which an entry begins, and when."""

GONE = None
"""The entry leaves the buffer; what remains is a count."""

TRANSITIONS: dict[tuple[Status, DeliveryEvent], Status | None] = {
    (Status.PENDING, DeliveryEvent.CLAIM): Status.SYNCING,
    (Status.PENDING, DeliveryEvent.EVICT): GONE,
    (Status.PENDING, DeliveryEvent.DROP): GONE,
    (Status.PENDING, DeliveryEvent.MISMATCH): Status.CORRUPT,
    (Status.SYNCING, DeliveryEvent.PUBACK): Status.SYNCED,
    (Status.SYNCING, DeliveryEvent.FAILURE): Status.PENDING,
    (Status.SYNCING, DeliveryEvent.EXHAUSTED): Status.FAILED,
    (Status.SYNCING, DeliveryEvent.REJECTION): Status.FAILED,
    (Status.SYNCING, DeliveryEvent.MISMATCH): Status.CORRUPT,
    (Status.SYNCED, DeliveryEvent.CONFIRM): Status.SYNCED,
    (Status.SYNCED, DeliveryEvent.EVICT): GONE,
    (Status.SYNCED, DeliveryEvent.RESEND): Status.PENDING,
    (Status.KEPT, DeliveryEvent.FORWARD): Status.PENDING,
    (Status.KEPT, DeliveryEvent.DROP): GONE,
    (Status.KEPT, DeliveryEvent.EVICT): GONE,
    (Status.KEPT, DeliveryEvent.MISMATCH): Status.CORRUPT,
    (Status.FAILED, DeliveryEvent.RETRY): Status.PENDING,
    (Status.FAILED, DeliveryEvent.DROP): GONE,
    (Status.FAILED, DeliveryEvent.EVICT): GONE,
    (Status.CORRUPT, DeliveryEvent.DROP): GONE,
    (Status.CORRUPT, DeliveryEvent.EVICT): GONE,
}


@dataclass(frozen=True)
class Backoff:
    """Pauses and number of attempts for events that the cloud refused."""

    min_ms: int = 1_000
    max_ms: int = 300_000
    max_attempts: int = 20

    def pause_ms(self, refusals: int, chance: float) -> int:
        """The pause after so many refusals in a row: from `min_ms` to something that doubles with each of
        them, up to `max_ms`. `chance`, in [0, 1), says where in between."""
        longest_ms = min(self.max_ms, self.min_ms << min(refusals, 32))
        return round(self.min_ms + chance * (longest_ms - self.min_ms))


def target(status: Status, happening: DeliveryEvent) -> Status | None:
    """The status after `happening`, or None when the entry is gone. Raises DeliveryError."""
    try:
        return TRANSITIONS[status, happening]
    except KeyError:
        raise DeliveryError(f"an entry that is {status.name} cannot {happening.value}") from None


def sources(happening: DeliveryEvent) -> tuple[Status, ...]:
    """The statuses in which `happening` is allowed."""
    return tuple(status for status, event in TRANSITIONS if event is happening)


def mermaid() -> str:
    """The table as a Mermaid state diagram, for the docs."""
    lines = ["stateDiagram-v2"]
    lines += [f"    [*] --> {status.name}: {when}" for status, when in ENTRIES.items()]
    for (status, happening), after in TRANSITIONS.items():
        lines.append(f"    {status.name} --> {after.name if after is not None else '[*]'}: {happening.value}")
    return "\n".join(lines)
