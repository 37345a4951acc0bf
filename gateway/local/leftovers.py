"""Clears what earlier configurations of this gateway left retained on the local broker.

A retained message outlives its window and its gateway's name. So a file keeps the filters of everything that
is retained, and those that the configuration no longer has are swept: subscribed to, and what comes is
cleared, until a subscription brings nothing. The broker itself is the list of what is there.

Invariants:
- A filter is in the file before anything is retained under it, and until nothing is left there.
- Nothing is cleared under the name of a gateway that is online: another one has taken that name.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from gateway.core.errors import plain_reason
from gateway.core.events import Message
from gateway.core.topics import filter_matches
from gateway.host.files import write_whole
from gateway.mqtt.paho_client import is_refusal

if TYPE_CHECKING:
    from gateway.mqtt.link import Link

log = logging.getLogger(__name__)

MEMORY_FILE = "retained.json"
"""Name of the file in the data directory that keeps the filters from one run to the next."""
QUIET_S = 1.0
"""For how long nothing has to come behind the answer to a subscription: brokers send it at once."""

Filters = Mapping[str, Sequence[str]]
"""Filters of everything that is retained, by the root of the gateway's topics; the status is the first."""


def read_filters(path: Path) -> dict[str, list[str]]:
    """Read the file; returns nothing when it is missing or cannot be read."""
    try:
        found = orjson.loads(path.read_bytes())
        return {str(root): [str(one) for one in filters] for root, filters in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError) as exc:
        log.warning("%s cannot be read, what earlier configurations retained is unknown: %s", path, exc)
        return {}


class _Sweep:
    """The filters of one root on their way: subscribe, clear what comes, and again until nothing comes."""

    def __init__(self, root: str, filters: Sequence[str]) -> None:
        self.root = root
        self.filters = list(filters)
        self.cleared: set[str] = set()
        self.found = 0  # by the subscriptions that stand
        self._unanswered: set[str] = set()
        self._heard_at_s = 0.0

    def subscribe(self, link: Link, filters: Sequence[str]) -> None:
        self.found, self._unanswered = 0, {*filters}
        link.subscribe([(each, 0) for each in filters])

    def answered(self, topic_filter: str) -> None:
        self._unanswered.discard(topic_filter)
        self.heard()

    def heard(self) -> None:
        self._heard_at_s = time.monotonic()

    def matches(self, topic: str) -> bool:
        return any(filter_matches(each, topic) for each in self.filters)

    @property
    def quiet_s(self) -> float:
        """Return how long nothing has come."""
        return 0.0 if self._unanswered else time.monotonic() - self._heard_at_s


class Leftovers:
    """Sweeps the filters that `wanted` no longer has. All but `prepare` is for the link's thread."""

    def __init__(self, path: Path, wanted: Filters) -> None:
        self._path = path
        self._wanted = {root: list(filters) for root, filters in wanted.items()}
        self._known: dict[str, list[str]] = {}
        self._to_sweep: deque[_Sweep] = deque()  # on this connection; the first one is on its way
        self._is_first_look = False  # at the status only: does another gateway use this name?
        self._stays = False  # not everything of the first one can be cleared

    def prepare(self) -> None:
        """Remember what will be retained from now on. Call it before the link starts."""
        known = read_filters(self._path)
        for root, filters in self._wanted.items():
            known[root] = [*filters, *(one for one in known.get(root, []) if one not in filters)]
        self._known = known
        self._save()

    # --- on the link's thread ---

    def connected(self, link: Link) -> None:
        """Begin on a new connection."""
        gone = {
            root: [each for each in filters if each not in self._wanted.get(root, ())]
            for root, filters in self._known.items()
        }
        self._to_sweep = deque(_Sweep(root, filters) for root, filters in gone.items() if filters)
        self._begin(link)

    def subscribed(self, link: Link, codes: dict[str, int]) -> None:
        """Take the answers to subscriptions of ours out of `codes`."""
        if not self._to_sweep:
            return
        sweep = self._to_sweep[0]
        for topic_filter in [each for each in sweep.filters if each in codes]:
            code = codes.pop(topic_filter)
            sweep.answered(topic_filter)
            if is_refusal(code):
                sweep.filters.remove(topic_filter)
                self._note_stay(topic_filter, f"{link.endpoint.place} refuses with reason 0x{code:02x}")

    def received(self, link: Link, message: Message) -> bool:
        """Clear a message that is left over. Return False for one that is not our business."""
        sweep = self._to_sweep[0] if self._to_sweep else None
        if sweep is None or not sweep.matches(message.topic):
            return False
        sweep.heard()
        if not message.retain or not message.payload:
            return True
        if self._is_first_look:
            if _says_online(sweep.root, message):
                self._note_stay(f"{sweep.root}/#", "a gateway with this name is online")
        elif message.topic in sweep.cleared:
            self._note_stay(message.topic, f"{link.endpoint.place} does not let it be cleared")
        else:
            link.publish(message.topic, b"", qos=1, retain=True)
            sweep.cleared.add(message.topic)
            sweep.found += 1
        return True

    def work(self, link: Link) -> None:
        """Go on once nothing more comes."""
        if not self._to_sweep or self._to_sweep[0].quiet_s < QUIET_S:
            return
        sweep = self._to_sweep[0]
        if self._is_first_look and not self._stays:
            self._is_first_look = False
            sweep.subscribe(link, sweep.filters)
        elif sweep.found:  # a broker may leave out some of many
            sweep.subscribe(link, sweep.filters)
        else:
            self._finish(link, sweep)

    # --- one root after the other ---

    def _begin(self, link: Link) -> None:
        self._stays = False
        if not self._to_sweep:
            return
        sweep = self._to_sweep[0]
        self._is_first_look = sweep.root not in self._wanted
        sweep.subscribe(link, [f"{sweep.root}/status"] if self._is_first_look else sweep.filters)

    def _note_stay(self, what: str, reason: str) -> None:
        if not self._stays:  # the first of many
            log.warning("what is retained on %s stays: %s", what, reason)
        self._stays = True

    def _finish(self, link: Link, sweep: _Sweep) -> None:
        if sweep.cleared:
            log.info("cleared %d retained messages below %s", len(sweep.cleared), sweep.root)
        link.unsubscribe(sweep.filters)
        self._to_sweep.popleft()
        if not self._stays:
            self._forget(sweep.root)
        self._begin(link)

    def _forget(self, root: str) -> None:
        self._known.pop(root)
        if root in self._wanted:
            self._known[root] = self._wanted[root]
        self._save()

    def _save(self) -> None:
        """Save what is retained; where the disk refuses, only the next run remembers it."""
        try:
            write_whole(self._path, orjson.dumps(self._known))
        except OSError as exc:
            log.warning("%s cannot be written: %s", self._path, plain_reason(exc))


def _says_online(root: str, message: Message) -> bool:
    """Return True for the retained status of a gateway that is online."""
    if message.topic != f"{root}/status":
        return False
    try:
        return bool(orjson.loads(message.payload)["state"] == "online")
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return False
