"""Reaction to a publish that the cloud broker refused, by the reason code of MQTT 5.

docs/bridge.md has the table for people; `tests/delivery/test_refusals.py` compares the two.
"""

from __future__ import annotations

from enum import Enum

REFUSED = 0x80
"""Reason codes from here on are refusals."""
RECEIVE_MAXIMUM = 0x93
TOO_LARGE = 0x95


class RefusalVerdict(Enum):
    """The consequence of a refusal for the events of the message."""

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
    RECEIVE_MAXIMUM: (RefusalVerdict.WAIT, "receive maximum exceeded"),
    TOO_LARGE: (RefusalVerdict.SPLIT, "packet too large"),
    0x96: (RefusalVerdict.WAIT, "message rate too high"),
    0x97: (RefusalVerdict.WAIT, "quota exceeded"),
    0x99: (RefusalVerdict.FAIL, "payload format invalid"),
}
_OF_THE_TOPIC = {0x87, 0x90}
_OTHER_REASONS = {
    0x10: "no matching subscribers",
    0x82: "protocol error",
    0x84: "unsupported protocol version",
    0x85: "client identifier not valid",
    0x86: "bad user name or password",
    0x8A: "banned",
    0x8B: "server shutting down",
    0x8C: "bad authentication method",
    0x8D: "keep alive timeout",
    0x8E: "session taken over",
    0x8F: "topic filter invalid",
    0x92: "packet identifier not found",
    0x94: "topic alias invalid",
    0x98: "administrative action",
    0x9A: "retain not supported",
    0x9B: "QoS not supported",
    0x9C: "use another server",
    0x9D: "server moved",
    0x9E: "shared subscriptions not supported",
    0x9F: "connection rate exceeded",
    0xA0: "maximum connect time",
    0xA1: "subscription identifiers not supported",
    0xA2: "wildcard subscriptions not supported",
}
# A DISCONNECT with one of these has nothing to do with the message that came last.
_OF_THE_BROKER = {
    *(0x00, 0x04, 0x88, 0x89, 0x8B, 0x8D, 0x8E, RECEIVE_MAXIMUM, 0x96, 0x97, 0x98, 0x9C, 0x9D, 0x9F, 0xA0)
}
_OF_THE_CONTENT = {0x90, TOO_LARGE, 0x99}


def verdict(reason_code: int, *, own_topic: bool) -> RefusalVerdict:
    """Return the consequence of `reason_code` (≥ REFUSED). `own_topic`: the topic is the event's own, not the
    connection's.

    A connection's topic that is denied says nothing about an event: everything waits until somebody allows
    it, rather than that a million events fail for one line in an ACL.
    """
    if reason_code in _OF_THE_TOPIC and not own_topic:
        return RefusalVerdict.WAIT
    return _REASONS.get(reason_code, (RefusalVerdict.RETRY, ""))[0]


def close_verdict(reason_code: int | None, *, own_topic: bool) -> RefusalVerdict:
    """Return the consequence of a closed connection for the oldest message without an answer. `reason_code`:
    of the broker's DISCONNECT, or None where it sent none. RETRY: the cause is unknown, see
    `gateway.delivery.suspicion`."""
    if reason_code in _OF_THE_BROKER or (reason_code in _OF_THE_TOPIC and not own_topic):
        return RefusalVerdict.WAIT
    if reason_code in _OF_THE_CONTENT:
        return _REASONS[reason_code][0]
    return RefusalVerdict.RETRY


def reason_name(reason_code: int) -> str:
    """The name that the standard gives it; empty for a code that is not in it."""
    return _OTHER_REASONS.get(reason_code) or _REASONS.get(reason_code, (None, ""))[1]


def reason_text(reason_code: int) -> str:
    """The reason as it is kept and shown: `not authorized (0x87)`."""
    return f"{reason_name(reason_code) or 'refused'} (0x{reason_code:02x})"


def close_text(reason_code: int | None) -> str:
    """The same for a connection that ended over a message."""
    return "the broker closed the connection over it" + (
        "" if reason_code is None else f": {reason_text(reason_code)}"
    )
