"""Sparkplug B: births name what later messages refer to, gaps are noticed, births are asked for."""

from __future__ import annotations

import base64
import gzip
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.buffer.reader import Reader
from gateway.buffer.store import Store
from gateway.core.events import Flag, Message
from gateway.core.own_topics import OwnTopics
from gateway.decode.decoders.sparkplug import Payload, parse_sparkplug_b, rebirth_payload
from gateway.decode.routes import RouteSpec, RouteTable
from gateway.decode.sparkplug_births import REBIRTH_EVERY_MS, EdgeNodes
from gateway.pipeline.pipeline import Pipeline
from gateway.pipeline.replay import Replay, read_event
from gateway.testing import ManualClock
from gateway.windows.engine import WindowEngine
from gateway.windows.spec import WindowSpec
from tests.conftest import MosquittoFactory
from tests.support.buffers import EPOCH_MS
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.publishing import Watcher, publish
from tests.support.windowing import shipped

NODE = "spBv1.0/plant/{}/edge"
DEVICE = "spBv1.0/plant/{}/edge/press"
INT16, INT32, FLOAT = 2, 3, 9
ROUTES = (
    RouteSpec("devices", "spBv1.0/{group}/{type}/{node}/{device}", decoder="sparkplug_b"),
    RouteSpec("nodes", "spBv1.0/{group}/{type}/{node}", decoder="sparkplug_b"),
)


def payload(seq: int | None, *metrics: dict[str, Any]) -> bytes:
    message = Payload(timestamp=EPOCH_MS)
    if seq is not None:
        message.seq = seq
    for metric in metrics:
        message.metrics.add(**metric)
    return bytes(message.SerializeToString())


def bd_seq(number: int) -> dict[str, Any]:
    return {"name": "bdSeq", "datatype": 4, "long_value": number}


def node_birth(seq: int = 0, session: int = 1) -> tuple[str, bytes]:
    return NODE.format("NBIRTH"), payload(
        seq, bd_seq(session), {"name": "load", "alias": 1, "datatype": FLOAT, "float_value": 0.5}
    )


def device_birth(seq: int, name: str = "depth") -> tuple[str, bytes]:
    return DEVICE.format("DBIRTH"), payload(
        seq, {"name": name, "alias": 7, "datatype": INT16, "int_value": 12}
    )


def data(seq: int, value: int = 5, alias: int = 7) -> tuple[str, bytes]:
    return DEVICE.format("DDATA"), payload(seq, {"alias": alias, "int_value": value % (1 << 32)})


def read(nodes: EdgeNodes, message: tuple[str, bytes]) -> list[tuple[object, object]]:
    found = nodes.read(message[0], parse_sparkplug_b(message[1]))
    return [(metric.get("name"), metric["value"]) for metric in found["metrics"]]


def after(*messages: tuple[str, bytes], **options: Any) -> EdgeNodes:
    nodes = EdgeNodes(**options)
    for message in messages:
        read(nodes, message)
    return nodes


def test_a_birth_gives_later_metrics_their_name_and_their_sign() -> None:
    nodes = after(node_birth(), device_birth(1))
    assert read(nodes, data(2, -3)) == [("depth", -3)]
    node_data = (NODE.format("NDATA"), payload(3, {"alias": 1, "float_value": 0.25}))
    assert read(nodes, node_data) == [("load", 0.25)]
    assert nodes.rebirths(0) == {}


def test_an_alias_that_no_birth_named_is_counted_and_the_node_asked() -> None:
    nodes = EdgeNodes()
    assert read(nodes, data(9)) == [(None, 5)]
    assert nodes.counts["unresolved"] == 1
    assert nodes.rebirths(0) == {"plant/edge": "no birth was seen"}
    assert read(nodes, node_birth(0)) != []
    assert read(nodes, device_birth(1)) == [("depth", 12)]
    assert read(nodes, data(2)) == [("depth", 5)]


@pytest.mark.parametrize("more", [{"name": ""}, {"datatype": 0}, {"name": "", "datatype": 0}])
def test_an_empty_name_and_an_unknown_type_are_looked_up_by_the_alias(more: dict[str, Any]) -> None:
    nodes = after(node_birth(), device_birth(1))
    message = DEVICE.format("DDATA"), payload(2, {"alias": 7, "int_value": (1 << 32) - 3} | more)
    assert read(nodes, message) == [("depth", -3)]


