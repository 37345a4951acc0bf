"""A buffer with a bridge in this process, and a consumer that remembers what came in which order."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from gateway.buffer.reader import Reader
from gateway.buffer.store import NewEvent, Store
from gateway.buffer.writer import Writer
from gateway.cloud.bridge import Bridge
from gateway.cloud.bridge_spec import BridgeSpec
from gateway.cloud.delivered_hashes import DeliveredHashes
from gateway.cloud.shared_bucket import SharedBucket
from gateway.core.events import Status, WireEvent
from gateway.core.own_topics import parse_uplink_topic
from gateway.mqtt.endpoint import Endpoint
from gateway.mqtt.link import Link
from gateway.wire.event_format import event_from_message
from gateway.wire.frame import decode_batch
from tests.support.buffers import append
from tests.support.gateways import wait_until


class Sender:
    """A running bridge over the buffer at `path`."""

    def __init__(self, path: Path, writer: Writer, bridges: list[Bridge], links: list[Link]) -> None:
        self.path = path
        self.writer = writer
        self.bridges = bridges
        self.links = links

    def append(self, events: list[NewEvent]) -> None:
        self.writer.call(lambda store: store.append(events))

    def counts(self) -> dict[Status, int]:
        found = self.writer.call(lambda store: dict(store.counts))
        return {status: found.get(("status", status.name), 0) for status in Status}

    def wait_drained(self, patience_s: float = 60.0) -> None:
        def done() -> bool:
            counts = self.counts()
            return not counts[Status.PENDING] and not counts[Status.SYNCING]

        wait_until(done, "the drain", patience_s)

    def refusals(self) -> dict[str, int]:
        """How many events have which reason for their last refusal."""
        reader = Reader(self.path)
        try:
            return Counter(reader.refusals(range(1, 1_000_000)).values())
        finally:
            reader.close()


@contextmanager
def sending(
    path: Path,
    port: int,
    events: list[NewEvent],
    *,
    bandwidth: int | None = None,
    messages: int | None = None,
    protocol: str = "5",
    endpoint: dict[str, Any] | None = None,
    alert: Callable[[str, str], object] = print,
    hashes: DeliveredHashes | None = None,
    **spec: Any,
) -> Iterator[Sender]:
    """A bridge to 127.0.0.1:`port` that has `events` to send."""
    settings = BridgeSpec("gateway", "g1", **spec)
    with ExitStack() as cleanup:
        store = Store(path)
        store.open()
        cleanup.callback(store.close)
        append(store, events)
        writer = Writer(store)
        writer.start()
        cleanup.callback(writer.stop)
        sender = Sender(path, writer, [], [])
        bucket = SharedBucket(bandwidth, messages)
        for shard in range(settings.connections):
            bridge = Bridge(settings, shard, path, writer, _now_ms, bucket, alert, hashes)
            where = Endpoint("127.0.0.1", port, f"g1-{shard}", protocol=protocol, **(endpoint or {}))  # type: ignore[arg-type]
            link = Link(f"bridge-{shard}", where, bridge)
            sender.bridges.append(bridge)
            sender.links.append(link)
            cleanup.callback(bridge.finish)
            link.start()
            cleanup.callback(link.stop)
        yield sender


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Consumer:
    """Takes what a gateway sends up, in a session that outlives the broker, and keeps it in order."""

    def __init__(self, port: int) -> None:
        self.events: list[WireEvent] = []
        self._subscribed = False
        self._port = port
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id="consumer", protocol=paho.MQTTv5, manual_ack=False
        )
        self._client.reconnect_delay_set(0.1, 0.5)  # type: ignore[arg-type]
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message

    def __enter__(self) -> Consumer:
        expiry = Properties(PacketTypes.CONNECT)
        expiry.SessionExpiryInterval = 3600
        self._client.connect("127.0.0.1", self._port, clean_start=False, properties=expiry)
        self._client.loop_start()
        wait_until(lambda: self._subscribed, "the subscription")
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def wait_for(self, count: int) -> None:
        wait_until(lambda: len({e.event_id for e in self.events}) >= count, f"{count} events")

    def _on_connect(self, *_: object) -> None:
        self._client.subscribe("gateway/g1/up/#", qos=1)

    def _on_subscribe(self, *_: object) -> None:
        self._subscribed = True

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        topic = parse_uplink_topic("gateway", message.topic)
        assert topic is not None
        if topic.form == "batch":
            self.events += decode_batch(bytes(message.payload)).events
        else:
            parts = (
                getattr(message.properties, "UserProperty", ()),
                bytes(message.payload),
                getattr(message.properties, "CorrelationData", b""),
            )
            self.events.append(event_from_message(topic.rest, *parts))


def check_complete(
    received: Iterable[WireEvent], sent: list[NewEvent], *, missing: Iterable[int] = ()
) -> int:
    """Everything that was sent came, but the events at the positions `missing`; each event's payload is its
    own; per stream and priority the first arrivals are in order. Returns how many came again."""
    received = list(received)
    first = {e.event_id: e for e in reversed(received)}
    arrived = dict.fromkeys(e.event_id for e in received)
    expected = Counter((e.topic, e.payload) for at, e in enumerate(sent) if at not in set(missing))
    assert Counter((e.stream, e.payload) for e in first.values()) == expected
    newest: dict[tuple[str, int], int] = {}
    for event in (first[event_id] for event_id in arrived):
        place = event.stream, event.priority
        assert event.sequence_num > newest.get(place, 0), f"{place}: {event.sequence_num} is late"
        newest[place] = event.sequence_num
    return len(received) - len(first)
