"""The parameters of the bridge, and what it counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from gateway.delivery import Backoff
from gateway.frames import Encoding


@dataclass(frozen=True)
class BridgeSpec:
    """The parameters of the bridge."""

    prefix: str
    gateway_id: str
    format: Literal["batch", "event"] = "batch"
    connections: int = 1
    batch_events: int = 1000
    order: Literal["oldest", "newest"] = "oldest"
    in_flight: int = 8
    ack_timeout_s: float = 30.0
    backoff: Backoff = field(default_factory=Backoff)
    status_topic: str = ""  # where the first connection says that the gateway is there
    encoding: Encoding = "zstd"
    envelopes: bool = False  # in the event format, on MQTT 5 too


class BridgeMetrics:
    """Plain numbers, written by the bridge's thread, read by any."""

    def __init__(self) -> None:
        self.frames = 0
        self.events_sent = 0
        self.events_acked = 0
        self.refused = 0
        self.payload_bytes = 0
        self.wire_bytes = 0
        self.refusal = ""  # why nothing goes out right now
