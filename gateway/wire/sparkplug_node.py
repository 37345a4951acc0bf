"""A Sparkplug B edge node: what the buffer holds as DDATA of its devices, announced by births.

Invariants (Sparkplug 3.0):
- NBIRTH comes first on each connection, with the `bdSeq` of the NDEATH that is the connection's will.
- A device's DBIRTH comes before the first DDATA with a metric or a data type that it did not name.
- `seq` counts what is published, from 0 at NBIRTH to 255 and over. So it is added at the publish, and a
  message that is made again after an outage gets a new one.
- What was stored before this connection began is flagged historical: a host keeps it, and its current value.

DDATA goes at QoS 1, where the standard has 0, because the acknowledgement is what empties the buffer. Births
go at QoS 0; a host that misses one asks for a rebirth.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from gateway.core.errors import DecodeError
from gateway.core.events import WireEvent
from gateway.decode.sparkplug_births import NAMESPACE
from gateway.wire.encoder import Encoded
from gateway.wire.plain_values import aggregate_key, plain_values
from gateway.wire.uplink_topics import UplinkTopics

REBIRTH = "Node Control/Rebirth"
BD_SEQ = "bdSeq"
INT64, DOUBLE, BOOLEAN, STRING = 4, 10, 11, 12
_SEQUENCE = 256
MAX_METRICS = 500_000
"""Of all devices; an event with yet another one is refused."""
_EXACT = 2**53  # up to here a double holds every whole number
_NOT_A_LEVEL = re.compile(r"[/+#]")


class Announcement(NamedTuple):
    """A message of the node itself, at QoS 0."""

    topic: str
    payload: bytes


@dataclass(slots=True)
class _Metric:
    alias: int
    datatype: int
    value: object = None  # None: not known now
    time_ms: int = 0


@dataclass(slots=True)
class _Device:
    metrics: dict[str, _Metric] = field(default_factory=dict)
    version: int = 1
    born: int = 0  # the version that the last DBIRTH had; 0: none yet


class EdgeNode:
    """One edge node and its devices: an encoder, and what goes beside its messages. For one thread."""

    def __init__(self, group: str, node: str) -> None:
        self._place = group, node
        self._devices: dict[str, _Device] = {}
        self._aliases = 0
        self._bd_seq = -1  # of the last attempt to connect
        self._seq = 0
        self._connected_ms = 0

    def topic(self, kind: str, device: str = "") -> str:
        """The topic of a message of that kind."""
        group, node = self._place
        return f"{NAMESPACE}/{group}/{kind}/{node}" + (f"/{device}" if device else "")

    # --- the connection ---

    def next_will(self) -> bytes:
        """The NDEATH for the next attempt to connect."""
        self._bd_seq = (self._bd_seq + 1) % _SEQUENCE
        return self.death()

    def death(self) -> bytes:
        """The NDEATH of this connection."""
        return _payload([_fields(BD_SEQ, INT64, self._bd_seq)])

    def connected(self, now_ms: int) -> list[Announcement]:
        """Return the first messages of a new connection: the births of the node and of its devices so far."""
        self._connected_ms = now_ms
        return self.reborn(now_ms)

    def reborn(self, now_ms: int) -> list[Announcement]:
        """Return all births again, as a host has asked."""
        born = [name for name, device in self._devices.items() if device.born]
        return [self._birth(now_ms), *(self._device_birth(name, now_ms) for name in born)]

    def asks_for_rebirth(self, topic: str, payload: bytes) -> bool:
        """True for a host's NCMD that wants all births again."""
        from gateway.decode.decoders.sparkplug import parse_sparkplug_b  # noqa: PLC0415 - needs an extra

        if topic != self.topic("NCMD"):
            return False
        try:
            metrics: Any = parse_sparkplug_b(payload)["metrics"]
        except DecodeError:
            return False
        return any(each.get("name") == REBIRTH and each.get("value") is True for each in metrics)

    # --- messages ---

    def encode(self, events: Sequence[WireEvent], topics: UplinkTopics) -> Iterator[Encoded]:
        """Yield one DDATA for each device, without `seq`."""
        by_device: dict[str, list[int]] = {}
        for at, event in enumerate(events):
            name = aggregate_key(event) or topics.device(event.stream)
            by_device.setdefault(_NOT_A_LEVEL.sub("-", name), []).append(at)
        for name, positions in by_device.items():
            device = self._devices.setdefault(name, _Device())
            metrics = [metric for at in positions for metric in self._metrics(device, events[at])]
            yield Encoded(self.topic("DDATA", name), _payload(metrics), positions)

    def stamped(self, topic: str, payload: bytes, now_ms: int) -> Iterator[Announcement]:
        """Yield an encoded message with its time, after a birth if it needs one."""
        name = topic.rsplit("/", 1)[1]
        device = self._devices[name]
        if device.born != device.version:
            yield self._device_birth(name, now_ms)
        yield Announcement(topic, payload + self._tail(now_ms))

    def _metrics(self, device: _Device, event: WireEvent) -> Iterator[dict[str, object]]:
        historical = event.ingest_time_ms < self._connected_ms
        for name, value in _leaves(plain_values(event)):
            datatype = _datatype(value)
            known = device.metrics.get(name)
            if known is None or known.datatype != datatype:
                if known is None and self._aliases >= MAX_METRICS:
                    raise ValueError(f"the node has {MAX_METRICS} metrics already; {name!r} is one more")
                self._aliases += known is None
                known = device.metrics[name] = _Metric(known.alias if known else self._aliases, datatype)
                device.version += 1
            if not historical:
                known.value, known.time_ms = value, event.event_time_ms
            more = {"is_historical": True} if historical else {}
            yield {
                "alias": known.alias,
                "timestamp": event.event_time_ms,
                **_fields("", datatype, value),
                **more,
            }

    def _birth(self, now_ms: int) -> Announcement:
        self._seq = 0
        metrics = [_fields(BD_SEQ, INT64, self._bd_seq), _fields(REBIRTH, BOOLEAN, value=False)]
        timed = [{**each, "timestamp": now_ms} for each in metrics]
        return Announcement(self.topic("NBIRTH"), _payload(timed) + self._tail(now_ms))

    def _device_birth(self, name: str, now_ms: int) -> Announcement:
        device = self._devices[name]
        device.born = device.version
        metrics = [
            {
                **_fields(known, metric.datatype, metric.value),
                "alias": metric.alias,
                "timestamp": metric.time_ms or now_ms,
            }
            for known, metric in device.metrics.items()
        ]
        return Announcement(self.topic("DBIRTH", name), _payload(metrics) + self._tail(now_ms))

    def _tail(self, now_ms: int) -> bytes:
        """Time and number of a payload: fields of a protobuf message may come last, and later."""
        seq, self._seq = self._seq, (self._seq + 1) % _SEQUENCE
        from gateway.decode.decoders.sparkplug import Payload  # noqa: PLC0415 - needs an extra

        return bytes(Payload(timestamp=now_ms, seq=seq).SerializeToString())


