"""Whatever a broker answers, at whichever packet: the uplink is never stuck, and never silent about it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from gateway.core.events import Status
from gateway.delivery.states import Backoff
from tests.support.buffers import event
from tests.support.gateways import wait_until
from tests.support.sending import Sender, check_complete, sending
from tests.support.stub_broker import (
    CLOSE,
    CONNECT,
    PUBLISH,
    Answer,
    Packet,
    StubBroker,
    connack,
    farewell,
    puback,
)

POISON = b"poison"
QUICK: dict[str, Any] = {"endpoint": {"reconnect_max_s": 0.02}, "backoff": Backoff(1, 20, 3)}
# Codes that stand for others of their kind; `make test-long` tries all there are.
TELLING = {0x00, 0x01, 0x04, 0x05, 0x10, 0x80, 0x87, 0x89, 0x90, 0x95, 0x97, 0x99, 0xFF}
FORMS = [("5", "batch"), ("5", "event"), ("3.1.1", "batch"), ("3.1.1", "event")]


def uplink(packet: Packet) -> bool:
    return packet.kind == PUBLISH and "/up/" in packet.topic


def poisoned(packet: Packet) -> bool:
    return any(e.payload == POISON for e in packet.events)


def over_poison(answer: Callable[[Packet], Answer] | Answer) -> Callable[[Packet], Answer | None]:
    def rule(packet: Packet) -> Answer | None:
        if not poisoned(packet):
            return None
        return answer if isinstance(answer, Answer) else answer(packet)

    return rule


def wait_for_failed(sender: Sender, count: int) -> None:
    wait_until(lambda: sender.counts()[Status.FAILED] == count, "the verdict")


@pytest.mark.parametrize(("protocol", "form"), FORMS)
@pytest.mark.parametrize("streams", [1, 5])
def test_a_message_that_is_answered_by_a_close_fails_and_everything_else_goes_on(
    tmp_path: Path, protocol: str, form: str, streams: int, caplog: pytest.LogCaptureFixture
) -> None:
    sent = [event(f"t/{n % streams}", POISON if n == 57 else f"{n}".encode()) for n in range(200)]
    cloud = StubBroker(over_poison(CLOSE))
    with (
        cloud.running(),
        caplog.at_level(logging.WARNING),
        sending(tmp_path / "events.db", cloud.port, sent, protocol=protocol, format=form, **QUICK) as sender,
    ):
        sender.wait_drained()
        assert sender.counts()[Status.FAILED] == 1
        assert sender.refusals() == {"the broker closed the connection over it": 1}
    assert sorted(int(e.payload) for e in set_of(cloud)) == [n for n in range(200) if n != 57]
    assert "the broker closed the connection over it" in caplog.text


def set_of(cloud: StubBroker) -> list[Any]:
    return list({e.event_id: e for e in cloud.events}.values())


@pytest.mark.parametrize("form", ["batch", "event"])
def test_several_poisoned_events_of_one_stream_fail_one_after_the_other(tmp_path: Path, form: str) -> None:
    poison = {0, 1, 40, 99}
    sent = [event("t/a", POISON if n in poison else f"{n}".encode()) for n in range(100)]
    cloud = StubBroker(over_poison(CLOSE))
    with (
        cloud.running(),
        sending(tmp_path / "events.db", cloud.port, sent, format=form, **QUICK) as sender,
    ):
        wait_until(lambda: sender.counts()[Status.SYNCED] == 96, "the others")
        sender.append([event("t/b", b"1000")])  # what the last one can be compared with
        sender.wait_drained()
        assert sender.counts()[Status.FAILED] == 4
    assert len(set_of(cloud)) == 97


def test_a_lone_event_is_not_failed_for_closes_and_lets_others_pass(tmp_path: Path) -> None:
    cloud = StubBroker(over_poison(CLOSE))
    with (
        cloud.running(),
        sending(
            tmp_path / "events.db", cloud.port, [event("t/a", POISON)], format="event", **QUICK
        ) as sender,
    ):
        wait_until(sender.refusals, "it is set aside")
        assert sender.counts()[Status.FAILED] == 0
        sender.append([event("t/b", f"{n}".encode()) for n in range(20)])
        sender.wait_drained()
        assert sender.counts()[Status.FAILED] == 1
    assert len(set_of(cloud)) == 20


def test_a_broker_that_ends_every_connection_over_the_uplink_fails_nothing(tmp_path: Path) -> None:
    """It crashes, or its rules forbid the topic: that says nothing about an event."""
    cloud = StubBroker(lambda packet: CLOSE if uplink(packet) else None)
    sent = [event(f"t/{n % 3}", f"{n}".encode()) for n in range(60)]
    with (
        cloud.running(),
        sending(tmp_path / "events.db", cloud.port, sent, format="event", **QUICK) as sender,
    ):
        wait_until(lambda: cloud.connections > 30, "many closes")
        assert sender.counts()[Status.FAILED] == 0
        cloud.rule = lambda _packet: None
        sender.wait_drained()
        assert sender.counts()[Status.SYNCED] == 60


def test_a_size_over_which_connections_end_is_remembered(tmp_path: Path) -> None:
    cloud = StubBroker(lambda packet: CLOSE if packet.size_bytes > 20_000 else None)
    sent = [event(f"t/{n % 3}", bytes(str(n * 7919), "ascii") * 40) for n in range(2000)]
    with (
        cloud.running(),
        sending(tmp_path / "events.db", cloud.port, sent, encoding="none", **QUICK) as sender,
    ):
        sender.wait_drained()
        assert sender.counts()[Status.SYNCED] == 2000
        closes = cloud.connections
        sender.append([event(f"u/{n % 3}", bytes(str(n * 7919), "ascii") * 40) for n in range(1000)])
        sender.wait_drained()
        assert cloud.connections == closes
    assert closes < 12


NOT_OF_THE_MESSAGE = {
    0x00,
    0x04,
    0x88,
    0x89,
    0x8B,
    0x8D,
    0x8E,
    0x93,
    0x96,
    0x97,
    0x98,
    0x9C,
    0x9D,
    0x9F,
    0xA0,
}


def of_all(codes: Iterable[int], *before: object) -> list[Any]:
    """Parameters with each code behind `before`; the codes that tell nothing new are slow."""
    marks = {True: (), False: (pytest.mark.slow,)}
    names = [*map(str, before)]
    return [
        pytest.param(*before, code, marks=marks[code in TELLING], id="-".join([*names, hex(code)]))
        for code in codes
    ]


@pytest.mark.parametrize("code", of_all([0x00, 0x04, *range(0x80, 0xA3), 0xFF]))
def test_a_disconnect_with_any_code_leaves_the_uplink_working(
    tmp_path: Path, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Over one event each time it comes, or, where the code is about the broker itself, five times."""
    left = 5 if code in NOT_OF_THE_MESSAGE else 1_000_000

    def answer(packet: Packet) -> Answer:
        nonlocal left
        left -= 1
        return farewell(code) if left >= 0 else puback(packet)

    sent = [event(f"t/{n % 5}", POISON if n == 11 else f"{n}".encode()) for n in range(40)]
    cloud = StubBroker(over_poison(answer))
    with (
        cloud.running(),
        caplog.at_level(logging.WARNING),
        sending(tmp_path / "events.db", cloud.port, sent, format="event", **QUICK) as sender,
    ):
        sender.wait_drained()
        failed = sender.counts()[Status.FAILED]
        assert failed == (0 if code in NOT_OF_THE_MESSAGE else 1)
        assert sum(f"0x{code:02x}" in reason for reason in sender.refusals()) == failed
    assert len(set_of(cloud)) == 40 - failed
    assert f"0x{code:02x}" in caplog.text


