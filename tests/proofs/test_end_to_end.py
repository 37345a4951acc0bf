"""Devices → Mosquitto → gateway → Mosquitto → `gateway receive`: every reading once, every aggregate right.

GATEWAY_SERIES=FILE.csv (columns timestamp,value; UTC) runs the main test on a series of one's own.
"""

from __future__ import annotations

import csv
import json
import math
import os
import random
import socket
import sqlite3
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import MosquittoFactory
from tests.support import commands
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.ports import free_port
from tests.support.publishing import Watcher, publish, settle

HOUR_MS = 3_600_000
SERIES_ROUTE = {
    "name": "sensors",
    "topic": "site/{device}/state",
    "fields": {"value": "reading.value"},
    "timestamp_path": "time",
    "timestamp": "trusted",
}
HOURLY = {
    "name": "hourly",
    "route": "sensors",
    "field": "value",
    "key": "{device}",
    "window": {"type": "tumbling", "size": "1h"},
}


def generated_series() -> list[tuple[datetime, float]]:
    """Two months of a slow wave, irregular, with silences of days."""
    chance = random.Random(4)
    at, rows = datetime(2024, 2, 20, tzinfo=UTC), []
    for number in range(3000):
        gap_min = chance.choice([1, 3, 10, 17, 59, 60, 61]) if chance.random() > 0.002 else 60 * 70
        at += timedelta(minutes=gap_min)
        rows.append((at, round(20 + 8 * math.sin(number / 40) + chance.gauss(0, 1), 8)))
    return rows


def series() -> list[tuple[datetime, float]]:
    path = os.environ.get("GATEWAY_SERIES")
    if path is None:
        return generated_series()
    with Path(path).open() as file:
        return [
            (datetime.fromisoformat(row["timestamp"]).replace(tzinfo=UTC), float(row["value"]))
            for row in csv.DictReader(file)
        ]


def hourly_by_sqlite(rows: list[tuple[datetime, float]]) -> dict[int, dict[str, float]]:
    """The independent computation: start of the hour → count, sum, mean, min and max."""
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE reading (t INTEGER, v REAL)")
    db.executemany("INSERT INTO reading VALUES (?, ?)", [(round(t.timestamp() * 1000), v) for t, v in rows])
    found = db.execute(
        "SELECT t / 3600000 * 3600000, count(*), sum(v), avg(v), min(v), max(v) FROM reading GROUP BY 1"
    ).fetchall()
    db.close()
    names = ("count", "sum", "mean", "min", "max")
    return {start: dict(zip(names, numbers, strict=True)) for start, *numbers in found}


def receive(cloud_url: str, output: Path, *more: str, count: int = 0) -> dict[str, object]:
    """Run `gateway receive --once` until the output has `count` events; return its summary.

    Without a count it leaves behind a session, in which the broker queues. A second without messages may come
    before the last one where the machine is busy.
    """
    while True:
        options = ["--url", cloud_url, "--output", output, "--once", "--idle", "1s" if count else "100ms"]
        done = commands.gateway("receive", *options, "--json", *more)
        assert done.returncode == 0, done.stderr
        if len(received_events(output)) >= count:
            return dict(json.loads(done.stdout))


def received_events(output: Path) -> list[dict[str, Any]]:
    """The events in the output, none where there is no output yet."""
    if not output.exists():
        return []
    return [json.loads(line) for line in output.read_text().splitlines()]


def drained(gateway: GatewayProcess, raw: int) -> bool:
    return (
        gateway.metric('gateway_events_appended_total{kind="raw"}') >= raw
        and gateway.metric('gateway_buffer_events{status="pending"}') == 0
        and gateway.metric('gateway_buffer_events{status="syncing"}') == 0
    )


