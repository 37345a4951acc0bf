"""The parameters of the bridge, and what it counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from gateway.buffer.stored_events import BATCH_BYTES
from gateway.cloud.frame_builder import Identity
from gateway.cloud.subscribers import SubscriberRule
from gateway.core.own_topics import OwnTopics
from gateway.delivery.states import Backoff
from gateway.wire.encoder import Encoder
from gateway.wire.encodings import Encoding
from gateway.wire.sparkplug_node import EdgeNode
from gateway.wire.uplink_topics import UplinkTopics

FRAME_BYTES = 1024 * 1024
LEAST_FRAME_BYTES = 64 * 1024  # with less, most of the work is for frames and not for what is in them


@dataclass(frozen=True)
class BridgeSpec:
    """The parameters of the bridge."""

    prefix: str
    gateway_id: str
    format: str = "batch"  # batch, event, or the name of an encoder
    connections: int = 1
    batch_events: int = 1000
    order: Literal["oldest", "newest"] = "oldest"
    in_flight: int = 8
    ack_timeout_s: float = 30.0
    backoff: Backoff = field(default_factory=Backoff)
    status_topic: str = ""  # where the first connection says that the gateway is there
    encoding: Encoding = "zstd"
    envelope: Literal["auto", "always", "never"] = "auto"  # in the event format
    short_identity: bool = True  # in the event format on MQTT 5, rather than user properties
    memory_bytes: int = 32 * 1024 * 1024  # of each connection, for claimed events and for frames in flight

    retain: bool = True  # the status
    max_packet_bytes: int | None = None  # what the broker takes, where it does not say so itself
    topics: UplinkTopics | None = None  # where they are not those of docs/wire-format.md
    encoder: Callable[[], Encoder] | None = None  # for a format of another name, one for each connection
    node: EdgeNode | None = None  # `sparkplug_b`: the encoder of the only connection
    no_subscriber: SubscriberRule = "auto"  # what a message does for which the broker knows no subscriber

    @property
    def uplink(self) -> UplinkTopics:
        """The topics that are sent to."""
        return self.topics or UplinkTopics(OwnTopics(self.prefix, self.gateway_id))

    @property
    def topic_per_stream(self) -> bool:
        """True if a refused topic says something about some events only."""
        return self.format not in ("batch", "thingsboard")

    def new_form(self) -> Literal["batch", "event"] | Encoder:
        """Return the form of a connection's messages, or its encoder."""
        if self.node is not None:
            return self.node
        if self.encoder is not None:
            return self.encoder()
        return "event" if self.format == "event" else "batch"

    def identity(self, protocol: str) -> Identity:
        """Return the place for the identity of a single event on a connection of this MQTT version."""
        if protocol == "5" and self.envelope != "always":
            return "correlation" if self.short_identity else "properties"
        return "none" if self.envelope == "never" else "envelope"

    @property
    def claim_bytes(self) -> int:
        """Largest size of a claim, as stored; claim and frames in flight share the memory."""
        return min(BATCH_BYTES, self.memory_bytes // 2)

    @property
    def frame_bytes(self) -> int:
        """Largest size of a frame before compression."""
        return max(LEAST_FRAME_BYTES, min(FRAME_BYTES, self.memory_bytes // 2 // self.in_flight))


class BridgeMetrics:
    """Plain numbers, written by the bridge's thread, read by any."""

    def __init__(self) -> None:
        self.frames = 0
        self.events_sent = 0
        self.events_acked = 0
        self.refused = 0
        self.without_subscriber = 0  # messages that the broker took without a subscriber
        self.payload_bytes = 0
        self.wire_bytes = 0
        self.refusal = ""  # why nothing goes out right now
