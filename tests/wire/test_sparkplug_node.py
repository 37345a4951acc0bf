"""The gateway as a Sparkplug B edge node: births, aliases, sequence, what waited, rebirth."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.decode.decoders.sparkplug import Payload, parse_sparkplug_b
from gateway.wire import sparkplug_node
from gateway.wire.sparkplug_node import Announcement, EdgeNode
from tests.wire.test_thingsboard import topics, wire_event

TOPICS = topics("tele/{device}/SENSOR")


def connected(now_ms: int = 0) -> EdgeNode:
    node = EdgeNode("plant", "g1")
    node.next_will()
    node.connected(now_ms)
    return node


def sent(node: EdgeNode, *events: Any, now_ms: int = 100) -> list[Announcement]:
    """All that is published for these events."""
    return [
        each
        for message in node.encode(events, TOPICS)
        for each in node.stamped(message.topic, message.payload, now_ms)
    ]


def metrics(announcement: Announcement) -> dict[Any, dict[str, Any]]:
    """By name, or by alias where there is no name."""
    found: Any = parse_sparkplug_b(announcement.payload)["metrics"]
    return {each.get("name") or each.get("alias"): each for each in found}


def seq(announcement: Announcement) -> object:
    return parse_sparkplug_b(announcement.payload)["seq"]


def test_a_device_is_born_before_its_data_and_data_has_aliases_only() -> None:
    birth, data = sent(connected(), wire_event("tele/hall/SENSOR", {"t": 21.5, "on": True}, 5))
    assert (birth.topic, data.topic) == ("spBv1.0/plant/DBIRTH/g1/hall", "spBv1.0/plant/DDATA/g1/hall")
    born = metrics(birth)
    assert {name: each["datatype"] for name, each in born.items()} == {"t": 10, "on": 11}
    by_alias = {each["alias"]: name for name, each in born.items()}
    assert {by_alias[alias]: each["value"] for alias, each in metrics(data).items()} == {
        "t": 21.5,
        "on": True,
    }
    assert all(each["timestamp"] == 5 for each in metrics(data).values())


def test_the_sequence_begins_at_nbirth_and_counts_what_is_published() -> None:
    node = EdgeNode("plant", "g1")
    node.next_will()
    published = node.connected(0)
    for n in range(300):
        published += sent(node, wire_event("tele/hall/SENSOR", {"t": n}, n))
    assert published[0].topic == "spBv1.0/plant/NBIRTH/g1"
    assert [seq(each) for each in published] == [n % 256 for n in range(302)]


def test_the_will_has_the_number_that_the_birth_has_and_each_connection_another() -> None:
    node = EdgeNode("plant", "g1")
    for expected in (0, 1, 2):
        will = parse_sparkplug_b(node.next_will())["metrics"]
        (birth,) = node.connected(0)
        assert [each["value"] for each in will] == [expected]  # type: ignore[attr-defined]
        assert metrics(birth)["bdSeq"]["value"] == expected
        assert metrics(birth)["Node Control/Rebirth"]["value"] is False
    assert "seq" not in parse_sparkplug_b(node.death()) or parse_sparkplug_b(node.death())["seq"] in (None, 0)


def test_a_new_connection_begins_with_the_births_of_all_devices_so_far() -> None:
    node = connected()
    sent(node, wire_event("tele/hall/SENSOR", {"t": 1}), wire_event("tele/attic/SENSOR", {"t": 2}))
    node.next_will()
    births = node.connected(10)
    assert [each.topic.split("/")[2] for each in births] == ["NBIRTH", "DBIRTH", "DBIRTH"]
    (data,) = sent(node, wire_event("tele/hall/SENSOR", {"t": 3}, 11))
    assert "/DDATA/" in data.topic
    assert seq(data) == 3


def test_a_new_metric_or_type_needs_a_new_birth_and_nothing_else_does() -> None:
    node = connected()
    kinds = []
    for payload in ({"t": 1}, {"t": 2.5}, {"t": 3, "h": 1}, {"h": 2}, {"t": "hot"}, {"t": "cold"}):
        kinds.append(
            [each.topic.split("/")[2] for each in sent(node, wire_event("tele/hall/SENSOR", payload))]
        )
    birth, data = ["DBIRTH", "DDATA"], ["DDATA"]
    assert kinds == [birth, data, birth, data, birth, data]


def test_what_was_stored_before_the_connection_is_historical_and_not_a_current_value() -> None:
    node = connected(now_ms=1000)
    birth, old = sent(node, wire_event("tele/hall/SENSOR", {"t": 1}, 5), now_ms=1001)
    assert metrics(birth)["t"]["value"] is None
    assert [each.get("is_historical") for each in metrics(old).values()] == [True]
    (new,) = sent(node, wire_event("tele/hall/SENSOR", {"t": 2}, 1001), now_ms=1002)
    assert [each.get("is_historical") for each in metrics(new).values()] in ([None], [False])
    (_, reborn) = node.reborn(1003)
    assert metrics(reborn)["t"]["value"] == 2


def test_a_host_may_ask_for_all_births_again() -> None:
    node = connected()
    sent(node, wire_event("tele/hall/SENSOR", {"t": 1}), wire_event("tele/attic/SENSOR", {"t": 2}))
    command = Payload(metrics=[{"name": "Node Control/Rebirth", "boolean_value": True}]).SerializeToString()
    assert node.asks_for_rebirth("spBv1.0/plant/NCMD/g1", command)
    assert not node.asks_for_rebirth("spBv1.0/plant/NCMD/g2", command)
    assert not node.asks_for_rebirth("spBv1.0/plant/NCMD/g1", b"\xff\xff")
    births = node.reborn(1)
    assert [each.topic.split("/")[2] for each in births] == ["NBIRTH", "DBIRTH", "DBIRTH"]
    assert [seq(each) for each in births] == [0, 1, 2]


@pytest.mark.parametrize("value", [2**60 + 1, -(2**60) - 1, "text", True, [1, 2], {"inner": 3}])
def test_values_arrive_as_they_were(value: object) -> None:
    birth, _ = sent(connected(), wire_event("tele/hall/SENSOR", {"v": value}, 1))
    (metric,) = metrics(birth).values()
    expected = {"[1, 2]": "[1,2]", "{'inner': 3}": 3}.get(str(value), value)
    assert metric["value"] == expected
    assert metric["name"] == ("v/inner" if isinstance(value, dict) else "v")


def test_metrics_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparkplug_node, "MAX_METRICS", 3)
    node = connected()
    sent(node, *(wire_event("tele/hall/SENSOR", {f"m{n}": n}) for n in range(3)))
    with pytest.raises(ValueError, match="'m3' is one more"):
        sent(node, wire_event("tele/hall/SENSOR", {"m3": 3}))
    assert sent(node, wire_event("tele/hall/SENSOR", {"m1": 3}))
