"""A replay of what a gateway stored gives what that gateway gave, wherever the messages are read from."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import product
from pathlib import Path
from typing import Any
from uuid import UUID

import apsw
import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.core.events import SKIPPED_SHIFT, Kind, Priority, WireEvent
from gateway.core.identifiers import EventIds, split_ids
from gateway.core.sequence_sets import Run
from gateway.pipeline import recordings
from gateway.pipeline.aggregate_story import AggregateStory, Revision, Used
from gateway.pipeline.recordings import LinesRecording, Selection
from gateway.pipeline.replay import Recorded
from gateway.receiver.event_lines import event_line, event_of_line
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
    fixed: dict[str, Any] = {"name": name, "route": "sensors", "field": "v", "key": "{device}"}
    fixed |= {"idle_timeout": "1h", "publish": {"quality": True}}
    return fixed | more


WINDOWS = [
    window("grid", window={"type": "tumbling", "size": "10s"}, watermark="shared", allowed_lateness="20s"),
    window("hops", window={"type": "hopping", "size": "30s", "slide": "10s"}, out_of_orderness="2s"),
    window("walks", window={"type": "session", "gap": "300ms"}, allowed_lateness="10s"),
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


def test_parquet_files_cannot_be_replayed_and_what_can_is_said(past: Past) -> None:
    done = CliRunner().invoke(app, ["replay", "-c", str(past.config), "--input", "parquet:somewhere"])
    assert "order of arrival" in str(done.exception)


# --- gateway explain --aggregate ---


def explained(past: Past, event_id: str) -> dict[str, Any]:
    given = ["explain", "--aggregate", event_id, "-c", str(past.config), "--json"]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 1, (done.output, done.exception)  # there is no cloud that could have them
    return dict(json.loads(done.stdout))


def aggregates(past: Past, window: str, kind: str) -> list[tuple[str, dict[str, Any]]]:
    with reading(past.gateway.buffer_path) as reader:
        events = reader.derived_after(0, 100_000)
        payloads = map(json.loads, reader.payloads(events))
        ids = [str(UUID(bytes=one)) for one in split_ids(events.event_ids)]
    return [
        (event_id, one)
        for event_id, one in zip(ids, payloads, strict=True)
        if (one.get("window"), one.get("kind")) == (window, kind)
    ]


def inside(past: Past, of: dict[str, Any]) -> list[tuple[int, float]]:
    """The readings of a window, counted without any engine: (time, value)."""
    with reading(past.gateway.buffer_path) as reader:
        return [
            (body["t"], body["v"])
            for events in reader.raw_after(0)
            for topic, body in zip(
                reader.names(events.stream_ids), map(json.loads, reader.payloads(events)), strict=True
            )
            if topic == f"sensors/{of['key']}" and of["start_ms"] <= body["t"] < of["end_ms"]
        ]


@pytest.mark.parametrize(
    ("window", "kind"), [("grid", "on_time"), ("grid", "correction"), ("hops", "on_time")]
)
def test_a_result_is_explained_by_its_readings(past: Past, window: str, kind: str) -> None:
    given = aggregates(past, window, kind)
    event_id, result = given[len(given) // 2]
    found = explained(past, event_id)
    both = found["readings"] + found["dropped"]
    assert sorted((one["time_ms"], one["value"]) for one in both) == sorted(inside(past, result))
    newest = max(found["revisions"], key=lambda one: int(one["revision"]))
    assert len(found["readings"]) == newest["count"]
    assert found["late"] == newest["revision"]  # each late reading has made one correction
    assert event_id in [one["event_id"] for one in found["revisions"]]
    assert (found["missing"], found["cloud_has_all"]) == (0, False)
    numbers = {
        n
        for first, last, step in found["sources"][f"sensors/{result['key']}"]
        for n in range(first, last + 1, step)
    }
    assert numbers == {one["sequence_num"] for one in found["readings"]}


GAP_MS = 300


def session_around(past: Past, key: str, time_ms: int) -> tuple[int, int]:
    """The bounds of the session that holds a time, of all readings that came; without any engine."""
    times = sorted(time for time, _ in inside(past, {"key": key, "start_ms": 0, "end_ms": 2**62}))
    first = last = next(each for each in times if each >= time_ms)
    for each in times:
        if last < each < last + GAP_MS:
            last = each
    for each in reversed(times):
        if first - GAP_MS < each < first:
            first = each
    return first, last + GAP_MS


def test_a_session_is_explained_by_its_readings_or_by_the_wider_one_that_replaced_it(past: Past) -> None:
    kinds = Counter[str]()
    every = {kind: aggregates(past, "walks", kind) for kind in ("on_time", "correction")}
    replaced = {
        (one["key"], *bounds) for given in every.values() for _, one in given for bounds in one["replaces"]
    }
    for kind, given in every.items():
        places = [(one["key"], one["start_ms"], one["end_ms"]) for _, one in given]
        some = [one for one, place in zip(given, places, strict=True) if place in replaced]
        for event_id, result in [*some[:2], *given[len(given) // 2 :][:2]]:
            found = explained(past, event_id)
            start_ms, end_ms = found["replaced_by"] or (result["start_ms"], result["end_ms"])
            both = found["readings"] + found["dropped"]
            of = result | {"start_ms": start_ms, "end_ms": end_ms}
            assert sorted((one["time_ms"], one["value"]) for one in both) == sorted(inside(past, of))
            newest = max(found["revisions"], key=lambda one: int(one["revision"]))
            assert len(found["readings"]) == newest["count"]
            assert found["missing"] == 0
            widest = session_around(past, result["key"], start_ms)
            assert widest[0] <= start_ms <= result["start_ms"] < result["end_ms"] <= end_ms <= widest[1]
            kinds[f"{kind}, replaced" if found["replaced_by"] else kind] += 1
    assert kinds["on_time"] > 0
    assert kinds["on_time, replaced"] > 0
    assert kinds["correction"] > 0


@pytest.fixture
def copy(past: Past, tmp_path: Path) -> Iterator[apsw.Connection]:
    """A copy of the buffer, beside a configuration, of which every second event is in the cloud."""
    (tmp_path / "data").mkdir()
    (tmp_path / "gateway.yaml").write_text(past.config.read_text())
    with (
        closing(apsw.Connection(str(past.gateway.buffer_path), apsw.SQLITE_OPEN_READONLY)) as source,
        closing(apsw.Connection(str(tmp_path / "data" / "events.db"))) as target,
    ):
        with target.backup("main", source, "main") as backup:
            backup.step()
        target.execute("UPDATE buffer_events SET status = 2 WHERE sequence_num % 2")
        yield target


def told_of(folder: Path, event_id: str, code: int) -> dict[str, Any]:
    given = ["explain", "--aggregate", event_id, "-c", str(folder / "gateway.yaml"), "--json"]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == code, (done.output, done.exception)
    return dict(json.loads(done.stdout))


def test_a_window_whose_readings_are_partly_in_the_cloud_or_gone_is_told_as_incomplete(
    past: Past, copy: apsw.Connection, tmp_path: Path
) -> None:
    given = aggregates(past, "grid", "on_time")
    event_id, result = given[len(given) // 2]
    before = told_of(tmp_path, event_id, 1)
    numbers = [one["sequence_num"] for one in before["readings"]]
    assert before["not_delivered"] == {"pending": sum(number % 2 == 0 for number in numbers)}
    copy.execute("UPDATE buffer_events SET status = 2")
    assert told_of(tmp_path, event_id, 0)["cloud_has_all"] is True
    gone = numbers[1:3]
    wanted = "stream = (SELECT id FROM streams WHERE name = ?) AND sequence_num BETWEEN ? AND ?"
    copy.execute(f"DELETE FROM buffer_events WHERE {wanted}", (f"sensors/{result['key']}", gone[0], gone[-1]))  # noqa: S608
    after = told_of(tmp_path, event_id, 1)
    left = [number for number in numbers if not gone[0] <= number <= gone[-1]]
    assert [one["sequence_num"] for one in after["readings"]] == left
    assert after["missing"] == before["revisions"][-1]["count"] - len(left)
    done = CliRunner().invoke(app, ["explain", "--aggregate", event_id, "-c", str(tmp_path / "gateway.yaml")])
    assert "are no longer in the buffer" in done.stdout
    assert "has those that are left" in done.stdout


def test_an_explanation_names_late_readings_and_what_waits_for_the_cloud(past: Past) -> None:
    event_id, _ = aggregates(past, "grid", "correction")[0]
    done = CliRunner().invoke(app, ["explain", "--aggregate", event_id, "-c", str(past.config)])
    assert "late     " in done.stdout
    assert "not all of them are there" in done.stdout


def test_what_is_no_result_of_a_window_in_time_is_not_explained(past: Past) -> None:
    def said(event_id: str) -> str:
        given = ["explain", "--aggregate", event_id, "-c", str(past.config)]
        return str(CliRunner().invoke(app, given).exception)

    assert "no event" in said("0" * 32)
    assert "count and global windows" in said(aggregates(past, "hundreds", "on_time")[0][0])


def test_readings_that_the_buffer_no_longer_has_are_counted_as_missing() -> None:
    used = [Used("t", number, 1.0, 1, 2, False, False, "synced") for number in (1, 2, 4)]
    story = AggregateStory(
        {}, used, [Revision("", 0, "on_time", 4, "synced"), Revision("", 1, "correction", 5, "")]
    )
    assert story.missing == 2
    assert story.sources() == {"t": [Run(1, 2, 1), Run(4, 4, 1)]}
    assert story.fields()["cloud_has_all"] is False
    assert (
        AggregateStory({}, used, [Revision("", 0, "on_time", 3, "synced")]).fields()["cloud_has_all"] is True
    )


def test_lines_of_any_spelling_give_the_messages_that_they_hold(tmp_path: Path) -> None:
    """Those that are spelled as usual are not parsed as a whole; it makes no difference."""
    payloads = [b"21.5", b'{"a":1}', b'"text"', b"text", b'{"a":\n1}', b"\xff\x00", b"", b"[1]"]
    topics = ["a/b", "a/ä", 'a/"b"', "a/\\b"]
    ids, numbers, expected, lines = EventIds(), Counter[str](), [], []
    for n, (topic, payload, flags) in enumerate(product(topics, payloads, (0, 1, 3 << SKIPPED_SHIFT))):
        numbers[topic] += 1
        arrival_ms = EPOCH_MS + n
        of, kind = ("other", Kind.RAW) if n % 7 == 0 else ("g", Kind.ALERT if n % 5 == 0 else Kind.RAW)
        event_id = ids.next(arrival_ms) if kind == Kind.RAW else bytes(16)
        times = (arrival_ms, arrival_ms, None)
        event = WireEvent(event_id, topic, numbers[topic], *times, Priority.NORMAL, kind, flags, payload)
        line = event_line(of, event, "b" if n % 3 else "")
        lines += [line, *([line] if n % 4 == 0 else ())]
        if of == "g" and kind == Kind.RAW and n >= 4:
            expected.append(Recorded(topic, payload, arrival_ms, flags, numbers[topic]))
    path = tmp_path / "received.ndjson"
    path.write_bytes(b"".join(lines) + b'{"event_id":"cut')
    recording = LinesRecording(path, Selection(from_ms=EPOCH_MS + 4, gateway_id="g"))
    assert [*recording.messages()] == expected
    assert recording.others.keys() == {"other"}
