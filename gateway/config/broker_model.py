"""Settings that both brokers' connections share: address, credentials, certificates, proxy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    SecretStr,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from gateway.config.types import (
    BrokerPlace,
    DurationMs,
    FilePath,
    HostPort,
    PositiveDurationMs,
    ProxyUrl,
    Section,
    blank_as_none,
    broker_place,
    fault,
    read_secret,
    setting,
)
from gateway.host.certificates import CertificateFile

CLIENT_ID = "gateway-{id}"


class TlsSection(Section):
    """Certificates of a TLS connection."""

    ca_file: FilePath | None = setting(
        None, description="Certificates of trusted authorities. Unset: those of the system."
    )
    cert_file: FilePath | None = setting(None, description="This gateway's certificate, for mutual TLS.")
    key_file: FilePath | None = setting(None, description="The key of `cert_file`.")
    insecure: bool = setting(
        False, description="Accept a certificate for another host name. For experiments only."
    )

    key_password_file: FilePath | None = setting(
        None, description="File with the password of `key_file`, if it has one."
    )
    alpn: tuple[str, ...] = setting(
        (),
        description="Protocols to offer (ALPN), for brokers that share port 443.",
        examples=[["x-amzn-mqtt-ca"]],
    )
    server_name: str | None = setting(
        None, description="Name to ask for (SNI) and to expect in the certificate. Unset: the host of `url`."
    )

    @field_validator("key_file")
    @classmethod
    def _pair(cls, key_file: Path | None, info: ValidationInfo) -> Path | None:
        if "cert_file" in info.data and (key_file is None) != (info.data["cert_file"] is None):
            raise fault("cert_file and key_file belong together")
        return key_file


class AzureSasSection(Section):
    """A shared access signature, made from a key."""

    key_file: FilePath = Field(description="File with the device's primary key, as the console shows it.")
    ttl: PositiveDurationMs = setting("1h", description="How long each one is valid.")
    resource: str | None = setting(
        None,
        description=(
            "Resource that it gives access to. Unset: `{host of url}/devices/{client_id}`, as IoT Hub "
            "expects."
        ),
    )


class PasswordSource(Section):
    """A password that is made at each connect, and renewed before it runs out."""

    command: str | None = setting(None, description="Command that prints it.", min_length=1)
    ttl: PositiveDurationMs = setting("30m", description="How long the printed password is valid.")
    azure_sas: AzureSasSection | None = setting(
        None, description="A shared access signature of Azure IoT Hub or Event Grid."
    )

    @model_validator(mode="after")
    def _one(self) -> PasswordSource:
        if (self.command is None) == (self.azure_sas is None):
            raise fault("give either command or azure_sas")
        return self


Password = Annotated[
    Annotated[SecretStr, Tag("text")] | Annotated[PasswordSource, Tag("source")],
    Discriminator(lambda value: "source" if isinstance(value, dict | PasswordSource) else "text"),
]


class Broker(Section):
    """Settings that both brokers' connections share."""

    url: str | tuple[str, ...]
    client_id: str = setting(CLIENT_ID, min_length=1, max_length=256, description="MQTT client identifier.")
    username: Annotated[str | None, BeforeValidator(blank_as_none)] = setting(
        None, description="User name at the broker."
    )
    password_file: FilePath | None = setting(None, description="File with the password.")
    password: Annotated[Password | None, BeforeValidator(blank_as_none)] = setting(
        None,
        description="Password; better `${VARIABLE}` or `password_file` than plain text here. "
        "`{command: …}` or `{azure_sas: …}` makes one at each connect.",
    )
    keepalive: PositiveDurationMs = setting(
        "30s",
        description=(
            "MQTT keepalive. After a third of it without a message the gateway asks the broker for a sign "
            "of life; after another third without an answer the connection counts as lost."
        ),
    )
    reconnect_max: PositiveDurationMs = setting(
        "30s",
        description="Longest pause between two attempts to connect. Pauses are random, up to half a second "
        "at first, then up to twice as long each time.",
    )
    reconnect_min: DurationMs = setting(
        "0s", description="Shortest pause between two attempts to connect, for services that count them."
    )
    tls: TlsSection = setting({}, description="Certificates; used with `mqtts://` and `wss://`.")
    headers: dict[str, str] = setting(
        {}, description="HTTP headers for the handshake of `ws://` and `wss://`."
    )
    proxy: ProxyUrl | None = setting(
        None,
        description="Proxy on the way to the broker: `http://host:port` (CONNECT) or `socks5://host:port`, "
        "with `user:password@` before the host if it needs them. Needs the extra `proxy`.",
    )

    @field_validator("password")
    @classmethod
    def _secret(
        cls, password: SecretStr | PasswordSource | None, info: ValidationInfo
    ) -> SecretStr | PasswordSource | None:
        path = info.data.get("password_file")
        if path is None:
            return password
        if password is not None:
            raise fault("give password or password_file, not both")
        return read_secret(path)

    @field_validator("keepalive")
    @classmethod
    def _fits_two_bytes(cls, keepalive_ms: int) -> int:
        if not 1_000 <= keepalive_ms <= 65_535_000:
            raise fault("must be between 1s and 65535s, as MQTT counts it")
        return keepalive_ms

    @property
    def places(self) -> tuple[BrokerPlace, ...]:
        """Addresses to connect to, the preferred one first."""
        return tuple(map(broker_place, [self.url] if isinstance(self.url, str) else self.url))

    @property
    def address(self) -> HostPort:
        """Host and port of the first choice."""
        return self.places[0].address

    def certificates(self, section: str) -> list[CertificateFile]:
        """Return the certificate files that its connections use; `section` is where it stands in the file."""
        if not any(place.uses_tls for place in self.places):
            return []
        files = {"ca_file": self.tls.ca_file, "cert_file": self.tls.cert_file}
        return [
            CertificateFile(f"{section}.tls.{key}", path, holds_authorities=key == "ca_file")
            for key, path in files.items()
            if path is not None
        ]

    @property
    def uses_tls(self) -> bool:
        """True if all addresses are encrypted."""
        return all(place.uses_tls for place in self.places)
