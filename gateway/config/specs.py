"""From the configuration's models to the records that the running parts take, with units in their names.

The models themselves say windows, routes, rules of the downlink and sources of time.
"""

from __future__ import annotations

from typing import Any

from gateway.buffer.repair.upkeep import BackupPlan
from gateway.cloud.bridge_spec import BridgeSpec
from gateway.config.models import Broker, Cloud, Config, Local
from gateway.config.service_models import Buffer, Flow
from gateway.host.machine import memory_limit_bytes
from gateway.mqtt.endpoint import Endpoint, Tls

_ANY_TOPIC_BYTES = 64 * 1024


def memory_bytes(flow: Flow) -> int:
    """Return how much memory the gateway may use."""
    return memory_limit_bytes() if flow.memory == "auto" else flow.memory


def backup_plan(buffer: Buffer) -> BackupPlan | None:
    """Return how the buffer is backed up; None where it is not."""
    return None if buffer.backup is None else BackupPlan(buffer.backup.every, buffer.max_size)


def endpoint(broker: Local | Cloud, suffix: str, **more: Any) -> Endpoint:
    """Return a connection to `broker` whose client identifier ends in `suffix`."""
    host, port = broker.address
    return Endpoint(
        host=host,
        port=port,
        client_id=broker.client_id + suffix,
        protocol=broker.protocol,
        username=broker.username,
        password=broker.password.get_secret_value() if broker.password else None,
        password_file=broker.password_file,
        keepalive_s=broker.keepalive // 1000,
        reconnect_max_s=broker.reconnect_max / 1000,
        tls=_tls(broker) if broker.uses_tls else None,
        **more,
    )


def ingest_endpoint(local: Local) -> Endpoint:
    """Return the connection on which devices' messages come, for which the broker queues."""
    return endpoint(
        local,
        "",
        persistent=True,
        session_expiry_s=local.session_expiry // 1000,
        receive_maximum=local.receive_maximum,
        max_packet_bytes=local.max_packet_size,
    )


def downlink_endpoint(cloud: Cloud) -> Endpoint:
    """Return the connection on which commands come, for which the broker queues."""
    largest_bytes = max(entry.rule().max_bytes for entry in cloud.downlink)
    return endpoint(
        cloud, "-downlink", persistent=True, max_packet_bytes=2 * largest_bytes + _ANY_TOPIC_BYTES
    )


def bridge_spec(config: Config, cloud: Cloud, status_topic: str, memory_bytes: int) -> BridgeSpec:
    """Return the parameters of the bridge. `memory_bytes` is for all of its connections."""
    return BridgeSpec(
        config.gateway.topic_prefix,
        config.gateway.id,
        cloud.format,
        cloud.connections,
        cloud.batch_events,
        cloud.order,
        cloud.in_flight,
        cloud.ack_timeout / 1000,
        config.buffer.retry.backoff,
        status_topic,
        encoding=cloud.encoding,
        envelopes=cloud.envelope == "always",
        memory_bytes=memory_bytes // cloud.connections,
    )


def _tls(broker: Broker) -> Tls:
    files = broker.tls
    return Tls(
        ca_file=str(files.ca_file) if files.ca_file else None,
        cert_file=str(files.cert_file) if files.cert_file else None,
        key_file=str(files.key_file) if files.key_file else None,
        insecure=files.insecure,
    )
