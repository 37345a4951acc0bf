"""The side of the cloud: the bridge's connections, the audit, and commands that come down.

Where a service allows one connection (`Cloud.one_connection`), all of them share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from gateway.app.part import Part
from gateway.app.processing import Processing
from gateway.app.storage import STOP_TIMEOUT_S, OpenBuffer, works
from gateway.buffer.store import Store
from gateway.cloud.alarm_requests import AlarmRequests
from gateway.cloud.auditor import Auditor
from gateway.cloud.backfills import Backfills
from gateway.cloud.bridge import Bridge
from gateway.cloud.confirmations import Confirmations
from gateway.cloud.delivered_hashes import DeliveredHashes
from gateway.cloud.downlink import CloudSide
from gateway.cloud.record_signer import RecordSigner
from gateway.cloud.shared_bucket import SharedBucket
from gateway.config import Config
from gateway.config.backfill_model import keeps_something
from gateway.config.models import Cloud
from gateway.config.specs import (
    backfill_settings,
    bridge_spec,
    confirm_settings,
    downlink_settings,
    endpoint,
    signing_key,
)
from gateway.config.topics_model import uplink_topics
from gateway.core.clock import Clock
from gateway.flow.memory import MemoryBudget
from gateway.local.republish import status_payload
from gateway.mqtt.endpoint import Will
from gateway.mqtt.link import Link, Session, stop_links
from gateway.mqtt.shared_session import SharedSession
from gateway.status.gateway_status import GatewayStatus
from gateway.wire.command_topics import Downlink
from gateway.wire.signatures import SigningKey
from gateway.wire.sparkplug_node import EdgeNode
from gateway.wire.uplink_topics import UplinkTopics


class CloudPart(Part):
    """`gateway.bridge-N`, `gateway.audit`, `gateway.confirm`, `gateway.backfill` and the downlink; without a
    cloud no connections.

    When it stops, what was claimed and not acknowledged waits for the next start.
    """

    def __init__(
        self,
        config: Config,
        clock: Clock,
        budget: MemoryBudget,
        buffer: OpenBuffer,
        processing: Processing,
        alarms: AlarmRequests | None = None,
    ) -> None:
        self.bridges: list[Bridge] = []
        self.bridge_links: list[Link] = []
        self.downlink: CloudSide | None = None
        self.confirmations: Confirmations | None = None
        self.backfills: Backfills | None = None
        self.auditor: Auditor | None = None
        self._other_links: list[Link] = []
        self._node: EdgeNode | None = None
        self._link = partial(Link, now_ms=clock.now_ms)
        self._now_ms = clock.now_ms
        self._buffer = buffer
        self._writer = processing.writer
        self._topics = processing.topics
        self._uplink = UplinkTopics(processing.topics)
        self._status_topic = self._uplink.status
        self._alert = processing.alert
        if config.cloud is not None:
            self._uplink = uplink_topics(config, config.cloud)
            self._status_topic = self._uplink.status if config.cloud.says_status else ""
            key = signing_key(config) if config.cloud.audit_s is not None else None
            hashes = None if key is None else DeliveredHashes()
            self._add_bridges(config, config.cloud, budget, hashes)
            self._add_audit(config.cloud, key, hashes)
            self._add_confirmations(config.cloud)
            self._add_backfills(config, config.cloud, alarms)
            self._add_downlink(config, config.cloud)
            (self._share_one_link if config.cloud.one_connection else self._add_links)(config.cloud)

    def start(self, status: GatewayStatus) -> None:
        for link in self.links:
            link.start()

    def stop(self) -> None:
        stop_links(self.links)
        for bridge in self.bridges:
            bridge.finish()
        if self.auditor is not None:
            self.auditor.finish()
        if self.confirmations is not None:
            self.confirmations.finish()
        if self.backfills is not None:
            self.backfills.finish()
        if self.bridges and works(self._writer):
            self._writer.call(Store.release_all, STOP_TIMEOUT_S)

    @property
    def links(self) -> Sequence[Link]:
        return (*self.bridge_links, *self._other_links)

    def _add_bridges(
        self, config: Config, cloud: Cloud, budget: MemoryBudget, hashes: DeliveredHashes | None
    ) -> None:
        spec = bridge_spec(config, cloud, self._status_topic, budget.processing_bytes)
        self._node = spec.node
        bucket = SharedBucket(cloud.bandwidth, cloud.messages)
        for shard in range(cloud.connections):
            bridge = Bridge(
                *(spec, shard, self._buffer.path, self._writer, self._now_ms, bucket, self._alert, hashes)
            )
            self.bridges.append(bridge)

    def _add_audit(self, cloud: Cloud, key: SigningKey | None, hashes: DeliveredHashes | None) -> None:
        if cloud.audit_s is None:
            return
        topic, gateway_id = self._uplink.audit, self._topics.gateway_id
        signer = None if key is None else RecordSigner(key, self._writer, hashes)
        self.auditor = Auditor(
            topic,
            gateway_id,
            self._buffer.path,
            self._writer,
            self._now_ms,
            cloud.audit_s,
            confirm=cloud.confirm == "receiver",
            signer=signer,
        )

    def _add_confirmations(self, cloud: Cloud) -> None:
        if cloud.confirm != "receiver":
            return
        self.confirmations = Confirmations(
            self._topics,
            self._buffer.path,
            self._writer,
            self._now_ms,
            self._alert,
            cloud.confirm_silent_after / 1000,
        )

    def _add_backfills(self, config: Config, cloud: Cloud, alarms: AlarmRequests | None) -> None:
        if cloud.backfill is not None and keeps_something(config):
            self.backfills = Backfills(
                self._topics, self._buffer.path, self._writer, self._now_ms, cloud.backfill, alarms
            )

    def _add_downlink(self, config: Config, cloud: Cloud) -> None:
        if not cloud.downlink:
            return
        rules = [entry.rule() for entry in cloud.downlink]
        downlink = self.downlink = CloudSide(Downlink(self._topics.gateway_id, self._topics.root, rules))
        local = endpoint(config.local, "-downlink")
        self._other_links.append(self._link("downlink-local", local, downlink.local))

    # --- the connections ---

    def _add_links(self, cloud: Cloud) -> None:
        """Add a link per part, each with a client identifier of its own ending."""
        for shard, bridge in enumerate(self.bridges):
            where = endpoint(cloud, f"-{shard}", will=self._will(cloud) if shard == 0 else None)
            self.bridge_links.append(self._link(f"bridge-{shard}", where, bridge))
        if self.auditor is not None:
            self._other_links.append(self._link("audit", endpoint(cloud, "-audit"), self.auditor))
        if self.confirmations is not None:
            where = endpoint(cloud, "-confirm", **confirm_settings(cloud))
            self._other_links.append(self._link("confirm", where, self.confirmations))
        if self.backfills is not None:
            where = endpoint(cloud, "-backfill", **backfill_settings(cloud))
            self._other_links.append(self._link("backfill", where, self.backfills))
        if self.downlink is not None:
            where = endpoint(cloud, "-downlink", **downlink_settings(cloud))
            self._other_links.append(self._link("downlink", where, self.downlink))

    def _share_one_link(self, cloud: Cloud) -> None:
        """Add one link for all parts, with the client identifier exactly as configured."""
        others = (self.auditor, self.confirmations, self.backfills, self.downlink)
        members = [*self.bridges, *(each for each in others if each is not None)]
        settings = downlink_settings(cloud) if self.downlink is not None else {}
        readers: dict[str, Session] = {}
        if self.backfills is not None:
            readers[self._topics.backfill] = self.backfills
            settings = backfill_settings(cloud) | settings
        if self.confirmations is not None:
            readers[self._topics.confirm] = self.confirmations
            settings = confirm_settings(cloud) | settings
        if self._node is not None:
            readers[self._node.topic("NCMD")] = self.bridges[0]
        session = SharedSession(members, self.downlink, readers)
        where = endpoint(cloud, "", will=self._will(cloud), **settings)
        self.bridge_links.append(self._link("bridge-0", where, session))

    def _will(self, cloud: Cloud) -> Will | None:
        if self._node is not None:
            return Will(self._node.topic("NDEATH"), self._node.next_will, retain=False)
        if not cloud.will or not self._status_topic:
            return None
        return Will(self._status_topic, status_payload("offline"), retain=cloud.retain)
