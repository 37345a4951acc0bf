"""Routes for what was heard: presets where they give readings, patterns of topics for the rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.config.proposal.heard import BrokerTraffic, HeardTopic, usual_interval_ms
from gateway.config.proposal.patterns import Pattern, patterns_of
from gateway.config.proposal.shapes import MOST_FIELDS, Shape, field_name_of, jmespath_of, shape_of
from gateway.config.route_model import RouteModel
from gateway.core.errors import GatewayError
from gateway.core.events import Flag, Sample
from gateway.core.topics import TopicTemplate
from gateway.decode.presets import PRESETS, SETS, missing_extra_of
from gateway.decode.routes import RouteTable
from gateway.timekeeping.normalize import SkewPolicy

# The same messages as those of the second generation, and what other gateways of ours publish.
_NOT_TRIED = {"shelly_gen3", "shelly_gen4", "partials"}
_SPARKPLUG = "spBv1.0/"
_QUARTER_HOUR_MS = 15 * 60_000
_HALF = 0.5
_ITEM_NAMES = ("sensor", "component", "name")
_SHARED_LEVELS = {"application", "group", "region", "user", "host", "domain", "channel"}
_NEVER_IN_KEYS = {"type"}


class SeenNumbers(NamedTuple):
    """The numbers of one field that were seen, each with the levels of its topic."""

    points: list[tuple[str, float]]

    @property
    def values(self) -> list[float]:
        return [value for _, value in self.points]

    @property
    def keys(self) -> set[str]:
        return {key for key, _ in self.points}

    def below(self, level: str) -> SeenNumbers:
        """Return those of topics with such a level."""
        return SeenNumbers([(key, value) for key, value in self.points if level in key.split("/")])


@dataclass
class RoutePart:
    """One of the routes that an entry stands for, and what it read of the messages that were heard."""

    name: str
    template: TopicTemplate
    topics: list[HeardTopic] = field(default_factory=list)
    fields: dict[str, SeenNumbers] = field(default_factory=dict)
    levels: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """The values of each named level."""
    item_names: set[str] = field(default_factory=set)
    """Fields that name an item of a message, such as `sensor`."""

    @property
    def key(self) -> str:
        """The key for windows: the levels that tell devices apart, in the order of the topic."""
        order = [
            level.strip("{}").removesuffix("...")
            for level in self.template.text.split("/")
            if level[0] == "{"
        ]
        order = [name for name in order if name not in _NEVER_IN_KEYS]
        wanted = [name for name in order if name not in _SHARED_LEVELS or len(self.levels[name]) > 1]
        items = [name for name in _ITEM_NAMES if name in self.item_names]
        if self.template.text.startswith(_SPARKPLUG):
            items = ["name"]  # which only births say
        return "/".join(f"{{{name}}}" for name in [*(wanted or order[-1:]), *items])

    @property
    def interval_ms(self) -> float | None:
        return usual_interval_ms(iter(self.topics))

    def note(self, levels: Mapping[str, str], sample: Sample) -> None:
        """Take note of a reading."""
        self.item_names |= {name for name in _ITEM_NAMES if isinstance(sample.fields.get(name), str)}
        for name, number in _numbers(sample).items():
            self.fields.setdefault(name, SeenNumbers([])).points.append(("/".join(levels.values()), number))


@dataclass
class ProposedRoute:
    """An entry for `routes`, and what its parts read of the messages that were heard."""

    entry: dict[str, object]
    title: str
    reasons: list[str] = field(default_factory=list)
    rare_fields: dict[str, str] = field(default_factory=dict)
    """Fields that only some of the topics have: proposed as comments."""
    parts: dict[str, RoutePart] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.entry.get("name", self.entry.get("preset")))

    @property
    def topics(self) -> list[HeardTopic]:
        return [topic for part in self.parts.values() for topic in part.topics]

    @property
    def filters(self) -> str:
        """The topics of its parts, as they stand in a configuration."""
        return ", ".join(part.template.text for part in self.parts.values())

    def series(self, name: str) -> SeenNumbers | None:
        """Return what was seen of a field."""
        return next((part.fields[name] for part in self.parts.values() if name in part.fields), None)


class Routes(NamedTuple):
    """The proposed routes, topics that none of them reads, and extras that are missing."""

    proposed: list[ProposedRoute]
    unread: list[str]
    missing_extras: list[str]


def propose_routes(heard: BrokerTraffic, timezone: str) -> Routes:
    """Return routes that read the topics that were heard. `timezone` is for times without one."""
    left = dict(heard.topics)
    proposed: list[ProposedRoute] = []
    missing: list[str] = []
    for entry, title in _candidates(heard):
        if extra := missing_extra_of(str(entry["preset"])):
            if any(name.startswith(_SPARKPLUG) for name in left):
                missing.append(
                    f"{entry['preset']} needs more packages: pip install 'mqtt-edge-gateway[{extra}]'"
                )
            continue
        route = ProposedRoute(entry, title)
        taken = _read(route, left.values())
        if taken:
            _set_timezone(route, timezone)
            proposed.append(route)
            left = {name: topic for name, topic in left.items() if name not in taken}
    shapes = {name: _common_shape(topic) for name, topic in left.items()}
    readable = [topic for name, topic in left.items() if shapes[name].kind not in ("other", "switch")]
    names = {route.name for route in proposed}
    for pattern in patterns_of(readable, shapes):
        new = _of_pattern(pattern, shapes, names)
        if new is not None and (taken := _read(new, [left[topic.name] for topic in pattern.topics])):
            _set_timezone(new, timezone)
            names.add(new.name)
            proposed.append(new)
            left = {name: topic for name, topic in left.items() if name not in taken}
    return Routes(proposed, sorted(left), missing)


def _candidates(heard: BrokerTraffic) -> Iterator[tuple[dict[str, object], str]]:
    """(entry, what it is) of presets, the more particular first."""
    further = {name for names in SETS.values() for name in names[1:]}
    if any(topic.endswith("/tele/SENSOR") for topic in heard.topics):
        yield (
            {"preset": "tasmota", "name": "tasmota_reversed", "topic": "{device}/tele/SENSOR"},
            "Tasmota, with the prefix behind the device in its FullTopic",
        )
    for base in sorted(heard.bridges - {"zigbee2mqtt"}):
        name = "zigbee2mqtt_" + "".join(c if c.isalnum() else "_" for c in base)
        yield (
            {"preset": "zigbee2mqtt", "name": name, "topic": f"{base}/{{device}}"},
            f"Zigbee2MQTT below {base}",
        )
    for preset in PRESETS:
        if preset not in further and preset not in _NOT_TRIED:
            yield {"preset": preset}, _TITLES.get(preset, preset)


_TITLES = {
    "tasmota": "Tasmota",
    "zigbee2mqtt": "Zigbee2MQTT",
    "shelly_gen1": "Shelly of the first generation",
    "shelly_gen2": "Shelly of the second generation and later",
    "esphome": "ESPHome",
    "statestream": "Home Assistant's statestream",
    "chirpstack": "ChirpStack",
    "ttn": "The Things Network",
    "sparkplug": "Sparkplug B",
}


def _read(route: ProposedRoute, topics: Iterable[HeardTopic]) -> set[str]:
    """Read topics with a route, and note what it found; return those that gave a number."""
    table = _table(route.entry)
    taken: set[str] = set()
    for topic in topics:
        found = table.match(topic.name)
        if found is None or (route.entry.get("preset") == "statestream" and not _is_statestream(topic.name)):
            continue
        reader, levels = found
        samples: list[Sample] = []
        for one in topic.payloads:
            samples += reader.decode(topic.name, levels, one.payload, one.arrival_ms).samples
        # Of Sparkplug's metrics only a birth, which comes seldom, says the names.
        if not topic.name.startswith(_SPARKPLUG) and not any(map(_numbers, samples)):
            continue
        taken.add(topic.name)
        part = route.parts.setdefault(reader.spec.name, RoutePart(reader.spec.name, reader.template))
        part.topics.append(topic)
        for name, value in levels.items():
            part.levels[name].add(value)
        for sample in samples:
            part.note(levels, sample)
    return taken


def _is_statestream(topic: str) -> bool:
    return topic.split("/", maxsplit=1)[0] in ("homeassistant", "hass", "statestream")


def _table(entry: Mapping[str, object]) -> RouteTable:
    route = RouteModel.model_validate(dict(entry))
    return RouteTable(one.spec(SkewPolicy()) for one in route.routes)


def _numbers(sample: Sample) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in sample.fields.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def _set_timezone(route: ProposedRoute, timezone: str) -> None:
    """Give the route a time zone where its devices write times without one that are off by hours."""
    table = _table(route.entry)
    for topic in route.topics:
        found = table.match(topic.name)
        if found is None or found[0].timestamp_path is None:
            continue
        for one in topic.payloads:
            decoded = found[0].decode(topic.name, found[1], one.payload, one.arrival_ms)
            if decoded.device_time_ms is None or one.retained:
                continue
            quarters = round((decoded.device_time_ms - one.arrival_ms) / _QUARTER_HOUR_MS)
            if quarters and decoded.flags & Flag.CORRECTED:
                route.entry["timestamp_timezone"] = timezone
                ahead = f"{abs(quarters) / 4:g} h {'ahead of' if quarters > 0 else 'behind'} UTC"
                route.reasons.append(f"its times are {ahead} and name no zone; check that this one is right")
                return


def _common_shape(topic: HeardTopic) -> Shape:
    shapes = [shape_of(one.payload, one.arrival_ms) for one in topic.payloads]
    kinds = [shape.kind for shape in shapes]
    kind = max(kinds, key=kinds.count)
    same = [shape for shape in shapes if shape.kind == kind]
    numbers = {path: value for shape in same for path, value in shape.numbers.items()}
    timed = next((shape for shape in same if shape.time_path), same[-1])
    return Shape(kind if kind != "json" or numbers else "other", numbers, timed.time_path, timed.time_format)


def _of_pattern(pattern: Pattern, shapes: Mapping[str, Shape], names: set[str]) -> ProposedRoute | None:
    entry: dict[str, object] = {"name": _name_of(pattern.topic, names), "topic": pattern.topic}
    route = ProposedRoute(entry, "Topics that no preset knows")
    if pattern.kind == "number":
        entry["decoder"] = "number"
    elif pattern.kind == "text":
        entry |= {"decoder": "text", "fields": {"value": {"from": "@", "parse": "number"}}}
    else:
        _add_fields(route, [shapes[topic.name] for topic in pattern.topics])
        if not entry.get("fields"):
            return None
        _add_time(entry, [shapes[topic.name] for topic in pattern.topics])
    try:
        RouteModel.model_validate(dict(entry))
    except (ValueError, GatewayError):
        return None  # a topic or a field that no configuration can name
    return route


def _add_fields(route: ProposedRoute, shapes: Sequence[Shape]) -> None:
    counts: dict[tuple[str, ...], int] = defaultdict(int)
    for shape in shapes:
        for path in shape.numbers:
            counts[path] += 1
    taken: set[str] = set()
    fields: dict[str, str] = {}
    for path in sorted(counts, key=lambda one: (-counts[one], one))[:MOST_FIELDS]:
        name = field_name_of(path, taken)
        taken.add(name)
        often = counts[path] >= _HALF * len(shapes)
        (fields if often else route.rare_fields)[name] = jmespath_of(path)
    route.entry["fields"] = fields


def _add_time(entry: dict[str, object], shapes: Sequence[Shape]) -> None:
    timed = [shape for shape in shapes if shape.time_path]
    if len(timed) < _HALF * len(shapes):
        return
    first = timed[0]
    entry["timestamp_path"] = jmespath_of(first.time_path or ())
    entry["timestamp_format"] = first.time_format


def _name_of(topic: str, taken: set[str]) -> str:
    """A name out of the levels that stand in the topic."""
    levels = [level for level in topic.split("/") if level[:1] not in ("{", "+")]
    words = "_".join("".join(c if c.isascii() and c.isalnum() else "_" for c in level) for level in levels)
    base = words.strip("_").lower()[:40] or "messages"
    base = base if base[0].isalpha() else f"topic_{base}"
    name, number = base, 2
    while name in taken:
        name, number = f"{base}_{number}", number + 1
    return name
