"""Many connections that ask nothing, and people who try tokens, keep nobody else from being answered."""

from __future__ import annotations

import http.client
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from gateway.app.gateway import Gateway
from gateway.config import load_config
from gateway.http.access import Access
from gateway.http.connections import MAX_CONNECTIONS
from gateway.http.guesses import FORGET_AFTER_S, FREE_GUESSES, KNOWN_ADDRESSES, WAIT_S, Guesses
from tests.support.gateways import HOST, gateway_config, wait_until
from tests.support.ports import free_port

NOBODY = f"mqtt://{HOST}:9"
TOKEN = "a-token-that-nobody-guesses"  # noqa: S105


@contextmanager
def served(folder: Path, **http: object) -> Iterator[tuple[Gateway, int]]:
    port = free_port()
    config = gateway_config(folder, NOBODY, http={"listen": f"{HOST}:{port}", **http})
    gateway = Gateway(load_config(config))
    gateway.start()
    try:
        yield gateway, port
    finally:
        gateway.stop()


def ask(port: int, path: str, **headers: str) -> int:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


@contextmanager
def listening(port: int) -> Iterator[http.client.HTTPResponse]:
    with closing(http.client.HTTPConnection(HOST, port, timeout=10)) as connection:
        connection.request("GET", "/api/live")
        with connection.getresponse() as stream:
            yield stream


def is_closed(connection: socket.socket) -> bool:
    connection.settimeout(0.01)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


@pytest.mark.parametrize("silent", [250, 1100])
def test_health_answers_whatever_number_of_connections_says_nothing(tmp_path: Path, silent: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    with served(tmp_path) as (_, port), ExitStack() as opened:
        connections = [
            opened.enter_context(socket.create_connection((HOST, port), timeout=5)) for _ in range(silent)
        ]
        assert ask(port, "/healthz") == 200
        wait_until(
            lambda: sum(map(is_closed, connections)) >= silent - MAX_CONNECTIONS, "the first make room"
        )
        assert ask(port, "/healthz") == 200
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_connection_that_begins_a_request_and_does_not_end_it_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.http.connections.REQUEST_WITHIN_S", 0.3)
    with served(tmp_path) as (_, port), socket.create_connection((HOST, port)) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: ")
        wait_until(lambda: is_closed(slow), "it is closed")
        assert ask(port, "/healthz") == 200


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("[::1]", True),
        ("[::1]:8080", True),
        ("127.0.0.1:8080", True),
        ("localhost", True),
        ("Gateway.lan:80", True),
        ("[::1].evil.com", False),
        ("[::1]:8080.evil.com", False),
        ("[::1]evil.com", False),
        ("127.0.0.1:8080@evil.com", False),
        ("localhost:80:80", False),
        ("[::1", False),
        ("evil.com", False),
        ("", False),
    ],
)
def test_a_host_is_known_as_a_whole(host: str, known: bool) -> None:
    assert Access(hosts=frozenset({"gateway.lan"})).knows_host(host) == known


def test_wrong_tokens_of_one_address_are_looked_at_once_in_a_while() -> None:
    guesses = Guesses()
    for number in range(FREE_GUESSES):
        assert guesses.wait_s("10.0.0.1", 0.0) == 0
        guesses.note_wrong("10.0.0.1", f"guess {number}", 0.0)
    assert guesses.wait_s("10.0.0.1", 1.0) == WAIT_S - 1
    assert guesses.wait_s("10.0.0.2", 1.0) == 0
    assert guesses.wait_s("10.0.0.1", WAIT_S) == 0
    guesses.note_wrong("10.0.0.1", "another", WAIT_S)
    assert guesses.wait_s("10.0.0.1", WAIT_S) == WAIT_S
    assert guesses.wait_s("10.0.0.1", WAIT_S + FORGET_AFTER_S + 1) == 0


def test_one_network_of_ipv6_is_one_address_and_an_old_page_guesses_once() -> None:
    guesses = Guesses()
    for number in range(FREE_GUESSES):
        guesses.note_wrong(f"2001:db8::{number + 1}", f"guess {number}", 0.0)
    assert guesses.wait_s("2001:db8::ffff", 0.0) == WAIT_S
    for _ in range(10 * FREE_GUESSES):
        guesses.note_wrong("10.0.0.1", "an old cookie", 0.0)
    assert guesses.wait_s("10.0.0.1", 0.0) == 0


def test_only_so_many_addresses_are_remembered() -> None:
    guesses = Guesses()
    for number in range(2 * KNOWN_ADDRESSES):
        guesses.note_wrong(f"10.0.{number // 256}.{number % 256}", "wrong", 0.0)
    assert guesses.wrong == KNOWN_ADDRESSES


def test_a_gateway_stops_looking_at_tokens_of_who_guesses(tmp_path: Path) -> None:
    with served(tmp_path, token=TOKEN) as (_, port):
        assert ask(port, "/metrics", Authorization=f"Bearer {TOKEN}") == 200
        answers = [ask(port, "/metrics", Authorization=f"Bearer {n:032}") for n in range(FREE_GUESSES + 2)]
        assert answers == [401] * FREE_GUESSES + [429] * 2
        assert ask(port, "/metrics", Authorization=f"Bearer {TOKEN}") == 429, "nobody learns that it is right"
        assert ask(port, "/healthz") == 200


def test_a_fault_of_the_disk_ends_neither_live_data_nor_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(5, "Input/output error")

    with served(tmp_path) as (gateway, port), listening(port) as stream:
        wait_until(lambda: stream.readline().startswith(b"data:"), "a first frame")
        with monkeypatch.context() as patch:
            patch.setattr("gateway.status.gateway_status.size_of", refuse)
            rows = len(gateway.status.history.rows())
            wait_until(lambda: len(gateway.status.history.rows()) > rows + 1, "history goes on")
            assert [ask(port, path) for path in ("/metrics", "/api/state", "/healthz")] == [200] * 3
            assert gateway.status.buffer_bytes is None
        with monkeypatch.context() as patch:
            patch.setattr("gateway.http.state.State.whole", refuse)
            wait_until(lambda: ask(port, "/healthz") == 503, "health says that there are no frames")
        wait_until(lambda: ask(port, "/healthz") == 200, "they are back")
        wait_until(lambda: stream.readline().startswith(b"data:"), "the same listener gets them")
