"""`gateway buffer retry|drop|compact|restore`: the same commands on a running and on a stopped gateway."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway.buffer.lock import DataDirLock
from gateway.buffer.repair.commit_marker import CommitMarker
from gateway.cli.buffer_commands import app
from gateway.core.events import Status
from gateway.delivery.states import DeliveryEvent
from gateway.host.control import SOCKET_FILE
from tests.support.buffers import append, event, opened, sql
from tests.support.commands import gateway
from tests.support.gateways import GatewayProcess, gateway_config, wait_until

UNKNOWN = "01890000-0000-7000-8000-000000000000"
NOBODY = "mqtt://127.0.0.1:9"


def reported(what: str, config: Path, *args: object) -> dict[str, Any]:
    """What a command reports, called in this process: to start one for each takes a second."""
    done = CliRunner().invoke(app, [what, "-c", str(config), "--json", *map(str, args)])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A gateway that never ran, with 200 events: 150 FAILED ones of ten streams, 50 PENDING ones."""
    config = gateway_config(tmp_path, NOBODY, NOBODY)
    (tmp_path / "data").mkdir()
    with opened(tmp_path / "data" / "events.db") as store:
        append(store, [event(f"sensors/{n % 10}", b'{"v": 1}', at=n) for n in range(200)])
        with store.transaction():
            store.move(store.claim(150), Status.SYNCING, DeliveryEvent.EXHAUSTED)
            store.checkpoint([])
    return config


@pytest.fixture
def buffer(config: Path) -> Path:
    return config.parent / "data" / "events.db"


@pytest.mark.parametrize("live", [True, False], ids=["running", "stopped"])
def test_retry_drop_and_compact_do_the_same_on_a_running_and_on_a_stopped_gateway(
    config: Path, buffer: Path, live: bool
) -> None:
    running = GatewayProcess(config)
    if live:
        running.start()
        wait_until((buffer.parent / SOCKET_FILE).exists, "its control socket")
    try:
        ids = sql(buffer, "SELECT lower(hex(event_id)) FROM buffer_events WHERE id IN (1, 2)")
        expected = {"retried": 2, "released": 0, "live": live}
        assert reported("retry", config, *(row[0] for row in ids)) == expected
        assert reported("retry", config, "--stream", "sensors/2")["retried"] == 15
        assert reported("drop", config, "--stream", "sensors/3", "--yes") == {"dropped": 15, "live": live}
        assert reported("drop", config, "--all", "--yes")["dropped"] == 150 - 2 - 15 - 15
        done = reported("compact", config)
        assert done["live"] is live
        assert live or done["log_emptied"]  # a running gateway reads its buffer, too
        audited = reported("audit", config)
        assert audited["problems"] == []
        assert audited["evicted"] == {"dropped": 133}
        assert audited["incomplete"] == len(audited["per_stream"]) == 9  # not sensors/2
        (dropped,) = (one for one in audited["per_stream"] if one["stream"] == "sensors/3")
        assert dropped["lost"]["dropped"] == {"numbers": 15, "ranges": 1, "first_ranges": [[1, 15, 1]]}
        text = gateway("buffer", "audit", "-c", config, "--stream", "sensors/3").stdout
        assert "stream     sensors/3: 20 numbers, 5 pending\n           lost, dropped: 15 (1–15)\n" in text
        alerts = audited["appended"].pop("alert")  # of the drops; a running gateway tells of failures, too
        assert alerts == 2 or (live and alerts == 3)
        assert audited["appended"] == {"raw": 200}
        assert audited["statuses"]["pending"] == 50 + 17 + alerts
    finally:
        running.kill()


def test_a_restore_needs_a_stop_and_then_takes_the_backup(config: Path, buffer: Path) -> None:
    made = reported("backup", config)
    assert Path(made["backup"]).stat().st_size == made["bytes"]
    with GatewayProcess(config) as running:
        wait_until((buffer.parent / SOCKET_FILE).exists, "its control socket")
        refused = gateway("buffer", "restore", "-c", config)
        assert refused.returncode == 1
        assert f"process {running.pid}" in refused.stderr
        assert "stop the gateway, run `gateway buffer restore` again" in refused.stderr
        second = gateway("run", "-c", config)
        assert second.returncode == 1
        assert f"used by another gateway (process {running.pid})" in second.stderr
        assert "dropped" in gateway("buffer", "drop", "-c", config, "--all", "--yes").stdout
        assert running.stop() == 0
    done = reported("restore", config)
    assert (done["events"], done["live"], done["numbers_known"]) == (200, False, True)
    assert Path(done["kept_aside"]).is_dir()
    assert reported("audit", config)["problems"] == []


