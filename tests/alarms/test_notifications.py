"""Notifications of alarms: to a real HTTP receiver and a real SMTP server, over outages and `kill -9`."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.header import decode_header, make_header
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller

from gateway.alarms.apprise_sender import AppriseSender
from gateway.alarms.notices import Notice, NoticeQueue, NotifyTarget, many_notices, one_notice
from gateway.alarms.states import AlarmEvent
from gateway.buffer import notification_table
from gateway.buffer.alarm_table import AlarmRow
from gateway.config import load_config
from gateway.core.errors import ConfigError, NotifyError
from gateway.core.events import Priority
from tests.conftest import MosquittoFactory
from tests.http.test_alarms import HOT, Plant
from tests.support.buffers import EPOCH_MS, opened
from tests.support.commands import gateway as gateway_command
from tests.support.gateways import HOST, GatewayProcess, gateway_config, wait_until
from tests.support.places import DOCS
from tests.support.ports import free_port

SECRET = "topsecret-word"  # noqa: S105
NEWS = Notice("g1: ALARM hot tank", "mean 31, limit 30", is_good=False)


class Receiver:
    """What a web hook got; `answer` is the status that it answers with."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.tries = 0
        self.answer = 200

    def lines(self) -> list[str]:
        """Titles of the messages about one alarm, lines of those about many."""
        found: list[str] = []
        for one in list(self.got):
            many = one["title"].endswith("changes of alarms")
            found += one["message"].splitlines() if many else [one["title"]]
        return found


