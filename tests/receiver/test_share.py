"""`gateway receive --share`: two receivers, one table; one of them is killed in mid-stream."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from gateway.core.errors import DecodeError
from gateway.core.events import Message, WireEvent
from gateway.mqtt.endpoint import Endpoint
from gateway.mqtt.link import Link
from gateway.receiver import sharing
from gateway.receiver.completeness import Completeness, judge
from gateway.receiver.ledger import Ledger, Series, identity
from gateway.receiver.session import Receiver
from gateway.receiver.sharing import Heir, Inheritance
from gateway.receiver.sinks import postgres_shared
from gateway.receiver.sinks.choice import shared_sink_of, sink_of
from gateway.receiver.sinks.postgres_shared import SharedDatabase
from gateway.receiver.sinks.sink import OutputError, Received, Sink, reread, resume
from gateway.wire.audit_record import AuditRecord, StreamClaim
from tests.conftest import MosquittoFactory
from tests.proofs.test_confirm import numbered, synced
from tests.receiver.test_failure import Acknowledged
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.ports import free_port
from tests.support.postgres import new_database
from tests.support.publishing import publish

psycopg = pytest.importorskip("psycopg")


@pytest.fixture
def output(postgres_url: str) -> str:
    return new_database(postgres_url)


@contextmanager
def member(output: str) -> Iterator[SharedDatabase]:
    sink = shared_sink_of(output, "fleet")
    resume(sink)
    try:
        yield sink
    finally:
        sink.close()


def received(numbers: range) -> list[Received]:
    return [
        Received("plant-7", WireEvent(uuid.uuid4().bytes, "tele/a", n, n, n, None, 2, 0, 0, b"1"), "b")
        for n in numbers
    ]


def proof(sink: Sink) -> Completeness:
    try:
        return judge(reread(sink))
    finally:
        sink.close()


def record(time_ms: int, last: int, session: str = "s") -> AuditRecord:
    return AuditRecord("plant-7", session, time_ms, {}, (StreamClaim("tele/a", 1, last),), (), "b")


def test_what_members_write_is_there_once_and_complete_by_what_each_has_heard(output: str) -> None:
    with member(output) as one, member(output) as two:
        assert one.write(received(range(1, 11))) == 10
        twice = received(range(11, 21))
        assert [two.write(twice), one.write(twice)] == [10, 0]
        two.hear(record(2000, 20))
        one.hear(record(1000, 10))  # it came later by the other way
        assert one.present(Series("plant-7", "tele/a", "b"), [(5, 25)]) == [(n, n) for n in range(5, 21)]
        verdict = proof(shared_sink_of(output, "fleet"))
        assert verdict.complete
        assert (verdict.received, verdict.as_of_ms) == (20, 2000)
        one.hear(record(500, 99, "an earlier one"))
        assert proof(shared_sink_of(output, "fleet")).complete
        one.hear(record(3000, 21))
        assert proof(shared_sink_of(output, "fleet")).missing[0][2:4] == (21, 21)


def test_a_group_and_a_receiver_of_its_own_do_not_write_at_once_and_take_over_what_is_claimed(
    output: str,
) -> None:
    alone = sink_of(output)
    ledger = resume(alone)
    events = received(range(1, 11))
    for each in events:
        ledger.take(identity(*each))
    alone.write(events)
    ledger.hear(record(1000, 10))
    alone.save(ledger.dump())
    with pytest.raises(OutputError, match="without --share"):
        proof(shared_sink_of(output, "fleet"))
    alone.close()
    with member(output) as one:
        assert proof(shared_sink_of(output, "fleet")).complete
        with pytest.raises(OutputError, match="another process writes"):
            proof(sink_of(output))
        one.hear(record(2000, 11))
    assert proof(sink_of(output)).missing[0][2:4] == (11, 11)


def test_numbers_of_members_are_taken_over_from_the_dead_only(output: str) -> None:
    with member(output) as one:
        with member(output) as two:
            assert [one.join(), two.join()] == [0, 1]
            assert one.take_abandoned() is None
        wait_until(lambda: one.take_abandoned() == 1, "the lock of the one that is gone")
        with member(output) as three:
            assert three.take_abandoned() is None
            assert three.join() == 2
            one.forget(1)
            assert three.join() == 1


def test_a_claim_about_more_numbers_than_there_can_be_is_looked_up_by_its_rows(
    output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_shared, "_LOOKED_UP", 3)
    with member(output) as one:
        one.write([*received(range(1, 8)), *received(range(10**9, 10**9 + 1))])
        found = one.present(Series("plant-7", "tele/a", "b"), [(2, 4), (5, 2**62)])
        assert [first for first, _ in found] == [2, 3, 4, 5, 6, 7, 10**9]


def test_a_reason_with_a_nul_is_kept(output: str) -> None:
    with member(output) as one:
        one.reject(
            Message("a/b", b"x", 1, False, False, 1, 1, 1), DecodeError("a message of \0", reason="gateway")
        )


def test_a_session_that_cannot_be_emptied_is_left_to_others_and_holds_up_no_other(output: str) -> None:
    with member(output) as one:
        with member(output) as two, member(output) as three:
            assert [one.join(), two.join(), three.join()] == [0, 1, 2]
        wait_until(lambda: one.take_abandoned() == 1, "the lock of the one that is gone")
        one.release(1)
        wait_until(lambda: one.take_abandoned() == 2, "the other one's turn")
        with member(output) as four:
            assert four.take_abandoned() == 1


def test_an_heir_gives_up_without_progress_and_then_another_can_try(
    output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "_PATIENCE_S", 0.2)
    monkeypatch.setattr(sharing, "LOOK_EVERY_S", 0.05)
    nowhere = Endpoint("127.0.0.1", free_port(), "receive-1")
    with member(output) as one:
        with member(output) as two:
            assert [one.join(), two.join()] == [0, 1]
        heir = Heir(one, Receiver("gateway", "+", one, Ledger()), lambda _: nowhere)

        def steps() -> bool:
            heir.step()
            return heir._link is not None

        wait_until(steps, "it tries to empty the session")
        with member(output) as three:
            assert three.take_abandoned() is None
            wait_until(lambda: not steps() and three.take_abandoned() == 1, "the number is free again")
        heir.stop()


def test_what_still_arrives_from_a_session_extends_the_patience(tmp_path: Path) -> None:
    sink = sink_of(str(tmp_path / "events.ndjson"))
    inheritance = Inheritance(Receiver("gateway", "+", sink, resume(sink)))
    before_s = inheritance.give_up_s
    inheritance.received(cast(Link, Acknowledged()), [Message("a/b", b"x", 1, False, False, 1, 1, 1)])
    assert inheritance.give_up_s > before_s
    sink.close()


def test_only_a_database_can_be_shared() -> None:
    with pytest.raises(OutputError, match="one writer"):
        shared_sink_of("events.ndjson", "fleet")


def start(url: str, output: str, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "gateway", "receive", "--url", url, "-o", output, "--share", "fleet"]
    with log.open("ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=file)


def stored(output: str) -> tuple[int, int]:
    """Rows, and different numbers of devices."""
    with psycopg.connect(output) as connection:
        sql = "SELECT count(*), count(DISTINCT payload) FROM gateway_events WHERE stream LIKE 'sensors/%'"
        found: tuple[int, int] = connection.execute(sql).fetchone()
        return found


@pytest.mark.slow
def test_a_killed_member_loses_nothing_and_its_share_moves(
    mosquitto: MosquittoFactory, tmp_path: Path, output: str
) -> None:
    local, cloud = mosquitto(), mosquitto()
    config = gateway_config(tmp_path, local.url, cloud={"url": cloud.url, "audit": "1s", "batch_events": 20})
    logs = [tmp_path / "one.log", tmp_path / "two.log"]
    members = [start(cloud.url, output, log) for log in logs]
    try:
        for log in logs:
            wait_until(lambda log=log: "subscribed to" in log.read_text(), "both receive")
        with GatewayProcess(config) as gateway:
            gateway.wait_ready()
            publish(local.port, numbered(0, 500))
            wait_until(lambda: stored(output)[0] >= 100, "events in the table")
            members[1].kill()
            publish(local.port, numbered(500, 1000))
            wait_until(lambda: synced(gateway), "the broker takes them all")
            wait_until(lambda: stored(output) == (1000, 1000), "what was queued for the dead member")
            wait_until(lambda: "took over" in logs[0].read_text(), "its session ends")
            wait_until(lambda: verified(output)["complete"], "the proof")
    finally:
        for one in members:
            one.kill()
            one.wait()


def verified(output: str) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "gateway",
        "receive",
        "-o",
        output,
        "--share",
        "fleet",
        "--verify",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["verify"]
    return found
