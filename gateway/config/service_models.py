"""The sections about the gateway itself: buffer, clocks, memory, HTTP, plugins and log."""

from __future__ import annotations

from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BeforeValidator,
    PlainSerializer,
    SecretStr,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from gateway.config.types import (
    AnyPath,
    DurationMs,
    FilePath,
    HostPort,
    Listen,
    OrOff,
    PositiveDurationMs,
    Section,
    SizeBytes,
    blank_as_none,
    fault,
    none_if_off,
    parse_host_port,
    read_secret,
    reading,
    setting,
)
from gateway.core.errors import UnitError
from gateway.core.units import parse_size_bytes
from gateway.delivery.states import Backoff
from gateway.timekeeping.sources.gps import GPSD_PORT
from gateway.timekeeping.sources.make_sources import SourceSpec
from gateway.timekeeping.sources.ntp import NTP_PORT


class Retry(Section):
    """Retries of events that the cloud did not take."""

    max_attempts: int = setting(20, ge=1, description="Refusals in a row before an event is marked failed.")
    backoff_min: PositiveDurationMs = setting("1s", description="Shortest pause of a stream after a refusal.")
    backoff_max: PositiveDurationMs = setting("5m", description="Longest pause of a stream after refusals.")

    @property
    def backoff(self) -> Backoff:
        return Backoff(self.backoff_min, self.backoff_max, self.max_attempts)

    @field_validator("backoff_max")
    @classmethod
    def _grows(cls, backoff_max_ms: int, info: ValidationInfo) -> int:
        if backoff_max_ms < info.data.get("backoff_min", 0):
            raise fault("is shorter than backoff_min")
        return backoff_max_ms


class Backup(Section):
    """Backup copy of the buffer; a start uses it if the buffer itself cannot be read."""

    every: PositiveDurationMs = setting(
        "1d", description="How often the whole buffer is copied to `events.db.backup`, beside it."
    )


class Buffer(Section):
    """The store-and-forward buffer on disk."""

    max_size: SizeBytes = setting(
        "2GiB", description=("Maximum size on disk. What happens when it is full: docs/buffer.md.")
    )
    group_commit: PositiveDurationMs = setting(
        "100ms", description="Longest wait for a common commit; a group commits earlier when it can."
    )
    group_limit: int = setting(2000, ge=1, le=100_000, description="Most events in one transaction.")
    synchronous: Literal["full", "normal"] = setting(
        "full",
        description=(
            "`full`: an acknowledged message survives a power cut. `normal`: it may not, but flash memory "
            "lasts longer."
        ),
    )
    keep_synced: DurationMs = setting("1h", description="How long events stay after they are in the cloud.")
    checkpoint_interval: PositiveDurationMs = setting(
        "5s", description="How often the state of the windows is saved."
    )
    retry: Retry = setting({}, description="What happens to events that the cloud refused.")
    backup: Annotated[Backup | None, BeforeValidator(none_if_off), OrOff] = setting(
        {}, description="Copies of the buffer while it runs. `off`: none."
    )

    @property
    def group_time_s(self) -> float:
        return self.group_commit / 1000


class HistorySection(Section):
    """Results that are kept for charts and reports, in a file of their own, beyond the events."""

    aggregates: PositiveDurationMs = setting("90d", description="How long the results of windows are kept.")
    max_size: SizeBytes = setting(
        "512MiB",
        description="Largest size of `history.db`, beside `buffer.max_size`. When it is full, the oldest "
        "results go.",
    )

    @field_validator("max_size")
    @classmethod
    def _has_room(cls, max_size_bytes: int) -> int:
        if max_size_bytes < LEAST_HISTORY_BYTES:
            raise fault("is too small for a history", "write at least 16MiB")
        return max_size_bytes


LEAST_HISTORY_BYTES = 16 * 1024 * 1024
"""Some 60,000 results wait to be packed."""

_SERVER = (
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "$comment": "host or host:port"}),
)
NtpServer = Annotated[
    HostPort, BeforeValidator(reading(partial(parse_host_port, default_port=NTP_PORT))), *_SERVER
]
GpsDaemon = Annotated[
    HostPort, BeforeValidator(reading(partial(parse_host_port, default_port=GPSD_PORT))), *_SERVER
]


