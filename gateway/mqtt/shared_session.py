"""Several sessions on one connection, for services that allow one per client id.

Who owns what:
- The link owns the connection: its epoch, packet ids and pauses. Each member owns what it has published.
- Every member is told of every connection, answer and end, in the order of the list. An answer to a packet id
  that is not a member's own is another's: it ignores it.
- One member, `reader`, owns all subscriptions and what comes on them. It cannot stop the reading, because the
  others wait for their answers: it has to bound by itself what it keeps.
- A member that gives up the connection gives it up for all.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.core.events import Message
from gateway.mqtt.link import Link, Session


class SharedSession(Session):
    """The sessions `members` on one link; `reader`, one of them, is the one that subscribes."""

    def __init__(self, members: Sequence[Session], reader: Session | None = None) -> None:
        self._members = tuple(members)
        self._reader = reader

    def connected(self, link: Link, session_present: bool) -> None:
        for member in self._members:
            member.connected(link, session_present)

    def published(self, link: Link, packet_id: int, reason_code: int) -> None:
        for member in self._members:
            member.published(link, packet_id, reason_code)

    def disconnected(self, link: Link) -> None:
        for member in self._members:
            member.disconnected(link)

    def leaving(self, link: Link) -> None:
        for member in self._members:
            member.leaving(link)

    def work(self, link: Link) -> float:
        return min(member.work(link) for member in self._members)

    def subscribed(self, link: Link, codes: dict[str, int]) -> None:
        if self._reader is not None:
            self._reader.subscribed(link, codes)

    def unsubscribed(self, link: Link, filters: Sequence[str]) -> None:
        if self._reader is not None:
            self._reader.unsubscribed(link, filters)

    def received(self, link: Link, messages: list[Message]) -> None:
        if self._reader is not None:
            self._reader.received(link, messages)
