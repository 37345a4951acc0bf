"""Announcements for Home Assistant: against its documented fields, its templates, and a real broker."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2 import Environment, StrictUndefined, Undefined, UndefinedError

from gateway.config import load_config
from gateway.config.shown_windows import shown_windows
from gateway.core.errors import ConfigError
from gateway.core.own_topics import OwnTopics
from gateway.wire import home_assistant
from gateway.wire.home_assistant import Discovery, DiscoveryMessage, Shown, ShownWindow
from tests.conftest import MosquittoFactory
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.publishing import Watcher, publish

# https://www.home-assistant.io/integrations/sensor.mqtt/ and …/binary_sensor.mqtt/, what both have:
COMMON = {
    "availability", "origin", "availability_mode", "availability_template", "availability_topic", "device",
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


STATE = "gateway/g.1/home_assistant/temp/hall/7"
FIELDS = {"t": Shown("", "°C", "temperature"), "h": Shown("max", "%", "humidity")}


def discovery(alarms: tuple[str, ...] = (), **windows: ShownWindow) -> Discovery:
    topics = OwnTopics("gateway", "g.1")
    return Discovery("homeassistant", topics, "1.0", windows or {"temp": ShownWindow()}, alarms)


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


def told(
    made: Discovery, result: Any, topic: str = HALL, now_s: float = 0.0, **more: Any
) -> tuple[list[dict[str, Any]], list[DiscoveryMessage]]:
    """The announcements that a result brings, and the other messages."""
    messages = made.result(topic, aggregate(result, **more), now_s)
    news = [announced(each) for each in messages if TOPIC.fullmatch(each.topic) and each.payload]
    return news, [each for each in messages if not (TOPIC.fullmatch(each.topic) and each.payload)]


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
    connection, backpressure, problem = map(announced, discovery().connected())
    assert rendered(connection["value_template"], b'{"state": "online"}') == connection["payload_on"]
    assert rendered(backpressure["value_template"], b'{"action": "SLOW_DOWN"}') in backpressure["options"]
    assert rendered(problem["value_template"], b'{"state": "online"}') == "OFF"
    assert rendered(problem["value_template"], b'{"problems": ["no broker"]}') == "ON"
    assert len({each["unique_id"] for each in (connection, backpressure, problem)}) == 3


def test_a_result_is_announced_once_as_its_window_says_and_each_brings_a_state() -> None:
    made = discovery(temp=ShownWindow(Shown("p95", "°C", "temperature"), expire_after_s=300))
    (sensor,), (state,) = told(made, {"count": 3, "p95": 21.5})
    assert (sensor["state_topic"], sensor["name"], state.topic) == (STATE, "temp", STATE)
    assert (sensor["unit_of_measurement"], sensor["device_class"]) == ("°C", "temperature")
    assert "expire_after" not in sensor  # Home Assistant would count a restart as a new result
    assert [each["topic"] for each in sensor["availability"]] == ["gateway/g.1/status", STATE]
    assert rendered(sensor["availability"][0]["value_template"], b'{"state": "offline"}') == "offline"
    assert rendered(sensor["availability"][1]["value_template"], state.payload) == "online"
    assert rendered(sensor["value_template"], state.payload) == "21.5"
    attributes = rendered(sensor["json_attributes_template"], state.payload)
    assert json.loads(attributes) == {"count": 3, "p95": 21.5}
    news, (state,) = told(made, {"count": 3, "p95": 22})
    assert (news, rendered(sensor["value_template"], state.payload)) == ([], "22")
    assert [*made.connected()]
    assert told(made, {"p95": 1})[0]  # this broker may be another one


def test_each_key_is_a_device_behind_the_gateway() -> None:
    made = discovery(alarms=("hot",), temp=ShownWindow(), other=ShownWindow())
    gateway = announced(next(iter(made.connected())))["device"]
    (first,), _ = told(made, 1)
    (second,), _ = told(made, 1, "gateway/g.1/aggregates/other/hall/7")
    alarm = announced(made.alarm("gateway/g.1/alarms/hot/hall/7"))
    assert first["device"] == second["device"] == alarm["device"]
    assert first["device"]["name"] == "hall/7"
    assert first["device"]["via_device"] == gateway["identifiers"][0]
    (keyless,), _ = told(made, 1, "gateway/g.1/aggregates/temp/all")
    assert keyless["device"] == gateway
    assert len({each["unique_id"] for each in (first, second, alarm, keyless)}) == 4


def test_a_window_of_several_fields_has_a_sensor_for_each() -> None:
    made = discovery(temp=ShownWindow(fields=FIELDS, computed={"dew": Shown("", "°C")}))
    result = {"t": {"count": 2, "mean": 20.5}, "h": {"mean": 40, "max": 60}, "dew": 8.5}
    sensors, (state,) = told(made, result)
    shown = {each["name"]: rendered(each["value_template"], state.payload) for each in sensors}
    assert shown == {"temp t": "20.5", "temp h": "60", "temp dew": "8.5"}
    assert json.loads(rendered(sensors[1]["json_attributes_template"], state.payload)) == result["h"]
    assert len({each["unique_id"] for each in sensors}) == 3
    _, (state,) = told(made, {"t": None, "h": {"max": 61}, "dew": None})
    assert rendered(sensors[2]["value_template"], state.payload) == "None"
    assert json.loads(rendered(sensors[0]["json_attributes_template"], state.payload)) == {}


def test_a_plugin_that_joins_its_fields_has_one_sensor() -> None:
    made = discovery(temp=ShownWindow(fields={"lat": Shown(), "lon": Shown()}))
    (sensor,), (state,) = told(made, {"inside": True, "way_m": 12.5})
    assert (sensor["name"], rendered(sensor["value_template"], state.payload)) == ("temp", "12.5")


def test_what_is_unknown_is_none_as_home_assistant_wants_it() -> None:
    made = discovery()
    (sensor,), _ = told(made, {"mean": 1.5})
    _, (state,) = told(made, {"mean": None})
    assert rendered(sensor["value_template"], state.payload) == "None"


def test_too_old_results_are_unavailable_and_only_a_new_one_ends_that() -> None:
    made = discovery(temp=ShownWindow(expire_after_s=60))
    (sensor,), _ = told(made, {"mean": 1}, now_s=100.0)
    assert made.expired(159.0) == []
    told(made, {"mean": 2}, now_s=150.0, kind="correction", revision=1)
    (gone,) = made.expired(160.0)
    assert rendered(sensor["availability"][1]["value_template"], gone.payload) == "offline"
    with pytest.raises(UndefinedError):  # then Home Assistant keeps the state
        rendered(sensor["value_template"], gone.payload)
    assert json.loads(rendered(sensor["json_attributes_template"], gone.payload)) == {}
    _, (late,) = told(made, {"mean": 3}, now_s=170.0, kind="correction", revision=2)
    assert json.loads(late.payload)["state"] == "offline"
    _, (fresh,) = told(made, {"mean": 4}, now_s=180.0)
    assert json.loads(fresh.payload)["state"] == "online"


def test_after_a_restart_the_old_results_get_too_old_as_well() -> None:
    window = ShownWindow(expire_after_s=60)
    (config, _) = discovery(temp=window).result(HALL, aggregate(1), 0.0)
    made = discovery(temp=window)
    assert made.kept(config.topic, config.payload, 10.0) is None
    assert [each.topic for each in made.expired(70.0)] == [STATE]


@pytest.mark.parametrize(
    ("device_class", "number", "expected"),
    [
        (None, "mean", "measurement"),
        ("temperature", "mean", "measurement"),
        ("energy", "last", "total_increasing"),
        ("gas", "max", "total_increasing"),
        ("water", "last", "total_increasing"),
        ("energy", "increase", None),
        ("monetary", "last", "total"),
        ("timestamp", "last", None),
        ("volume_storage", "last", "measurement"),
        ("wind_direction", "mean", None),
    ],
)
def test_statistics_are_those_that_the_class_asks_for(
    device_class: str | None, number: str, expected: str | None
) -> None:
    assert home_assistant.state_class_of(Shown("", None, device_class), number) == expected
    assert home_assistant.state_class_of(Shown("", None, device_class, None), number) is None


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
    (sensor,), (state,) = told(discovery(), result)
    assert rendered(sensor["value_template"], state.payload) == shown


@pytest.mark.parametrize("result", [None, {"mean": None}, {"state": "on"}, [1, 2]])
def test_without_a_number_it_waits_for_the_next_result(result: Any) -> None:
    made = discovery()
    assert told(made, result) == ([], [])
    assert told(made, {"mean": 1})[0]


def test_a_count_has_no_unit_of_a_measurement() -> None:
    (sensor,), _ = told(discovery(temp=ShownWindow(Shown("", "°C"))), {"count": 3})
    assert "unit_of_measurement" not in sensor


def test_keys_that_look_alike_are_different_entities_and_devices() -> None:
    made = discovery(temp=ShownWindow(fields=FIELDS))
    keys = ["a/b", "a_b", "a b", "A_b", "ä" * 200, "a_b-0123456789ab", "a", "a/t"]
    found = []
    for key in keys:
        topic = f"gateway/g.1/aggregates/temp/{key}"
        found += told(made, {"t": {"mean": 1}, "h": {"max": 1}}, topic)[0]
    assert len({each["unique_id"] for each in found}) == 2 * len(keys)
    assert len({each["device"]["identifiers"][0] for each in found}) == len(keys)


def test_only_shown_windows_are_announced_and_not_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    made = discovery(alarms=("hot",))
    own = [*made.connected()]
    monkeypatch.setattr(home_assistant, "MAX_ENTITIES", len(own) + 1)
    assert told(made, {"mean": 1}, "gateway/g.1/aggregates/other/a") == ([], [])
    assert told(made, {"mean": 1}, "gateway/g.1/alerts") == ([], [])
    assert told(made, {"mean": 1})[0]
    assert told(made, {"mean": 1}, HALL + "8") == ([], [])
    assert made.unannounced == 1
    assert made.alarm("gateway/g.1/alarms/hot/a") is None


def test_an_alarm_is_announced_once_as_a_problem() -> None:
    made = discovery(alarms=("hot",))
    sensor = announced(made.alarm("gateway/g.1/alarms/hot/tank"))
    state = b'{"state": "on", "since_ms": 5, "value": 31, "limit": 30}'
    assert rendered(sensor["value_template"], state) == sensor["payload_on"]
    assert sensor["device_class"] == "problem"
    assert json.loads(rendered(sensor["json_attributes_template"], state))["limit"] == 30
    assert made.alarm("gateway/g.1/alarms/hot/tank") is None
    assert made.alarm("gateway/g.1/alarms/other/tank") is None


def test_all_of_it_is_announced_again_for_home_assistant_that_has_started() -> None:
    made = discovery(alarms=("hot",))
    first = [*made.connected(), made.alarm("gateway/g.1/alarms/hot/tank")]
    first += made.result(HALL, aggregate(1), 0.0)[:1]
    assert made.again() == first


def test_what_was_announced_for_another_plugin_goes_with_the_first_result() -> None:
    before = discovery(temp=ShownWindow(fields=FIELDS, plugin="stats"))
    old = [m for m in before.result(HALL, aggregate({"t": 1, "h": 2}), 0.0) if TOPIC.fullmatch(m.topic)]
    for plugin, left in (("stats", []), ("median", [old[1].topic])):
        made = discovery(temp=ShownWindow(fields=FIELDS, plugin=plugin))
        assert [made.kept(*each, 0.0) for each in old] == [None, None]
        _, others = told(made, {"t": 1})
        assert [each.topic for each in others if not each.payload] == left


def test_what_no_entity_of_today_has_announced_is_taken_back() -> None:
    before = discovery(alarms=("hot", "cold"), temp=ShownWindow(fields=FIELDS), gone=ShownWindow())
    kept = [
        made for made in map(before.alarm, ("gateway/g.1/alarms/hot/a", "gateway/g.1/alarms/cold/a")) if made
    ]
    kept += before.result(HALL, aggregate({"t": 1, "h": 2}), 0.0)[:2]
    kept += before.result("gateway/g.1/aggregates/gone/a", aggregate(1), 0.0)[:1]
    alert = DiscoveryMessage(
        "homeassistant/sensor/gateway_g_1-x/alert/config", b'{"state_topic": "gateway/g.1/alerts"}'
    )
    earlier = json.dumps({"state_topic": HALL, "value_template": "{{ value_json.result }}"}).encode()
    of_one = kept[2].topic.rsplit("/", 2)[0]
    made = discovery(alarms=("hot",), temp=ShownWindow(fields={"t": Shown(), "x": Shown()}))
    stale = [made.kept(*each, 0.0) is not None for each in kept]
    assert stale == [False, True, False, True, True]
    assert made.kept(*alert, 0.0) == DiscoveryMessage(alert.topic, b"")
    (single,) = discovery().result(HALL, aggregate(1), 0.0)[:1]
    assert made.kept(single.topic, earlier, 0.0) is None  # an earlier version's; the next result updates it
    assert made.kept(f"{of_one}/other/config", earlier, 0.0) is not None


@pytest.mark.parametrize(
    ("shown", "problem"),
    [
        ({"device_class": "temperatur"}, "did you mean temperature?"),
        ({"device_class": "temperature", "unit": "C"}, "Home Assistant takes"),
        ({"device_class": "energy", "unit": "kWh", "state_class": "measurement"}, "it can be off, total"),
        ({"fields": {"h": {"device_class": "humidty"}}}, "did you mean humidity?"),
    ],
)
def test_what_home_assistant_would_refuse_is_refused(tmp_path: Path, shown: Any, problem: str) -> None:
    config = gateway_config(tmp_path, "embedded", home_assistant={})
    settings = yaml.safe_load(config.read_text())
    settings["windows"][0]["publish"] = {"home_assistant": shown}
    config.write_text(yaml.safe_dump(settings))
    with pytest.raises(ConfigError) as found:
        load_config(config)
    assert problem in "\n".join(found.value.problems)


def test_the_unit_is_that_of_the_field_as_home_assistant_spells_it(tmp_path: Path) -> None:
    config = gateway_config(tmp_path, "embedded", home_assistant={})
    settings = yaml.safe_load(config.read_text())
    settings["routes"][0]["fields"] = {"v": {"from": "v", "unit": "C"}, "h": {"from": "h", "unit": "%"}}
    window = settings["windows"][0]
    shown = {"device_class": "temperature", "expire_after": "5m"}
    settings["windows"] = [
        window | {"publish": {"home_assistant": shown}},
        {key: value for key, value in window.items() if key != "field"}
        | {"name": "both", "fields": ["v", "h"]},
        window | {"name": "off", "publish": {"home_assistant": "off"}},
    ]
    config.write_text(yaml.safe_dump(settings))
    found = shown_windows(load_config(config))
    assert [*found] == ["minute", "both"]
    assert (found["minute"].shown.unit, found["minute"].expire_after_s) == ("°C", 300)
    assert {name: each.unit for name, each in found["both"].fields.items()} == {"v": "C", "h": "%"}


def test_of_a_superseded_result_neither_state_nor_attributes_are_taken(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    broker = mosquitto()
    config = gateway_config(tmp_path, broker.url, home_assistant={})
    settings = yaml.safe_load(config.read_text())
    settings["windows"][0] |= {"watermark": "per_key", "allowed_lateness": "10m"}
    config.write_text(yaml.safe_dump(settings))

    def measure(at_s: int, value: float) -> tuple[str, bytes]:
        return "sensors/a", json.dumps({"v": value, "t": 1_700_000_040_000 + at_s * 1000}).encode()

    with (
        Watcher(broker.port, "gateway/g1/home_assistant/minute/a") as states,
        Watcher(broker.port, "gateway/g1/aggregates/minute/a") as results,
        GatewayProcess(config) as gateway,
    ):
        gateway.wait_ready()
        publish(broker.port, [measure(0, 20), measure(60, 21), measure(120, 22), measure(30, 99)])
        wait_until(lambda: any(b"superseded" in m.payload for m in results.messages), "an old correction")
        publish(broker.port, [measure(90, 23)])  # of the newest window
        wait_until(lambda: len(states.messages) >= 3, "two results and a correction")
        means = [json.loads(m.payload)["result"]["mean"] for m in states.messages]
        assert means == [20, 21, 22]


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
        found = [announced(DiscoveryMessage(m.topic, bytes(m.payload))) for m in seen.messages]
        assert found[-1]["state_topic"] == "gateway/g1/home_assistant/minute/a"
        publish(broker.port, [("homeassistant/status", b"online")])
        wait_until(lambda: len(seen.messages) == 9, "all of it again, behind the birth")
        assert gateway.stop() == 0
    kept = next(m.topic for m in seen.messages if b"home_assistant/minute/a" in m.payload)
    with Watcher(broker.port, "gateway/g1/home_assistant/#") as states:
        wait_until(lambda: states.messages, "the state is retained")
        assert json.loads(states.messages[0].payload)["result"]["mean"] == 1

    text = config.read_text()
    config.write_text(text.replace("name: minute", "name: renamed"))
    with GatewayProcess(config) as gateway, Watcher(broker.port, "homeassistant/#") as seen:
        gateway.wait_ready()
        wait_until(lambda: any(m.topic == kept and not m.payload for m in seen.messages), "it is taken back")
    with Watcher(broker.port, "homeassistant/#") as seen:
        wait_until(lambda: len(seen.messages) == 3, "the gateway's own stay")
        assert all(m.retain for m in seen.messages)
