"""A silent broker is asked for a sign of life, and given up when it gives none."""

from __future__ import annotations

import pytest

from gateway.mqtt.liveness import Liveness, Traffic


def asked(keepalive_s: float = 30.0, queued: int = 2) -> Liveness:
    """One that was asked after ten seconds of silence, with `queued` bytes on the way, the question last."""
    liveness = Liveness(keepalive_s, 0.0)
    liveness.note(10.0, Traffic(0))
    assert liveness.is_due(10.0)
    liveness.asked(10.0, Traffic(0, 0, queued))
    assert not liveness.is_due(10.0)
    return liveness


def test_a_broker_that_hangs_is_noticed_after_two_thirds_of_the_keepalive() -> None:
    liveness = Liveness(30.0, 0.0)
    assert next(second for second in range(12) if liveness.is_due(second)) == 10
    liveness = asked()
    silent = [(second, liveness.silent_s(second)) for second in range(11, 22)]
    assert [one for one in silent if one[1]] == [(20, 20.0), (21, 21.0)]


def test_anything_that_is_heard_answers_the_question() -> None:
    liveness = asked()
    liveness.note(19.0, Traffic(1, 2))
    assert liveness.silent_s(25.0) == 0
    assert liveness.is_due(29.0)


def test_a_slow_network_may_first_carry_what_was_sent_before_the_question() -> None:
    liveness = asked(queued=1000)
    for second in range(11, 61):
        liveness.note(second, Traffic(0, (second - 10) * 20, 1000))
        assert liveness.silent_s(second) == 0
    assert next(second for second in range(61, 80) if liveness.silent_s(second)) == 70


def test_what_is_sent_behind_the_question_is_no_excuse() -> None:
    liveness = asked()
    for second in range(11, 20):
        liveness.note(second, Traffic(0, (second - 10) * 100, 0))
    assert liveness.silent_s(21.0) == 21.0


def test_who_does_not_listen_cannot_call_a_broker_silent() -> None:
    liveness = asked()
    liveness.excuse(30.0)
    assert liveness.silent_s(35.0) == 0


@pytest.mark.parametrize(("keepalive_s", "noticed_s"), [(1, 2), (3, 2), (60, 40)])
def test_the_keepalive_sets_how_long_that_takes(keepalive_s: int, noticed_s: int) -> None:
    liveness, question_at = Liveness(keepalive_s, 0.0), 0
    for second in range(1, 120):
        liveness.note(second, Traffic(0))
        if liveness.is_due(second):
            liveness.asked(second, Traffic(0))
            question_at = second
        elif liveness.silent_s(second):
            assert (question_at, second) == (noticed_s // 2, noticed_s)
            return
    pytest.fail("it was never noticed")
