"""The `routes` section: which topics are read, and how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from gateway.config.field_model import CsvModel, Fields, FormulaText, PayloadModel
from gateway.config.forward_model import ForwardModel
from gateway.config.types import (
    Bound,
    Expression,
    Name,
    PriorityName,
    Section,
    Template,
    TimestampFormat,
    TimeZoneName,
    base_dir,
    fault,
    setting,
)
from gateway.core.errors import PluginError
from gateway.decode.decoders import DECODER_NAMES, Decoder, missing_extra
from gateway.decode.decoders import decoder as built_in_decoder
from gateway.decode.forwarding import ForwardSpec
from gateway.decode.presets import further_routes, with_preset
from gateway.decode.routes import RouteSpec
from gateway.pipeline.decoder_plugins import FoundDecoder, find_decoders
from gateway.timekeeping.normalize import SkewPolicy

DecoderName = Annotated[
    str,
    WithJsonSchema(
        {"anyOf": [{"enum": list(DECODER_NAMES)}, {"type": "string", "$comment": "a plugin's name"}]}
    ),
]


def _as_before(retained: object) -> object:
    """`window` had another name."""
    return "window" if retained == "keep" else retained


def _is_asked(rebirth: object) -> object:
    """`auto` or `off`, as a value that code can test."""
    return {"auto": True, "off": False}.get(rebirth, rebirth) if isinstance(rebirth, str) else rebirth


def _required_without_preset(schema: dict[str, Any]) -> None:
    """A preset brings the name and the topic."""
    schema["anyOf"] = [{"required": ["preset"]}, {"required": schema.pop("required")}]


class RouteModel(Section):
    """Rules for reading the messages of one topic filter. The first route that matches a topic takes it."""

    model_config = ConfigDict(json_schema_extra=_required_without_preset)

    _further: tuple[RouteModel, ...] = PrivateAttr(())
    _plugin: Decoder | None = PrivateAttr(None)

    preset: str | None = setting(
        None,
        description=(
            "Ready-made route for a known system, see [devices](devices.md). It sets all other keys, and "
            "some presets add further routes. Keys beside it replace its own. With a `topic` it is one "
            "route only."
        ),
        examples=["tasmota"],
    )
    name: Name = Field(
        description="Name of the route, for windows, metrics and logs. Required without a preset."
    )
    topic: Template = Field(
        description="Topic filter to subscribe to. `{device}` is a wildcard with a name, `{rest...}` at the "
        "end takes all further levels; plain `+` and `#` work too. Required without a preset.",
        examples=["tele/{device}/SENSOR"],
    )
    qos: Literal[0, 1, 2] = setting(1, description="QoS of the subscription. 0 may lose messages.")
    decoder: DecoderName = setting(
        "json",
        description="Format of the payload, or a plugin that reads it (docs/plugins.md). `cbor` and "
        "`sparkplug_b` need an extra package. What cannot be decoded is still kept and bridged as bytes.",
    )
    payload: PayloadModel = setting({}, description="Compression, character set and encoding of the payload.")
    csv: CsvModel | None = setting(None, description="Columns and separators for the decoder `csv`.")
    fields: Fields = setting(
        {},
        description="Reading fields: name to JMESPath expression, to `{level}` for a level of the topic, or "
        "to a section such as `{from: e, scale: 0.1, unit: kWh}`. Empty: every top-level number, text and "
        "boolean; `value` where the payload is a single value.",
        examples=[{"temperature": "BME280.Temperature"}],
    )
    readings: Expression | None = setting(
        None,
        description="JMESPath expression for a list of items when one message carries many readings; "
        "`fields` and `timestamp_path` are then looked up in each item. `items(@)` lists the keys and "
        "values of an object; `sections(@, 'sensor')` the objects in it, each with its key as `sensor`.",
        examples=["uplink_message.decoded_payload.history", "items(@)[?type(value)=='object']"],
    )
    where: FormulaText | None = setting(
        None,
        description=(
            "Which readings count, as a [CEL](https://cel.dev) expression over fields, members of the item "
            "and levels of the topic. Others are in no window; they are counted, and their message is "
            "stored and sent to the cloud."
        ),
        examples=["quality == 'good' && t > -40.0"],
    )
    timestamp_path: Expression | None = setting(
        None,
        description=(
            "Where to find the device's time; looked up in the item first, then in the whole message. "
            "Unset: arrival time (`sparkplug_b` and `senml` have times of their own)."
        ),
    )
    timestamp_format: TimestampFormat | None = setting(
        None,
        description="`iso` (the default), `unix`, `unix_ms`, `unix_us`, `unix_ns`, `unix_local`, "
        "`unix_ms_local`, `dsmr`, or a strptime layout such as `%d.%m.%Y %H:%M:%S`. Several, such as "
        "`unix or iso`, are tried in turn.",
    )
    timestamp_timezone: TimeZoneName = setting(
        "UTC",
        description=(
            "Time zone of times without one. If a local time occurs twice because clocks go back, the "
            "first is taken."
        ),
        examples=["Europe/Berlin"],
    )
    timestamp: Literal["normalize", "trusted", "ingest"] = setting(
        "normalize",
        description=(
            "`normalize`: trust the device's clock within the limits in `time`. `trusted`: always trust "
            "it, for devices that save readings and send them later. `ingest`: use the arrival time."
        ),
    )
    timestamp_min: Bound | None = setting(
        None,
        description=(
            "Earliest plausible device time: a date, or how long before the arrival. An earlier time "
            "counts as none."
        ),
        examples=["2020-01-01", "30d"],
    )
    timestamp_max: Bound | None = setting(
        None,
        description="Latest plausible device time: a date, or how long after the arrival.",
        examples=["1h"],
    )
    retained: Annotated[Literal["store", "window", "ignore"], BeforeValidator(_as_before)] = setting(
        "store",
        description=(
            "What to do with retained messages, which a broker sends again on each subscription and which "
            "may be of any age. `store`: store them with a flag, but not in windows; one that is stored "
            "already, byte for byte, is only counted. `window` (formerly `keep`): store each and use it in "
            "windows. `ignore`: count and skip them."
        ),
    )
    rebirth: Annotated[bool, BeforeValidator(_is_asked), WithJsonSchema({"enum": ["auto", "off"]})] = setting(
        "auto",
        description=(
            "`sparkplug_b`: whether an edge node is asked for a new birth when a message was missed "
            "or refers to a birth that was not seen. `off`: never, for nodes that cannot deal with it."
        ),
    )
    priority: PriorityName = setting(
        "normal",
        description="Order in which messages are sent to the cloud; the lowest priority is given up first.",
    )
    sampling: Literal["allow", "never"] = setting(
        "never", description="Whether messages may be thinned out under overload (each is counted)."
    )

    forward: bool | ForwardModel = setting(
        True,
        description=(
            "What is sent to the cloud. `false`: nothing. `{on_change: …}` or `{where: …}`: only a part. "
            "The rest is stored and used in windows, and `gateway buffer forward` can send it later."
        ),
        examples=[False, {"on_change": {"power": 5.0, "every": "10m"}}],
    )

    @model_validator(mode="wrap")
    @classmethod
    def _from_preset(
        cls, entry: object, read: ModelWrapValidatorHandler[RouteModel], info: ValidationInfo
    ) -> RouteModel:
        route = read(with_preset(entry))
        if route.decoder not in DECODER_NAMES:
            route._plugin = _loaded(_plugins(info)[route.decoder])
        if isinstance(entry, dict):
            further = further_routes(entry)
            # The model is frozen for its users; this is still its construction.
            route._further = tuple(cls.model_validate(each, context=info.context) for each in further)
        return route

    @property
    def routes(self) -> tuple[RouteModel, ...]:
        """Return all routes that this entry stands for: itself, and those that its preset brings."""
        return (self, *self._further)

    def at(self, topic: str, suffix: str) -> RouteModel:
        """Return the same route for another topic, with `suffix` at its name."""
        route = self.model_copy(update={"topic": topic, "name": f"{self.name}_{suffix}"})
        route._further = ()
        return route

    @property
    def reader(self) -> Decoder:
        """The decoder itself."""
        return self._plugin or built_in_decoder(self.decoder)

    @field_validator("decoder")
    @classmethod
    def _is_installed(cls, decoder: str, info: ValidationInfo) -> str:
        if decoder not in DECODER_NAMES and decoder not in (plugins := _plugins(info)):
            known = " or ".join(f"'{name}'" for name in (*DECODER_NAMES, *plugins))
            raise PydanticCustomError("literal_error", "must be {expected}", {"expected": known})
        extra = missing_extra(decoder)
        if extra:
            raise fault(
                f"decoder {decoder} needs a package that is not installed",
                f"run: pip install 'mqtt-edge-gateway[{extra}]'",
            )
        return decoder

    @field_validator("csv")
    @classmethod
    def _is_csv(cls, csv: CsvModel | None, info: ValidationInfo) -> CsvModel | None:
        if csv is not None and info.data.get("decoder", "csv") != "csv":
            raise fault(f"decoder {info.data['decoder']} has no lines to cut", "write decoder: csv")
        return csv

    def spec(self, skew: SkewPolicy) -> RouteSpec:
        """Return the record for `gateway.decode.routes`."""
        return RouteSpec(
            name=self.name,
            topic=self.topic,
            qos=self.qos,
            decoder=self.decoder,
            payload=self.payload.spec(),
            custom=self._plugin,
            csv=self.csv.spec() if self.csv else None,
            fields={
                name: field if isinstance(field, str) else field.spec() for name, field in self.fields.items()
            },
            readings=self.readings,
            where=self.where,
            timestamp_path=self.timestamp_path,
            timestamp_format=self.timestamp_format,
            timestamp_timezone=self.timestamp_timezone,
            timestamp=self.timestamp,
            timestamp_min=self.timestamp_min,
            timestamp_max=self.timestamp_max,
            skew=skew,
            retained=self.retained,
            rebirth=self.rebirth,
            priority=self.priority,
            sampling=self.sampling,
            forward=self.forward.spec()
            if isinstance(self.forward, ForwardModel)
            else ForwardSpec(everything=self.forward),
        )


def _plugins(info: ValidationInfo) -> Mapping[str, FoundDecoder]:
    """The decoder plugins that the configuration can name; its folder is known from the context."""
    context = info.context or {}
    folder = context.get("plugins_dir") or base_dir(info) / "plugins"
    return find_decoders(folder)


def _loaded(found: FoundDecoder) -> Decoder:
    try:
        return found.decoder()
    except PluginError as exc:
        raise fault(f"decoder {exc}", exc.hint) from exc