def test_on_a_stopped_gateway_whose_log_was_deleted_a_drop_gives_no_number_twice(
    config: Path, buffer: Path
) -> None:
    CommitMarker(buffer).write(230)  # thirty more were committed, and went with the log
    done = gateway("buffer", "drop", "-c", config, "--stream", "sensors/3", "--yes")
    assert "15 events were dropped" in done.stdout
    assert "the events from 201 to 230 are lost" in done.stderr
    assert sql(buffer, "SELECT min(id) FROM buffer_events WHERE kind <> 0") == [(231,)]
    assert CommitMarker(buffer).read() == 232, "of the loss and of the drop there is an alert each"
    assert reported("audit", config)["problems"] == []


def test_a_log_that_is_damaged_in_its_middle_is_mended_before_a_stopped_gateways_buffer_is_changed(
    config: Path, buffer: Path, tmp_path: Path
) -> None:
    with opened(buffer) as store:
        for number in range(20):
            append(store, [event("sensors/3", b"%d" % number)])
        log = bytearray(buffer.with_name("events.db-wal").read_bytes())
        file = buffer.read_bytes()
    log[len(log) // 2] ^= 1
    buffer.write_bytes(file)
    buffer.with_name("events.db-wal").write_bytes(log)
    assert reported("retry", config, "--all")["retried"] == 150
    assert sql(buffer, "SELECT count(*) FROM buffer_events WHERE kind = 0") == [(220,)]


def test_stats_of_a_running_gateway_say_how_far_its_verification_is(config: Path, buffer: Path) -> None:
    with GatewayProcess(config):
        wait_until((buffer.parent / SOCKET_FILE).exists, "its control socket")
        wait_until(lambda: reported("stats", config)["drain"]["verified_share"] == 1.0, "all are verified")
        assert (
            "verified in the background: 100% of the buffer"
            in gateway("buffer", "stats", "-c", config).stdout
        )


def test_a_drop_asks_first_and_a_no_changes_nothing(config: Path, buffer: Path) -> None:
    refused = gateway("buffer", "drop", "-c", config, "--stream", "sensors/3", answer="n\n")
    assert refused.returncode == 1
    assert "Remove 15 events for good?" in refused.stderr
    assert sql(buffer, "SELECT count(*) FROM buffer_events") == [(200,)]
    done = gateway("buffer", "drop", "-c", config, "--stream", "sensors/3", answer="y\n")
    assert "15 events were dropped (in the buffer of the stopped gateway)" in done.stdout


@pytest.mark.parametrize(
    "arguments, problem",
    [
        (("retry",), "--all"),
        (("drop", "--yes"), "--all"),
        (("drop", "--yes", "--status", "synced"), "synced events cannot be dropped"),
        (("retry", "x"), "not a UUID"),
        (("retry", "--stream", "a/#/b"), "--stream"),
        (("drop", "--yes", "--older-than", "soon"), "--older-than"),
        (("retry", UNKNOWN), "none of these events is failed"),
        (("drop", UNKNOWN), "none of these events is failed or corrupt"),
        (("drop", "--yes", UNKNOWN), "none of these events is failed or corrupt"),
    ],
    ids=str,
)
def test_what_does_not_say_which_events_changes_nothing(
    config: Path, buffer: Path, arguments: tuple[str, ...], problem: str
) -> None:
    refused = CliRunner().invoke(app, [arguments[0], "-c", str(config), *arguments[1:]])
    assert refused.exit_code in (1, 2)
    assert problem in refused.output + str(refused.exception)
    assert sql(buffer, "SELECT count(*) FROM buffer_events WHERE status = 3") == [(150,)]


def test_while_another_command_has_the_buffer_the_message_names_it(config: Path, buffer: Path) -> None:
    with DataDirLock(buffer.parent, "`gateway buffer` command"):
        refused = gateway("buffer", "compact", "-c", config)
    assert refused.returncode == 1
    assert "used by another `gateway buffer` command" in refused.stderr
    assert "takes no commands" in refused.stderr


def test_what_was_kept_at_the_edge_is_sent_when_it_is_asked_for(config: Path, buffer: Path) -> None:
    with opened(buffer) as store:
        kept = [event(f"tele/{n % 2}", b'{"v": 1}', at=n)._replace(kept=True) for n in range(100)]
        append(store, kept)
    since = "2023-11-14T22:13:20.050+00:00"  # the 51st of them
    assert reported("forward", config, "--stream", "tele/1", "--from", since) == {
        "forwarded": 25,
        "live": False,
    }
    assert reported("forward", config, "--stream", "tele/+", "--to", since)["forwarded"] == 50
    refused = CliRunner().invoke(app, ["forward", "-c", str(config), "--stream", "tele/+", "--from", "soon"])
    assert refused.exit_code == 2
    assert "--from" in refused.output
    assert CliRunner().invoke(app, ["forward", "-c", str(config)]).exit_code == 2, "without any choice"
