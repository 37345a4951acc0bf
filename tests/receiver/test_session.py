"""`gateway receive` against a real broker: once each, across kills, full disks and bad frames."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, get_args

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from gateway.core.events import Message, WireEvent
from gateway.core.own_topics import OwnTopics
from gateway.mqtt.embedded import EmbeddedBroker
from gateway.mqtt.endpoint import Endpoint
from gateway.mqtt.link import Link
from gateway.receiver import session
from gateway.receiver.event_lines import event_line
from gateway.receiver.sinks.ndjson import EventFile
from gateway.receiver.sinks.sink import resume
from gateway.wire.encodings import Encoding, encode_frame
from gateway.wire.event_format import event_envelope, event_properties
from gateway.wire.frame import EventColumns, encode_batch
from tests.conftest import MosquittoFactory
from tests.support.brokers import Broker
from tests.support.ports import free_port

WAIT_S = 30.0
PLANT = OwnTopics("gateway", "plant-7")


def events(numbers: range, stream: str = "tele/a") -> list[WireEvent]:
    return [
        WireEvent(
            uuid.uuid5(uuid.NAMESPACE_OID, f"{stream}/{number}").bytes,
            stream,
            number,
            1_700_000_000_000 + number,
            1_700_000_000_100 + number,
            None,
            2,
            0,
            0,
            b'{"n":%d}' % number,
        )
        for number in numbers
    ]


class Cloud:
    """What bridges do: publishes at QoS 1 and waits for the broker's answers."""

    def __init__(self, port: int, protocol: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv5) -> None:
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=protocol)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def publish(self, topic: str, payload: bytes, properties: list[tuple[str, str]] | None = None) -> None:
        sent = None
        if properties:
            sent = Properties(PacketTypes.PUBLISH)
            sent.UserProperty = properties
        self._client.publish(topic, payload, qos=1, properties=sent).wait_for_publish(WAIT_S)

    def send(self, batch: list[WireEvent], gateway_id: str = "plant-7") -> None:
        self.publish(
            OwnTopics("gateway", gateway_id).batch(0), encode_batch(gateway_id, uuid.uuid4().bytes, batch)
        )

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def broker(mosquitto: MosquittoFactory) -> Broker:
    return mosquitto()


@pytest.fixture
def cloud(broker: Broker) -> Iterator[Cloud]:
    client = Cloud(broker.port)
    yield client
    client.close()


class Receiver:
    """`gateway receive` on `output`, as a process."""

    def __init__(self, port: int, output: Path) -> None:
        self.output = output
        self._processes: list[subprocess.Popen[str]] = []
        self._command = [sys.executable, "-m", "gateway", "receive"]
        self._command += ["--url", f"mqtt://127.0.0.1:{port}", "--output", str(output), "--json"]

    def start(self, *options: str, before: Callable[[], None] | None = None) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*self._command, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=before,  # noqa: PLW1509 - this process has no threads at that moment that matter
        )
        self._processes.append(process)
        return process

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()

    def once(self, *options: str) -> dict[str, Any]:
        """Run until nothing more comes; the summary."""
        process = self.start("--once", "--idle", "1s", *options)
        stdout, stderr = process.communicate(timeout=WAIT_S)
        assert process.returncode == 0, stderr
        summary: dict[str, Any] = json.loads(stdout)
        return summary

    def subscribe(self) -> None:
        """Leave a session behind, so that the broker keeps what comes."""
        self.once()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output.read_text(encoding="utf-8").splitlines()]

    def numbers(self) -> list[int]:
        return [line["sequence_num"] for line in self.lines()]

    def wait_for(self, count: int) -> None:
        deadline = time.monotonic() + WAIT_S
        while not self.output.exists() or self.output.read_bytes().count(b"\n") < count:
            assert time.monotonic() < deadline, f"{count} lines did not come"
            time.sleep(0.02)


@pytest.fixture
def receive_from(tmp_path: Path) -> Iterator[Callable[[int], Receiver]]:
    """Receivers of the broker on a port; their processes end with the test."""
    with ExitStack() as cleanup:

        def make(port: int) -> Receiver:
            receiver = Receiver(port, tmp_path / "events.ndjson")
            cleanup.callback(receiver.close)
            return receiver

        yield make


@pytest.fixture
def receiver(broker: Broker, receive_from: Callable[[int], Receiver]) -> Receiver:
    return receive_from(broker.port)


