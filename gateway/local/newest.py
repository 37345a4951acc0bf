"""Knows the newest window that was published on each topic of aggregates.

The buffer keeps it. In memory are only the streams of the events at hand and what is not committed yet, so
a hundred thousand keys cost no more than ten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from gateway.buffer.newest_results import Row
from gateway.buffer.store import Store
from gateway.buffer.writer import Command
from gateway.wire.standing import Standing


class SaveRepublished(Command):
    """Saves how far the local broker has the results, with the newest of them."""

    def __init__(self, event_id: int, newest: Sequence[Row]) -> None:
        self._event_id = event_id
        self._newest = newest
        self.done = False

    def apply(self, store: Store) -> None:
        store.save_republished(self._event_id, self._newest)

    def committed(self) -> None:
        self.done = True


class Newest:
    """The newest published window of each key. For the thread of the link. `known` reads what the buffer has
    of some streams."""

    def __init__(self, known: Callable[[Sequence[int]], list[Row]]) -> None:
        self._known = known
        self._at_hand: dict[int, Standing] = {}
        self._unsaved: dict[int, Standing] = {}
        self._saves: list[tuple[SaveRepublished, dict[int, Standing]]] = []  # not known to be committed

    def look_up(self, streams: Iterable[int]) -> None:
        """Have these at hand, and no others."""
        self._saves = [(save, rows) for save, rows in self._saves if not save.done]
        self._at_hand = {row[0]: Standing(*row[1:]) for row in self._known([*{*streams}])}
        for _, rows in self._saves:
            self._at_hand |= rows
        self._at_hand |= self._unsaved

    def is_superseded(self, stream: int, standing: Standing) -> bool:
        """Return True if a newer window has been published. If not, this one is the newest from now on."""
        newest = self._at_hand.get(stream)
        if newest is not None and standing.is_behind(newest):
            return True
        if standing != newest:
            self._at_hand[stream] = self._unsaved[stream] = standing
        return False

    def save(self, event_id: int) -> SaveRepublished:
        """The command that saves it all, with how far the broker has the results."""
        rows, self._unsaved = self._unsaved, {}
        save = SaveRepublished(event_id, [(stream, *standing) for stream, standing in rows.items()])
        self._saves.append((save, rows))
        return save
