"""Mosquitto as the embedded broker: a supervised child with the shipped settings."""

from __future__ import annotations

import os
import queue
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from gateway.core.errors import BrokerError
from gateway.lab.load import publish_all
from gateway.mqtt import mosquitto_child
from gateway.mqtt.mosquitto_child import MosquittoChild, embedded_program, find_mosquitto
from tests.conftest import no_broker
from tests.support.broker_kinds import why_no_program
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.places import ROOT
from tests.support.ports import free_port
from tests.support.publishing import publish

WAIT_S = 60.0
BUFFERED = 'gateway_messages_total{outcome="buffered"}'


@pytest.fixture
def program() -> Path:
    found = find_mosquitto()
    return found or no_broker(why_no_program())


@pytest.fixture
def child(program: Path, tmp_path: Path) -> Iterator[MosquittoChild]:
    broker = MosquittoChild(program, tmp_path / "mosquitto", port=free_port())
    broker.start()
    yield broker
    broker.stop()


def ask_to_connect(
    port: int, client_id: str, name: str | None = None, password: str | None = None
) -> tuple[bool, bool]:
    """Connect with a persistent session that subscribes; returns whether refused, and session present."""
    answers: queue.Queue[tuple[bool, bool]] = queue.Queue()
    subscribed: queue.Queue[None] = queue.Queue()
    client = Client(CallbackAPIVersion.VERSION2, client_id, clean_session=False)
    client.username_pw_set(name, password)
    client.on_connect = lambda _c, _u, flags, code, _p: answers.put((code.is_failure, flags.session_present))
    client.on_subscribe = lambda *_: subscribed.put(None)
    client.connect("127.0.0.1", port)
    client.loop_start()
    answer = answers.get(timeout=WAIT_S)
    if not answer[0]:
        client.subscribe("a/#", 1)
        subscribed.get(timeout=WAIT_S)
    client.disconnect()
    client.loop_stop()
    return answer


def wait_saved(folder: Path, what: bytes) -> None:
    """Wait until the child's file has `what`."""
    file = folder / "mosquitto" / "mosquitto.db"
    wait_until(lambda: file.exists() and what in file.read_bytes(), f"{what!r} is saved")


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def is_there(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_its_settings_are_those_that_are_shipped() -> None:
    shipped = (ROOT / "mosquitto" / "local.conf").read_text().splitlines()
    for line in mosquitto_child.SETTINGS.splitlines():
        assert line in shipped


def test_sessions_survive_a_restart(child: MosquittoChild) -> None:
    assert ask_to_connect(child.port, "reader") == (False, False)
    child.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((child.host, child.port))
    child.start()
    assert ask_to_connect(child.port, "reader") == (False, True)


def test_a_child_that_is_killed_is_started_again_with_its_sessions_and_health_names_it(
    child: MosquittoChild, tmp_path: Path
) -> None:
    ask_to_connect(child.port, "reader")
    wait_saved(tmp_path, b"reader")
    thread, first = child.thread, child.pid
    assert thread is not None
    assert first is not None
    assert not thread.problem
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: "mosquitto has ended" in thread.problem, "health names it")
    wait_until(lambda: not thread.problem, "it is back")
    assert child.restarts == 1
    assert child.pid not in (first, None)
    assert ask_to_connect(child.port, "reader") == (False, True)


def test_a_child_that_is_killed_has_lost_no_more_than_the_newest_hundred_of_what_waited(
    child: MosquittoChild, tmp_path: Path
) -> None:
    """What is in the file when the last message has been acknowledged is what survives."""
    ask_to_connect(child.port, "reader")
    wait_saved(tmp_path, b"reader")
    publish_all(child.host, child.port, [("a/b", b"%d" % number) for number in range(550)])
    first = child.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: child.pid not in (first, None), "it is started again")
    received: queue.Queue[int] = queue.Queue()
    client = Client(CallbackAPIVersion.VERSION2, "reader", clean_session=False)
    client.on_message = lambda _c, _u, message: received.put(int(message.payload))
    wait_until(lambda: accepts(child.port), "it listens")
    client.connect("127.0.0.1", child.port)
    client.loop_start()
    try:
        assert [received.get(timeout=WAIT_S) for _ in range(450)] == [*range(450)]
    finally:
        client.disconnect()
        client.loop_stop()


def test_a_subscription_is_seen_in_the_log_whatever_the_names_are() -> None:
    for line in ("reader 1 a/#", "my reader 1 0 a/+/x y", "Warnings 2 +"):
        assert mosquitto_child.is_subscription(line)
    for line in (
        "mosquitto version 2.0.11 running",
        "Opening ipv4 listen socket on port 1883.",
        "Saving in-memory database to /data/mosquitto//mosquitto.db.",
        "Error: Address already in use",
        "Warning: 2 of these",
    ):
        assert not mosquitto_child.is_subscription(line)


def test_it_may_have_as_many_connections_as_the_machine_allows(child: MosquittoChild) -> None:
    limits = Path(f"/proc/{child.pid}/limits").read_text()
    (soft, hard) = re.findall(r"Max open files +(\S+) +(\S+)", limits)[0]
    assert soft == hard


def test_only_those_who_know_the_password_get_in(program: Path, tmp_path: Path) -> None:
    broker = MosquittoChild(program, tmp_path / "m", port=free_port(), username="me", password="pä:ss")  # noqa: S106
    broker.start()
    try:
        assert ask_to_connect(broker.port, "a", "me", "pä:ss")[0] is False
        assert ask_to_connect(broker.port, "a", "me", "wrong")[0] is True
        assert ask_to_connect(broker.port, "a")[0] is True
        assert (tmp_path / "m" / "passwords").stat().st_mode & 0o077 == 0
    finally:
        broker.stop()


def test_a_taken_port_is_a_broker_error(program: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        broker = MosquittoChild(program, tmp_path / "m", port=other.getsockname()[1])
        with pytest.raises(BrokerError, match="Address already in use"):
            broker.start()
    assert broker.thread is None


def test_without_the_program_auto_is_amqtt_and_mosquitto_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mosquitto_child, "find_mosquitto", lambda: None)
    assert embedded_program("auto") is None
    assert embedded_program("amqtt") is None
    with pytest.raises(BrokerError, match="no such program") as missing:
        embedded_program("mosquitto")
    assert "apt-get install mosquitto" in missing.value.hint


@pytest.mark.usefixtures("program")
def test_a_gateway_brings_mosquitto_along_and_takes_it_with_it(tmp_path: Path) -> None:
    port = free_port()
    local = {"url": "embedded", "listen": f"127.0.0.1:{port}", "broker": "auto"}
    with GatewayProcess(gateway_config(tmp_path, "embedded", local=local)) as gateway:
        gateway.wait_ready()
        found = re.search(r"the embedded broker is (\S*mosquitto) on", gateway.log())
        assert found is not None, gateway.log()
        publish(port, [("sensors/a", '{"t": 1700000000000, "v": 1}')])
        wait_until(lambda: gateway.metric(BUFFERED) == 1, "the message")
        children = Path(f"/proc/{gateway.pid}/task").glob("*/children")
        pids = [int(pid) for path in children for pid in path.read_text().split()]
        assert len(pids) == 1
        gateway.kill()
        wait_until(lambda: not is_there(pids[0]), "mosquitto ends with the killed gateway")
        gateway.start()
        gateway.wait_ready()
        assert gateway.stop() == 0
