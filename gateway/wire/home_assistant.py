"""MQTT discovery messages, with which Home Assistant shows the gateway, its results and alarms by itself.

Each entity is a retained message on `PREFIX/COMPONENT/NODE/OBJECT/config`; an empty one takes it back. The
fields are those of https://www.home-assistant.io/integrations/sensor.mqtt/ and …/binary_sensor.mqtt/. Each
key is a device of its own, behind the gateway. No network in here: topics and payloads go in and come out.

The state of a key's sensors is on a topic of its own, so that nothing reaches Home Assistant there but the
newest result: whatever comes on a topic of a sensor counts as a new value for `expire_after`, even what its
templates ignore.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson

from gateway.core.numbers import is_number
from gateway.core.own_topics import OwnTopics
from gateway.wire.home_assistant_classes import ANGLE, SENSOR_CLASSES

MAX_ENTITIES = 1000
"""Limit of those of keys, which come from payloads. Home Assistant takes many more, but nobody looks at so
many."""
AUTO = "auto"
"""The state class that the device class asks for."""
_LIKELY = ("mean", "value", "last", "increase", "delta", "p50", "p95", "count")
_PER_WINDOW = frozenset({"increase", "delta", "count"})
"""Numbers that begin anew with each window: they do not rise from one to the next."""
_ACTIONS = ["NONE", "SLOW_DOWN", "REJECT_LOW_PRIORITY"]
_ALL_KEYS = "all"  # the level that stands for the one key of a window without keys
_UNTOLD = re.compile(r"[^a-zA-Z0-9_-]")
_LIKE_A_DIGEST = re.compile(r"-[0-9a-f]{12}$")
_MARK = re.compile(r"\{# (.*?) #\}$")


@dataclass(frozen=True, slots=True)
class Shown:
    """Display of a number in a window's results. `value` is its path, with dots; empty: the likeliest one is
    found."""

    value: str = ""
    unit: str | None = None
    device_class: str | None = None
    state_class: str | None = AUTO


@dataclass(frozen=True, slots=True)
class ShownWindow:
    """Display of a window's results: one number, or one for each of several `fields`; and what is `computed`.
    `plugin` gives the results. After `expire_after_s` without a new one they are unavailable."""

    shown: Shown = Shown()
    fields: Mapping[str, Shown] = field(default_factory=dict)
    computed: Mapping[str, Shown] = field(default_factory=dict)
    plugin: str = ""
    expire_after_s: int | None = None


class DiscoveryMessage(NamedTuple):
    """A retained message; an empty payload takes back what was there."""

    topic: str
    payload: bytes


class _Measure(NamedTuple):
    """A number of a result. `name` is empty for the only one."""

    name: str
    path: list[str]
    shown: Shown


class Discovery:
    """Remembers what was announced on this connection. `topics` are the gateway's own, `windows` those that
    are shown, `alarms` the names of all that may have alarms. Times are monotonic."""

    def __init__(
        self,
        discovery_prefix: str,
        topics: OwnTopics,
        version: str,
        windows: Mapping[str, ShownWindow],
        alarms: Iterable[str] = (),
    ) -> None:
        self.unannounced = 0
        """Results of keys beyond MAX_ENTITIES."""
        self._prefix = discovery_prefix
        self._node = _identifier(topics.root)
        self._topics = topics
        self._windows = {topics.aggregates(name): (name, shown) for name, shown in windows.items()}
        self._states = {topics.home_assistant(name): (name, shown) for name, shown in windows.items()}
        self._alarms = {topics.alarms(name): name for name in alarms}
        self._announced: dict[str, bytes] = {}  # everything, by its topic
        self._names: dict[str, set[str]] = {}  # the announcements of a topic of aggregates
        self._kept: dict[str, dict[str, str]] = {}  # what the broker kept, by topic of states: its plugin
        self._expire_s: dict[str, float] = {}  # when the states on a topic are too old
        self._gateway = {
            "identifiers": [self._node],
            "name": f"Gateway {topics.gateway_id}",
            "model": "MQTT edge gateway",
            "sw_version": version,
        }
        self._origin = {"name": "mqtt-edge-gateway", "sw_version": version}

    @property
    def filter(self) -> str:
        """Topic filter of everything that this gateway ever announced under this prefix."""
        return f"{self._prefix}/+/{self._node}/+/config"

    @property
    def birth(self) -> str:
        """Topic on which Home Assistant says that it has started."""
        return f"{self._prefix}/status"

    @property
    def retained_filters(self) -> list[str]:
        """Filters of everything that is retained."""
        return [self.filter, *(f"{start}#" for start in self._states)]

    def connected(self) -> Iterator[DiscoveryMessage]:
        """A connection is new: the gateway's own entities. The broker may have forgotten the others."""
        for known in (self._announced, self._names, self._kept):
            known.clear()
        yield self._announce("binary_sensor", "connection", self._connection())
        yield self._announce("sensor", "backpressure", self._backpressure())
        yield self._announce("binary_sensor", "problem", self._problem())

    def again(self) -> list[DiscoveryMessage]:
        """Return everything that was announced: Home Assistant has started."""
        return [DiscoveryMessage(*each) for each in self._announced.items()]

    def shows(self, topic: str) -> bool:
        """Return True if `result` or `alarm` may have something for this topic."""
        return topic.startswith((*self._windows, *self._alarms))

    def result(self, topic: str, payload: bytes, now_s: float) -> list[DiscoveryMessage]:
        """Return what to publish of an aggregate that is the newest of its key: the state of its sensors,
        behind announcements that are new."""
        found = next((found for start, found in self._windows.items() if topic.startswith(start)), None)
        if found is None:
            return []
        name, window = found
        aggregate = orjson.loads(payload)
        levels = topic[len(self._topics.aggregates(name)) :]
        state_topic = self._topics.home_assistant(name) + levels
        news = [*self._measures(name, window, levels, aggregate, topic)]
        if topic not in self._names:
            return []
        if window.expire_after_s is not None and aggregate["kind"] != "correction":
            self._expire_s[state_topic] = now_s + window.expire_after_s
        state = {"state": "online", "result": aggregate["result"]}
        if window.expire_after_s is not None and self._expire_s.get(state_topic, now_s) <= now_s:
            state["state"] = "offline"  # a correction of what is too old
        bounds = {each: aggregate[each] for each in ("start_ms", "end_ms", "count") if each in aggregate}
        return [*news, DiscoveryMessage(state_topic, orjson.dumps(state | {"window": name} | bounds))]

    def alarm(self, topic: str) -> DiscoveryMessage | None:
        """Return the announcement to send before the state of an alarm is published, the first time."""
        found = next(((start, name) for start, name in self._alarms.items() if topic.startswith(start)), None)
        if found is None or topic in self._names:
            return None
        if not self._has_room():
            return None
        start, window = found
        levels = topic[len(start) :]
        announced = self._announce(
            "binary_sensor", self._alarm_id(window, levels), self._alarm(topic, window)
        )
        self._names[topic] = {announced.topic}
        return announced

    def expired(self, now_s: float) -> list[DiscoveryMessage]:
        """Return what to publish of sensors that have had no new result for too long."""
        gone = [topic for topic, at_s in self._expire_s.items() if at_s <= now_s]
        for topic in gone:
            del self._expire_s[topic]
        return [DiscoveryMessage(topic, b'{"state":"offline"}') for topic in gone]

    def kept(self, topic: str, payload: bytes, now_s: float) -> DiscoveryMessage | None:
        """Look at an announcement that the broker kept of an earlier run; return what takes it back if it is
        of none of today's entities."""
        if not payload or topic in self._announced or self._keeps(topic, payload, now_s):
            return None
        return DiscoveryMessage(topic, b"")

    def _keeps(self, topic: str, payload: bytes, now_s: float) -> bool:
        try:
            described = orjson.loads(payload)
            state_topic, template = str(described["state_topic"]), str(described["value_template"])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return False  # this node belongs to the gateway alone
        object_id = topic.split("/")[-2]
        for start, window in self._alarms.items():
            if state_topic.startswith(start):
                return object_id == self._alarm_id(window, state_topic[len(start) :])
        for start, (name, _) in self._windows.items():  # as an earlier version announced it
            if state_topic.startswith(start):
                return object_id == _sensor_id(name, state_topic[len(start) :], "")
        for start, (name, shown) in self._states.items():
            if state_topic.startswith(start):
                if not self._is_current(name, shown, state_topic[len(start) :], object_id):
                    return False
                mark = _MARK.search(template)
                self._kept.setdefault(state_topic, {})[topic] = mark[1] if mark else ""
                if shown.expire_after_s is not None:
                    self._expire_s.setdefault(state_topic, now_s + shown.expire_after_s)
                return True
        return False

    # --- results ---

    def _measures(
        self, name: str, window: ShownWindow, levels: str, aggregate: dict[str, Any], topic: str
    ) -> Iterator[DiscoveryMessage]:
        """Yield what to announce of a result, and what to take back."""
        known = self._names.get(topic)
        is_first = known is None
        for measure in _measures_of(window, aggregate["result"]):
            object_id = _sensor_id(name, levels, measure.name)
            where = f"{self._prefix}/sensor/{self._node}/{object_id}/config"
            if known is not None and where in known:
                continue
            if not self._has_room():
                return
            known = self._names.setdefault(topic, set())
            known.add(where)
            yield self._announce("sensor", object_id, self._sensor(name, window.plugin, levels, measure))
        if is_first and known is not None:
            kept = self._kept.pop(self._topics.home_assistant(name) + levels, {})
            for where, plugin in kept.items():
                if where not in known and plugin != window.plugin:  # another plugin gave other numbers
                    yield DiscoveryMessage(where, b"")

    def _has_room(self) -> bool:
        has_room = len(self._announced) < MAX_ENTITIES
        self.unannounced += not has_room
        return has_room

    def _is_current(self, name: str, window: ShownWindow, levels: str, object_id: str) -> bool:
        """Return True if an entity may still get a result."""
        names = ("", *window.fields, *window.computed)
        return object_id in {_sensor_id(name, levels, each) for each in names}

    # --- entities ---

    def _announce(self, component: str, object_id: str, described: dict[str, Any]) -> DiscoveryMessage:
        common: dict[str, Any] = {
            "unique_id": f"{self._node}_{object_id}",
            "device": self._gateway,
            "origin": self._origin,
            "qos": 1,
        }
        topic = f"{self._prefix}/{component}/{self._node}/{object_id}/config"
        self._announced[topic] = orjson.dumps(common | described)
        return DiscoveryMessage(topic, self._announced[topic])

    def _device(self, levels: str) -> dict[str, Any]:
        """Return the device of a key."""
        if levels == _ALL_KEYS:
            return self._gateway
        return {
            "identifiers": [f"{self._node}_{_identifier(levels)}"],
            "name": levels,
            "model": "Key of an MQTT edge gateway",
            "via_device": self._node,
        }

    def _sensor(self, window: str, plugin: str, levels: str, measure: _Measure) -> dict[str, Any]:
        topic = self._topics.home_assistant(window) + levels
        value = "".join(f"[{_quoted(part)}]" for part in measure.path)
        shown, number = measure.shown, measure.path[-1] if measure.path else ""
        described: dict[str, Any] = {
            "name": f"{window} {measure.name}".rstrip(),
            "state_topic": topic,
            # Without a result, `is_defined` leaves the state as it is. `None` is what is unknown.
            "value_template": f"{{{{ (value_json.result | is_defined){value} }}}}{{# {plugin} #}}",
            "unit_of_measurement": None if number == "count" and not shown.value else shown.unit,
            "device_class": shown.device_class,
            "state_class": state_class_of(shown, number),
            "device": self._device(levels),
        }
        if measure.path:  # the result has further members
            inner = "".join(f"[{_quoted(part)}]" for part in measure.path[:-1])
            described |= {
                "json_attributes_topic": topic,
                "json_attributes_template": "{{ ((value_json.result | default({}))"
                + f"{inner} | default({{}}, true)) | tojson }}}}",
            }
        own = {"topic": topic, "value_template": "{{ value_json.state }}"}
        described |= {"availability": [self._status_availability(), own], "availability_mode": "all"}
        return {name: told for name, told in described.items() if told is not None}

    def _alarm(self, topic: str, window: str) -> dict[str, Any]:
        return {
            "name": window,
            "state_topic": topic,
            "value_template": "{{ value_json.state }}",
            "payload_on": "on",
            "payload_off": "off",
            "device_class": "problem",
            "json_attributes_topic": topic,
            "json_attributes_template": "{{ value_json | tojson }}",
            "device": self._device(topic[len(self._topics.alarms(window)) :]),
            "availability": [self._status_availability()],
        }

    def _connection(self) -> dict[str, Any]:
        return {
            "name": "Connection",
            "state_topic": self._topics.status,
            "value_template": "{{ value_json.state }}",
            "payload_on": "online",
            "payload_off": "offline",
            "device_class": "connectivity",
            "entity_category": "diagnostic",
        }

    def _problem(self) -> dict[str, Any]:
        topic = self._topics.status
        return {
            "name": "Problem",
            "state_topic": topic,
            "value_template": "{{ 'ON' if value_json.problems | default([]) else 'OFF' }}",
            "device_class": "problem",
            "entity_category": "diagnostic",
            "json_attributes_topic": topic,
            "json_attributes_template": "{{ {'problems': value_json.problems | default([])} | tojson }}",
            "availability": [self._status_availability()],
        }

    def _backpressure(self) -> dict[str, Any]:
        topic = self._topics.backpressure
        return {
            "name": "Backpressure",
            "state_topic": topic,
            "value_template": "{{ value_json.action }}",
            "device_class": "enum",
            "options": _ACTIONS,
            "json_attributes_topic": topic,
            "entity_category": "diagnostic",
            "availability": [self._status_availability()],
        }

    def _status_availability(self) -> dict[str, str]:
        return {"topic": self._topics.status, "value_template": "{{ value_json.state }}"}

    @staticmethod
    def _alarm_id(window: str, levels: str) -> str:
        return _identifier("alarm", window, levels)


