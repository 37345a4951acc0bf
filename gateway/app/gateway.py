"""The running gateway: the one place where the whole graph is visible.

Start order: buffer, windows (with replay), writer, control socket, republish, bridges, audit, downlink,
ingest, HTTP, upkeep: sinks first, the source behind them. Stop order is the reverse: the source stops
reading; bridges and republish disconnect; what was read is committed, with a last checkpoint; the writer
ends; the file is closed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import apsw

from gateway import __version__
from gateway.buffer.dictionaries import DictionaryTrainer
from gateway.buffer.lock import DataDirLock, unusable_folder
from gateway.buffer.opening import BUFFER_FILE, open_buffer
from gateway.buffer.operator_actions import OperatorActions, operations
from gateway.buffer.reader import Reader
from gateway.buffer.repair.damage import using
from gateway.buffer.repair.upkeep import BackupPlan, Upkeep
from gateway.buffer.retention.downsampling import Downsampling
from gateway.buffer.retention.policy import usable_bytes
from gateway.buffer.store import REPUBLISHED_ID, Store
from gateway.buffer.writer import BACKLOG_BYTES, Do, Writer
from gateway.cloud.auditor import Auditor
from gateway.cloud.bridge import Bridge
from gateway.cloud.bridge_spec import BridgeSpec
from gateway.cloud.downlink import CloudSide
from gateway.cloud.shared_bucket import SharedBucket
from gateway.config import Config
from gateway.config.models import Broker, Cloud, Local
from gateway.config.service_models import Flow
from gateway.core.clock import SteadyClock, uptime_ns
from gateway.core.events import Status
from gateway.decode import sparkplug_births as sparkplug
from gateway.decode.presence import Presence
from gateway.decode.routes import RouteTable
from gateway.delivery.forecast import Forecast, Progress, Totals
from gateway.flow.capacity import Load, Signal
from gateway.flow.memory import memory_budget
from gateway.host.control import SOCKET_FILE, ControlServer
from gateway.host.machine import boot_id, memory_limit_bytes
from gateway.http.clock import clock_status
from gateway.http.view import StatusProvider, buffer_bytes
from gateway.local.ingest import Ingest
from gateway.local.republish import Republish, status_payload
from gateway.mqtt.embedded import EmbeddedBroker
from gateway.mqtt.endpoint import Endpoint, Tls, Will
from gateway.mqtt.link import Link, stop_links
from gateway.pipeline.backpressure import Backpressure, backpressure_payload
from gateway.pipeline.pipeline import KNOWN_MS, AppendBatch, OutputTopics, Pipeline, Tick
from gateway.pipeline.plugins_loader import load_plugins
from gateway.timekeeping.devices import DeviceClocks
from gateway.timekeeping.hold import Hold
from gateway.timekeeping.sources.keeper import Timekeeper
from gateway.timekeeping.sources.make_sources import make_sources
from gateway.windows.counters import Counters
from gateway.windows.engine import WindowEngine
from gateway.windows.spec import WindowSpec
from gateway.wire.command_topics import Downlink
from gateway.wire.home_assistant import Discovery

log = logging.getLogger(__name__)

_ANY_TOPIC_BYTES = 64 * 1024
STOP_TIMEOUT_S = 8.0
STALLED_AFTER_S = 10.0  # the writer ticks four times a second


class Gateway:
    """One gateway of one configuration: `start`, `stop`, and what it can tell about itself.

    `start` raises GatewayError when the data directory is in use, a plugin is bad, or a port is taken. It
    does not wait for the brokers: links come up when they can.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.clock = SteadyClock()
        self.data_dir = Path(config.gateway.data_dir)
        self.topics = OutputTopics(config.gateway.topic_prefix, config.gateway.id)
        self.started_ms = self.clock.now_ms()
        self.sections: dict[str, StatusProvider] = {}
        """What parts of the gateway tell the dashboard about themselves, by name."""
        self.budget = memory_budget(_memory_bytes(config.flow))
        self.ready = False
        self.drain = Progress()
        self.bridges: list[Bridge] = []
        self.bridge_links: list[Link] = []
        self.downlink: CloudSide | None = None
        self.cloud_links: list[Link] = []
        """The connections beside the bridge's."""
        self._wake_republish: Callable[[], None] = lambda: None  # the writer ticks before there is one
        self._command: Callable[[str, bytes], None] = lambda _topic, _payload: None
        self._resources = ExitStack()

    @property
    def buffer_path(self) -> Path:
        return self.data_dir / BUFFER_FILE

    @property
    def gateway_id(self) -> str:
        return str(self.config.gateway.id)

    @property
    def max_buffer_bytes(self) -> int:
        return int(self.config.buffer.max_size)

    @cached_property
    def window_specs(self) -> tuple[WindowSpec, ...]:
        return self.config.window_specs()

    @cached_property
    def topic_filters(self) -> list[str]:
        return [topic_filter for topic_filter, _ in self.pipeline.subscriptions()]

    @property
    def presence(self) -> Presence:
        return self.pipeline.presence

    @property
    def undecoded(self) -> Mapping[tuple[str, str], int]:
        """Payloads that could not be decoded since the start, by (route, reason)."""
        return self.pipeline.problems

    @property
    def field_misses(self) -> Mapping[tuple[str, str], int]:
        """Fields that were not there since the start, by (route, field)."""
        return self.pipeline.misses

    @property
    def oddities(self) -> Mapping[tuple[str, str], int]:
        """Filtered readings and odd payloads since the start, by (route, what)."""
        return self.pipeline.oddities

    @property
    def window_counters(self) -> Mapping[str, Counters]:
        """The numbers of each window."""
        return self.pipeline.windows.counters

    @property
    def signal(self) -> Signal:
        """What flow control asks of devices, acknowledgements and intake."""
        return self.backpressure.signal

    @property
    def load(self) -> Load:
        """What flow control looked at last."""
        return self.backpressure.load

    @property
    def sparkplug(self) -> Mapping[str, int]:
        """What became of Sparkplug's edge nodes since the start; see `sparkplug.EdgeNodes`."""
        return self.pipeline.edge_nodes.counts

    @property
    def clock_skew(self) -> Mapping[tuple[str, str], int]:
        """Device times that were not believed since the start, by (route, kind)."""
        return self.pipeline.skew

    @property
    def device_clocks(self) -> DeviceClocks:
        """What is known about the devices' clocks."""
        return self.pipeline.devices

    @property
    def links(self) -> list[Link]:
        """All MQTT connections of this gateway."""
        return [self.republish_link, *self.bridge_links, *self.cloud_links, self.ingest_link]

    def start(self) -> None:
        try:
            with using(self.buffer_path):
                self._start_storage()
            self._start_control()
            self._start_local_broker()
            self._start_republish()
            self._start_bridges()
            self._start_ingest()
            self._start_http()
            self._start_upkeep()
        except BaseException:
            self.stop()
            raise
        self.ready = True
        log.info("gateway %s is running", self.config.gateway.id)

    def stop(self) -> None:
        """Everything that was acknowledged is on disk when this returns; safe to call twice."""
        self.ready = False
        self._resources.close()

    # --- what it tells about itself, from any thread ---

    def health(self) -> list[str]:
        """What only a restart would mend; empty when all is well."""
        threads = [(link.name, link.alive) for link in self.links]
        threads += [("writer", self.writer.alive), ("timekeeper", self.timekeeper.alive)]
        problems = [f"the thread gateway.{name} has ended" for name, alive in threads if not alive]
        if self.upkeep.metrics.damage:
            problems.append(f"the buffer's file is damaged: {self.upkeep.metrics.damage}")
        return problems

    @property
    def broken(self) -> str:
        """Why nothing can be stored until a new start has mended the file, which is noted; else empty."""
        return self.upkeep.metrics.damage if self.writer.metrics.damage else ""

    def readiness(self) -> list[str]:
        """Why the gateway does not do its work right now; empty when it does. Judged by progress: a socket
        may look connected for long after its peer is gone."""
        problems = self.health()
        if not self.ready:
            problems.append("the gateway is starting or stopping")
        if not self.ingest_link.connected:
            problems.append(f"not connected to the local broker: {self.ingest_link.metrics.last_error}")
        if self.writer.metrics.storage_error:
            problems.append(f"the buffer cannot be written: {self.writer.metrics.storage_error}")
        since_tick_s = self.clock.monotonic_s() - self.writer.metrics.last_commit_at_s
        if since_tick_s > STALLED_AFTER_S:
            problems.append(f"nothing was committed for {since_tick_s:.0f} s, not even a tick")
        return problems

    @property
    def progress(self) -> int:
        """Grows while the writer is at work: with each commit, and with each that the disk refused."""
        return self.writer.metrics.groups + self.writer.metrics.failures

    def totals(self) -> Totals:
        """What has been counted by now."""
        counts = dict(self.store.counts)
        stored = sum(count for (name, _), count in counts.items() if name == "status")
        waiting = sum(counts.get(("status", status.name), 0) for status in (Status.PENDING, Status.SYNCING))
        return Totals(
            self.clock.monotonic_s(),
            sum(count for (name, _), count in counts.items() if name == "outcome"),
            sum(bridge.metrics.events_acked for bridge in self.bridges),
            sum(count for (name, kind), count in counts.items() if name == "appended" and kind != "raw"),
            waiting,
            # What is sent makes room for what waits, so only what waits can fill the buffer.
            buffer_bytes(self) * waiting // max(stored, 1),
            sum(count for (name, _), count in counts.items() if name == "appended"),
        )

    def forecast(self) -> Forecast:
        """What becomes of the backlog, if it goes on as in the last minute."""
        return self.drain.forecast(
            has_cloud=bool(self.bridges),
            connected=any(link.connected for link in self.bridge_links),
            max_bytes=self.max_buffer_bytes,
        )

    # --- start, sinks first; each step registers how it is undone ---

    def _start_storage(self) -> None:
        buffer = self.config.buffer
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise unusable_folder(self.data_dir, exc) from exc
        apsw.soft_heap_limit(self.budget.cache_bytes)  # SQLite then gives up cached pages first
        self._resources.enter_context(DataDirLock(self.data_dir))
        opened = open_buffer(self.buffer_path, self.clock.now_ms(), buffer.max_size, buffer.synchronous)
        self.store, self.space = opened.store, opened.space
        self._resources.callback(self.store.close)
        self.backpressure = Backpressure(self.clock, self.budget.total_bytes, usable_bytes(buffer.max_size))
        self.pipeline = self._make_pipeline()
        reader = Reader(self.buffer_path)
        self._resources.callback(reader.close)
        restore = partial(self.pipeline.restore, self.store, reader)
        self.writer = Writer(
            self.store,
            group_limit=buffer.group_limit,
            group_limit_bytes=self.space.group_bytes,
            group_time_s=buffer.group_commit / 1000,
            backlog_limit_bytes=min(BACKLOG_BYTES, self.budget.ingest_bytes),
            tick=Tick(self.pipeline, self._after_tick),
            on_rollback=restore,
            relief=self.pipeline,
            mark=opened.marker,
        )
        self.upkeep = Upkeep(
            self.buffer_path,
            self.writer,
            self._alert,
            self.clock,
            None if buffer.backup is None else BackupPlan(buffer.backup.every, buffer.max_size),
        )
        self.trainer = DictionaryTrainer(self.store, self.writer, self.clock)
        if opened.recovery.alert:
            log.error("%s", opened.recovery.alert)
        log.info("buffer open: %d events replayed into windows", restore())
        self._republished_id = self.store.meta_int(REPUBLISHED_ID)
        self.timekeeper = self._make_timekeeper()
        self.writer.submit(opened.startup(self.pipeline.alert))
        self.writer.start()
        self._resources.callback(self._stop_writer)
        self.timekeeper.start()
        self._resources.callback(self.timekeeper.stop)
        self.sections["clock"] = partial(clock_status, self)

    def _make_timekeeper(self) -> Timekeeper:
        return Timekeeper(
            self.clock,
            partial(make_sources, self.config.time.sources()),
            lambda change: self._alert(change.alert, change.message),
            self.store.meta_int(KNOWN_MS),
        )

    def _make_hold(self) -> Hold:
        until_s = self.clock.monotonic_s() + self.config.time.hold / 1000
        return Hold(
            lambda: self.timekeeper.unset and self.clock.monotonic_s() < until_s,
            lambda: uptime_ns() // 1_000_000,
            boot_id(),
        )

    def _make_pipeline(self) -> Pipeline:
        config = self.config
        specs = self._bounded(config.window_specs())
        plugins = load_plugins(specs, config.plugins.directory)
        return Pipeline(
            self.topics,
            RouteTable(config.route_specs()),
            partial(
                WindowEngine,
                specs,
                plugins.plugins,
                plugins.fingerprints,
                stopwatch_ns=time.perf_counter_ns,
                fetch=self.store.windows.state,
                hot_keys=self.budget.hot_keys(len(specs)),
            ),
            self.clock,
            checkpoint_interval_ms=config.buffer.checkpoint_interval,
            keep_synced_ms=config.buffer.keep_synced,
            max_size_bytes=config.buffer.max_size,
            space=self.space,
            window_priorities={spec.name: spec.priority for spec in specs},
            admission=self.backpressure.admission,
            devices=DeviceClocks(wrong_ms=config.time.future_tolerance),
            is_certain=lambda: self.timekeeper.certain,
            downsampling=self._downsampling(),
            backlog_rate=self._backlog_rate,
            hold=self._make_hold(),
        )

    def _bounded(self, specs: Sequence[WindowSpec]) -> list[WindowSpec]:
        """No window without a limit: where none is set, the one that the memory sets."""
        most = self.budget.most_keys(len(specs))
        return [spec if spec.max_keys else replace(spec, max_keys=most) for spec in specs]

    def _downsampling(self) -> Downsampling | None:
        cloud = self.config.cloud
        return Downsampling(cloud.drain_target) if cloud and cloud.drain_target else None

    def _backlog_rate(self, measured_s: float) -> float | None:
        if not any(link.connected for link in self.bridge_links):
            return None
        return self.drain.backlog_rate(measured_s)

    def _start_http(self) -> None:
        if self.config.http is not None:
            from gateway.http.guard import Access  # noqa: PLC0415 - slow to import, and may be off
            from gateway.http.server import HttpServer  # noqa: PLC0415

            http = self.config.http
            token = http.token.get_secret_value() if http.token else None
            access = Access(token, frozenset(host.lower() for host in http.hosts))
            self.http = HttpServer(self, *http.listen, access)
            self.http.start()
            self._resources.callback(self.http.stop)

    def _start_upkeep(self) -> None:
        self.upkeep.start()
        self._resources.callback(self.upkeep.stop)

    def _start_control(self) -> None:
        by_hand = OperatorActions(
            self.writer.call, self.writer.call_outside, self.pipeline.alert, self.pipeline.checkpoint
        )
        asked = {**operations(by_hand), "forecast": lambda _request, _report: self._course()}
        control = ControlServer(self.data_dir / SOCKET_FILE, asked)
        try:
            control.start()
        except OSError as exc:
            log.warning(
                "no control socket, `gateway buffer retry`, `drop` and `compact` need a stop: %s", exc
            )
        else:
            self._resources.callback(control.stop)

    def _start_local_broker(self) -> None:
        local = self.config.local
        if local.embedded:
            password = local.password.get_secret_value() if local.password else None
            broker = EmbeddedBroker(*local.address, username=local.username, password=password)
            broker.start()
            self._resources.callback(broker.stop)

    def _start_republish(self) -> None:
        retained = tuple(
            self.topics.aggregates(spec.name) for spec in self.config.window_specs() if spec.retain
        )
        self.republish = Republish(
            self.buffer_path,
            self.writer,
            self.topics.status,
            self.topics.backpressure,
            lambda topic: topic.startswith(retained),
            self._republished_id,
            self._discovery(),
        )
        self._wake_republish, self._command = self.republish.wake, self.republish.command
        self.republish.announce(backpressure_payload(self.backpressure.signal))
        endpoint = _endpoint(
            self.config.local, "-republish", will=Will(self.topics.status, status_payload("offline"))
        )
        self.republish_link = Link("republish", endpoint, self.republish, self.clock.now_ms)
        self._resources.callback(self.republish.finish)
        self._start_links(self.republish_link)

    def _discovery(self) -> Discovery | None:
        home_assistant = self.config.home_assistant
        if home_assistant is None:
            return None
        shown = [(window.name, window.publish.home_assistant) for window in self.config.windows]
        windows = {name: how.shown() for name, how in shown if how is not None}
        return Discovery(
            home_assistant.discovery_prefix, self.gateway_id, self.topics.root, __version__, windows
        )

    def _start_bridges(self) -> None:
        cloud = self.config.cloud
        if cloud is None:
            return
        spec = BridgeSpec(
            self.topics.prefix,
            self.topics.gateway_id,
            cloud.format,
            cloud.connections,
            cloud.batch_events,
            cloud.order,
            cloud.in_flight,
            cloud.ack_timeout / 1000,
            self.config.buffer.retry.backoff,
            self.topics.status,
            encoding=cloud.encoding,
            envelopes=cloud.envelope == "always",
            memory_bytes=self.budget.processing_bytes // cloud.connections,
        )
        bucket = SharedBucket(cloud.bandwidth)
        will = Will(self.topics.status, status_payload("offline"))
        self._resources.callback(self._release_claims)
        for shard in range(cloud.connections):
            bridge = Bridge(spec, shard, self.buffer_path, self.writer, self.clock.now_ms, bucket)
            endpoint = _endpoint(cloud, f"-{shard}", will=will if shard == 0 else None)
            link = Link(f"bridge-{shard}", endpoint, bridge, self.clock.now_ms)
            self.bridges.append(bridge)
            self.bridge_links.append(link)
            self._resources.callback(bridge.finish)
        if cloud.audit is not None:
            self._make_audit(cloud, cloud.audit)
        if cloud.downlink:
            self._make_downlink(cloud)
        self._start_links(*self.bridge_links, *self.cloud_links)

    def _make_downlink(self, cloud: Cloud) -> None:
        rules = [entry.rule() for entry in cloud.downlink]
        downlink = self.downlink = CloudSide(Downlink(self.topics.gateway_id, self.topics.root, rules))
        largest_bytes = max(rule.max_bytes for rule in rules)
        from_cloud = _endpoint(
            cloud, "-downlink", persistent=True, max_packet_bytes=2 * largest_bytes + _ANY_TOPIC_BYTES
        )
        for name, endpoint, session in (
            ("downlink-local", _endpoint(self.config.local, "-downlink"), downlink.local),
            ("downlink", from_cloud, downlink),
        ):
            self.cloud_links.append(Link(name, endpoint, session, self.clock.now_ms))

    def _make_audit(self, cloud: Cloud, interval_ms: int) -> None:
        topics = self.topics
        auditor = Auditor(
            *(topics.prefix, topics.gateway_id, self.buffer_path, self.writer),
            self.clock.now_ms,
            interval_ms / 1000,
        )
        link = Link("audit", _endpoint(cloud, "-audit"), auditor, self.clock.now_ms)
        self.cloud_links.append(link)
        self._resources.callback(auditor.finish)

    def _start_ingest(self) -> None:
        local = self.config.local
        filters = [(local.subscription(name), qos) for name, qos in self.pipeline.subscriptions()]
        receive_maximum = local.receive_maximum if local.protocol == "5" else None
        self.ingest = Ingest(filters, partial(AppendBatch, self.pipeline), self.writer, receive_maximum)
        self.backpressure.connect(self.ingest, self.republish.announce)
        self.sections["backpressure"] = self.backpressure.describe
        endpoint = _endpoint(
            local,
            "",
            persistent=True,
            session_expiry_s=local.session_expiry // 1000,
            receive_maximum=local.receive_maximum,
            max_packet_bytes=local.max_packet_size,
        )
        self.ingest_link = Link("ingest", endpoint, self.ingest, self.clock.now_ms)
        self._start_links(self.ingest_link)

    def _start_links(self, *links: Link) -> None:
        self._resources.callback(stop_links, links)
        for link in links:
            link.start()

    # --- while running, on the writer's thread ---

    def _course(self) -> dict[str, Any]:
        verified_share = self.upkeep.metrics.verified_share
        drain_per_s = round(self.drain.drain_rate(), 1)
        return {**self.forecast()._asdict(), "drain_per_s": drain_per_s, "verified_share": verified_share}

    def _after_tick(self) -> None:
        self.backpressure.check(self.writer, self.store.file.used_bytes)
        self.trainer.poll()
        if self.drain.is_due(self.clock.monotonic_s()):
            self.drain.add(self.totals())
        self._ask_for_rebirths()
        self._wake_republish()

    def _ask_for_rebirths(self) -> None:
        """Sparkplug's edge nodes whose metrics are not known, or that a message was missed of."""
        asked, self.pipeline.rebirths = self.pipeline.rebirths, {}
        if asked:
            from gateway.decode.decoders.sparkplug import rebirth_payload  # noqa: PLC0415 - needs an extra

            payload = rebirth_payload(self.clock.now_ms())
            for node in asked:
                group, name = node.split("/")
                self._command(f"{sparkplug.NAMESPACE}/{group}/NCMD/{name}", payload)

    def _alert(self, name: str, message: str) -> None:
        """Store an alert; from any thread."""
        self.writer.submit(Do(lambda store: self.pipeline.alert(store, name, message)))

    # --- stop ---

    @property
    def _writer_works(self) -> bool:
        """A stop does not wait for a disk that refuses; the next start makes good what is left out."""
        return self.writer.alive and not self.writer.metrics.storage_error

    def _release_claims(self) -> None:
        """What the bridges had claimed and not seen acknowledged waits for the next start."""
        if self._writer_works:
            self.writer.call(Store.release_all, STOP_TIMEOUT_S)

    def _stop_writer(self) -> None:
        try:
            if self._writer_works:
                self.writer.call(self.pipeline.checkpoint, STOP_TIMEOUT_S)
        finally:
            if not self.writer.stop(STOP_TIMEOUT_S):
                log.error("the writer did not end in time; what was not acknowledged comes again")


def _memory_bytes(flow: Flow) -> int:
    return memory_limit_bytes() if flow.memory == "auto" else flow.memory


def _endpoint(broker: Local | Cloud, suffix: str, **more: Any) -> Endpoint:
    host, port = broker.address
    return Endpoint(
        host=host,
        port=port,
        client_id=broker.client_id + suffix,
        protocol=broker.protocol,
        username=broker.username,
        password=broker.password.get_secret_value() if broker.password else None,
        keepalive_s=broker.keepalive // 1000,
        reconnect_max_s=broker.reconnect_max / 1000,
        tls=_tls(broker) if broker.uses_tls else None,
        **more,
    )


def _tls(broker: Broker) -> Tls:
    files = broker.tls
    return Tls(
        ca_file=str(files.ca_file) if files.ca_file else None,
        cert_file=str(files.cert_file) if files.cert_file else None,
        key_file=str(files.key_file) if files.key_file else None,
        insecure=files.insecure,
    )
