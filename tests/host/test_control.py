"""The control socket: who may ask, what is answered, and that nothing a client does ends the server."""

from __future__ import annotations

import json
import socket
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from gateway.core.errors import ControlError, StoreError
from gateway.host.control import REQUEST_BYTES, SOCKET_FILE, ControlServer, ask
from tests.support.gateways import wait_until


def echo(request: Mapping[str, Any], report: Callable[[int, int], None]) -> Mapping[str, Any]:
    for step in range(3):
        report(step, 3)
    return {"echo": request["word"]}


def refuse(request: Mapping[str, Any], report: Callable[[int, int], None]) -> Mapping[str, Any]:
    raise StoreError("it cannot", hint="do something else")


def crash(request: Mapping[str, Any], report: Callable[[int, int], None]) -> Mapping[str, Any]:
    raise ZeroDivisionError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / SOCKET_FILE


@pytest.fixture
def server(path: Path) -> Iterator[ControlServer]:
    server = ControlServer(path)
    server.start({"echo": echo, "refuse": refuse, "crash": crash})
    yield server
    server.stop()


def silent(done: int, total: int) -> None:
    """A progress that nobody watches."""


def raw(path: Path, request: bytes) -> list[dict[str, Any]]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(path))
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as lines:
            return [json.loads(line) for line in lines]


def test_a_request_is_answered_with_its_progress_and_its_result(server: ControlServer, path: Path) -> None:
    seen: list[tuple[int, int]] = []
    assert ask(path, {"do": "echo", "word": "ä"}, lambda *at: seen.append(at)) == {"echo": "ä"}
    assert seen == [(0, 3), (1, 3), (2, 3)]


def test_only_the_own_user_may_connect(server: ControlServer, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_error_of_the_operation_reaches_the_client_with_its_hint(
    server: ControlServer, path: Path
) -> None:
    with pytest.raises(ControlError, match="it cannot") as refusal:
        ask(path, {"do": "refuse"}, silent)
    assert refusal.value.hint == "do something else"


def test_an_operation_that_crashes_does_not_end_the_server(server: ControlServer, path: Path) -> None:
    with pytest.raises(ControlError, match="ZeroDivisionError"):
        ask(path, {"do": "crash"}, silent)
    assert ask(path, {"do": "echo", "word": 1}, silent) == {"echo": 1}


@pytest.mark.parametrize(
    "request_line, problem",
    [
        (b'{"do": "explode"}\n', "cannot do 'explode'"),
        (b"{}\n", "cannot do"),
        (b"[]\n", "JSON object"),
        (b"no json\n", "no JSON"),
        (b'{"do": "echo"', "ends in the middle"),
        (b"", "ends in the middle"),
        (b'"' + b"x" * (REQUEST_BYTES + 10), "too long"),
    ],
    ids=["unknown", "empty", "list", "text", "cut", "nothing", "long"],
)
def test_what_is_no_request_gets_an_answer_that_says_so(
    server: ControlServer, path: Path, request_line: bytes, problem: str
) -> None:
    (answer,) = raw(path, request_line)
    assert problem in answer["error"]
    assert ask(path, {"do": "echo", "word": 1}, silent) == {"echo": 1}


def test_a_client_that_goes_away_ends_its_own_work_only(path: Path) -> None:
    ended, go_on = Event(), Event()

    def work(request: Mapping[str, Any], report: Callable[[int, int], None]) -> Mapping[str, Any]:
        assert go_on.wait(60)
        try:
            for step in range(100_000):
                report(step, 100_000)
        finally:
            ended.set()
        return {}

    server = ControlServer(path)
    server.start({"work": work, "echo": echo})
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall(b'{"do": "work"}\n')
        go_on.set()
        assert ended.wait(60)
        assert ask(path, {"do": "echo", "word": 1}, silent) == {"echo": 1}
    finally:
        server.stop()


def test_a_stop_ends_the_work_under_way_and_tells_the_client(path: Path) -> None:
    working = Event()

    def work(request: Mapping[str, Any], report: Callable[[int, int], None]) -> Mapping[str, Any]:
        while True:
            report(1, 2)
            working.set()

    server = ControlServer(path)
    server.start({"work": work})
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(path))
        connection.sendall(b'{"do": "work"}\n')
        assert working.wait(60)
        with connection.makefile("rb") as lines:
            server._stopping.set()
            wait_until(lambda: b"stopping" in lines.readline(), "an answer that says why")
    server.stop()
    assert not path.exists()


def test_the_socket_of_a_dead_gateway_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(ControlError, match="cannot be asked"):
        ask(path, {"do": "echo"}, silent)
    server = ControlServer(path)
    server.start({"echo": echo})
    assert ask(path, {"do": "echo", "word": 1}, silent) == {"echo": 1}
    server.stop()


def test_a_path_that_is_too_long_for_a_socket_is_an_os_error(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    with pytest.raises(OSError, match="too long"):
        ControlServer(folder / SOCKET_FILE).start({})
