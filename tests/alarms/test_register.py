"""The alarms in the buffer: together with the alerts that change them, and what people do to them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gateway.alarms.register import AlarmChoice, AlarmRegister, Person
from gateway.alarms.states import AlarmEvent
from gateway.buffer import alarm_table
from gateway.buffer.alarm_table import AlarmRow
from gateway.buffer.reader import Reader
from gateway.buffer.store import NewEvent, Store
from gateway.core.errors import AlarmError
from gateway.core.events import Kind, Priority
from gateway.core.own_topics import OwnTopics
from gateway.testing import ManualClock
from gateway.wire.alarms import alarm_state
from tests.support.buffers import EPOCH_MS, opened

TOPICS = OwnTopics("gateway", "g1")
ANNA = Person("anna", "http", "on my way")
TANK = AlarmChoice("hot", "tank")


class Plant:
    """A buffer with alarms in it."""

    def __init__(self, path: Path, store: Store) -> None:
        self.path = path
        self.store = store
        self.clock = ManualClock(EPOCH_MS)
        self.register = AlarmRegister(
            TOPICS, self.clock.now_ms, {"hot": Priority.HIGH}, frozenset({"hot", "cold"})
        )

    def alert(self, what: str, window: str = "hot", key: str = "tank", **result: Any) -> None:
        said = {"alert": what, "mean": 31.0, "limit": 30.0} | result
        body = {"window": window, "key": key, "end_ms": self.clock.now_ms(), "result": said}
        times = self.clock.now_ms(), self.clock.now_ms(), None
        payload = json.dumps(body).encode()
        event = NewEvent(TOPICS.alerts, "aggregates", *times, Priority.CRITICAL, Kind.ALERT, 0, payload)
        with self.store.transaction():
            self.store.append([event])
            self.register.take(self.store, event)

    def change(self, happened: AlarmEvent, choice: AlarmChoice = TANK, who: Person = ANNA) -> list[AlarmRow]:
        with self.store.transaction():
            return self.register.change(self.store, happened, choice, who)

    def states(self) -> dict[tuple[str, str], str]:
        return {row.name: row.state for row in self.store.alarms.all()}

    @property
    def tank(self) -> AlarmRow:
        return next(row for row in self.store.alarms.all() if row.name == ("hot", "tank"))

    def retained(self) -> list[dict[str, Any]]:
        """The states that the alerts in the buffer bring, oldest first."""
        with closing(Reader(self.path)) as reader:
            events = reader.derived_after(0, 1000)
            names, payloads = reader.names(events.stream_ids), reader.payloads(events)
        found = (alarm_state(TOPICS, *pair, 0) for pair in zip(names, payloads, strict=True))
        return [json.loads(one.payload) for one in found if one]


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    with opened(tmp_path / "events.db") as store:
        yield Plant(tmp_path / "events.db", store)


def test_an_alarm_is_active_then_acknowledged_then_cleared(plant: Plant) -> None:
    plant.alert("raised", since_ms=EPOCH_MS - 5000)
    assert plant.tank[:5] == ("hot", "tank", "active", Priority.HIGH, EPOCH_MS - 5000)
    plant.clock.advance(1000)
    plant.change(AlarmEvent.ACKNOWLEDGED)
    details = plant.tank.details
    assert (plant.tank.state, details["acknowledged_by"], details["note"]) == (
        "acknowledged", "anna", "on my way",
    )  # fmt: skip
    plant.clock.advance(1000)
    plant.alert("cleared", mean=28.0)
    assert (plant.tank.state, plant.tank.since_ms) == ("cleared", EPOCH_MS - 5000)
    assert plant.tank.details["ended_ms"] == EPOCH_MS + 2000
    assert [each["state"] for each in plant.retained()] == ["on", "on", "off"]
    assert plant.retained()[1]["acknowledged_by"] == "anna"


def test_all_of_it_is_there_after_a_restart(plant: Plant) -> None:
    plant.alert("raised")
    plant.alert("raised", key="pipe")
    plant.change(AlarmEvent.ACKNOWLEDGED)
    plant.change(AlarmEvent.CLEARED, AlarmChoice("hot", "pipe"))
    before = sorted(plant.store.alarms.all())
    plant.store.close()
    plant.store.open()
    assert sorted(plant.store.alarms.all()) == before


def test_what_is_rolled_back_has_not_happened(plant: Plant) -> None:
    plant.alert("raised")
    before = plant.store.alarms.all()
    with pytest.raises(ZeroDivisionError), plant.store.transaction():
        plant.register.change(plant.store, AlarmEvent.CLEARED, TANK, ANNA)
        raise ZeroDivisionError
    with plant.store.transaction():
        plant.store.reload()
    assert plant.store.alarms.all() == before


def test_a_repeated_alert_leaves_an_acknowledged_alarm_as_it_is(plant: Plant) -> None:
    plant.alert("raised")
    plant.change(AlarmEvent.ACKNOWLEDGED)
    plant.alert("raised", repeated=True, mean=33.0)
    assert (plant.tank.state, plant.tank.details["value"]) == ("acknowledged", 33.0)


def test_an_alarm_that_was_cleared_by_hand_comes_back_if_it_lasts(plant: Plant) -> None:
    plant.alert("raised")
    plant.change(AlarmEvent.CLEARED)
    assert plant.tank.state == "cleared"
    plant.alert("raised", repeated=True)
    assert plant.tank.state == "active"
    assert [each["state"] for each in plant.retained()] == ["on", "off", "on"]


def test_an_alarm_that_was_cleared_by_hand_is_not_over_a_second_time(plant: Plant) -> None:
    plant.alert("raised")
    plant.change(AlarmEvent.CLEARED)
    before = plant.tank
    plant.clock.advance(1000)
    plant.alert("cleared")
    assert plant.tank == before


def test_those_that_can_be_changed_are_and_none_is_an_error(plant: Plant) -> None:
    for key in ("tank", "pipe"):
        plant.alert("raised", key=key)
    plant.alert("raised", window="cold")
    plant.change(AlarmEvent.ACKNOWLEDGED)
    assert [row.key for row in plant.change(AlarmEvent.ACKNOWLEDGED, AlarmChoice("hot"))] == ["pipe"]
    assert len(plant.change(AlarmEvent.CLEARED, AlarmChoice())) == 3
    with pytest.raises(AlarmError, match="cleared already"):
        plant.change(AlarmEvent.ACKNOWLEDGED)
    with pytest.raises(AlarmError, match="no alarm hot of nobody"):
        plant.change(AlarmEvent.CLEARED, AlarmChoice("hot", "nobody"))


def test_the_alarms_of_a_window_that_is_gone_are_forgotten(plant: Plant) -> None:
    plant.alert("raised")
    plant.alert("raised", window="former")
    with plant.store.transaction():
        plant.register.forget_windows(plant.store)
    assert plant.states() == {("hot", "tank"): "active"}


def test_of_those_that_are_over_the_first_are_forgotten(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.alarms.register.MAX_ENDED", 10)
    assert alarm_table.MAX_ENDED > 10
    for number in range(30):
        plant.clock.advance(1)
        plant.alert("raised", key=f"{number:02}")
        plant.alert("cleared", key=f"{number:02}")
    plant.alert("raised", key="on")
    kept = sorted(key for _, key in plant.states())
    assert kept[-1] == "on"
    assert kept[-2] == "29"
    assert len(kept) <= 11


def test_an_alert_of_another_kind_is_none_of_its_business(plant: Plant) -> None:
    plant.alert("hot")
    assert plant.states() == {}