def test_every_event_becomes_one_line_however_often_it_is_sent(receiver: Receiver, cloud: Cloud) -> None:
    receiver.subscribe()
    cloud.send(events(range(1, 101)))
    cloud.send(events(range(51, 151)))
    cloud.send(events(range(1, 4), "tele/b"), gateway_id="plant-8")
    summary = receiver.once()
    assert receiver.numbers() == [*range(1, 151), 1, 2, 3]
    assert (summary["events"], summary["duplicates"], summary["streams"], summary["gateways"]) == (
        153,
        50,
        2,
        2,
    )
    assert (summary["missing"], summary["reordered"], summary["rejected"]) == (0, 0, 0)


def test_what_goes_well_is_in_the_log_too(receiver: Receiver, cloud: Cloud) -> None:
    receiver.subscribe()
    cloud.send(events(range(1, 4)))
    _, log = receiver.start("--once", "--idle", "1s").communicate(timeout=WAIT_S)
    for said in ("connected to", "subscribed to", "first event: tele/a of plant-7"):
        assert said in log


def test_both_event_forms_arrive_as_the_frames_do(broker: Broker, receiver: Receiver, cloud: Cloud) -> None:
    receiver.subscribe()
    old_cloud = Cloud(broker.port, MQTTProtocolVersion.MQTTv311)
    first, second = events(range(1, 3))
    cloud.publish(PLANT.event(first.stream), first.payload, event_properties(first))
    old_cloud.publish(PLANT.event(second.stream), event_envelope(second))
    old_cloud.close()
    cloud.send([first, second])
    assert receiver.once()["duplicates"] == 2
    assert receiver.output.read_bytes() == event_line("plant-7", first) + event_line("plant-7", second)


def test_frames_of_every_encoding_arrive_alike(receiver: Receiver, cloud: Cloud) -> None:
    receiver.subscribe()
    topic = PLANT.batch(0)
    for encoding in get_args(Encoding):
        event_ids, *columns = zip(*events(range(1, 11), f"tele/{encoding}"), strict=True)
        frame_columns = EventColumns(b"".join(event_ids), *columns)
        cloud.publish(topic, encode_frame(encoding, "plant-7", bytes(16), frame_columns))
    assert (receiver.once()["rejected"], receiver.numbers()) == (0, [*range(1, 11)] * 3)


def test_one_gateway_of_many_can_be_chosen(receiver: Receiver, cloud: Cloud) -> None:
    receiver.once("--gateway", "plant-8")
    cloud.send(events(range(1, 4)))
    cloud.send(events(range(4, 6)), gateway_id="plant-8")
    receiver.once("--gateway", "plant-8")
    assert receiver.numbers() == [4, 5]


def test_gaps_and_disorder_are_reported(receiver: Receiver, cloud: Cloud) -> None:
    receiver.subscribe()
    cloud.send([*events(range(1, 4)), *events(range(8, 10)), *events(range(6, 7))])
    summary = receiver.once()
    assert summary["missing"] == 3
    assert summary["gaps"] == [
        {"gateway_id": "plant-7", "stream": "tele/a", "first": 4, "last": 5},
        {"gateway_id": "plant-7", "stream": "tele/a", "first": 7, "last": 7},
    ]
    assert summary["reordered"] == 1


def test_a_killed_receiver_continues_where_it_was(receiver: Receiver, cloud: Cloud) -> None:
    receiver.subscribe()
    for round_, written_before_the_kill in enumerate((50, 101, 0)):
        process = receiver.start()
        cloud.send(events(range(round_ * 100 + 1, round_ * 100 + 51)))
        receiver.wait_for(written_before_the_kill)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        cloud.send(events(range(round_ * 100 + 51, round_ * 100 + 101)))
    with receiver.output.open("ab") as output:
        output.write(b'{"event_id":"half a li')
    cloud.send(events(range(1, 301)))
    summary = receiver.once()
    assert receiver.numbers() == list(range(1, 301))
    assert summary["events_in_file"] == 300


def test_what_could_not_be_written_is_not_acknowledged_and_comes_again(
    receiver: Receiver, cloud: Cloud
) -> None:
    receiver.subscribe()

    def allow_4_kib() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    cloud.send(events(range(1, 101)))
    process = receiver.start(before=allow_4_kib)
    _, stderr = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1
    assert "cannot continue" in stderr
    assert receiver.output.stat().st_size == 4096
    receiver.once()
    assert receiver.numbers() == list(range(1, 101))


