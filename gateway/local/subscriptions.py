"""Subscriptions at the local broker, across connections, reloads and restarts.

Invariants:
- A message is taken once, however many routes want its topic. Where the broker may send a copy per
  subscription, either the filters do not overlap (MQTT 3.1.1), or identifiers say which copy counts (5).
- What was ever subscribed to is remembered until the broker has ended it: a persistent session would go on
  queueing what no route wants any more.
- A new filter is granted before an old one is ended: in between a message may come twice, never not at all.
- A refused filter stops no other one. It is named, and asked for again every REFUSED_RETRY_S.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from gateway.core.topics import disjoint, filter_matches, overlap
from gateway.host.files import write_whole
from gateway.local.copies import Copies, Identified

if TYPE_CHECKING:
    from gateway.mqtt.link import Link

log = logging.getLogger(__name__)

MEMORY_FILE = "subscriptions.json"
"""Name of the file in the data directory that keeps subscriptions from one run to the next."""
REFUSED_RETRY_S = 60.0
_CACHED_TOPICS = 10_000


@dataclass
class Memory:
    """Notes of one run for the next about its session at the broker."""

    session: str = ""  # whose it is: broker and client identifier
    names: list[str] = field(default_factory=list)  # the filters that it may hold, as they were asked for
    since_ms: int | None = None  # when the first of them was granted
    generations: list[list[Identified]] = field(default_factory=list)  # see `copies`

    @classmethod
    def read(cls, path: Path) -> Memory:
        """Read the file; returns empty notes when it is missing or cannot be read."""
        try:
            return cls(**orjson.loads(path.read_bytes()))
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, TypeError) as exc:
            log.warning("%s cannot be read, earlier subscriptions are unknown: %s", path, exc)
            return cls()

    def write(self, path: Path) -> None:
        """Raises OSError."""
        generations = [[list(one) for one in each] for each in self.generations]
        write_whole(path, orjson.dumps(vars(self) | {"generations": generations}))


@dataclass(frozen=True)
class Report:
    """Receiver of a `Subscriptions`' reports. `save` may raise OSError."""

    save: Callable[[Memory], None]
    alert: Callable[[str, str], None]
    now_ms: Callable[[], int]


def session_name(client_id: str, url: str) -> str:
    """Return the name of a session: one client at one broker."""
    return f"{client_id} at {url}"


def plan(wanted: Mapping[str, int], *, identified: bool) -> dict[str, int]:
    """The filters to subscribe to for the routes' filters, each with its QoS."""
    return dict(wanted) if identified else disjoint(wanted)


def overlapping(wanted: Mapping[str, int]) -> bool:
    """Return True if any topic matches two of the filters."""
    names = list(wanted)
    return any(overlap(one, other) for at, one in enumerate(names) for other in names[:at])


