"""The key `cloud.topics`: custom topics for the uplink."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, WithJsonSchema

from gateway.config.document import Problem
from gateway.config.problems import suggestion
from gateway.config.types import Section, fault, reading, setting
from gateway.core.own_topics import OwnTopics
from gateway.core.topics import TopicTemplate, check_topic
from gateway.wire.uplink_topics import EVENT_NAMES, GATEWAY_NAMES, NAME, UplinkTopics

if TYPE_CHECKING:
    from gateway.config.models import Cloud, Config

OFF = "off"


def _topic(value: object) -> object:
    if value is False or value == OFF:
        return OFF
    if not isinstance(value, str):
        raise fault("is a topic such as plants/{id}/events, or off")
    plain = NAME.sub("x", value)
    if "{" in plain or "}" in plain:
        raise fault("a brace has no partner, or no name inside; write {device}")
    reading(check_topic)(plain)
    return value


OwnTopic = Annotated[
    str | bool,
    AfterValidator(_topic),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"const": False}], "$comment": "topic or `off`"}),
]


class TopicsSection(Section):
    """Topics of the uplink other than those of docs/wire-format.md, for services that prescribe them."""

    batch: OwnTopic | None = setting(
        None, description="For frames: `{id}`, `{client_id}`, `{n}` (the number of the connection)."
    )
    event: OwnTopic | None = setting(
        None,
        description="For single events: `{id}`, `{client_id}`, `{topic}` (the original one), `{stream}` (the "
        "same as one level, `-` for other than letters and digits), and named levels of the routes.",
        examples=["plants/{id}/{device}"],
    )
    audit: OwnTopic | None = setting(
        None, description="For audit records: `{id}`, `{client_id}`. `off`: none, like `audit: off`."
    )
    status: OwnTopic | None = setting(
        None, description="For the status and the will: `{id}`, `{client_id}`. `off`: neither."
    )

    @property
    def own(self) -> list[str]:
        """The keys that name a topic."""
        return [name for name in type(self).model_fields if getattr(self, name) not in (None, OFF)]


def uplink_topics(config: Config, cloud: Cloud) -> UplinkTopics:
    """Return the topics that the gateway sends to."""
    given = {name: str(getattr(cloud.topics, name)) for name in cloud.topics.own}
    return UplinkTopics(
        OwnTopics(config.gateway.topic_prefix, config.gateway.id),
        cloud.client_id,
        given.get("batch"),
        given.get("event"),
        given.get("audit"),
        given.get("status"),
        routes=tuple(spec.topic for spec in config.route_specs()),
    )


def topics_problems(config: Config) -> Iterator[Problem]:
    """Names in templates that nothing fills, and a format without its topic."""
    cloud = config.cloud
    if cloud is None:
        return
    levels = {name for spec in config.route_specs() for name in TopicTemplate(spec.topic).names}
    known = {"batch": ("n",), "event": (*EVENT_NAMES, *sorted(levels)), "audit": (), "status": ()}
    for key in cloud.topics.own:
        names = [*GATEWAY_NAMES, *known[key]]
        for name in NAME.findall(str(getattr(cloud.topics, key))):
            if name not in names:
                near = suggestion(name, names) or f"; there is {', '.join(names)}"
                yield Problem(("cloud", "topics", key), f"nothing is called {name}{near}")
    used = "batch" if cloud.format == "batch" else "event"
    if getattr(cloud.topics, used) == OFF and cloud.format in ("batch", "event", "thingsboard"):
        yield Problem(("cloud", "topics", used), f"format: {cloud.format} needs this topic")
    if cloud.confirm == "receiver" and (unread := set(cloud.topics.own) & {used, "audit"}):
        named = " and ".join(f"cloud.topics.{key}" for key in sorted(unread))
        yield Problem(
            ("cloud", "confirm"), f"`gateway receive` does not read topics of your own: take out {named}"
        )


def topics_warnings(config: Config) -> Iterator[str]:
    """Yield the costs of custom topics."""
    cloud = config.cloud
    if cloud is None:
        return
    if (cloud.format, cloud.envelope, cloud.protocol) == ("event", "never", "3.1.1"):
        yield "cloud.envelope: never: an event that is sent again, after an outage, counts twice there"
    if set(cloud.topics.own) & {"batch", "event", "audit"}:
        named = ", ".join(cloud.topics.own)
        yield (
            f"cloud.topics: gateway receive does not read topics of your own ({named}): "
            "its proof that nothing is missing does not work here; each event still has its identity"
        )