def test_a_frame_that_cannot_be_read_is_kept_beside_and_the_rest_goes_on(
    receiver: Receiver, cloud: Cloud
) -> None:
    receiver.subscribe()
    topic = PLANT.batch(0)
    cloud.publish(topic, b"EGBF and then nothing")
    cloud.publish(topic, encode_batch("plant-8", bytes(16), events(range(1, 2))))
    cloud.publish(PLANT.event("tele/a"), b"21.5")
    cloud.send(events(range(1, 3)))
    assert receiver.once()["rejected"] == 3
    assert receiver.numbers() == [1, 2]
    kept = receiver.output.with_name("events.ndjson.rejected").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["reason"] for line in kept] == ["truncated", "gateway", "envelope"]
    assert json.loads(kept[2])["payload_b64"] == "MjEuNQ=="


@pytest.mark.parametrize("form", ["batch", "event"])
def test_nobody_sends_events_as_if_the_receiver_had_made_them(tmp_path: Path, form: str) -> None:
    """No gateway claims what a receiver has merged, so what came as such would be missed by --verify."""
    (event,) = events(range(1, 2))
    event_id, *columns = zip(*events(range(1, 2)), strict=True)
    frame = encode_frame("zstd", "plant-7", bytes(16), EventColumns(b"".join(event_id), *columns), "merged")
    topic, payload = {
        "batch": (PLANT.batch(0), frame),
        "event": (PLANT.event(event.stream), event_envelope(event, "merged")),
    }[form]
    with closing(EventFile(tmp_path / "events.ndjson")) as sink:
        receiver = session.Receiver("gateway", "+", sink, resume(sink))
        link = Link("receive", Endpoint("127.0.0.1", 9, "receive"), receiver)
        receiver.received(link, [Message(topic, payload, 1, False, False, 1, 0, 0)])
        link.stop()
    assert (receiver.rejected, receiver.written) == (1, 0)
    assert "receiver's own" in (tmp_path / "events.ndjson.rejected").read_text()


def test_ctrl_c_ends_it_with_the_summary(receiver: Receiver, cloud: Cloud) -> None:
    receiver.subscribe()
    cloud.send(events(range(1, 6)))
    process = receiver.start()
    receiver.wait_for(5)
    process.send_signal(signal.SIGINT)
    stdout, _ = process.communicate(timeout=WAIT_S)
    assert (process.returncode, json.loads(stdout)["events"]) == (0, 5)


def test_a_file_that_holds_something_else_is_not_touched(receiver: Receiver) -> None:
    receiver.output.write_text('{"my":"notes"}\n', encoding="utf-8")
    process = receiver.start("--once")
    _, stderr = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1
    assert "events.ndjson, line 1" in stderr
    assert receiver.output.read_text(encoding="utf-8") == '{"my":"notes"}\n'


def test_two_receivers_do_not_share_a_file(receiver: Receiver, cloud: Cloud) -> None:
    receiver.subscribe()
    cloud.send(events(range(1, 2)))
    first = receiver.start()
    receiver.wait_for(1)
    second = receiver.start("--once")
    _, stderr = second.communicate(timeout=WAIT_S)
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=WAIT_S)
    assert (first.returncode, second.returncode) == (0, 1)
    assert "another process" in stderr


def test_it_works_with_the_embedded_broker_on_mqtt_3_1_1(receive_from: Callable[[int], Receiver]) -> None:
    broker = EmbeddedBroker()
    broker.start()
    receiver = receive_from(broker.port)
    cloud = Cloud(broker.port, MQTTProtocolVersion.MQTTv311)
    try:
        receiver.once("--protocol", "3.1.1")
        cloud.send(events(range(1, 101)))
        receiver.once("--protocol", "3.1.1")
    finally:
        cloud.close()
        broker.stop()
    assert receiver.numbers() == list(range(1, 101))


def test_without_a_broker_once_gives_up_with_1(receive_from: Callable[[int], Receiver]) -> None:
    process = receive_from(free_port()).start("--once", "--idle", "0")
    _, stderr = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1
    assert "no connection to the broker" in stderr


@pytest.mark.parametrize(
    "options",
    [
        ("--url", "127.0.0.1"),
        ("--url", "mqtt://me:secret@127.0.0.1"),
        ("--idle", "5"),
        ("--protocol", "4"),
        ("--password-file", "nowhere"),
    ],
)
def test_a_wrong_option_exits_with_2_and_names_itself(
    options: tuple[str, str], receive_from: Callable[[int], Receiver]
) -> None:
    process = receive_from(1883).start("--once", *options)
    _, stderr = process.communicate(timeout=WAIT_S)
    assert process.returncode == 2
    assert options[0] in stderr
    assert "secret" not in stderr
