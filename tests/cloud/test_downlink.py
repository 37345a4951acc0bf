"""Commands from the cloud: where each goes, which go nowhere, and each once, over two real brokers."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from gateway.config import parse_config, warnings_of
from gateway.core.errors import ConfigError
from gateway.core.events import Message
from gateway.core.topics import filter_matches, overlap
from gateway.wire.command_topics import SENDER, Downlink, DownlinkRule
from tests.conftest import MosquittoFactory
from tests.support.brokers import Broker
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.publishing import Watcher, publish

POWER = DownlinkRule("commands/g1/{device}/power", "cmnd/{device}/POWER", max_bytes=10)
WIDE = DownlinkRule("commands/g1/any/{rest...}", "{rest...}", allow=("cmnd/+/+", "shellies/#"))


def message(topic: str, payload: bytes = b"ON", **changes: Any) -> Message:
    return Message(topic, payload, 1, False, False, 1, 1, 0)._replace(**changes)


def destination(sent: Message) -> str:
    found = Downlink("g1", "gateway/g1", [POWER, WIDE]).destination(sent)
    return found if isinstance(found, str) else found[1]


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (message("commands/g1/lamp/power"), "cmnd/lamp/POWER"),
        (message("commands/g1/any/shellies/plug/relay"), "shellies/plug/relay"),
        (message("commands/g1/any/cmnd/lamp/POWER"), "cmnd/lamp/POWER"),
        (message("commands/g1/any/cmnd/lamp/x/y"), "not_allowed"),
        (message("commands/g1/any/gateway/g1/status"), "not_allowed"),
        (message("commands/g1/any"), "not_allowed"),
        (message("commands/g2/lamp/power"), "no_rule"),
        (message("commands/g1/lamp/power", b"x" * 11), "too_large"),
        (message("commands/g1/lamp/power", retain=True), "retained"),
        (message("commands/g1/lamp/power", properties=((SENDER, "g1"),)), "own"),
        (message("commands/g1/lamp/power", properties=((SENDER, "g2"),)), "cmnd/lamp/POWER"),
    ],
)
def test_a_command_goes_where_its_rule_says_or_nowhere_with_a_reason(sent: Message, expected: str) -> None:
    assert destination(sent) == expected


def test_its_own_and_the_brokers_topics_are_never_written() -> None:
    everything = Downlink("g1", "gateway/g1", [DownlinkRule("down/{rest...}", "{rest...}")])
    for topic in ("gateway/g1/status", "$SYS/broker", "gateway/g1/up/batch/0"):
        assert everything.destination(message(f"down/{topic}")) == "not_allowed"


def test_without_a_to_the_topic_stays_the_same() -> None:
    same = Downlink("g1", "gateway/g1", [DownlinkRule("cmnd/+/POWER")])
    found = same.destination(message("cmnd/lamp/POWER"))
    assert found == (same.rules[0], "cmnd/lamp/POWER")


levels = st.lists(st.sampled_from(["a", "b", "+"]), min_size=1, max_size=3)
filters = st.tuples(levels, st.booleans()).map(lambda made: "/".join(made[0] + ["#"] * made[1]))


@given(filters, filters)
def test_filters_overlap_where_a_topic_matches_both(one: str, other: str) -> None:
    topics = ["/".join(parts) for size in range(1, 6) for parts in product("abc", repeat=size)]
    assert overlap(one, other) == any(filter_matches(one, t) and filter_matches(other, t) for t in topics)


def test_a_wildcard_does_not_overlap_with_the_brokers_own_topics() -> None:
    assert not overlap("#", "$SYS/#")
    assert overlap("$SYS/+", "$SYS/#")


def parse(downlink: list[dict[str, Any]], cloud_url: str = "mqtt://cloud:1883", **more: Any) -> Any:
    sections = {
        "gateway": {"id": "g1"},
        "local": {"url": "mqtt://edge:1883"},
        "routes": [{"name": "r", "topic": "tele/{device}"}],
        "cloud": {"url": cloud_url, "downlink": downlink},
    }
    return parse_config(json.dumps(sections | more))


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"topic": "#"}, "itself sends to the cloud"),
        ({"topic": "gateway/g1/up/{rest...}", "to": "x/{rest...}"}, "itself sends to the cloud"),
        ({"topic": "gateway/{id}/audit", "to": "x/{id}"}, "itself sends to the cloud"),
        ({"topic": "down/{rest...}", "to": "{rest...}"}, "itself publishes"),
        ({"topic": "down/{device}", "to": "gateway/g1/status"}, "itself publishes"),
        ({"topic": "down/{device}", "to": "cmnd/{divice}"}, "no named level"),
        ({"topic": "down/{device}", "to": "cmnd/+"}, "in place of wildcards"),
        ({"topic": "down/{rest...}", "to": "{rest}"}, "takes many levels"),
        ({"topic": "down/{device}", "allow": ["cmnd/#"]}, "matches no topic"),
        ({"topic": "down/{device}", "allow": ["a#"]}, "stands alone"),
    ],
)
def test_what_would_run_in_circles_or_nowhere_is_refused(entry: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse([entry])
    assert problem in "\n".join(caught.value.problems)


def test_on_one_broker_a_command_must_not_match_its_own_filter() -> None:
    parse([{"topic": "down/{device}"}])
    with pytest.raises(ConfigError) as caught:
        parse([{"topic": "down/{device}"}], cloud_url="mqtt://edge:1883")
    assert "would come back" in "\n".join(caught.value.problems)
    parse([{"topic": "down/{device}", "to": "cmnd/{device}"}], cloud_url="mqtt://edge:1883")


def test_a_route_that_reads_commands_as_data_is_warned_about() -> None:
    config = parse([{"topic": "down/{device}", "to": "tele/{device}"}])
    assert any("also reads what cloud.downlink writes" in warning for warning in warnings_of(config))


RULES = [
    {"topic": "commands/g1/{device}", "to": "cmnd/{device}", "max_size": "1KiB"},
    {"topic": "ask/g1/#", "retained": "forward"},
]
FORWARDED = 'gateway_downlink_messages_total{outcome="forwarded"}'


def downlink_config(folder: Path, local: Broker, cloud: Broker, protocol: str) -> Path:
    section = {"url": cloud.url, "protocol": protocol, "downlink": RULES}
    return gateway_config(folder, local.url, cloud=section)


@pytest.mark.parametrize("protocol", ["5", pytest.param("3.1.1", marks=pytest.mark.slow)])
def test_commands_arrive_in_order_through_outages_of_both_brokers(
    mosquitto: MosquittoFactory, tmp_path: Path, protocol: str
) -> None:
    for name in ("cloud", "local"):
        (tmp_path / name).mkdir()
    keeps = ["max_queued_messages 0", "autosave_on_changes true", "autosave_interval 1"]
    cloud = mosquitto(keeps, persistence=tmp_path / "cloud")
    local = mosquitto(keeps, persistence=tmp_path / "local")
    with GatewayProcess(downlink_config(tmp_path, local, cloud, protocol)) as gateway:
        gateway.wait_ready()
        wait_until(lambda: gateway.metric('gateway_link_up{link="downlink"}') == 1, "the downlink")
        with Watcher(local.port, "cmnd/+") as device:
            publish(cloud.port, commands(0, 50))
            wait_until(lambda: len(device.messages) == 50, "the first commands")
        local.stop()
        publish(cloud.port, commands(50, 100))  # nowhere to go: the cloud broker keeps them
        local.start()
        with Watcher(local.port, "cmnd/+") as device:
            wait_until(lambda: gateway.metric(FORWARDED) == 100, "what waited for the local broker")
            cloud.stop()
            cloud.start()
            publish(cloud.port, commands(100, 150))
            # What the broker had no PUBACK of on its disk when it stopped, it sends again.
            wait_until(lambda: gateway.metric(FORWARDED) >= 150, "what came after the cloud's outage")
            wait_until(
                lambda: [int(m.payload) for m in device.messages][-50:] == [*range(100, 150)],
                "the last commands, in order",
            )
        gateway.kill()
        publish(cloud.port, commands(150, 160))  # while nobody is there
        gateway.start()
        wait_until(lambda: gateway.metric(FORWARDED) >= 10, "what the session kept")


def test_rejected_commands_are_counted_and_hold_nothing_up(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    cloud, local = mosquitto(), mosquitto()
    publish(cloud.port, [("commands/g1/lamp", b"stale"), ("ask/g1/time", b"kept")], retain=True)
    with (
        Watcher(local.port, "#") as device,
        GatewayProcess(downlink_config(tmp_path, local, cloud, "5")) as gateway,
    ):
        gateway.wait_ready()
        rejected = 'gateway_downlink_messages_total{outcome="%s"}'
        wait_until(lambda: gateway.metric(rejected % "retained") == 1, "the stale one")
        publish(cloud.port, [("commands/g1/lamp", b"x" * 2000)])
        send_as(cloud.port, "commands/g1/lamp", "g1")
        publish(cloud.port, [("commands/g1/lamp", b"ON")])
        wait_until(lambda: gateway.metric(FORWARDED) == 2, "what may pass")
        assert (gateway.metric(rejected % "too_large"), gateway.metric(rejected % "own")) == (1, 1)
    seen = [(m.topic, m.payload) for m in device.messages if not m.topic.startswith("gateway/")]
    assert seen == [("ask/g1/time", b"kept"), ("cmnd/lamp", b"ON")]


def commands(start: int, end: int) -> list[tuple[str, bytes]]:
    return [("commands/g1/lamp", str(number).encode()) for number in range(start, end)]


def send_as(port: int, topic: str, gateway_id: str) -> None:
    """Publish what looks as if that gateway had brought it down."""
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.connect("127.0.0.1", port)
    client.loop_start()
    properties = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = [(SENDER, gateway_id)]
    client.publish(topic, b"ON", qos=1, properties=properties).wait_for_publish(10)
    client.disconnect()
    client.loop_stop()
