"""Several sessions on one connection, for services that allow one per client id.

Who owns what:
- The link owns the connection: its epoch, packet ids and pauses. Each member owns what it has published.
- Every member is told of every connection, answer and end, in the order of the list. An answer to a packet id
  that is not a member's own is another's: it ignores it.
- A subscription and what comes on it belong to one member: its owner in `readers`, or else `reader`. They
  cannot stop the reading, because the others wait for their answers: each has to bound what it keeps.
- A member that gives up the connection gives it up for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from gateway.core.events import Message
from gateway.mqtt.link import Link, Session

_T = TypeVar("_T")


class SharedSession(Session):
    """The sessions `members` on one link. `readers` of them subscribe to a topic each, `reader` to others."""

    def __init__(
        self,
        members: Sequence[Session],
        reader: Session | None = None,
        readers: Mapping[str, Session] | None = None,
    ) -> None:
        self._members = tuple(members)
        self._reader = reader
        self._readers = dict(readers or {})

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
        for reader, names in self._by_reader(codes, lambda name: name):
            reader.subscribed(link, {name: codes[name] for name in names})

    def unsubscribed(self, link: Link, filters: Sequence[str]) -> None:
        for reader, names in self._by_reader(filters, lambda name: name):
            reader.unsubscribed(link, names)

    def released(self, link: Link, packet_id: int) -> None:
        if self._reader is not None:
            self._reader.released(link, packet_id)

    def received(self, link: Link, messages: list[Message]) -> None:
        for reader, some in self._by_reader(messages, lambda message: message.topic):
            reader.received(link, some)

    def _by_reader(
        self, things: Iterable[_T], topic_of: Callable[[_T], str]
    ) -> Iterator[tuple[Session, list[_T]]]:
        for reader in (*self._readers.values(), self._reader):
            if reader is not None:
                own = [each for each in things if self._readers.get(topic_of(each), self._reader) is reader]
                if own:
                    yield reader, own
