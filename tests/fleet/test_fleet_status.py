"""`gateway fleet status` says how each gateway is, from status and audit records alone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.cli.fleet_page import page
from gateway.core.sequence_sets import Run
from gateway.fleet.board import Board, GatewayState
from gateway.flow.dropped_ranges import DroppedRange
from gateway.wire.audit_record import AuditRecord, Exempt, StreamClaim, audit_messages
from tests.conftest import MosquittoFactory
from tests.support.commands import gateway
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.publishing import publish

NOON_MS = 1_790_000_000_000


def record(time_ms: int, open_now: int = 0, name: str = "g1", **more: Any) -> AuditRecord:
    buffer = {"pending": open_now, "syncing": 0, "synced": 50}
    return AuditRecord(name, "s", time_ms, buffer, more.pop("claims", ()), **more)


def state_of(board: Board, now_ms: int = NOON_MS) -> GatewayState:
    (one,) = board.states(now_ms)
    return one


def test_a_gateway_is_complete_until_its_last_record_with_nothing_open() -> None:
    board = Board()
    board.take_audit(record(NOON_MS - 120_000), NOON_MS - 120_000)
    board.take_audit(record(NOON_MS - 60_000, open_now=600), NOON_MS - 60_000)
    board.take_audit(record(NOON_MS, open_now=300), NOON_MS)
    one = state_of(board)
    assert (one.complete_until_ms, one.lag_ms, one.open) == (NOON_MS - 120_000, 120_000, 300)
    assert one.empty_in_s == 60  # 300 in a minute, and 300 are left
    assert one.alarms == ()


def test_nothing_is_claimed_of_a_gateway_that_was_never_without_open_events() -> None:
    board = Board()
    board.take_audit(record(NOON_MS - 60_000, open_now=100), NOON_MS - 60_000)
    board.take_audit(record(NOON_MS, open_now=200), NOON_MS)
    one = state_of(board)
    assert (one.complete_until_ms, one.lag_ms, one.empty_in_s) == (None, None, None)
    assert one.alarms == ("falls behind",)


def test_what_is_wrong_is_an_alarm() -> None:
    board = Board()
    lost = StreamClaim(
        "a", 1, 50, (Exempt("disk_full", Run(1, 20)), Exempt("failed", Run(30, 31), kept=True))
    )
    shed = (DroppedRange("queue_full", "a", 1, 5, 7),)
    board.take_status("g1", b'{"state": "offline", "version": "0.9"}')
    told = record(NOON_MS - 600_000, claims=(lost,), shed=shed)._replace(buffer={"failed": 2})
    for _ in range(2):  # claims are made again
        board.take_audit(told, NOON_MS - 590_000)
    one = state_of(board)
    assert one.alarms == (
        "offline",
        "silent",
        "2 failed",
        "20 lost: disk_full",
        "7 not taken in: queue_full",
        "clock",
    )
    assert (one.version, one.clock_ms) == ("0.9", -10_000)


def test_an_older_record_and_an_unreadable_status_change_nothing_else() -> None:
    board = Board()
    board.take_audit(record(NOON_MS, open_now=1), NOON_MS)
    board.take_audit(record(NOON_MS - 1000), NOON_MS)
    board.take_status("g1", b"\xff")
    board.take_status("g2", b"")
    one = state_of(board)
    assert (one.open, one.complete_until_ms, one.state) == (1, None, "unreadable")


def test_a_status_with_numbers_is_enough() -> None:
    board = Board()
    status = {
        "state": "online",
        "version": "1",
        "time_ms": NOON_MS,
        "pending": 90,
        "oldest_pending_ms": NOON_MS - 30_000,
        "failed": 3,
        "drain": {"state": "growing", "empty_in_s": None},
        "clock": {"state": "holdover"},
        "problems": ["the cloud broker refuses the password"],
        "alarms": 2,
    }
    board.take_audit(record(NOON_MS - 40_000), NOON_MS - 40_000)
    board.take_status("g1", orjson.dumps(status))
    one = state_of(board)
    assert (one.open, one.complete_until_ms, one.told_ms) == (90, NOON_MS - 30_000, NOON_MS)
    assert (one.clock, one.empty_in_s) == ("holdover", None)
    assert one.alarms == (status["problems"][0], "2 of its windows", "3 failed", "falls behind")  # type: ignore[index]
    board.take_status("g1", orjson.dumps(status | {"pending": 0, "drain": {"empty_in_s": 0.0}}))
    assert state_of(board).complete_until_ms == NOON_MS
    assert board.waits_for == []


def test_numbers_stay_known_when_the_last_will_replaces_the_status() -> None:
    board = Board()
    board.take_status("g1", orjson.dumps({"state": "online", "time_ms": 1000, "pending": 7}))
    board.take_status("g1", b'{"state": "offline"}')
    (one,) = board.states(2000)
    assert (one.state, one.open, one.alarms) == ("offline", 7, ("offline",))


@pytest.mark.parametrize(
    ("facts", "configuration", "alarm"),
    [
        ({"config": {"version": "12", "remote_version": "12", "remote_state": "in_use"}}, "12", None),
        ({"config": {"hash": "ab12"}, "certificate_days": 31.5}, "ab12", None),
        (
            {"config": {"hash": "ab12", "remote_version": "13", "remote_state": "taken_back"}},
            "ab12",
            "configuration 13 is taken back",
        ),
        ({"certificate_days": 12.2}, None, "a certificate expires in 12 days"),
        ({"certificate_days": -1.0}, None, "a certificate has expired"),
    ],
)
def test_what_a_rollout_left_behind_is_shown(
    facts: dict[str, object], configuration: str | None, alarm: str | None
) -> None:
    board = Board()
    board.take_status("g1", orjson.dumps({"state": "online"} | facts))
    one = state_of(board)
    assert (one.configuration, one.alarms) == (configuration, (alarm,) if alarm else ())


def test_further_facts_of_a_status_are_passed_on() -> None:
    board = Board()
    board.take_status("g1", b'{"state": "online", "version": "1", "config": "abc", "certificate_days": 12}')
    assert state_of(board).more == {"config": "abc", "certificate_days": 12}
    assert board.waits_for == ["g1"]


def test_five_hundred_gateways_are_shown(mosquitto: MosquittoFactory) -> None:
    """Their status has the numbers: an audit record would tell of a wrong clock where the machine is slow."""
    broker = mosquitto(["max_queued_messages 10000"])
    now_ms = time.time_ns() // 1_000_000
    names = [f"plant-{n}" for n in range(500)]
    told = {"state": "online", "version": "1.2", "time_ms": now_ms}
    publish(
        broker.port,
        [
            (f"gateway/{name}/status", orjson.dumps(told | {"pending": 5 if name == "plant-7" else 0}))
            for name in names
        ],
        retain=True,
    )
    done = gateway("fleet", "status", "--url", broker.url, "--json", "--for", "20s")
    found = {one["gateway"]: one for one in json.loads(done.stdout)["gateways"]}
    assert done.returncode == 0 and found.keys() == {*names}
    assert {one["complete_until_ms"] for name, one in found.items() if name != "plant-7"} == {now_ms}
    assert (found["plant-7"]["open"], found["plant-7"]["complete_until_ms"]) == (5, None)
    table = gateway("fleet", "status", "--url", broker.url, "--for", "20s")
    assert "plant-499" in table.stdout and "500 gateways, 0 with alarms; not complete" in table.stdout


def test_a_retained_audit_record_is_enough_for_a_gateway_of_an_earlier_version(
    mosquitto: MosquittoFactory,
) -> None:
    broker = mosquitto([])
    now_ms = time.time_ns() // 1_000_000
    publish(
        broker.port,
        [
            ("gateway/g1/status", b'{"state": "online", "version": "0.8"}'),
            *(("gateway/g1/audit", payload) for payload in audit_messages(record(now_ms))),
        ],
        retain=True,
    )
    done = gateway("fleet", "status", "--url", broker.url, "--json", "--for", "20s")
    (one,) = json.loads(done.stdout)["gateways"]
    assert (one["gateway"], one["open"], one["complete_until_ms"]) == ("g1", 0, now_ms)


def test_an_offline_gateway_and_an_empty_broker_exit_with_1(mosquitto: MosquittoFactory) -> None:
    broker = mosquitto([])
    nobody = gateway("fleet", "status", "--url", broker.url, "--for", "1500ms")
    assert nobody.returncode == 1 and "no gateway has left a status" in nobody.stdout
    publish(broker.port, [("gateway/g1/status", '{"state": "offline"}')], retain=True)
    done = gateway("fleet", "status", "--url", broker.url, "--for", "2s")
    assert done.returncode == 1 and "1 of which nothing is known" in done.stdout


def test_a_page_has_a_row_for_each_gateway_and_runs_nothing_that_a_gateway_says() -> None:
    board = Board()
    board.take_status(
        "g1", orjson.dumps({"state": "online", "version": "1", "time_ms": NOON_MS, "pending": 0})
    )
    board.take_status("<script>", b'{"state": "offline", "version": "</td><b>"}')
    text = page(board.states(NOON_MS), NOON_MS, 10.0, "no connection")
    assert text.count("<tr>") == 3 and 'content="10"' in text
    assert "<script" not in text and "<b>" not in text and "&lt;script&gt;" in text
    assert '<p class="bad">no connection</p>' in text
    assert "refresh" not in page([], NOON_MS, None)


def test_a_page_follows_the_fleet_until_it_is_stopped(mosquitto: MosquittoFactory, tmp_path: Path) -> None:
    broker, file = mosquitto([]), tmp_path / "fleet.html"
    publish(broker.port, [("gateway/g1/status", '{"state": "offline"}')], retain=True)
    words = ["fleet", "status", "--url", broker.url, "--page", str(file), "--every", "200ms"]
    with running(words) as process:
        wait_until(lambda: file.exists() and "g1" in file.read_text(), "the page")
        publish(broker.port, [("gateway/g2/status", '{"state": "online"}')], retain=True)
        wait_until(lambda: "g2" in file.read_text(), "another gateway")
        broker.stop()
        wait_until(lambda: "no connection to" in file.read_text(), "the loss is said")
        process.terminate()
        assert process.wait(30) == 0


@contextmanager
def running(words: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-m", "gateway", *words], stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_running_gateway_is_complete_as_of_its_audit(mosquitto: MosquittoFactory, tmp_path: Path) -> None:
    local, cloud = mosquitto([]), mosquitto([])
    more = {"cloud": {"url": cloud.url, "audit": "1s"}}
    with GatewayProcess(gateway_config(tmp_path, local.url, **more)) as running:  # type: ignore[arg-type]
        running.wait_ready()
        publish(local.port, [(f"sensors/d{n % 7}", f'{{"v": {n}, "t": {n}}}') for n in range(500)])
        wait_until(lambda: running.metric('gateway_buffer_events{status="pending"}') == 0, "the drain")
        began_ms = time.time_ns() // 1_000_000
        done = gateway("fleet", "status", "--url", cloud.url, "--json", "--for", "30s")
        (one,) = json.loads(done.stdout)["gateways"]
        assert done.returncode == 0
        assert (one["gateway"], one["state"], one["open"], one["alarms"]) == ("g1", "online", 0, [])
        assert one["complete_until_ms"] > began_ms - 2000 and abs(one["clock_ms"] or 0) < 2000
