"""A gateway that signs, killed on the way, and a receiver whose output somebody changes afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest
from typer.testing import CliRunner

from gateway.buffer.proof.evidence import place_of, sealed_positions, unsent_records
from gateway.cli import app
from gateway.receiver.sinks.choice import sink_of
from gateway.receiver.sinks.sink import Received
from gateway.receiver.stored_output import events_of_output
from tests.conftest import MosquittoFactory, broker_factory, no_broker
from tests.receiver.test_proof import KEEPS_ALL, Consumer, config, numbered
from tests.support.broker_kinds import REASONS, best_broker_kind
from tests.support.brokers import Broker
from tests.support.buffers import reading
from tests.support.gateways import GatewayProcess, wait_until
from tests.support.places import DOCS
from tests.support.publishing import publish

pytestmark = pytest.mark.slow  # a gateway, two brokers and a receiver

OF_EACH = 40  # messages of each of the ten devices


class Past:
    """Two outputs of one past: a file, and a table of the same events."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "events.ndjson"
        self.table = f"sqlite:///{folder / 'events.db'}"
        self.key = folder / "plant.key.pub"

    def verify(self, output: str) -> tuple[int, dict[str, Any]]:
        given = [
            "receive",
            "--output",
            output,
            "--verify",
            "--key",
            str(self.key),
            "--max-age",
            "1h",
            "--json",
        ]
        done = CliRunner().invoke(app, [*given, "--max-age", "1h"])
        assert done.stdout, done.exception
        return done.exit_code, json.loads(done.stdout)["verify"]

    def line(self, stream: str, number: int) -> bytes:
        wanted = f'"stream":"{stream}","sequence_num":{number},'.encode()
        (found,) = (line for line in self.file.read_bytes().splitlines(keepends=True) if wanted in line)
        return found

    def with_file(self, change: Callable[[bytes], bytes]) -> dict[str, Any]:
        """The verdict on the file after a change, which is taken back."""
        before = self.file.read_bytes()
        self.file.write_bytes(change(before))
        try:
            code, found = self.verify(str(self.file))
        finally:
            self.file.write_bytes(before)
        assert code == 1
        return dict(found["evidence"])


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Past:
    kind = best_broker_kind()
    if kind is None:
        no_broker("; ".join(why_not() for why_not in REASONS.values()))
    with contextmanager(broker_factory)(kind, tmp_path_factory) as mosquitto:
        return _made(tmp_path_factory.mktemp("signed"), mosquitto)


