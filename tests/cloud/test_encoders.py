"""Formats of the uplink that are encoders: a plugin's, and Sparkplug's edge node on the wire."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config import load_config, warnings_of
from gateway.core.errors import ConfigError
from gateway.decode.decoders.sparkplug import Payload, parse_sparkplug_b
from gateway.decode.sparkplug_births import EdgeNodes
from tests.conftest import MosquittoFactory
from tests.support.gateways import gateway_config, wait_until
from tests.support.publishing import Watcher, publish
from tests.support.stub_broker import CONNECT, PUBLISH, Packet, StubBroker
from tests.support.uplinks import cloud_config, statuses, stored, uplink

CSV = '''"""Lines of device;value."""
class Encoder:
    def encode(self, events, topics):
        values = [f"{topics.device(e.stream)};{__import__('json').loads(e.payload)['v']}" for e in events]
        yield topics.event(""), "\\n".join(values).encode(), range(len(events))
'''


def readings(count: int, first: int = 0) -> list[tuple[str, str]]:
    return [(f"sensors/d{n % 3}", json.dumps({"v": n})) for n in range(first, first + count)]


def with_plugin(folder: Path, cloud_url: str, source: str = CSV, **cloud: Any) -> Path:
    (folder / "plugins").mkdir()
    (folder / "plugins" / "lines.py").write_text(source)
    section = {"url": cloud_url, "topics": {"event": "plant/{id}", "status": "off"}, **cloud}
    return gateway_config(folder, "mqtt://127.0.0.1:1", cloud={"format": "lines", **section}, windows=[])


def test_an_encoder_of_ones_own_makes_the_messages_and_fails_only_what_it_cannot_encode(
    tmp_path: Path,
) -> None:
    cloud = StubBroker()
    config = load_config(with_plugin(tmp_path, cloud.url))
    messages = readings(60)
    messages.insert(30, ("sensors/d1", "no JSON"))
    with cloud.running(), uplink(config, tmp_path / "events.db", messages) as writer:
        wait_until(lambda: statuses(writer)["SYNCED"] == 60, "the drain")
        assert statuses(writer)["FAILED"] == 1
    lines = [line for each in cloud.of(PUBLISH) for line in each.payload.decode().split("\n")]
    assert lines == [f"d{n % 3};{n}" for n in range(60)]
    assert {each.topic for each in cloud.of(PUBLISH)} == {"plant/g1"}


@pytest.mark.parametrize(("positions", "payload"), [("[]", "b''"), ("[0, 0]", "b''"), ("[0]", "'text'")])
def test_an_event_in_no_message_or_in_two_is_kept_as_failed(
    positions: str, payload: str, tmp_path: Path
) -> None:
    source = CSV.replace('"\\n".join(values).encode(), range(len(events))', f"{payload}, {positions}")
    cloud = StubBroker()
    config = load_config(with_plugin(tmp_path, cloud.url, source))
    with cloud.running(), uplink(config, tmp_path / "events.db", readings(3)) as writer:
        wait_until(lambda: not statuses(writer)["PENDING"] and not statuses(writer)["SYNCING"], "an end")
        assert statuses(writer)["FAILED"] == 3


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format": "line"}, "there is no format line (did you mean 'lines'?)"),
        ({"format": "sparkplug_b", "connections": 2}, "sparkplug_b has one connection"),
    ],
)
def test_check_says_why_a_format_cannot_be_used(change: dict[str, Any], problem: str, tmp_path: Path) -> None:
    path = with_plugin(tmp_path, "mqtt://c", **change)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert problem in "\n".join(caught.value.problems)


def test_check_runs_the_encoder_file_and_says_what_is_wrong(tmp_path: Path) -> None:
    path = with_plugin(tmp_path, "mqtt://c", "class Encoder:\n    pass\n")
    with pytest.raises(ConfigError, match=r"has 1 problem") as caught:
        load_config(path)
    assert "has no method encode" in str(caught.value.problems)


@pytest.mark.parametrize("form", ["thingsboard", "sparkplug_b"])
def test_check_says_that_nothing_is_proven(form: str) -> None:
    said = warnings_of(cloud_config(url="mqtt://c", format=form))
    assert any(f"gateway receive does not read {form}" in each for each in said)


def test_an_edge_node_keeps_its_sequence_over_an_outage(tmp_path: Path) -> None:
    cloud = StubBroker()
    config = cloud_config(url=cloud.url, format="sparkplug_b", sparkplug={"group": "plant"}, batch_events=10)
    with cloud.running(), uplink(config, tmp_path / "events.db", readings(100)) as writer:
        wait_until(lambda: statuses(writer)["SYNCED"] >= 50, "half of it")
        cloud.drop_all()
        writer.call(lambda store: store.append(stored(readings(100, first=100))))
        wait_until(lambda: statuses(writer)["SYNCED"] == 200, "the drain")
    assert {each.will_topic for each in cloud.of(CONNECT)} == {"spBv1.0/plant/NDEATH/g1"}
    values: dict[str, list[float]] = {}
    for connection in {each.connection for each in cloud.of(CONNECT)}:
        sent = [each for each in cloud.of(PUBLISH) if each.connection == connection]
        _check_sequence(sent)
        for device, value in _data(sent):
            values.setdefault(device, []).append(value)
    assert sorted({v for each in values.values() for v in each}) == [*range(200)]
    assert all([*dict.fromkeys(each)] == sorted(set(each)) for each in values.values())
    _check_host([each for each in cloud.of(PUBLISH) if each.topic.startswith("spBv1.0/")])


def _check_sequence(sent: list[Packet]) -> None:
    """NBIRTH first; numbers without a gap; data only of devices that were born."""
    numbered = [each for each in sent if "/NDEATH/" not in each.topic]
    assert numbered[0].topic == "spBv1.0/plant/NBIRTH/g1"
    assert [parse_sparkplug_b(each.payload)["seq"] for each in numbered] == [
        n % 256 for n in range(len(numbered))
    ]
    born: set[str] = set()
    for each in numbered:
        _, _, kind, _, *device = each.topic.split("/")
        born |= {*device} if kind == "DBIRTH" else set()
        assert kind != "DDATA" or set(device) <= born


def _check_host(sent: list[Packet]) -> None:
    """The gateway as a host reads all of it: every alias has a name, no message is missing, no birth is asked
    for."""
    host, values = EdgeNodes(), set()
    for each in sent:
        document = host.read(each.topic, parse_sparkplug_b(each.payload))
        if "/DDATA/" in each.topic:
            values |= {metric["value"] for metric in document["metrics"] if metric["name"] == "v"}
    assert values == {*range(200)}
    assert not host.counts["gaps"]
    assert not host.counts["unresolved"]
    assert not host.rebirths(10**9)


def _data(sent: list[Packet]) -> list[tuple[str, float]]:
    found = []
    for each in sent:
        if "/DDATA/" in each.topic:
            metrics: Any = parse_sparkplug_b(each.payload)["metrics"]
            found += [(each.topic.rsplit("/", 1)[1], metric["value"]) for metric in metrics]
    return found


@pytest.mark.parametrize("more", [{}, {"client_id": "exact", "downlink": [{"topic": "commands/{device}"}]}])
def test_a_host_asks_for_births_and_sees_the_node_leave(
    mosquitto: MosquittoFactory, tmp_path: Path, more: dict[str, Any]
) -> None:
    cloud = mosquitto()
    config = cloud_config(url=cloud.url, format="sparkplug_b", sparkplug={"group": "plant"}, **more)
    rebirth = Payload(metrics=[{"name": "Node Control/Rebirth", "boolean_value": True}]).SerializeToString()
    with Watcher(cloud.port, "spBv1.0/#") as host:

        def kinds() -> list[str]:
            return [each.topic.split("/")[2] for each in host.messages]

        with uplink(config, tmp_path / "events.db", readings(9)) as writer:
            wait_until(lambda: statuses(writer)["SYNCED"] == 9, "the drain")
            wait_until(lambda: "DDATA" in kinds(), "data")
            publish(cloud.port, [("spBv1.0/plant/NCMD/g1", rebirth)])
            wait_until(lambda: kinds().count("NBIRTH") == 2 and kinds().count("DBIRTH") == 6, "births")
        wait_until(lambda: kinds()[-1] == "NDEATH", "the death")


def test_a_plugin_file_for_payloads_is_no_window_plugin(tmp_path: Path) -> None:
    path = with_plugin(tmp_path, "mqtt://c")
    settings = yaml.safe_load(path.read_text())
    settings["windows"] = [
        {
            "name": "w",
            "route": "sensors",
            "field": "v",
            "plugin": "lines",
            "window": {"type": "count", "count": 2},
        }
    ]
    path.write_text(yaml.safe_dump(settings))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert "there is no plugin lines" in str(caught.value.problems)
