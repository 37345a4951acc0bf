"""What to do about a publish that the cloud broker refused, by the reason code of its PUBACK (MQTT 5).

docs/bridge.md has the table for people; `tests/delivery/test_refusals.py` compares the two.
"""

from __future__ import annotations

from enum import Enum

REFUSED = 0x80
"""Reason codes from here on are refusals."""
TOO_LARGE = 0x95


class RefusalVerdict(Enum):
    """What a refusal means for the events of the refused message."""

    WAIT = "wait"  # the broker's own limit: the same message again after a pause, which counts for nothing
    SPLIT = "split"  # too large: in halves; a single event fails
    FAIL = "fail"  # this content will never be taken: in halves, to find the one event that is meant
    RETRY = "retry"  # no telling: in halves, and a single event is tried again until its attempts are used up


_REASONS = {
    0x80: (RefusalVerdict.RETRY, "unspecified error"),
    0x81: (RefusalVerdict.FAIL, "malformed packet"),
    0x83: (RefusalVerdict.RETRY, "implementation specific error"),
    0x87: (RefusalVerdict.FAIL, "not authorized"),
    0x88: (RefusalVerdict.WAIT, "server unavailable"),
    0x89: (RefusalVerdict.WAIT, "server busy"),
    0x90: (RefusalVerdict.FAIL, "topic name invalid"),
    0x91: (RefusalVerdict.WAIT, "packet identifier in use"),
    0x93: (RefusalVerdict.WAIT, "receive maximum exceeded"),
    TOO_LARGE: (RefusalVerdict.SPLIT, "packet too large"),
    0x96: (RefusalVerdict.WAIT, "message rate too high"),
    0x97: (RefusalVerdict.WAIT, "quota exceeded"),
    0x99: (RefusalVerdict.FAIL, "payload format invalid"),
}
_OF_THE_TOPIC = {0x87, 0x90}


def verdict(reason_code: int, *, own_topic: bool) -> RefusalVerdict:
    """What `reason_code` (≥ REFUSED) means. `own_topic`: the topic is the event's own, not the connection's.

    A connection's topic that is denied says nothing about an event: everything waits until somebody allows
    it, rather than that a million events fail for one line in an ACL.
    """
    if reason_code in _OF_THE_TOPIC and not own_topic:
        return RefusalVerdict.WAIT
    return _REASONS.get(reason_code, (RefusalVerdict.RETRY, ""))[0]


def reason_text(reason_code: int) -> str:
    """The reason as it is kept and shown: `not authorized (0x87)`."""
    return f"{_REASONS.get(reason_code, (None, 'refused'))[1]} (0x{reason_code:02x})"