def _made(folder: Path, mosquitto: MosquittoFactory) -> Past:
    cloud_folder = folder / "cloud"
    cloud_folder.mkdir()
    local, cloud = mosquitto(KEEPS_ALL), mosquitto(KEEPS_ALL, persistence=cloud_folder)
    past = Past(folder)
    assert CliRunner().invoke(app, ["keys", "new", str(folder / "plant.key")]).exit_code == 0
    signing = {"id": "g1", "data_dir": "data", "signing_key_file": "plant.key"}
    consumer = Consumer(cloud, str(past.file))
    consumer.once()  # subscribes: the broker keeps for it what comes before it is there again
    receiver = consumer.start()
    with GatewayProcess(config(folder, local, cloud, gateway=signing)) as gateway:
        gateway.wait_ready()
        _send(gateway, local, 0, OF_EACH // 2)
        wait_until(lambda: _is_sealed(gateway, OF_EACH // 2), "signed records are acknowledged")
        gateway.kill()
        gateway.start()
        gateway.wait_ready()
        _send(gateway, local, OF_EACH // 2, OF_EACH)
        wait_until(lambda: _is_sealed(gateway, OF_EACH), "all is sealed")
        with reading(gateway.buffer_path) as reader:
            newest = b'"number":%d,' % place_of(reader).number
        records = past.file.with_name("events.ndjson.records")
        wait_until(lambda: records.exists() and newest in records.read_bytes(), "all records are received")
    receiver.terminate()
    receiver.wait()
    with closing(sink_of(str(past.file))) as source, closing(sink_of(past.table)) as copy:
        copy.open()
        copy.write([Received(*one) for one in events_of_output(str(past.file))])
        copy.keep_records([*source.records()])
    return past


def _is_sealed(gateway: GatewayProcess, of_each: int) -> bool:
    """True once everything is sealed, and the broker has the records."""
    with reading(gateway.buffer_path) as reader:
        sealed = zip(
            reader.names([*sealed_positions(reader)]), sealed_positions(reader).values(), strict=True
        )
        done = sum(number == of_each for name, number in sealed if name.startswith("sensors/"))
        return done == 10 and not unsent_records(reader)


def _send(gateway: GatewayProcess, local: Broker, start: int, end: int) -> None:
    appended = gateway.metric('gateway_events_appended_total{kind="raw"}')
    publish(local.port, numbered(10 * start, 10 * end))
    wait_until(
        lambda: gateway.metric('gateway_events_appended_total{kind="raw"}') - appended == 10 * (end - start),
        "all are taken in",
    )


def test_after_a_crash_every_event_is_proven_in_a_file_and_in_a_table(past: Past) -> None:
    for output in (str(past.file), past.table):
        code, found = past.verify(output)
        evidence = found["evidence"]
        assert evidence["sound"], evidence
        assert (code, found["complete"], evidence["unsealed"], evidence["faults"]) == (0, True, 0, [])
        assert evidence["proven"] == found["received"] >= 10 * OF_EACH


def test_one_byte_changed_is_named(past: Past) -> None:
    line = past.line("sensors/d3", 7)
    found = past.with_file(lambda text: text.replace(line, line.replace(b'"v": 1', b'"v": 2')))
    assert [one["number"] for one in found["changed_events"]] == [7]
    assert found["changed_events"][0]["stream"] == "sensors/d3"


def test_a_time_changed_in_the_table_is_named(past: Past) -> None:
    with apsw.Connection(str(past.folder / "events.db")) as table:
        change = "UPDATE gateway_events SET ingest_time_ms = ingest_time_ms + ? WHERE sequence_num = 9"
        table.execute(f"{change} AND stream = 'sensors/d1'", (1,))
    code, found = past.verify(past.table)
    with apsw.Connection(str(past.folder / "events.db")) as table:
        table.execute(f"{change} AND stream = 'sensors/d1'", (-1,))
    assert code == 1
    assert [(o["stream"], o["number"]) for o in found["evidence"]["changed_events"]] == [("sensors/d1", 9)]


def test_an_event_taken_away_and_one_added_are_named(past: Past) -> None:
    line = past.line("sensors/d2", 5)
    found = past.with_file(lambda text: text.replace(line, b""))
    assert [(one["stream"], one["number"]) for one in found["absent_events"]] == [("sensors/d2", 5)]
    added = line.replace(b'"v": 1', b'"v": 9').replace(line[13:49], b"0" * 8 + line[21:49])
    found = past.with_file(lambda text: text + added)
    assert [(one["stream"], one["number"]) for one in found["added_events"]] == [("sensors/d2", 5)]


def test_a_record_taken_away_is_named(past: Past) -> None:
    records = past.file.with_name("events.ndjson.records")
    before = records.read_bytes()
    lines = before.splitlines(keepends=True)
    records.write_bytes(b"".join(lines[:2] + lines[3:]))
    code, found = past.verify(str(past.file))
    records.write_bytes(before)
    assert code == 1
    assert found["evidence"]["faults"] == ["records 3 to 3 of g1 are missing"]


def test_a_proof_is_checked_by_a_script_that_knows_nothing_of_the_gateway(past: Past, tmp_path: Path) -> None:
    event_id = past.line("sensors/d4", 11)[13:49].decode()
    given = ["receive", "--output", str(past.file), "--key", str(past.key), "--prove", event_id]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 0, done.output
    proof = tmp_path / "proof.json"
    proof.write_text(done.stdout)
    script = [sys.executable, "-I", str(DOCS / "examples" / "check_proof.py"), str(proof), str(past.key)]
    checked = subprocess.run(script, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.startswith("signed by g1 in record ")
    for forged in (
        done.stdout.replace('"priority": 2', '"priority": 1'),
        done.stdout.replace('\\"version\\":1', '\\"version\\":2'),
    ):
        proof.write_text(forged)
        assert subprocess.run(script, capture_output=True, check=False).returncode != 0
    assert len((DOCS / "examples" / "check_proof.py").read_text().splitlines()) <= 35


def test_an_event_that_is_not_there_has_no_proof(past: Past) -> None:
    given = ["receive", "--output", str(past.file), "--key", str(past.key), "--prove", "0" * 32]
    assert "no event with this id" in str(CliRunner().invoke(app, given).exception)