class Time(Section):
    """Clocks: the gateway's own and those of the devices."""

    ntp: tuple[NtpServer, ...] = setting(
        (),
        description="NTP servers to ask for the time: `host` or `host:port`. Three outvote a wrong one.",
        examples=[["0.pool.ntp.org", "1.pool.ntp.org", "2.pool.ntp.org"]],
    )
    ptp: Annotated[Path | None, WithJsonSchema({"type": "string", "$comment": "path"})] = setting(
        None,
        description="PTP: the management socket of `ptp4l`, or a PTP clock device.",
        examples=["/var/run/ptp4l", "/dev/ptp0"],
    )
    gps: GpsDaemon | None = setting(
        None, description="GPS: where gpsd listens, `host` or `host:port`.", examples=["127.0.0.1:2947"]
    )
    min_poll: PositiveDurationMs = setting(
        "64s",
        description=(
            "Shortest interval between requests to an NTP server. Public servers refuse more frequent ones."
        ),
    )
    hold: DurationMs = setting(
        "5m",
        description=(
            "How long messages wait for the correct time after a start with a clock that was never set. "
            "Then they are processed, with a flag. `0s`: they do not wait."
        ),
    )
    future_tolerance: DurationMs = setting(
        "5s", description="A device time further ahead than this is replaced by the arrival time."
    )
    acceptable_skew: DurationMs = setting(
        "1s", description=("A device time that is off by no more than this is used as it is.")
    )
    max_clock_skew: DurationMs = setting(
        "1h", description=("A device time that is off by more than this is flagged.")
    )
    correction_factor: float = setting(
        1.0,
        ge=0,
        le=1,
        description="How far a device time beyond `acceptable_skew` is moved towards the arrival time: 0 "
        "leaves it, 1 takes the arrival time.",
    )

    @property
    def hold_s(self) -> float:
        return self.hold / 1000

    def sources(self) -> SourceSpec:
        """Return the record for `gateway.timekeeping.sources`."""
        return SourceSpec(self.ntp, self.ptp, self.gps, self.min_poll / 1000)


def _memory(value: object) -> object:
    if value == "auto":
        return value
    try:
        return parse_size_bytes(value)  # type: ignore[arg-type] # it refuses what is neither text nor number
    except UnitError as exc:
        raise fault(f"{value!r} is neither auto nor a size", "write auto or 512MiB") from exc


class Flow(Section):
    """Share of the machine that the gateway may use."""

    memory: Annotated[
        int | Literal["auto"],
        BeforeValidator(_memory),
        WithJsonSchema({"type": ["integer", "string"], "$comment": "auto or size"}),
    ] = setting("auto", description="Memory budget: `auto` for a share of what is free, or a size.")


LEAST_TOKEN_CHARS = 16


def is_loopback(host: str) -> bool:
    """Return True if only this machine can connect to `host`."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Http(Section):
    """Metrics, health and dashboard."""

    listen: Listen = setting(
        "127.0.0.1:8080",
        description="Address of the HTTP server. An address that other machines can reach needs a token.",
    )
    token_file: FilePath | None = setting(None, description="File with the token.")
    token: Annotated[SecretStr | None, BeforeValidator(blank_as_none)] = setting(
        None,
        description="Token that clients must send, as `Authorization: Bearer …` or on the sign-in page; only "
        "`/healthz` and `/readyz` need none. Better `${VARIABLE}` or `token_file` than plain text here.",
    )
    hosts: tuple[str, ...] = setting(
        (),
        description=(
            "Names of the gateway in addition to `localhost` and addresses: `[gateway.lan]`. Requests for "
            "other names are refused, so that no other web page can read this one through a browser."
        ),
    )

    @field_validator("token")
    @classmethod
    def _secret(cls, token: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        path = info.data.get("token_file")
        if path is not None and token is not None:
            raise fault("give token or token_file, not both")
        found = token if path is None else read_secret(path)
        if found is not None and len(found.get_secret_value()) < LEAST_TOKEN_CHARS:
            raise fault(f"is shorter than {LEAST_TOKEN_CHARS} characters", "openssl rand -hex 16 makes one")
        return found

    @model_validator(mode="after")
    def _closed_to_strangers(self) -> Http:
        if self.token is None and not is_loopback(self.listen.host):
            raise fault(
                f"listen: {self.listen} can be reached from other machines, and there is no token",
                "set http.token_file, or listen on 127.0.0.1",
            )
        return self


class Metrics(Section):
    """Metrics over MQTT."""

    publish: Annotated[PositiveDurationMs | None, BeforeValidator(none_if_off), OrOff] = setting(
        None,
        description="How often all metrics are published as JSON, on `gateway/{id}/metrics` at both brokers. "
        "Unset: never; Prometheus fetches them from `/metrics`.",
        examples=["1m"],
    )
    status: PositiveDurationMs = setting(
        "1m", description="How often the retained status is sent; new problems are sent within seconds."
    )


class Plugins(Section):
    """Window plugins from a folder, in addition to installed ones."""

    path: AnyPath = setting(
        Path("plugins"), description="Folder of plugin files; relative to the configuration file's folder."
    )

    @property
    def directory(self) -> Path | None:
        """The folder to look in: the one that was named, or the default one where it exists."""
        return self.path if "path" in self.model_fields_set or self.path.is_dir() else None


class Log(Section):
    """Level and format of the log."""

    level: Literal["debug", "info", "warning", "error"] = setting("info", description="Lowest level shown.")
    format: Literal["auto", "text", "json"] = setting(
        "auto", description="`auto`: text on a terminal, JSON lines elsewhere."
    )
    publish: Annotated[Literal["info", "warning", "error"] | None, BeforeValidator(none_if_off), OrOff] = (
        setting(
            None,
            description="Lowest level of the log lines that are also published, on `gateway/{id}/log` at the "
            "cloud broker, 20 a minute at most; others are counted. Unset: none.",
        )
    )
