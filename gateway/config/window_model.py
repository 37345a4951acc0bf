"""The `windows` section: which readings are gathered, over which spans of event time, by which plugin."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from gateway.config.types import (
    DURATION_PATTERN,
    DurationMs,
    FieldName,
    Name,
    OrOff,
    PositiveDurationMs,
    PriorityName,
    Section,
    Template,
    TimeZoneName,
    fault,
    none_if_off,
    reading,
    setting,
)
from gateway.core import units
from gateway.core.errors import ConfigError
from gateway.core.topics import TopicTemplate, placeholders
from gateway.decode.formulas import Formula
from gateway.windows import merged
from gateway.windows.spec import WindowSpec, WindowType
from gateway.wire.home_assistant import Shown
from gateway.wire.home_assistant_classes import SENSOR_CLASSES

Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]

_DAY_MS = 86_400_000

_OFFSET = "Shift of the grid, which is aligned to 1970-01-01T00:00:00Z."


class Tumbling(Section):
    """Spans of one length, side by side."""

    type: Literal["tumbling"]
    size: PositiveDurationMs = Field(description="Length of a window.")
    offset: DurationMs = setting("0", description=_OFFSET)


class Hopping(Section):
    """Spans of one length that begin every `slide` and overlap."""

    type: Literal["hopping", "sliding"] = Field(description="`sliding` is another word for `hopping`.")
    size: PositiveDurationMs = Field(description="Length of a window.")
    slide: PositiveDurationMs = Field(description="How often one begins; at most the size.")
    offset: DurationMs = setting("0", description=_OFFSET)

    @field_validator("slide")
    @classmethod
    def _overlaps(cls, slide: int, info: ValidationInfo) -> int:
        size = info.data.get("size")
        if size is not None and slide > size:
            raise fault("is longer than the size, so readings would fall between windows")
        return slide


class CalendarWindow(Section):
    """Hours, days, weeks, months or years of a time zone, from one local midnight to another."""

    type: Literal["calendar"]
    every: Literal["hour", "day", "week", "month", "year"] = Field(
        description="Length of a window. A day has 23 or 25 hours when the clocks change."
    )
    timezone: TimeZoneName = setting(
        "UTC", description=("Time zone in which a day begins at midnight."), examples=["Europe/Berlin"]
    )
    week_starts: Weekday = setting("monday", description="First day of a week.")


class SessionWindow(Section):
    """Spans of activity that end when a key has been silent for `gap`."""

    type: Literal["session"]
    gap: PositiveDurationMs = Field(description="Silence that ends a session.")


class CountWindow(Section):
    """A fixed number of readings per key."""

    type: Literal["count"]
    count: int = Field(ge=1, description="Number of readings that make a window.")


class Trigger(Section):
    """Trigger of a global window's results: by number, by time, or whichever comes first."""

    count: int | None = setting(None, ge=1, description="After this many readings.")
    every: PositiveDurationMs | None = setting(
        None, description="Interval by the gateway's clock; only if something is new."
    )


class Global(Section):
    """One window that never ends and gives results by a trigger."""

    type: Literal["global"]
    trigger: Trigger = Field(description="When a result is given.")
    mode: Literal["accumulating", "discarding"] = setting(
        "accumulating", description="Older name of the window's `accumulation`."
    )

    @field_validator("trigger")
    @classmethod
    def _triggers(cls, trigger: Trigger) -> Trigger:
        if trigger.count is None and trigger.every is None:
            raise fault("needs count, every, or both")
        return trigger


AnyShape = Tumbling | Hopping | CalendarWindow | SessionWindow | CountWindow | Global
Shape = Annotated[AnyShape, Field(discriminator="type")]


class Early(Section):
    """Results before a window ends."""

    every: PositiveDurationMs | None = setting(
        None, description="Interval by the gateway's clock; only if something is new."
    )
    count: int | None = setting(
        None, ge=1, description="After this many readings; checked once for all readings of a message."
    )


class Corrections(Section):
    """Interval of corrections."""

    every: DurationMs = setting(
        "0", description="Shortest interval for a key, by the gateway's time; the last one is always sent."
    )


