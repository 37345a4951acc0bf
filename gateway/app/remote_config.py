"""The connection on which signed configurations come."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gateway.app.part import Part
from gateway.cloud.config_inbox import ConfigInbox
from gateway.config import Config
from gateway.config.models import Cloud
from gateway.config.specs import endpoint
from gateway.core.clock import Clock
from gateway.mqtt.link import Link, stop_links
from gateway.status.gateway_status import GatewayStatus
from gateway.wire.signed_config import MAX_BYTES


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