@pytest.mark.parametrize("code", of_all([0x00, 0x10, *range(0x80, 0xA3)]))
def test_a_puback_with_any_code_leaves_the_uplink_working(tmp_path: Path, code: int) -> None:
    left = 5

    def answer(packet: Packet) -> Answer:
        nonlocal left
        left -= 1
        return puback(packet, code if left >= 0 else 0)

    sent = [event(f"t/{n % 5}", POISON if n == 11 else f"{n}".encode()) for n in range(40)]
    cloud = StubBroker(over_poison(answer))
    with (
        cloud.running(),
        sending(tmp_path / "events.db", cloud.port, sent, format="event", **QUICK) as sender,
    ):
        sender.wait_drained()
        counts = sender.counts()
        assert counts[Status.SYNCED] + counts[Status.FAILED] == 40
        assert counts[Status.SYNCED] >= 39
        assert bool(sender.bridges[0].metrics.refused) == (code >= 0x80)
        assert all(f"0x{code:02x}" in reason for reason in sender.refusals())


@pytest.mark.parametrize(
    ("protocol", "code"),
    [*of_all([1, *range(0x80, 0xA3), 0xFF], "5"), *of_all([*range(1, 8), 0xFF], "3.1.1")],
)
def test_a_connack_with_any_code_is_said_and_tried_again(
    tmp_path: Path, protocol: str, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    def rule(packet: Packet) -> Answer | None:
        if packet.kind == CONNECT and packet.connection <= 2:
            return connack(packet, code)
        return None

    cloud, sent = StubBroker(rule), [event("t/a", f"{n}".encode()) for n in range(5)]
    with (
        cloud.running(),
        caplog.at_level(logging.WARNING),
        sending(tmp_path / "events.db", cloud.port, sent, protocol=protocol, **QUICK) as sender,
    ):
        sender.wait_drained()
    check_complete(cloud.events, sent)
    assert "refused the connection" in caplog.text


def test_an_event_that_is_never_answered_does_not_hold_up_the_others(tmp_path: Path) -> None:
    sent = [event(f"t/{n % 5}", POISON if n == 11 else f"{n}".encode()) for n in range(40)]
    cloud = StubBroker(over_poison(Answer()))
    with (
        cloud.running(),
        sending(
            tmp_path / "events.db", cloud.port, sent, format="event", ack_timeout_s=0.3, **QUICK
        ) as sender,
    ):
        sender.wait_drained()
        assert sender.refusals() == {"no answer within 0.3 s": 1}
    assert len(set_of(cloud)) == 39
