"""Plain messages take a short way that ends in the same events, counters and windows as the long one."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gateway.buffer.reader import Reader
from gateway.buffer.store import Store
from gateway.core.events import Message, Reading
from gateway.core.own_topics import OwnTopics
from gateway.decode.forwarding import ForwardSpec
from gateway.decode.routes import RouteSpec, RouteTable
from gateway.pipeline.pipeline import Pipeline
from gateway.testing import ManualClock
from gateway.windows.engine import WindowEngine
from gateway.windows.plugin import value_adder
from gateway.windows.spec import WindowSpec
from tests.support.windowing import shipped

NOW_MS = 1_700_000_000_000
_ROWS = """
SELECT stream, sequence_num, event_time, device_time, ingest_time, status, kind, flags, priority
FROM buffer_events ORDER BY id
"""
ROUTES = (
    RouteSpec("timed", "t/{device}", fields={"v": "v", "w": "in.w"}, timestamp_path="at",
              timestamp_format="unix_ms"),
    RouteSpec("open", "o/{device}", forward=ForwardSpec(False, {"v": 0.5})),
)  # fmt: skip


def window(name: str, kind: str = "tumbling", **more: Any) -> WindowSpec:
    more = {"route": "timed", "fields": ("v",), "key": "{device}", "size_ms": 1000, **more}
    return WindowSpec(name, kind, **more)  # type: ignore[arg-type]


WINDOWS = (
    window("plain", allowed_lateness_ms=500),
    window("per key", watermark="per_key", out_of_orderness_ms=200),
    window("hopping", "hopping", slide_ms=300, out_of_orderness_ms=300),
    window("new only", "hopping", slide_ms=500, mode="discarding"),
    window("learning", idle_timeout_ms=1_000, idle_learns=True, max_future_skew_ms=5_000),
    window("learning per key", watermark="per_key", idle_timeout_ms=1_000, idle_learns=True, ttl_ms=3_000),
    window("both", fields=("v", "w"), ttl_ms=3_000),
    window("eager", early_count=3),
    window("session", "session", size_ms=None, gap_ms=400),
    window("of the open", route="open", key="{kind}"),
    window("traced", quality=True, out_of_orderness_ms=100),
    window("counted", "count", size_ms=None, count=7, plugin="counter"),
)


class PlainPlugin:
    """`stats` without `add_value`."""

    def __init__(self) -> None:
        for name in ("create_accumulator", "merge_accumulators", "extract_output"):
            setattr(self, name, getattr(shipped("stats"), name))

    def add_input(self, accumulator: Any, reading: Reading) -> Any:
        if reading.value == 13:
            raise ValueError("unlucky")
        return shipped("stats").add_input(accumulator, reading)


def messages() -> list[Message]:
    draw = random.Random(3)
    made = []
    for number in range(1_500):
        arrival_ms = NOW_MS + number * 7
        values: list[Any] = [draw.gauss(20, 3), draw.randrange(30), 13, True, "21.5", None, 1e300]
        reading = {
            "v": draw.choices(values, (9, 9, 1, 1, 1, 1, 1))[0],
            "in": {"w": draw.random()} if draw.random() < 0.9 else 5,
            "kind": draw.choice("ab"),
            "at": arrival_ms - draw.choice([0, 3, 700, 5_000, -9_000]) if draw.random() < 0.95 else "never",
        }
        payload = json.dumps(reading).encode() if draw.random() < 0.98 else b"{"
        topic = f"{draw.choice('tto')}/{draw.choice('xyz')}"
        packet_id, dup = number % 200 + 1, draw.random() < 0.05
        retain = draw.random() < 0.02
        made.append(Message(topic, payload, draw.choice([0, 1, 1]), retain, dup, packet_id, 1, arrival_ms))
    return made


def outcome(folder: Path, *, short_way: bool) -> list[Any]:
    """Everything that can be seen of 1,500 messages: rows, counters, devices, the state of windows."""
    folder.mkdir()
    store = Store(folder / "events.db", "normal")
    store.open()
    plugins: dict[str, Any] = {spec.name: shipped(spec.plugin) for spec in WINDOWS}
    plugins["eager"] = plugins["per key"] = PlainPlugin()
    routes = RouteTable(ROUTES)
    if not short_way:
        for route in routes.routes:
            route.read_plain = None
    engine = partial(WindowEngine, WINDOWS, plugins)
    clock = ManualClock(NOW_MS)
    pipeline = Pipeline(OwnTopics("gateway", "g"), routes, engine, clock)
    reader = Reader(folder / "events.db")
    try:
        with store.transaction():
            pipeline.restore(store, reader)
        made = messages()
        for start in range(0, len(made), 100):
            with store.transaction():
                pipeline.take_in(store, made[start : start + 100])
            clock.advance(700)
        intake = pipeline.intake
        found: list[Any] = [
            store._connection.execute(_ROWS).fetchall(),
            reader.payloads(reader.derived_after(0, 10_000)),
            dict(store.counts),
            [dict(each) for each in (intake.problems, intake.misses, intake.oddities, intake.skew)],
            intake.presence.devices(NOW_MS),
            {name: dict(intake.presence.sources(name)) for name in "xyz"},
            intake.devices.all(),
            pipeline.windows.counters,
            pipeline.windows.take_changes(),
        ]
    finally:
        reader.close()
        store.close()
    return found


def test_plain_messages_end_as_they_would_on_the_long_way(tmp_path: Path) -> None:
    short, long = outcome(tmp_path / "short", short_way=True), outcome(tmp_path / "long", short_way=False)
    for one, other in zip(short, long, strict=True):
        assert one == other


class Changed(type(shipped("stats"))):  # type: ignore[misc] # a class that is only known when it is loaded
    def add_input(self, accumulator: Any, reading: Reading) -> Any:
        return super().add_input(accumulator, reading._replace(value=-reading.value))


def test_a_subclass_that_changes_how_readings_are_added_is_not_passed_by() -> None:
    assert value_adder(shipped("stats")) is not None
    assert value_adder(Changed()) is None


def test_the_topics_used_last_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    from gateway.pipeline import topic_plans  # noqa: PLC0415 - to change it

    monkeypatch.setattr(topic_plans, "MOST_TOPICS", 3)
    plans = topic_plans.TopicPlans(OwnTopics("gateway", "g"), RouteTable(ROUTES))
    first = plans.of("t/0")
    for number in range(5):
        plans.of(f"t/{number}")
        assert plans.of("t/0") is first
    assert len(plans) == 3
