"""Routes: from an MQTT message to samples with fields and an event time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Literal, NamedTuple

from gateway.core.errors import DecodeError
from gateway.core.events import FieldValue, Flag, Priority, Sample
from gateway.core.expressions import TOPIC, choices, compile_expression
from gateway.core.timestamps import TimeBound, timestamp_reader
from gateway.core.topics import TopicTemplate
from gateway.decode.decoders import Decoder, csv_decoder, decoder
from gateway.decode.decoders.delimited import CsvSpec
from gateway.decode.decoders.plain import (
    DUPLICATE_KEYS,
    parse_json,
    parse_numbered_json,
    parse_unique_json,
)
from gateway.decode.fields import FieldSpec, field_finder, value_steps
from gateway.decode.formulas import Formula
from gateway.decode.forwarding import Forwarding, ForwardSpec
from gateway.decode.payload import PayloadSpec, second_readings, stated
from gateway.decode.plain_reader import PlainField, PlainReader, PlainTime, compile_reader
from gateway.decode.scalars import VALUE, is_scalar, scalars_of
from gateway.decode.sparkplug_births import EdgeNodes, is_host_state
from gateway.timekeeping.normalize import SkewPolicy, normalize_timestamp

MISSED_TIME = "@timestamp"
MISSED_READING = "@reading"
MISSED_CONDITION = "@where"
"""Names in `Decoded.misses` that no field can have."""

# A message with more is a mistake or an attack; a day of backlog at one reading a minute is 1440.
MAX_READINGS = 10_000
# Matching a topic takes some microseconds per route: the last ones are remembered. Long topics are not,
# so that a flood of distinct ones takes a few megabytes at most.
CACHED_TOPICS = 16_384
CACHED_TOPIC_CHARS = 256

# Plain numbers, because arithmetic on an IntFlag takes longer than reading a small message.
_UNDECODED = int(Flag.UNDECODED)
_CORRECTED = int(Flag.CORRECTED)
_HISTORICAL = int(Flag.HISTORICAL)


@dataclass(frozen=True, slots=True)
class RouteSpec:
    """A route of the configuration, validated once and never changed.

    `fields` maps the names of readings to expressions (see `gateway.core.expressions`), or to a FieldSpec
    where more has to be done; empty means every top-level scalar. `readings` is an expression for the list of
    items that one message carries. `where` is a CEL expression that readings have to fulfil.
    None for `readings`, `timestamp_path` and `timestamp_format` means what the decoder suggests. `custom` is
    the decoder where it is a plugin. `rebirth` says whether Sparkplug's nodes may be asked for a new birth.
    """

    name: str
    topic: str
    qos: int = 1
    decoder: str = "json"
    payload: PayloadSpec = field(default_factory=PayloadSpec)
    csv: CsvSpec | None = None
    custom: Decoder | None = None
    fields: Mapping[str, str | FieldSpec] = field(default_factory=dict)
    readings: str | None = None
    where: str | None = None
    timestamp_path: str | None = None
    timestamp_format: str | None = None
    timestamp_timezone: str = "UTC"
    timestamp: Literal["normalize", "trusted", "ingest"] = "normalize"
    timestamp_min: TimeBound | None = None
    timestamp_max: TimeBound | None = None
    skew: SkewPolicy = field(default_factory=SkewPolicy)
    retained: Literal["store", "window", "ignore"] = "store"
    rebirth: bool = True
    priority: Priority = Priority.NORMAL
    sampling: Literal["allow", "never"] = "never"
    forward: ForwardSpec = field(default_factory=ForwardSpec)

    @property
    def units(self) -> dict[str, str]:
        """The units of its fields, where one is named."""
        return {
            name: one.unit for name, one in self.fields.items() if isinstance(one, FieldSpec) and one.unit
        }


class Decoded(NamedTuple):
    """The result of a route for one message.

    `event_time_ms` is that of the newest sample, or the arrival time; `device_time_ms` is what the device
    said for it, None when it said nothing usable. `problem` says in a short fixed word why nothing could
    be decoded: then there are no samples and the flag UNDECODED is set. `misses` names configured fields
    that were absent, null, not finite or no scalar; MISSED_TIME stands for a configured time that was not
    usable, MISSED_READING for an item that holds no reading, MISSED_CONDITION for one that `where` could not
    judge. `filtered` counts the readings that `where` left out. `notes` are short fixed words for what was
    read although something was odd with it, such as its character set.
    """

    samples: tuple[Sample, ...]
    event_time_ms: int
    device_time_ms: int | None
    flags: int
    problem: str | None
    misses: tuple[str, ...]
    filtered: int = 0
    notes: tuple[str, ...] = ()


class _Item(NamedTuple):
    """An item of a message after reading."""

    sample: Sample
    device_time_ms: int | None
    flags: int
    misses: tuple[str, ...]


def field_names(reader: str | Decoder, fields: Collection[str]) -> frozenset[str] | None:
    """The fields that samples of such a route can have, or None where only the messages tell."""
    reader = decoder(reader) if isinstance(reader, str) else reader
    if fields or reader.fields:
        return frozenset(fields or reader.fields)
    return frozenset({VALUE}) if reader.single else None


class Route:
    """A compiled RouteSpec. Raises ConfigError or TopicError when the spec is not sound.

    `edge_nodes` is what Sparkplug messages are read with; without it, each is read by itself.
    """

    def __init__(self, spec: RouteSpec, edge_nodes: EdgeNodes | None = None) -> None:
        reader = _reader(spec)
        self.spec = spec
        self.template = TopicTemplate(spec.topic)
        names = self.template.names
        fields: Mapping[str, str | FieldSpec] = spec.fields or reader.fields
        readings = spec.readings or reader.readings
        path = spec.timestamp_path or reader.timestamp_path
        self._decoder = reader
        self._parse = _first_parse(spec.payload, reader)
        self._resolve = (
            partial(edge_nodes.read, may_ask=spec.rebirth)
            if edge_nodes is not None and reader.remembers
            else None
        )
        self._trusted = reader.trusted
        self._fields = tuple(
            (name, field_finder(found, names)) for name, found in fields.items() if not _is_computed(found)
        )
        self._computed = tuple(_computed(fields))
        self._takes_all = not fields
        self._where = Formula(spec.where) if spec.where else None
        self.forwarding = Forwarding(spec.forward)
        self._find_items = compile_expression(readings, names) if readings else None
        self._find_time = compile_expression(path, names) if path else None
        self._time_choices = [compile_expression(each, names) for each in choices(path)] if path else []
        self._read_time = timestamp_reader(
            spec.timestamp_format or reader.timestamp_format, spec.timestamp_timezone
        )
        self._expects_time = spec.timestamp_path is not None
        self.timestamp_path = path
        """Path of the device's time, or None."""
        paths = [found.path or "" if isinstance(found, FieldSpec) else found for found in fields.values()]
        self._names_topic = any(text.strip("{ }") == TOPIC for text in (*paths, path or ""))
        self.read_plain = self._plain_reader(fields)
        """Reads what has nothing unusual, in a fraction of the time; None where nothing is that plain."""

    def _plain_reader(self, fields: Mapping[str, str | FieldSpec]) -> PlainReader | None:
        needs_more = (self._resolve, self._trusted, self._where, self._find_items)
        if self._computed or self._names_topic or any(part is not None for part in needs_more):
            return None
        paths = {name: found for name, found in fields.items() if isinstance(found, str)}
        plain = [PlainField(name, paths.get(name), find) for name, find in self._fields]
        return compile_reader(self._parse, plain, self._plain_time())

    def _plain_time(self) -> PlainTime | None:
        spec, path = self.spec, self.timestamp_path
        if path is None or self._find_time is None:
            return None
        layout = spec.timestamp_format or self._decoder.timestamp_format
        is_bounded = spec.timestamp_min is not None or spec.timestamp_max is not None
        return PlainTime(
            *(path, self._find_time, self._read_time, layout, spec.timestamp, spec.skew, self._settle),
            self._is_plausible if is_bounded else None,
        )

    def decode(
        self,
        topic: str,
        levels: Mapping[str, str],
        payload: bytes,
        arrival_ms: int,
        retained: bool = False,
    ) -> Decoded:
        """Read one message; `levels` are those that `RouteTable.match` gave. Never raises."""
        if self._names_topic:
            levels = {TOPIC: topic, **levels}
        try:
            document = self._parse(payload, arrival_ms)
        except DecodeError as exc:
            return self._decode_wrapped(topic, levels, payload, arrival_ms, retained, exc)
        return self._decode_document(topic, levels, document, arrival_ms, retained)

    def first_item(self, levels: Mapping[str, str], payload: bytes, arrival_ms: int) -> object:
        """Return the document in which the fields of the first reading are looked up. Raises DecodeError."""
        try:
            document = self._parse(payload, arrival_ms)
        except DecodeError as exc:
            document, _ = self._parse_wrapped(payload, arrival_ms, exc)
        found = self._find_items(document, levels) if self._find_items is not None else [document]
        return found[0] if isinstance(found, list) and found else document

    def _decode_wrapped(
        self,
        topic: str,
        levels: Mapping[str, str],
        payload: bytes,
        arrival_ms: int,
        retained: bool,
        refusal: DecodeError,
    ) -> Decoded:
        """Read a message that the decoder refused as it came: it may be compressed, or of another charset."""
        if self._resolve is not None and is_host_state(topic):
            return Decoded((), arrival_ms, None, 0, None, ())
        try:
            document, note = self._parse_wrapped(payload, arrival_ms, refusal)
        except DecodeError as exc:
            return Decoded((), arrival_ms, None, _UNDECODED, exc.reason, ())
        decoded = self._decode_document(topic, levels, document, arrival_ms, retained)
        return decoded._replace(notes=(*decoded.notes, note)) if note else decoded

    def _parse_wrapped(self, payload: bytes, arrival_ms: int, refusal: DecodeError) -> tuple[object, str]:
        reader = self._decoder
        if refusal.reason in ("empty", "too_large"):
            raise refusal
        if refusal.reason == DUPLICATE_KEYS:
            document, doubled = parse_numbered_json(payload)
            return document, DUPLICATE_KEYS if doubled else ""
        parses = [reader.parse, *([reader.forgiving] if reader.forgiving else ())]
        readings = [(payload, "")]  # after those that may be it: a forgiving parse takes it as it came
        for parse in parses:
            for unwrapped, note in (
                *second_readings(payload, self.spec.payload, is_text=reader.is_text),
                *(readings if parse is not reader.parse else ()),
            ):
                try:
                    return parse(unwrapped, arrival_ms), note
                except DecodeError:
                    continue
        raise refusal

    def _decode_document(
        self, topic: str, levels: Mapping[str, str], document: object, arrival_ms: int, retained: bool
    ) -> Decoded:
        try:
            if self._resolve is not None:
                document = self._resolve(topic, document, retained)  # type: ignore[arg-type] # an object, there
            if self._find_items is not None:
                return self._read_items(self._find_items(document, levels), document, levels, arrival_ms)
            item = self._read(document, document, levels, arrival_ms)
            if self._where is not None:
                return self._judged(self._where, item, document, levels)
            sample, device_time_ms, flags, misses = item
            return Decoded((sample,), sample.time_ms, device_time_ms, flags, None, misses)
        except DecodeError as exc:
            return Decoded((), arrival_ms, None, _UNDECODED, exc.reason, ())

    def _judged(self, where: Formula, read: _Item, item: object, levels: Mapping[str, str]) -> Decoded:
        """The message of one reading, if it passes."""
        sample, device_time_ms, flags, misses = read
        verdict = self._verdict(where, sample.fields, item, levels)
        if verdict is None:
            misses += (MISSED_CONDITION,)
        return Decoded(
            (sample,) if verdict else (),
            sample.time_ms,
            device_time_ms,
            flags,
            None,
            misses,
            int(verdict is False),
        )

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
            items.append((read, item))
            if read.misses:
                misses.update(dict.fromkeys(read.misses, True))
        return self._combine(items, tuple(misses), levels, arrival_ms)

    def _combine(
        self,
        items: list[tuple[_Item, object]],
        misses: tuple[str, ...],
        levels: Mapping[str, str],
        arrival_ms: int,
    ) -> Decoded:
        """The message of several items: its time is that of the newest, also where `where` leaves it out."""
        if not items:
            return Decoded((), arrival_ms, None, 0, None, misses)
        newest = max(items, key=lambda pair: pair[0].sample.time_ms)[0]
        flags = 0
        for read, _ in items:
            flags |= read.flags
        samples, filtered = tuple(read.sample for read, _ in items), 0
        if self._where is not None:
            verdicts = [self._verdict(self._where, read.sample.fields, item, levels) for read, item in items]
            samples = tuple(
                sample for sample, verdict in zip(samples, verdicts, strict=True) if verdict is True
            )
            filtered = verdicts.count(False)
            if None in verdicts:
                misses += (MISSED_CONDITION,)
        return Decoded(samples, newest.sample.time_ms, newest.device_time_ms, flags, None, misses, filtered)

    @staticmethod
    def _verdict(
        where: Formula, fields: Mapping[str, FieldValue], item: object, levels: Mapping[str, str]
    ) -> bool | None:
        """Return True if a reading passes the condition; None where the condition has no answer."""
        verdict = where(fields, *_scopes(item, levels))
        return verdict if isinstance(verdict, bool) else None

    def _read(self, item: object, document: object, levels: Mapping[str, str], arrival_ms: int) -> _Item:
        misses: tuple[str, ...] = ()
        fields: dict[str, FieldValue] = {}
        for name, find in self._fields:
            value = find(item, levels)
            if is_scalar(value):
                fields[name] = value
            else:
                misses += (name,)
        if self._takes_all:
            fields, misses = _open_fields(item)
        if self._computed:
            misses += self._compute(fields, item, levels)
        device_time_ms = self._device_time(item, document, levels, arrival_ms)
        if device_time_ms is None:
            if self._expects_time:
                misses += (MISSED_TIME,)
            return _Item(Sample(arrival_ms, fields), None, 0, misses)
        if self._trusted is not None and type(item) is dict and item.get(self._trusted) is True:
            return _Item(Sample(device_time_ms, fields), device_time_ms, _HISTORICAL, misses)
        time_ms, flags = self._settle(device_time_ms, arrival_ms)
        return _Item(Sample(time_ms, fields), device_time_ms, flags, misses)

    def _compute(
        self, fields: dict[str, FieldValue], item: object, levels: Mapping[str, str]
    ) -> tuple[str, ...]:
        """Add the fields that are computed, in their order; returns the names of those that were not."""
        misses: tuple[str, ...] = ()
        scopes = _scopes(item, levels)
        for name, compute in self._computed:
            value = compute(fields, *scopes)
            if is_scalar(value):
                fields[name] = value
            else:
                misses += (name,)
        return misses

    def _device_time(
        self, item: object, document: object, levels: Mapping[str, str], arrival_ms: int
    ) -> int | None:
        """The device's own time, if it is plausible; that of the whole message where the item's is not."""
        if self._find_time is None:
            return None
        time_ms = self._read_time(self._find_time(item, levels))
        if time_ms is not None and self._is_plausible(time_ms, arrival_ms):
            return time_ms
        return self._next_best_time(item, document, levels, arrival_ms)

    def _next_best_time(
        self, item: object, document: object, levels: Mapping[str, str], arrival_ms: int
    ) -> int | None:
        """The first plausible time of all places where the path may lead."""
        for place in (item, document) if item is not document else (item,):
            for find in self._time_choices:
                time_ms = self._read_time(find(place, levels))
                if time_ms is not None and self._is_plausible(time_ms, arrival_ms):
                    return time_ms
        return None

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


