"""A window whose plugin, options or shape changed is made anew out of the buffer (`on_change: replay`)."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.windows.spec import WindowSpec
from tests.pipeline.test_pipeline import MINUTE, World, window

CHANGES = {
    "shape": (MINUTE, replace(MINUTE, size_ms=30_000)),
    "type": (MINUTE, window("minute", "hopping", size_ms=30_000, slide_ms=10_000, key="")),
    "key": (MINUTE, replace(MINUTE, key="", out_of_orderness_ms=5_000)),
    "session": (
        window("minute", "session", gap_ms=4_000, watermark="per_key"),
        window("minute", "session", gap_ms=9_000, watermark="per_key", allowed_lateness_ms=20_000),
    ),
    "per_key": (MINUTE, replace(MINUTE, size_ms=20_000, watermark="per_key", idle_timeout_ms=9_000)),
    "idle": (MINUTE, replace(MINUTE, size_ms=20_000, idle_timeout_ms=9_000)),
}


def drive(world: World, first_s: int, last_s: int) -> None:
    """Two devices: one speaks each second, the other every seventh, three seconds late."""
    for second in range(first_s, last_s):
        world.take_in(world.reading("a", second, second))
        if second % 7 == 0:
            world.take_in(world.reading("b", second - 3, 100 + second))
        for _ in range(4):
            world.tick(250)


def results(world: World) -> list[tuple[Any, ...]]:
    return sorted(
        (one.window, one.key, one.start_ms, one.end_ms, one.kind, one.revision, str(one.result))
        for one in world.pipeline.windows.flush()
    )


def changed(world: World, *specs: WindowSpec) -> None:
    """The gateway stops and starts with other windows."""
    world.checkpoint()
    world.windows = [replace(spec, on_change="replay") for spec in specs]
    world.crash()


@pytest.mark.parametrize("name", CHANGES)
def test_open_windows_are_what_they_would_have_been(tmp_path: Path, name: str) -> None:
    before, after = CHANGES[name]
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    changing, straight = World(tmp_path / "one", [before]), World(tmp_path / "other", [after])
    for world in (changing, straight):
        drive(world, 1, 48)
    emitted = changing.derived[:]
    changed(changing, after)
    assert changing.derived == emitted  # what closed before is not given again
    straight_then = len(straight.derived)
    for world in (changing, straight):
        drive(world, 48, 55)
    # Topic, identity and payload; the streams' numbers differ by what was given before.
    assert [(row[0], *row[2:]) for row in changing.derived[len(emitted) :]] == [
        (row[0], *row[2:]) for row in straight.derived[straight_then:]
    ]
    assert results(changing) == results(straight)
    assert not any(one.state_dropped for one in changing.pipeline.windows.counters.values())


def test_a_crash_while_it_is_made_anew_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(tmp_path, [MINUTE])
    drive(world, 1, 30)
    changed(world, replace(MINUTE, size_ms=20_000))
    world.crash()
    world.take_in(world.reading("a", 31, 31.0))  # and this transaction keeps it
    caplog.clear()
    world.crash()
    assert "made anew" not in caplog.text
    (open_window, *_) = results(world)
    assert open_window[-1].startswith("{'count': 11,")


def test_results_of_a_count_window_made_anew_are_none_that_were_sent_before(tmp_path: Path) -> None:
    world = World(tmp_path, [window("fours", "count", count=2)])
    drive(world, 1, 20)
    sent = identities(world)
    changed(world, window("fours", "count", count=4))
    drive(world, 20, 40)
    assert len(identities(world)) == len(set(identities(world)))
    assert len(identities(world)) > len(sent)


def identities(world: World) -> list[Any]:
    return [event_id for _, _, event_id, _ in world.derived]


def test_other_windows_go_on_from_their_checkpoint_and_see_nothing_twice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    still = window("still", "global", trigger_count=1000)
    world = World(tmp_path, [MINUTE, still])
    drive(world, 1, 30)
    with caplog.at_level(logging.INFO):
        changed(world, replace(MINUTE, size_ms=20_000), still)
    assert "windows made anew from 33 messages: minute" in caplog.text
    drive(world, 30, 31)
    engine: Any = world.pipeline.windows
    assert {key.name: key.count for key in engine._operators["still"].keys.each()} == {"a": 30, "b": 4}


def test_without_it_the_state_is_dropped_and_counted(tmp_path: Path) -> None:
    world = World(tmp_path, [MINUTE])
    drive(world, 1, 30)
    world.checkpoint()
    world.windows = [replace(MINUTE, size_ms=20_000)]
    world.crash()
    assert world.pipeline.windows.counters["minute"].state_dropped == 2


def test_what_comes_after_the_change_is_in_the_next_checkpoint(tmp_path: Path) -> None:
    world = World(tmp_path, [MINUTE])
    drive(world, 1, 3)
    world.checkpoint()
    world.windows = [replace(MINUTE, size_ms=20_000)]
    world.crash()
    drive(world, 3, 5)
    world.checkpoint()  # the keys of before are deleted, and are there again
    world.crash()
    ((_, key, *_, result),) = results(world)
    assert (key, result.split(",")[0]) == ("a", "{'count': 2")
