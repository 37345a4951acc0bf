"""The `routes` section: which topics are read, and how."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PlainSerializer, field_validator

from gateway.config.types import (
    Bound,
    Expression,
    FieldName,
    Name,
    PriorityName,
    Section,
    Template,
    TimestampFormat,
    TimeZoneName,
    fault,
    setting,
)
from gateway.decoders import missing_extra
from gateway.routes import RouteSpec
from gateway.timekeeping.normalize import SkewPolicy

DecoderName = Literal["json", "number", "text", "raw", "cbor", "sparkplug_b", "senml"]

Fields = Annotated[
    Mapping[FieldName, Expression],
    AfterValidator(lambda fields: MappingProxyType(dict(fields))),
    PlainSerializer(dict, return_type=dict[str, str]),
]


class Route(Section):
    """How the messages of one topic filter are read. The first route that matches a topic takes it."""

    name: Name = Field(description="Name of the route, for windows, metrics and logs.")
    topic: Template = Field(
        description="Topic filter to subscribe to. `{device}` is a wildcard with a name, `{rest...}` at the "
        "end takes all further levels; plain `+` and `#` work too.",
        examples=["tele/{device}/SENSOR"],
    )
    qos: Literal[0, 1, 2] = setting(1, description="QoS of the subscription. 0 may lose messages.")
    decoder: DecoderName = setting(
        "json",
        description="Format of the payload. `cbor` and `sparkplug_b` need an extra package. What cannot be "
        "decoded is still kept and bridged as bytes.",
    )
    fields: Fields = setting(
        {},
        description="Reading fields: name to JMESPath expression, or to `{level}` for a level of the topic. "
        "Empty: every top-level number, text and boolean; `value` where the payload is a single value.",
        examples=[{"temperature": "BME280.Temperature"}],
    )
    readings: Expression | None = setting(
        None,
        description="JMESPath expression for a list of items when one message carries many readings; "
        "`fields` and `timestamp_path` are then looked up in each item. `items(@)` lists the keys and "
        "values of an object.",
        examples=["uplink_message.decoded_payload.history", "items(@)[?type(value)=='object']"],
    )
    timestamp_path: Expression | None = setting(
        None,
        description="Where the device's time stands; looked up in the item first, then in the whole "
        "message. Unset: arrival time (`sparkplug_b` and `senml` bring their own).",
    )
    timestamp_format: TimestampFormat | None = setting(
        None,
        description="`iso` (the default), `unix`, `unix_ms`, `unix_us`, `unix_ns`, or a strptime layout "
        "such as `%d.%m.%Y %H:%M:%S`.",
    )
    timestamp_timezone: TimeZoneName = setting(
        "UTC",
        description="Time zone of times that carry none. Of a local time that occurs twice, when clocks go "
        "back, the first is taken.",
        examples=["Europe/Berlin"],
    )
    timestamp: Literal["normalize", "trusted", "ingest"] = setting(
        "normalize",
        description="`normalize`: believe the device's clock within the bounds of `time`. `trusted`: always "
        "believe it, for devices that save up readings. `ingest`: use the arrival time.",
    )
    timestamp_min: Bound | None = setting(
        None,
        description="Earliest plausible device time: a date, or how long before the arrival. What is earlier "
        "counts as no time.",
        examples=["2020-01-01", "30d"],
    )
    timestamp_max: Bound | None = setting(
        None,
        description="Latest plausible device time: a date, or how long after the arrival.",
        examples=["1h"],
    )
    retained: Literal["keep", "ignore"] = setting(
        "keep",
        description="What to do with retained messages that the broker sends again on each subscription: "
        "`keep` stores them with a flag, `ignore` counts and skips them.",
    )
    priority: PriorityName = setting(
        "normal", description="Order on the way to the cloud; the lowest is given up first."
    )
    sampling: Literal["allow", "never"] = setting(
        "never", description="Whether messages may be thinned out under overload (each is counted)."
    )

    @field_validator("decoder")
    @classmethod
    def _is_installed(cls, decoder: str) -> str:
        extra = missing_extra(decoder)
        if extra:
            raise fault(
                f"decoder {decoder} needs a package that is not installed",
                f"run: pip install 'mqtt-edge-gateway[{extra}]'",
            )
        return decoder

    def spec(self, skew: SkewPolicy) -> RouteSpec:
        """What `gateway.routes` needs to know of this route."""
        return RouteSpec(
            name=self.name,
            topic=self.topic,
            qos=self.qos,
            decoder=self.decoder,
            fields=self.fields,
            readings=self.readings,
            timestamp_path=self.timestamp_path,
            timestamp_format=self.timestamp_format,
            timestamp_timezone=self.timestamp_timezone,
            timestamp=self.timestamp,
            timestamp_min=self.timestamp_min,
            timestamp_max=self.timestamp_max,
            skew=skew,
            retained=self.retained,
            priority=self.priority,
            sampling=self.sampling,
        )
