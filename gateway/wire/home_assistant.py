"""MQTT discovery messages, with which Home Assistant shows the gateway and its aggregates by itself.

Each entity is a retained message on `PREFIX/COMPONENT/NODE/OBJECT/config`; an empty one takes it back. The
fields are those of https://www.home-assistant.io/integrations/sensor.mqtt/ and …/binary_sensor.mqtt/. No
network in here: topics and payloads go in and come out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson

from gateway.core.own_topics import OwnTopics

MAX_ENTITIES = 1000
"""Limit of keys, which come from payloads. Home Assistant takes many more, but nobody looks at so many."""
_LIKELY = ("mean", "value", "last", "increase", "delta", "p50", "p95", "count")
_ACTIONS = ["NONE", "SLOW_DOWN", "REJECT_LOW_PRIORITY"]
_ALERT = "{{ value_json.alert if value_json.alert is defined else value_json.result.alert }}"
_OLD = "value_json.superseded is defined"
_NOTHING = "(value_json.nothing | is_defined)"
_ATTRIBUTES = (
    "(dict(value_json.result, quality=value_json.quality) if value_json.quality is defined"
    " else value_json.result)"
)
_UNTOLD = re.compile(r"[^a-zA-Z0-9_-]")


@dataclass(frozen=True, slots=True)
class Shown:
    """Display of a window's aggregates. `value` is the path of the shown number in their result, with dots;
    empty: the likeliest one is found."""

    value: str = ""
    unit: str | None = None
    device_class: str | None = None
    state_class: str | None = "measurement"
    expire_after_s: int | None = None


class DiscoveryMessage(NamedTuple):
    """A retained message; an empty payload takes back what was announced there."""

    topic: str
    payload: bytes


class Discovery:
    """Remembers what has been announced on this connection. `topics` are the gateway's own,
    `windows` are those that are shown, by name."""

    def __init__(
        self, discovery_prefix: str, topics: OwnTopics, version: str, windows: Mapping[str, Shown]
    ) -> None:
        self.unannounced = 0
        """Aggregates of keys beyond MAX_ENTITIES."""
        self._prefix = discovery_prefix
        self._node = _identifier(topics.root)
        self._topics = topics
        self._windows = {topics.aggregates(name): (name, shown) for name, shown in windows.items()}
        self._announced: set[str] = set()  # topics of aggregates
        self._device = {
            "identifiers": [self._node],
            "name": f"Gateway {topics.gateway_id}",
            "model": "MQTT edge gateway",
            "sw_version": version,
        }

    @property
    def filter(self) -> str:
        """Topic filter of everything that this gateway ever announced under this prefix."""
        return f"{self._prefix}/+/{self._node}/+/config"

    def connected(self) -> Iterator[DiscoveryMessage]:
        """A connection is new: the gateway's own entities. The broker may have forgotten the others."""
        self._announced.clear()
        yield self._entity("binary_sensor", "connection", self._connection())
        yield self._entity("sensor", "backpressure", self._backpressure())
        yield self._entity("sensor", "alert", self._alert())

    def aggregate(self, topic: str, payload: bytes) -> DiscoveryMessage | None:
        """Return the announcement to send before `payload` is published on `topic`, the first time; else
        None."""
        if topic in self._announced:
            return None
        found = self._window_of(topic)
        if found is None:
            return None
        if len(self._announced) >= MAX_ENTITIES:
            self.unannounced += 1
            return None
        name, shown = found
        aggregate = orjson.loads(payload)
        path = shown.value.split(".") if shown.value else _likeliest(aggregate["result"])
        if path is None:
            return None  # the next result may have a number
        self._announced.add(topic)
        described = self._measure(topic, name, aggregate["key"], path, shown)
        return self._entity("sensor", _identifier(topic.removeprefix(self._topics.all_aggregates)), described)

    def stale(self, topic: str, payload: bytes) -> DiscoveryMessage | None:
        """Return the message that takes back a retained announcement of an earlier run, if its window is
        gone."""
        if not payload:
            return None
        try:
            state_topic = str(orjson.loads(payload)["state_topic"])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return DiscoveryMessage(topic, b"")  # this node belongs to the gateway alone
        kept = self._window_of(state_topic) or not state_topic.startswith(self._topics.all_aggregates)
        return None if kept else DiscoveryMessage(topic, b"")

    # --- entities ---

    def _entity(self, component: str, object_id: str, described: dict[str, Any]) -> DiscoveryMessage:
        common = {"unique_id": f"{self._node}_{object_id}", "device": self._device, "qos": 1}
        topic = f"{self._prefix}/{component}/{self._node}/{object_id}/config"
        return DiscoveryMessage(topic, orjson.dumps(common | described))

    def _measure(self, topic: str, window: str, key: str, path: list[str], shown: Shown) -> dict[str, Any]:
        value = "value_json.result" + "".join(f"[{_quoted(part)}]" for part in path)
        described = {
            "name": f"{window} {key}".strip(),
            "state_topic": topic,
            # Of a superseded result nothing is taken. `is_defined` of what is not leaves the state as it is;
            # an empty value would blank a sensor without unit and classes.
            "value_template": f"{{{{ {_NOTHING} if {_OLD} else {value} | tojson }}}}",
            "unit_of_measurement": shown.unit,
            "device_class": shown.device_class,
            "state_class": shown.state_class,
            "expire_after": shown.expire_after_s,
        }
        if path:  # the result has further members
            described |= {
                "json_attributes_topic": topic,
                # What is no object leaves the attributes as they are.
                "json_attributes_template": f"{{{{ 'null' if {_OLD} else {_ATTRIBUTES} | tojson }}}}",
            }
        return {name: told for name, told in described.items() if told is not None} | self._availability()

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
        } | self._availability()

    def _alert(self) -> dict[str, Any]:
        topic = self._topics.alerts
        return {
            "name": "Last alert",
            "state_topic": topic,
            "value_template": _ALERT,
            "json_attributes_topic": topic,
            "entity_category": "diagnostic",
        }

    def _availability(self) -> dict[str, Any]:
        return {
            "availability_topic": self._topics.status,
            "availability_template": "{{ value_json.state }}",
        }

    def _window_of(self, topic: str) -> tuple[str, Shown] | None:
        return next((found for start, found in self._windows.items() if topic.startswith(start)), None)


def _likeliest(result: Any) -> list[str] | None:
    """The path of the number that a result is about; the empty path is the result itself."""
    if _is_number(result):
        return []
    if not isinstance(result, dict):
        return None
    numbers = [name for name, value in result.items() if _is_number(value)]
    return next(([name] for name in (*_LIKELY, *numbers) if name in numbers), None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _quoted(text: str) -> str:
    """A string as Jinja reads it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _identifier(text: str) -> str:
    """`text` in the letters that a node and an object may have. Different texts stay different."""
    allowed = _UNTOLD.sub("_", text)
    if allowed == text and len(text) <= 64:
        return text
    return f"{allowed[:48]}-{blake2b(text.encode(), digest_size=6).hexdigest()}"
