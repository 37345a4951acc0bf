"""The actors of the demo: brokers, a line, a fleet, a gateway and a receiver, all inside this process."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import orjson

from gateway.app.gateway import Gateway
from gateway.buffer.proof.balance import Audit, audit
from gateway.buffer.reader import Reader
from gateway.config import load_config
from gateway.core.errors import BrokerError
from gateway.core.events import Message
from gateway.core.own_topics import OwnTopics
from gateway.host.ports import free_port
from gateway.lab.fault_proxy import FaultProxy
from gateway.lab.fleet_publisher import Fleet
from gateway.lab.fleet_simulator import FleetSpec, simulate
from gateway.mqtt.embedded import EmbeddedBroker
from gateway.mqtt.endpoint import Endpoint
from gateway.mqtt.link import Link, Session
from gateway.receiver.ledger import Ledger
from gateway.receiver.session import Receiver
from gateway.receiver.sinks.ndjson import EventFile

GATEWAY_ID = "demo"
DEVICES_FILTER = "zigbee2mqtt/+"
SHOWN_AGGREGATES = 20
_PREFIX = "gateway"
_HOST = "127.0.0.1"
_READY_TIMEOUT_S = 15.0
_UPLINK_BYTES_PER_EVENT = 80  # about twice what live data needs: a backlog takes seconds, so it can be seen
_LEAST_UPLINK_BYTES_PER_S = 8192

_CONFIG = """\
# The demo's configuration; `gateway check -c gateway.yaml` explains it.
gateway: {{id: {gateway_id}, data_dir: data}}
local: {{url: "{local}"}}
routes:
  - name: zigbee2mqtt
    topic: zigbee2mqtt/{{device}}
    fields: {{temperature: temperature, humidity: humidity}}
    timestamp_path: last_seen
    timestamp_format: iso
windows:
  - name: temperature_5s
    route: zigbee2mqtt
    field: temperature
    key: "{{device}}"
    window: {{type: tumbling, size: 5s}}
    out_of_orderness: 1s
    allowed_lateness: 2s
    idle_timeout: 1s
  - name: humidity_5s
    route: zigbee2mqtt
    field: humidity
    window: {{type: hopping, size: 5s, slide: 1s}}
    out_of_orderness: 1s
    allowed_lateness: 2s
    idle_timeout: 1s
cloud:
  url: "{cloud}"
  protocol: 3.1.1        # all that the embedded broker speaks
  batch_events: 200
  bandwidth: {bandwidth}B/s
http: {{listen: "{page}"}}
"""


@dataclass(frozen=True)
class DemoSpec:
    """Settings of the demo. `folder` takes the buffer, what the cloud received, the configuration and the
    log."""

    folder: Path
    devices: int
    rate_per_s: float


class Numbers(NamedTuple):
    """Progress of every part at one moment."""

    published: int
    acknowledged: int
    taken_in: int
    pending: int
    syncing: int
    synced: int
    failed: int
    received: int
    duplicates: int
    results: int
    open_windows: int
    line_up: bool
    bridge_connected: bool
    receiver_failure: str

    @property
    def settled(self) -> bool:
        """True when nothing is in flight, and no window is left that could still give a result."""
        arrived = self.taken_in == self.acknowledged and self.received == self.synced
        return arrived and not (self.open_windows or self.pending or self.syncing)


class Counted(NamedTuple):
    """The same, counted afterwards: by the fleet, from the buffer's rows, and from the received lines."""

    published: int
    acknowledged: int
    buffer: Audit
    received: dict[str, int]  # distinct events by kind
    duplicates: int
    missing: int


class Dashboard(Session):
    """Subscribes to the aggregates on the local broker, as a dashboard would."""

    def __init__(self) -> None:
        self.filter = f"{OwnTopics(_PREFIX, GATEWAY_ID).all_aggregates}#"
        self.latest: deque[dict[str, object]] = deque(maxlen=SHOWN_AGGREGATES)

    def connected(self, link: Link, session_present: bool) -> None:
        link.subscribe([(self.filter, 1)])

    def received(self, link: Link, messages: list[Message]) -> None:
        for message in messages:
            self.latest.append(orjson.loads(message.payload))
            link.ack(message)