class Subscriptions:
    """Subscribes a link to `wanted`, (filter, QoS) by route, under the names that `as_asked` gives them.

    All but the properties is for the link's thread. `kept` says whether the broker keeps sessions at all:
    one inside of this process does not, over a restart.
    """

    def __init__(
        self,
        wanted: Mapping[str, int],
        memory: Memory,
        report: Report,
        *,
        session: str = "",
        as_asked: Callable[[str], str] = str,
        kept: bool = True,
    ) -> None:
        same = memory.session == session
        self._memory = memory if same else Memory(session)
        self._saved = Memory()
        self._wanted = dict(wanted)
        self._report = report
        self._as_asked = as_asked
        self._kept = kept
        self._overlapping = overlapping(wanted)
        self._copies = Copies(self._memory.generations)
        self._identified = self._widened = False
        self._asked: dict[str, str] = {}  # filters by the name that the broker is asked for
        self._qos: dict[str, int] = {}  # by the same names
        self._unanswered = set(map(as_asked, wanted))
        self._stale: list[str] = []
        self._told_expiry_s: int | None = None
        self._retry_at_s = 0.0
        self.refused: dict[str, str] = {}
        """Reason for the broker's refusal, by filter."""
        self.copies = 0
        self.unwanted = 0
        """Messages that only the wider filter brought, which no route wants."""
        self._is_wanted = lru_cache(_CACHED_TOPICS)(self._matches)

    @property
    def since_ms(self) -> int | None:
        """Start of the subscription: earlier messages are not here. None: there is no subscription yet."""
        return self._memory.since_ms

    @property
    def problems(self) -> list[str]:
        """Problems that keep messages away; empty when there are none."""
        return [f"no subscription to {name}: {why}" for name, why in list(self.refused.items())]

    @property
    def awaited(self) -> list[str]:
        """The filters that the broker has not answered on this connection: it may drop what comes there."""
        names = (self._asked.get(asked, asked) for asked in list(self._unanswered))
        return sorted(set(names) - set(self.refused))

    def describe(self) -> dict[str, object]:
        """Return the subscriptions for status and page."""
        return {
            "subscribed_to": ", ".join(self._asked) or "nothing yet",
            "since_ms": self.since_ms,
            "refused": "; ".join(self.problems) or None,
            "copies": self.copies,
            "unwanted": self.unwanted,
        }

    # --- on the link's thread ---

    def connected(self, link: Link, session_present: bool) -> None:
        """Ask for what is wanted, and remember it first."""
        memory = self._memory
        self._note_session(link, session_present)
        self._identified = self._overlapping and link.connack.subscription_ids
        self._widened = self._overlapping and not self._identified
        planned = plan(self._wanted, identified=self._identified)
        self._asked = {self._as_asked(name): name for name in planned}
        self._qos = {self._as_asked(name): qos for name, qos in planned.items()}
        ids = self._copies.renew(planned) if self._identified else {}
        # A session of an earlier version is not remembered, but it may hold what the routes say.
        held = [*memory.names, *map(self._as_asked, self._wanted)] if session_present else []
        self._stale = [name for name in dict.fromkeys(held) if name not in self._asked]
        memory.names = list(dict.fromkeys([*memory.names, *self._asked]))
        self._save()
        self._subscribe(link, list(self._asked), ids)

    def answered(self, link: Link, codes: Mapping[str, int]) -> None:
        """The broker granted or refused; when it has answered all, end what is no longer wanted."""
        for asked, code in codes.items():
            name = self._asked.get(asked, asked)
            self._unanswered.discard(asked)
            self._note_answer(link, name, self._qos.get(asked, 0), code)
            if self._identified:
                self._copies.answered(name, code if code < 0x80 else -1)
        if len(self.refused) < len(self._asked) and self._memory.since_ms is None:
            self._memory.since_ms = self._report.now_ms()
        self._save()
        if not self._unanswered and self._stale:
            stale, self._stale = self._stale, []
            log.info("no route uses %s now: unsubscribing", ", ".join(stale))
            link.unsubscribe(stale)

    def disconnected(self) -> None:
        """Wait for the answers anew: the next session may be an empty one."""
        self._unanswered = set(self._asked)

    def ended(self, names: Sequence[str]) -> None:
        """The broker no longer holds these."""
        self._memory.names = [name for name in self._memory.names if name not in names]
        self._save()

    def work(self, link: Link) -> None:
        """Ask again for what was refused, when it is time."""
        if self.refused and not self._unanswered and time.monotonic() >= self._retry_at_s:
            again = [asked for asked, name in self._asked.items() if name in self.refused]
            ids = self._copies.renew(self._wanted) if self._identified else {}
            self._subscribe(link, again, ids)

    @property
    def sifts(self) -> bool:
        """True if `is_due` may refuse a message."""
        return self._overlapping or bool(self._copies.saved)

    def is_due(self, topic: str, ids: Sequence[int]) -> bool:
        """Return True if a message is to be taken in. The others are only acknowledged."""
        if self._copies.is_copy(topic, ids):
            self.copies += 1
            return False
        if self._widened and not self._is_wanted(topic):
            self.unwanted += 1
            return False
        return True

    # --- inside ---

    def _subscribe(self, link: Link, asked: Sequence[str], ids: Mapping[str, int]) -> None:
        self._unanswered = set(asked)
        self._retry_at_s = time.monotonic() + REFUSED_RETRY_S
        by_id: dict[int, list[tuple[str, int]]] = {}
        for name in asked:
            by_id.setdefault(ids.get(self._asked[name], 0), []).append((name, self._qos[name]))
        for identifier, filters in by_id.items():
            link.subscribe(filters, retained="new", identifier=identifier)

    def _note_session(self, link: Link, session_present: bool) -> None:
        memory, place = self._memory, link.endpoint.place
        if not session_present:
            if memory.since_ms is not None and self._kept:
                self._report.alert(
                    "session_lost",
                    f"the broker {place} has lost the session of client id {link.endpoint.client_id!r}, with "
                    "what it had queued and not delivered. Does it keep sessions on disk, and long enough? "
                    "Can another client take this client id? See docs/security.md",
                )
            memory.names, memory.since_ms, memory.generations = [], None, []
            self._copies = Copies()
        granted_s, asked_s = link.connack.session_expiry_s, link.endpoint.session_expiry_s
        if granted_s is not None and granted_s < asked_s and granted_s != self._told_expiry_s:
            self._report.alert(
                "session_expiry",
                f"the broker {place} keeps our session for {granted_s} s, not for the {asked_s} s of "
                "local.session_expiry: after a longer stop of the gateway messages are missing",
            )
            self._told_expiry_s = granted_s

    def _note_answer(self, link: Link, name: str, wanted_qos: int, code: int) -> None:
        why = ""
        if code >= 0x80:
            why = f"refused by {link.endpoint.place} with reason {code:#04x}"
        elif code < wanted_qos:
            log.warning("the broker grants %s only QoS %d: messages may be lost on the way", name, code)
        if why and name not in self.refused:
            log.error("no subscription to %s: %s; asked again every %g s", name, why, REFUSED_RETRY_S)
            self._report.alert("subscription_refused", f"no subscription to {name}: {why}")
        if why:
            self.refused[name] = why
        elif self.refused.pop(name, None):
            log.info("the broker now grants the subscription to %s", name)

    def _matches(self, topic: str) -> bool:
        return any(filter_matches(name, topic) for name in self._wanted)

    def _save(self) -> None:
        self._memory.generations = self._copies.saved
        if self._memory != self._saved:
            self._saved = replace(self._memory)
            try:
                self._report.save(self._memory)
            except OSError as exc:
                log.warning("the subscriptions cannot be saved for the next start: %s", exc)
