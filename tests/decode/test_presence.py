"""Devices: who fell silent, who cannot be read."""

from __future__ import annotations

import pytest

from gateway.core.events import Sample
from gateway.decode import presence
from gateway.decode.presence import MAX_SOURCES_OF_DEVICE, Device, Presence

MINUTE_MS = 60_000


def heard(*times_ms: int, readable: bool = True) -> Presence:
    made = Presence()
    for time_ms in times_ms:
        made.note("hall-1", time_ms, readable)
    return made


def only(made: Presence, now_ms: int) -> Device:
    (device,) = made.devices(now_ms)
    return device


def test_a_device_is_silent_after_five_of_its_own_intervals() -> None:
    made = heard(0, MINUTE_MS, 2 * MINUTE_MS)
    assert only(made, 7 * MINUTE_MS).interval_ms == MINUTE_MS
    assert not only(made, 7 * MINUTE_MS).silent
    assert only(made, 7 * MINUTE_MS + 1).silent


def test_a_chatty_device_is_given_a_minute() -> None:
    made = heard(0, 100, 200)
    assert not only(made, MINUTE_MS).silent
    assert only(made, MINUTE_MS + 201).silent


def test_of_a_new_device_nobody_knows_how_often_it_speaks() -> None:
    assert not only(heard(0, 100), 10**9).silent


def test_unreadable_payloads_are_counted_per_device() -> None:
    assert only(heard(0, 1, readable=False), 1).undecoded == 2


def test_names_come_from_outside_so_their_number_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "MAX_DEVICES", 2)
    made = Presence()
    for name in "abcc":
        made.note(name, 0, True)
    assert [device.name for device in made.devices(0)] == ["a", "b"]
    assert made.unwatched == 2


def test_a_device_with_many_topics_takes_no_room_from_another() -> None:
    made = Presence()
    for name, topics in (("many", 300), ("one", 1)):
        made.note(name, 0, readable=True)
        for topic in range(topics):
            made.note_reading(name, f"{name}/{topic}", "r", Sample(0, {"v": 1}))
    assert len(made.sources("many")) == MAX_SOURCES_OF_DEVICE
    assert [made.has_more_sources(name) for name in ("many", "one", "none")] == [True, False, False]
