"""Frames for pages: all parts at first, then those that change."""

from __future__ import annotations

import json
from typing import Any

from gateway.http.page_feed import PageFeed


def body(frame: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(frame.split(b"data: ", 1)[1])
    return found


def test_a_frame_holds_what_has_changed_and_the_whole_is_at_hand() -> None:
    now: dict[str, object] = {"time_ms": 1, "links": ["up"]}
    feed = PageFeed(lambda: now)
    feed.turn()
    assert body(feed.changes) == now
    now = {"time_ms": 2, "links": ["up"]}
    feed.turn()
    assert (feed.number, body(feed.changes)) == (2, {"time_ms": 2})
    assert body(feed.whole()) == now
    assert feed.whole().startswith(b"id: 2\nevent: page\n")


def test_a_second_without_any_change_is_a_frame_without_parts() -> None:
    feed = PageFeed(lambda: {"links": []})
    feed.turn()
    feed.turn()
    assert body(feed.changes) == {}