@contextmanager
def receiver(port: int) -> Iterator[Receiver]:
    made = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.tries += 1
            if made.answer == 200:
                made.got.append(json.loads(body))
            self.send_response(made.answer)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer((HOST, port), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Inbox:
    """Takes mail, as aiosmtpd calls it."""

    def __init__(self) -> None:
        self.mails: list[tuple[str, str]] = []

    async def handle_DATA(self, _server: object, _session: object, envelope: Any) -> str:  # noqa: N802
        mail = message_from_bytes(envelope.content)
        text = next(part for part in mail.walk() if part.get_content_maintype() == "text")
        body = text.get_payload(decode=True)
        assert isinstance(body, bytes)
        self.mails.append((str(make_header(decode_header(mail["Subject"]))), body.decode()))
        return "250 OK"


def plant_config(folder: Path, broker_url: str, url: str, **more: Any) -> Path:
    (folder / "url").write_text(url + "\n")
    return gateway_config(
        folder, broker_url, windows=[HOT], notify=[{"url_file": "url", "name": "hook", **more}]
    )


def test_a_message_goes_to_a_web_hook_and_by_mail() -> None:
    port, inbox = free_port(), Inbox()
    with receiver(port) as hook:
        AppriseSender(f"json://{HOST}:{port}/hook").send(NEWS)
    assert (hook.got[0]["title"], hook.got[0]["message"]) == (NEWS.title, NEWS.body)
    assert hook.got[0]["type"] == "warning"
    server = Controller(inbox, hostname=HOST, port=free_port())
    server.start()
    try:
        url = f"mailto://{HOST}:{server.port}/?from=gateway@plant.example&to=anna@plant.example&mode=insecure"
        AppriseSender(url).send(NEWS)
    finally:
        server.stop()
    ((subject, text),) = inbox.mails
    assert subject == NEWS.title
    assert NEWS.body in text


def test_what_fails_is_told_without_the_secret(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    sender = AppriseSender(f"json://user:{SECRET}@{HOST}:{port}/{SECRET}")
    with pytest.raises(NotifyError, match="no connection") as refused:
        sender.send(NEWS)
    with receiver(port) as hook:
        hook.answer = 503
        with pytest.raises(NotifyError, match="status 503"):
            sender.send(NEWS)
    assert SECRET not in caplog.text + str(refused.value)


@pytest.mark.parametrize("url", ["nonsense", "nosuch://x", "tgram://", f"mailto://{SECRET}"])
def test_a_url_of_the_wrong_form_is_found_by_check(tmp_path: Path, url: str) -> None:
    config = plant_config(tmp_path, "embedded", url)
    with pytest.raises(ConfigError) as found:
        load_config(config)
    text = "\n".join(found.value.problems)
    assert "notify[0]" in text
    assert "Apprise cannot read" in text
    assert SECRET not in text


def test_the_urls_in_the_docs_are_sound() -> None:
    block = (DOCS / "alarms.md").read_text().split("```text\n")[1].split("```")[0]
    urls = block.splitlines()
    assert len(urls) == 5
    for url in urls:
        AppriseSender(url)


def test_a_test_message_goes_to_each_target(tmp_path: Path) -> None:
    ports = free_port(), free_port()
    urls = [{"url": f"json://{HOST}:{port}/"} for port in ports]
    config = gateway_config(tmp_path, "embedded", notify=urls)
    with receiver(ports[0]) as hook:
        done = gateway_command("alarms", "test", "-c", config)
    assert (done.returncode, hook.got[0]["title"]) == (1, "g1: test")
    assert (done.stdout, done.stderr) == ("json-1: sent\n", "json-2: no connection to the service\n")


def test_a_target_needs_one_url(tmp_path: Path) -> None:
    config = gateway_config(tmp_path, "embedded", notify=[{"priority": "high"}])
    with pytest.raises(ConfigError) as found:
        load_config(config)
    assert "give url_file or url" in "\n".join(found.value.problems)


def test_names_of_targets_are_no_secrets(tmp_path: Path) -> None:
    urls = [f"json://{SECRET}@{HOST}/", f"json://{HOST}/{SECRET}", f"ntfy://{SECRET}"]
    config = gateway_config(tmp_path, "embedded", notify=[{"url": url} for url in urls])
    assert [each.name for each in load_config(config).notify_targets] == ["json-1", "json-2", "ntfy-1"]


def alarm(state: str = "active", priority: int = Priority.HIGH) -> AlarmRow:
    details = {"value": 31.0, "value_name": "mean", "limit": 30.0, "cleared_by": "anna"}
    return AlarmRow("hot", "tank", state, priority, EPOCH_MS, EPOCH_MS + 5000, details)


def test_only_those_who_want_an_alarm_are_told(tmp_path: Path) -> None:
    targets = [NotifyTarget("all", "", Priority.LOW), NotifyTarget("few", "", Priority.CRITICAL)]
    queue = NoticeQueue(targets)
    with opened(tmp_path / "events.db") as store:
        with store.transaction():
            queue(store, alarm(), AlarmEvent.RAISED)
            queue(store, alarm(priority=Priority.CRITICAL), AlarmEvent.OVER)
            queue(store, alarm("acknowledged"), AlarmEvent.ACKNOWLEDGED)
            queue(store, alarm("acknowledged"), AlarmEvent.REPEATED)
        with store.transaction():
            assert len(store.notifications.take("all", 10)) == 2
            assert len(store.notifications.take("few", 10)) == 1
            assert store.notifications.take("few", 10) == []  # on its way


def test_what_was_on_its_way_at_a_crash_says_so(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        with store.transaction():
            for number in range(3):
                store.notifications.add("hook", b"%d" % number, EPOCH_MS)
            store.notifications.add("former", b"0", EPOCH_MS)
            store.notifications.take("hook", 1)
        with store.transaction():
            assert store.notifications.restart(["hook"], 0) == (3, 1)
            found = store.notifications.take("hook", 10)
            told = [(one.payload, one.uncertain) for one in found]
            assert told == [
                ("0", True),
                ("1", False),
                ("2", False),
            ]
            store.notifications.put_back(found)
            assert store.notifications.take("hook", 10) == found


def test_their_number_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notification_table, "MAX_WAITING", 50)
    with opened(tmp_path / "events.db") as store, store.transaction():
        given_up = sum(store.notifications.add("hook", b"%d" % number, EPOCH_MS) for number in range(250))
        left = store.notifications.take("hook", 1000)
        assert given_up + len(left) == 250
        assert left[-1].payload == "249"
        assert len(left) <= 150


def test_the_words_of_a_message() -> None:
    said = {"what": "raised", "window": "hot", "key": "tank", "since_ms": EPOCH_MS, "at_ms": EPOCH_MS}
    said |= {"value": 31.25, "value_name": "mean", "limit": 30.0, "cleared_by": None}
    made = one_notice("g1", said, uncertain=False)
    assert made.title == "g1: ALARM hot tank"
    assert made.body.startswith("mean 31.25, limit 30\nsince 20")
    assert one_notice("g1", said | {"what": "over"}, uncertain=False).is_good
    assert "may have been sent before" in one_notice("g1", said, uncertain=True).body
    assert "cleared by anna" in one_notice("g1", said | {"what": "cleared", "cleared_by": "anna"}, False).body
    many = many_notices("g1", [(said, False)] * 7)
    assert (many.title, len(many.body.splitlines())) == ("g1: 7 changes of alarms", 7)


def test_alarms_of_an_outage_are_neither_lost_nor_sent_twice_over_kill_9(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    broker, port = mosquitto(), free_port()
    config = plant_config(tmp_path, broker.url, f"json://user:{SECRET}@{HOST}:{port}/")
    with GatewayProcess(config) as gateway:
        plant = Plant(config, gateway, broker.port)
        gateway.wait_ready()
        assert gateway.metric('gateway_notifications_total{outcome="sent"}') == 0
        names = [f"tank{number:02}" for number in range(12)]
        plant.measure(**dict.fromkeys(names[:6], 31))
        wait_until(lambda: gateway.metric("gateway_notifications_waiting") == 6, "they wait")
        wait_until(lambda: gateway.metric("gateway_notification_failures_total") >= 1, "an attempt fails")
        assert gateway.metric('gateway_notify_target_failing{target="hook"}') == 1
        gateway.kill()
        gateway.start()
        gateway.wait_ready()
        plant.measure(**dict.fromkeys(names[6:], 31))
        wait_until(lambda: gateway.metric("gateway_notifications_waiting") == 12, "all wait")
        with receiver(port) as hook:
            wait_until(lambda: gateway.metric("gateway_notifications_waiting") == 0, "all are sent")
            lines = hook.lines()
            assert sorted(line.split("hot ")[1].split()[0] for line in lines) == names
            assert all("ALARM" in line for line in lines)
            plant.measure(tank00=20)
            wait_until(lambda: len(hook.lines()) == 13, "one is over")
            assert hook.got[-1]["title"] == "g1: over hot tank00"
            assert hook.got[-1]["type"] == "success"
        assert gateway.stop() == 0
        assert gateway.metric('gateway_notify_target_failing{target="hook"}') == 0
        assert SECRET not in gateway.log()
        assert "notifications to hook wait: no connection" in gateway.log()
