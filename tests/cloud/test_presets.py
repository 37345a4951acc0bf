"""Presets of cloud services, against brokers that enforce what the services document."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.config import warnings_of
from gateway.config.cloud_presets import CLOUD_PRESETS, preset_lines
from gateway.core.errors import ConfigError
from tests.conftest import MosquittoFactory
from tests.support.cloud_rules import RuledBroker, ServiceRules, services
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.publishing import publish
from tests.support.stub_broker import CONNECT, PUBLISH
from tests.support.uplinks import cloud_config, statuses, uplink

STREAMS = 5
POISON = '{"v": -1, "s": "poison"}'
EVERY = sorted(CLOUD_PRESETS)
LIKE_OTHERS = ("azure_event_grid", "emqx_cloud", "hivemq_cloud")  # MQTT 5 and frames, as aws_iot_core


def readings(first: int, count: int) -> list[tuple[str, str]]:
    return [(f"sensors/d{n % STREAMS}", json.dumps({"v": n})) for n in range(first, first + count)]


def check_all_there(broker: RuledBroker, count: int) -> None:
    """Every value came, and per stream the first arrivals are in order."""
    arrived = dict.fromkeys(broker.values)
    for_stream: dict[str, list[int]] = {}
    for stream, value in arrived:
        for_stream.setdefault(stream, []).append(value)
    assert sorted(value for values in for_stream.values() for value in values) == [*range(count)]
    assert all(values == sorted(values) for values in for_stream.values())
    assert not broker.violations


@pytest.mark.parametrize(
    "preset",
    [pytest.param(each, marks=pytest.mark.slow if each in LIKE_OTHERS else ()) for each in EVERY],
)
def test_with_a_preset_everything_arrives_and_no_rule_is_broken(preset: str, tmp_path: Path) -> None:
    service = services(tmp_path)[preset]
    broker = RuledBroker(service.rules)
    hurry = {"reconnect_min": "0s", "batch_events": 20, "messages": "2000/s"}
    broker.rules = ServiceRules(**{**vars(service.rules), "connects_apart_s": 0.0, "per_s": None})
    messages = readings(0, 300)
    messages.insert(150, ("sensors/d0", POISON))
    config = cloud_config(preset=preset, **{**service.section, **hurry, "url": broker.url})
    with broker.running(), uplink(config, tmp_path / "events.db", messages) as writer:
        wait_until(lambda: len(broker.values) >= 100, "the first third")
        broker.away = True
        broker.drop_all()
        wait_until(lambda: len(broker.of(CONNECT)) >= 2, "an attempt to connect")
        broker.away = False
        wait_until(lambda: statuses(writer)["SYNCED"] == 300, "the drain")
        wait_until(lambda: statuses(writer)["FAILED"] == 1, "the end of the poisonous event")
    check_all_there(broker, 300)
    assert not any(packet.qos > 1 for packet in broker.of(PUBLISH))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("preset", EVERY)
def test_ten_thousand_events_an_outage_and_a_poisonous_one(
    preset: str, mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    service, local = services(tmp_path)[preset], mosquitto(["max_queued_messages 0"])
    broker = RuledBroker(service.rules)
    section = {"preset": preset, **service.section, "url": broker.url}
    messages = readings(0, 10_000)
    path = gateway_config(tmp_path, local.url, cloud=section, windows=[])
    with broker.running(), GatewayProcess(path) as gateway:
        gateway.wait_ready()
        publish(local.port, messages[:5000])
        wait_until(lambda: len(broker.values) >= 3000, "the first events")
        broker.away = True
        broker.drop_all()
        publish(local.port, [*messages[5000:7500], ("sensors/d0", POISON), *messages[7500:]])
        broker.away = False
        wait_until(lambda: len(set(broker.values)) == 10_000, "the drain", 200)
        wait_until(
            lambda: gateway.metric('gateway_buffer_events{status="failed"}') == 1, "the poisonous event", 60
        )
        assert gateway.stop() == 0
    check_all_there(broker, 10_000)
    assert broker.poisoned >= 3


@pytest.mark.parametrize("preset", EVERY)
def test_what_only_the_owner_knows_is_named_with_the_place_that_shows_it(preset: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cloud_config(preset=preset)
    problem = "\n".join(caught.value.problems)
    for key, where in CLOUD_PRESETS[preset].needed.items():
        assert f"{key}: {where}" in problem
    assert "docs/clouds.md" in problem


@pytest.mark.parametrize("preset", EVERY)
def test_a_preset_is_only_a_set_of_keys_as_the_documentation_has_it(preset: str, tmp_path: Path) -> None:
    section = {**services(tmp_path)[preset].section, "url": "mqtts://service.example:8883"}
    keys = {key: value for key, value in CLOUD_PRESETS[preset].keys.items() if key not in section}
    if "username" in keys:
        keys["username"] = f"service.example/{section['client_id']}/?api-version=2021-04-12"
    if preset == "adafruit_io":
        keys["topics"] = {"event": "jo/feeds/{stream}", "audit": "off", "status": "off"}
    by_hand, by_name = cloud_config(**keys, **section).cloud, cloud_config(preset=preset, **section).cloud
    assert by_hand is not None
    assert by_name is not None
    assert by_name.model_copy(update={"preset": None}) == by_hand
    described = Path("docs/clouds.md").read_text()
    assert f"preset: {preset}" in described
    for line in preset_lines(preset):
        assert line in described, line


def test_what_the_section_itself_says_comes_first(tmp_path: Path) -> None:
    section = services(tmp_path)["aws_iot_core"].section
    more = {"format": "event", "topics": {"audit": "off"}, "url": "mqtts://a.example"}
    cloud = cloud_config(preset="aws_iot_core", **section, **more).cloud
    assert cloud is not None
    assert (cloud.format, cloud.retain, cloud.audit_s) == ("event", False, None)


def test_a_preset_that_is_not_known_gets_the_nearest_name() -> None:
    with pytest.raises(ConfigError) as caught:
        cloud_config(preset="aws_iot")
    assert "there is no cloud preset aws_iot; did you mean 'aws_iot_core'?" in str(caught.value.problems)


def test_check_shows_the_keys_that_the_preset_stands_for(tmp_path: Path) -> None:
    section = {"preset": "thingsboard", "url": "mqtt://tb.example", "username": "token"}
    path = gateway_config(tmp_path, "mqtt://127.0.0.1:1", cloud=section)
    shown = CliRunner().invoke(app, ["check", "-c", str(path)]).output
    assert 'thingsboard: format: "thingsboard"' in shown
    assert 'thingsboard: max_packet_size: "64KiB"' in shown


def test_check_says_where_nothing_is_proven() -> None:
    section = {"preset": "thingsboard", "url": "mqtt://tb.example", "username": "token"}
    assert any("gateway receive" in each for each in warnings_of(cloud_config(**section)))
