"""Messages as they come in, with what the gateway made of each."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml

from gateway.buffer.reader import Reader
from gateway.core.events import Kind
from gateway.http import tail
from gateway.http.tail import MAX_TAILS, _Tail
from tests.support.buffers import append, event, opened
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.ports import free_port
from tests.support.publishing import publish


class Tails:
    """Asks one gateway for messages."""

    def __init__(self, config: Path, port: int) -> None:
        self.address = yaml.safe_load(config.read_text())["http"]["listen"]
        self.port = port

    def get(self, path: str, **query: object) -> tuple[int, Any]:
        with closing(HTTPConnection(self.address, timeout=30)) as connection:
            connection.request("GET", f"/api/{path}?{urlencode(query)}")
            answer = connection.getresponse()
            text = answer.read().decode()
        is_json = answer.headers.get_content_type() == "application/json"
        return answer.status, json.loads(text) if is_json else text

    @contextmanager
    def follow(self, **query: object) -> Iterator[HTTPResponse]:
        with closing(HTTPConnection(self.address, timeout=30)) as connection:
            connection.request("GET", f"/api/messages?{urlencode(query)}")
            with connection.getresponse() as stream:
                yield stream


def frame(stream: HTTPResponse) -> dict[str, Any]:
    while line := stream.readline():
        if line.startswith(b"data: "):
            found: dict[str, Any] = json.loads(line[6:])
            return found
    raise AssertionError("the stream ended")


@pytest.fixture(scope="module")
def tails(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tails]:
    port = free_port()
    local = {"url": "embedded", "listen": f"127.0.0.1:{port}"}
    config = gateway_config(tmp_path_factory.mktemp("tail"), "embedded", local=local)
    messages = [
        ("sensors/a", b'{"v": 21.5, "t": 1700000000000}'),
        ("sensors/b", b"{"),
        ("sensors/c", b"\xff\xfe\x00binary"),
        ("sensors/a", b'{"v": 22, "t": 1700000090000}'),
    ]
    with GatewayProcess(config) as gateway:
        gateway.wait_ready()
        publish(port, messages)
        wait_until(lambda: gateway.metric('gateway_messages_total{outcome="buffered"}') == 4, "all")
        yield Tails(config, port)


def test_the_last_messages_come_with_readings_event_time_and_its_reason(tails: Tails) -> None:
    status, found = tails.get("messages", filter="sensors/a", once="true")
    first, last = found["messages"]
    assert (status, last["route"], last["readings"][0]["fields"]["v"]) == (200, "sensors", 22)
    assert (first["event_time_ms"], first["payload"]) == (1700000000000, '{"v": 21.5, "t": 1700000000000}')
    assert "trusted" in first["reason"]


def test_what_cannot_be_read_is_shown_with_its_problem(tails: Tails) -> None:
    broken, binary = tails.get("messages", filter="sensors/+", once="true")[1]["messages"][1:3]
    assert broken["problem"]
    assert broken["readings"] == []
    assert "cannot be read" in broken["reason"]
    assert "payload" not in binary
    assert binary["bytes"] == 9


def test_the_last_messages_of_a_device_are_found_however_old_they_are(tails: Tails) -> None:
    found = tails.get("messages", device="a", last=5, once="true")[1]["messages"]
    assert [message["readings"][0]["fields"]["v"] for message in found] == [21.5, 22]
    assert tails.get("messages", device="a", last=1)[1]["messages"] == found[1:]
    assert tails.get("messages", device="nobody")[1]["messages"] == []


def test_one_message_is_explained_down_to_its_windows(tails: Tails) -> None:
    number = tails.get("messages", filter="sensors/a", once="true")[1]["messages"][0]["id"]
    status, told = tails.get("explain", id=number)
    assert (status, told["topic"]) == (200, "sensors/a")
    assert [(share["window"], share["key"]) for share in told["windows"]] == [("minute", "a")]
    assert tails.get("explain", id=99_999)[0] == 404
    assert tails.get("explain", id="x")[0] == 400


def test_new_messages_come_by_themselves_and_only_those_of_the_filter(tails: Tails) -> None:
    with tails.follow(filter="other/#", last=5) as stream:
        assert frame(stream) == {"messages": [], "skipped": 0}
    with tails.follow(filter="sensors/new", last=0) as stream:
        assert frame(stream)["messages"] == []
        publish(tails.port, [("sensors/old", b'{"v": 1}'), ("sensors/new", b'{"v": 2}')])
        (came,) = frame(stream)["messages"]
    assert (came["topic"], came["readings"][0]["fields"]) == ("sensors/new", {"v": 2})
    assert came["reason"].startswith("the arrival, because there is no usable time")


def test_tails_are_bounded_and_a_place_is_free_again(tails: Tails) -> None:
    with ExitStack() as open_ones:
        for _ in range(MAX_TAILS):
            frame(open_ones.enter_context(tails.follow()))
        assert tails.get("messages")[0] == 503
        assert tails.get("messages", once="true")[0] == 200

    def one_more() -> bool:
        with tails.follow() as stream:
            return stream.status == 200

    wait_until(one_more, "a place")


@pytest.mark.parametrize("query", [{"filter": "a/#/b"}, {"last": "x"}, {"last": "51"}])
def test_what_cannot_be_followed_is_refused(tails: Tails, query: dict[str, str]) -> None:
    assert tails.get("messages", **query)[0] == 400


def test_what_is_too_much_is_skipped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "LOOKED_AT", 100)
    monkeypatch.setattr(tail, "SHOWN", 10)
    with opened(tmp_path / "events.db") as store:
        append(store, [event("a/b", b"1") for _ in range(30)])
        append(store, [event("gateway/g1/aggregates/w/a", b"{}", kind=Kind.AGGREGATE)])
        with closing(Reader(tmp_path / "events.db")) as reader:
            one = _Tail("a/#", 0)
            ids, skipped = one.new(reader)
            assert (ids, skipped) == ([*range(21, 31)], 20)
            assert one.new(reader) == ([], 0)
            append(store, [event("a/c", b"1") for _ in range(250)])
            ids, skipped = one.new(reader)
            assert (len(ids), ids[-1], skipped) == (10, 281, 151 + 90)  # not looked at, and not shown


def test_a_look_at_a_busy_buffer_takes_no_time_that_counts(tmp_path: Path) -> None:
    """A second's look, at ten thousand new messages of which none is wanted."""
    with opened(tmp_path / "events.db") as store:
        append(store, [event(f"a/{n % 500}", b"x" * 200) for n in range(10_000)])
    with closing(Reader(tmp_path / "events.db")) as reader:
        _Tail("none/#", 0).new(reader)  # the file is in memory, and names are known
        began_s = time.process_time()
        assert _Tail("none/#", 0).new(reader) == ([], 0)
        assert time.process_time() - began_s < 0.25
