"""Who is to blame for a close: the one event, never the line."""

from __future__ import annotations

import random

import pytest

from gateway.delivery.suspicion import STRIKES, Finding, Suspects

FRAME = list(range(100, 164))


def broken_over(suspects: Suspects, *messages: list[int], named: bool = False) -> Finding:
    found = suspects.closed(messages, named=named)
    suspects.connected()
    return found


def test_an_event_fails_only_alone_and_after_the_connection_took_something_else() -> None:
    suspects = Suspects()
    for _ in range(STRIKES):
        assert broken_over(suspects, [7], [8]) is Finding.AGAIN
    assert broken_over(suspects, [7]) is Finding.ASIDE  # nothing was taken on that connection
    suspects.taken([9])
    assert broken_over(suspects, [7], [8]) is Finding.AGAIN  # not alone
    suspects.taken([9])
    assert broken_over(suspects, [7]) is Finding.FAIL


def test_what_the_broker_names_fails_at_once_when_it_was_alone() -> None:
    suspects = Suspects()
    assert broken_over(suspects, [7], [8], named=True) is Finding.AGAIN
    assert broken_over(suspects, [7], named=True) is Finding.FAIL


@pytest.mark.parametrize("poison", [FRAME[0], FRAME[31], FRAME[-1]])
def test_a_frame_is_halved_down_to_the_one_event(poison: int) -> None:
    suspects, waiting, closes, failed = Suspects(), list(FRAME), 0, []
    while waiting:
        end = suspects.end(waiting, 0, len(waiting))
        part = waiting[:end]
        if poison in part:
            closes += 1
            suspects.connected()
            suspects.taken([1])  # a witness
            if suspects.closed([part], named=False) is Finding.FAIL:
                failed += part
                waiting = waiting[end:]
        else:
            suspects.taken(part)
            waiting = waiting[end:]
    assert failed == [poison]
    assert closes <= STRIKES + 7


def test_a_line_that_is_cut_at_random_fails_nothing() -> None:
    """Four in ten messages meet a cut, and nothing says why."""
    chance = random.Random(3)
    suspects, waiting = Suspects(), list(range(500))
    found = []
    suspects.connected()
    while waiting:
        if chance.random() < 0.4:
            found.append(broken_over(suspects, *([each] for each in waiting[:4])))
        else:
            suspects.taken([waiting.pop(0)])
    assert Finding.FAIL not in found


def test_after_two_closes_in_a_row_messages_go_one_at_a_time_until_what_was_under_way_is_through() -> None:
    suspects = Suspects()
    broken_over(suspects, [1], [2])
    assert not suspects.careful
    broken_over(suspects, [1], [2])
    assert suspects.careful
    suspects.taken([1])
    assert suspects.careful
    suspects.taken([2])
    assert not suspects.careful


def test_an_event_is_tried_alone_before_another_of_its_stream_may_overtake_it() -> None:
    suspects = Suspects()
    for _ in range(STRIKES):
        broken_over(suspects, [1, 2])
    assert suspects.witness([1, 2, 3], [10, 10, 10], 0) is None
    broken_over(suspects, [1])
    assert suspects.witness([1, 2, 3], [10, 10, 10], 0) == 2


def test_the_witness_is_of_another_stream_where_there_is_one() -> None:
    suspects = Suspects()
    for _ in range(STRIKES):
        broken_over(suspects, [1])
    assert suspects.witness([1, 2, 3], [10, 10, 11], 0) == 2
    assert suspects.witness([1, 2], [10, 10], 0) == 1
    assert suspects.witness([1], [10], 0) is None
    broken_over(suspects, [1, 2])
    assert suspects.witness([1, 2, 3, 4], [10, 11, 11, 12], 0) == 3  # 3 would overtake 2, of its stream
    suspects.taken([5])
    assert suspects.witness([1, 2, 3], [10, 10, 11], 0) is None  # this connection has shown that it works


def test_an_event_that_others_have_overtaken_needs_no_other_to_compare_it_with() -> None:
    suspects = Suspects()
    suspects.connected()
    assert suspects.closed([[7]], named=False, overtaken=True) is Finding.AGAIN
    for _ in range(STRIKES - 1):
        suspects.connected()
        assert suspects.closed([[7]], named=False) is Finding.AGAIN
    suspects.connected()
    assert suspects.closed([[7]], named=False) is Finding.FAIL
    for _ in range(STRIKES):
        suspects.connected()
        assert suspects.closed([[8]], named=False) is Finding.AGAIN
    assert suspects.closed([[8]], named=False) is Finding.ASIDE, "the line may be cut"
