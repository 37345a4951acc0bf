"""The whole configuration: one model per section, every value with its unit, default and meaning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from gateway.alarms.notices import NotifyTarget
from gateway.alarms.states import SILENT
from gateway.config.birth_routes import birth_routes
from gateway.config.broker_model import CLIENT_ID as CLIENT_ID  # noqa: PLC0414
from gateway.config.broker_model import Broker, PasswordSource
from gateway.config.cloud_presets import CLOUD_PRESETS, lacking, preset_near, with_cloud_preset
from gateway.config.downlink_model import DownlinkEntry
from gateway.config.encoder_model import SPARKPLUG, SparkplugSection, UplinkFormat
from gateway.config.notify_model import NotifyEntry, notify_targets
from gateway.config.remote_model import RemoteConfig
from gateway.config.route_model import RouteModel
from gateway.config.service_models import Buffer, Flow, HistorySection, Http, Log, Metrics, Plugins, Time
from gateway.config.topics_model import OFF, TopicsSection
from gateway.config.types import (
    EMBEDDED,
    MAX_SECRET_BYTES,
    AnyPath,
    BrokerPlace,
    BrokerUrls,
    DurationMs,
    FilePath,
    Listen,
    LocalUrl,
    Name,
    OrOff,
    PositiveDurationMs,
    PriorityName,
    Protocol,
    RateBytesPerS,
    RatePerS,
    Section,
    SizeBytes,
    broker_place,
    fault,
    none_if_off,
    setting,
)
from gateway.config.window_model import AUTO_MS, IdleTimeoutMs, Window
from gateway.config.window_units import units_of
from gateway.core.topics import TopicTemplate, check_topic, covers
from gateway.decode.routes import RouteSpec
from gateway.host.certificates import CertificateFile
from gateway.host.files import read_regular
from gateway.timekeeping.normalize import SkewPolicy
from gateway.windows.spec import WindowSpec
from gateway.wire.encodings import Encoding
from gateway.wire.signatures import KeyFileError, SigningKey

BUFFER_FILE = "events.db"


class GatewaySection(Section):
    """The gateway's name and its data directory."""

    id: Name = Field(description="Name of this gateway, unique in its fleet; a level of all its topics.")
    data_dir: AnyPath = setting(
        Path("data"), description="Folder of the buffer; relative to the configuration file's folder."
    )
    topic_prefix: str = setting(
        "gateway", description="First level, or levels, of this gateway's own topics."
    )
    signing_key_file: FilePath | None = setting(
        None,
        description="File with the key that signs the audit records (`gateway keys new`; see evidence.md). "
        "Unset: they are not signed.",
    )

    @field_validator("signing_key_file")
    @classmethod
    def _is_signing_key(cls, path: Path | None) -> Path | None:
        if path is not None:
            read_signing_key(path)
        return path

    @property
    def buffer_path(self) -> Path:
        """The buffer's file."""
        return self.data_dir / BUFFER_FILE

    @field_validator("topic_prefix")
    @classmethod
    def _is_topic(cls, prefix: str) -> str:
        check_prefix(prefix)
        return prefix


def read_signing_key(path: Path) -> SigningKey:
    """Read the key that signs audit records. Raises a fault."""
    try:
        return SigningKey(read_regular(path, MAX_SECRET_BYTES))
    except OSError as exc:
        raise fault(f"cannot read the key: {exc.strerror}") from exc
    except KeyFileError as exc:
        raise fault(str(exc), exc.hint or "") from exc


def check_prefix(prefix: str) -> None:
    """Raise a fault unless topics can begin with `prefix`."""
    if not all(prefix.split("/")) or set(prefix) & set("+#\0") or prefix.startswith("$"):
        raise fault("must be topic levels without wildcards, such as gateway or site/gateway")
    check_topic(prefix)


