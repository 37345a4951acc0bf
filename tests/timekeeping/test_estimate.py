"""Offset and drift out of noisy samples, and which source is believed: all with made-up time."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from gateway.core.clock import LinearClock
from gateway.timekeeping.discipline import HYSTERESIS_S, SYSTEM, Discipline, agreeing, steer
from gateway.timekeeping.estimate import Estimate, Estimator, OffsetSample, looks_random


def feed(
    estimator: Estimator, offset_s: float, drift: float, *, noise_s: float, count: int, every_s: float = 16
) -> float:
    """Samples of a clock that is off and drifts; returns when the last one was taken."""
    randomness = random.Random(7)
    for number in range(count):
        at_s = 1000 + number * every_s
        error_s = randomness.uniform(-noise_s, noise_s)
        estimator.add(OffsetSample(at_s, offset_s + drift * (at_s - 1000) + error_s, noise_s * 2))
    return at_s


@pytest.mark.parametrize("drift", [0.0, 200e-6, -37e-6])
@pytest.mark.parametrize("noise_s", [0.0001, 0.005])
def test_offset_and_drift_are_found_and_the_truth_lies_within_the_uncertainty(
    drift: float, noise_s: float
) -> None:
    estimator = Estimator()
    at_s = feed(estimator, 3.5, drift, noise_s=noise_s, count=60)
    found = estimator.at(at_s)
    assert found is not None
    assert abs(found.offset_s - (3.5 + drift * (at_s - 1000))) < found.uncertainty_s < 4 * noise_s
    assert found.drift == pytest.approx(drift, abs=noise_s / 100)


def test_the_uncertainty_grows_when_nothing_more_is_heard_and_still_holds_the_truth() -> None:
    estimator = Estimator()
    at_s = feed(estimator, 0.0, 50e-6, noise_s=0.001, count=40)
    grown = [estimator.at(at_s + hours * 3600) for hours in (0, 1, 6, 24)]
    sizes = [one.uncertainty_s for one in grown if one]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 10 * sizes[0]
    for one in grown:
        assert one is not None
        assert abs(one.offset_s - 50e-6 * (one.at_s - 1000)) < one.uncertainty_s


def test_one_wild_sample_is_set_aside_and_several_begin_a_new_line() -> None:
    estimator = Estimator(patience=3)
    at_s = feed(estimator, 0.0, 0.0, noise_s=0.001, count=20)
    assert not estimator.add(OffsetSample(at_s + 1, 5.0, 0.002))
    assert estimator.add(OffsetSample(at_s + 2, 0.0, 0.002))
    assert [estimator.add(OffsetSample(at_s + 3 + n, 5.0, 0.002)) for n in range(3)] == [False, False, True]
    found = estimator.at(at_s + 6)
    assert found is not None
    assert found.offset_s == pytest.approx(5.0, abs=0.002)
    assert estimator.restarts == 1


def test_a_line_that_has_bent_forgets_what_was_before_the_bend() -> None:
    """As when a server smears a leap second, or the sun shines on the box."""
    estimator, at_s = Estimator(), 0.0
    for number in range(120):
        at_s = number * 16.0
        bent_s = 0.0 if number < 60 else 70e-6 * (number - 60) * 16
        estimator.add(OffsetSample(at_s, bent_s + random.Random(number).uniform(-2e-5, 2e-5), 0.01))
    found = estimator.at(at_s)
    assert found is not None
    assert found.drift == pytest.approx(70e-6, abs=3e-6)
    assert len(estimator.samples) < 64


def test_residuals_that_keep_their_sign_for_long_are_not_random() -> None:
    assert not looks_random([1.0] * 10 + [-1.0] * 10)
    assert looks_random([1.0, -1.0, -1.0, 1.0, 1.0, -1.0, 1.0, -1.0])


# --- the choice ---


class Sources:
    """Several sources that speak once a second."""

    def __init__(self, *, plausible: bool = True) -> None:
        self.discipline = Discipline(plausible=plausible)
        self.now_s = 0.0
        self.alerts: list[str] = []

    def run(self, seconds: int, **sources: tuple[float, float]) -> None:
        """Each of `sources` says (offset, uncertainty) once a second."""
        for _ in range(seconds):
            self.now_s += 1
            for name, (offset_s, uncertainty_s) in sources.items():
                self.discipline.add(name, OffsetSample(self.now_s, offset_s, uncertainty_s))
            self.alerts += [change.alert for change in self.discipline.update(self.now_s)]


def test_the_best_source_wins_and_its_loss_is_bridged_by_the_next_best_and_then_by_holding_over() -> None:
    world = Sources()
    world.run(60, gps=(0.0, 0.001), ntp=(0.01, 0.02))
    assert world.discipline.chosen == "gps"
    world.run(60, ntp=(0.01, 0.02))
    assert (world.discipline.chosen, world.discipline.state) == ("ntp", "synchronised")
    world.run(60)
    assert (world.discipline.chosen, world.discipline.state) == ("ntp", "holdover")
    assert world.discipline.estimate(world.now_s) is not None
    assert world.alerts == ["clock_source", "clock_source", "clock_holdover"]


def test_a_better_source_takes_over_only_when_it_stays_better() -> None:
    world = Sources()
    world.run(60, ntp=(0.0, 0.02))
    for _ in range(10):  # it comes and goes
        world.run(5, ntp=(0.0, 0.02), gps=(0.0, 0.001))
        world.run(15, ntp=(0.0, 0.02))
    assert world.discipline.chosen == "ntp"
    world.run(int(HYSTERESIS_S) + 5, ntp=(0.0, 0.02), gps=(0.0, 0.001))
    assert world.discipline.chosen == "gps"
    assert world.discipline.switches == 1


def test_sources_of_like_quality_do_not_take_turns() -> None:
    world = Sources()
    world.run(10, a=(0.0, 0.010))
    for number in range(300):
        world.run(1, a=(0.0, 0.010 + (number % 2) * 0.002), b=(0.0, 0.011 - (number % 2) * 0.002))
    assert world.discipline.switches == 0


def test_a_falseticker_is_outvoted() -> None:
    world = Sources()
    world.run(60, liar=(3600.0, 0.0001), b=(0.0, 0.01), c=(0.001, 0.01))
    assert world.discipline.chosen in ("b", "c")
    roles = {one.name: one.role for one in world.discipline.status(world.now_s)}
    assert roles["liar"] == "outvoted"


def test_two_sources_that_contradict_each_other_are_reported_and_change_nothing() -> None:
    world = Sources()
    world.run(60, a=(0.0, 0.01))
    world.run(60, a=(0.0, 0.01), b=(3600.0, 0.001))
    assert world.discipline.chosen == "a"
    assert world.alerts == ["clock_source", "clock_disagreement"]
    assert str(world.discipline.state) == "disputed"
    world.run(60)  # neither speaks any more, and nobody has settled it
    assert str(world.discipline.state) == "disputed"
    world.run(60, a=(0.0, 0.01))
    assert str(world.discipline.state) == "synchronised"


def test_of_sources_that_contradict_each_other_from_the_start_the_one_near_the_system_clock_is_taken() -> (
    None
):
    world = Sources()
    world.run(20, **{SYSTEM: (0.0, 0.005)})
    world.run(20, **{SYSTEM: (0.0, 0.005)}, far=(2e9, 0.0001), near=(0.2, 0.05))
    assert (world.discipline.chosen, world.discipline.state) == ("near", "disputed")


def test_a_gps_with_a_pulse_outvotes_one_server_and_not_two() -> None:
    world = Sources()
    world.run(60, ntp=(5.0, 0.01))
    world.run(60, ntp=(5.0, 0.01), gps=(0.0, 0.0001))
    assert (world.discipline.chosen, world.discipline.state) == ("gps", "synchronised")
    roles = {one.name: one.role for one in world.discipline.status(world.now_s)}
    assert roles == {"gps": "chosen", "ntp": "outvoted"}
    world.run(60, ntp=(5.0, 0.01), other=(5.0, 0.01), gps=(0.0, 0.0001))
    assert str(world.discipline.state) == "disputed"
    without_pulse = Sources()
    without_pulse.run(60, ntp=(5.0, 0.01), gps=(0.0, 0.1))
    assert str(without_pulse.discipline.state) == "disputed"


def test_intervals_must_share_a_point_of_the_majority() -> None:
    def at(offset_s: float, uncertainty_s: float) -> Estimate:
        return Estimate(0.0, offset_s, 0.0, uncertainty_s)

    assert agreeing({"a": at(0, 2), "b": at(1, 2), "c": at(9, 1)}) == {"a", "b"}
    assert agreeing({"a": at(0, 1), "b": at(9, 1)}) == frozenset()
    assert agreeing({"a": at(0, 1)}) == {"a"}
    assert agreeing({}) == frozenset()


def test_the_system_clock_is_followed_late_and_only_until_a_source_has_spoken() -> None:
    world = Sources()
    world.run(60, **{SYSTEM: (0.0, 0.01)})
    world.run(5, **{SYSTEM: (3600.0, 0.01)})
    estimate = world.discipline.estimate(world.now_s)
    assert world.discipline.state == "free"
    assert estimate is not None
    assert abs(estimate.offset_s) < 0.1
    world.run(10, **{SYSTEM: (3600.0, 0.01)})
    estimate = world.discipline.estimate(world.now_s)
    assert estimate is not None
    assert estimate.offset_s == pytest.approx(3600, abs=0.1)
    world.run(10, **{SYSTEM: (3600.0, 0.01)}, ntp=(0.0, 0.01))
    assert world.discipline.chosen == "ntp"
    world.run(100, **{SYSTEM: (3600.0, 0.01)})
    assert (world.discipline.chosen, world.discipline.state) == ("ntp", "holdover")


def test_a_clock_that_was_never_set_is_taken_as_soon_as_it_is_believable() -> None:
    world = Sources(plausible=False)
    world.run(10)
    assert str(world.discipline.state) == "unset"
    world.run(1, **{SYSTEM: (1.7e9, 0.01)})
    assert str(world.discipline.state) == "free"
    assert world.alerts == ["clock_set"]


# --- steering ---


def test_a_small_error_is_worked_off_without_a_jump_and_without_going_back() -> None:
    line, second = LinearClock(0, 10**18), 10**9
    shown = [line.at(0)]
    for number in range(1, 200):
        raw_ns = number * second
        truth_ns = 10**18 + raw_ns - 400_000_000  # ours is 0.4 s ahead
        line, stepped = steer(line, raw_ns, truth_ns, 0.0)
        assert not stepped
        shown.append(line.at(raw_ns))
    assert all(later > earlier for earlier, later in pairwise(shown))
    assert abs(shown[-1] - (10**18 + 199 * second - 400_000_000)) < 1_000_000


def test_a_large_error_is_stepped() -> None:
    line, stepped = steer(LinearClock(0, 0), 10**9, 10**18, 0.0)
    assert stepped
    assert line.at(10**9) == 10**18