def test_an_empty_name_whose_alias_no_birth_named_is_unresolved() -> None:
    nodes = EdgeNodes()
    assert read(nodes, (DEVICE.format("DDATA"), payload(2, {"name": "", "alias": 7, "int_value": 5}))) == [
        (None, 5)
    ]
    assert nodes.counts["unresolved"] == 1


def test_a_devices_birth_holds_without_its_nodes() -> None:
    nodes = after(device_birth(1))
    assert read(nodes, data(2)) == [("depth", 5)]
    assert nodes.rebirths(0) == {"plant/edge": "no birth was seen"}, "its own metrics are not known"
    read(nodes, (NODE.format("NDEATH"), payload(None, bd_seq(4))))
    assert (nodes.online, nodes._size) == (0, 0), "no birth said which session the death ends"


def test_the_sequence_goes_round_after_255() -> None:
    nodes = after(node_birth(254), device_birth(255), data(0), data(1))
    assert (nodes.counts["gaps"], nodes.rebirths(0)) == (0, {})


def test_a_gap_is_counted_once_and_asked_for_until_the_birth_comes() -> None:
    nodes = after(node_birth(), device_birth(1), data(3), data(4))
    assert nodes.counts["gaps"] == 1
    assert nodes.rebirths(0) == {"plant/edge": "messages are missing"}
    read(nodes, data(5))
    assert nodes.rebirths(REBIRTH_EVERY_MS - 1) == {}, "not so soon again"
    read(nodes, data(6))
    assert nodes.rebirths(REBIRTH_EVERY_MS) != {}, "the request may have been lost"
    for message in (node_birth(), device_birth(1), data(2)):
        read(nodes, message)
    assert nodes.rebirths(3 * REBIRTH_EVERY_MS) == {}


def test_a_node_that_is_not_born_again_is_asked_less_and_less_often() -> None:
    nodes, asked = EdgeNodes(), []
    for minute in range(4 * 60):
        read(nodes, data(minute % 256))
        if nodes.rebirths(minute * REBIRTH_EVERY_MS):
            asked.append((minute, nodes.first_asked("plant/edge")))
    assert [minute for minute, _ in asked] == [0, 1, 3, 7, 15, 31, 63, 123, 183]
    assert [first for _, first in asked] == [True] + [False] * 8
    read(nodes, node_birth(0))
    read(nodes, data(9))
    assert nodes.rebirths(240 * REBIRTH_EVERY_MS) != {}
    assert nodes.first_asked("plant/edge"), "a new episode"


def test_a_birth_replaces_what_the_one_before_said() -> None:
    nodes = after(node_birth(), device_birth(1), device_birth(2, "width"))
    assert read(nodes, data(3)) == [("width", 5)]
    read(nodes, node_birth())
    assert read(nodes, data(1)) == [(None, 5)], "a node's birth ends its devices' too"
    assert nodes.rebirths(0) == {"plant/edge": "a device without a birth"}


def test_a_death_makes_the_metrics_stale() -> None:
    nodes = after(node_birth(session=4), device_birth(1))
    assert read(nodes, (NODE.format("NDEATH"), payload(None, bd_seq(3)))) == []
    assert (nodes.online, nodes.counts["deaths"]) == (1, 0), "the will of an older session"
    read(nodes, (DEVICE.format("DDEATH"), payload(2)))
    assert (nodes.online, nodes.counts["deaths"], nodes.counts["stale"]) == (1, 1, 1)
    read(nodes, (NODE.format("NDEATH"), payload(None, bd_seq(4))))
    assert (nodes.online, nodes.counts["deaths"], nodes.counts["stale"]) == (0, 2, 3)


def test_commands_are_no_readings() -> None:
    assert read(EdgeNodes(), (NODE.format("NCMD"), rebirth_payload(EPOCH_MS))) == []


def test_what_is_remembered_is_bounded() -> None:
    nodes = after(node_birth(), device_birth(1), max_metrics=4)
    assert nodes.counts["refused"] == 1
    assert read(nodes, data(2)) == [(None, 5)]
    nodes = after(*(node_birth() for _ in range(100)), max_metrics=4)
    assert nodes.counts["refused"] == 0


