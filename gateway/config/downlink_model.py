"""The section `cloud.downlink`: commands from the cloud, and the checks that keep them out of circles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationInfo, field_validator

from gateway.config.document import Problem
from gateway.config.types import Section, SizeBytes, Template, fault, reading, setting
from gateway.core.own_topics import OwnTopics
from gateway.core.topics import TopicTemplate, check_filter, overlap
from gateway.wire.command_topics import DownlinkRule

if TYPE_CHECKING:
    from gateway.config.models import Config


class DownlinkEntry(Section):
    """Messages of the cloud broker that are published on the local one."""

    topic: Template = Field(
        description="Topic filter at the cloud broker; levels may have names, as in a route.",
        examples=["commands/plant-7/{device}"],
    )
    to: Template | None = setting(
        None,
        description="Local topic, with named levels of `topic`. Unset: the same topic.",
        examples=["cmnd/{device}/POWER"],
    )
    qos: Literal[0, 1] = setting(
        1, description="1: acknowledged to the cloud once the local broker has it. 0: at most once."
    )
    max_size: SizeBytes = setting("64KiB", description="Largest payload; larger ones are rejected.")
    retained: Literal["ignore", "forward"] = setting(
        "ignore",
        description="What happens to retained messages, which a broker repeats at every new subscription: a "
        "command of last week should not run again.",
    )
    allow: tuple[str, ...] = setting(
        (), description="Filters for local topics, one of which must match. Empty: any topic that `to` gives."
    )

    @field_validator("to")
    @classmethod
    def _names_exist(cls, to: str | None, info: ValidationInfo) -> str | None:
        topic = info.data.get("topic")
        if to is None or topic is None:
            return to
        if "+" in to or "#" in to:
            raise fault("is a topic to publish on: it has names in place of wildcards")
        unknown = TopicTemplate(to).names - TopicTemplate(topic).names
        if unknown:
            raise fault(f"{sorted(unknown)[0]} is no named level of {topic}")
        narrow = [
            name for name in TopicTemplate(to).names if f"{{{name}...}}" in topic and f"{{{name}}}" in to
        ]
        if narrow:
            raise fault(f"{{{narrow[0]}...}} takes many levels in the topic; write it so here too")
        return to

    @field_validator("allow")
    @classmethod
    def _are_filters(cls, allow: tuple[str, ...]) -> tuple[str, ...]:
        for each in allow:
            reading(check_filter)(each)
        return allow

    def rule(self) -> DownlinkRule:
        """The entry as the downlink applies it."""
        return DownlinkRule(
            self.topic, self.to, self.qos, self.max_size, self.retained == "forward", self.allow
        )


def downlink_problems(config: Config) -> Iterator[Problem]:
    """Yield problems with commands that could come back to this gateway, or could never arrive."""
    cloud = config.cloud
    if cloud is None:
        return
    topics = OwnTopics(config.gateway.topic_prefix, config.gateway.id)
    root = topics.root
    rules = [entry.rule() for entry in cloud.downlink]
    same_broker = config.local.address == cloud.address
    for position, rule in enumerate(rules):
        path = ("cloud", "downlink", position)
        if any(overlap(rule.source.filter, own) for own in (*topics.uplink_filters, topics.status)):
            yield Problem((*path, "topic"), "takes what this gateway itself sends to the cloud")
        if overlap(rule.target_filter, f"{root}/#"):
            yield Problem((*path, "to"), f"writes to {root}/…, where this gateway itself publishes")
        if same_broker and any(overlap(rule.target_filter, other.source.filter) for other in rules):
            yield Problem((*path, "to"), "local and cloud are the same broker: a command would come back")
        if rule.allow and not any(overlap(rule.target_filter, allowed) for allowed in rule.allow):
            yield Problem((*path, "allow"), "matches no topic that this entry writes to")


def downlink_warnings(config: Config) -> Iterator[str]:
    """Commands that are also read as data."""
    for entry in config.cloud.downlink if config.cloud else ():
        target = entry.rule().target_filter
        for route in config.routes:
            if overlap(target, TopicTemplate(route.topic).filter):
                yield f"route {route.name} also reads what cloud.downlink writes to {target}: it goes back up"