def _open_fields(item: object) -> tuple[dict[str, FieldValue], tuple[str, ...]]:
    """The fields of an item whose route names none: an object's scalars, or the value itself."""
    if type(item) is dict:
        return scalars_of(item), ()
    if is_scalar(item):
        return {VALUE: item}, ()
    if type(item) is list:
        raise DecodeError("a list is no reading; the route can name its readings", reason="shape")
    return {}, (VALUE,)


def _reader(spec: RouteSpec) -> Decoder:
    """The decoder of a route, with what the route says of its lines."""
    if spec.custom is not None:
        return spec.custom
    return csv_decoder(spec.csv) if spec.decoder == "csv" and spec.csv else decoder(spec.decoder)


def _first_parse(payload: PayloadSpec, reader: Decoder) -> Callable[[bytes, int], object]:
    """Return the first parser for every message: payload as received, unless the route states how it is
    wrapped."""
    parse, is_text = reader.parse, reader.is_text
    if payload.duplicates == "number" and parse is parse_json:
        parse = parse_unique_json
    if not payload.is_stated:
        return parse
    return lambda wrapped, arrival_ms: parse(stated(wrapped, payload, is_text=is_text), arrival_ms)


def _is_computed(found: str | FieldSpec) -> bool:
    return isinstance(found, FieldSpec) and found.compute is not None


