"""The ways on which signed configurations come: a connection to the cloud broker, an HTTPS server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gateway.app.part import Part
from gateway.cloud.config_inbox import ConfigInbox
from gateway.config import Config
from gateway.config.models import Cloud
from gateway.config.specs import endpoint
from gateway.core.clock import Clock
from gateway.mqtt.link import Link, stop_links
from gateway.status.gateway_status import GatewayStatus
from gateway.wire.signed_config import MAX_BYTES

if TYPE_CHECKING:
    from gateway.cloud.config_fetcher import ConfigFetcher


def config_fetcher(config: Config, offer: Callable[[bytes], None]) -> ConfigFetcher | None:
    """Return what pulls configurations; None where that is not configured."""
    pull = config.config.pull
    if pull is None:
        return None

    from gateway.cloud.config_fetcher import ConfigFetcher, FetchSpec  # noqa: PLC0415 - an HTTPS client

    spec = FetchSpec(
        pull.url.replace("{id}", config.gateway.id),
        every_s=pull.every / 1000,
        timeout_s=pull.timeout / 1000,
        ca_file=pull.ca_file,
        cert_file=pull.cert_file,
        key_file=pull.key_file,
        token_file=pull.token_file,
        username=pull.username,
        password_file=pull.password_file,
    )
    return ConfigFetcher(spec, offer)


class RemoteConfigPart(Part):
    """`gateway.config`: takes configurations from the cloud broker, which queues them for it."""

    def __init__(self, config: Config, cloud: Cloud, clock: Clock, offer: Callable[[bytes], None]) -> None:
        topic = config.config.topic.replace("{id}", config.gateway.id)
        where = endpoint(
            cloud,
            "-config",
            persistent=True,
            session_expiry_s=cloud.session_expiry // 1000,
            max_packet_bytes=2 * MAX_BYTES,
        )
        self.inbox = ConfigInbox(topic, offer)
        self._link = Link("config", where, self.inbox, clock.now_ms)

    def start(self, status: GatewayStatus) -> None:
        self._link.start()

    def stop(self) -> None:
        stop_links([self._link])

    @property
    def links(self) -> Sequence[Link]:
        return (self._link,)
