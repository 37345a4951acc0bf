"""What is answered to load: the level that rises and falls, and what follows from it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.events import Priority
from gateway.flow.capacity import (
    FULL_LEVEL,
    SECONDS_PER_LEVEL,
    Action,
    CapacityCheck,
    Load,
    Signal,
    ack_delay_s,
    sample_rate,
)

CALM = Load(cpu=0.5, queue=0.1, window=0.2)
BUSY = Load(cpu=1.0, window=0.2)
FLOODED = Load(cpu=1.0, queue=1.0, window=1.0)
ACTIONS = list(Action)


def run(check: CapacityCheck, load: Load, seconds: int) -> Signal:
    for _ in range(seconds):
        signal = check.check_capacity(load, 1.0)
    return signal


def test_a_calm_gateway_answers_none() -> None:
    assert run(CapacityCheck(), CALM, 1000) == Signal()


def test_a_burst_of_a_few_seconds_passes_unnoticed() -> None:
    check = CapacityCheck()
    assert all(run(check, FLOODED, 1).action is Action.NONE for _ in range(3))
    assert run(check, CALM, 60).action is Action.NONE


def test_lasting_overload_slows_down_then_samples_then_rejects() -> None:
    check, seen = CapacityCheck(), []
    for _ in range(200):
        signal = check.check_capacity(FLOODED, 1.0)
        seen.append((signal.delay_ms > 0, signal.sample_rate < 1, signal.priority_threshold is not None))
    changes = [now for before, now in zip([None, *seen], seen, strict=False) if now != before]
    assert changes == [(False,) * 3, (True, False, False), (True, True, False), (True, True, True)]
    assert signal.priority_threshold is Priority.LOW
    assert signal.sample_rate == 0.1
    assert signal.level == FULL_LEVEL


def test_a_busy_processor_alone_sheds_nothing() -> None:
    signal = run(CapacityCheck(), BUSY, 1000)
    assert (signal.action, signal.level, signal.sample_rate) == (Action.SLOW_DOWN, 1.0, 1.0)
    assert signal.reasons == ("cpu",)


def test_after_overload_everything_returns_to_none() -> None:
    check = CapacityCheck()
    run(check, FLOODED, 200)
    signal = run(check, CALM, int(FULL_LEVEL * SECONDS_PER_LEVEL) + 20)
    assert signal == Signal()


def test_delayed_acknowledgements_that_hide_the_pressure_do_not_end_the_overload() -> None:
    check = CapacityCheck()
    run(check, FLOODED, 10)
    relieved = Load(cpu=0.8, window=1.0)  # the processor has air again, and the broker has more waiting
    assert run(check, relieved, 300).level == FULL_LEVEL


@pytest.mark.parametrize(("fill", "rejects"), [(0.79, False), (0.81, True)])
def test_a_buffer_above_four_fifths_rejects_low_priority(fill: float, rejects: bool) -> None:
    signal = run(CapacityCheck(), Load(buffer=fill), 1)
    assert (signal.action is Action.REJECT_LOW_PRIORITY) == rejects
    assert signal.reasons == (("buffer",) if rejects else ())


def test_a_buffer_around_its_mark_does_not_flap() -> None:
    check = CapacityCheck()
    fills = [0.81, 0.79, 0.81, 0.76, 0.81, 0.74, 0.79]
    answers = [check.check_capacity(Load(buffer=fill), 1.0).action for fill in fills]
    assert [answer is Action.REJECT_LOW_PRIORITY for answer in answers] == [True] * 5 + [False] * 2


@given(st.lists(st.tuples(*[st.floats(0, 1.5)] * 6, st.floats(0, 10)), max_size=200))
def test_whatever_the_load_the_answer_is_within_its_bounds_and_moves_slowly(
    loads: list[tuple[float, ...]],
) -> None:
    check, before = CapacityCheck(), 0.0
    for cpu, queue, window, intake, buffer, memory, commit_s in loads:
        signal = check.check_capacity(Load(cpu, queue, window, intake, buffer, memory, commit_s), 1.0)
        assert 0 <= signal.level <= FULL_LEVEL
        assert 0 <= signal.delay_ms <= 1000
        assert 0.1 <= signal.sample_rate <= 1
        assert signal.priority_threshold in (None, Priority.LOW)
        assert (signal.action is Action.NONE) == (signal.level == 0 and signal.priority_threshold is None)
        # One second moves it by a thirtieth; only to begin and to end it steps from and to nothing.
        assert abs(signal.level - before) <= 0.1 + 1 / SECONDS_PER_LEVEL + 0.001
        before = signal.level


def test_the_sample_rate_falls_evenly_on_a_logarithmic_scale() -> None:
    assert [sample_rate(level) for level in (0, 1, 1.5, 2, 3)] == [1.0, 1.0, 0.3162, 0.1, 0.1]


def test_at_full_delay_four_fifths_of_the_rate_remain() -> None:
    window, rate = 400, 8000.0
    delay_s = ack_delay_s(1.0, window, rate)
    assert window / (window / rate + delay_s) == pytest.approx(0.8 * rate)
    assert ack_delay_s(3.0, window, rate) == delay_s
    assert ack_delay_s(1.0, window, 0.0) == 0.0