def _computed(
    fields: Mapping[str, str | FieldSpec],
) -> Iterable[tuple[str, Callable[..., object]]]:
    for name, found in fields.items():
        if isinstance(found, FieldSpec) and found.compute is not None:
            yield name, _followed_by(Formula(found.compute), found)


def _followed_by(formula: Formula, found: FieldSpec) -> Callable[..., object]:
    steps = value_steps(found)
    if not steps:
        return formula

    def compute(*scopes: Mapping[str, object]) -> object:
        value = formula(*scopes)
        for step in steps:
            value = step(value)
        return value

    return compute


def _scopes(item: object, levels: Mapping[str, str]) -> tuple[Mapping[str, object], ...]:
    """Return the scopes for names that are no fields: the message, then the topic."""
    return (item, levels) if type(item) is dict else (levels,)


class RouteTable:
    """Routes in the order of the configuration; the first that matches a topic takes it."""

    def __init__(self, specs: Iterable[RouteSpec]) -> None:
        self.edge_nodes = EdgeNodes()
        """State learnt from Sparkplug messages. The only thing here that changes."""
        self.routes = tuple(Route(spec, self.edge_nodes) for spec in specs)
        self._remembered = lru_cache(CACHED_TOPICS)(self.find)

    def match(self, topic: str) -> tuple[Route, Mapping[str, str]] | None:
        """The route of `topic` and the topic's named levels, or None where no route takes it."""
        return self._remembered(topic) if len(topic) <= CACHED_TOPIC_CHARS else self.find(topic)

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

    def find(self, topic: str) -> tuple[Route, Mapping[str, str]] | None:
        """`match` for callers that remember the result themselves."""
        for route in self.routes:
            levels = route.template.match(topic)
            if levels is not None:
                return route, MappingProxyType(levels)
        return None