def test_a_retained_birth_gives_names_and_says_nothing_of_what_was_missed() -> None:
    nodes = EdgeNodes()
    for topic, body in (device_birth(40), node_birth(0)):  # a broker sends them in any order
        nodes.read(topic, parse_sparkplug_b(body), True)
    assert read(nodes, data(200, -3)) == [("depth", -3)]
    assert read(nodes, data(201)) == [("depth", 5)]
    assert (nodes.counts["gaps"], nodes.rebirths(0)) == (0, {})
    read(nodes, data(203))
    assert nodes.rebirths(0) == {"plant/edge": "messages are missing"}


def test_a_retained_birth_that_is_older_than_the_known_one_is_not_believed() -> None:
    nodes = after(node_birth(), device_birth(1, "width"))
    nodes.read(DEVICE.format("DBIRTH"), parse_sparkplug_b(device_birth(1)[1]), True)
    assert nodes.counts["old_births"] == 1
    assert read(nodes, data(2)) == [("width", 5)]


def test_a_node_that_must_not_be_asked_is_not_listed() -> None:
    nodes = EdgeNodes()
    for message in (data(1), data(4)):
        nodes.read(message[0], parse_sparkplug_b(message[1]), may_ask=False)
    assert (nodes.rebirths(0), nodes.counts["unresolved"]) == ({}, 2)


@pytest.mark.parametrize(
    ("body", "algorithm"),
    [
        (zlib.compress, None),
        (zlib.compress, "DEFLATE"),
        (gzip.compress, "GZIP"),
        (lambda inner: zlib.compress(inner)[2:-4], "deflate"),
    ],
)
def test_a_payload_inside_of_a_payload_is_unpacked(body: Any, algorithm: str | None) -> None:
    topic, inner = device_birth(1)
    outer = Payload(uuid="SPBV1.0_COMPRESSED", body=body(inner), seq=9)
    if algorithm:
        outer.metrics.add(name="algorithm", datatype=12, string_value=algorithm)
    nodes = after(node_birth())
    assert read(nodes, (topic, outer.SerializeToString())) == [("depth", 12)]
    assert (read(nodes, data(2)), nodes.counts["gaps"]) == ([("depth", 5)], 0)


@pytest.mark.parametrize("body", [b"", b"\0\1\2", zlib.compress(b"\xff\xff"), zlib.compress(bytes(2 << 20))])
def test_a_body_that_cannot_be_unpacked_is_a_counted_problem(body: bytes) -> None:
    outer = Payload(uuid="SPBV1.0_COMPRESSED", body=body).SerializeToString()
    route, levels = RouteTable(ROUTES).match(NODE.format("NDATA"))  # type: ignore[misc]
    decoded = route.decode(NODE.format("NDATA"), levels, outer, EPOCH_MS)
    assert decoded.samples == ()
    assert decoded.problem in ("empty", "sparkplug", "compression", "too_large")


def test_names_that_are_no_utf_8_are_read_and_can_be_stored() -> None:
    nodes = EdgeNodes()
    birth = b"\x12\x07\x0a\x01\xd8\x10\x03\x50\x05"  # a metric called b"\xd8" with the alias 3
    assert read(nodes, (DEVICE.format("DBIRTH"), birth)) == [("Ø", 5)]
    assert [orjson.loads(state or b"null") for *_, state in nodes.take_changes()][1]["metrics"] == [
        ["Ø", None, 3]
    ]
    assert read(nodes, (DEVICE.format("DDATA"), payload(1, {"alias": 3}))) == [("Ø", None)]


def grouped() -> bytes:
    message = Payload(timestamp=EPOCH_MS, seq=1)
    table = message.metrics.add(name="batches").dataset_value
    table.columns.extend(["id", "weight"])
    table.types.extend([FLOAT, INT32])
    row = table.rows.add()
    row.elements.add(string_value="a7")
    row.elements.add(int_value=(1 << 32) - 4)
    motor = message.metrics.add(name="motor").template_value
    motor.metrics.add(name="rpm", datatype=INT32, int_value=1450)
    motor.metrics.add(name="inner").template_value.metrics.add(name="on", boolean_value=True)
    message.metrics.add(name="Motor").template_value.is_definition = True
    return bytes(message.SerializeToString())


def test_data_sets_and_templates_are_counted_and_no_value() -> None:
    table = RouteTable(ROUTES)
    route, levels = table.match(NODE.format("NDATA"))  # type: ignore[misc]
    decoded = route.decode(NODE.format("NDATA"), levels, grouped(), EPOCH_MS)
    assert [dict(sample.fields) for sample in decoded.samples] == [
        {"name": "batches"},
        {"name": "motor"},
        {"name": "Motor"},
    ]
    assert decoded.misses == ("value",)
    nodes = table.edge_nodes
    assert (nodes.counts["data_sets"], nodes.counts["templates"]) == (1, 1)
    assert nodes.newly_structured() == ["plant/edge/batches", "plant/edge/motor"]
    route.decode(NODE.format("NDATA"), levels, grouped(), EPOCH_MS)
    assert (nodes.counts["templates"], nodes.newly_structured()) == (2, [])


