"""Topics under a gateway's own prefix: what it publishes locally, and what it sends to the cloud.

They are spelled here and nowhere else. docs/configuration.md lists them for the local broker,
docs/wire-format.md those of the cloud.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Literal, NamedTuple

UplinkForm = Literal["batch", "event", "audit"]

MAX_KEY_CHARS = 1024  # a topic has at most 65,535 bytes
MAX_KEY_LEVELS = 64  # Mosquitto takes at most 200 levels in a topic
_KEPT_CHARS = 64
# Wildcards, and what Mosquitto takes for malformed UTF-8: control characters and noncharacters.
_NONCHARACTERS = "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
_UNSAFE = re.compile(rf"[+#\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_NONCHARACTERS}]")
_LIKE_A_REPLACED_KEY = re.compile(r"~[0-9a-f]{16}$")


@dataclass(frozen=True)
class OwnTopics:
    """The topics of one gateway, or with `+` as its id the filters for those of all gateways."""

    prefix: str
    gateway_id: str

    @cached_property
    def root(self) -> str:
        """Common beginning of all topics, without the slash."""
        return f"{self.prefix}/{self.gateway_id}"

    # --- on the local broker ---

    @property
    def status(self) -> str:
        """Topic of the status, also on the cloud broker."""
        return f"{self.root}/status"

    def aggregate(self, window: str, key: str) -> str:
        return self.aggregates(window) + key_levels(key)

    def aggregates(self, window: str) -> str:
        """Return the common beginning of the topics of a window's aggregates."""
        return f"{self.all_aggregates}{window}/"

    @property
    def all_aggregates(self) -> str:
        """Common beginning of the topics of all aggregates."""
        return f"{self.root}/aggregates/"

    @property
    def alerts(self) -> str:
        return f"{self.root}/alerts"

    def alarm(self, window: str, key: str) -> str:
        return self.alarms(window) + key_levels(key)

    def alarms(self, window: str) -> str:
        """Common beginning of the topics of a window's alarm states."""
        return f"{self.root}/alarms/{window}/"

    def home_assistant(self, window: str) -> str:
        """Common beginning of the topics on which Home Assistant finds a window's newest results."""
        return f"{self.root}/home_assistant/{window}/"

    @property
    def backpressure(self) -> str:
        return f"{self.root}/backpressure"

    def late(self, window: str) -> str:
        return f"{self.root}/late/{window}"

    @property
    def metrics(self) -> str:
        """Topic of all metrics as JSON, also on the cloud broker."""
        return f"{self.root}/metrics"

    # --- on the cloud broker ---

    @property
    def log(self) -> str:
        """Topic of log lines."""
        return f"{self.root}/log"

    def batch(self, shard: int | str) -> str:
        """Return the topic for frames of connection number `shard`."""
        return f"{self.root}/up/batch/{shard}"

    def event(self, stream: str) -> str:
        """Return the topic for events of `stream` in the event format."""
        return f"{self.root}/up/event/{stream}"

    @property
    def audit(self) -> str:
        """Topic of the audit records."""
        return f"{self.root}/audit"

    @property
    def confirm(self) -> str:
        """Topic on which receivers say what they have on their disks."""
        return f"{self.root}/down/confirm"

    @property
    def backfill(self) -> str:
        """Topic on which anybody who may asks for what is kept at the edge."""
        return f"{self.root}/down/backfill"

    @property
    def backfill_answers(self) -> str:
        """Topic of the answers."""
        return f"{self.root}/backfill"

    @property
    def support(self) -> str:
        """Topic of signed requests for a support bundle."""
        return f"{self.root}/down/support"

    @property
    def support_answers(self) -> str:
        """Topic of the bundles."""
        return f"{self.root}/support"

    @property
    def uplink_filters(self) -> tuple[str, str, str]:
        """The subscriptions that take everything that is sent up, audits included."""
        return self.batch("+"), self.event("#"), self.audit


class UplinkTopic(NamedTuple):
    """The meaning of a cloud topic. `rest` is the shard of a frame, the original topic of an event, or
    empty."""

    gateway_id: str
    form: UplinkForm
    rest: str


def parse_uplink_topic(prefix: str, topic: str) -> UplinkTopic | None:
    """Take a topic of the uplink apart; None for any other topic."""
    if not topic.startswith(prefix + "/"):
        return None
    gateway_id, _, path = topic[len(prefix) + 1 :].partition("/")
    if path.startswith("up/batch/"):
        return UplinkTopic(gateway_id, "batch", path[len("up/batch/") :])
    if path.startswith("up/event/"):
        return UplinkTopic(gateway_id, "event", path[len("up/event/") :])
    return UplinkTopic(gateway_id, "audit", "") if path == "audit" else None


def key_levels(key: str) -> str:
    """A key as topic levels that a broker takes: it closes the connection on any other, again and again.

    Keys come out of payloads, so they may hold anything. Where something has to be replaced, a digest of the
    key keeps it apart from others. The one key of a window without keys is empty, and becomes `all`.
    """
    levels = _UNSAFE.sub("_", key) or "all"
    fits = len(levels) <= MAX_KEY_CHARS and levels.count("/") < MAX_KEY_LEVELS
    if fits and (levels == key or not key) and not ("~" in key and _LIKE_A_REPLACED_KEY.search(key)):
        return levels
    digest = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return f"{levels if fits else levels[:_KEPT_CHARS].replace('/', '_')}~{digest}"
