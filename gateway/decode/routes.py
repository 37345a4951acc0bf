"""How a topic is read: from an MQTT message to samples with fields and an event time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Literal, NamedTuple, TypeGuard

from gateway.core.errors import DecodeError
from gateway.core.events import FieldValue, Flag, Priority, Sample
from gateway.core.expressions import TOPIC, compile_expression
from gateway.core.timestamps import TimeBound, timestamp_reader
from gateway.core.topics import TopicTemplate
from gateway.decode.decoders import decoder
from gateway.decode.sparkplug_births import EdgeNodes
from gateway.timekeeping.normalize import SkewPolicy, normalize_timestamp

VALUE = "value"
"""The field of a payload that is a single value."""

MISSED_TIME = "@timestamp"
MISSED_READING = "@reading"
"""Names in `Decoded.misses` that no field can have."""

# A message with more is a mistake or an attack; a day of backlog at one reading a minute is 1440.
MAX_READINGS = 10_000
# Matching a topic takes some microseconds per route: the last ones are remembered. Long topics are not,
# so that a flood of distinct ones takes a few megabytes at most.
CACHED_TOPICS = 16_384
CACHED_TOPIC_CHARS = 256
# Sums and squares of what lies between do not overflow, and nothing that is measured comes near.
_LOWEST, _HIGHEST = -1e100, 1e100
_LOWEST_INT, _HIGHEST_INT = -(1 << 63), (1 << 63) - 1  # what JSON libraries carry

# Plain numbers, because arithmetic on an IntFlag takes longer than reading a small message.
_UNDECODED = int(Flag.UNDECODED)
_CORRECTED = int(Flag.CORRECTED)
_HISTORICAL = int(Flag.HISTORICAL)


@dataclass(frozen=True, slots=True)
class RouteSpec:
    """One route of the configuration, validated once and never changed.

    `fields` maps the names of readings to expressions (see `gateway.core.expressions`); empty means every
    top-level scalar. `readings` is an expression for the list of items that one message carries.
    None for `readings`, `timestamp_path` and `timestamp_format` means what the decoder suggests.
    """

    name: str
    topic: str
    qos: int = 1
    decoder: str = "json"
    fields: Mapping[str, str] = field(default_factory=dict)
    readings: str | None = None
    timestamp_path: str | None = None
    timestamp_format: str | None = None
    timestamp_timezone: str = "UTC"
    timestamp: Literal["normalize", "trusted", "ingest"] = "normalize"
    timestamp_min: TimeBound | None = None
    timestamp_max: TimeBound | None = None
    skew: SkewPolicy = field(default_factory=SkewPolicy)
    retained: Literal["keep", "ignore"] = "keep"
    priority: Priority = Priority.NORMAL
    sampling: Literal["allow", "never"] = "never"


class Decoded(NamedTuple):
    """What a route made of one message.

    `event_time_ms` is that of the newest sample, or the arrival time; `device_time_ms` is what the device
    said for it, None when it said nothing usable. `problem` says in a short fixed word why nothing could
    be decoded: then there are no samples and the flag UNDECODED is set. `misses` names configured fields
    that were absent, null, not finite or no scalar; MISSED_TIME stands for a configured time that was not
    usable, MISSED_READING for an item that holds no reading.
    """

    samples: tuple[Sample, ...]
    event_time_ms: int
    device_time_ms: int | None
    flags: int
    problem: str | None
    misses: tuple[str, ...]


class _Item(NamedTuple):
    """One item of a message, as read."""

    sample: Sample
    device_time_ms: int | None
    flags: int
    misses: tuple[str, ...]


def field_names(decoder_name: str, fields: Mapping[str, str]) -> frozenset[str] | None:
    """The fields that samples of such a route can have, or None where only the messages tell."""
    reader = decoder(decoder_name)
    if fields or reader.fields:
        return frozenset(fields or reader.fields)
    return frozenset({VALUE}) if reader.single else None


class Route:
    """A compiled RouteSpec. Raises ConfigError or TopicError when the spec is not sound.

    `edge_nodes` is what Sparkplug messages are read with; without it, each is read by itself.
    """

    def __init__(self, spec: RouteSpec, edge_nodes: EdgeNodes | None = None) -> None:
        reader = decoder(spec.decoder)
        self.spec = spec
        self.template = TopicTemplate(spec.topic)
        names = self.template.names
        expressions = spec.fields or reader.fields
        readings = spec.readings or reader.readings
        path = spec.timestamp_path or reader.timestamp_path
        self._parse = reader.parse
        self._resolve = edge_nodes.read if edge_nodes is not None and reader.remembers else None
        self._trusted = reader.trusted
        self._fields = tuple((name, compile_expression(text, names)) for name, text in expressions.items())
        self._find_items = compile_expression(readings, names) if readings else None
        self._find_time = compile_expression(path, names) if path else None
        self._read_time = timestamp_reader(
            spec.timestamp_format or reader.timestamp_format, spec.timestamp_timezone
        )
        self._expects_time = spec.timestamp_path is not None
        self._names_topic = any(text.strip("{ }") == TOPIC for text in (*expressions.values(), path or ""))

    def decode(self, topic: str, levels: Mapping[str, str], payload: bytes, arrival_ms: int) -> Decoded:
        """Read one message; `levels` are those that `RouteTable.match` gave. Never raises."""
        if self._names_topic:
            levels = {TOPIC: topic, **levels}
        try:
            document = self._parse(payload, arrival_ms)
            if self._resolve is not None:
                document = self._resolve(topic, document)  # type: ignore[arg-type] # an object, there
            if self._find_items is not None:
                return self._read_items(self._find_items(document, levels), document, levels, arrival_ms)
            sample, device_time_ms, flags, misses = self._read(document, document, levels, arrival_ms)
            return Decoded((sample,), sample.time_ms, device_time_ms, flags, None, misses)
        except DecodeError as exc:
            return Decoded((), arrival_ms, None, _UNDECODED, exc.reason, ())

    def _read_items(
        self, found: object, document: object, levels: Mapping[str, str], arrival_ms: int
    ) -> Decoded:
        if not isinstance(found, list):
            raise DecodeError("the readings are no list", reason="readings")
        if len(found) > MAX_READINGS:
            raise DecodeError(f"more than {MAX_READINGS} readings", reason="too_many_readings")
        items, misses = [], {}
        for item in found:
            try:
                read = self._read(item, document, levels, arrival_ms)
            except DecodeError:
                misses[MISSED_READING] = True
                continue
            items.append(read)
            misses.update(dict.fromkeys(read.misses, True))
        return _combine(items, tuple(misses), arrival_ms)

    def _read(self, item: object, document: object, levels: Mapping[str, str], arrival_ms: int) -> _Item:
        misses: tuple[str, ...] = ()
        fields: dict[str, FieldValue] = {}
        for name, find in self._fields:
            value = find(item, levels)
            if is_scalar(value):
                fields[name] = value
            else:
                misses += (name,)
        if not self._fields:
            fields, misses = _open_fields(item)
        device_time_ms = self._device_time(item, document, levels, arrival_ms)
        if device_time_ms is None:
            if self._expects_time:
                misses += (MISSED_TIME,)
            return _Item(Sample(arrival_ms, fields), None, 0, misses)
        if self._trusted is not None and type(item) is dict and item.get(self._trusted) is True:
            return _Item(Sample(device_time_ms, fields), device_time_ms, _HISTORICAL, misses)
        time_ms, flags = self._settle(device_time_ms, arrival_ms)
        return _Item(Sample(time_ms, fields), device_time_ms, flags, misses)

    def _device_time(
        self, item: object, document: object, levels: Mapping[str, str], arrival_ms: int
    ) -> int | None:
        """The device's own time, if it is plausible; that of the whole message where the item has none."""
        if self._find_time is None:
            return None
        time_ms = self._read_time(self._find_time(item, levels))
        if time_ms is None and item is not document:
            time_ms = self._read_time(self._find_time(document, levels))
        if time_ms is None or not self._is_plausible(time_ms, arrival_ms):
            return None
        return time_ms

    def _is_plausible(self, time_ms: int, arrival_ms: int) -> bool:
        low, high = self.spec.timestamp_min, self.spec.timestamp_max
        if low is not None and time_ms < (arrival_ms - low.ms if low.relative else low.ms):
            return False
        return high is None or time_ms <= (arrival_ms + high.ms if high.relative else high.ms)

    def _settle(self, device_time_ms: int, arrival_ms: int) -> tuple[int, int]:
        """Event time and flags, by the route's policy."""
        policy = self.spec.timestamp
        if policy == "trusted":
            return device_time_ms, 0
        if policy == "ingest":
            return arrival_ms, 0 if device_time_ms == arrival_ms else _CORRECTED
        settled = normalize_timestamp(device_time_ms, arrival_ms, self.spec.skew)
        return settled.event_time_ms, settled.flags


