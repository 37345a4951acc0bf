"""What is said about a system clock that was set, stands still or drifts, and about devices' clocks."""

from __future__ import annotations

import random

import pytest

from gateway.timekeeping.devices import BLOCK_MS, DeviceClocks
from gateway.timekeeping.jumps import ClockReading, Jump, JumpWatch

SECOND = 10**9


class Machine:
    """The three clocks of a machine."""

    def __init__(self) -> None:
        self.now = ClockReading(1_700_000_000 * SECOND, 500 * SECOND, 400 * SECOND)
        self.watch = JumpWatch(self.now)

    def run(self, seconds: int = 1, *, wall: float = 1.0) -> list[Jump]:
        """Let time pass; the system clock goes `wall` seconds in each."""
        seen = []
        for _ in range(seconds):
            self.move(round(wall * SECOND), SECOND, SECOND)
            seen += self.watch.look(self.now)
        return seen

    def move(self, wall_ns: int, boot_ns: int = 0, monotonic_ns: int = 0) -> None:
        wall, boot, monotonic = self.now
        self.now = ClockReading(wall + wall_ns, boot + boot_ns, monotonic + monotonic_ns)


@pytest.mark.parametrize(("by_s", "kind"), [(3600, "forward"), (-3600, "backward"), (-1, "backward")])
def test_a_clock_that_is_set_is_seen_once(by_s: int, kind: str) -> None:
    machine = Machine()
    assert machine.run(100) == []
    machine.move(by_s * SECOND)
    (jump,) = machine.run(100)
    assert (jump.kind, round(jump.by_s)) == (kind, by_s)
    assert machine.watch.counts == {kind: 1}


def test_a_suspended_machine_is_no_jump() -> None:
    machine = Machine()
    machine.move(600 * SECOND, 600 * SECOND, 0)
    (jump,) = machine.run(10)
    assert (jump.kind, round(jump.by_s)) == ("suspended", 600)


def test_a_frozen_clock_is_said_once_and_its_return_is_a_jump() -> None:
    machine = Machine()
    assert [jump.kind for jump in machine.run(50, wall=0)] == ["frozen"]
    (jump,) = machine.run(50)
    assert (jump.kind, round(jump.by_s)) == ("backward", -50)


def test_a_smeared_leap_second_is_said_once_while_it_lasts() -> None:
    machine = Machine()
    assert machine.run(600, wall=1 + 5e-6) == []
    assert [jump.kind for jump in machine.run(600, wall=1 - 70e-6)] == ["drifting"]
    assert machine.run(600) == []
    assert "ppm" in str(machine.run(600, wall=1 + 200e-6)[0])


# --- devices ---


def fleet(
    clocks: DeviceClocks, name: str, *, minutes: int, offset_ms: float = 0, ppm: float = 0, backlog: float = 0
) -> int:
    """A device that reports every 5 s, with 20 to 200 ms on the way; returns the time at the end."""
    randomness = random.Random(name)
    now_ms = 0
    for number in range(minutes * 12):
        taken_ms = 10_000_000 + number * 5000
        now_ms = taken_ms + randomness.randint(20, 200) + (3_600_000 if randomness.random() < backlog else 0)
        clocks.observe(name, round(taken_ms + offset_ms + ppm * 1e-6 * number * 5000), now_ms)
    return now_ms


@pytest.mark.parametrize("offset_ms", [-90_000, 0, 7_200_000])
def test_a_devices_offset_is_found_whatever_the_network_adds(offset_ms: int) -> None:
    clocks = DeviceClocks(wrong_ms=5_000)
    fleet(clocks, "a", minutes=20, offset_ms=offset_ms)
    (found,) = clocks.all()
    assert found.offset_ms == pytest.approx(offset_ms, abs=60)
    assert (found.wrong_since_ms is not None) == (offset_ms != 0)
    assert clocks.newly_wrong() == ["a"] * (offset_ms != 0)
    assert clocks.newly_wrong() == []


def test_a_devices_drift_is_found() -> None:
    clocks = DeviceClocks(wrong_ms=5_000)
    fleet(clocks, "a", minutes=20, ppm=500)
    fleet(clocks, "b", minutes=3, ppm=500)
    drifts = {clock.device: clock.drift_ppm for clock in clocks.all()}
    assert drifts["a"] == pytest.approx(500, abs=60)
    assert drifts["b"] is None, "too early to tell"


def test_a_backlog_is_not_taken_for_a_wrong_clock() -> None:
    clocks = DeviceClocks(wrong_ms=5_000)
    fleet(clocks, "a", minutes=20, backlog=0.5)
    (found,) = clocks.all()
    assert abs(found.offset_ms) < 300
    assert clocks.wrong() == []


def test_a_clock_that_was_put_right_is_no_longer_wrong() -> None:
    clocks = DeviceClocks(wrong_ms=5_000)
    for minute in range(10):
        clocks.observe("a", minute * BLOCK_MS + (60_000 if minute < 4 else 0), minute * BLOCK_MS)
        if minute == 3:
            assert [clock.wrong_since_ms for clock in clocks.wrong()] == [0]
    assert clocks.wrong() == []


def test_the_number_of_watched_devices_is_bounded_and_the_rest_is_counted() -> None:
    clocks = DeviceClocks(wrong_ms=5_000, max_devices=2)
    for name in "abcd":
        clocks.observe(name, 0, 0)
    assert (clocks.watched, clocks.unwatched) == (2, 2)


# --- old readings and slow clocks ---

HOUR_MS = 3_600_000


def heard(clocks: DeviceClocks, device_ms: int, arrival_ms: int) -> str:
    age = clocks.age("a", device_ms, arrival_ms)
    if age == "new":
        clocks.observe("a", device_ms, arrival_ms)
    return age


def test_a_reading_of_hours_ago_is_old_where_the_clock_is_known_to_be_right() -> None:
    clocks = DeviceClocks(wrong_ms=5_000)
    clocks.observe("a", 0, 200)
    assert heard(clocks, 0, 6 * HOUR_MS) == "old"
    assert heard(clocks, 0, 6 * HOUR_MS + 60_000) == "old"


def test_nothing_is_known_of_a_device_that_is_heard_for_the_first_time() -> None:
    clocks = DeviceClocks(wrong_ms=5_000)
    assert heard(clocks, 0, 6 * HOUR_MS) == "unknown"
    assert heard(clocks, 0, 6 * HOUR_MS + 1_000) == "unknown", "the same reading again tells nothing"


@pytest.mark.parametrize("known", [False, True])
def test_a_clock_that_is_steadily_hours_slow_is_known_by_its_second_reading(known: bool) -> None:
    clocks = DeviceClocks(wrong_ms=5_000)
    if known:  # its time zone was lost in the meantime
        clocks.observe("a", 0, 100)
    begin_ms = 8 * HOUR_MS
    ages = [
        heard(clocks, begin_ms - 7 * HOUR_MS + at, begin_ms + at + at % 700)
        for at in range(0, 600_000, 30_000)
    ]
    assert ages == ["old" if known else "unknown"] + 19 * ["new"]


def test_a_backlog_of_a_device_whose_clock_is_right_is_old() -> None:
    clocks = DeviceClocks(wrong_ms=5_000)
    clocks.observe("a", 10 * HOUR_MS, 10 * HOUR_MS)
    now_ms = 10 * HOUR_MS + 60_000
    ages = {heard(clocks, at * 600_000, now_ms + at * 10) for at in range(12)}
    assert ages == {"old"}