def test_a_field_may_name_a_part_of_a_data_set_or_a_template() -> None:
    fields = {"weight": "value.rows[0][1]", "rpm": "value.rpm", "on": "value.inner.on"}
    spec = RouteSpec("r", "spBv1.0/{group}/{type}/{node}", decoder="sparkplug_b", fields=fields)
    route, levels = RouteTable([spec]).match(NODE.format("NDATA"))  # type: ignore[misc]
    samples = route.decode(NODE.format("NDATA"), levels, grouped(), EPOCH_MS).samples
    assert [dict(sample.fields) for sample in samples] == [{"weight": -4}, {"rpm": 1450, "on": True}, {}]


@pytest.mark.parametrize("state", [b"ONLINE", b'{"online": true, "timestamp": 1777593600000}'])
def test_the_state_of_a_host_application_is_neither_a_reading_nor_a_problem(state: bytes) -> None:
    topic = "spBv1.0/plant/STATE/scada-1"
    route, levels = RouteTable(ROUTES).match(topic)  # type: ignore[misc]
    decoded = route.decode(topic, levels, state, EPOCH_MS)
    assert (decoded.samples, decoded.problem, decoded.misses) == ((), None, ())


messages = st.lists(
    st.one_of(
        st.integers(0, 3).map(node_birth),
        st.tuples(st.integers(0, 3), st.sampled_from(["depth", "width"])).map(
            lambda pair: device_birth(*pair)
        ),
        st.integers(0, 3).map(data),
        st.integers(1, 2).map(lambda session: (NODE.format("NDEATH"), payload(None, bd_seq(session)))),
        st.integers(0, 3).map(lambda seq: (DEVICE.format("DDEATH"), payload(seq))),
    ),
    max_size=12,
)


@given(st.lists(messages, max_size=4), messages)
def test_a_checkpoint_and_the_messages_after_it_give_the_same_as_no_restart(
    before: list[Any], since: Any
) -> None:
    live, rows = EdgeNodes(), {}
    for part in before:
        for message in part:
            read(live, message)
        rows.update({row: state for _, row, state in live.take_changes()})
    restored = EdgeNodes()
    kept = sorted((row, state) for row, state in rows.items() if state is not None)
    assert list(restored.restore([("$sparkplug", *each) for each in kept])) == []

    assert [read(restored, message) for message in since] == [read(live, message) for message in since]
    assert restored.online == live.online
    assert restored._size == live._size


def test_a_row_that_cannot_be_read_is_given_up() -> None:
    nodes = EdgeNodes()
    damaged = [("$sparkplug", b"g/n", b"{"), ("$sparkplug", b"g/n/d", b"[]"), ("w", b"!", b"")]
    assert list(nodes.restore(damaged)) == [("w", b"!", b"")]
    assert (nodes.online, nodes.counts["state_dropped"]) == (0, 2)


def test_the_time_of_a_historical_metric_is_believed() -> None:
    old_ms = EPOCH_MS - 86_400_000
    metric = {"name": "a", "datatype": INT32, "int_value": 1, "timestamp": old_ms}
    route, levels = RouteTable(ROUTES).match(NODE.format("NDATA"))  # type: ignore[misc]

    def decode(**more: Any) -> Any:
        return route.decode(NODE.format("NDATA"), levels, payload(0, metric | more), EPOCH_MS)

    assert decode(is_historical=True)[1:4] == (old_ms, old_ms, Flag.HISTORICAL)
    assert decode().event_time_ms == EPOCH_MS


def test_a_replay_reads_bytes_and_resolves_them() -> None:
    window = WindowSpec("w", "tumbling", route="devices", fields=("value",), key="{name}", size_ms=1000)
    run = Replay(RouteTable(ROUTES), WindowEngine([window], {"w": shipped("stats")}))
    for topic, body in (node_birth(), device_birth(1), data(2, -3)):
        line = {"topic": topic, "payload_b64": base64.b64encode(body).decode(), "time_ms": EPOCH_MS}
        run.feed(read_event(orjson.dumps(line)))
    (result,) = run.finish()
    assert (result.key, result.count, result.result["min"]) == ("depth", 2, -3)  # type: ignore[index]