def is_scalar(value: object) -> TypeGuard[str | int | float | bool]:
    """Whether `value` can be the value of a field: no container, not null, not NaN, no number so large that
    sums or squares of it overflow (or, an integer, that JSON cannot carry it)."""
    kind = type(value)
    if kind is float:
        return _LOWEST < value < _HIGHEST  # type: ignore[operator] # just seen to be a float
    if kind is int:
        return _LOWEST_INT <= value <= _HIGHEST_INT  # type: ignore[operator] # just seen to be an integer
    return kind is str or kind is bool


def _open_fields(item: object) -> tuple[dict[str, FieldValue], tuple[str, ...]]:
    """The fields of an item whose route names none: an object's scalars, or the value itself."""
    if type(item) is dict:
        return {name: value for name, value in item.items() if is_scalar(value)}, ()
    if is_scalar(item):
        return {VALUE: item}, ()
    if type(item) is list:
        raise DecodeError("a list is no reading; the route can name its readings", reason="shape")
    return {}, (VALUE,)


def _combine(items: list[_Item], misses: tuple[str, ...], arrival_ms: int) -> Decoded:
    """The message of several items: its time is that of the newest."""
    if not items:
        return Decoded((), arrival_ms, None, 0, None, misses)
    newest = max(items, key=lambda item: item.sample.time_ms)
    flags = 0
    for item in items:
        flags |= item.flags
    samples = tuple(item.sample for item in items)
    return Decoded(samples, newest.sample.time_ms, newest.device_time_ms, flags, None, misses)