class Local(Broker):
    """The broker that the devices publish to."""

    url: LocalUrl = setting(
        EMBEDDED,
        description="`mqtt://host:1883`, `mqtts://host:8883`, `ws://host:80/path`, `wss://host:443/path` "
        "(`tcp` and `ssl` are other names of the first two), or `embedded` for a small broker inside the "
        "gateway (`broker` says which).",
    )
    broker: Literal["auto", "amqtt", "mosquitto"] = setting(
        "auto",
        description=(
            "The broker that `embedded` runs. `mosquitto`: the program of that name, as a child process "
            "with its data in `data_dir`. `amqtt`: a broker inside the gateway (MQTT 3.1.1, in memory; to "
            "try things out and for light use). `auto`: Mosquitto if it is installed, else amqtt."
        ),
    )
    protocol: Protocol = setting("3.1.1", description="MQTT version.")
    receive_maximum: int = setting(
        1000,
        ge=1,
        le=65535,
        description="MQTT 5: unacknowledged messages that the broker may send to the gateway at a time.",
    )
    session_expiry: DurationMs = setting(
        "7d", description="MQTT 5: how long the broker keeps messages for the gateway while it is away."
    )
    max_packet_size: SizeBytes | None = setting(
        None, description="MQTT 5: largest packet that the gateway accepts; the broker drops larger ones."
    )
    share: Name | None = setting(
        None,
        description=(
            "MQTT 5: name of a group of gateways that share the messages: each message goes to one of them "
            "(`$share/GROUP/…`). Windows then see only a part of the messages: see deployment.md."
        ),
    )
    listen: Listen = setting("127.0.0.1:1883", description="Address of the embedded broker.")

    @field_validator("protocol")
    @classmethod
    def _embedded_speaks(cls, protocol: str, info: ValidationInfo) -> str:
        embedded = info.data.get("url") == EMBEDDED
        if protocol == "5" and embedded and info.data.get("broker") != "mosquitto":
            raise fault("the embedded broker speaks only 3.1.1")
        return protocol

    @model_validator(mode="after")
    def _embedded_is_told_its_password(self) -> Local:
        if self.embedded and isinstance(self.password, PasswordSource):
            raise fault("password: the embedded broker needs one that stays; use password_file")
        return self

    @field_validator("share")
    @classmethod
    def _needs_version_5(cls, share: str | None, info: ValidationInfo) -> str | None:
        if share is not None and info.data.get("protocol") == "3.1.1":
            raise fault("shared subscriptions need protocol: 5")
        return share

    def subscription(self, topic_filter: str) -> str:
        """Return the subscription that takes part in `topic_filter`."""
        return topic_filter if self.share is None else f"$share/{self.share}/{topic_filter}"

    @property
    def embedded(self) -> bool:
        return self.url == EMBEDDED

    @property
    def places(self) -> tuple[BrokerPlace, ...]:
        return (BrokerPlace("mqtt", self.listen, None),) if self.embedded else (broker_place(self.url),)


def _required_without_preset(schema: dict[str, Any]) -> None:
    """A preset may bring the URL, or ask for it in its own words."""
    schema["anyOf"] = [{"required": ["preset"]}, {"required": schema.pop("required")}]


