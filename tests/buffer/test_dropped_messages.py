"""What is not taken in: each message is in one range of its stream and reason, and the ranges stay few."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from gateway.buffer.dropped_messages import GAP_MS, MOST_RANGES, shed_ranges
from gateway.buffer.proof.balance import audit
from gateway.buffer.repair.recovery import recover
from gateway.buffer.store import Store
from gateway.cli import app
from gateway.core.errors import DecodeError
from gateway.core.events import Message, Priority
from gateway.core.own_topics import OwnTopics
from gateway.decode.routes import RouteSpec, RouteTable
from gateway.flow.admission import Admission
from gateway.flow.capacity import Action, Signal
from gateway.flow.dropped_ranges import OTHERS, DroppedRange
from gateway.pipeline.pipeline import Pipeline
from gateway.testing import ManualClock
from gateway.windows.engine import WindowEngine
from gateway.wire.audit_record import AuditRecord, StreamClaim, audit_messages, read_audit
from tests.support.buffers import EPOCH_MS, opened, reading, sql


def shed(store: Store, *noted: tuple[str, int], reason: str = "overload") -> None:
    """One transaction in which messages on topics, so long after EPOCH_MS, are rejected."""
    with store.transaction():
        for topic, at in noted:
            store.dropped.note(reason, topic, EPOCH_MS + at)
            store.count("outcome", "rejected")
            store.count("rejected", reason)


def ranges(path: Path) -> list[DroppedRange]:
    with reading(path) as reader:
        assert audit(reader).problems == ()
        return list(shed_ranges(reader))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


def test_what_comes_soon_after_prolongs_the_range_and_what_comes_later_begins_another(path: Path) -> None:
    with opened(path) as store:
        shed(store, ("a", 0), ("a", 10), ("b", 5))
        shed(store, ("a", GAP_MS))
    with opened(path) as store:  # a restart ends no range
        shed(store, ("a", 2 * GAP_MS), ("b", 5 + GAP_MS + 1))
    assert ranges(path) == [
        DroppedRange("overload", "a", EPOCH_MS, EPOCH_MS + 2 * GAP_MS, 4),
        DroppedRange("overload", "b", EPOCH_MS + 5, EPOCH_MS + 5, 1),
        DroppedRange("overload", "b", EPOCH_MS + 6 + GAP_MS, EPOCH_MS + 6 + GAP_MS, 1),
    ]


def test_a_clock_that_is_set_back_counts_no_message_twice(path: Path) -> None:
    with opened(path) as store:
        shed(store, ("a", 1000))
        shed(store, ("a", 0))
    assert ranges(path) == [DroppedRange("overload", "a", EPOCH_MS, EPOCH_MS + 1000, 2)]


def test_what_was_rolled_back_was_not_shed(path: Path) -> None:
    with opened(path) as store:
        shed(store, ("a", 0))
        with pytest.raises(ZeroDivisionError), store.transaction():
            store.dropped.note("overload", "a", EPOCH_MS + 1)
            store.dropped.save()
            raise ZeroDivisionError
        store.reload()
        shed(store, ("a", 2))
    assert [one.messages for one in ranges(path)] == [2]


def test_ever_new_streams_leave_few_ranges_and_lose_no_count(path: Path) -> None:
    with opened(path) as store:
        for start in range(0, 5 * MOST_RANGES, 700):
            shed(store, *((f"s/{n}", n) for n in range(start, start + 700)))
            shed(store, ("x" * 2000, start), reason="topic_too_long")
    found = ranges(path)
    assert len(found) <= MOST_RANGES + 2
    assert {one.reason for one in found if one.stream == OTHERS} == {"overload", "topic_too_long"}
    others = next(one for one in found if one.stream == OTHERS and one.reason == "overload")
    assert others.first_ms == EPOCH_MS
    assert others.messages > 3 * MOST_RANGES


def test_the_pipeline_notes_what_it_samples_and_rejects(path: Path) -> None:
    admission = Admission()
    admission.follow(Signal(Action.REJECT_LOW_PRIORITY, 2.5, 1000, 0.1, Priority.LOW))
    routes = [
        RouteSpec("bulk", "bulk/{device}", sampling="allow"),
        RouteSpec("low", "low/{device}", priority=Priority.LOW),
        RouteSpec("normal", "normal/{device}"),
    ]
    no_windows = partial(WindowEngine, [], {})
    topics = OwnTopics("gateway", "g1")
    pipeline = Pipeline(topics, RouteTable(routes), no_windows, ManualClock(EPOCH_MS), admission=admission)
    names = [f"{kind}/{n % 3}" for n in range(300) for kind in ("bulk", "low", "normal", "nobody")]
    with opened(path) as store, reading(path) as reader:
        with store.transaction():
            pipeline.restore(store, reader)
        for n, name in enumerate(names):
            message = Message(name, b"1", 0, False, False, 0, 0, EPOCH_MS + n)
            with store.transaction():
                pipeline.take_in(store, [message])
        found = audit(reader)
    assert not found.problems
    counts: Counter[str] = Counter()
    for one in found.shed:
        counts[one.reason] += one.messages
    assert counts == {"sampled": found.messages["sampled"], "overload": 300, "no_route": 300}
    assert {one.stream for one in found.shed if one.reason == "sampled"} == {"bulk/0", "bulk/1", "bulk/2"}


def test_the_audit_misses_a_range_that_is_gone(path: Path) -> None:
    with opened(path) as store:
        shed(store, ("a", 0), ("b", 0))
    sql(path, "DELETE FROM shed_ranges WHERE stream = 'a'")
    with reading(path) as reader:
        assert audit(reader).problems == ("2 messages count as overload, but the ranges have 1",)


def test_of_what_was_shed_before_there_were_ranges_only_the_time_is_unknown(path: Path) -> None:
    with opened(path) as store:
        shed(store, ("a", 0), ("b", 0))
    sql(path, "DROP TABLE shed_ranges")
    sql(path, "UPDATE meta SET value = '3' WHERE name = 'schema_version'")
    with opened(path) as store:
        shed(store, ("c", 0))
    assert ranges(path)[0] == DroppedRange("overload", OTHERS, 0, 0, 2)


def test_salvage_keeps_the_sums_where_ranges_are_lost(path: Path) -> None:
    with opened(path) as store:
        shed(store, *((f"s/{n}", n) for n in range(1000)))
    ((root,),) = sql(path, "SELECT rootpage FROM sqlite_schema WHERE name = 'shed_ranges'")
    content = bytearray(path.read_bytes())
    content[4096 * (int(str(root)) - 1) : 4096 * int(str(root))] = bytes(4096)
    path.write_bytes(content)
    assert recover(path, 0).kind == "salvaged"
    assert sum(one.messages for one in ranges(path)) == 1000


def test_the_command_shows_the_ranges(path: Path) -> None:
    (path.parent / "data").mkdir()
    config = path.parent / "gateway.yaml"
    config.write_text("gateway: {id: g1, data_dir: data}\nroutes: [{name: r, topic: a}]\n")
    with opened(path.parent / "data" / "events.db") as store:
        shed(store, *((f"s/{n}", 0) for n in range(20)), ("s/7", 1500))
    shown = CliRunner().invoke(app, ["buffer", "audit", "-c", str(config)])
    assert "2 overload, s/7: 2023-11-14 22:13:20.000+00:00 to 2023-11-14 22:13:21.500+00:00" in shown.output
    assert "and 10 smaller ranges" in shown.output
    told = orjson.loads(CliRunner().invoke(app, ["buffer", "audit", "-c", str(config), "--json"]).output)
    assert len(told["shed"]) == 20
    assert told["shed"][7] == DroppedRange("overload", "s/7", EPOCH_MS, EPOCH_MS + 1500, 2)._asdict()


RECORD = AuditRecord("g1", "s", 1, {"pending": 0}, (StreamClaim("a", 1, 2),))


@pytest.mark.parametrize("count", [0, 1, 3000])
def test_audit_records_carry_the_ranges_in_messages_of_bounded_size(count: int) -> None:
    told = tuple(DroppedRange("sampled", f"s/{n}", EPOCH_MS, EPOCH_MS + n, 1) for n in range(count))
    messages = list(audit_messages(RECORD._replace(shed=told)))
    assert max(map(len, messages)) < 70_000
    assert len(messages) == (1 if count < 2 else 5)
    read = list(map(read_audit, messages))
    assert tuple(one for record in read for one in record.shed) == told
    assert tuple(one for record in read for one in record.claims) == RECORD.claims


@pytest.mark.parametrize("wrong", [{"last_ms": 1}, {"messages": 0}, {"stream": 7}, {"reason": ""}])
def test_ranges_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    (message,) = audit_messages(RECORD._replace(shed=(DroppedRange("sampled", "s", 5, 9, 1),)))
    fields = orjson.loads(message)
    fields["shed"][0] |= wrong
    with pytest.raises(DecodeError):
        read_audit(orjson.dumps(fields))
