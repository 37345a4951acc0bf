"""The ways on which signed configurations come: a connection to the cloud broker, an HTTPS server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.app.part import Part
from gateway.cloud.config_inbox import ConfigInbox
from gateway.cloud.support_bundles import MOST_BYTES, SupportBundles
from gateway.config import Config
from gateway.config.models import Cloud
from gateway.config.specs import endpoint
from gateway.core.clock import Clock
from gateway.core.own_topics import OwnTopics
from gateway.mqtt.link import Link, Session, stop_links
from gateway.mqtt.shared_session import SharedSession
from gateway.status.gateway_status import GatewayStatus
from gateway.wire.signed_config import MAX_BYTES as MAX_CONFIG_BYTES

if TYPE_CHECKING:
    from gateway.cloud.config_fetcher import ConfigFetcher

_HEAD_BYTES = 1024  # of a packet, beside its payload


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
    """`gateway.config`: takes configurations, and requests for support bundles, from the cloud broker, which
    queues them for it. `path` is the configuration file."""

    def __init__(
        self, config: Config, cloud: Cloud, clock: Clock, offer: Callable[[bytes], None], path: Path | None
    ) -> None:
        topic = config.config.topic.replace("{id}", config.gateway.id)
        where = endpoint(
            cloud,
            "-config",
            persistent=True,
            session_expiry_s=cloud.session_expiry // 1000,
            max_packet_bytes=2 * MAX_CONFIG_BYTES,
        )
        self.inbox = ConfigInbox(topic, offer)
        self.bundles = _bundles(config, cloud, path)
        self._link = Link("config", where, self._session(), clock.now_ms)

    def start(self, status: GatewayStatus) -> None:
        self._link.start()

    def stop(self) -> None:
        stop_links([self._link])
        if self.bundles is not None:
            self.bundles.finish()

    def _session(self) -> Session:
        if self.bundles is None:
            return self.inbox
        return SharedSession([self.inbox, self.bundles], self.inbox, {self.bundles.topic: self.bundles})

    @property
    def links(self) -> Sequence[Link]:
        return (self._link,)


def _bundles(config: Config, cloud: Cloud, path: Path | None) -> SupportBundles | None:
    """Return what answers requests for support bundles; None where the configuration is from no file."""
    key_file = config.config.public_key_file
    if path is None or key_file is None:
        return None
    gateway = config.gateway
    topics = OwnTopics(gateway.topic_prefix, gateway.id)
    packet_bytes = cloud.max_packet_size or 2 * MOST_BYTES
    return SupportBundles(topics, key_file, path, gateway.data_dir, packet_bytes - _HEAD_BYTES)