@pytest.mark.parametrize(
    ("local_protocol", "cloud_protocol", "form"),
    [
        ("3.1.1", "5", "batch"),
        ("5", "5", "event"),
        pytest.param("3.1.1", "3.1.1", "event", marks=pytest.mark.slow),
    ],
)
def test_every_reading_arrives_once_and_the_hourly_aggregates_equal_an_independent_computation(
    mosquitto: MosquittoFactory, tmp_path: Path, local_protocol: str, cloud_protocol: str, form: str
) -> None:
    rows = series()
    local, cloud = mosquitto(["max_queued_messages 0"]), mosquitto(["max_queued_messages 0"])
    output = tmp_path / "received.ndjson"
    receive(cloud.url, output, "--protocol", cloud_protocol)  # leaves a session behind that queues
    config = gateway_config(
        tmp_path,
        local.url,
        local={"url": local.url, "protocol": local_protocol},
        cloud={"url": cloud.url, "format": form, "protocol": cloud_protocol},
        routes=[SERIES_ROUTE],
        windows=[HOURLY],
    )
    with GatewayProcess(config) as gateway, Watcher(local.port, "gateway/g1/aggregates/#") as dashboard:
        gateway.wait_ready()
        end = rows[-1][0] + timedelta(days=1)  # closes the last hour
        messages = [
            ("site/roof/state", json.dumps({"time": t.isoformat(), "reading": {"value": v}}))
            for t, v in [*rows, (end, 0.0)]
        ]
        publish(local.port, messages)
        wait_until(lambda: drained(gateway, len(messages)), "the drain")
        expected = hourly_by_sqlite(rows)
        wait_until(lambda: len(dashboard.messages) >= len(expected), "the local aggregates")
        assert gateway.stop() == 0
        assert not gateway.audit().problems
    count = len(messages) + len(expected)
    summary = receive(cloud.url, output, "--protocol", cloud_protocol, count=count)
    assert summary["gaps"] == []

    events = received_events(output)
    raw = [e["payload"]["reading"]["value"] for e in events if e["stream"] == "site/roof/state"]
    assert raw == [v for _, v in rows] + [0.0]  # each once, in order
    assert max(Counter(e["event_id"] for e in events).values()) == 1
    for source in (
        [e["payload"] for e in events if e["kind"] == "aggregate"],
        [json.loads(m.payload) for m in dashboard.messages],
    ):
        assert [a["start_ms"] for a in source] == sorted(expected)
        for aggregate in source:
            assert aggregate["end_ms"] - aggregate["start_ms"] == HOUR_MS
            result = {name: aggregate["result"][name] for name in ("count", "sum", "mean", "min", "max")}
            assert result == pytest.approx(expected[aggregate["start_ms"]], rel=1e-12)


