"""Birth certificates of Sparkplug B edge nodes: names and types for the metrics of later messages.

Invariants:
- What a message becomes depends on the messages before it alone, so that a replay gives the same. Its state
  is part of the checkpoint.
- Only births make an entry. MAX_METRICS bounds them all together, MAX_ASKED those that are asked to be
  born again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

NAMESPACE = "spBv1.0"
"""The first level of all topics."""

HOST_STATE = "STATE"
"""Level of the topics on which host applications say that they are online, as text or JSON."""

STATE = "$sparkplug"
"""The name beside those of windows, which begin with a letter or a digit, under which the state is stored."""

REBIRTH_EVERY_MS = 60_000
"""First wait for a rebirth before it is requested again; doubled each time, because births may be large."""

REBIRTH_AT_LEAST_EVERY_MS = 3_600_000
"""Limit of the doubling: some nodes do not know the command, and some do not survive it."""

MAX_METRICS = 500_000
"""Some 150 bytes each. A plant's edge node has some hundred to some thousand."""

MAX_ASKED = 10_000

MAX_NAMED = 100
"""Metrics that are data sets or templates: further ones are counted, and not named."""

_SEQUENCE = 256
_NODE_LEVELS = 4

# Data types Int8 to Int64: negative numbers travel as two's complement in an unsigned field.
_SIGNED_BITS = {1: 8, 2: 16, 3: 32, 4: 64}

Metric = dict[str, Any]


def is_host_state(topic: str) -> bool:
    """Return True for `spBv1.0/STATE/{host}` and, from some hosts, `spBv1.0/{group}/STATE/{host}`."""
    return HOST_STATE in topic.split("/", 3)[1:3]


def signed(value: object, datatype: object) -> object:
    """A whole number as its data type means it; all other values as they are."""
    bits = _SIGNED_BITS.get(datatype) if type(datatype) is int else None
    if bits is None or type(value) is not int or value < 0:
        return value
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def birth_topics(topic: str) -> Iterator[tuple[str, str]]:
    """The kind and topic of the births and deaths of all nodes and devices that `topic` has messages of."""
    levels = topic.split("/")
    if levels[0] != NAMESPACE or len(levels) < _NODE_LEVELS:
        return
    is_open = levels[-1] == "#" or levels[-1].endswith("...}")
    node = "+" if is_open and len(levels) == _NODE_LEVELS else levels[3]
    for kind in ("NBIRTH", "NDEATH"):
        yield kind, "/".join([*levels[:2], kind, node])
    if is_open or len(levels) > _NODE_LEVELS:
        for kind in ("DBIRTH", "DDEATH"):
            yield kind, "/".join([*levels[:2], kind, *levels[3:]])


@dataclass(slots=True)
class _Born:
    """The metrics of one birth, of the node itself or of one of its devices."""

    metrics: list[tuple[str, int | None, int | None]]
    """Name, data type and alias of each."""
    at_ms: int
    """The birth's own time; 0 if it had none."""
    types: dict[str, int | None]
    names: dict[int, str]

    @classmethod
    def of(cls, metrics: Iterable[tuple[str, int | None, int | None]], at_ms: int = 0) -> _Born:
        found = list(metrics)
        return cls(
            found,
            at_ms,
            {name: datatype for name, datatype, _ in found},
            {alias: name for name, _, alias in found if alias is not None},
        )


@dataclass(slots=True)
class _Request:
    """The time of the last request to a node, and the number of requests since its birth; 0 if it was born
    since."""

    at_ms: int
    times: int = 0

    @property
    def pause_ms(self) -> int:
        return min(REBIRTH_EVERY_MS << max(self.times - 1, 0), REBIRTH_AT_LEAST_EVERY_MS)


@dataclass(slots=True)
class _Node:
    """An edge node that is online. `sequence` is None where only a retained birth is known; `doubtful` from a
    missed message until its next birth."""

    sequence: int | None
    birth_death: object
    doubtful: bool = False
    born: dict[str, _Born] = field(default_factory=dict)
    """Births by device; the node's own has the empty name."""


