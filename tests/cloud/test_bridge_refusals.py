"""What a cloud broker refuses: by kind of refusal, who waits, who fails, and that nobody else is held up."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gateway.buffer.event_filter import EventFilter
from gateway.buffer.reader import Reader
from gateway.core.events import Status
from gateway.delivery.states import Backoff
from tests.conftest import MosquittoFactory
from tests.support.buffers import event, events
from tests.support.gateways import wait_until
from tests.support.scripted_cloud import Publish, ScriptedCloud, disconnect, puback
from tests.support.sending import Consumer, check_complete, sending

AT_ONCE = Backoff(1, 2, 3)
POISON = b"poison"


def port_of(cloud: ScriptedCloud) -> int:
    return int(cloud.url.rpartition(":")[2])


def retry_counts(path: Path) -> Counter[int]:
    reader = Reader(path)
    try:
        return Counter(retries for _, _, retries in reader.chosen(EventFilter(), limit=100_000))
    finally:
        reader.close()


def test_a_quota_that_is_exceeded_makes_everything_wait_and_counts_for_nothing(tmp_path: Path) -> None:
    sent, refused = events(300), list[Publish]()

    def answer(publish: Publish) -> bytes:
        if len(refused) < 30:
            refused.append(publish)
            return puback(publish, 0x97)
        return puback(publish)

    cloud = ScriptedCloud(answer)
    with (
        cloud.running(),
        sending(
            tmp_path / "events.db", port_of(cloud), sent, batch_events=20, backoff=Backoff(1, 5, 3)
        ) as sender,
    ):
        sender.wait_drained()
        assert sender.counts()[Status.SYNCED] == 300
        assert retry_counts(tmp_path / "events.db") == {0: 300}
        assert cloud.connections == 1
    assert check_complete(cloud.events, sent) == 0


def test_what_was_claimed_ahead_does_not_overtake_a_refused_event_of_its_stream(tmp_path: Path) -> None:
    sent, chance = [event(f"s/{n % 3}", f"{n}".encode()) for n in range(3000)], random.Random(5)
    arrived: dict[str, list[int]] = {}

    def answer(publish: Publish) -> bytes:
        (one,) = publish.events
        if one.stream == "s/0" and chance.random() < 0.05:
            return puback(publish, 0x83)
        arrived.setdefault(one.stream, []).append(one.sequence_num)
        return puback(publish)

    cloud = ScriptedCloud(answer)
    limits: dict[str, Any] = {"batch_events": 1, "in_flight": 1, "backoff": Backoff(1, 2, 100)}
    with cloud.running(), sending(tmp_path / "events.db", port_of(cloud), sent, **limits) as sender:
        sender.wait_drained()
        assert sender.counts()[Status.SYNCED] == 3000
    assert arrived == {stream: sorted(numbers) for stream, numbers in arrived.items()}
    assert check_complete(cloud.events, sent) == 0


@pytest.mark.parametrize(
    ("code", "reason"), [(0x99, "payload format invalid (0x99)"), (0x80, "unspecified error (0x80)")]
)
def test_one_refused_event_is_found_in_its_frame_and_fails_alone(
    tmp_path: Path, code: int, reason: str
) -> None:
    sent = [event(f"t/{n % 5}", POISON if n == 57 else f"{n}".encode()) for n in range(200)]

    def answer(publish: Publish) -> bytes:
        return puback(publish, code if any(e.payload == POISON for e in publish.events) else 0)

    cloud = ScriptedCloud(answer)
    with cloud.running(), sending(tmp_path / "events.db", port_of(cloud), sent, backoff=AT_ONCE) as sender:
        sender.wait_drained()
        counts = sender.counts()
        assert (counts[Status.SYNCED], counts[Status.FAILED]) == (199, 1)
        assert sender.refusals() == {reason: 1}
        assert cloud.connections == 1
    arrived = sorted(int(e.payload) for e in cloud.events)
    assert arrived == [n for n in range(200) if n != 57]


def test_events_that_are_too_large_for_the_broker_are_sent_in_smaller_frames_or_fail_alone(
    tmp_path: Path,
) -> None:
    sent = events(100)
    sent[30] = event("t/a", bytes(range(256)) * 20)

    def answer(publish: Publish) -> bytes:
        return puback(publish, 0x95 if len(publish.payload) > 300 else 0)

    cloud = ScriptedCloud(answer)
    with cloud.running(), sending(tmp_path / "events.db", port_of(cloud), sent) as sender:
        sender.wait_drained()
        assert sender.refusals() == {"packet too large (0x95)": 1}
        assert sender.counts()[Status.SYNCED] == 99
        assert cloud.connections == 1
    check_complete(cloud.events, [e for at, e in enumerate(sent) if at != 30])


def test_what_a_real_mosquitto_limits_by_size_arrives_in_smaller_frames(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    """`message_size_limit` answers PUBACK 0x95; `max_packet_size` is announced, and ends the connection."""
    for limit in ("message_size_limit 2000", "max_packet_size 2000"):
        cloud = mosquitto(["max_queued_messages 0", limit])
        sent = [event(f"t/{n}", f"{n * 7919 % 1009:09}".encode() * 3) for n in range(1000)]
        sent[500] = event("t/large", random.Random(1).randbytes(4000))
        folder = tmp_path / limit.split()[0]
        folder.mkdir()
        with (
            Consumer(cloud.port) as consumer,
            sending(folder / "events.db", cloud.port, sent) as sender,
        ):
            sender.wait_drained()
            consumer.wait_for(999)
            assert sender.refusals() == {"packet too large (0x95)": 1}
        check_complete(consumer.events, sent, missing=[500])


def test_a_disconnect_for_a_message_leads_to_the_one_event_that_is_meant(tmp_path: Path) -> None:
    sent = [event("t/a", POISON if n == 11 else f"{n}".encode()) for n in range(40)]

    def answer(publish: Publish) -> bytes:
        return disconnect(0x99) if any(e.payload == POISON for e in publish.events) else puback(publish)

    cloud = ScriptedCloud(answer)
    with cloud.running(), sending(tmp_path / "events.db", port_of(cloud), sent) as sender:

        def verdict() -> dict[str, int]:
            for link in sender.links:
                link.retry_now()
            return sender.refusals()

        wait_until(verdict, "the verdict")
        sender.wait_drained()
        assert sender.refusals() == {"payload format invalid (0x99)": 1}
        assert sender.counts()[Status.SYNCED] == 39


def test_a_denied_topic_of_an_event_fails_it_and_a_denied_topic_of_the_bridge_waits(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite gateway/g1/up/event/s/#\ntopic read gateway/g1/up/#\n")
    cloud = mosquitto([f"acl_file {acl}", "max_queued_messages 0"], persistence=tmp_path)
    sent = [event(f"{'s' if n % 20 else 'denied'}/{n % 7}", f"{n}".encode()) for n in range(100)]
    with Consumer(cloud.port) as consumer:
        with sending(tmp_path / "events.db", cloud.port, sent, format="event") as sender:
            sender.wait_drained()
            consumer.wait_for(95)
            assert sender.refusals() == {"not authorized (0x87)": 5}
        check_complete(consumer.events, sent, missing=range(0, 100, 20))
        folder = tmp_path / "batch"
        folder.mkdir()
        with sending(folder / "events.db", cloud.port, sent, backoff=AT_ONCE) as sender:
            wait_until(lambda: sender.bridges[0].metrics.refused > 5, "refusals")
            assert sender.bridges[0].metrics.refusal == "not authorized (0x87)"
            assert sender.counts()[Status.FAILED] == 0
        assert retry_counts(folder / "events.db")[3] == 0


def test_answers_for_unknown_packets_and_second_answers_settle_nothing(tmp_path: Path) -> None:
    sent = events(500)

    def answer(publish: Publish) -> bytes:
        good = puback(publish)
        return puback(publish, packet_id=publish.packet_id + 7777) + good + good

    cloud = ScriptedCloud(answer)
    with (
        cloud.running(),
        sending(tmp_path / "events.db", port_of(cloud), sent, batch_events=50) as sender,
    ):
        sender.wait_drained()
        assert sender.counts()[Status.SYNCED] == 500
        assert sender.bridges[0].metrics.events_acked == 500
    assert check_complete(cloud.events, sent) == 0


def test_no_more_is_under_way_than_the_broker_takes(tmp_path: Path) -> None:
    receive_maximum_2 = b"\x20\x06\x00\x00\x03\x21\x00\x02"
    largest = event("t/a", bytes(500))  # once it is taken, the others need not go one by one

    def answer(publish: Publish) -> bytes:
        return puback(publish) if publish.payload == largest.payload else b""

    cloud = ScriptedCloud(answer, receive_maximum_2)
    with (
        cloud.running(),
        sending(tmp_path / "events.db", port_of(cloud), [largest, *events(100)], format="event") as sender,
    ):
        wait_until(lambda: len(cloud.publishes) == 3, "the first message and two more")
        assert sender.bridges[0].metrics.frames == 3  # the turn that sent these would have sent all


def test_a_cloud_of_mqtt_3_takes_events_in_envelopes(mosquitto: MosquittoFactory, tmp_path: Path) -> None:
    cloud, sent = mosquitto(["max_queued_messages 0"]), events(200)
    with (
        Consumer(cloud.port) as consumer,
        sending(
            tmp_path / "events.db", cloud.port, sent, format="event", protocol="3.1.1", connections=2
        ) as sender,
    ):
        sender.wait_drained()
        consumer.wait_for(200)
    assert check_complete(consumer.events, sent) == 0
