"""What `gateway init` proposes for what it heard: sound, and it reads every topic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from gateway.config import Config, parse_config
from gateway.config.proposal.heard import MOST_TOPICS, BrokerTraffic
from gateway.config.proposal.quantities import quantity_of
from gateway.config.proposal.routes import propose_routes
from gateway.config.proposal.shapes import shape_of
from gateway.config.proposal.text import LocalBroker, Proposal, propose
from gateway.decode.routes import RouteTable
from gateway.lab.device_payloads import PRESETS
from gateway.lab.fleet_simulator import FleetSpec, simulate

NOW_MS = 1_790_000_000_000
# What simulated devices of one kind are recognised as. `plain` and `json` are of no system.
RECOGNISED = {name: name for name in PRESETS} | {"plain": "sensors_temperature", "json": "sensors"}


def heard_of(*presets: str, readings: int = 24, devices: int = 4) -> BrokerTraffic:
    heard = BrokerTraffic()
    for preset in presets:
        spec = FleetSpec(devices=devices, rate_per_s=2, preset=preset, count=readings)
        for one in simulate(spec, NOW_MS):
            heard.add(one.topic, one.payload, one.send_at_ms)
    return heard


def heard_messages(*messages: tuple[str, object], times: int = 3) -> BrokerTraffic:
    heard = BrokerTraffic()
    for turn in range(times):
        for topic, payload in messages:
            raw = payload if isinstance(payload, bytes) else orjson.dumps(payload)
            heard.add(topic, raw, NOW_MS + turn * 10_000)
    return heard


def proposed(heard: BrokerTraffic, timezone: str = "UTC") -> tuple[Proposal, Config]:
    proposal = propose(
        heard, propose_routes(heard, timezone), LocalBroker("mqtt://127.0.0.1:1883"), "g1", "1m"
    )
    return proposal, parse_config(proposal.text)


def routes_of(heard: BrokerTraffic, timezone: str = "UTC") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(proposed(heard, timezone)[0].text)["routes"]
    return found


@pytest.mark.parametrize("preset", PRESETS)
def test_devices_of_each_kind_are_recognised_and_all_of_their_topics_are_read(preset: str) -> None:
    heard = heard_of(preset)
    proposal, config = proposed(heard)
    assert [route.name for route in proposal.routes.proposed] == [RECOGNISED[preset]]
    assert proposal.routes.unread == []
    table = RouteTable(config.route_specs())
    assert all(table.match(topic) for topic in heard.topics)
    if preset != "owntracks":  # a position is nothing to take a mean of
        assert config.windows


def test_a_broker_with_all_of_them_gets_one_configuration() -> None:
    heard = heard_of(*PRESETS)
    proposal, config = proposed(heard)
    assert {route.name for route in proposal.routes.proposed} == {*RECOGNISED.values()}
    assert proposal.routes.unread == []
    alarms = {window.name for window in config.windows if window.plugin == "threshold"}
    assert {"tasmota_temperature_high", "zigbee2mqtt_battery_low", "esphome_temperature_high"} <= alarms


def test_without_the_extra_of_sparkplug_the_rest_is_proposed_and_the_extra_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard = heard_of("sparkplug", "tasmota")
    monkeypatch.setattr("gateway.decode.decoders.find_spec", lambda _module: None)
    routes = propose_routes(heard, "UTC")
    assert [route.name for route in routes.proposed] == ["tasmota"]
    assert "mqtt-edge-gateway[sparkplug]" in routes.missing_extras[0]
    assert routes.unread[0].startswith("spBv1.0/")


def test_windows_read_fields_that_came_and_alarms_begin_above_them() -> None:
    heard = heard_of("zigbee2mqtt")
    windows = {one["name"]: one for one in yaml.safe_load(proposed(heard)[0].text)["windows"]}
    assert windows["zigbee2mqtt_temperature_1m"]["field"] == "temperature"
    values = [orjson.loads(p.payload)["temperature"] for t in heard.topics.values() for p in t.payloads]
    assert windows["zigbee2mqtt_temperature_high"]["options"]["above"] > max(values)


@pytest.mark.parametrize(
    ("topics", "patterns"),
    [
        (["home/kitchen/temperature", "home/bath/temperature"], ["home/{device}/temperature"]),
        (["home/kitchen/temperature", "home/bath/humidity"], ["home/{device}/{quantity}"]),
        (["kitchen/temperature", "bath/temperature"], ["{device}/temperature"]),
        (["site/a/line/1/temp", "site/b/line/2/temp"], ["site/{place}/line/{device}/temp"]),
        (["plant/press1/temperature"], ["plant/{device}/temperature"]),
        (["a/x/temperature", "b/y/z/power"], ["a/{device}/temperature", "b/y/{device}/power"]),
    ],
)
def test_numbers_that_no_preset_knows_get_patterns(topics: list[str], patterns: list[str]) -> None:
    heard = heard_messages(*((topic, b"21.5") for topic in topics))
    assert sorted(route["topic"] for route in routes_of(heard)) == sorted(patterns)


def test_json_that_no_preset_knows_gets_fields_and_its_time() -> None:
    body = {"env": {"temp": 20.5, "hum-idity": 40}, "ts": NOW_MS // 1000, "id": 7, "text": "x"}
    (route,) = routes_of(heard_messages(("plant/press1/data", body)))
    assert route == {
        "name": "plant_data",
        "topic": "plant/{device}/data",
        "timestamp_path": "ts",
        "timestamp_format": "unix",
        "fields": {"temp": "env.temp", "hum_idity": 'env."hum-idity"'},
    }


def test_what_only_some_devices_have_is_proposed_as_a_comment() -> None:
    common = [(f"s/{n}", {"temperature": 20 + n}) for n in range(5)]
    proposal, config = proposed(heard_messages(*common, ("s/9", {"temperature": 1, "co2": 400})))
    assert "# co2: co2" in proposal.text
    assert [*config.routes[0].fields] == ["temperature"]


def test_numbers_with_a_unit_are_read_and_words_are_not() -> None:
    heard = heard_messages(("house/hall/temperature", b"21,5 \xc2\xb0C"), ("house/hall/door", b"open"))
    proposal, config = proposed(heard)
    assert proposal.routes.unread == ["house/hall/door"]
    assert "#   house/hall/door" in proposal.text
    route, levels = RouteTable(config.route_specs()).match("house/hall/temperature") or pytest.fail("unread")
    decoded = route.decode("house/hall/temperature", levels, b"21,5 \xc2\xb0C", NOW_MS)
    assert decoded.samples[0].fields == {"value": 21.5}


def test_other_base_topics_of_known_systems_are_recognised() -> None:
    z2m = {"temperature": 21.5, "linkquality": 120}
    tasmota = {"Time": "2026-09-21T14:13:20", "BME280": {"Temperature": 21.5}}
    heard = heard_messages(
        ("attic/bridge/state", {"state": "online"}), ("attic/hall", z2m), ("boiler/tele/SENSOR", tasmota)
    )
    routes = {route["topic"]: route["preset"] for route in routes_of(heard)}
    assert routes == {"attic/{device}": "zigbee2mqtt", "{device}/tele/SENSOR": "tasmota"}


def test_times_without_a_zone_that_are_hours_off_get_that_of_the_machine() -> None:
    body = {"Time": "2026-09-21T16:13:20", "BME280": {"Temperature": 21.5}}  # NOW_MS, two hours ahead of UTC
    heard = heard_messages(("tele/boiler/SENSOR", body), times=1)
    assert routes_of(heard, "Europe/Berlin") == [{"preset": "tasmota", "timestamp_timezone": "Europe/Berlin"}]
    utc = heard_messages(("tele/boiler/SENSOR", body | {"Time": "2026-09-21T14:13:20"}), times=1)
    assert routes_of(utc, "Europe/Berlin") == [{"preset": "tasmota"}]


@pytest.mark.parametrize(
    ("seconds", "size"), [(1, "1m"), (15, "1m"), (60, "5m"), (200, "15m"), (600, "1h"), (3600, "1h")]
)
def test_a_window_holds_a_few_readings(seconds: int, size: str) -> None:
    heard = BrokerTraffic()
    for turn in range(3):
        heard.add("zigbee2mqtt/hall", b'{"temperature":21.5}', NOW_MS + turn * seconds * 1000)
    assert proposed(heard)[1].windows[0].name == f"zigbee2mqtt_temperature_{size}"


def test_hostile_topics_and_payloads_give_a_sound_configuration_or_none() -> None:
    names = [
        "a{b}/x",
        "$$a/x",
        "\u202ea/x",
        "a\nb/c",
        "${HOME}/x",
        "é/ü",
        "x" * 300,
        "1/2",
        "#a/b",
        "- a: b/c",
    ]
    fields = ["", "a b", "${X}", "#", "'", '"', "\n", ":", "{a}", "é", "1", "-", "null", "on"]
    heard = heard_messages(
        *((f"{name}", dict.fromkeys(fields, 1.5)) for name in names), *((f"{name}/n", b"1") for name in names)
    )
    routes = propose_routes(heard, "UTC")
    assert routes.proposed
    proposed(heard)


def test_what_is_beyond_the_bounds_is_counted() -> None:
    heard = BrokerTraffic()
    for number in range(MOST_TOPICS + 5):
        heard.add(f"t/{number}", b"1", NOW_MS)
    assert (len(heard.topics), heard.left_out, heard.messages) == (MOST_TOPICS, 5, MOST_TOPICS + 5)


def test_commands_and_announcements_are_no_readings() -> None:
    heard = heard_messages(
        *(("cmnd/boiler/POWER", b"1"), ("tele/boiler/LWT", b"Online"), ("$SYS/broker/uptime", b"1")),
        *(("homeassistant/sensor/a/config", {"a": 1}), ("gateway/g/aggregates/m/a", {"a": 1})),
    )
    assert heard.topics == {}
    assert heard.announces_to_home_assistant


@pytest.mark.parametrize(
    ("name", "quantity"),
    [
        *(("Temperature", "temperature"), ("tC", "temperature"), ("kitchen_temperature", "temperature")),
        *(("aenergy", "energy"), ("energy_kwh", "energy"), ("apower", "power"), ("soilMoisture", "humidity")),
        *(("battery", "battery"), ("pm2_5", "pm"), ("humidity2", "humidity")),
    ],
)
def test_names_say_what_is_measured(name: str, quantity: str) -> None:
    found = quantity_of(name)
    assert found is not None
    assert found.name == quantity


def test_the_time_of_a_message_is_found_in_its_format() -> None:
    forms = {"unix": NOW_MS // 1000, "unix_ms": NOW_MS, "iso": "2026-09-21T14:13:20Z"}
    for form, value in forms.items():
        shape = shape_of(orjson.dumps({"time": value, "v": 1}), NOW_MS)
        assert (shape.time_path, shape.time_format) == (("time",), form)
    assert shape_of(b'{"t": 21.5, "v": 1}', NOW_MS).time_path is None  # a temperature


def test_secrets_and_paths_stand_in_the_section_of_the_broker(tmp_path: Path) -> None:
    (tmp_path / "local.password").write_text("secret")
    heard = heard_of("tasmota")
    broker = LocalBroker("mqtt://127.0.0.1:1883", {"username": "me", "password_file": "local.password"})
    text = propose(heard, propose_routes(heard, "UTC"), broker, "g1", "1m").text
    assert "secret" not in text
    assert parse_config(text, tmp_path).local.username == "me"