class KeyLimit(Section):
    """Limit of keys in a window, so that a flood of new names cannot fill the memory."""

    limit: int = Field(ge=1, description="Keys at a time.")
    policy: Literal["drop", "sample"] = setting(
        "drop", description="Readings of further keys: `drop` them, or `sample` some. Each is counted."
    )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """A bare number stands for the limit."""
        return {"anyOf": [{"type": "integer", "minimum": 1}, handler(core_schema)]}


class ShownField(Section):
    """Display of a number of a window's results in Home Assistant; see docs/home-assistant.md."""

    value: str = setting(
        "",
        description=(
            "The number in the result that is shown, such as `mean` or `p95`; with dots for nested values. "
            "Empty: the gateway chooses one."
        ),
    )
    unit: str | None = setting(
        None, description="Its unit. Unset: that of the route's field.", examples=["°C"]
    )
    device_class: str | None = setting(
        None, description="Home Assistant's class for it, such as `temperature`.", examples=["temperature"]
    )
    state_class: Annotated[
        Literal["auto", "measurement", "measurement_angle", "total", "total_increasing"] | None,
        BeforeValidator(none_if_off),
        OrOff,
    ] = setting(
        "auto",
        description="How Home Assistant keeps statistics of it. `auto`: as `device_class` asks, such as "
        "`total_increasing` for energy, gas and water. `off`: none. `measurement_angle`: since 2025.",
    )

    @field_validator("device_class")
    @classmethod
    def _is_a_class(cls, name: str | None) -> str | None:
        if name is not None and name not in SENSOR_CLASSES:
            near = get_close_matches(name, SENSOR_CLASSES, 1)
            raise fault(
                f"Home Assistant has no device class {name}" + (f"; did you mean {near[0]}?" if near else ""),
                "https://www.home-assistant.io/integrations/sensor/#device-class lists them",
            )
        return name

    @model_validator(mode="after")
    def _fits_its_class(self) -> Self:
        known = SENSOR_CLASSES.get(self.device_class or "")
        if known is None:
            return self
        if self.unit is not None and known.units and self.unit not in known.units:
            units_ = ", ".join(known.units)
            raise fault(f"unit: {self.device_class} has no unit {self.unit}; Home Assistant takes {units_}")
        if self.state_class not in (None, "auto", *known.state_classes):
            allowed = ", ".join(("off", *known.state_classes))
            raise fault(f"state_class: with {self.device_class} it can be {allowed}")
        return self

    def shown(self) -> Shown:
        return Shown(self.value, self.unit, self.device_class, self.state_class)


class ShownAs(ShownField):
    """Display of a window's results in Home Assistant; see docs/home-assistant.md."""

    fields_: Annotated[
        Mapping[FieldName, ShownField], PlainSerializer(dict, return_type=dict[str, ShownField])
    ] = setting(
        {},
        alias="fields",
        description="Of a window with several `fields`, or with `compute`: how each of them is shown.",
        examples=[{"humidity": {"unit": "%", "device_class": "humidity"}}],
    )
    expire_after: PositiveDurationMs | None = setting(
        None,
        description=(
            "Time without a new result after which the value is shown as unavailable. Unset: never."
        ),
    )

    @property
    def expire_after_s(self) -> int | None:
        return None if self.expire_after is None else max(self.expire_after // 1000, 1)


class Publish(Section):
    """Publishing of aggregates on the local broker."""

    retain: bool = setting(False, description="Whether the broker keeps the last aggregate of each key.")
    partial: bool = setting(
        False,
        description="Whether aggregates carry the plugin's accumulator, for a window with `merge: true` in "
        "another gateway.",
    )
    quality: bool = setting(
        False,
        description="Whether aggregates say how many of their readings came late, what they lack, and which "
        "sequence numbers of which streams they were made of.",
    )
    home_assistant: Annotated[ShownAs | None, BeforeValidator(none_if_off), OrOff] = setting(
        {},
        description=(
            "How Home Assistant shows them, if there is a section `home_assistant`. `off`: not at all."
        ),
    )


def _key_limit(value: object) -> object:
    return {"limit": value} if type(value) is int else value


AUTO_MS = 0
"""The idle timeout that each source's own rhythm decides."""


def _idle_timeout(value: object) -> int | None:
    if value == "auto" or none_if_off(value) is None:
        return AUTO_MS if value == "auto" else None
    found = reading(units.parse_duration_ms)(value)
    if found <= 0:
        raise fault("must be more than zero", "write off for never")
    return found


IdleTimeoutMs = Annotated[
    int | None,
    BeforeValidator(_idle_timeout),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": DURATION_PATTERN, "$comment": "duration"},
                {"const": "auto"},
                {"const": False},
            ]
        }
    ),
]

