"""The size of frames over simulated links: what it settles at, and how a lost connection changes it."""

from __future__ import annotations

from collections import deque

import pytest

from gateway.delivery.pacing import FIRST_FRAME_BYTES, LEAST_FRAME_BYTES, Pace


def drive(pace: Pace, rate_bytes_per_s: float, delay_s: float, until_s: float) -> tuple[float, float]:
    """Send without end over a link of that rate and delay; returns the bytes per second that got through in
    the second half, and the longest time until an acknowledgement."""
    now_s = busy_until_s = 0.0
    under_way: deque[tuple[float, object]] = deque()
    through, longest_s = 0, 0.0
    while now_s < until_s:
        while pace.room_for(pace.frame_bytes):
            size = pace.frame_bytes
            busy_until_s = max(busy_until_s, now_s) + size / rate_bytes_per_s
            under_way.append((busy_until_s + delay_s, pace.sent(size, now_s)))
        now_s, flight = under_way.popleft()
        longest_s = max(longest_s, now_s - flight.sent_s)  # type: ignore[attr-defined]
        pace.answered(flight, now_s, taken=True)  # type: ignore[arg-type]
        if now_s > until_s / 2:
            through += flight.size_bytes  # type: ignore[attr-defined]
    for _, flight in under_way:
        pace.answered(flight, now_s + 1.0, taken=True)  # type: ignore[arg-type]
    return through / (until_s / 2), longest_s


@pytest.mark.parametrize("delay_s", [0.001, 0.1, 1.0, 3.0])
@pytest.mark.parametrize("rate_bytes_per_s", [1_000, 8_000, 1e6, 1e8])
def test_any_link_is_filled_and_no_acknowledgement_takes_long(
    rate_bytes_per_s: float, delay_s: float
) -> None:
    """64 kbit/s are 8,000 bytes a second."""
    through, longest_s = drive(Pace(), rate_bytes_per_s, delay_s, 400.0)
    assert through > 0.9 * rate_bytes_per_s
    assert longest_s < delay_s + FIRST_FRAME_BYTES / rate_bytes_per_s + 3.0


def test_a_lone_small_frame_says_nothing_about_what_the_link_carries() -> None:
    pace = Pace()
    drive(pace, 1e6, 0.01, 20.0)
    before = pace.rate_bytes_per_s
    for second in range(30):
        flight = pace.sent(100, 100.0 + second)
        pace.idle()
        pace.answered(flight, 100.2 + second, taken=True)
    assert pace.rate_bytes_per_s == before


def test_a_link_that_becomes_slower_is_noticed() -> None:
    pace = Pace()
    drive(pace, 1e6, 0.01, 20.0)
    drive_after = drive(pace, 1e4, 0.01, 400.0)
    assert pace.rate_bytes_per_s == pytest.approx(1e4, rel=0.2)
    assert drive_after[0] > 0.9e4


def test_each_connection_that_gets_nothing_through_halves_the_first_frame() -> None:
    pace = Pace()
    sizes = []
    for _ in range(8):
        sizes.append(pace.frame_bytes)
        pace.sent(pace.frame_bytes, 0.0)
        assert not pace.room_for(1)
        pace.lost()
    assert sizes[:3] == [FIRST_FRAME_BYTES, FIRST_FRAME_BYTES // 2, FIRST_FRAME_BYTES // 4]
    assert sizes[-1] == LEAST_FRAME_BYTES
    pace.answered(pace.sent(100, 0.0), 0.1, taken=True)
    pace.lost()
    assert pace.frame_bytes == 2 * LEAST_FRAME_BYTES


def test_a_frame_that_was_too_large_bounds_the_next_ones() -> None:
    pace = Pace()
    drive(pace, 1e6, 0.01, 5.0)
    pace.too_large(50_000)
    assert pace.frame_bytes == 25_000
    pace.too_large(60_000)  # one that was under way already
    assert pace.frame_bytes <= 25_000


def test_nothing_goes_behind_a_frame_that_is_larger_than_any_before_until_it_is_answered() -> None:
    pace = Pace()
    first = pace.sent(1000, 0.0)
    assert not pace.room_for(10)
    pace.answered(first, 0.1, taken=True)
    same, smaller = pace.sent(1000, 0.1), pace.sent(900, 0.1)
    assert pace.room_for(10)
    larger = pace.sent(1001, 0.1)
    for flight in (same, smaller):
        pace.answered(flight, 0.2, taken=True)
        assert not pace.room_for(10)
    pace.answered(larger, 0.3, taken=False)
    again = pace.sent(1001, 0.3)
    assert not pace.room_for(10), "a refusal proves no size"
    pace.answered(again, 0.4, taken=True)
    pace.sent(1001, 0.4)
    assert pace.room_for(10)


def test_frames_are_counted_in_events_by_what_events_have_taken() -> None:
    pace = Pace()
    for _ in range(50):
        pace.packed(100, 1600)
    assert pace.events(10_000) == pytest.approx(FIRST_FRAME_BYTES / 16, rel=0.01)
    assert pace.events(10) == 10
    for _ in range(50):
        pace.packed(1, 1_000_000)
    assert pace.events(10) == 1


def test_a_bandwidth_bounds_frames_however_fast_the_link_answers() -> None:
    pace = Pace(4096.0)
    for second in range(20):
        flight = pace.sent(min(4096, pace.frame_bytes), float(second))
        pace.answered(flight, second + 0.001, taken=True)
        assert pace.frame_bytes <= 4096
    assert pace.rate_bytes_per_s == 4096.0


def test_closes_that_one_event_caused_leave_no_limit_of_size() -> None:
    pace = Pace()
    for _ in range(3):
        pace.answered(pace.sent(1000, 0.0), 0.1, taken=True)
        pace.sent(4000, 0.2)
        pace.lost()
    assert pace.limit_bytes == 2000
    pace.not_the_size()
    assert pace.limit_bytes is None
