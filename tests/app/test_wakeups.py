"""Those who wait for something in the buffer are woken by the commit that brought it, and by no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.app.wakeups import Wakeups
from gateway.buffer.alerts import append_alert
from gateway.buffer.store import Store
from gateway.core.events import Kind
from gateway.pipeline.results import append
from tests.support.buffers import EPOCH_MS, event, opened


class Sleeper:
    """A session that counts how often it is woken."""

    def __init__(self) -> None:
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1

    stored = wake


def test_each_is_woken_for_what_concerns_it(tmp_path: Path) -> None:
    republish: Any
    bridge: Any
    republish, bridge = Sleeper(), Sleeper()

    def after(change: Any) -> tuple[int, int]:
        """How often they are woken by the commit of a change."""
        before = republish.woken, bridge.woken
        with store.transaction():
            change(store)
        wakeups.committed()
        return republish.woken - before[0], bridge.woken - before[1]

    def alert(store: Store) -> None:
        append_alert(store, "gateway/g/alerts", EPOCH_MS, "name", "message")

    with opened(tmp_path / "events.db") as store:
        wakeups = Wakeups(store, republish, [bridge])
        wakeups.committed()
        assert after(lambda store: append(store, [event("s/a")])) == (0, 1)
        assert after(lambda store: append(store, [event("s/a"), event("w", kind=Kind.AGGREGATE)])) == (1, 1)
        assert after(alert) == (1, 1)
        assert after(lambda store: store.claim(10)) == (0, 0)
        with pytest.raises(ZeroDivisionError), store.transaction():
            alert(store)
            raise ZeroDivisionError
        with store.transaction():
            store.reload()
        assert after(lambda _: None) == (0, 0)
