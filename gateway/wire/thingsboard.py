"""ThingsBoard's gateway API: many events in one JSON object, by device.

`{"hall/7": [{"ts": 1700000000000, "values": {"temperature": 21.5}}]}` on `v1/gateway/telemetry`, and
`{"hall/7": {"firmware": "1.2"}}` on `v1/gateway/attributes` for what was retained: it says how a device is,
not what it measured when. See https://thingsboard.io/docs/reference/gateway-mqtt-api/. There is no place for
an event's identity: what comes twice has the same device and time, and replaces itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import orjson

from gateway.core.events import Flag, Kind, WireEvent
from gateway.wire.encoder import Encoded
from gateway.wire.plain_values import aggregate_key, plain_values
from gateway.wire.uplink_topics import UplinkTopics

TELEMETRY = "v1/gateway/telemetry"
ATTRIBUTES = "v1/gateway/attributes"


class ThingsboardEncoder:
    """Makes at most two messages of any number of events."""

    def encode(self, events: Sequence[WireEvent], topics: UplinkTopics) -> Iterator[Encoded]:
        telemetry: dict[str, list[dict[str, object]]] = {}
        attributes: dict[str, dict[str, object]] = {}
        measured, retained = [], []
        for at, event in enumerate(events):
            device = aggregate_key(event) or topics.device(event.stream)
            values = plain_values(event)
            if event.flags & Flag.RETAINED and event.kind == Kind.RAW:
                attributes.setdefault(device, {}).update(values)
                retained.append(at)
            else:
                telemetry.setdefault(device, []).append({"ts": event.event_time_ms, "values": values})
                measured.append(at)
        if retained:
            yield Encoded(ATTRIBUTES, orjson.dumps(attributes), retained)
        if measured:
            yield Encoded(topics.event_template or TELEMETRY, orjson.dumps(telemetry), measured)
