"""The topics of the uplink: those of docs/wire-format.md, or an operator's own, from templates.

A template is a topic with names in braces, which may stand inside of a level: `{id}`, the gateway's;
`{client_id}`; `{n}`, the number of the connection; `{topic}`, the original topic with its levels; `{stream}`,
the same as one level, with `-` for what is no letter or digit; and the named levels of the routes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from gateway.core.own_topics import OwnTopics
from gateway.core.topics import TopicTemplate

NAME = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
GATEWAY_NAMES = ("id", "client_id")
EVENT_NAMES = ("topic", "stream")
NO_LEVEL = "_"
"""Value of a named level for an event that no route with this name has read, such as an aggregate."""

_REMEMBERED = 10_000  # topics
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9]+")


@dataclass(frozen=True)
class UplinkTopics:
    """The topics of one gateway; None as a template is the topic of docs/wire-format.md. `routes` are the
    templates of the routes, in the order in which they are tried."""

    own: OwnTopics
    client_id: str = ""
    batch_template: str | None = None
    event_template: str | None = None
    audit_template: str | None = None
    status_template: str | None = None
    routes: Sequence[str] = ()
    _events: dict[str, str] = field(default_factory=dict, compare=False, repr=False)

    def batch(self, shard: int) -> str:
        """Return the topic for frames of connection number `shard`."""
        if self.batch_template is None:
            return self.own.batch(shard)
        return _filled(self.batch_template, {**self._gateway, "n": str(shard)})

    def event(self, stream: str) -> str:
        """Return the topic for events of `stream` in the event format."""
        if self.event_template is None:
            return self.own.event(stream)
        found = self._events.get(stream)
        if found is None:
            if len(self._events) >= _REMEMBERED:
                self._events.clear()
            found = self._events[stream] = _filled(self.event_template, self._of(stream))
        return found

    def device(self, stream: str) -> str:
        """The level `device` that the stream's route names, or else all of the stream."""
        return self._named(stream).get("device", stream)

    @property
    def audit(self) -> str:
        return self.own.audit if self.audit_template is None else _filled(self.audit_template, self._gateway)

    @property
    def status(self) -> str:
        return (
            self.own.status if self.status_template is None else _filled(self.status_template, self._gateway)
        )

    @property
    def names_streams(self) -> bool:
        """True if the topic of an event names its stream, as the reference receiver reads it."""
        return self.event_template is None

    @property
    def _gateway(self) -> Mapping[str, str]:
        return {"id": self.own.gateway_id, "client_id": self.client_id}

    @cached_property
    def _templates(self) -> list[TopicTemplate]:
        return [TopicTemplate(each) for each in self.routes]

    def _of(self, stream: str) -> Mapping[str, str]:
        plain = _NOT_PLAIN.sub("-", stream).strip("-") or "-"
        return {**self._named(stream), **self._gateway, "topic": stream, "stream": plain}

    def _named(self, stream: str) -> Mapping[str, str]:
        levels = (template.match(stream) for template in self._templates)
        return next((found for found in levels if found is not None), {})


def _filled(template: str, values: Mapping[str, str]) -> str:
    return NAME.sub(lambda name: values.get(name[1], NO_LEVEL), template)
