"""The token bucket: how much goes out in simulated time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.delivery.token_bucket import TokenBucket


def test_without_a_rate_nothing_waits() -> None:
    bucket = TokenBucket(None)
    bucket.spend(10**9)
    assert bucket.delay_s(0.0) == 0.0


def test_a_burst_of_one_second_passes_at_once_and_the_rest_waits() -> None:
    bucket = TokenBucket(1000)
    for _ in range(4):
        assert bucket.delay_s(0.0) == 0.0
        bucket.spend(300)
    assert bucket.delay_s(0.0) == pytest.approx(0.2)
    assert bucket.delay_s(0.1) == pytest.approx(0.1)
    assert bucket.delay_s(0.2) == 0.0


def test_a_frame_larger_than_the_bucket_passes_and_is_paid_for_afterwards() -> None:
    bucket = TokenBucket(1000)
    assert bucket.delay_s(0.0) == 0.0
    bucket.spend(5000)
    assert bucket.delay_s(0.0) == pytest.approx(4.0)
    assert bucket.delay_s(4.0) == 0.0


def test_silence_saves_up_no_more_than_one_second() -> None:
    bucket = TokenBucket(1000)
    bucket.delay_s(0.0)
    bucket.delay_s(3600.0)
    bucket.spend(1500)
    assert bucket.delay_s(3600.0) == pytest.approx(0.5)


@pytest.mark.parametrize("rate", [0, -5])
def test_a_rate_below_one_byte_a_second_is_one(rate: int) -> None:
    bucket = TokenBucket(rate)
    assert bucket.delay_s(0.0) == 0.0
    bucket.spend(3)
    assert bucket.delay_s(0.0) == pytest.approx(2.0)


@given(
    st.integers(1, 10_000),
    st.lists(st.tuples(st.integers(1, 20_000), st.floats(0, 2)), min_size=1, max_size=50),
)
def test_over_any_time_it_is_the_rate_plus_one_burst_and_one_frame(
    rate: int, frames: list[tuple[int, float]]
) -> None:
    bucket, now_s, sent = TokenBucket(rate), 0.0, 0
    for size, pause_s in frames:
        now_s += pause_s
        delay_s = bucket.delay_s(now_s)
        now_s += delay_s
        assert bucket.delay_s(now_s) == pytest.approx(0.0, abs=1e-6), "after the wait it may go"
        assert sent <= rate * (now_s + 1) + 1e-3, "what has gone out is paid for before more goes"
        bucket.spend(size)
        sent += size
