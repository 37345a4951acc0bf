"""Results of windows as others get them: what kind of event each is, on which topic, and its payload."""

from __future__ import annotations

from gateway.core.events import Emission, Kind
from gateway.core.own_topics import OwnTopics
from gateway.core.packed_json import packed
from gateway.windows.emission import emission_json


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


def payload_of(emission: Emission, source: str) -> bytes:
    """Return the payload. With a partial result it names its `source`, the gateway that has it."""
    fields = emission_json(emission)
    if emission.partial is not None:
        fields["source"] = source
    return packed(fields)