def _payload(metrics: list[dict[str, object]]) -> bytes:
    from gateway.decode.decoders.sparkplug import Payload  # noqa: PLC0415 - needs an extra

    return bytes(Payload(metrics=metrics).SerializeToString())


def _leaves(values: dict[str, object], above: str = "") -> Iterator[tuple[str, object]]:
    """Names of nested members joined with `/`; lists as JSON text."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}{name}/")
        elif isinstance(value, list):
            yield f"{above}{name}", orjson.dumps(value).decode()
        elif value is not None:
            yield f"{above}{name}", value


def _datatype(value: object) -> int:
    """Return one type for all numbers, so that 21 and 21.5 need no new birth."""
    if isinstance(value, bool):
        return BOOLEAN
    if isinstance(value, int) and abs(value) > _EXACT:
        return INT64
    return DOUBLE if isinstance(value, int | float) else STRING


def _fields(name: str, datatype: int, value: object) -> dict[str, object]:
    found: dict[str, object] = {"name": name} if name else {}
    found["datatype"] = datatype
    if value is None:
        found["is_null"] = True
    elif datatype == INT64:
        found["long_value"] = int(value) % 2**64  # type: ignore[call-overload]
    elif datatype == DOUBLE:
        found["double_value"] = float(value)  # type: ignore[arg-type]
    else:
        found["boolean_value" if datatype == BOOLEAN else "string_value"] = value
    return found
