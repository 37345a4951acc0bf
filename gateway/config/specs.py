"""Conversion of configuration models into the records of the running parts, with units in their names.

The models themselves say windows, routes, rules of the downlink and sources of time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import SecretStr

from gateway.buffer.history.keeper import HistoryPolicy
from gateway.buffer.repair.upkeep import BackupPlan
from gateway.cloud.bridge_spec import BridgeSpec
from gateway.config.broker_model import Broker, PasswordSource
from gateway.config.encoder_model import edge_node, encoder_factory
from gateway.config.models import Cloud, Config, Local, read_signing_key
from gateway.config.service_models import Buffer, Flow
from gateway.config.topics_model import uplink_topics
from gateway.host.machine import memory_limit_bytes
from gateway.mqtt.credentials import AzureSas, CommandPassword
from gateway.mqtt.endpoint import Endpoint, Proxy, Tls
from gateway.wire.backfill import MAX_REQUEST_BYTES
from gateway.wire.confirmation import MAX_MESSAGE_BYTES
from gateway.wire.signatures import SigningKey

_ANY_TOPIC_BYTES = 64 * 1024


def memory_bytes(flow: Flow) -> int:
    """Return how much memory the gateway may use."""
    return memory_limit_bytes() if flow.memory == "auto" else flow.memory


def backup_plan(buffer: Buffer) -> BackupPlan | None:
    """Return how the buffer is backed up; None where it is not."""
    return None if buffer.backup is None else BackupPlan(buffer.backup.every, buffer.max_size)


def history_policy(config: Config) -> HistoryPolicy | None:
    """Return how long results are kept; None where they go with the buffer's events."""
    history = config.history
    return None if history is None else HistoryPolicy(history.aggregates, history.max_size)


def signing_key(config: Config) -> SigningKey | None:
    """Return the key that signs the audit records; None where they are not signed."""
    path = config.gateway.signing_key_file
    return None if path is None else read_signing_key(path)


def endpoint(broker: Local | Cloud, suffix: str, **more: Any) -> Endpoint:
    """Return a connection to `broker` whose client identifier ends in `suffix`."""
    first, *others = (
        Endpoint(
            host=place.address.host,
            port=place.address.port,
            client_id=broker.client_id + suffix,
            protocol=broker.protocol,
            username=broker.username,
            keepalive_s=broker.keepalive // 1000,
            reconnect_max_s=broker.reconnect_max / 1000,
            reconnect_min_s=broker.reconnect_min / 1000,
            takes_bytes=broker.max_packet_size if isinstance(broker, Cloud) else None,
            tls=_tls(broker) if place.uses_tls else None,
            websocket_path=place.path,
            websocket_headers=tuple(broker.headers.items()),
            proxy=_proxy(broker),
            **_password(broker, place.address.host, broker.client_id + suffix),
            **more,
        )
        for place in broker.places
    )
    return replace(first, alternatives=tuple(others))


def _password(broker: Broker, host: str, client_id: str) -> dict[str, Any]:
    source = broker.password
    if isinstance(source, PasswordSource) and source.command is not None:
        return {"read_password": CommandPassword(source.command), "password_ttl_s": source.ttl / 1000}
    if isinstance(source, PasswordSource) and source.azure_sas is not None:
        sas = source.azure_sas
        resource = sas.resource or f"{host}/devices/{client_id}"
        made = AzureSas(resource, sas.key_file, sas.ttl / 1000)
        return {"read_password": made, "password_ttl_s": sas.ttl / 1000}
    known = source.get_secret_value() if isinstance(source, SecretStr) else None
    return {"password": known, "password_file": broker.password_file}


def _proxy(broker: Broker) -> Proxy | None:
    if broker.proxy is None:
        return None
    place = broker.proxy
    return Proxy(place.scheme, place.address.host, place.address.port, place.username, place.password)


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


def downlink_settings(cloud: Cloud) -> dict[str, Any]:
    """Return what is particular to the connection on which commands come: the broker queues for it."""
    largest_bytes = max(entry.rule().max_bytes for entry in cloud.downlink)
    if cloud.confirm == "receiver" and cloud.one_connection:
        largest_bytes = max(largest_bytes, MAX_MESSAGE_BYTES)
    return {
        "persistent": True,
        "session_expiry_s": cloud.session_expiry // 1000,
        "max_packet_bytes": 2 * largest_bytes + _ANY_TOPIC_BYTES,
    }


def confirm_settings(cloud: Cloud) -> dict[str, Any]:
    """Return what is particular to the connection on which receivers confirm: the broker queues for it."""
    return {
        "persistent": True,
        "session_expiry_s": cloud.session_expiry // 1000,
        "max_packet_bytes": MAX_MESSAGE_BYTES + _ANY_TOPIC_BYTES,
    }


def backfill_settings(cloud: Cloud) -> dict[str, Any]:
    """Return what is particular to the connection on which requests come: the broker queues for it."""
    return {
        "persistent": True,
        "session_expiry_s": cloud.session_expiry // 1000,
        "max_packet_bytes": MAX_REQUEST_BYTES + _ANY_TOPIC_BYTES,
    }


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
        envelope=cloud.envelope,
        short_identity=cloud.identity == "short",
        topics=uplink_topics(config, cloud),
        memory_bytes=memory_bytes // cloud.connections,
        retain=cloud.retain,
        max_packet_bytes=cloud.max_packet_size,
        no_subscriber=cloud.no_subscriber,
        encoder=encoder_factory(config, cloud),
        node=edge_node(config, cloud),
    )


def _tls(broker: Broker) -> Tls:
    files = broker.tls
    return Tls(
        ca_file=str(files.ca_file) if files.ca_file else None,
        cert_file=str(files.cert_file) if files.cert_file else None,
        key_file=str(files.key_file) if files.key_file else None,
        insecure=files.insecure,
        alpn=files.alpn,
        server_name=files.server_name,
        key_password_file=str(files.key_password_file) if files.key_password_file else None,
    )