def state_class_of(shown: Shown, number: str) -> str | None:
    """Return the state class of a number; `number` is its name in the result."""
    if shown.state_class != AUTO:
        return shown.state_class
    known = SENSOR_CLASSES.get(shown.device_class or "")
    if known is not None and known.state_classes == ANGLE:
        return (
            None  # 2024.3 refuses a sensor with "measurement_angle", 2025.4 warns of one with "measurement"
        )
    if known is None or "measurement" in known.state_classes:
        return "measurement"
    if number in _PER_WINDOW or not known.state_classes:
        return None
    return "total_increasing" if "total_increasing" in known.state_classes else known.state_classes[0]


def _measures_of(window: ShownWindow, result: Any) -> Iterator[_Measure]:
    """The numbers of a result that are shown."""
    members = result if isinstance(result, dict) else {}
    per_field = [(name, shown) for name, shown in window.fields.items() if name in members]
    for name, shown in per_field:
        path = shown.value.split(".") if shown.value and members[name] is not None else None
        inner = path if path is not None and isinstance(members[name], dict) else _likeliest(members[name])
        if inner is not None:
            yield _Measure(name, [name, *inner], shown)
    for name, shown in window.computed.items():
        if name in members:
            yield _Measure(name, [name], shown)
    if not per_field:
        shown = window.shown
        path = shown.value.split(".") if shown.value else _likeliest(result)
        if path is not None:
            yield _Measure("", path, shown)


def _likeliest(result: Any) -> list[str] | None:
    """The path of the number that a result is about; the empty path is the result itself."""
    if is_number(result):
        return []
    if not isinstance(result, dict):
        return None
    numbers = [name for name, value in result.items() if is_number(value)]
    return next(([name] for name in (*_LIKELY, *numbers) if name in numbers), None)


def _quoted(text: str) -> str:
    """A string as Jinja reads it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _sensor_id(window: str, levels: str, name: str) -> str:
    return _identifier(window, levels, name) if name else _identifier(f"{window}/{levels}")


def _identifier(*parts: str) -> str:
    """`parts` in the letters that a node and an object may have. Different ones stay different."""
    text = "\0".join(parts)
    allowed = _UNTOLD.sub("_", text)
    if allowed == text and len(text) <= 64 and not _LIKE_A_DIGEST.search(text):
        return text
    return f"{allowed[:48]}-{blake2b(text.encode(), digest_size=6).hexdigest()}"