class RouteTable:
    """Routes in the order of the configuration; the first that matches a topic takes it."""

    def __init__(self, specs: Iterable[RouteSpec]) -> None:
        self.edge_nodes = EdgeNodes()
        """What the Sparkplug messages that came by have said. The one thing here that changes."""
        self.routes = tuple(Route(spec, self.edge_nodes) for spec in specs)
        self._remembered = lru_cache(CACHED_TOPICS)(self._find)

    def match(self, topic: str) -> tuple[Route, Mapping[str, str]] | None:
        """The route of `topic` and the topic's named levels, or None where no route takes it."""
        return self._remembered(topic) if len(topic) <= CACHED_TOPIC_CHARS else self._find(topic)

    def forgetful(self) -> RouteTable:
        """The same routes, to which no Sparkplug message has come yet."""
        return RouteTable(route.spec for route in self.routes)

    def subscriptions(self) -> dict[str, int]:
        """The topic filters to subscribe to, each with its QoS: the highest where routes share a filter."""
        wanted: dict[str, int] = {}
        for route in self.routes:
            topic_filter = route.template.filter
            wanted[topic_filter] = max(route.spec.qos, wanted.get(topic_filter, 0))
        return wanted

    def _find(self, topic: str) -> tuple[Route, Mapping[str, str]] | None:
        for route in self.routes:
            levels = route.template.match(topic)
            if levels is not None:
                return route, MappingProxyType(levels)
        return None
