"""Silent devices as alarms: when they are raised, when not, and over a restart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.alarms.register import AlarmChoice, AlarmRegister, Person
from gateway.alarms.silence import FORGET_AFTER_MS, SilenceWatch
from gateway.alarms.states import SILENT, AlarmEvent
from gateway.buffer.store import Store
from gateway.core.own_topics import OwnTopics
from gateway.decode.presence import Presence
from gateway.testing import ManualClock
from gateway.wire.alarms import alarm_state
from tests.support.buffers import EPOCH_MS, opened

TOPICS = OwnTopics("gateway", "g1")
ANNA = Person("anna", "cli")


class Hall:
    """A buffer, and the watch over devices that note their messages by hand."""

    def __init__(self, store: Store, silent_after_ms: int | None = 10_000) -> None:
        self.store = store
        self.clock = ManualClock(EPOCH_MS)
        self.register = AlarmRegister(TOPICS, self.clock.now_ms, {})
        self.states: dict[str, str] = {}
        self.restart(silent_after_ms)

    def restart(self, silent_after_ms: int | None = 10_000) -> None:
        """Nothing but the buffer is left."""
        self.presence = Presence(silent_after_ms)
        self.presence.hears = True
        self.watch = SilenceWatch(TOPICS, self.presence, alarms=True)
        with self.store.transaction():
            self.store.reload()
            self.watch.restore(self.store, self.clock.now_ms())
        self.tick()

    def tick(self) -> None:
        with self.store.transaction():
            for event in self.watch.look(self.store, self.clock.now_ms()):
                self.store.append([event])
                self.register.take(self.store, event)
                state = alarm_state(TOPICS, event.topic, event.payload, event.event_time_ms)
                assert state is not None
                self.states[state.topic.rsplit("/", 1)[1]] = "on" if state.on else "off"
            self.watch.save(self.store, self.clock.now_ms())

    def hear(self, *names: str) -> None:
        for name in names:
            self.presence.note(name, self.clock.now_ms(), readable=True)
        self.tick()

    def wait(self, seconds: int, *heard: str) -> None:
        """Let time pass by the second; `heard` go on talking."""
        for _ in range(seconds):
            self.clock.advance(1000)
            self.hear(*heard)

    def alarms(self) -> dict[str, str]:
        return {row.key: row.state for row in self.store.alarms.all()}


@pytest.fixture
def hall(tmp_path: Path) -> Iterator[Hall]:
    with opened(tmp_path / "events.db") as store:
        yield Hall(store)


def test_a_device_that_falls_silent_raises_an_alarm_and_ends_it(hall: Hall) -> None:
    hall.hear("a", "b")
    hall.wait(10, "b")
    assert hall.alarms() == {}
    hall.wait(2, "b")
    assert (hall.alarms(), hall.states) == ({"a": "active"}, {"a": "on"})
    (row,) = hall.store.alarms.all()
    assert (row.window, row.since_ms, row.details["limit"]) == (SILENT, EPOCH_MS, 10.0)
    hall.wait(2, "a", "b")
    assert (hall.alarms(), hall.states) == ({"a": "cleared"}, {"a": "off"})


def test_each_device_has_its_own_rhythm_with_auto(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        hall = Hall(store, silent_after_ms=None)
        for _ in range(3):
            hall.hear("slow")
            hall.wait(40, "quick")
        hall.wait(100)
        assert hall.alarms() == {"quick": "active"}
        hall.wait(120)
        assert hall.alarms() == {"quick": "active", "slow": "active"}


def test_a_restart_forgets_neither_the_device_nor_its_alarm(hall: Hall) -> None:
    hall.hear("a", "b")
    hall.wait(12, "b")
    hall.restart()
    hall.wait(5)
    assert hall.alarms() == {"a": "active"}  # b has its time anew
    hall.wait(8)
    assert hall.alarms() == {"a": "active", "b": "active"}
    hall.restart()
    hall.wait(3, "a")
    assert hall.alarms() == {"a": "cleared", "b": "active"}


def test_while_the_gateway_hears_nothing_nobody_is_silent(hall: Hall) -> None:
    hall.hear("a")
    hall.presence.hears = False
    hall.wait(60)
    hall.presence.hears = True
    hall.wait(9)
    assert hall.alarms() == {}
    hall.wait(3)
    assert hall.alarms() == {"a": "active"}


def test_a_gateway_that_was_held_up_gives_every_device_its_time(hall: Hall) -> None:
    hall.hear("a")
    hall.clock.advance(3_600_000)
    hall.wait(9)
    assert hall.alarms() == {}


def test_a_device_whose_messages_are_left_out_under_load_is_not_silent(hall: Hall) -> None:
    hall.hear("a")
    for _ in range(20):
        hall.presence.note_left_out("a", hall.clock.now_ms())
        hall.wait(1)
    assert hall.alarms() == {}


@pytest.mark.parametrize("restarts", [False, True])
def test_a_silence_that_somebody_cleared_is_not_raised_again(hall: Hall, restarts: bool) -> None:
    hall.hear("a")
    hall.wait(12)
    with hall.store.transaction():
        hall.register.change(hall.store, AlarmEvent.CLEARED, AlarmChoice(SILENT, "a"), ANNA)
    if restarts:
        hall.restart()
    hall.wait(30)
    assert hall.alarms() == {"a": "cleared"}
    hall.hear("a")
    hall.wait(12)
    assert hall.alarms() == {"a": "active"}


def test_a_device_of_long_ago_is_forgotten(hall: Hall) -> None:
    hall.hear("a")
    hall.clock.advance(FORGET_AFTER_MS + 1)
    hall.restart()
    assert hall.presence.last_ms("a") is None
    assert hall.store.devices.all() == []


def test_without_alarms_devices_are_known_all_the_same(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        presence: Any = Presence(10_000)
        watch = SilenceWatch(TOPICS, presence, alarms=False)
        presence.note("a", EPOCH_MS, readable=True)
        with store.transaction():
            watch.save(store, EPOCH_MS)
            assert watch.look(store, EPOCH_MS + 60_000) == []
        assert [row[0] for row in store.devices.all()] == ["a"]
