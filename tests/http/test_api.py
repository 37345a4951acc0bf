"""The API, the live data and who may ask, of a running gateway."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from gateway.config import load_config
from gateway.core.errors import ConfigError
from gateway.http.live import MAX_LISTENERS
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.ports import free_port
from tests.support.publishing import publish

TOKEN = "a-token-that-nobody-guesses"  # noqa: S105


class Caller:
    """Asks one gateway, with any headers."""

    def __init__(self, config: Path) -> None:
        self.address = yaml.safe_load(config.read_text())["http"]["listen"]

    def ask(
        self, path: str, method: str = "GET", body: str | None = None, **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        connection = http.client.HTTPConnection(self.address, timeout=10)
        connection.request(
            method, path, body, {name.replace("_", "-"): text for name, text in headers.items()}
        )
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        found = (
            json.loads(content)
            if answer.headers.get_content_type() == "application/json"
            else content.decode()
        )
        return answer.status, found, dict(answer.headers)

    @contextmanager
    def listen(self) -> Iterator[http.client.HTTPResponse]:
        with closing(http.client.HTTPConnection(self.address, timeout=10)) as connection:
            connection.request("GET", "/api/live")
            with connection.getresponse() as stream:
                yield stream


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GatewayProcess, Caller, int]]:
    """A gateway with a broker of its own, two readings of one device, and a payload that is none.

    All tests that only look share it.
    """
    yield from gateway_with_readings(tmp_path_factory.mktemp("api"))


@pytest.fixture
def own_gateway(tmp_path: Path) -> Iterator[tuple[GatewayProcess, Caller, int]]:
    """The same for one test alone, which may publish more."""
    yield from gateway_with_readings(tmp_path)


def gateway_with_readings(folder: Path) -> Iterator[tuple[GatewayProcess, Caller, int]]:
    port = free_port()
    local = {"url": "embedded", "listen": f"127.0.0.1:{port}"}
    config = gateway_config(folder, "embedded", local=local)
    with GatewayProcess(config) as gateway:
        gateway.wait_ready()
        messages = [
            ("sensors/a", b'{"v": 1, "t": 1700000000000}'),
            ("sensors/b", b"{"),
            ("sensors/a", b'{"v": 3, "t": 1700000090000}'),
        ]
        publish(port, messages)
        wait_until(lambda: gateway.metric('gateway_messages_total{outcome="buffered"}') == 3, "all")
        yield gateway, Caller(config), port


def frames(stream: http.client.HTTPResponse, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while len(found) < count:
        line = stream.readline()
        assert line, "the stream ended"
        if line.startswith(b"data: "):
            found.append(json.loads(line[6:]))
    return found


def test_the_state_tells_what_came_and_what_became_of_it(running: tuple[GatewayProcess, Caller, int]) -> None:
    status, state, headers = running[1].ask("/api/state")
    assert (status, headers["cache-control"]) == (200, "no-store")
    assert state["gateway"]["id"] == "g1"
    assert state["buffer"]["messages"] == {"buffered": 3}
    assert state["buffer"]["forecast"]["state"] == "local"
    (window,) = state["windows"]
    assert (window["events"], window["emitted"], window["watermark_ms"]) == (2, 1, 1700000090000)
    assert state["devices"]["known"] == 2
    assert [device["name"] for device in state["devices"]["unreadable"]] == ["b"]
    assert {link["name"]: link["connected"] for link in state["links"]} == {"republish": True, "ingest": True}


def test_results_come_from_the_buffer_also_those_of_before_anybody_looked(
    running: tuple[GatewayProcess, Caller, int],
) -> None:
    caller = running[1]
    (series,) = caller.ask("/api/results?window=minute")[1]
    assert (series["key"], series["points"][0]["count"], series["points"][0]["start_ms"]) == (
        "a",
        1,
        1699999980000,
    )
    assert caller.ask("/api/results?window=other")[1] == []


def test_streams_are_listed_page_by_page(running: tuple[GatewayProcess, Caller, int]) -> None:
    caller = running[1]
    wait_until(lambda: all(s["last_sequence_num"] for s in caller.ask("/api/streams")[1]), "the checkpoint")
    first = caller.ask("/api/streams?limit=1")[1]
    second = caller.ask(f"/api/streams?limit=10&after={first[0]['topic']}")[1]
    assert not {first[0]["topic"]} & {stream["topic"] for stream in second}
    assert {"sensors/a", "sensors/b"} <= {stream["topic"] for stream in first + second}
    assert caller.ask("/api/streams?limit=0")[0] == caller.ask("/api/streams?limit=x")[0] == 400


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("alarms", ("offset", "limit")),
        ("devices/table", ("offset", "limit")),
        ("windows/keys?window=minute", ("offset", "limit")),
        ("streams", ("limit",)),
        ("aggregates", ("from_ms", "to_ms", "limit", "after")),
        ("events", ("from_ms", "to_ms", "limit", "after")),
        ("course?window=minute&key=a", ("from_ms", "to_ms", "points")),
        ("course?device=a&field=v", ("from_ms", "to_ms", "points")),
        ("messages?once=true", ("last",)),
        ("explain", ("id",)),
    ],
)
def test_a_number_that_cannot_be_meant_is_refused_by_its_name(
    running: tuple[GatewayProcess, Caller, int], path: str, names: tuple[str, ...]
) -> None:
    _, caller, _ = running
    start = f"/api/{path}{'&' if '?' in path else '?'}"
    for name in names:
        for wrong in (str(2**63), str(2**64), "-1", "1.5", "x", "1e3", "9" * 5000, "%00", "²"):
            status, text, _ = caller.ask(f"{start}{name}={quote(wrong, safe='%')}")
            assert (status, text[: len(name) + 24]) == (400, f"{name} is a whole number from "), wrong
            assert len(text) < 200


def test_live_frames_come_every_second_and_bring_new_results(
    own_gateway: tuple[GatewayProcess, Caller, int],
) -> None:
    _, caller, port = own_gateway
    with caller.listen() as stream:
        assert stream.headers.get_content_type() == "text/event-stream"
        (first,) = frames(stream, 1)
        publish(port, [("sensors/a", b'{"v": 5, "t": 1700000150000}')])
        later = frames(stream, 3)
    assert [frame["number"] for frame in later] == [first["number"] + n for n in (1, 2, 3)]
    assert [result["start_ms"] for frame in later for result in frame["results"]] == [1700000040000]


def test_listeners_are_bounded_and_a_place_is_free_again_when_one_leaves(
    running: tuple[GatewayProcess, Caller, int],
) -> None:
    caller = running[1]
    with ExitStack() as open_streams:
        for _ in range(MAX_LISTENERS):
            stream = open_streams.enter_context(caller.listen())
            assert stream.readline().startswith(b"retry")
        assert caller.ask("/api/live")[0] == 503
        assert caller.ask("/api/state")[0] == 200

    def one_more() -> bool:
        with caller.listen() as stream:
            return stream.status == 200

    wait_until(one_more, "a place")


def test_a_page_under_a_foreign_name_learns_nothing(running: tuple[GatewayProcess, Caller, int]) -> None:
    caller = running[1]
    for host in ("evil.example", "evil.example:8080", "127.0.0.1.evil.example", ""):
        assert caller.ask("/api/state", Host=host)[0] == 421, host
    for host in ("localhost:8080", "LOCALHOST", "127.0.0.1", "[::1]:8080", "192.168.1.7"):
        assert caller.ask("/api/state", Host=host)[0] == 200, host


def test_every_answer_keeps_other_sites_and_inline_scripts_out(
    running: tuple[GatewayProcess, Caller, int],
) -> None:
    for path in ("/", "/metrics", "/api/state", "/nowhere", "/healthz"):
        _, _, headers = running[1].ask(path, Origin="https://evil.example")
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert not [name for name in headers if name.lower().startswith("access-control")]


def test_nothing_can_be_changed_and_no_other_file_be_read(
    running: tuple[GatewayProcess, Caller, int],
) -> None:
    caller = running[1]
    for path in ("/", "/api/state", "/metrics"):
        assert caller.ask(path, "POST")[0] == 405
    for path in ("/assets/..%2fserver.py", "/assets/../server.py", "/assets/server.py"):
        assert caller.ask(path)[0] == 404


def test_assets_are_not_sent_twice(running: tuple[GatewayProcess, Caller, int]) -> None:
    caller = running[1]
    status, _, headers = caller.ask("/assets/uPlot.min.css")
    assert status == 200
    assert caller.ask("/assets/uPlot.min.css", If_None_Match=headers["etag"])[0] == 304


def test_with_a_token_only_health_is_open_and_the_page_asks_for_it(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")
    settings = {"listen": f"127.0.0.1:{free_port()}", "token_file": "token", "hosts": ["gateway.lan"]}
    config = gateway_config(tmp_path, "mqtt://127.0.0.1:9", http=settings)
    with GatewayProcess(config) as gateway:
        caller = Caller(config)
        wait_until(lambda: gateway.get("/healthz"), gateway.log())
        assert caller.ask("/readyz")[0] == 503
        for path in ("/", "/api/state", "/api/live", "/metrics"):
            assert caller.ask(path)[0] == 401, path
            assert caller.ask(path, Authorization="Bearer " + TOKEN[:-1])[0] == 401
        assert caller.ask("/api/state", Authorization=f"Bearer {TOKEN}")[0] == 200
        assert caller.ask("/api/state", Authorization=f"Bearer {TOKEN}", Host="gateway.lan:80")[0] == 200

        status, _, headers = caller.ask("/", Accept="text/html,*/*")
        assert (status, headers["location"]) == (303, "/login")
        status, _, headers = caller.ask("/login", "POST", "token=wrong")
        assert (headers["location"], "set-cookie" in headers) == ("/login?wrong", False)
        status, _, headers = caller.ask("/login", "POST", f"token={TOKEN}")
        cookie = headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert TOKEN not in cookie
        assert caller.ask("/api/state", Cookie=cookie.partition(";")[0])[0] == 200
        assert caller.ask("/api/state", Cookie="gateway_session=x")[0] == 401
        assert TOKEN not in gateway.log()


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"listen": "0.0.0.0:8080"}, "can be reached from other machines, and there is no token"),
        ({"listen": "gateway.lan:8080"}, "can be reached from other machines, and there is no token"),
        ({"token": "short"}, "is shorter than 16 characters"),
    ],
)
def test_an_open_door_is_refused(tmp_path: Path, settings: dict[str, Any], complaint: str) -> None:
    config = gateway_config(tmp_path, "embedded", http=settings)
    with pytest.raises(ConfigError) as error:
        load_config(config)
    assert complaint in "\n".join(error.value.problems)


def test_a_stop_does_not_wait_for_those_who_listen(tmp_path: Path) -> None:
    config = gateway_config(tmp_path, "mqtt://127.0.0.1:9")
    with GatewayProcess(config) as gateway:
        wait_until(lambda: gateway.get("/healthz"), gateway.log())
        with Caller(config).listen() as stream:
            stream.readline()
            assert gateway.stop() == 0
