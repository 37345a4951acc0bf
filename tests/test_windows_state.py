"""What a checkpoint holds, and what a restart makes of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from windowing import Timeline, seen, shipped, spec

from gateway.windows.engine import WindowEngine
from gateway.windows.plugin import CombineFn
from gateway.windows.spec import WindowSpec

Rows = list[tuple[str, bytes, bytes]]


def rows_of(engine: WindowEngine) -> Rows:
    return [(window, row, state) for window, row, state in engine.take_changes() if state is not None]


@pytest.mark.parametrize("watermark", ["shared", "per_key"])
def test_lateness_is_judged_after_a_restart_as_before(watermark: str) -> None:
    run = Timeline(spec(size_ms=10, watermark=watermark, allowed_lateness_ms=10))
    run.event(1)
    run.event(12)
    again = run.restarted()
    assert seen(again.event(2)) == [("correction", 0, 10, 2.0)]
    again.event(20)
    assert seen(again.restarted().event(3)) == [("dropped", 3)]


def test_a_session_that_fired_can_be_joined_after_a_restart() -> None:
    run = Timeline(spec("session", gap_ms=10, allowed_lateness_ms=50))
    run.event(0)
    run.event(40, key="clock")
    again = run.restarted()
    (late,) = again.restarted().event(9)
    assert late.replaces == ((0, 10),)


def test_only_what_changed_is_written() -> None:
    run = Timeline(spec(size_ms=10, watermark="per_key"))
    for key in ("a", "b"):
        run.event(1, key=key)
    assert {row for _, row, _ in run.engine.take_changes()} == {b"w", b"ka", b"kb"}
    run.event(2, key="b")
    assert {row for _, row, _ in run.engine.take_changes()} == {b"kb"}
    assert run.engine.take_changes() == []


def test_a_key_without_windows_leaves_the_checkpoint() -> None:
    run = Timeline(spec(size_ms=10))
    run.event(1, key="a")
    run.engine.take_changes()
    run.event(30, key="b")
    assert ("w", b"ka", None) in run.engine.take_changes()


class Doubling:
    """Plugin code that is not that of stats."""

    def create_accumulator(self) -> Any:
        return 0.0

    def add_input(self, acc: Any, reading: Any) -> Any:
        return acc + 2 * reading.value

    def merge_accumulators(self, accumulators: Any) -> Any:
        return sum(accumulators)

    def extract_output(self, acc: Any) -> Any:
        return acc


def restart(
    before: WindowSpec, after: WindowSpec, plugin: CombineFn, code: str
) -> tuple[WindowEngine, list[str]]:
    old = WindowEngine([before], {"w": shipped("stats")}, {"w": "v1"})
    run = Timeline(before)
    run.engine = old
    run.event(1)
    run.event(2, key="j")
    new = WindowEngine([after], {"w": plugin}, {"w": code})
    return new, new.restore(rows_of(old))


def test_state_of_other_plugin_code_is_dropped_counted_and_said() -> None:
    window = spec(size_ms=10)
    engine, notes = restart(window, window, Doubling(), "v2")
    assert len(notes) == 1
    assert "2 keys" in notes[0]
    assert engine.counters["w"].state_dropped == 2
    run = Timeline(window)
    run.engine = engine
    run.event(3, 5.0)
    assert seen(run.end()) == [("on_time", 0, 10, 10.0)]


@pytest.mark.parametrize(
    "change",
    [{"options": {"x": 1}}, {"size_ms": 20}, {"key": "{key}x"}, {"offset_ms": 5}, {"fields": ("v",)}],
)
def test_state_of_other_options_or_another_shape_is_dropped(change: dict[str, Any]) -> None:
    _, notes = restart(spec(size_ms=10), spec(**{"size_ms": 10} | change), shipped("stats"), "v1")
    assert len(notes) == 1


@pytest.mark.parametrize(
    "change",
    [{"allowed_lateness_ms": 5}, {"idle_timeout_ms": 9}, {"max_keys": 7}, {"out_of_orderness_ms": 3}],
)
def test_state_outlives_changes_that_it_does_not_depend_on(change: dict[str, Any]) -> None:
    engine, notes = restart(spec(size_ms=10), spec(size_ms=10, **change), shipped("stats"), "v1")
    assert notes == []
    assert [one.count for one in engine.flush()] == [1, 1]


def test_rows_that_do_not_fit_are_deleted_with_the_next_checkpoint() -> None:
    window = spec(size_ms=10)
    engine, _ = restart(window, window, Doubling(), "v2")
    changes = dict.fromkeys((window, row) for window, row, _ in engine.take_changes())
    deleted = {("w", b"kk"), ("w", b"kj"), ("w", b"st/s")}
    assert deleted <= changes.keys()


def test_state_of_a_window_that_is_gone_is_deleted() -> None:
    run = Timeline(spec(size_ms=10))
    run.event(1)
    engine = WindowEngine([], {})
    assert len(engine.restore(rows_of(run.engine))) == 1
    assert {state for _, _, state in engine.take_changes()} == {None}


def test_damaged_state_is_dropped_and_said_and_does_not_stop_the_start() -> None:
    run = Timeline(spec(size_ms=10))
    run.event(1)
    rows = [
        (window, row, state[:-3] if row[:1] == b"k" else state) for window, row, state in rows_of(run.engine)
    ]
    fresh = Timeline(run.window)
    (note,) = fresh.engine.restore(rows)
    assert "damaged" in note
    fresh.event(3)
    assert seen(fresh.end()) == [("on_time", 0, 10, 1.0)]


def test_an_idle_source_is_idle_after_a_restart_too() -> None:
    run = Timeline(spec(size_ms=10, idle_timeout_ms=100))
    run.event(2, source="b", at=2)
    run.event(60, source="a", at=60)
    run.restarted()
    run.tick(102)
    assert seen(run.restarted().event(70, source="a", at=103)) == [("on_time", 60, 70, 1.0)]


def test_sources_that_were_forgotten_leave_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.windows.watermark.MAX_SOURCES", 3)
    run = Timeline(spec(size_ms=10, idle_timeout_ms=100))
    for source in "abc":
        run.event(2, source=source, at=2)
    run.engine.take_changes()
    run.tick(200)
    run.engine.take_changes()
    run.event(300, source="d", at=300)
    assert {row for _, row, state in run.engine.take_changes() if state is None} >= {
        b"st/a",
        b"st/b",
        b"st/c",
    }


@pytest.mark.parametrize("window", [spec(size_ms=10), spec("hopping", size_ms=10, slide_ms=4)])
def test_what_no_window_needs_any_more_is_forgotten(window: WindowSpec) -> None:
    run = Timeline(replace(window, watermark="per_key"))
    run.event(0)
    run.event(500)
    once = rows_of(run.engine)
    for time_ms in range(500, 5_001, 3):
        run.event(time_ms)
    later = {row: state for _, row, state in rows_of(run.engine)}
    assert len(later[b"kk"]) < 4 * max(len(state) for _, row, state in once if row == b"kk")
    assert run.counters.open_windows <= 3


def test_two_lives_of_a_global_key_do_not_share_identities() -> None:
    run = Timeline(spec("global", trigger_count=1, ttl_ms=100))
    first = run.event(1, at=1)
    run.tick(500)
    assert first[0].identity != run.event(501, at=501)[0].identity