class Stage:
    """Starts and stops the actors, and tells how far they are. Stopping it leaves only `spec.folder`."""

    def __init__(self, spec: DemoSpec) -> None:
        self.spec = spec
        self.page = f"{_HOST}:{free_port(_HOST)}"
        """Address of the gateway's page while the demo runs."""
        self.dashboard = Dashboard()
        self._local = EmbeddedBroker()
        self._cloud = EmbeddedBroker()
        self._ledger = Ledger()
        self._output = EventFile(spec.folder / "received.ndjson")
        self._receiver = Receiver(_PREFIX, GATEWAY_ID, self._output, self._ledger)
        self._resources = ExitStack()

    def start(self) -> None:
        """Return when every part is connected and the fleet begins. Raises GatewayError or OSError."""
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """The fleet first, then the gateway, then who listens, then the brokers; safe to call twice."""
        self._resources.close()

    def cut_line(self) -> None:
        self._line.cut()

    def mend_line(self) -> None:
        self._line.mend()
        for link in self._gateway.status.bridge_links:
            link.retry_now()  # or the demo would wait out a pause of up to half a minute

    def silence_fleet(self) -> None:
        self._fleet.stop()
        self._fleet_link.wake()

    @property
    def fleet_finished(self) -> bool:
        return self._fleet.finished.is_set()

    def numbers(self) -> Numbers:
        counts = dict(self._gateway.status.store.counts)
        windows = self._gateway.status.window_counters
        failure = self._receiver.failure
        return Numbers(
            self._fleet.sent,
            self._fleet.acknowledged,
            sum(count for (name, _), count in counts.items() if name == "outcome"),
            counts.get(("status", "PENDING"), 0),
            counts.get(("status", "SYNCING"), 0),
            counts.get(("status", "SYNCED"), 0),
            counts.get(("status", "FAILED"), 0),
            self._ledger.events,
            self._ledger.duplicates,
            counts.get(("appended", "aggregate"), 0),
            sum(each.open_windows for each in windows.values()),
            self._line.up,
            any(link.connected for link in self._gateway.status.bridge_links),
            str(failure) if failure else "",
        )

    def count(self) -> Counted:
        """Count everything anew; after `stop`. Raises OSError."""
        reader = Reader(self._gateway.status.buffer_path)
        try:
            found = audit(reader)
        finally:
            reader.close()
        received = _count_lines(self._output.path)
        missing = sum(gap.last - gap.first + 1 for gap in self._ledger.gaps())
        return Counted(
            self._fleet.sent, self._fleet.acknowledged, found, received, self._ledger.duplicates, missing
        )

    # --- start, sinks first; each step registers how it is undone ---

    def _start(self) -> None:
        for broker in (self._local, self._cloud):
            broker.start()
            self._resources.callback(broker.stop)
        self._line = FaultProxy(self._cloud.host, self._cloud.port)
        self._line.mend()
        self._resources.callback(self._line.cut)
        self._start_receiver()
        self._start_gateway()
        self._start_link("dashboard", self._local, self.dashboard)
        self._wait_until(lambda: {DEVICES_FILTER, self.dashboard.filter} <= self._local.subscriptions())
        self._start_fleet()

    def _start_receiver(self) -> None:
        self._output.open()
        self._resources.callback(self._output.close)
        self._start_link("receive", self._cloud, self._receiver)
        wanted = set(OwnTopics(_PREFIX, GATEWAY_ID).uplink_filters)
        self._wait_until(lambda: wanted <= self._cloud.subscriptions())

    def _start_gateway(self) -> None:
        bandwidth = max(_LEAST_UPLINK_BYTES_PER_S, round(self.spec.rate_per_s * _UPLINK_BYTES_PER_EVENT))
        text = _CONFIG.format(
            gateway_id=GATEWAY_ID,
            local=self._local.url,
            cloud=f"mqtt://{self._line.host}:{self._line.port}",
            bandwidth=bandwidth,
            page=self.page,
        )
        path = self.spec.folder / "gateway.yaml"
        path.write_text(text, encoding="utf-8")
        self._gateway = Gateway(load_config(path))
        self._gateway.start()
        self._resources.callback(self._gateway.stop)

    def _start_fleet(self) -> None:
        spec = FleetSpec(
            devices=self.spec.devices,
            rate_per_s=self.spec.rate_per_s,
            preset="zigbee2mqtt",
            skew_ms=300,
            disorder=0.03,
        )
        self._fleet = Fleet(simulate(spec, time.time_ns() // 1_000_000))
        self._fleet_link = self._start_link("fleet", self._local, self._fleet)

    def _start_link(self, name: str, broker: EmbeddedBroker, session: Session) -> Link:
        link = Link(name, Endpoint(broker.host, broker.port, f"demo-{name}"), session)
        link.start()
        self._resources.callback(link.stop)
        return link

    def _wait_until(self, true: Callable[[], bool]) -> None:
        """A broker drops messages without a subscriber, so no device may publish before."""
        deadline_s = time.monotonic() + _READY_TIMEOUT_S
        while not true():
            if time.monotonic() > deadline_s:
                raise BrokerError("the demo's brokers and clients did not find each other in time")
            time.sleep(0.02)


def _count_lines(path: Path) -> dict[str, int]:
    kinds: dict[str, str] = {}
    for event_id, kind in _ids_and_kinds(path):
        kinds[event_id] = kind
    counts: dict[str, int] = {}
    for kind in kinds.values():
        counts[kind] = counts.get(kind, 0) + 1
    return counts


def _ids_and_kinds(path: Path) -> Iterator[tuple[str, str]]:
    with path.open("rb") as lines:
        for line in lines:
            fields = orjson.loads(line)
            yield fields["event_id"], fields["kind"]
