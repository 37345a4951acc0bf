"""The section `config`: the configuration's own version, and signed remote configurations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, field_validator, model_validator

from gateway.config.document import Problem
from gateway.config.types import (
    FilePath,
    OrOff,
    PositiveDurationMs,
    Section,
    Share,
    fault,
    none_if_off,
    reading,
    setting,
)
from gateway.core.topics import check_topic
from gateway.host.certificates import CertificateFile
from gateway.pipeline.rehearsal_limits import RehearsalLimits

if TYPE_CHECKING:
    from gateway.config.models import Config

REMOTE_TOPIC = "gateway/{id}/down/config"


class RehearsalSection(Section):
    """The rehearsal of a remote configuration on what the buffer holds, and what it may not show."""

    last: PositiveDurationMs = setting("1h", description="How much of the past to rehearse on.")
    timeout: PositiveDurationMs = setting(
        "2m", description="How long it may take; it is judged by the messages that passed by then."
    )
    fewer_readings: Share = setting(
        "50%",
        description="Refuse it if a window that stays takes this share fewer readings, or if routes decode "
        "this share fewer messages. `100%`: never.",
    )
    more_dropped: Share = setting(
        "10%", description="Refuse it if this share more of a window's readings come too late. `100%`: never."
    )
    plugin_errors: Share = setting(
        "10%", description="Refuse it if plugins fail on this share more of a window's readings."
    )
    more_messages: float = setting(
        10.0, gt=1, description="Refuse it if all windows together send so many times the messages."
    )

    @property
    def limits(self) -> RehearsalLimits:
        return RehearsalLimits(self.fewer_readings, self.more_dropped, self.plugin_errors, self.more_messages)


class PullSection(Section):
    """An HTTPS server that has the signed configuration."""

    url: str = setting(
        ...,
        description="`https://host/path`; `{id}` is the gateway's id. The body is what `gateway config sign` "
        "writes.",
        pattern=r"^https://[^/\s@]+(/\S*)?$",
    )
    every: PositiveDurationMs = setting(
        "5m", description="How often to ask, give or take a fifth. An answer 304 costs a few hundred bytes."
    )
    timeout: PositiveDurationMs = setting("30s", description="How long one request may take.")
    ca_file: FilePath | None = setting(
        None, description="Authorities that the server's certificate may be from. Unset: those of the system."
    )
    cert_file: FilePath | None = setting(None, description="This gateway's certificate, for mutual TLS.")
    key_file: FilePath | None = setting(None, description="Key of that certificate.")
    token_file: FilePath | None = setting(None, description="File with a token (`Authorization: Bearer`).")
    username: str | None = setting(None, description="User name (`Authorization: Basic`).")
    password_file: FilePath | None = setting(None, description="File with its password.")

    @model_validator(mode="after")
    def _has_pairs(self) -> PullSection:
        if (self.username is None) is not (self.password_file is None):
            raise fault("username and password_file need each other")
        if self.username is not None and self.token_file is not None:
            raise fault("give username or token_file, not both")
        if self.key_file is not None and self.cert_file is None:
            raise fault("key_file needs cert_file")
        return self

    @property
    def certificates(self) -> list[CertificateFile]:
        """The certificate files that requests use."""
        return [
            *([CertificateFile("config.pull.ca_file", self.ca_file, True)] if self.ca_file else ()),
            *([CertificateFile("config.pull.cert_file", self.cert_file)] if self.cert_file else ()),
        ]


class RemoteConfig(Section):
    """The configuration itself: its version, and new signed ones from far."""

    version: str = setting(
        "", max_length=64, description="Name of this configuration, shown in status, page and metrics."
    )
    accept: Literal["no", "signed"] = setting(
        "no",
        description="`signed`: take configurations on `topic` that `gateway config sign` made with the "
        "private key of `public_key_file` (extra `evidence`).",
    )
    public_key_file: FilePath | None = setting(
        None, description="Ed25519 public key (PEM) that configurations must be signed with."
    )
    topic: str = setting(
        REMOTE_TOPIC, description="Topic at the cloud broker where they come; `{id}` is the gateway's id."
    )
    pull: PullSection | None = setting(
        None, description="Ask an HTTPS server for configurations, beside or instead of `topic`."
    )
    rehearse: Annotated[RehearsalSection | None, BeforeValidator(none_if_off), OrOff] = setting(
        {},
        description="Try a remote configuration on the last messages before it is used "
        "([many-sites.md](many-sites.md#remote-configuration)). `off`: use it at once.",
    )
    watch: PositiveDurationMs = setting(
        "2m",
        description="How long a new configuration is on trial. If things get worse, it is taken back.",
    )

    @field_validator("accept", mode="before")
    @classmethod
    def _no(cls, accept: object) -> object:
        return "no" if accept is False else accept  # YAML reads `no` as false

    @field_validator("topic")
    @classmethod
    def _is_topic(cls, topic: str) -> str:
        reading(check_topic)(topic.replace("{id}", "x"))
        return topic

    @model_validator(mode="after")
    def _has_its_key(self) -> RemoteConfig:
        if self.accept == "signed" and self.public_key_file is None:
            raise fault("accept: signed needs public_key_file", "gateway keys new makes a pair of keys")
        if self.pull is not None and self.accept != "signed":
            raise fault("pull needs accept: signed")
        return self

    @property
    def signed(self) -> bool:
        return self.accept == "signed"


def remote_problems(config: Config) -> Iterator[Problem]:
    """Yield why remote configurations would not work."""
    if not config.config.signed:
        return
    if config.config.pull is not None:
        return
    if config.cloud is None:
        yield Problem(
            ("config", "accept"),
            "signed configurations come over the cloud broker or from an HTTPS server: set cloud.url, or "
            "config.pull",
        )
    elif config.cloud.one_connection:
        yield Problem(
            ("config", "accept"),
            "needs a connection of its own, and cloud.client_id or preset allows one; use config.pull",
        )