class Cloud(Broker):
    """The broker that the buffer is sent to."""

    model_config = ConfigDict(json_schema_extra=_required_without_preset)

    preset: str | None = setting(
        None,
        description=(
            "Ready-made settings for a cloud service ([clouds.md](clouds.md)). Keys in this section "
            "replace its own."
        ),
        json_schema_extra={"enum": [*CLOUD_PRESETS, None]},
    )
    url: BrokerUrls = Field(
        description=(
            "`mqtt://host:1883`, `mqtts://host:8883`, `ws://host:80/path` or `wss://host:443/path`, or a "
            "list of them. If one does not answer, the next is tried; the gateway goes back to the first "
            "when it answers again. Required, unless a preset sets it."
        )
    )
    protocol: Protocol = setting(
        "5",
        description=(
            "MQTT version. With 3.1.1 a broker acknowledges even messages that it refuses, so an event may "
            "count as synced although the broker dropped it."
        ),
    )
    format: UplinkFormat = setting(
        "batch",
        description=(
            "`batch`: compressed frames of many events. `event`: one message per event, for any consumer. "
            "`thingsboard`: many events in one message, in ThingsBoard's format for gateways. "
            "`sparkplug_b`: an edge node with its devices (needs the extra `sparkplug`). Or an encoder of "
            "your own ([plugins.md](plugins.md))."
        ),
    )
    sparkplug: SparkplugSection = setting(
        {}, description=("Names of the edge node, for `format: sparkplug_b`.")
    )
    encoding: Encoding = setting(
        "zstd",
        description=(
            "How a batch is written. `zstd`: binary, with a compressed body. `none`: the same without "
            "compression. `json`: lines of JSON."
        ),
    )
    envelope: Literal["auto", "always", "never"] = setting(
        "auto",
        description=(
            "Where to put the identity of an event (`format: event`). `auto`: in properties with MQTT 5, see "
            "`identity`; in a JSON envelope with 3.1.1, which has no properties. `always`: in an envelope. "
            "`never`: with 3.1.1 nowhere, for services that accept plain values only; an event that is sent "
            "twice then counts twice."
        ),
    )
    identity: Literal["short", "properties"] = setting(
        "short",
        description=(
            "How MQTT 5 carries the identity of an event (`format: event`). `short`: in about 30 bytes of "
            "correlation data ([wire-format.md](wire-format.md#event-format)). `properties`: in user "
            "properties that people can read, with about 200 bytes."
        ),
    )
    topics: TopicsSection = setting({}, description="Topics of your own for messages to the cloud.")
    client_id: str = setting(
        CLIENT_ID,
        min_length=1,
        max_length=256,
        description=(
            "MQTT client identifier. If you set it or a preset, and `connections` is 1, a single "
            "connection with exactly this name carries everything: events, status, audit, commands. "
            "Otherwise each has its own connection, with a suffix: `-0`, `-1`, …, `-audit`, `-downlink`."
        ),
    )
    connections: int = setting(1, ge=1, le=64, description="Connections; streams are spread over them.")
    bandwidth: RateBytesPerS | None = setting(
        None, description=("Most bytes per second to the cloud. Unset: no limit.")
    )
    messages: RatePerS | None = setting(
        None,
        description=(
            "Most messages per second to the cloud, over all connections together; each message then "
            "carries more events. Status and audit are not counted. Unset: no limit."
        ),
    )
    batch_events: int = setting(1000, ge=1, le=65_535, description="Most events per frame.")
    in_flight: int = setting(8, ge=1, le=65535, description="Unacknowledged frames per connection.")
    ack_timeout: PositiveDurationMs = setting(
        "30s", description="How long to wait for an acknowledgement before connecting again."
    )
    order: Literal["oldest", "newest"] = setting(
        "oldest",
        description="Which raw events of a backlog go first; with `newest` live events never wait.",
    )
    retain: bool = setting(
        True,
        description=(
            "Whether status and will are retained. If the broker says that it does not support this, they "
            "are not."
        ),
    )
    will: bool = setting(
        True,
        description="Whether the gateway gives the broker a will, which says that this gateway is offline.",
    )
    session_expiry: DurationMs = setting(
        "7d",
        description=(
            "MQTT 5: how long the broker keeps commands (`downlink`) for the gateway while it is away."
        ),
    )
    max_packet_size: SizeBytes | None = setting(
        None,
        description=(
            "Largest packet that the broker accepts. Unset: what the broker itself says (MQTT 5 only)."
        ),
    )
    no_subscriber: Literal["auto", "wait", "send"] = setting(
        "auto",
        description=(
            "What to do when the broker says that a message has no subscriber (MQTT 5, reason 0x10). "
            "`wait`: keep it until there is one. `send`: the broker drops it. `auto`: wait if this topic "
            "has had a subscriber before."
        ),
    )
    confirm: Literal["puback", "receiver"] = setting(
        "puback",
        description="What lets an event leave the buffer: `puback`, the cloud broker's acknowledgement; "
        "`receiver`, the word of `gateway receive` that it is on its disk. What it misses is sent again.",
    )
    confirm_silent_after: PositiveDurationMs = setting(
        "10m",
        description="With `confirm: receiver`: an alert, when the receiver has confirmed nothing for so long "
        "while events wait for it.",
    )
    backfill: Annotated[RatePerS | None, BeforeValidator(none_if_off), OrOff] = setting(
        "1000/s",
        description="Events per second that are sent up at a request for what `forward` keeps "
        "([bridge.md](bridge.md)). `off`: no requests are taken. Where everything is forwarded, nothing is "
        "subscribed to.",
    )
    drain_target: PositiveDurationMs | None = setting(
        None,
        description=(
            "Thin out a backlog of raw events that could not be sent within this time. Unset: never."
        ),
    )
    audit: Annotated[PositiveDurationMs | None, BeforeValidator(none_if_off), OrOff] = setting(
        "1m",
        description="How often the receivers are told what they must have by now, to prove that nothing is "
        "missing. `off`: never.",
    )
    downlink: tuple[DownlinkEntry, ...] = setting(
        (), description="Commands: messages from the cloud broker that are published on the local one."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, section: object) -> object:
        if not isinstance(section, dict) or section.get("preset") is None:
            return section
        if section["preset"] not in CLOUD_PRESETS:
            raise fault(preset_near(section["preset"]))
        missing = [*lacking(section)]
        if missing:
            raise fault(f"preset {section['preset']} needs " + " | ".join(missing), "see docs/clouds.md")
        return with_cloud_preset(section)

    @property
    def one_connection(self) -> bool:
        """True if everything goes over one connection, whose client identifier is exactly `client_id`."""
        named = self.preset is not None or "client_id" in self.model_fields_set
        return self.connections == 1 and named

    @property
    def says_status(self) -> bool:
        """True if status and will are sent; an edge node has births and deaths instead."""
        return self.topics.status != OFF and self.format != SPARKPLUG

    @model_validator(mode="after")
    def _audits_what_is_confirmed(self) -> Cloud:
        if self.confirm == "receiver" and self.audit_s is None:
            raise fault(
                "confirm: receiver needs audit records, and format: batch or event: "
                "from them the receiver knows what it misses"
            )
        return self

    @property
    def audit_s(self) -> float | None:
        off = self.audit is None or self.topics.audit == OFF or self.format not in ("batch", "event")
        return None if off or self.audit is None else self.audit / 1000


