"""What to do about a publish that the cloud broker refused, by the reason code of its PUBACK (MQTT 5).

docs/bridge.md has the table for people; `tests/delivery/test_refusals.py` compares the two.
"""

from __future__ import annotations

from enum import Enum

REFUSED = 0x80
"""Reason codes from here on are refusals."""
TOO_LARGE = 0x95


class Verdict(Enum):
    """What a refusal means for the events of the refused message."""

    WAIT = "wait"  # the broker's own limit: the same message again after a pause, which counts for nothing
    SPLIT = "split"  # too large: in halves; a single event fails
    FAIL = "fail"  # this content will never be taken: in halves, to find the one event that is meant
    RETRY = "retry"  # no telling: in halves, and a single event is tried again until its attempts are used up


_REASONS = {
    0x80: (Verdict.RETRY, "unspecified error"),
    0x81: (Verdict.FAIL, "malformed packet"),
    0x83: (Verdict.RETRY, "implementation specific error"),
    0x87: (Verdict.FAIL, "not authorized"),
    0x88: (Verdict.WAIT, "server unavailable"),
    0x89: (Verdict.WAIT, "server busy"),
    0x90: (Verdict.FAIL, "topic name invalid"),
    0x91: (Verdict.WAIT, "packet identifier in use"),
    0x93: (Verdict.WAIT, "receive maximum exceeded"),
    TOO_LARGE: (Verdict.SPLIT, "packet too large"),
    0x96: (Verdict.WAIT, "message rate too high"),
    0x97: (Verdict.WAIT, "quota exceeded"),
    0x99: (Verdict.FAIL, "payload format invalid"),
}
_OF_THE_TOPIC = {0x87, 0x90}


def verdict(reason_code: int, *, own_topic: bool) -> Verdict:
    """What `reason_code` (≥ REFUSED) means. `own_topic`: the topic is the event's own, not the connection's.

    A connection's topic that is denied says nothing about an event: everything waits until somebody allows
    it, rather than that a million events fail for one line in an ACL.
    """
    if reason_code in _OF_THE_TOPIC and not own_topic:
        return Verdict.WAIT
    return _REASONS.get(reason_code, (Verdict.RETRY, ""))[0]


def reason_text(reason_code: int) -> str:
    """The reason as it is kept and shown: `not authorized (0x87)`."""
    return f"{_REASONS.get(reason_code, (None, 'refused'))[1]} (0x{reason_code:02x})"
