"""Results of windows as others get them: what kind of event each is, and on which topic."""

from __future__ import annotations

from gateway.core.events import Emission, Kind
from gateway.core.own_topics import OwnTopics


def kind_of(emission: Emission) -> Kind:
    """Return the kind of event that carries an emission. A result that names an `alert` is one."""
    if emission.kind == "dropped":
        return Kind.AUDIT
    is_alert = isinstance(emission.result, dict) and "alert" in emission.result
    return Kind.ALERT if is_alert else Kind.AGGREGATE


def topic_of(topics: OwnTopics, emission: Emission, kind: Kind) -> str:
    """Return the topic of an emission of that kind."""
    if kind is Kind.AUDIT:
        return topics.late(emission.window)
    return topics.alerts if kind is Kind.ALERT else topics.aggregate(emission.window, emission.key)
