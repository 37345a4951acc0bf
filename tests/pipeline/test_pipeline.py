"""From messages to events and aggregates: outcomes, crashes at any point, checkpoints, eviction."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.buffer.proof.balance import audit
from gateway.buffer.reader import Reader
from gateway.buffer.store import CHECKPOINT_ID, Store
from gateway.buffer.writer import Writer
from gateway.core.events import Flag, Kind, Message, Priority, Status, skipped
from gateway.core.own_topics import OwnTopics
from gateway.core.topics import check_topic
from gateway.decode.routes import RouteSpec, RouteTable
from gateway.delivery.states import DeliveryEvent
from gateway.flow.admission import Admission
from gateway.flow.capacity import Action, Signal
from gateway.pipeline.commands import AppendBatch, Tick
from gateway.pipeline.pipeline import Pipeline
from gateway.testing import ManualClock
from gateway.timekeeping.hold import Hold
from gateway.windows.engine import WindowEngine
from gateway.windows.spec import WindowSpec
from tests.support.buffers import EPOCH_MS, append, event, sql
from tests.support.windowing import shipped

OUTPUT = OwnTopics("gateway", "g1")
ROUTES = (
    RouteSpec("lots", "lots/{device}", sampling="allow", priority=Priority.LOW),
    RouteSpec("sensors", "s/{device}", timestamp_path="t", timestamp_format="unix_ms", timestamp="trusted"),
    RouteSpec("fresh", "fresh/{device}", retained="ignore"),
    RouteSpec("words", "words/{device}", decoder="number"),
    RouteSpec("clocked", "clocked/{device}", timestamp_path="t", timestamp_format="unix_ms"),
)


PRESSED = Signal(Action.SLOW_DOWN, level=2.0, delay_ms=1000, sample_rate=0.1)


def window(name: str, type_: Any = "tumbling", **more: Any) -> WindowSpec:
    usual: dict[str, Any] = {"route": "sensors", "fields": ("v",), "key": "{device}", "quality": True}
    given_ = usual | more
    return WindowSpec(name, type_, **given_)


MINUTE = window("minute", size_ms=60_000)
# Every kind of window whose results follow from the events alone.
WINDOWS = (
    MINUTE,
    window("late", size_ms=20_000, watermark="per_key", allowed_lateness_ms=15_000),
    window("hops", "hopping", size_ms=30_000, slide_ms=10_000, out_of_orderness_ms=5_000, key=""),
    window("visits", "session", gap_ms=8_000, watermark="per_key", allowed_lateness_ms=30_000),
    window("fours", "count", count=4),
)
# And some whose results depend on when time was looked at.
TIMED_WINDOWS = (
    window("idle", size_ms=20_000, idle_timeout_ms=5_000),
    window("idle_keys", size_ms=20_000, watermark="per_key", idle_timeout_ms=5_000),
    window("early", size_ms=60_000, early_every_ms=2_000),
    window("pulse", "global", trigger_every_ms=3_000),
)


class World:
    """A buffer on a disk with a pipeline on it, as `gateway run` puts them together; it can crash."""

    def __init__(
        self,
        folder: Path,
        windows: Sequence[WindowSpec] = WINDOWS,
        routes: Sequence[RouteSpec] = ROUTES,
        **options: Any,
    ) -> None:
        self.routes = routes
        self.path = folder / "events.db"
        self.clock = ManualClock(EPOCH_MS)
        self.windows = windows
        self.options = options
        self.packet_id = 0
        self.derived: list[tuple[Any, ...]] = []
        self._derived_id = 0
        self.start()

    def start(self) -> None:
        self.store = Store(self.path, "normal")
        self.store.open()
        plugins = {spec.name: shipped("stats") for spec in self.windows}
        self.pipeline = Pipeline(
            OUTPUT,
            RouteTable(self.routes),
            partial(WindowEngine, self.windows, plugins),
            self.clock,
            **self.options,
        )
        self.reader = Reader(self.path)
        with self.store.transaction():
            self.store.release_all()
        self.replayed = self.pipeline.restore(self.store, self.reader)

    def close(self) -> None:
        self.reader.close()
        self.store.close()

    def crash(self) -> None:
        self.close()
        self.start()

    def catch_up(self) -> None:
        """What the writer does after a rollback."""
        with self.store.transaction():
            self.store.reload()
        self.pipeline.restore(self.store, self.reader)

    def message(self, topic: str, payload: object, **more: Any) -> Message:
        self.packet_id += 1
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        usual = {"qos": 1, "retain": False, "dup": False, "packet_id": self.packet_id, "epoch": 1}
        return Message(topic, body, arrival_ms=self.clock.now_ms(), **(usual | more))

    def reading(self, device: str, at_s: float, value: float = 1.0, **more: Any) -> Message:
        return self.message(f"s/{device}", {"t": EPOCH_MS + round(at_s * 1000), "v": value}, **more)

    def take_in(self, *messages: Message) -> None:
        with self.store.transaction():
            self.pipeline.take_in(self.store, messages)
        self.look()

    def tick(self, ms: int = 0) -> None:
        self.clock.advance(ms)
        with self.store.transaction():
            self.pipeline.tick(self.store)
        self.look()

    def checkpoint(self) -> None:
        with self.store.transaction():
            self.pipeline.checkpoint(self.store)

    def sync_all(self) -> None:
        """The bridge sends everything, and the cloud takes it."""
        with self.store.transaction():
            self.store.move(self.store.claim(10_000), Status.SYNCING, DeliveryEvent.PUBACK)

    def look(self) -> None:
        """Note new aggregates before retention removes them."""
        found = self.reader.derived_after(self._derived_id, 100_000)
        if found.ids:
            self._derived_id = found.ids[-1]
        names, payloads = self.reader.names(found.stream_ids), self.reader.payloads(found)
        event_ids = [found.event_ids[at : at + 16] for at in range(0, len(found.event_ids), 16)]
        self.derived += zip(names, found.sequence_nums, event_ids, map(orjson.loads, payloads), strict=True)

    def outcomes(self) -> dict[str, int]:
        return {label: n for (name, label), n in self.store.counts.items() if name == "outcome"}

    def emitted(self, name: str) -> list[tuple[object, ...]]:
        """(key, start, count, sum) of the aggregates of a window, in order."""
        return [
            (p["key"], (p["start_ms"] - EPOCH_MS // 60_000 * 60_000) // 1000, p["count"], p["result"]["sum"])
            for _, _, _, p in self.derived
            if p["window"] == name and p["kind"] != "dropped"
        ]


@pytest.fixture
def world(tmp_path: Path) -> Any:
    world = World(tmp_path)
    yield world
    world.close()


def rows(world: World, columns: str, where: str = "kind = 0") -> list[tuple[Any, ...]]:
    statement = f"SELECT {columns} FROM buffer_events WHERE {where} ORDER BY id"  # noqa: S608 - from here
    return sql(world.path, statement)


# --- under pressure ---


@pytest.fixture
def pressed(tmp_path: Path) -> Any:
    admission = Admission()
    world = World(tmp_path, admission=admission)
    admission.follow(PRESSED)
    yield world, admission
    world.close()


def test_sampling_leaves_messages_out_and_the_kept_ones_say_how_many(pressed: Any) -> None:
    world, _ = pressed
    world.take_in(*(world.message("lots/a", i) for i in range(200)))
    flags = [flags for (flags,) in rows(world, "flags")]
    assert world.outcomes() == {"buffered": len(flags), "sampled": 200 - len(flags)}
    assert len(flags) == pytest.approx(20, abs=1)
    left_out_since = 200 - sum(skipped(f) + 1 for f in flags)
    assert 0 <= left_out_since < 10
    assert not audit(world.reader).problems


def test_routes_that_forbid_sampling_keep_all_under_pressure(pressed: Any) -> None:
    world, _ = pressed
    world.take_in(*(world.reading("a", i) for i in range(200)))
    assert world.outcomes() == {"buffered": 200}


def test_low_priority_is_rejected_when_the_signal_says_so(pressed: Any) -> None:
    world, admission = pressed
    admission.follow(Signal(Action.REJECT_LOW_PRIORITY, priority_threshold=Priority.LOW))
    world.take_in(world.message("lots/a", 1), world.reading("a", 1))
    assert world.outcomes() == {"buffered": 1, "rejected": 1}
    assert world.store.counts["rejected", "overload"] == 1
    assert not audit(world.reader).problems


def test_a_message_that_was_left_out_and_comes_again_is_a_duplicate(pressed: Any) -> None:
    world, admission = pressed
    admission.follow(Signal(Action.REJECT_LOW_PRIORITY, priority_threshold=Priority.LOW))
    message = world.message("lots/a", 1)
    world.take_in(message)
    admission.follow(Signal())
    world.take_in(message._replace(dup=True))
    assert world.outcomes() == {"rejected": 1, "duplicate": 1}


# --- the gateway's own time is set ---


@pytest.mark.parametrize("jump_s", [0, 3600, -3600])
def test_a_step_of_the_own_time_closes_no_window_early_and_leaves_none_open(
    tmp_path: Path, jump_s: int
) -> None:
    """Ticks at 1 s:  reading  step  tick          … 5 s of silence and 20 s of the window
    idle            [ v         |    still open    closes, with its one reading     )"""
    world = World(tmp_path, [window("idle", size_ms=20_000, idle_timeout_ms=5_000)])
    world.take_in(world.reading("a", 0))
    world.tick(1_000)
    world.clock.jump(jump_s * 1000)
    for _ in range(4):
        world.tick(1_000)
        assert world.emitted("idle") == []
    for _ in range(25):
        world.tick(1_000)
    assert [(count, total) for _, _, count, total in world.emitted("idle")] == [(1, 1.0)]
    world.close()


# --- the time is not known ---


class Boot:
    """What a machine without a clock knows: its uptime. `clock` runs with it, from 1970."""

    def __init__(self, folder: Path) -> None:
        self.unset, self.name = True, "first"
        self.world = World(folder, WINDOWS)
        self.world.clock.jump(-EPOCH_MS)
        self.begin()

    def begin(self) -> None:
        hold = Hold(lambda: self.unset, self.uptime_ms, self.name)
        self.world.options = {"hold": hold, "is_certain": lambda: not self.unset}
        self.world.crash()

    def uptime_ms(self) -> int:
        return round(self.world.clock.monotonic_s() * 1000) + 100_000

    def learn(self) -> None:
        self.world.clock.jump(EPOCH_MS)
        self.unset = False


@pytest.fixture
def boot(tmp_path: Path) -> Any:
    boot = Boot(tmp_path)
    yield boot
    boot.world.close()


def fresh(world: World, number: int) -> Message:
    return world.message("fresh/a", {"v": number})


@pytest.mark.parametrize("crash", [False, True])
def test_messages_wait_until_the_time_is_known_and_get_theirs(boot: Boot, crash: bool) -> None:
    world = boot.world
    first = fresh(world, 0)
    world.take_in(first)
    world.tick(7_000)
    world.take_in(fresh(world, 1), first._replace(dup=True))
    queued = fresh(world, 2)
    world.tick(1_000)
    assert rows(world, "id") == []
    assert world.outcomes() == {"duplicate": 1}
    if crash:
        boot.begin()
    boot.learn()
    world.take_in(queued)
    world.tick()
    times = [EPOCH_MS, EPOCH_MS + 7_000, EPOCH_MS + 8_000]
    assert rows(world, "event_time, ingest_time, flags") == [(time, time, 0) for time in times]
    assert [sequence for (sequence,) in rows(world, "sequence_num")] == [1, 2, 3]
    assert world.outcomes() == {"duplicate": 1, "buffered": 3}
    assert audit(world.reader).problems == ()


def test_what_waited_is_windowed_by_the_time_that_it_gets(boot: Boot) -> None:
    world = boot.world
    world.take_in(*(world.reading("a", at) for at in (1, 30, 61, 130)))
    world.tick(1_000)
    assert world.derived == []
    boot.learn()
    world.tick(1_000)
    assert [(count, total) for _, _, count, total in world.emitted("minute")] == [(2, 2.0), (1, 1.0)]


def test_what_waited_over_a_reboot_or_for_too_long_is_flagged(boot: Boot) -> None:
    world = boot.world
    world.take_in(fresh(world, 0))
    boot.name = "second"
    boot.begin()
    world.take_in(fresh(world, 1))
    boot.learn()
    world.tick(1_000)
    assert rows(world, "flags") == [(int(Flag.TIME_UNCERTAIN),), (0,)]
    assert world.store.undated.count == 0


def test_what_has_waited_for_long_enough_goes_on_with_the_flag(boot: Boot) -> None:
    world = boot.world
    world.take_in(fresh(world, 0))
    boot.world.pipeline.pending_time._hold = Hold(lambda: False, boot.uptime_ms, boot.name)
    world.tick(1_000)
    assert rows(world, "ingest_time, flags") == [(0, int(Flag.TIME_UNCERTAIN))]


def test_one_message_that_waited_and_cannot_be_taken_in_does_not_hold_up_the_others(
    boot: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = boot.world
    world.take_in(*(fresh(world, number) for number in range(9)))
    boot.learn()
    take_in = world.pipeline.intake.take_in

    def refuse(store: Store, messages: Sequence[Message], **more: Any) -> None:
        if b'{"v": 4}' in [message.payload for message in messages]:
            raise RuntimeError("a bug")
        take_in(store, messages, **more)

    monkeypatch.setattr(world.pipeline.intake, "take_in", refuse)
    for _ in range(60):
        try:
            world.tick(250)
        except RuntimeError:
            world.catch_up()
    assert world.outcomes() == {"buffered": 8, "rejected": 1}
    assert audit(world.reader).problems == ()


# --- outcomes ---


def test_every_message_has_one_counted_outcome(world: World) -> None:
    stored = world.reading("a", 1)
    world.take_in(
        stored,
        stored._replace(dup=True),
        world.message("nobody/asked", 1),
        world.message("fresh/a", {"v": 1}, retain=True),
        world.message("fresh/a", {"v": 1}),
        world.message("gateway/g1/aggregates/minute/a", {"v": 1}),
        world.message("gateway/g2/up/event/s/a", {"v": 1}),
        world.message("gateway/g2/up/batch/0", b"frame"),
        world.message("other/g2/up/event/gateway/g1/up/event/s/a", {"v": 1}),
        world.message("s/a", b"\xff no json"),
    )
    assert world.outcomes() == {"buffered": 3, "duplicate": 1, "rejected": 6}
    rejected = {label: n for (name, label), n in world.store.counts.items() if name == "rejected"}
    assert rejected == {"no_route": 1, "retained": 1, "own_topic": 1, "bridged": 3}
    assert audit(world.reader).problems == ()


def test_a_message_without_acknowledgement_is_never_a_duplicate(world: World) -> None:
    message = world.reading("a", 1, qos=0, packet_id=0)
    world.take_in(message, message, message._replace(dup=True))
    assert world.outcomes() == {"buffered": 3}


def test_what_cannot_be_decoded_is_kept_as_it_came_and_left_out_of_the_windows(world: World) -> None:
    payload = b'{"t": 17, "v": '
    world.take_in(world.message("s/a", payload), world.reading("a", 61), world.reading("a", 140))
    assert rows(world, "flags & 2, payload", "id = 1") == [(int(Flag.UNDECODED), payload)]
    assert rows(world, "DISTINCT flags", "id > 1 AND kind = 0") == [(0,)]
    assert world.pipeline.intake.problems == {("sensors", "json"): 1}
    assert [count for _, _, count, _ in world.emitted("minute")] == [1]


def test_a_missing_field_is_counted_and_the_event_kept(world: World) -> None:
    world.take_in(world.message("s/a", {"v": None, "x": 1}))
    assert world.outcomes() == {"buffered": 1}
    assert world.pipeline.intake.misses == {("sensors", "@timestamp"): 1}


def test_a_retained_message_is_flagged(world: World) -> None:
    world.take_in(world.reading("a", 1, retain=True), world.reading("a", 1))
    assert rows(world, "flags") == [(int(Flag.RETAINED),), (0,)]


def test_a_retained_message_is_kept_out_of_the_windows(world: World) -> None:
    world.take_in(world.reading("a", 1, retain=True), world.reading("a", 2), world.reading("a", 140))
    assert [count for _, _, count, _ in world.emitted("minute")] == [1]


def test_retained_bytes_that_are_stored_are_counted_and_not_stored_again(world: World) -> None:
    live = world.reading("a", 1)
    again = live._replace(retain=True)
    other = world.reading("b", 1, retain=True)
    world.take_in(live)
    world.take_in(again, other, other)
    world.take_in(other)
    assert world.outcomes() == {"buffered": 2, "duplicate": 3}
    world.take_in(world.reading("b", 2))
    world.take_in(other)  # older than what came last, so it is news that the broker holds it
    assert world.outcomes() == {"buffered": 4, "duplicate": 3}
    assert world.pipeline.intake.repeated == 3
    assert audit(world.reader).problems == ()


@pytest.mark.parametrize("checkpoint", [False, True])
def test_retained_bytes_are_recognised_after_a_crash_and_when_the_event_is_gone(
    world: World, checkpoint: bool
) -> None:
    live = world.reading("a", 1)
    world.take_in(live)
    if checkpoint:
        world.checkpoint()
    for _ in range(2):
        world.crash()
        world.take_in(live._replace(retain=True))
    assert world.outcomes() == {"buffered": 1, "duplicate": 2}


def test_events_keep_what_the_device_and_the_gateway_said_about_time(world: World) -> None:
    world.clock.advance(7)
    world.take_in(world.reading("a", 3), world.message("words/a", b"5"))
    assert rows(world, "event_time, ingest_time, device_time") == [
        (EPOCH_MS + 3000, EPOCH_MS + 7, EPOCH_MS + 3000),
        (EPOCH_MS + 7, EPOCH_MS + 7, None),
    ]


def test_the_priorities_of_windows_are_those_of_their_aggregates(tmp_path: Path) -> None:
    world = World(tmp_path, window_priorities={"minute": Priority.HIGH})
    world.take_in(world.reading("a", 1), world.reading("a", 130), world.reading("a", 2))
    found = sql(
        world.path,
        "SELECT DISTINCT name, kind, priority FROM buffer_events JOIN streams ON stream = streams.id"
        " WHERE kind <> 0 AND name LIKE '%minute%'",
    )
    assert sorted(found) == [
        ("gateway/g1/aggregates/minute/a", Kind.AGGREGATE, Priority.HIGH),
        ("gateway/g1/late/minute", Kind.AUDIT, Priority.LOW),
    ]
    world.close()


numbers = st.integers() | st.floats() | st.sampled_from([2**63, -(2**63), 10**400, 1e308, -0.0])
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
broken_payloads = (
    st.binary(max_size=30)
    | st.builds(lambda v: json.dumps(v).encode(), values)
    | st.builds(lambda t, v: json.dumps({"t": t, "v": v}).encode(), values, values)
    | st.builds(lambda n: str(n).encode(), numbers)
)
odd_topics = st.sampled_from(["s/a", "words/a", "fresh/a"]) | st.builds(
    "s/{}".format, st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/+#\0"), max_size=5)
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(odd_topics, broken_payloads, st.booleans()), min_size=1, max_size=20))
def test_no_payload_stops_the_pipeline(sent: list[tuple[str, bytes, bool]]) -> None:
    folder = Path(tempfile.mkdtemp())
    world = World(folder, (*WINDOWS, *TIMED_WINDOWS))
    for topic, payload, retain in sent:
        world.take_in(world.message(topic, payload, retain=retain))
        world.tick(1_000)
    world.crash()
    world.tick(100_000)
    assert sum(world.outcomes().values()) == len(sent)
    assert audit(world.reader).problems == ()
    for topic, *_ in world.derived:
        check_topic(str(topic))
    world.close()
    shutil.rmtree(folder)


# --- topics ---


def test_subscriptions_that_another_one_covers_are_left_out_at_its_quality() -> None:
    routes = RouteTable(
        [
            RouteSpec("one", "a/{x}/c", qos=2),
            RouteSpec("all", "a/{rest...}", qos=0),
            RouteSpec("other", "b/+", qos=1),
            RouteSpec("same", "b/{x}", qos=0),
        ]
    )
    pipeline = Pipeline(OUTPUT, routes, partial(WindowEngine, (), {}), ManualClock())
    assert pipeline.intake.subscriptions() == {"a/#": 2, "b/+": 1}


# --- windows, crashes, rollbacks ---


def test_events_and_the_aggregates_they_close_are_one_commit(world: World) -> None:
    world.take_in(world.reading("a", 1, 5.0), world.reading("a", 2, 7.0))
    with pytest.raises(ZeroDivisionError), world.store.transaction():
        world.pipeline.take_in(world.store, [world.reading("a", 130)])
        raise ZeroDivisionError
    world.catch_up()
    world.look()
    assert world.derived == []
    world.take_in(world.reading("a", 130))
    assert world.emitted("minute") == [("a", 0, 2, 12.0)]


def test_a_restart_replays_what_came_after_the_checkpoint(world: World) -> None:
    world.take_in(world.reading("a", 1), world.reading("b", 2))
    world.checkpoint()
    world.take_in(world.reading("a", 3), world.reading("a", 4), world.reading("a", 5))
    world.crash()
    assert world.replayed == 3
    world.checkpoint()
    world.crash()
    assert world.replayed == 0
    world.take_in(world.reading("a", 130), world.reading("b", 130))
    assert sorted(world.emitted("minute")) == [("a", 0, 4, 4.0), ("b", 0, 1, 1.0)]


def test_a_corrupt_event_does_not_keep_the_gateway_from_starting(world: World) -> None:
    world.take_in(*(world.reading("a", second, second) for second in range(1, 4)))
    sql(world.path, "UPDATE buffer_events SET payload = CAST('?' AS BLOB), codec = 1 WHERE id = 2")
    world.crash()
    assert world.replayed == 2
    world.take_in(world.reading("a", 130))
    assert world.emitted("minute") == [("a", 0, 2, 4.0)]


messages = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 200), st.integers(-5, 5)), min_size=1, max_size=6
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("messages"), messages),
        st.tuples(st.just("messages"), messages),
        st.tuples(st.just("tick"), st.integers(0, 4_000)),
        st.tuples(st.just("checkpoint")),
        st.tuples(st.just("sync")),
        st.tuples(st.just("crash")),
        st.tuples(st.just("rollback"), messages),
    ),
    min_size=2,
    max_size=25,
)


def run(world: World, script: list[tuple[Any, ...]], *, breaking: bool) -> None:
    """Play the script; without `breaking` nothing crashes and no transaction is rolled back."""
    last: list[Message] = []
    for name, *arguments in script:
        if name == "messages":
            last = [world.reading(*reading) for reading in arguments[0]]
            world.take_in(*last)
        elif name == "tick":
            world.tick(arguments[0])
        elif name == "checkpoint" and breaking:
            world.checkpoint()
        elif name == "sync":
            world.sync_all()
        elif name == "crash" and breaking:
            world.crash()
            before = world.outcomes().get("duplicate", 0)
            world.take_in(*(message._replace(dup=True, epoch=2) for message in last))
            assert world.outcomes().get("duplicate", 0) == before + len(last), "the broker heard no PUBACK"
        elif name == "rollback":
            last = [world.reading(*reading) for reading in arguments[0]]
            if breaking:
                with pytest.raises(ZeroDivisionError), world.store.transaction():
                    world.pipeline.take_in(world.store, last)
                    world.pipeline.tick(world.store)
                    world.pipeline.checkpoint(world.store)
                    raise ZeroDivisionError
                world.catch_up()
            world.take_in(*last)
        check_nothing_past_the_checkpoint_is_gone(world)


def check_nothing_past_the_checkpoint_is_gone(world: World) -> None:
    newest, checkpoint_id = world.store.last_id(), world.store.meta_int(CHECKPOINT_ID)
    ((here,),) = rows(world, "count(*)", f"id > {checkpoint_id}")
    assert here == newest - checkpoint_id


def finish(world: World) -> None:
    """Close every window and take stock."""
    world.take_in(*(world.reading(device, 10_000) for device in "ab"))
    world.tick(100)
    identities = Counter(event_id for _, _, event_id, _ in world.derived)
    assert all(count == 1 for count in identities.values()), "an aggregate stands twice"
    assert audit(world.reader).problems == ()
    world.close()


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps)
def test_crashes_and_rollbacks_change_no_aggregate(script: list[tuple[Any, ...]]) -> None:
    folder = Path(tempfile.mkdtemp())
    results = []
    for breaking in (False, True):
        (folder / str(breaking)).mkdir()
        world = World(folder / str(breaking), checkpoint_interval_ms=3_000, keep_synced_ms=2_000)
        run(world, script, breaking=breaking)
        finish(world)
        results.append(sorted(world.derived, key=lambda row: row[:2]))
    shutil.rmtree(folder)
    assert results[0] == results[1]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps)
def test_no_aggregate_stands_twice_when_time_closes_windows_too(script: list[tuple[Any, ...]]) -> None:
    folder = Path(tempfile.mkdtemp())
    world = World(folder, TIMED_WINDOWS, checkpoint_interval_ms=3_000, keep_synced_ms=2_000)
    run(world, script, breaking=True)
    finish(world)
    shutil.rmtree(folder)


def test_an_aggregate_that_time_alone_brought_about_is_not_emitted_again_after_a_crash(
    tmp_path: Path,
) -> None:
    idle = window("idle", size_ms=20_000, idle_timeout_ms=5_000)
    world = World(tmp_path, (idle,), checkpoint_interval_ms=10**9)
    world.take_in(world.reading("a", 1))
    for _ in range(12):
        world.tick(5_000)
    assert len(world.derived) == 1
    world.crash()
    for _ in range(12):
        world.tick(5_000)
    assert len(world.derived) == 1
    world.close()


def test_an_aggregate_that_is_missing_after_a_crash_is_stored_with_the_next_tick(world: World) -> None:
    """As when a window was added while the gateway was down."""
    world.take_in(world.reading("a", 1), world.reading("a", 130))
    world.windows = (*WINDOWS, window("added", size_ms=60_000))
    world.crash()
    world.tick()
    assert world.emitted("added") == [("a", 0, 1, 1.0)]
    assert audit(world.reader).problems == ()


# --- checkpoints and eviction ---


def test_a_checkpoint_is_due_after_its_interval_and_only_when_something_changed(tmp_path: Path) -> None:
    world = World(tmp_path, checkpoint_interval_ms=5_000)
    world.tick()
    world.take_in(world.reading("a", 1))
    world.tick(4_000)
    assert world.store.meta_int(CHECKPOINT_ID) == 0
    world.tick(1_000)
    assert world.store.meta_int(CHECKPOINT_ID) == 1
    before = world.store._connection.total_changes()
    world.tick(5_000)
    assert world.store._connection.total_changes() == before, "an idle gateway writes nothing"
    world.close()


def test_synced_events_go_when_they_are_old_enough(tmp_path: Path) -> None:
    world = World(tmp_path, (), keep_synced_ms=10_000, checkpoint_interval_ms=1_000)
    world.take_in(world.reading("a", 1), world.reading("a", 2))
    world.sync_all()
    world.take_in(world.reading("a", 3))
    world.tick(9_000)
    assert rows(world, "id") == [(1,), (2,), (3,)]
    world.tick(1_001)
    assert rows(world, "id") == [(3,)], "what is pending stays"
    assert world.store.counts["evicted", "synced"] == 2
    assert audit(world.reader).problems == ()
    world.close()


def test_what_is_synced_later_is_evicted_later(tmp_path: Path) -> None:
    world = World(tmp_path, (), keep_synced_ms=1_000, checkpoint_interval_ms=1_000)
    world.take_in(world.reading("a", 1))
    for _ in range(5):
        world.tick(1_000)
    world.sync_all()
    for _ in range(3):
        world.tick(1_000)
    assert rows(world, "id") == []
    world.close()


def test_a_buffer_that_fills_up_before_the_next_checkpoint_is_due_takes_one_and_keeps_its_size(
    tmp_path: Path,
) -> None:
    max_bytes = 1024 * 1024
    world = World(tmp_path, (), max_size_bytes=max_bytes, checkpoint_interval_ms=1_000_000)
    world.tick()
    for start in range(0, 20_000, 500):
        world.take_in(*(world.reading("a", number) for number in range(start, start + 500)))
        world.tick(250)
        assert world.store.file.used_bytes() <= max_bytes
    assert world.store.counts["evicted", "thinned"] > 0
    assert audit(world.reader).problems == ()
    world.close()


def test_an_event_from_before_the_clock_was_set_back_does_not_hold_up_eviction(tmp_path: Path) -> None:
    world = World(tmp_path, (), keep_synced_ms=1_000, checkpoint_interval_ms=1_000)
    world.clock.jump(86_400_000)
    world.take_in(world.reading("a", 1))
    world.clock.jump(-86_400_000)
    world.take_in(world.reading("a", 2), world.reading("a", 3))
    world.sync_all()
    for _ in range(3):
        world.tick(1_000)
    assert rows(world, "id") == [(1,)]
    world.close()


def test_eviction_never_passes_the_checkpoint(tmp_path: Path) -> None:
    world = World(tmp_path, keep_synced_ms=0, checkpoint_interval_ms=1_000_000)
    world.tick()
    world.take_in(world.reading("a", 1), world.reading("a", 2))
    world.sync_all()
    for _ in range(5):
        world.tick(10_000)
        assert rows(world, "id") == [(1,), (2,)]
    world.checkpoint()
    world.take_in(world.reading("a", 3), world.reading("a", 4))
    world.sync_all()
    world.tick(1)
    assert rows(world, "id") == [(3,), (4,)]
    world.close()


def test_a_checkpoint_that_was_rolled_back_lets_nothing_be_evicted(tmp_path: Path) -> None:
    world = World(tmp_path, keep_synced_ms=0, checkpoint_interval_ms=10**9)
    world.tick()
    world.take_in(world.reading("a", 1))
    world.sync_all()
    with pytest.raises(ZeroDivisionError), world.store.transaction():
        world.pipeline.checkpoint(world.store)
        raise ZeroDivisionError
    world.catch_up()
    world.tick(10)
    assert rows(world, "id") == [(1,)]
    world.crash()
    assert world.replayed == 1
    world.close()


# --- commands ---


def test_a_batch_is_acknowledged_after_its_commit_and_only_then(world: World) -> None:
    batch = [world.reading("a", 1)]
    seen: list[object] = []

    def acknowledge(messages: Sequence[Message]) -> None:
        with_reader = Reader(world.path)
        seen.append((messages, with_reader.count_by_status()))
        with_reader.close()

    writer = Writer(world.store)
    writer.submit(AppendBatch(world.pipeline, batch, acknowledge, lambda *_: seen.append("failed")))
    writer.start(Tick(world.pipeline, lambda: None))
    assert writer.stop()
    assert seen == [(batch, {int(Status.PENDING): 1})]


def test_a_batch_with_a_defect_is_given_back_and_one_that_the_disk_refused_is_not(world: World) -> None:
    batch = [world.reading("a", 1)]
    given_back: list[object] = []
    command = AppendBatch(world.pipeline, batch, given_back.append, lambda *both: given_back.append(both))
    command.failed(OSError("No space left on device"))
    assert given_back == [], "it is not acknowledged, so the broker sends it again"
    error = ZeroDivisionError()
    command.failed(error)
    assert given_back == [(batch, error)]
    assert (command.weight, command.size_bytes) == (1, len(batch[0].payload))


def test_a_stream_keeps_counting_over_kinds_and_restarts(world: World) -> None:
    append(world.store, [event("s/a")])
    world.take_in(world.reading("a", 1), world.reading("a", 2))
    world.crash()
    world.take_in(world.reading("a", 3))
    assert rows(world, "sequence_num") == [(1,), (2,), (3,), (4,)]


def test_events_that_fail_are_announced_once_and_across_a_crash(world: World) -> None:
    def fail(count: int) -> None:
        with world.store.transaction():
            world.store.move(world.store.claim(count), Status.SYNCING, DeliveryEvent.EXHAUSTED)

    def announced() -> list[int]:
        rows = world.reader.derived_after(0, 100)
        found = map(orjson.loads, world.reader.payloads(rows))
        return [alert["events"] for alert in found if alert.get("alert") == "failed"]

    world.take_in(*(world.reading("a", n) for n in range(10)))
    world.tick()
    assert announced() == []
    fail(3)
    world.crash()  # before anything was said
    world.tick()
    world.tick()
    assert announced() == [3]
    with world.store.transaction():
        world.store.move([1, 2], Status.FAILED, DeliveryEvent.RETRY)
    world.tick()
    fail(1)
    world.crash()
    world.tick()
    assert announced() == [3, 1]


# --- time ---


def test_events_that_came_while_the_time_was_unknown_say_so_and_judge_no_devices_clock(
    tmp_path: Path,
) -> None:
    certain = False
    world = World(tmp_path, is_certain=lambda: certain)
    world.take_in(world.reading("a", 1), world.reading("b", 9_999_999))
    assert world.pipeline.intake.devices.watched == 0
    certain = True
    world.take_in(world.reading("a", 2))
    assert rows(world, f"flags & {int(Flag.TIME_UNCERTAIN)} > 0") == [(1,), (1,), (0,)]
    assert world.pipeline.intake.devices.watched == 1
    world.close()


def test_skewed_clocks_count_per_route_and_kind(tmp_path: Path) -> None:
    policy = RouteSpec("skewed", "k/{device}", timestamp_path="t", timestamp_format="unix_ms")
    world = World(tmp_path, routes=(*ROUTES, policy))
    for off_s in (0, 0.5, 60, -60, 7200, -7200):
        world.take_in(world.message("k/a", {"t": EPOCH_MS + round(off_s * 1000), "v": 1}))
    assert world.pipeline.intake.skew == {
        ("skewed", "future"): 2,
        ("skewed", "blended"): 2,
        ("skewed", "large"): 2,
    }
    world.close()


def test_a_device_whose_clock_is_wrong_is_announced_once(tmp_path: Path) -> None:
    world = World(tmp_path)
    for _ in range(4):
        world.take_in(world.reading("a", 3600 + (world.clock.now_ms() - EPOCH_MS) / 1000))
        world.tick(61_000)
    alerts = [payload for _, _, _, payload in world.derived if "alert" in payload]
    assert [alert["alert"] for alert in alerts] == ["device_clock"]
    assert "s/a" in alerts[0]["message"]
    world.close()


def test_a_window_that_turns_keys_away_is_announced_once_and_again_after_a_rollback(tmp_path: Path) -> None:
    world = World(tmp_path, [window("few", size_ms=60_000, max_keys=2)])

    def alerts() -> list[str]:
        return [payload["message"] for *_, payload in world.derived if payload.get("alert") == "max_keys"]

    world.take_in(*(world.reading(device, 1) for device in "ab"))
    world.tick(250)
    assert alerts() == []
    world.take_in(world.reading("c", 2))
    world.tick(250)
    world.take_in(world.reading("d", 3))
    world.tick(250)
    assert [text.split(";")[0] for text in alerts()] == ["window few has 2 keys and takes no further ones"]
    world.checkpoint()
    world.catch_up()
    world.take_in(world.reading("d", 4))
    world.tick(250)
    assert len(alerts()) == 2
    world.close()


# --- old is not new ---

CLOCKED = window("clocked", route="clocked", size_ms=60_000, watermark="per_key")
HOUR_S = 3_600


def test_a_cached_state_is_stored_with_its_own_time_and_is_in_no_window(tmp_path: Path) -> None:
    """A sensor that died six hours ago, whose last state comes again at every restart of its bridge."""
    world = World(tmp_path, (CLOCKED,))
    try:
        before = {"t": EPOCH_MS, "v": 12.0}
        world.take_in(world.message("clocked/cellar", before))
        world.clock.advance(6 * HOUR_S * 1000)
        world.take_in(world.message("clocked/cellar", before))
        world.crash()
        for value in (13.0, 14.0):
            world.take_in(world.message("clocked/cellar", {"t": world.clock.now_ms(), "v": value}))
            world.clock.advance(60_000)
        times = rows(world, "event_time, flags")
        assert times[1] == (EPOCH_MS, Flag.CLOCK_SKEW | Flag.OLD)
        assert [one[2:] for one in world.emitted("clocked")] == [(1, 12.0), (1, 13.0)]
        assert world.pipeline.intake.oddities == {}, "counted by the pipeline before the crash"
    finally:
        world.close()


def test_a_first_reading_of_hours_ago_is_marked_and_in_no_window(tmp_path: Path) -> None:
    world = World(tmp_path, (CLOCKED,))
    try:
        old = {"t": EPOCH_MS - 7 * HOUR_S * 1000, "v": 12.0}
        world.take_in(world.message("clocked/hall", old))
        assert world.pipeline.intake.oddities["clocked", "old"] == 1
        assert world.pipeline.windows.counters["clocked"].events == 0
        ((flags,),) = rows(world, "flags")
        assert flags & Flag.OLD
        # But it is a clock that is slow: from the next reading on it is corrected.
        world.clock.advance(10_000)
        world.take_in(world.message("clocked/hall", {"t": old["t"] + 10_000, "v": 12.0}))
        assert world.pipeline.windows.counters["clocked"].events == 1
        assert rows(world, "event_time")[1] == (world.clock.now_ms(),)
    finally:
        world.close()