class EdgeNodes:
    """Resolves messages, watches sequence numbers, and lists nodes that must send a new birth.

    Names of nodes are `group/node`. `counts` are since the start, with what was replayed then: `births`,
    `old_births` (retained ones that are older than what is known), `deaths` (of nodes and devices), `stale`
    (metrics that a death took back), `gaps` in sequence numbers, `unresolved` (metrics whose alias no birth
    has named), `data_sets`, `templates` (metrics that are one), `refused` (births beyond MAX_METRICS),
    `rebirths` (that were asked for), `state_dropped` (rows of the checkpoint that could not be read).
    """

    def __init__(self, max_metrics: int = MAX_METRICS) -> None:
        self.counts: Counter[str] = Counter()
        self._max_metrics = max_metrics
        self._nodes: dict[str, _Node] = {}
        self._size = 0
        self._full = False
        self._wanted: dict[str, str] = {}
        self._asked: dict[str, _Request] = {}
        self._changed: dict[tuple[str, str | None], None] = {}
        self._structured: dict[str, None] = {}
        self._structured_told = 0

    @property
    def online(self) -> int:
        """Number of edge nodes that are online."""
        return len(self._nodes)

    def read(
        self, topic: str, document: dict[str, Any], retained: bool = False, *, may_ask: bool = True
    ) -> dict[str, Any]:
        """A decoded message with its metrics resolved; only births and data have any. Unless it `may_ask`,
        its node is not listed for a new birth."""
        levels = topic.split("/")
        if levels[0] != NAMESPACE or len(levels) not in (4, 5):
            return document
        kind, node, device = levels[2], f"{levels[1]}/{levels[3]}", "/".join(levels[4:])
        if kind.endswith("BIRTH"):
            if retained:
                self._retained_birth(node, device, document)
            else:
                self._birth(node, device, document)
        elif kind.endswith("DATA"):
            document = {**document, "metrics": self._data(node, device, document)}
        else:
            if kind.endswith("DEATH"):
                self._death(node, device, document)
            document = {**document, "metrics": []}
        if not may_ask:
            self._wanted.pop(node, None)
        for metric in document["metrics"]:
            if type(metric["value"]) is dict:
                self.counts["data_sets" if "rows" in metric["value"] else "templates"] += 1
                if len(self._structured) < MAX_NAMED:
                    self._structured["/".join([node, *levels[4:], str(metric.get("name"))])] = None
        return document

    def newly_structured(self) -> list[str]:
        """The metrics that turned out to be data sets or templates since the last call, each once."""
        found = list(self._structured)[self._structured_told :]
        self._structured_told += len(found)
        return found

    def rebirths(self, monotonic_ms: int) -> dict[str, str]:
        """The nodes to ask for a birth now, each with the reason; less and less often until it is born."""
        if not self._wanted and len(self._asked) < MAX_ASKED:
            return {}
        # Remembered for a pause more, so that the next one is longer.
        self._asked = {
            node: one for node, one in self._asked.items() if monotonic_ms - one.at_ms < 2 * one.pause_ms
        }
        due = {node: why for node, why in self._wanted.items() if self._may_ask(node, monotonic_ms)}
        self._wanted.clear()  # who goes on talking will be wanted again
        for node in due:
            before = self._asked.get(node)
            self._asked[node] = _Request(monotonic_ms, before.times + 1 if before else 1)
        self.counts["rebirths"] += len(due)
        return due

    def first_asked(self, node: str) -> bool:
        """Return True if a node was just asked for the first time since its birth."""
        return self._asked[node].times == 1

    def _may_ask(self, node: str, monotonic_ms: int) -> bool:
        before = self._asked.get(node)
        return before is None or monotonic_ms - before.at_ms >= before.pause_ms

    # --- messages ---

    def _retained_birth(self, name: str, device: str, document: Mapping[str, Any]) -> None:
        """A birth that the broker has kept gives names, but says nothing of sequence numbers, and may be
        older than one that came since. The births of a node and its devices come in any order."""
        node = self._nodes.get(name)
        known = node.born.get(device) if node else None
        if known is not None and _time_of(document) <= known.at_ms:
            self.counts["old_births"] += 1
            return
        if node is None:
            node = _Node(None, None)
        if not device:
            node.birth_death = _birth_death(document)
        self._remember(name, device, node, document)

    def _birth(self, name: str, device: str, document: Mapping[str, Any]) -> None:
        if device:
            node = self._follow(name, document)
            if node is None:  # what a device says of itself holds; its node is asked for the rest
                node = _Node(_sequence_of(document, 0), None, doubtful=True)
        else:
            self._forget(name)
            self._wanted.pop(name, None)
            if name in self._asked:
                self._asked[name].times = 0
            node = _Node(_sequence_of(document, 0), _birth_death(document))
        self._remember(name, device, node, document)

    def _remember(self, name: str, device: str, node: _Node, document: Mapping[str, Any]) -> None:
        born = _Born.of(map(_entry, filter(_is_named, document["metrics"])), _time_of(document))
        self.counts["births"] += 1
        self._take_back(name, node, device)
        size = len(born.metrics) + (1 if name in self._nodes else 2)
        if self._size + size > self._max_metrics:
            self.counts["refused"] += 1
            self._full = True
            return
        self._nodes[name] = node
        node.born[device] = born
        self._size += size
        self._changed[name, None] = self._changed[name, device] = None

    def _data(self, name: str, device: str, document: Mapping[str, Any]) -> list[Metric]:
        node = self._follow(name, document)
        born = node.born.get(device) if node else None
        if node and born is None:
            self._want(name, "a device without a birth")
        return [self._resolved(metric, born) for metric in document["metrics"]]

    def _resolved(self, metric: Metric, born: _Born | None) -> Metric:
        name = metric.get("name")
        if not name and "alias" in metric:  # some encoders write an empty name beside the alias
            name = born.names.get(metric["alias"]) if born else None
            if name is None:
                self.counts["unresolved"] += 1
                return {key: value for key, value in metric.items() if key != "name"}
            metric = {**metric, "name": name}
        if born and not metric.get("datatype"):
            metric = {**metric, "value": signed(metric["value"], born.types.get(name or ""))}
        return metric

    def _death(self, name: str, device: str, document: Mapping[str, Any]) -> None:
        if device:
            node = self._follow(name, document)
            if node is not None and device in node.born:
                self.counts["deaths"] += 1
                self.counts["stale"] += self._take_back(name, node, device)
            return
        node = self._nodes.get(name)
        if node is not None and node.birth_death in (
            None,
            _birth_death(document),
        ):  # another one is the will of an older session
            self.counts["deaths"] += 1
            self.counts["stale"] += self._forget(name)

    def _follow(self, name: str, document: Mapping[str, Any]) -> _Node | None:
        """The node of a message that is not its birth, after a look at the sequence number."""
        node = self._nodes.get(name)
        if node is None:
            if not self._full:
                self._want(name, "no birth was seen")
            return None
        before = node.sequence
        expected = None if before is None else (before + 1) % _SEQUENCE
        node.sequence = _sequence_of(document, expected)
        self._changed[name, None] = None
        if node.sequence != expected and before is not None:
            self.counts["gaps"] += 1
            node.doubtful = True
        if node.doubtful:
            self._want(name, "messages are missing")
        return node

    def _want(self, name: str, why: str) -> None:
        if name in self._asked or len(self._wanted) + len(self._asked) < MAX_ASKED:
            self._wanted.setdefault(name, why)

    def _forget(self, name: str) -> int:
        """The node is offline, and so are its devices; returns how many metrics they had."""
        node = self._nodes.get(name)
        if node is None:
            return 0
        metrics = sum(self._take_back(name, node, device) for device in list(node.born))
        del self._nodes[name]
        self._size -= 1
        self._changed[name, None] = None
        return metrics

    def _take_back(self, name: str, node: _Node, device: str) -> int:
        born = node.born.pop(device, None)
        if born is None:
            return 0
        self._size -= 1 + len(born.metrics)
        self._full = False
        self._changed[name, device] = None
        return len(born.metrics)

    # --- the checkpoint ---

    def take_changes(self) -> list[tuple[str, bytes, bytes | None]]:
        """(STATE, row, state) of what changed since the last call; None: delete the row."""
        changed, self._changed = self._changed, {}
        return [(STATE, _row(name, device), self._dump(name, device)) for name, device in changed]

    def restore(self, rows: Iterable[tuple[str, bytes, bytes]]) -> Iterator[tuple[str, bytes, bytes]]:
        """Start from the rows of a checkpoint in their order, a node before its devices; returns the rows of
        windows, to be read to the end. Afterwards `read` every message after the checkpoint again."""
        self._nodes.clear()
        self._wanted.clear()
        self._changed.clear()
        self._size, self._full = 0, False
        return self._take_own(rows)

    def _take_own(self, rows: Iterable[tuple[str, bytes, bytes]]) -> Iterator[tuple[str, bytes, bytes]]:
        for each in rows:
            window, row, state = each
            if window != STATE:
                yield each
                continue
            try:
                self._load(*row.decode().split("/", 2), state=orjson.loads(state))
            except (ValueError, TypeError, KeyError):
                self.counts["state_dropped"] += 1  # the node is asked for a new birth

    def _load(self, group: str, name: str, device: str | None = None, *, state: Any) -> None:
        if device is None:
            self._nodes[f"{group}/{name}"] = _Node(*state)
            self._size += 1
            return
        at_ms, metrics = (0, state) if isinstance(state, list) else (state["at_ms"], state["metrics"])
        born = _Born.of(((name, datatype, alias) for name, datatype, alias in metrics), at_ms)
        self._nodes[f"{group}/{name}"].born[device] = born
        self._size += 1 + len(born.metrics)

    def _dump(self, name: str, device: str | None) -> bytes | None:
        node = self._nodes.get(name)
        if node is None:
            return None
        if device is None:
            return orjson.dumps([node.sequence, node.birth_death, node.doubtful])
        born = node.born.get(device)
        return None if born is None else orjson.dumps({"at_ms": born.at_ms, "metrics": born.metrics})


def _row(name: str, device: str | None) -> bytes:
    return (name if device is None else f"{name}/{device}").encode()


def _is_named(metric: Metric) -> bool:
    return bool(metric.get("name"))


def _entry(metric: Metric) -> tuple[str, int | None, int | None]:
    return metric["name"], metric.get("datatype"), metric.get("alias")


def _time_of(document: Mapping[str, Any]) -> int:
    found = document.get("timestamp")
    return found if type(found) is int else 0


def _sequence_of(document: Mapping[str, Any], otherwise: int | None) -> int | None:
    found = document.get("seq")
    return found % _SEQUENCE if type(found) is int else otherwise


def _birth_death(document: Mapping[str, Any]) -> object:
    """The number that a birth has in common with the death that was agreed on with it."""
    return next((metric["value"] for metric in document["metrics"] if metric.get("name") == "bdSeq"), None)
