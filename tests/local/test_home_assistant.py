"""Announcements for Home Assistant: against its documented fields, its templates, and a real broker."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment, StrictUndefined, Undefined, UndefinedError

from gateway.core.own_topics import OwnTopics
from gateway.wire import home_assistant
from gateway.wire.home_assistant import Discovery, DiscoveryMessage, Shown
from gateway.wire.standing import superseded
from tests.conftest import MosquittoFactory
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.publishing import Watcher, publish

# https://www.home-assistant.io/integrations/sensor.mqtt/ and …/binary_sensor.mqtt/, what both have:
COMMON = {
    "availability", "availability_mode", "availability_template", "availability_topic", "device",
    "device_class", "enabled_by_default", "encoding", "entity_category", "entity_picture", "expire_after",
    "force_update", "icon", "json_attributes_template", "json_attributes_topic", "name", "object_id",
    "payload_available", "payload_not_available", "qos", "state_topic", "unique_id", "value_template",
}  # fmt: skip
ALLOWED = {
    "sensor": COMMON
    | {"last_reset_value_template", "options", "state_class", "suggested_display_precision"}
    | {"unit_of_measurement"},
    "binary_sensor": COMMON | {"off_delay", "payload_off", "payload_on"},
}
DEVICE = {
    "configuration_url", "connections", "hw_version", "identifiers", "manufacturer", "model", "model_id",
    "name", "serial_number", "suggested_area", "sw_version", "via_device",
}  # fmt: skip
TOPIC = re.compile(r"homeassistant/(sensor|binary_sensor)/[a-zA-Z0-9_-]+/[a-zA-Z0-9_-]+/config")
HALL = "gateway/g.1/aggregates/temp/hall/7"


def discovery(**windows: Shown) -> Discovery:
    return Discovery("homeassistant", OwnTopics("gateway", "g.1"), "1.0", windows or {"temp": Shown()})


def aggregate(result: Any, **more: Any) -> bytes:
    base = {"window": "temp", "key": "hall/7", "kind": "on_time", "revision": 0, "result": result}
    return json.dumps(base | more).encode()


def announced(made: DiscoveryMessage | None) -> dict[str, Any]:
    """The configuration in an announcement, checked as Home Assistant would."""
    assert made is not None
    found = TOPIC.fullmatch(made.topic)
    assert found, made.topic
    described: dict[str, Any] = json.loads(made.payload)
    assert described.keys() - ALLOWED[found[1]] == set()
    assert described["device"].keys() - DEVICE == set()
    assert {"state_topic", "unique_id", "name", "device"} <= described.keys()
    if "options" in described:
        assert described["device_class"] == "enum"
        assert not {"state_class", "unit_of_measurement"} & described.keys()
    return described


def is_defined(value: Any) -> Any:
    """Home Assistant's filter: of what is undefined it ends the rendering, and the state stays."""
    if isinstance(value, Undefined):
        raise UndefinedError
    return value


def rendered(template: str, payload: bytes) -> str:
    environment = Environment(undefined=StrictUndefined, autoescape=False)  # noqa: S701
    environment.filters["is_defined"] = is_defined
    return str(environment.from_string(template).render(value_json=json.loads(payload)))


def test_the_gateways_own_entities_read_the_topics_of_its_health() -> None:
    connection, backpressure, alert = map(announced, discovery().connected())
    assert rendered(connection["value_template"], b'{"state": "online"}') == connection["payload_on"]
    assert rendered(backpressure["value_template"], b'{"action": "SLOW_DOWN"}') in backpressure["options"]
    assert rendered(alert["value_template"], b'{"alert": "failed"}') == "failed"
    assert rendered(alert["value_template"], b'{"result": {"alert": "hot"}}') == "hot"
    assert len({each["unique_id"] for each in (connection, backpressure, alert)}) == 3


def test_an_aggregate_is_announced_once_with_what_its_window_says() -> None:
    made = discovery(temp=Shown("p95", "°C", "temperature", expire_after_s=300))
    payload = aggregate({"count": 3, "p95": 21.5})
    told = announced(made.aggregate(HALL, payload))
    assert (told["state_topic"], told["name"]) == (HALL, "temp hall/7")
    assert (told["unit_of_measurement"], told["device_class"], told["expire_after"]) == (
        "°C", "temperature", 300,
    )  # fmt: skip
    assert told["availability_topic"] == "gateway/g.1/status"
    assert rendered(told["availability_template"], b'{"state": "offline"}') == "offline"
    assert rendered(told["value_template"], payload) == "21.5"
    assert json.loads(rendered(told["json_attributes_template"], payload)) == {"count": 3, "p95": 21.5}
    assert made.aggregate(HALL, payload) is None
    assert [*made.connected()]
    assert made.aggregate(HALL, payload) is not None  # this broker may be another one


