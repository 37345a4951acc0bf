"""I/O errors and a slow disk under the working storage, by a preload: nothing acknowledged is lost."""

from __future__ import annotations

import errno
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import MosquittoFactory
from tests.support.buffers import sql
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.places import ROOT, TESTS
from tests.support.publishing import publish
from tests.support.shift import Stored
from tests.support.shift_worker import Broker, Worker, check
from tests.support.timepeers import need

QUIET_S = 1.0  # twice as long as the writer waits before it tries again


class BreakableDisk:
    """What the processes started meanwhile find when they read and write their buffers."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        need("cc", packages="gcc libc6-dev")
        library = folder / "disk.so"
        source = TESTS / "support" / "disk.c"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
        self.rule = folder / "rule"
        self.mend()
        patch.setenv("LD_PRELOAD", str(library))
        patch.setenv("DISK_FILE", str(self.rule))
        patch.setenv("DISK_MATCH", "events.db")

    def fail(self, call: str, error: int = errno.EIO) -> None:
        self.rule.write_text(f"{call} {error}")

    def slow(self, fsync_s: float) -> None:
        self.rule.write_text(f"slow {fsync_s}")

    def mend(self) -> None:
        self.rule.write_text("sound")


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BreakableDisk]:
    with monkeypatch.context() as patch:
        yield BreakableDisk(tmp_path, patch)


def stored(broker: Broker) -> int:
    return sum(len(note.numbers) for note in broker.notes if isinstance(note, Stored))


def wait_until_quiet(broker: Broker) -> None:
    """Until nothing was acknowledged for a while."""
    seen, since_s = -1, 0.0

    def quiet() -> bool:
        nonlocal seen, since_s
        if stored(broker) != seen:
            seen, since_s = stored(broker), time.monotonic()
        return time.monotonic() - since_s > QUIET_S

    wait_until(quiet, "acknowledgements end")


@pytest.mark.parametrize("call", ["fsync", "write"])
@pytest.mark.parametrize(
    "rounds", [pytest.param(3, id="short"), pytest.param(30, id="long", marks=pytest.mark.slow)]
)
def test_after_io_errors_it_goes_on_without_a_restart_and_no_message_is_lost_or_stored_twice(
    tmp_path: Path, disk: BreakableDisk, call: str, rounds: int
) -> None:
    (folder := tmp_path / "work").mkdir()
    broker = Broker()
    with Worker(folder, "full", 1, broker) as worker:
        worker.wait_ready()
        for _ in range(rounds):
            before = stored(broker)
            wait_until(lambda before=before: stored(broker) > before + 50, "messages are acknowledged")
            disk.fail(call)
            wait_until_quiet(broker)
            disk.mend()
    assert check(folder, tmp_path / "copy", broker) == frozenset()


def test_a_group_whose_fsync_failed_is_stored_once_when_nobody_else_has_the_file_open(
    tmp_path: Path, disk: BreakableDisk
) -> None:
    program = "tests.support.lone_writer"
    path = tmp_path / "events.db"
    subprocess.run([sys.executable, "-B", "-m", program, path, disk.rule], cwd=ROOT, check=True, timeout=60)
    assert sql(path, "SELECT count(*), count(DISTINCT stream || '/' || sequence_num) FROM buffer_events") == [
        (8, 8)
    ]


def test_a_disk_that_cannot_be_read_for_a_while_costs_nothing(
    tmp_path: Path, mosquitto: MosquittoFactory, disk: BreakableDisk
) -> None:
    broker = mosquitto(["max_queued_messages 0"])
    messages = [("sensors/a", f'{{"t": {number}, "v": {number}}}') for number in range(400)]
    with GatewayProcess(gateway_config(tmp_path, broker.url)) as gateway:
        gateway.wait_ready()
        publish(broker.port, messages[:200])
        wait_until(lambda: len(gateway.raw_payloads()) == 200, "the first half is stored")
        disk.fail("read")
        pid = gateway.pid
        publish(broker.port, messages[200:])
        disk.mend()
        wait_until(lambda: len(gateway.raw_payloads()) == 400, "the second half is stored")
        assert gateway.pid == pid
        assert gateway.stop() == 0
        assert gateway.audit().problems == ()
        assert sorted(int(str(found["v"])) for found in gateway.raw_payloads()) == list(range(400))


def test_a_buffer_that_cannot_be_read_at_the_start_is_not_taken_for_damaged(
    tmp_path: Path, mosquitto: MosquittoFactory, disk: BreakableDisk
) -> None:
    broker = mosquitto()
    with GatewayProcess(gateway_config(tmp_path, broker.url)) as gateway:
        gateway.wait_ready()
        publish(broker.port, [("sensors/a", '{"t": 1, "v": 1}')])
        wait_until(lambda: len(gateway.raw_payloads()) == 1, "the message is stored")
        gateway.kill()
        disk.fail("read")
        gateway.start()
        assert gateway.ended() == 1
        assert "is the disk healthy?" in gateway.log()
        assert "Traceback" not in gateway.log()
        disk.mend()
        gateway.start()
        gateway.wait_ready()
        assert len(gateway.raw_payloads()) == 1
    assert not list((tmp_path / "data").glob("damaged-*"))


def test_on_a_slow_disk_groups_become_larger_and_nothing_is_lost(
    tmp_path: Path, mosquitto: MosquittoFactory, disk: BreakableDisk
) -> None:
    broker = mosquitto(["max_inflight_messages 0", "max_queued_messages 0"])
    sent = 0

    def publish_until(enough: Callable[[float], bool]) -> None:
        nonlocal sent
        while not enough(gateway.metric("gateway_commit_stretch")):
            messages = [("sensors/a", f'{{"t": {n}, "v": {n}}}') for n in range(sent, sent + 100)]
            publish(broker.port, messages)
            sent += len(messages)
            wait_until(lambda count=sent: len(gateway.raw_payloads()) == count, "all are stored")

    with GatewayProcess(gateway_config(tmp_path, broker.url)) as gateway:
        gateway.wait_ready()
        disk.slow(0.4)
        publish_until(lambda stretch: stretch > 2)
        disk.mend()
        publish_until(lambda stretch: stretch < 1.5)
        assert gateway.stop() == 0
        assert gateway.audit().problems == ()
