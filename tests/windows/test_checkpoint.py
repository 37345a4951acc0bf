"""What a checkpoint holds, and what a restart makes of it."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import Any

import pytest

from gateway.core.events import Sample
from gateway.windows.engine import WindowEngine, gathered
from gateway.windows.plugin import CombineFn
from gateway.windows.spec import WindowSpec
from tests.support.windowing import Timeline, seen, shipped, spec

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
    assert {row for _, row, _ in run.engine.take_changes()} == {b"!", b"ka", b"kb"}
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


# --- keys that are not in memory ---


class Spilling:
    """An engine that keeps one key in memory, over a checkpoint in a dict."""

    def __init__(self, window: WindowSpec) -> None:
        self.rows: dict[tuple[str, bytes], bytes] = {}
        self.fetched: list[bytes] = []
        self.run = Timeline(window)
        self.run.engine = WindowEngine([window], {"w": shipped("stats")}, fetch=self._fetch, hot_keys=1)

    def _fetch(self, window: str, row: bytes) -> bytes | None:
        self.fetched.append(row)
        return self.rows.get((window, row))

    def checkpoint(self) -> None:
        for window, row, state in self.run.engine.take_changes():
            if state is None:
                self.rows.pop((window, row), None)
            else:
                self.rows[window, row] = state


def test_keys_beyond_those_in_memory_are_read_back_when_something_happens_to_them() -> None:
    spilling = Spilling(spec(size_ms=100))
    run = spilling.run
    for key in "abc":
        run.event(1, key=key)
    spilling.checkpoint()
    assert (run.counters.keys, run.counters.cold_keys, run.counters.open_windows) == (3, 2, 3)
    run.event(2, key="a")
    assert spilling.fetched == [b"ka"]
    assert (run.counters.keys, run.counters.cold_keys, run.counters.open_windows) == (3, 1, 3)
    assert [(one.key, one.count) for one in run.event(100, key="d")] == [("a", 2), ("b", 1), ("c", 1)]
    spilling.checkpoint()
    assert {row for _, row in spilling.rows if row[:1] == b"k"} == {b"kd"}


def test_the_key_that_was_used_last_stays_in_memory() -> None:
    spilling = Spilling(spec(size_ms=100))
    for key in "aba":
        spilling.run.event(1, key=key)
    spilling.checkpoint()
    spilling.run.event(2, key="a")
    spilling.checkpoint()
    spilling.run.event(3, key="a")
    assert spilling.fetched == [b"ka"]


def test_a_key_that_its_topic_tells_is_found_again_after_it_was_written_out() -> None:
    spilling = Spilling(spec(size_ms=100, key="{device}", topic="t/{device}"))
    for device in "ab":
        spilling.run.event(1, source=device)
    spilling.checkpoint()
    for device in "ab":
        spilling.run.event(2, source=device)
    assert [(one.key, one.count) for one in spilling.run.end()] == [("a", 2), ("b", 2)]


def test_silent_keys_that_are_not_in_memory_close_their_windows_too() -> None:
    window = spec(size_ms=100, idle_timeout_ms=50, watermark="per_key", ttl_ms=10_000)
    spilling = Spilling(window)
    for key in "abc":
        spilling.run.event(5, key=key, at=1_000)
    for now_ms in (1_010, 1_020, 1_030):
        spilling.checkpoint()
        spilling.run.tick(now_ms)
    assert [one.key for one in spilling.run.tick(1_095)] == ["a", "b", "c"]
    spilling.checkpoint()
    spilling.run.tick(11_000)
    assert (spilling.run.counters.keys, spilling.run.counters.keys_forgotten) == (0, 3)


def test_a_key_that_cannot_be_read_back_is_counted_and_starts_anew() -> None:
    spilling = Spilling(spec(size_ms=100))
    for key in "ab":
        spilling.run.event(1, key=key)
    spilling.checkpoint()
    spilling.rows["w", b"ka"] = b"[1,"
    spilling.run.event(2, key="a")
    assert spilling.run.counters.state_dropped == 1
    assert [(one.key, one.count) for one in spilling.run.end()] == [("a", 1), ("b", 1)]


def test_a_restart_reads_no_more_keys_than_fit() -> None:
    spilling = Spilling(spec(size_ms=100))
    for key in "abc":
        spilling.run.event(1, key=key)
    spilling.checkpoint()
    again = Spilling(spilling.run.window)
    again.rows = dict(spilling.rows)
    assert again.run.engine.restore((*at, state) for at, state in again.rows.items()) == []
    assert (again.run.counters.keys, again.run.counters.cold_keys) == (3, 2)
    assert [one.count for one in again.run.end()] == [1, 1, 1]


def test_the_rows_of_a_checkpoint_take_no_more_memory_than_they_are_long() -> None:
    timeline = Timeline(spec(size_ms=60_000))
    for number in range(2000):
        timeline.event(1, key=f"k{number}")
    tracemalloc.start()
    rows = timeline.engine.take_changes()
    taken_bytes = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(rows) > 2000
    assert taken_bytes / len(rows) < 500


@pytest.mark.parametrize("is_cold", [False, True])
def test_a_key_that_comes_again_owes_its_corrections_no_earlier_than_it_should(is_cold: bool) -> None:
    """
    late      ^(10)      closed(11)        ^(35)
    due                              (40: of its first life)      ^(65)
    """
    window = spec(size_ms=10, allowed_lateness_ms=100, corrections="every", corrections_every_ms=30)
    stored: dict[bytes, bytes | None] = {}
    fetch = (lambda _, row: stored.get(row)) if is_cold else None
    engine = WindowEngine([window], {"w": shipped("stats")}, fetch=fetch, hot_keys=0)

    def feed(time_ms: int, arrival_ms: int, key: str = "k") -> list[tuple[object, ...]]:
        sample = Sample(time_ms, {"key": key, "value": 1.0})
        found = seen(gathered(engine.process("t/s", None, {}, [sample], arrival_ms)))
        stored.update({row: state for _, row, state in engine.take_changes()})
        return found

    feed(1, 0)
    feed(50, 0, "clock")
    assert feed(2, 10) == []
    assert ("correction", 0, 10, 2.0) in feed(200, 11, "clock")
    feed(205, 12)
    feed(260, 13, "clock")
    assert feed(206, 35) == []
    assert seen(gathered(engine.advance(41))) == []
    assert seen(gathered(engine.advance(65))) == [("correction", 200, 210, 2.0)]
