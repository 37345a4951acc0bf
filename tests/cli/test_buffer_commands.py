"""`gateway buffer`: what an operator sees of a buffer, of a running and of a stopped gateway."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import apsw
import pytest

from gateway.buffer.repair.backup import back_up
from gateway.buffer.repair.recovery import backup_path, recover
from gateway.buffer.store import NewEvent, Store
from tests.conftest import MosquittoFactory
from tests.support.commands import Done, gateway
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.publishing import publish

NOW_MS = 1_700_000_000_000


def gateway_buffer(*args: object) -> Done:
    return gateway("buffer", *args)


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """The configuration of a gateway with 300 events of two kinds in its buffer, which is not running."""
    config = gateway_config(tmp_path, "mqtt://127.0.0.1:9", "mqtt://127.0.0.1:9")
    store = Store(tmp_path / "data" / "events.db")
    store.path.parent.mkdir()
    store.open()
    with store.transaction():
        store.append([event(number) for number in range(300)])
        store.count("appended", "raw", 200)
        store.count("appended", "aggregate", 100)
        store.count("outcome", "buffered", 200)
        store.checkpoint([])
    store.close()
    return config


def event(number: int) -> NewEvent:
    kind = 1 if number % 3 == 0 else 0
    return NewEvent(f"s/{number % 10}", "f", NOW_MS, NOW_MS, None, 2, kind, 0, b'{"n": %d}' % number)


def test_list_gives_the_oldest_events_that_fit_all_filters(stopped: Path) -> None:
    found = gateway_buffer(
        *("list", "-c", stopped, "--status", "pending", "--kind", "raw", "--stream", "s/4", "--json")
    )
    rows = json.loads(found.stdout)
    assert [row["sequence_num"] for row in rows] == sorted(row["sequence_num"] for row in rows)
    assert {(row["stream"], row["kind"], row["status"]) for row in rows} == {("s/4", "raw", "pending")}
    assert len(rows) == 20
    assert json.loads(gateway_buffer("list", "-c", stopped, "--status", "failed", "--json").stdout) == []
    assert len(gateway_buffer("list", "-c", stopped, "--limit", 5).stdout.splitlines()) == 6


def test_show_gives_one_event_whole_and_says_when_there_is_none(stopped: Path) -> None:
    (row,) = json.loads(gateway_buffer("list", "-c", stopped, "--limit", 1, "--json").stdout)
    shown = json.loads(gateway_buffer("show", "-c", stopped, row["event_id"]).stdout)
    assert (shown["payload"], shown["status"], shown["stream"]) == ({"n": 0}, "pending", "s/0")
    missing = gateway_buffer("show", "-c", stopped, "00000000-0000-7000-8000-000000000000")
    assert missing.returncode == 1
    assert "no event" in missing.stderr
    assert gateway_buffer("show", "-c", stopped, "x").returncode == 2


def test_export_writes_what_fits_as_the_receiver_would(stopped: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.ndjson"
    done = gateway_buffer("export", "-c", stopped, "-o", output, "--kind", "aggregate")
    assert "100 events written, 0 corrupt" in done.stderr
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["payload"]["n"] for line in lines] == list(range(0, 300, 3))
    assert {line["gateway"] for line in lines} == {"g1"}


def test_verify_finds_a_payload_that_was_changed(stopped: Path, tmp_path: Path) -> None:
    assert json.loads(gateway_buffer("verify", "-c", stopped, "--json").stdout) == {
        "checked": 300,
        "corrupt": [],
    }
    connection = apsw.Connection(str(tmp_path / "data" / "events.db"))
    connection.execute("UPDATE buffer_events SET payload = x'7b7d' WHERE id = 17")
    connection.close()
    found = gateway_buffer("verify", "-c", stopped, "--json")
    assert found.returncode == 1
    assert json.loads(found.stdout)["corrupt"] == [17]
    assert "299 events written, 1 corrupt" in gateway_buffer("export", "-c", stopped).stderr


def test_a_missing_buffer_is_a_clear_error(tmp_path: Path) -> None:
    config = gateway_config(tmp_path, "mqtt://127.0.0.1:9")
    found = gateway_buffer("stats", "-c", config)
    assert found.returncode == 1
    assert "there is no buffer at" in found.stderr


def test_stats_of_a_running_gateway_say_how_the_drain_goes(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    broker = mosquitto()
    config = gateway_config(tmp_path, broker.url, "mqtt://127.0.0.1:9")
    with GatewayProcess(config) as gateway:
        gateway.wait_ready()
        publish(broker.port, [("sensors/a", b'{"n": %d, "v": 1, "t": %d}' % (n, NOW_MS)) for n in range(900)])
        wait_until(lambda: "900 events wait" in gateway_buffer("stats", "-c", config).stdout, "the count")
        told = json.loads(gateway_buffer("stats", "-c", config, "--json").stdout)["drain"]
        assert (told["state"], told["waiting"], told["drain_per_s"]) == ("outage", 900, 0)
        assert "gateway_drain_rate_events 0.0" in str(gateway.get("/metrics"))
        gateway.kill()
    assert json.loads(gateway_buffer("stats", "-c", config, "--json").stdout)["drain"] is None


def test_a_backup_of_a_running_gateway_is_whole_and_a_start_uses_it(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    broker = mosquitto()
    config = gateway_config(tmp_path, broker.url)
    messages = [("sensors/a", b'{"n": %d, "v": 1, "t": %d}' % (n, NOW_MS + n)) for n in range(500)]
    with GatewayProcess(config) as gateway:
        gateway.wait_ready()
        publish(broker.port, messages)
        wait_until(lambda: gateway.audit().messages.get("buffered") == 500, "all in the buffer")
        done = gateway_buffer("backup", "-c", config)
        assert done.returncode == 0, done.stderr
        publish(broker.port, messages[:10])
        wait_until(lambda: gateway.audit().messages.get("buffered") == 510, "what the backup lacks")
        assert gateway.stop() == 0
        backup = backup_path(gateway.buffer_path)
        copy = sqlite3.connect(backup)
        assert copy.execute("SELECT count(*) FROM buffer_events WHERE kind = 0").fetchone() == (500,)
        copy.close()
        gateway.buffer_path.write_bytes(b"no database any more")
        gateway.start()
        gateway.wait_ready()
        assert [p["n"] for p in gateway.raw_payloads()] == list(range(500))
        assert "took its place" in gateway.log()


def test_a_backup_under_steady_writes_is_one_commit_and_not_a_mixture(tmp_path: Path) -> None:
    store = Store(tmp_path / "events.db")
    store.open()
    with store.transaction():
        store.append([event(number) for number in range(20_000)])

    def write_meanwhile(_done: int, _total: int) -> None:
        with store.transaction():
            store.append([event(number) for number in range(100)])

    backup = back_up(store.path, progress=write_meanwhile)
    written = store.last_id()
    store.close()
    copy = sqlite3.connect(backup)
    assert copy.execute("SELECT count(*), max(id) FROM buffer_events").fetchone() == (20_000, 20_000)
    copy.close()
    assert written > 20_000
    store.path.unlink()
    assert recover(store.path, NOW_MS).kind == "backup"
