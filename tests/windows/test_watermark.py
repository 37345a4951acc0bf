"""How far event time has come: sources, silence, the future."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.windows.watermark import IdleTimeout, SharedClock
from tests.support.windowing import Timeline, seen, spec


def test_a_shared_watermark_is_that_of_the_slowest_source() -> None:
    run = Timeline(spec(size_ms=10))
    run.event(1, source="a")
    run.event(2, source="b")
    assert run.event(30, source="a") == []
    assert seen(run.event(10, source="b")) == [("on_time", 0, 10, 2.0)]


def test_a_source_that_appears_behind_does_not_take_the_watermark_back() -> None:
    run = Timeline(spec(size_ms=10))
    run.event(20, source="a")
    assert seen(run.event(5, source="b")) == [("dropped", 5)]
    assert run.event(31, source="a") == []
    assert seen(run.event(30, source="b")) == [("on_time", 20, 30, 1.0)]


def test_one_watermark_closes_the_windows_of_all_keys() -> None:
    run = Timeline(spec(size_ms=10, out_of_orderness_ms=2))
    run.event(5, key="k")
    run.event(7, key="j")
    assert seen(run.event(12, key="k")) == [("j", "on_time", 0, 10, 1.0), ("on_time", 0, 10, 1.0)]


def test_with_a_watermark_per_key_each_key_closes_its_own_windows() -> None:
    run = Timeline(spec(size_ms=10, watermark="per_key"))
    run.event(5, key="j")
    run.event(5, key="k")
    assert seen(run.event(12, key="k")) == [("on_time", 0, 10, 1.0)]
    assert seen(run.event(6, key="j") + run.event(10, key="j")) == [("j", "on_time", 0, 10, 2.0)]


def test_a_key_with_its_own_watermark_does_not_reopen_a_window_that_fired() -> None:
    run = Timeline(spec(size_ms=10, watermark="per_key"))
    run.event(5)
    run.event(10)
    run.event(20)
    assert seen(run.event(6)) == [("dropped", 6)]


def test_an_idle_source_leaves_the_minimum() -> None:
    run = Timeline(spec(size_ms=10, idle_timeout_ms=100))
    run.event(1, source="a", at=1)
    run.event(2, source="b", at=2)
    run.event(60, source="a", at=60)
    assert run.tick(101) == []
    assert seen(run.tick(102)) == [("on_time", 0, 10, 2.0)]
    assert run.engine.progressed


def test_an_idle_source_that_comes_back_counts_again() -> None:
    run = Timeline(spec(size_ms=10, idle_timeout_ms=100))
    run.event(2, source="b", at=2)
    run.event(60, source="a", at=60)
    run.tick(102)
    assert run.event(65, source="b", at=110) == []
    assert run.event(99, source="a", at=110) == []
    assert seen(run.event(70, source="b", at=111)) == [("on_time", 60, 70, 2.0)]


def test_when_all_sources_are_idle_time_goes_on_without_them() -> None:
    # last event 5 at arrival 1000; by 1105 event time would be 110
    run = Timeline(spec(size_ms=100, idle_timeout_ms=50))
    run.event(5, at=1_000)
    assert run.tick(1_094) == []
    assert seen(run.tick(1_095)) == [("on_time", 0, 100, 1.0)]


def test_a_stream_that_resumes_after_silence_with_its_old_delay_is_not_late() -> None:
    run = Timeline(spec(size_ms=10, idle_timeout_ms=50))
    run.event(5, at=1_000)
    run.event(995, at=1_990)
    run.tick(2_500)
    assert run.event(2_000, at=2_995) == []


def test_a_silent_key_with_its_own_watermark_closes_its_windows_too() -> None:
    run = Timeline(spec(size_ms=100, idle_timeout_ms=50, watermark="per_key"))
    run.event(5, at=1_000)
    run.event(205, key="j", at=1_000)
    assert run.tick(1_094) == []
    assert seen(run.tick(1_095)) == [("on_time", 0, 100, 1.0), ("j", "on_time", 200, 300, 1.0)]


def test_windows_of_several_keys_that_fall_silent_together_come_by_their_ends_and_then_by_key() -> None:
    """All wait for one tick: what ends first comes first, whichever key it is of and whichever came first."""
    run = Timeline(spec(size_ms=10, idle_timeout_ms=1_000, watermark="per_key"))
    for time_ms, key in [(25, "b"), (5, "z"), (5, "k"), (35, "a"), (15, "m"), (25, "a"), (15, "b")]:
        run.event(time_ms, key=key, at=100)
    assert [(one.end_ms, one.key) for one in run.tick(10_000)] == [
        (10, "k"),
        (10, "z"),
        (20, "m"),
        (30, "b"),
        (40, "a"),
    ]


def test_the_windows_that_one_reading_closes_come_by_their_ends() -> None:
    run = Timeline(spec(size_ms=10, slide_ms=5, watermark="per_key", type="hopping"))
    for time_ms in (1, 6, 11):
        run.event(time_ms)
    assert [one.end_ms for one in run.event(40)] == [15, 20]


def test_without_an_idle_timeout_silence_changes_nothing() -> None:
    for watermark in ("shared", "per_key"):
        run = Timeline(spec(size_ms=100, watermark=watermark))
        run.event(5, at=1_000)
        assert run.tick(10**9) == []
        assert not run.engine.progressed


def test_a_tick_that_finds_nothing_to_do_has_not_progressed() -> None:
    run = Timeline(spec(size_ms=100, idle_timeout_ms=50))
    run.event(5, at=1_000)
    run.tick(1_010)
    assert not run.engine.progressed


def test_silence_of_the_gateway_is_not_silence_of_the_sources() -> None:
    for watermark in ("shared", "per_key"):
        run = Timeline(spec(size_ms=100, idle_timeout_ms=50, watermark=watermark))
        run.event(5, at=1_000)
        run.engine.resume(5_000)
        assert run.tick(5_049) == []
        assert run.event(7, at=5_049) == []


def test_silence_is_noticed_in_time_after_processing_time_was_set_back() -> None:
    for watermark in ("shared", "per_key"):
        run = Timeline(spec(size_ms=10, idle_timeout_ms=100, watermark=watermark))
        run.event(5, at=3_600_000)
        run.engine.resume(1_000)
        assert run.tick(1_099) == []
        assert seen(run.tick(1_105)) == [("on_time", 0, 10, 1.0)]


def test_a_source_heard_after_a_step_back_is_silent_from_then_on() -> None:
    for watermark in ("shared", "per_key"):
        run = Timeline(spec(size_ms=10, idle_timeout_ms=100, watermark=watermark))
        run.event(5, at=3_600_000)
        run.engine.resume(1_000)
        run.event(6, at=1_050)
        assert run.tick(1_149) == []
        assert seen(run.tick(1_160)) == [("on_time", 0, 10, 2.0)]


def test_a_key_outlives_its_time_in_time_after_a_step_back() -> None:
    run = Timeline(spec("session", gap_ms=10, ttl_ms=100, watermark="per_key"))
    run.event(5, at=3_600_000)
    run.engine.resume(1_000)
    assert run.tick(1_099) == []
    assert seen(run.tick(1_100)) == [("on_time", 5, 15, 1.0)]


def test_an_event_from_the_future_is_windowed_but_does_not_push_the_watermark() -> None:
    run = Timeline(spec(size_ms=10, max_future_skew_ms=60))
    run.event(1, at=1)
    assert run.event(5_000, at=2) == []
    assert run.event(3, at=3) == []
    assert run.counters.future_skew == 1
    assert seen(run.event(10, at=10)) == [("on_time", 0, 10, 2.0)]
    assert seen(run.end()) == [("on_time", 10, 20, 1.0), ("on_time", 5_000, 5_010, 1.0)]


def test_a_key_that_only_sends_from_the_future_is_closed_as_time_passes() -> None:
    run = Timeline(spec(size_ms=10, max_future_skew_ms=60, idle_timeout_ms=50, watermark="per_key"))
    run.event(1_000, at=0)
    assert run.tick(500) == []
    assert seen(run.tick(1_010)) == [("on_time", 1_000, 1_010, 1.0)]


def test_many_sources_that_fall_idle_and_return_are_held_once() -> None:
    run = Timeline(spec(size_ms=10, idle_timeout_ms=5))
    for round_ms in range(0, 10_000, 100):
        for source in "abc":
            run.event(round_ms, source=source, at=round_ms)
        run.tick(round_ms + 50)
    operator = run.engine._operators["w"]
    assert len(operator.shared._heap) <= 3  # type: ignore[union-attr]
    assert len(operator.shared._alarms) <= 3  # type: ignore[union-attr]


def test_the_watermark_is_shown() -> None:
    run = Timeline(spec(size_ms=10, out_of_orderness_ms=3))
    assert run.counters.watermark_ms is None
    run.event(25)
    run.tick(30)
    shown = run.counters
    assert (shown.watermark_ms, shown.sources) == (22, 1)


def test_sources_beyond_the_bound_cost_no_look_at_all_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.windows.watermark.MAX_SOURCES", 10)
    clock = SharedClock(0, IdleTimeout(1000))
    looks: list[int] = []
    forget = clock._forget_idle_sources

    def look() -> None:
        looks.append(1)
        forget()

    monkeypatch.setattr(clock, "_forget_idle_sources", look)
    for number in range(100):
        clock.revive(clock.source(f"s{number}"), 0)
    assert len(clock.sources) == 10
    assert len(looks) == 1
    clock.tick(5000)
    clock.revive(clock.source("new"), 5000)
    assert "new" in clock.sources
    assert len(looks) == 2


# --- auto ---


def learning(**more: Any) -> Timeline:
    return Timeline(spec(size_ms=100, idle_timeout_ms=100, idle_learns=True, **more))


@pytest.mark.parametrize("watermark", ["shared", "per_key"])
def test_auto_waits_for_the_windows_size_when_nothing_is_known_of_a_source(watermark: str) -> None:
    run = learning(watermark=watermark)
    run.event(50, at=50)
    assert run.tick(149) == []
    assert seen(run.tick(151)) == [("on_time", 0, 100, 1.0)]


def test_auto_waits_for_three_of_a_sources_own_intervals() -> None:
    # s speaks every 80: idle after 240; until then it holds up fast, which is at 400
    run = learning()
    for at in range(0, 401, 80):
        run.event(at, at=at)
    run = run.restarted()
    run.event(800, source="fast", at=401)
    assert run.tick(639) == []
    assert (400, 500) in [one[1:3] for one in seen(run.tick(640))]


def test_auto_waits_at_most_ten_times_the_windows_size() -> None:
    run = learning()
    for at in range(0, 50_001, 5_000):
        run.event(at, at=at)
    run.event(50_900, source="fast", at=50_001)
    assert run.tick(50_999) == []
    assert (50_000, 50_100) in [one[1:3] for one in seen(run.tick(51_000))]


def test_auto_forgets_one_long_absence() -> None:
    run = learning()
    run.event(0, at=0)
    for at in range(100_000, 102_000, 20):
        run.event(at, at=at)
    assert [one[1:3] for one in seen(run.tick(102_100))] == [(101_900, 102_000)]