def test_a_cloud_outage_loses_nothing_and_the_backlog_drains(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    saves_at_once = ["max_queued_messages 0", "autosave_on_changes true", "autosave_interval 1"]
    local, cloud = mosquitto(), mosquitto(saves_at_once, persistence=tmp_path)
    output = tmp_path / "received.ndjson"
    receive(cloud.url, output)
    with GatewayProcess(gateway_config(tmp_path, local.url, cloud.url)) as gateway:
        gateway.wait_ready()
        publish(local.port, numbered(0, 500))
        wait_until(lambda: drained(gateway, 500), "the first drain")
        settle(cloud.port)
        cloud.kill()
        publish(local.port, numbered(500, 1500))
        raw = 'gateway_events_appended_total{kind="raw"}'
        wait_until(lambda: gateway.metric(raw) == 1500, "taking in goes on without the cloud")
        assert gateway.metric('gateway_buffer_events{status="synced"}') < 1500
        cloud.start()
        wait_until(lambda: drained(gateway, 1500), "the second drain")
    receive(cloud.url, output, count=1500)
    numbers = Counter(e["payload"]["n"] for e in received_events(output) if e["kind"] == "raw")
    assert numbers == Counter(range(1500))


def test_a_restart_of_the_local_broker_and_of_the_gateway_keeps_the_session(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    local = mosquitto(
        ["autosave_interval 1", "autosave_on_changes true", "max_queued_messages 0"], persistence=tmp_path
    )
    with GatewayProcess(gateway_config(tmp_path, local.url)) as gateway:
        gateway.wait_ready()
        publish(local.port, numbered(0, 100))
        gateway.stop()
        publish(local.port, numbered(100, 200))  # queued for the gateway
        local.stop()
        local.start()
        gateway.start()
        raw = 'gateway_events_appended_total{kind="raw"}'
        wait_until(lambda: gateway.metric(raw) == 200, "what the broker had queued")
        assert [p["n"] for p in gateway.raw_payloads()] == list(range(200))


def test_what_cannot_be_read_is_kept_counted_and_stops_nothing(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    local, cloud = mosquitto(), mosquitto(["max_queued_messages 0"])
    output = tmp_path / "received.ndjson"
    receive(cloud.url, output)
    poison = [b"", b"\xff\xfe", b"{", b"null", b'{"v":null,"t":1700000000000}', b'{"v":NaN}', b"[" * 100_000]
    with GatewayProcess(gateway_config(tmp_path, local.url, cloud.url)) as gateway:
        gateway.wait_ready()
        publish(local.port, [("sensors/bad", payload) for payload in poison])
        publish(local.port, numbered(0, 10))
        wait_until(lambda: drained(gateway, len(poison) + 10), "the drain")
        assert gateway.metric('gateway_messages_total{outcome="buffered"}') == len(poison) + 10
        assert gateway.metric('gateway_undecoded_total{reason="json",route="sensors"}') >= 2
        assert gateway.get("/healthz") is not None
    receive(cloud.url, output, count=len(poison) + 10)
    bad = [e for e in received_events(output) if e["stream"] == "sensors/bad"]
    assert [e["sequence_num"] for e in bad] == list(range(1, len(poison) + 1))


def test_retained_replays_are_marked_or_ignored_as_the_route_says(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    local = mosquitto()
    publish(local.port, [("keep/a", b"1"), ("ignore/a", b"1")], retain=True)
    routes = [
        {"name": "keep", "topic": "keep/{device}", "decoder": "number"},
        {"name": "ignore", "topic": "ignore/{device}", "decoder": "number", "retained": "ignore"},
    ]
    config = gateway_config(tmp_path, local.url, routes=routes, windows=[])
    with GatewayProcess(config) as gateway:
        gateway.wait_ready()
        publish(local.port, [("keep/a", b"2"), ("ignore/a", b"2")])
        buffered = 'gateway_messages_total{outcome="buffered"}'
        wait_until(lambda: gateway.metric(buffered) == 3, "three of four")
        assert gateway.metric('gateway_messages_rejected_total{reason="retained"}') == 1
        gateway.stop()
        assert not gateway.audit().problems


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_retained_messages_are_stored_once_however_often_the_gateway_connects(
    mosquitto: MosquittoFactory, tmp_path: Path, protocol: str
) -> None:
    local = mosquitto()
    publish(local.port, [(f"keep/{number}", b"1") for number in range(100)], retain=True)
    config = gateway_config(
        tmp_path,
        local.url,
        local={"url": local.url, "protocol": protocol},
        routes=[{"name": "keep", "topic": "keep/{device}", "decoder": "number"}],
        windows=[],
    )
    buffered = 'gateway_messages_total{outcome="buffered"}'
    with GatewayProcess(config) as gateway:
        for run in range(1, 4):
            gateway.wait_ready()
            publish(local.port, [("keep/live", str(run))])
            wait_until(lambda run=run: gateway.metric(buffered) >= 100 + run, "what is new")
            gateway.stop()
            assert gateway.audit().messages["buffered"] == 100 + run
            gateway.start()


def test_the_status_topic_says_online_offline_and_speaks_after_a_kill(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    local = mosquitto()
    with (
        Watcher(local.port, "gateway/g1/status") as watcher,
        GatewayProcess(gateway_config(tmp_path, local.url)) as gateway,
    ):

        def states() -> list[str]:
            return [json.loads(m.payload)["state"] for m in watcher.messages]

        gateway.wait_ready()
        wait_until(lambda: states() == ["online"], "online")
        gateway.stop()
        wait_until(lambda: states() == ["online", "offline"], "offline after a stop")
        gateway.start()
        gateway.wait_ready()
        wait_until(lambda: states()[-1] == "online", "online again")
        gateway.kill()
        wait_until(lambda: states()[-1] == "offline", "the will")


def test_a_second_gateway_on_the_same_data_is_refused_with_the_process_at_work(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    local = mosquitto()
    config = gateway_config(tmp_path, local.url)
    with GatewayProcess(config) as gateway:
        gateway.wait_ready()
        command = [sys.executable, "-m", "gateway", "run", "-c", str(config)]
        second = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert second.returncode == 1
        assert f"process {gateway.pid}" in second.stderr
        assert gateway.get("/readyz") is not None


def numbered(start: int, end: int) -> list[tuple[str, bytes]]:
    return [
        (f"sensors/d{n % 10}", json.dumps({"n": n, "v": n % 7, "t": 1_700_000_000_000 + n}).encode())
        for n in range(start, end)
    ]


def test_a_route_over_everything_does_not_feed_on_the_gateways_own_output(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    local = mosquitto()
    everything = {"name": "sensors", "topic": "{all...}", "timestamp_path": "t", "timestamp": "trusted"}
    routes = [everything | {"timestamp_format": "unix_ms"}]
    window = {"name": "w", "route": "sensors", "field": "v", "window": {"type": "tumbling", "size": "1s"}}
    config = gateway_config(tmp_path, local.url, routes=routes, windows=[window])
    with GatewayProcess(config) as gateway:
        gateway.wait_ready()
        with Watcher(
            local.port, "gateway/g1/#"
        ) as output:  # it begins with what is retained: status and more
            readings = [json.dumps({"v": 1, "t": 1_700_000_000_000 + n * 100}) for n in range(101)]
            publish(local.port, [("a", reading) for reading in readings])
            wait_until(lambda: sum("/aggregates/" in m.topic for m in output.messages) == 10, "ten windows")
            own = 'gateway_messages_rejected_total{reason="own_topic"}'
            wait_until(lambda: gateway.metric(own) >= len(output.messages) > 10, "all of it came back")
        gateway.stop()
        found = gateway.audit()
        assert (found.messages["buffered"], found.appended["aggregate"]) == (101, 10)
        assert not found.problems


def test_the_embedded_broker_serves_devices_and_dashboards(tmp_path: Path) -> None:
    listen = f"127.0.0.1:{free_port()}"
    config = gateway_config(tmp_path, "embedded", local={"url": "embedded", "listen": listen})
    port = int(listen.rpartition(":")[2])
    with GatewayProcess(config) as gateway:
        gateway.wait_ready()
        with Watcher(port, "gateway/g1/aggregates/#") as dashboard:
            publish(port, numbered(0, 50))
            later = b'{"v": 0, "t": 1700000200000}'  # from every source: the watermark is their minimum
            publish(port, [(f"sensors/d{n}", later) for n in range(10)])
            wait_until(lambda: dashboard.messages, "an aggregate")
        assert gateway.stop() == 0
        assert [p["n"] for p in gateway.raw_payloads()[:50]] == list(range(50))


def test_large_payloads_travel_in_frames_of_bounded_size(mosquitto: MosquittoFactory, tmp_path: Path) -> None:
    local, cloud = mosquitto(), mosquitto(["max_queued_messages 0", "max_packet_size 2000000"])
    output = tmp_path / "received.ndjson"
    receive(cloud.url, output)
    chance = random.Random(1)
    noise = [
        b"n" + chance.randbytes(100_000).hex().encode() for _ in range(20)
    ]  # does not compress below half
    zeros = [b"z" * 700_000] * 20  # compresses to nothing, and would make one frame of 14 MB
    payloads = noise + zeros
    route = {"name": "blobs", "topic": "blobs/{device}", "decoder": "raw"}
    config = gateway_config(tmp_path, local.url, cloud.url, routes=[route], windows=[])
    with GatewayProcess(config) as gateway:
        gateway.wait_ready()
        publish(local.port, [("blobs/a", payload) for payload in payloads])
        wait_until(lambda: drained(gateway, len(payloads)), "the drain")
        assert gateway.metric("gateway_bridge_frames_total") > 10
        assert gateway.metric('gateway_link_failures_total{link="bridge-0"}') == 0
    receive(cloud.url, output, count=len(payloads))
    assert [e["payload"].encode() for e in received_events(output)] == payloads


def test_a_damaged_buffer_is_salvaged_at_the_start_and_an_alert_says_so(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    local = mosquitto(["max_queued_messages 0"])  # its default of 1000 drops what a slow machine reads late
    with (
        Watcher(local.port, "gateway/g1/alerts") as operator,
        GatewayProcess(gateway_config(tmp_path, local.url)) as gateway,
    ):
        gateway.wait_ready()
        publish(local.port, numbered(0, 2000))
        raw = 'gateway_events_appended_total{kind="raw"}'
        wait_until(lambda: gateway.metric(raw) == 2000, "the events")
        gateway.stop()
        content = bytearray(gateway.buffer_path.read_bytes())
        middle = len(content) // 2 // 4096 * 4096
        content[middle : middle + 3000] = b"?" * 3000
        gateway.buffer_path.write_bytes(content)
        gateway.start()
        gateway.wait_ready()
        wait_until(lambda: operator.messages, "the alert")
        alert = json.loads(operator.messages[0].payload)
        assert alert["alert"] == "buffer_salvaged"
        assert "events could be read" in alert["message"]
        publish(local.port, numbered(2000, 2100))
        wait_until(lambda: gateway.raw_payloads()[-1]["n"] == 2099, "it goes on")
        gateway.stop()
        assert len(gateway.raw_payloads()) > 1800
        assert not gateway.audit().problems


def test_a_threshold_of_a_few_lines_gives_a_critical_alert_here_and_in_the_cloud(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    local, cloud = mosquitto(), mosquitto(["max_queued_messages 0"])
    output = tmp_path / "received.ndjson"
    receive(cloud.url, output)
    too_hot = {
        "name": "too_hot",
        "route": "sensors",
        "field": "v",
        "key": "{device}",
        "plugin": "threshold",
        "options": {"above": 30},
        "window": {"type": "tumbling", "size": "5m"},
    }
    config = gateway_config(tmp_path, local.url, cloud.url, windows=[too_hot])
    temperatures = [20, 21, 35, 36, 22, 21]  # one reading per window; the fourth says nothing new
    start_ms = 1_700_000_100_000
    messages = [
        ("sensors/oven", json.dumps({"v": v, "t": start_ms + number * 300_000}))
        for number, v in enumerate(temperatures)
    ]
    with GatewayProcess(config) as gateway, Watcher(local.port, "gateway/g1/alerts") as operator:
        gateway.wait_ready()
        publish(local.port, messages)
        wait_until(lambda: len(operator.messages) == 2, "raised and cleared")
        wait_until(lambda: drained(gateway, len(messages)), "the drain")
    alerts = [json.loads(m.payload) for m in operator.messages]
    assert [(a["key"], a["result"]["alert"]) for a in alerts] == [("oven", "raised"), ("oven", "cleared")]
    receive(cloud.url, output, count=len(messages) + len(alerts))
    sent = [e for e in received_events(output) if e["kind"] == "alert"]
    assert [e["payload"]["result"]["alert"] for e in sent] == ["raised", "cleared"]
    assert {e["priority"] for e in sent} == {"critical"}


def test_an_alarm_has_a_retained_state_that_each_change_sets_once_over_a_kill(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    local = mosquitto()
    too_hot = {
        "name": "too_hot",
        "route": "sensors",
        "field": "v",
        "key": "{device}",
        "plugin": "threshold",
        "options": {"above": 30, "repeat": "5m"},
        "window": {"type": "tumbling", "size": "5m"},
    }
    config = gateway_config(tmp_path, local.url, windows=[too_hot])
    start_ms = 1_700_000_100_000

    def readings(first: int, values: list[int]) -> list[tuple[str, str]]:
        times = (start_ms + number * 300_000 for number in range(first, first + len(values)))
        return [("sensors/oven", json.dumps({"v": v, "t": t})) for v, t in zip(values, times, strict=True)]

    on = {"state": "on", "since_ms": start_ms + 3 * 300_000, "value": 35.0, "limit": 30.0}
    off = {"state": "off", "since_ms": start_ms + 5 * 300_000, "value": 22.0, "limit": 30.0}
    with (
        Watcher(local.port, "gateway/g1/alarms/#") as operator,
        Watcher(local.port, "gateway/g1/alerts") as alerts,
        GatewayProcess(config) as gateway,
    ):
        gateway.wait_ready()
        publish(local.port, readings(0, [20, 21, 35, 36]))
        wait_until(lambda: len(operator.messages) == 1, "the alarm")
        wait_until(lambda: _republished_id(gateway.buffer_path) >= 1, "its publication to be on disk")
        gateway.kill()
        with Watcher(local.port, "gateway/g1/alarms/#") as late:
            wait_until(lambda: late.messages, "the retained state")
        assert [(m.topic, m.retain) for m in late.messages] == [("gateway/g1/alarms/too_hot/oven", True)]
        assert json.loads(late.messages[0].payload) == on
        gateway.start()
        gateway.wait_ready()
        publish(local.port, readings(4, [22, 21]))
        wait_until(lambda: len(operator.messages) == 2, "the end of the alarm")
        assert gateway.stop() == 0
    assert [json.loads(m.payload) for m in operator.messages] == [on, off]
    told = [json.loads(m.payload)["result"] for m in alerts.messages]
    assert [(r["alert"], r.get("repeated", False)) for r in told] == [
        ("raised", False),
        ("raised", True),
        ("cleared", False),
    ]


def _republished_id(buffer_path: Path) -> int:
    """How far the gateway knows that it has published."""
    database = sqlite3.connect(buffer_path)
    try:
        row = database.execute("SELECT value FROM meta WHERE name = 'republished_id'").fetchone()
    finally:
        database.close()
    return int(row[0]) if row else 0


def test_sighup_takes_up_a_sound_configuration_and_keeps_what_did_not_change(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    local = mosquitto()
    config = gateway_config(tmp_path, local.url)
    settings = yaml.safe_load(config.read_text())
    minute = settings["windows"][0]
    settings["windows"].append(minute | {"name": "changed", "on_change": "replay"})
    config.write_text(yaml.safe_dump(settings))
    start_ms = 1_700_000_040_000  # a full minute

    def readings(numbers: range) -> list[tuple[str, str]]:
        return [("sensors/a", json.dumps({"n": n, "v": n, "t": start_ms + n * 1000})) for n in numbers]

    with GatewayProcess(config) as gateway, Watcher(local.port, "gateway/g1/aggregates/#") as dashboard:
        gateway.wait_ready()
        raw = 'gateway_events_appended_total{kind="raw"}'
        publish(local.port, readings(range(30)))
        wait_until(lambda: gateway.metric(raw) == 30, "half a minute")

        sound = config.read_text()
        config.write_text(sound.replace("tumbling", "tumblign"))
        gateway.reload()
        wait_until(lambda: "is not reloaded" in gateway.log(), "the refusal")
        assert "did you mean tumbling" in gateway.log().lower().replace("'", "")
        config.unlink()
        gateway.reload()
        wait_until(lambda: "cannot read" in gateway.log(), "the refusal of a file that is gone")
        assert gateway.get("/readyz") is not None

        settings["windows"][1]["plugin"] = "percentiles"
        settings["windows"].append(minute | {"name": "added"})
        config.write_text(yaml.safe_dump(settings))
        gateway.reload()
        wait_until(lambda: gateway.metric('gateway_window_events_total{window="added"}') == 0, "not yet")
        wait_until(lambda: gateway.log().count("gateway g1 is running") == 2, "the new configuration")
        gateway.wait_ready()
        publish(local.port, readings(range(30, 61)))
        wait_until(lambda: len(dashboard.messages) == 3, "one result of each window")
        found = {a["window"]: a for a in (json.loads(m.payload) for m in dashboard.messages)}
        assert {name: a["count"] for name, a in found.items()} == {"minute": 60, "changed": 60, "added": 30}
        assert "p50" in found["changed"]["result"]
        gateway.stop()
        assert [p["n"] for p in gateway.raw_payloads()] == list(range(61))
        assert not gateway.audit().problems


def test_a_configuration_that_cannot_start_gives_way_to_the_one_before(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    local = mosquitto()
    config = gateway_config(tmp_path, local.url)
    with GatewayProcess(config) as gateway, socket.create_server(("127.0.0.1", 0)) as taken:
        gateway.wait_ready()
        settings = yaml.safe_load(config.read_text())
        settings["http"]["listen"] = f"127.0.0.1:{taken.getsockname()[1]}"
        config.write_text(yaml.safe_dump(settings))
        gateway.reload()
        wait_until(lambda: "the old one stays active" in gateway.log(), "the refusal")
        gateway.wait_ready()
        assert gateway.stop() == 0


def test_a_full_buffer_keeps_its_size_takes_in_more_and_says_what_it_gave_up(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    local = mosquitto(["max_queued_messages 0", "max_inflight_messages 500"])
    buffer = {"max_size": "4MiB", "checkpoint_interval": "250ms"}
    config = gateway_config(tmp_path, local.url, "mqtt://127.0.0.1:9", buffer=buffer, windows=[])
    chance = random.Random(1)
    with (
        GatewayProcess(config) as gateway,
        Watcher(local.port, "gateway/g1/alerts") as operator,
    ):
        gateway.wait_ready()
        for start in range(0, 20_000, 2000):
            publish(
                local.port,
                [
                    (f"sensors/d{n % 10}", json.dumps({"n": n, "noise": chance.randbytes(100).hex()}))
                    for n in range(start, start + 2000)
                ],
            )
        raw = 'gateway_events_appended_total{kind="raw"}'
        wait_until(lambda: gateway.metric(raw) == 20_000, "all taken in")
        wait_until(lambda: operator.messages, "an alert")
        alert = json.loads(operator.messages[0].payload)
        assert alert["alert"] == "evicted"
        assert "events of 10 streams were evicted (thinned)" in alert["message"]
        assert sum(stream["events"] for stream in alert["streams"]) == alert["events"]
        assert 0 < alert["from_ms"] <= alert["to_ms"]
        assert gateway.stop() == 0
        assert gateway.buffer_path.stat().st_size <= 4 * 1024 * 1024
        found = gateway.audit()
        assert not found.problems
        assert found.messages["buffered"] == 20_000
        assert found.evicted["thinned"] > 1000
