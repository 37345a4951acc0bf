"""A replay of what a gateway stored gives what that gateway gave, wherever the messages are read from."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.pipeline import recordings
from gateway.receiver.event_lines import event_of_line
from gateway.receiver.sinks.choice import sink_of
from gateway.receiver.sinks.sink import Received
from tests.conftest import broker_factory, no_broker
from tests.support.broker_kinds import REASONS, best_broker_kind
from tests.support.brokers import Broker
from tests.support.buffers import EPOCH_MS, reading
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.publishing import publish

MESSAGES = 3000


def window(name: str, **more: Any) -> dict[str, Any]:
    fixed = {"name": name, "route": "sensors", "field": "v", "key": "{device}", "idle_timeout": "1h"}
    return fixed | more


WINDOWS = [
    window("grid", window={"type": "tumbling", "size": "10s"}, watermark="shared", allowed_lateness="20s"),
    window("hops", window={"type": "hopping", "size": "30s", "slide": "10s"}, out_of_orderness="2s"),
    window("walks", window={"type": "session", "gap": "1500ms"}, allowed_lateness="10s"),
    window("hundreds", window={"type": "count", "count": 100}, idle_timeout=None),
]


class Past:
    """What a gateway has taken in and given, and where."""

    def __init__(self, config: Path, gateway: GatewayProcess) -> None:
        self.config = config
        self.gateway = gateway

    def given(self) -> list[Any]:
        """The aggregates in the buffer, in their order."""
        with reading(self.gateway.buffer_path) as reader:
            events = reader.derived_after(0, 100_000)
            payloads = [json.loads(one) for one in reader.payloads(events)]
        return [one for one in payloads if one.get("kind") in {"on_time", "correction", "early"}]

    def replayed(self, *args: str) -> list[Any]:
        done = CliRunner().invoke(app, ["replay", "-c", str(self.config), "--no-flush", *args])
        assert done.exit_code == 0, (done.output, done.exception)
        return [one for line in done.stdout.splitlines() if (one := json.loads(line))["kind"] != "dropped"]

    def export(self, path: Path) -> Path:
        done = CliRunner().invoke(app, ["buffer", "export", "-c", str(self.config), "-o", str(path)])
        assert done.exit_code == 0, done.output
        return path


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Past]:
    """A gateway that runs on, after 3,000 readings of which one in ten is late."""
    kind = best_broker_kind()
    if kind is None:
        no_broker("; ".join(why_not() for why_not in REASONS.values()))
    with contextmanager(broker_factory)(kind, tmp_path_factory) as mosquitto:
        yield from _run(tmp_path_factory.mktemp("past"), mosquitto(["max_queued_messages 10000"]))


def _run(folder: Path, broker: Broker) -> Iterator[Past]:
    chance = random.Random(7)
    config = gateway_config(folder, broker.url, windows=WINDOWS)
    sent = []
    for number in range(MESSAGES):
        late_ms = chance.choice([0] * 9 + [chance.randrange(25_000)])
        reading_of = {"t": EPOCH_MS + 40 * number - late_ms, "v": chance.randrange(1000) / 8}
        sent.append((f"sensors/d{chance.randrange(5)}", json.dumps(reading_of)))
    with GatewayProcess(config) as gateway:
        gateway.wait_ready()
        publish(broker.port, sent)
        wait_until(lambda: len(gateway.raw_payloads()) == MESSAGES, "all messages")
        yield Past(config, gateway)


def test_the_buffer_of_a_running_gateway_gives_what_it_gave(past: Past) -> None:
    given = past.given()
    assert {one["window"] for one in given} == {"grid", "hops", "walks", "hundreds"}
    assert sum(one["kind"] == "correction" for one in given) > 100
    assert past.replayed("--from-buffer") == given


def test_an_export_gives_the_same_also_in_another_order(
    past: Past, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = past.export(tmp_path / "export.ndjson")
    given = past.given()
    assert past.replayed("--input", str(exported)) == given
    monkeypatch.setattr(recordings, "SORTED_BYTES", 100_000)
    lines = exported.read_bytes().splitlines(keepends=True)
    random.Random(1).shuffle(lines)
    (tmp_path / "mixed.ndjson").write_bytes(b"".join([*lines, lines[5], lines[6][:40]]))
    assert past.replayed("--input", str(tmp_path / "mixed.ndjson")) == given


def test_a_table_of_the_receiver_gives_the_same(past: Past, tmp_path: Path) -> None:
    place = f"sqlite:///{tmp_path / 'received.db'}"
    lines = past.export(tmp_path / "export.ndjson").read_bytes().splitlines(keepends=True)
    random.Random(2).shuffle(lines)
    with closing(sink_of(place)) as sink:
        sink.open()
        sink.write([Received(*event_of_line(line)) for line in lines])
        assert past.replayed("--input", place) == past.given()  # while the receiver has it open


def test_time_and_stream_choose_the_messages(past: Past) -> None:
    only = past.replayed("--from-buffer", "--stream", "sensors/d1")
    assert {one["key"] for one in only} == {"d1"}
    assert past.replayed("--from-buffer", "--to", "2001-01-01") == []
    assert past.replayed("--from-buffer", "--from", "2001-01-01", "--to", "2999-01-01") == past.given()


def test_other_gateways_are_left_out_and_named(past: Past, tmp_path: Path) -> None:
    exported = past.export(tmp_path / "export.ndjson")
    done = CliRunner().invoke(
        app, ["replay", "-c", str(past.config), "--input", str(exported), "--gateway", "g2"]
    )
    assert done.exit_code == 0
    assert f"of other gateways: g1 ({MESSAGES})" in done.stderr


def test_a_damaged_line_is_named(past: Past, tmp_path: Path) -> None:
    exported = past.export(tmp_path / "export.ndjson")
    exported.write_bytes(exported.read_bytes().replace(b'"sequence_num":3,', b'"sequence_num":"3",', 1))
    done = CliRunner().invoke(app, ["replay", "-c", str(past.config), "--input", str(exported)])
    assert "not a line that `gateway receive` wrote" in str(done.exception)
