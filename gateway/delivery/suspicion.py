"""Finds the message over which a broker ends connections, among all that outages end. Logic only.

A close does not say which message caused it. So a message is judged by what happens to it repeatedly:
- The oldest message without an answer gets a strike at each close. With STRIKES of them it is sent alone, a
  frame in halves, so that each further close tells which half is meant.
- One event fails only after a close over it alone, on a connection that has taken something else just
  before, or one that had no answer while later messages had theirs: then it is not the line, nor the broker.
- After two closes in a row messages go one at a time, until what was on its way at the last one is through.
- Without anything to compare it with, a lone event is set aside for a while, so that others can pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

STRIKES = 3
_MOST_EVENTS = 200_000  # to remember: far more than one message of each connection has
_MOST_CAREFUL = 2000  # messages one at a time; what is still missing then was evicted


class Finding(Enum):
    """The meaning of a close for the message that was the oldest without an answer."""

    AGAIN = "again"  # it goes again, as its strikes say
    ASIDE = "aside"  # it waits; nothing else was there to compare it with
    FAIL = "fail"  # the broker will not take it


class Suspects:
    """Suspicious events of one bridge connection, over all of its reconnects."""

    def __init__(self) -> None:
        self._strikes: dict[int, int] = {}  # of an event, by its id
        self._overtaken: set[int] = set()  # events without an answer when later messages had theirs
        self._closed_alone: set[int] = set()  # events of which a close came while nothing else was on its way
        self._unsettled: set[int] = set()  # on their way at the last close
        self._closes = 0  # in a row
        self._careful_messages = 0
        self._taken_here = 0  # messages of this connection

    def connected(self) -> None:
        """A new connection: it has taken nothing yet."""
        self._taken_here = 0

    def taken(self, ids: Sequence[int]) -> None:
        """The broker acknowledged a message with these events."""
        self._taken_here += 1
        if self._strikes:
            for each in ids:
                self._strikes.pop(each, None)
            self._closed_alone.difference_update(ids)
            self._overtaken.difference_update(ids)
        if self._unsettled:
            self._unsettled.difference_update(ids)
            self._careful_messages += 1
            if not self._unsettled or self._careful_messages > _MOST_CAREFUL:
                self.idle()

    def idle(self) -> None:
        """Clear all suspicion: nothing is left to send."""
        self._unsettled.clear()
        self._closes = self._careful_messages = 0

    def forget(self, ids: Sequence[int]) -> None:
        """Forget events that have failed, or were refused in another way."""
        for each in ids:
            self._strikes.pop(each, None)
            self._closed_alone.discard(each)
            self._overtaken.discard(each)
            self._unsettled.discard(each)

    def closed(self, in_flight: Sequence[Sequence[int]], *, named: bool, overtaken: bool = False) -> Finding:
        """The connection ended while messages with these events had no answer, the oldest first. `named`: the
        broker said that it was because of what a message holds. `overtaken`: it has answered later ones than
        the oldest."""
        self._closes = self._closes + 1 if self._unsettled else 1
        self._unsettled = {each for ids in in_flight for each in ids}
        self._careful_messages = 0
        oldest = in_flight[0]
        strikes = max(self._strikes.get(each, 0) for each in oldest) + 1
        alone = len(in_flight) == 1
        if overtaken and len(oldest) == 1:
            self._overtaken.add(oldest[0])
        compared = self._taken_here or oldest[0] in self._overtaken
        if alone and len(oldest) == 1 and (named or (strikes > STRIKES and compared)):
            self.forget(oldest)
            return Finding.FAIL
        if len(self._strikes) > _MOST_EVENTS:
            self._strikes.clear()
            self._closed_alone.clear()
            self._overtaken.clear()
        if alone and len(oldest) == 1:
            self._closed_alone.add(oldest[0])
        self._strikes |= dict.fromkeys(oldest, max(strikes, STRIKES) if named else strikes)
        return Finding.ASIDE if alone and len(oldest) == 1 and strikes > STRIKES else Finding.AGAIN

    @property
    def any(self) -> bool:
        """True if any event has a strike."""
        return bool(self._strikes)

    @property
    def careful(self) -> bool:
        """True while messages go one at a time."""
        return self._closes > 1

    def suspicious(self, event_id: int) -> bool:
        """Return True if the message that begins with this event goes alone."""
        return self._strikes.get(event_id, 0) >= STRIKES

    def end(self, ids: Sequence[int], start: int, end: int) -> int:
        """Return the end of a frame that begins with the event at `start`: suspects are not mixed with
        others, and half of those that share their strikes go at once."""
        if not self._strikes:
            return end
        strikes = self._strikes.get(ids[start], 0)
        at = start + 1
        if strikes < STRIKES:
            while at < end and self._strikes.get(ids[at], 0) < STRIKES:
                at += 1
            return at
        while at < len(ids) and self._strikes.get(ids[at], 0) == strikes:
            at += 1
        return min(end, start + (at - start + 1) // 2)

    def witness(self, ids: Sequence[int], streams: Sequence[int], start: int) -> int | None:
        """The event to send before the suspect at `start`, to see whether this connection takes anything:
        with few strikes, and the first of another stream, so that it overtakes nothing; where there is none
        and a close came over the suspect alone, one of its own stream. None without need, or choice."""
        if self._taken_here or not self.suspicious(ids[start]):
            return None
        known, suspected = self._strikes, self._strikes[ids[start]]
        firsts = {streams[at]: at for at in range(len(ids) - 1, start, -1)}
        firsts.pop(streams[start], None)
        # Suspects that wait before it would be overtaken by the first event of their stream without strikes.
        others = [at for at in firsts.values() if known.get(ids[at], 0) < suspected]
        if not others and ids[start] in self._closed_alone:
            behind = [at for at in range(start + 1, len(ids)) if streams[at] == streams[start]]
            others = [at for at in behind if known.get(ids[at], 0) < suspected]
        return min(others, key=lambda at: (known.get(ids[at], 0), at), default=None)