class Plant:
    """A buffer with a pipeline over Sparkplug topics, that can be killed."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "events.db"
        self.start()

    def start(self) -> None:
        self.clock = ManualClock(EPOCH_MS)
        self.store = Store(self.path, "normal")
        self.store.open()
        window = WindowSpec("w", "count", route="devices", fields=("value",), key="{name}", count=3)
        engine = partial(WindowEngine, (window,), {"w": shipped("stats")})
        self.pipeline = Pipeline(OwnTopics("gateway", "g"), RouteTable(ROUTES), engine, self.clock)
        self.reader = Reader(self.path)
        self.pipeline.restore(self.store, self.reader)

    def crash(self) -> None:
        self.reader.close()
        self.store.close()
        self.start()

    def take_in(self, *found: tuple[str, bytes]) -> None:
        with self.store.transaction():
            self.pipeline.take_in(
                self.store, [Message(*message, 0, False, False, 0, 1, EPOCH_MS) for message in found]
            )

    def alerts(self) -> list[dict[str, Any]]:
        events = self.reader.derived_after(0, 100)
        found = map(orjson.loads, self.reader.payloads(events))
        return [one for one in found if "alert" in one]

    def keys(self) -> list[str]:
        events = self.reader.derived_after(0, 100)
        return [orjson.loads(body).get("key") for body in self.reader.payloads(events)]


@pytest.mark.parametrize("checkpoint", [True, False])
def test_names_survive_a_crash_with_and_without_a_checkpoint(tmp_path: Path, checkpoint: bool) -> None:
    plant = Plant(tmp_path)
    plant.take_in(node_birth(), device_birth(1))
    if checkpoint:
        with plant.store.transaction():
            plant.pipeline.checkpoint(plant.store)
    plant.take_in(data(2))
    plant.crash()
    plant.take_in(data(3))
    assert plant.keys() == ["depth"]
    assert plant.pipeline.intake.edge_nodes.rebirths(0) == {}
    plant.reader.close()
    plant.store.close()


def test_an_alert_is_sent_once_an_episode_however_often_a_node_is_asked(tmp_path: Path) -> None:
    plant = Plant(tmp_path)

    def an_hour_of(message: tuple[str, bytes]) -> int:
        """The number of requests for a birth in an hour in which nothing else comes."""
        asked = 0
        for _ in range(60):
            plant.take_in(message)
            plant.clock.advance(REBIRTH_EVERY_MS)
            with plant.store.transaction():
                plant.pipeline.tick(plant.store)
            asked += len(plant.pipeline.rebirths)
            plant.pipeline.rebirths = {}
        return asked

    assert an_hour_of(data(9)) > 3
    assert [one["alert"] for one in plant.alerts()] == ["sparkplug"]
    assert "plant/edge: no birth was seen" in plant.alerts()[0]["message"]
    plant.take_in(node_birth(), device_birth(1), data(2))
    assert an_hour_of(data(9)) > 3
    assert [one["alert"] for one in plant.alerts()] == ["sparkplug", "sparkplug"], "a new episode"
    plant.reader.close()
    plant.store.close()


def test_a_node_that_nobody_saw_being_born_is_asked_on_the_local_broker(
    tmp_path: Path, mosquitto: MosquittoFactory
) -> None:
    broker = mosquitto()
    config = gateway_config(tmp_path, broker.url, routes=[{"preset": "sparkplug"}], windows=[])
    with (
        GatewayProcess(config) as gateway,
        Watcher(broker.port, "spBv1.0/+/NCMD/#") as watcher,
        Watcher(broker.port, "gateway/g1/alerts") as alerts,
    ):
        gateway.wait_ready()
        publish(broker.port, [data(9)])
        wait_until(lambda: watcher.messages, "a request for a birth")
        wait_until(lambda: alerts.messages, "an alert")
        assert orjson.loads(alerts.messages[0].payload)["alert"] == "sparkplug"
        command = watcher.messages[0]
        assert command.topic == NODE.format("NCMD")
        (metric,) = Payload.FromString(bytes(command.payload)).metrics
        assert (metric.name, metric.boolean_value) == ("Node Control/Rebirth", True)
        wait_until(lambda: gateway.metric('gateway_sparkplug_total{what="rebirths"}') == 1, "its metric")
