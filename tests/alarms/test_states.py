"""The state table of an alarm: what is not in it changes nothing."""

from __future__ import annotations

from itertools import product

import pytest

from gateway.alarms.states import ON, STATES, TRANSITIONS, AlarmEvent, follow
from gateway.core.errors import AlarmError


def test_what_the_table_does_not_have_is_refused() -> None:
    every = {*product((None, *STATES), AlarmEvent)}
    for state, event in every - TRANSITIONS.keys():
        with pytest.raises(AlarmError, match=event.value):
            follow(state, event)


def test_an_alarm_that_is_over_can_neither_be_acknowledged_nor_cleared() -> None:
    by_hand = (AlarmEvent.ACKNOWLEDGED, AlarmEvent.CLEARED)
    assert not {(None, event) for event in by_hand} & TRANSITIONS.keys()
    assert not {("cleared", event) for event in by_hand} & TRANSITIONS.keys()


def test_whatever_is_on_ends_when_it_is_over_or_cleared() -> None:
    for state in ON:
        assert follow(state, AlarmEvent.OVER) == follow(state, AlarmEvent.CLEARED) == "cleared"


def test_an_acknowledged_alarm_stays_so_while_it_lasts_and_is_new_when_it_is_raised() -> None:
    assert follow("acknowledged", AlarmEvent.REPEATED) == "acknowledged"
    assert follow("acknowledged", AlarmEvent.RAISED) == "active"