class DevicesSection(Section):
    """Devices, whatever they measure."""

    silent_after: IdleTimeoutMs = setting(
        None,
        description="Raise an alarm for a device that has not been heard for so long; `auto`: for five of "
        "its usual intervals, and at least a minute. Unset: no alarms; the page shows silent devices by the "
        "rule of `auto`.",
        examples=["auto", "10m"],
    )
    priority: PriorityName = setting("high", description="Priority of these alarms, for `notify`.")

    @property
    def silent_after_ms(self) -> int | None:
        """The fixed time; None where each device's rhythm decides."""
        return None if self.silent_after in (None, AUTO_MS) else self.silent_after


class HomeAssistant(Section):
    """Announcements for Home Assistant: what it shows without being configured."""

    discovery_prefix: str = setting(
        "homeassistant", description="Topic prefix under which Home Assistant looks for announcements."
    )

    @field_validator("discovery_prefix")
    @classmethod
    def _is_topic(cls, prefix: str) -> str:
        check_prefix(prefix)
        return prefix


class Config(Section):
    """The whole configuration file."""

    gateway: GatewaySection = Field(description="Name and data directory of this gateway.")
    local: Local = setting({}, description="The broker that the devices publish to.")
    routes: tuple[RouteModel, ...] = setting(
        (),
        description="Which topics are read, and how. A window with a `topic` that no route covers reads it "
        "by itself: JSON, or a bare number as the field `value`.",
    )
    windows: tuple[Window, ...] = setting((), description="Aggregations over event time.")
    buffer: Buffer = setting({}, description="The store-and-forward buffer on disk.")
    history: Annotated[HistorySection | None, BeforeValidator(none_if_off), OrOff] = setting(
        None,
        description="Results of windows for charts over weeks ([buffer.md](buffer.md#history)). "
        "Unset: as long as the events in the buffer.",
    )
    devices: DevicesSection = setting({}, description="Silent devices ([alarms.md](alarms.md)).")
    notify: tuple[NotifyEntry, ...] = setting(
        (), description="Where notifications of alarms go ([alarms.md](alarms.md#notifications))."
    )
    cloud: Cloud | None = setting(
        None, description="The broker that the buffer is sent to. Unset: no bridge."
    )
    time: Time = setting({}, description="Clocks: the gateway's own and those of the devices.")
    flow: Flow = setting({}, description="How much memory the gateway may use.")
    http: Annotated[Http | None, BeforeValidator(none_if_off), OrOff] = setting(
        Http(), description="Metrics, health and dashboard. `off`: none."
    )
    home_assistant: Annotated[HomeAssistant | None, BeforeValidator(none_if_off), OrOff] = setting(
        None, description="Announce gateway and aggregates to Home Assistant. Unset: no announcements."
    )
    config: RemoteConfig = setting(
        {}, description="The configuration's own version, and signed remote configurations."
    )
    metrics: Metrics = setting({}, description="Metrics over MQTT, for sites that Prometheus cannot reach.")
    plugins: Plugins = setting({}, description="Where window plugins come from.")
    log: Log = setting({}, description="What is logged, and how.")

    @property
    def notify_targets(self) -> list[NotifyTarget]:
        """The targets of notifications, each with a name of its own."""
        return notify_targets(self.notify)

    @property
    def certificates(self) -> list[CertificateFile]:
        """The certificate files that the gateway uses."""
        brokers = {"local": self.local, "cloud": self.cloud}
        files = [file for name, broker in brokers.items() if broker for file in broker.certificates(name)]
        return [*files, *(self.config.pull.certificates if self.config.pull is not None else ())]

    @model_validator(mode="after")
    def _silence_has_its_name(self) -> Config:
        if self.devices.silent_after is not None and any(each.name == SILENT for each in self.windows):
            raise fault(f"windows: {SILENT} is the name of the alarms of devices.silent_after")
        return self

    @model_validator(mode="after")
    def _reads_something(self) -> Config:
        if not self.routes and not any(window.topic for window in self.windows):
            raise fault("routes: needs at least one route, or a window with a topic")
        return self

    @model_validator(mode="after")
    def _name_clients(self) -> Config:
        """Put the gateway's id into the client identifiers, which only the whole configuration knows."""
        for section in ("local", "cloud"):
            broker = getattr(self, section)
            if broker is not None:
                client_id = broker.client_id.replace("{id}", self.gateway.id)
                # The model is frozen for its users; this is still its construction. What the file has set
                # stays known: see `Cloud.one_connection`.
                self.__dict__[section] = named = broker.model_copy()
                named.__dict__["client_id"] = client_id
                if broker.username and isinstance(broker, Cloud) and broker.preset is not None:
                    # A preset may have put the client identifier into it.
                    named.__dict__["username"] = broker.username.replace("{id}", self.gateway.id)
        return self

    @property
    def all_routes(self) -> tuple[RouteModel, ...]:
        """The routes with those that presets bring and those for Sparkplug's births, in the order in which
        they are tried."""
        return (*(route for entry in self.routes for route in entry.routes), *self.birth_routes)

    @property
    def birth_routes(self) -> tuple[RouteModel, ...]:
        """The routes for Sparkplug's births that others depend on and the file does not name."""
        return tuple(birth_routes([route for entry in self.routes for route in entry.routes]))

    def skew_policy(self) -> SkewPolicy:
        """The bounds of `time` as the routes apply them."""
        return SkewPolicy(
            future_tolerance_ms=self.time.future_tolerance,
            acceptable_skew_ms=self.time.acceptable_skew,
            max_clock_skew_ms=self.time.max_clock_skew,
            correction_factor=self.time.correction_factor,
        )

    def route_specs(self) -> tuple[RouteSpec, ...]:
        """The routes, in the order in which they are tried."""
        skew = self.skew_policy()
        specs = [route.spec(skew) for route in self.all_routes]
        filters = [TopicTemplate(spec.topic).filter for spec in specs]
        for window in self.windows:
            # A window over topics that no route reads gets a plain one: JSON, or a bare number as `value`.
            topic_filter = TopicTemplate(window.topic).filter if window.topic else None
            if topic_filter and not any(covers(known, topic_filter) for known in filters):
                specs.append(RouteSpec(f"window-{window.name}", window.topic or "", skew=skew))
                filters.append(topic_filter)
        return tuple(specs)

    def window_specs(self) -> tuple[WindowSpec, ...]:
        """The windows, with the defaults that depend on their routes filled in."""
        topics = {route.name: route.topic for route in self.all_routes}
        routes = self.route_specs()
        specs = (window.spec(window.topic or topics.get(window.route or "")) for window in self.windows)
        return tuple(replace(one, units=units_of(one, routes)) for one in specs)
