"""State table of an alarm. An unlisted (state, event) pair raises AlarmError and changes nothing."""

from __future__ import annotations

from enum import Enum

from gateway.core.errors import AlarmError


class AlarmEvent(Enum):
    """Event that changes an alarm."""

    RAISED = "raised"  # the window found a value beyond its limit, or a device is silent
    REPEATED = "repeated"  # it still lasts
    OVER = "over"  # the value is back, or the device is heard again
    ACKNOWLEDGED = "acknowledged"  # somebody has seen it
    CLEARED = "cleared"  # somebody ended it by hand


ACTIVE, ACKNOWLEDGED, CLEARED = "active", "acknowledged", "cleared"
STATES = (ACTIVE, ACKNOWLEDGED, CLEARED)
ON = frozenset((ACTIVE, ACKNOWLEDGED))
SILENT = "device_silent"
"""The name that stands for a window in the alarms of silent devices; the key is the device."""

TRANSITIONS: dict[tuple[str | None, AlarmEvent], str] = {
    (None, AlarmEvent.RAISED): ACTIVE,
    (None, AlarmEvent.OVER): CLEARED,
    (ACTIVE, AlarmEvent.RAISED): ACTIVE,
    (ACTIVE, AlarmEvent.REPEATED): ACTIVE,
    (ACTIVE, AlarmEvent.OVER): CLEARED,
    (ACTIVE, AlarmEvent.ACKNOWLEDGED): ACKNOWLEDGED,
    (ACTIVE, AlarmEvent.CLEARED): CLEARED,
    (ACKNOWLEDGED, AlarmEvent.RAISED): ACTIVE,  # it ended and came back unseen
    (ACKNOWLEDGED, AlarmEvent.REPEATED): ACKNOWLEDGED,
    (ACKNOWLEDGED, AlarmEvent.OVER): CLEARED,
    (ACKNOWLEDGED, AlarmEvent.CLEARED): CLEARED,
    (CLEARED, AlarmEvent.RAISED): ACTIVE,
    (CLEARED, AlarmEvent.REPEATED): ACTIVE,  # cleared by hand, but it lasts
    (CLEARED, AlarmEvent.OVER): CLEARED,
}
"""(state, event) → state; None is an alarm that never was."""


def follow(state: str | None, event: AlarmEvent) -> str:
    """Return the state after `event`. Raises AlarmError when the table has none."""
    after = TRANSITIONS.get((state, event))
    if after is None:
        raise AlarmError(f"an alarm that is {state or 'unknown'} cannot be {event.value}")
    return after
