"""Commands from the cloud to the local broker: which message goes to which topic, and which goes nowhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from gateway.core.errors import TopicError
from gateway.core.events import Message
from gateway.core.topics import TopicTemplate, check_topic, filter_matches

SENDER = "gateway"
"""The MQTT 5 user property by which a gateway knows what it has brought down itself."""

_PLACE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?:\.\.\.)?\}")


@dataclass(frozen=True)
class DownlinkRule:
    """A rule for commands: what to take from the cloud broker, and where it goes.

    `to` holds named levels of `topic`; None: to the same topic. `allow` narrows that: local topic filters of
    which one must match; empty, all are allowed.
    """

    topic: str
    to: str | None = None
    qos: int = 1
    max_bytes: int = 64 * 1024
    retained: bool = False
    allow: tuple[str, ...] = ()

    @cached_property
    def source(self) -> TopicTemplate:
        return TopicTemplate(self.topic)

    @cached_property
    def target_filter(self) -> str:
        """The filter of all local topics that it can write to."""
        return self.source.filter if self.to is None else TopicTemplate(self.to).filter

    def target(self, topic: str) -> str | None:
        """The local topic for a message on `topic`, or None where the rule does not match it."""
        levels = self.source.match(topic)
        if levels is None or self.to is None:
            return None if levels is None else topic
        return _PLACE.sub(lambda match: levels[match[1]], self.to)


@dataclass(frozen=True)
class Downlink:
    """All rules of one gateway; the first whose topic matches decides. `own_root` is never written to."""

    gateway_id: str
    own_root: str
    rules: Sequence[DownlinkRule]

    def filters(self) -> list[tuple[str, int]]:
        """Return the subscriptions, as (filter, QoS)."""
        return [(rule.source.filter, rule.qos) for rule in self.rules]

    def destination(self, message: Message) -> tuple[DownlinkRule, str] | str:
        """The rule and the local topic for a message of the cloud broker, or why it goes nowhere:
        `no_rule`, `own`, `retained`, `too_large` or `not_allowed`."""
        found = self._find(message.topic)
        if found is None:
            return "no_rule"
        rule, topic = found
        if (SENDER, self.gateway_id) in message.properties:
            return "own"
        if message.retain and not rule.retained:
            return "retained"
        if len(message.payload) > rule.max_bytes:
            return "too_large"
        return (rule, topic) if self._is_allowed(rule, topic) else "not_allowed"

    def _find(self, topic: str) -> tuple[DownlinkRule, str] | None:
        targets = ((rule, rule.target(topic)) for rule in self.rules)
        return next(((rule, target) for rule, target in targets if target is not None), None)

    def _is_allowed(self, rule: DownlinkRule, topic: str) -> bool:
        try:
            check_topic(topic)
        except TopicError:
            return False
        if topic.startswith(("$", f"{self.own_root}/")):
            return False
        return not rule.allow or any(filter_matches(allowed, topic) for allowed in rule.allow)