MaxKeys = Annotated[KeyLimit, BeforeValidator(_key_limit)]

Options = Annotated[
    Mapping[str, Any],
    AfterValidator(lambda options: MappingProxyType(dict(options))),
    PlainSerializer(dict, return_type=dict[str, Any]),
]


class AlarmBackfillSection(Section):
    """Raw events to send up around an alarm."""

    before: DurationMs = setting("10m", description="How long before its beginning.")
    after: DurationMs = setting("10m", description="How long after its beginning.")


class Window(Section):
    """One aggregation: a source, a key, a span and a plugin."""

    name: Name = Field(description="Name of the window; also the level of its aggregates' topic.")
    route: Name | None = setting(None, description="Route whose samples it reads.")
    topic: Template | None = setting(
        None, description="Instead of `route`: topic filter over all routes, with named levels for the key."
    )
    field: FieldName | None = setting(None, description="Field that it reads. Unset: `value`.")
    fields: tuple[FieldName, ...] | None = setting(
        None, min_length=1, description="Instead of `field`: several fields, side by side in one result."
    )
    compute: Annotated[Mapping[FieldName, str], PlainSerializer(dict, return_type=dict[str, str])] = setting(
        {},
        description="Further values of a result: CEL expressions over the results of the fields.",
        examples=[{"difference": "indoor.mean - outdoor.mean"}],
    )
    key: str = setting(
        "",
        description=(
            "Readings with the same key are aggregated together: a template of named levels and fields. "
            "Empty: all readings together."
        ),
        examples=["{device}"],
    )
    plugin: Name = setting("stats", description="Plugin that aggregates.")
    options: Options = setting({}, description="Options of the plugin.")
    merge: bool = setting(
        False,
        description="Whether it merges aggregates that other gateways published with `partial: true`. "
        "Plugin, options and fields are those of their windows; the span is theirs or a multiple.",
    )
    scope: Literal["gateway", "fleet"] = setting(
        "gateway",
        description="Which events `gateway fleet run` gathers in a key: of each gateway by itself, or of all "
        "in the `fleet`. A gateway alone sees only its own.",
    )
    window: Shape = Field(description="Type and size of the window.")
    out_of_orderness: DurationMs = setting(
        "0", description="How long a window waits for readings that come out of order."
    )
    allowed_lateness: DurationMs = setting(
        "0", description="How long after its end a window still takes late readings and sends corrections."
    )
    idle_timeout: IdleTimeoutMs = setting(
        "auto",
        description="Silence after which a source no longer holds up the others. `auto`: three times its own "
        "mean interval, at least the window's size, at most ten times that. `off`: never.",
    )
    watermark: Literal["shared", "per_key"] | None = setting(
        None,
        description=(
            "`shared`: the slowest active source decides when windows end. `per_key`: each key for itself. "
            "Unset: `per_key` if the key contains all levels of the topic that vary, so that one topic "
            "feeds one key; else `shared`."
        ),
    )
    max_future_skew: PositiveDurationMs | None = setting(
        None, description="How far ahead of its arrival a reading may push the watermark. Unset: no limit."
    )
    early: Early | None = setting(None, description="Results before the window ends.")
    accumulation: Literal["accumulating", "discarding"] | None = setting(
        None,
        description=(
            "What the second and further results of a window cover. `accumulating` (the default): "
            "everything so far. `discarding`: only what is new since the result before."
        ),
    )
    corrections: Annotated[Corrections | None, BeforeValidator(none_if_off), OrOff] = setting(
        {},
        description=(
            "Results after late readings: one for each, unless `every` collects them. `off`: none, and "
            "each is counted."
        ),
    )
    max_keys: MaxKeys | None = setting(
        None,
        description=(
            "Most keys at a time: a number, or `{limit, policy}`. Unset: as many as their names fit into "
            "the memory for windows (docs/flow.md)."
        ),
    )
    ttl: PositiveDurationMs | None = setting(
        None, description="Silence after which a key is forgotten. Unset: never."
    )
    forward: bool = setting(
        True,
        description="Whether aggregates go to the cloud. `false`: they are published locally and kept in the "
        "buffer, and `gateway buffer forward` sends them.",
    )
    backfill: AlarmBackfillSection | None = setting(
        None, description="Raw events around each alarm that are sent up, where `forward` keeps them."
    )
    on_change: Literal["drop", "replay"] = setting(
        "drop",
        description=(
            "What happens to open windows when plugin, options or shape change: `drop` them, or `replay` "
            "the messages that are still in the buffer."
        ),
    )
    publish: Publish = setting({}, description="How aggregates are published on the local broker.")
    priority: PriorityName = setting("normal", description="Order in which aggregates are sent to the cloud.")

    @model_validator(mode="before")
    @classmethod
    def _accumulation_in_the_shape(cls, data: Any) -> Any:
        """`accumulation` may also stand beside the window's type and sizes."""
        shape = data.get("window") if isinstance(data, Mapping) else None
        if not isinstance(shape, Mapping) or "accumulation" not in shape or "accumulation" in data:
            return data
        rest = {name: value for name, value in shape.items() if name != "accumulation"}
        return {**data, "window": rest, "accumulation": shape["accumulation"]}

    @field_validator("topic")
    @classmethod
    def _one_source(cls, topic: str | None, info: ValidationInfo) -> str | None:
        if "route" in info.data and (topic is None) == (info.data["route"] is None):
            raise fault("a window reads either a route or a topic")
        return topic

    @field_validator("fields")
    @classmethod
    def _one_way(cls, fields: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        if fields is not None and info.data.get("field") is not None:
            raise fault("give field or fields, not both")
        return fields

    @field_validator("compute")
    @classmethod
    def _computes(cls, compute: Mapping[str, str], info: ValidationInfo) -> Mapping[str, str]:
        fields = info.data.get("fields") or (info.data.get("field") or "value",)
        for at, (name, text) in enumerate(compute.items()):
            if name in fields:
                raise fault(f"{name} is a field already; give what is computed a name of its own")
            known = {*fields, *[*compute][:at]}
            try:
                unknown = sorted(Formula(text).names - known)
            except ConfigError as exc:
                raise fault(f"{name}: {exc}", exc.hint) from exc
            if unknown and len(fields) > 1:
                raise fault(
                    f"{name}: {unknown[0]} is no field of this window", f"there is {', '.join(sorted(known))}"
                )
        return MappingProxyType(dict(compute))

    @field_validator("early")
    @classmethod
    def _comes(cls, early: Early | None) -> Early | None:
        if early is not None and early.every is None and early.count is None:
            raise fault("needs every, count, or both")
        return early

    @field_validator("accumulation")
    @classmethod
    def _accumulates(cls, accumulation: str | None, info: ValidationInfo) -> str | None:
        if accumulation is not None and isinstance(info.data.get("window"), CountWindow):
            raise fault("does not go with a count window: each one begins anew")
        return accumulation

    @field_validator("publish")
    @classmethod
    def _can_be_merged(cls, publish: Publish, info: ValidationInfo) -> Publish:
        if not publish.partial:
            return publish
        hint = "partial goes with tumbling and calendar windows that accumulate"
        if isinstance(info.data.get("window"), Hopping):
            raise fault("of windows that overlap", "publish tumbling ones, and merge these in hopping ones")
        if not isinstance(info.data.get("window"), Tumbling | CalendarWindow | None):
            raise fault("the bounds of this window differ from one gateway to another", hint)
        if info.data.get("accumulation") == "discarding":
            raise fault("of a window that discards, only the last part would be merged", hint)
        return publish

    @field_validator("window")
    @classmethod
    def _merges_spans(cls, shape: AnyShape, info: ValidationInfo) -> AnyShape:
        if info.data.get("merge") and not isinstance(shape, Tumbling | Hopping | CalendarWindow):
            raise fault("merge goes with tumbling, hopping and calendar windows")
        return shape

    @property
    def field_names(self) -> tuple[str, ...]:
        """The fields that this window gathers."""
        return self.fields or (self.field or "value",)

    @property
    def read_names(self) -> tuple[str, ...]:
        """The fields of messages that it reads."""
        return merged.FIELDS if self.merge else self.field_names

    def spec(self, route_topic: str | None) -> WindowSpec:
        """Return the record for `gateway.windows`; the key names levels of `route_topic`."""
        early, limit = self.early or Early(), self.max_keys
        learns = self.idle_timeout == AUTO_MS
        return WindowSpec(
            name=self.name,
            plugin=self.plugin,
            options=self.options,
            fields=self.field_names,
            compute=self.compute,
            key=self.key,
            route=self.route,
            topic=self.topic,
            **_shape(self.window),
            out_of_orderness_ms=self.out_of_orderness,
            allowed_lateness_ms=self.allowed_lateness,
            idle_timeout_ms=_least_idle_ms(self.window) if learns else self.idle_timeout,
            idle_learns=learns,
            watermark=self.watermark or default_watermark(self.key, route_topic),
            max_future_skew_ms=self.max_future_skew,
            mode=self.accumulation
            or (self.window.mode if isinstance(self.window, Global) else "accumulating"),
            **_corrections(self.corrections),
            early_every_ms=early.every,
            early_count=early.count,
            max_keys=limit.limit if limit else None,
            max_keys_policy=limit.policy if limit else "drop",
            ttl_ms=self.ttl,
            on_change=self.on_change,
            retain=self.publish.retain,
            partial=self.publish.partial,
            quality=self.publish.quality,
            merge=self.merge,
            scope="fleet" if self.merge else self.scope,
            forward=self.forward,
            priority=int(self.priority),
        )


def default_watermark(key: str, topic: str | None) -> Literal["shared", "per_key"]:
    """`per_key` only where each key is fed by exactly one topic: the key names every level that varies."""
    if topic is None:
        return "shared"
    template = TopicTemplate(topic)
    unnamed = {"+", "#"} & set(topic.split("/"))
    named = set(placeholders(key))
    return "per_key" if template.names and not unnamed and named == template.names else "shared"


def _least_idle_ms(shape: AnyShape) -> int:
    """Return the longest silence that `auto` tolerates in any case: the window's size, but no more than a
    day."""
    match shape:
        case Tumbling() | Hopping():
            return shape.size
        case SessionWindow():
            return shape.gap
        case CalendarWindow(every="hour"):
            return _DAY_MS // 24
    return _DAY_MS  # longer calendar windows; the others have no watermark


def _corrections(corrections: Corrections | None) -> dict[str, Any]:
    if corrections is None:
        return {"corrections": "off"}
    return {
        "corrections": "every" if corrections.every else "at_once",
        "corrections_every_ms": corrections.every,
    }


def _shape(
    shape: AnyShape,
) -> dict[str, Any]:
    kind: WindowType = "hopping" if shape.type == "sliding" else shape.type
    match shape:
        case Tumbling():
            return {"type": kind, "size_ms": shape.size, "offset_ms": shape.offset}
        case Hopping():
            grid = {"size_ms": shape.size, "slide_ms": shape.slide, "offset_ms": shape.offset}
            return {"type": kind, **grid}
        case CalendarWindow():
            weeks = {"week_starts": shape.week_starts} if shape.every == "week" else {}
            return {"type": kind, "every": shape.every, "timezone": shape.timezone, **weeks}
        case SessionWindow():
            return {"type": kind, "gap_ms": shape.gap}
        case CountWindow():
            return {"type": kind, "count": shape.count}
        case Global():
            trigger = {"trigger_count": shape.trigger.count, "trigger_every_ms": shape.trigger.every}
            return {"type": kind, **trigger}