def test_the_quality_of_a_result_is_one_of_its_attributes() -> None:
    payload = aggregate({"count": 3, "mean": 21.5}, quality={"late": 1})
    template = announced(discovery().aggregate(HALL, payload))["json_attributes_template"]
    assert json.loads(rendered(template, payload)) == {"count": 3, "mean": 21.5, "quality": {"late": 1}}


def test_what_is_unknown_is_null() -> None:
    template = announced(discovery().aggregate(HALL, aggregate({"mean": 1.5})))["value_template"]
    assert rendered(template, aggregate({"mean": None})) == "null"


@pytest.mark.parametrize("shown", [Shown(), Shown(state_class=None)])
def test_of_a_superseded_result_neither_state_nor_attributes_are_taken(shown: Shown) -> None:
    made = announced(discovery(temp=shown).aggregate(HALL, aggregate({"mean": 1.5})))
    old = superseded(aggregate({"mean": 9}, kind="correction"))
    with pytest.raises(UndefinedError):  # then Home Assistant keeps the state, also of a sensor of text
        rendered(made["value_template"], old)
    assert json.loads(rendered(made["json_attributes_template"], old)) is None


def test_a_correction_of_the_newest_window_is_shown() -> None:
    made = announced(discovery().aggregate(HALL, aggregate({"mean": 1.5})))
    newest = aggregate({"mean": 9}, kind="correction", revision=1)
    assert rendered(made["value_template"], newest) == "9"
    assert json.loads(rendered(made["json_attributes_template"], newest)) == {"mean": 9}


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        (7, "7"),
        ({"count": 2, "mean": 4.5}, "4.5"),
        ({"inside": True, "way_m": 12.5, "lat": 52.5}, "12.5"),
        ({"it's": 3}, "3"),
    ],
)
def test_the_likeliest_number_is_shown(result: Any, shown: str) -> None:
    payload = aggregate(result)
    assert rendered(announced(discovery().aggregate(HALL, payload))["value_template"], payload) == shown


@pytest.mark.parametrize("result", [None, {"mean": None}, {"state": "on"}, [1, 2]])
def test_without_a_number_it_waits_for_the_next_result(result: Any) -> None:
    made = discovery()
    assert made.aggregate(HALL, aggregate(result)) is None
    assert made.aggregate(HALL, aggregate({"mean": 1})) is not None


def test_keys_that_look_alike_are_different_entities() -> None:
    made = discovery()
    topics = [f"gateway/g.1/aggregates/temp/{key}" for key in ("a/b", "a_b", "a b", "ä" * 200)]
    found = [made.aggregate(topic, aggregate({"mean": 1})) for topic in topics]
    assert len({announced(each)["unique_id"] for each in found}) == 4


def test_only_shown_windows_are_announced_and_not_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home_assistant, "MAX_ENTITIES", 1)
    made = discovery()
    assert made.aggregate("gateway/g.1/aggregates/other/a", aggregate({"mean": 1})) is None
    assert made.aggregate("gateway/g.1/alerts", b"{}") is None
    assert made.aggregate(HALL, aggregate({"mean": 1})) is not None
    assert made.aggregate(HALL + "8", aggregate({"mean": 1})) is None
    assert made.unannounced == 1


def test_with_a_broker_entities_appear_and_go_with_their_window(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    broker = mosquitto()
    config = gateway_config(tmp_path, broker.url, home_assistant={})
    readings = [
        ("sensors/a", b'{"v": 1, "t": 1700000000000}'),
        ("sensors/a", b'{"v": 1, "t": 1700000090000}'),
    ]
    with Watcher(broker.port, "homeassistant/#") as seen, GatewayProcess(config) as gateway:
        gateway.wait_ready()
        publish(broker.port, readings)
        wait_until(lambda: len(seen.messages) == 4, "three of the gateway and one of the window")
        told = [announced(DiscoveryMessage(m.topic, bytes(m.payload))) for m in seen.messages]
        assert told[-1]["state_topic"] == "gateway/g1/aggregates/minute/a"
        assert gateway.stop() == 0
    kept = seen.messages[-1].topic

    text = config.read_text()
    config.write_text(text.replace("name: minute", "name: renamed"))
    with GatewayProcess(config) as gateway, Watcher(broker.port, "homeassistant/#") as seen:
        gateway.wait_ready()
        wait_until(lambda: any(m.topic == kept and not m.payload for m in seen.messages), "it is taken back")
    with Watcher(broker.port, "homeassistant/#") as seen:
        wait_until(lambda: len(seen.messages) == 3, "the gateway's own stay")
        assert all(m.retain for m in seen.messages)
