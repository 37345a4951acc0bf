"""The running gateway: the one place where the whole graph is visible.

It is a list of parts, sinks first, the source behind them, and what shows it all last; `_make_parts` has it.
It stops in reverse: the source stops reading; bridges and republish disconnect; what was read is committed,
with a last checkpoint; the writer ends; the file is closed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from gateway.app.cloud import CloudPart
from gateway.app.control import ControlPart
from gateway.app.local import IngestPart, RepublishPart, make_broker
from gateway.app.part import Part, WorkerPart
from gateway.app.processing import Processing
from gateway.app.remote_config import RemoteConfigPart, config_fetcher
from gateway.app.reports import ReportPart
from gateway.app.storage import OpenBuffer, Writing
from gateway.app.web import HttpPart
from gateway.buffer.retention.policy import usable_bytes
from gateway.buffer.writer import Do
from gateway.cloud.alarm_requests import MEMORY_FILE, AlarmRequests
from gateway.config import Config
from gateway.config.backfill_model import alarm_backfills
from gateway.config.origin import ConfigOrigin, RemoteSource
from gateway.config.specs import memory_bytes
from gateway.core.clock import SteadyClock
from gateway.delivery.forecast import Progress
from gateway.flow.memory import MemoryBudget, memory_budget
from gateway.pipeline.backpressure import Backpressure
from gateway.status.gateway_status import GatewayStatus
from gateway.status.history import History

log = logging.getLogger(__name__)


class Gateway:
    """A gateway for one configuration: `start`, `stop`, and `status` in between.

    `start` raises GatewayError when the data directory is in use, a plugin is bad, or a port is taken. It
    does not wait for the brokers: links come up when they can.
    """

    status: GatewayStatus

    def __init__(
        self, config: Config, origin: ConfigOrigin | None = None, remote: RemoteSource | None = None
    ) -> None:
        self.config = config
        self._origin = origin or ConfigOrigin()
        self._remote = remote
        self._clock = SteadyClock()
        self._running = threading.Event()
        self._resources = ExitStack()

    def start(self) -> None:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        self._running.set()
        log.info("gateway %s is running", self.config.gateway.id)

    def stop(self) -> None:
        """Stop every part. On return, everything that was acknowledged is on disk. Safe to call twice."""
        self._running.clear()
        self._resources.close()

    def end_trial(self) -> None:
        """Give up the way back: the configuration on trial has proven itself."""
        self.status.writer.submit(Do(lambda store: store.windows_aside.forget()))

    def _start(self) -> None:
        config, clock = self.config, self._clock
        budget = memory_budget(memory_bytes(config.flow))
        buffer = OpenBuffer(config.gateway.buffer_path, config.gateway.id, config.buffer, budget, clock)
        self._resources.callback(buffer.close)
        buffer.open()
        graph = _Graph(config, clock, budget, buffer, self._running, self._origin, self._remote)
        self.status = graph.status
        for part in graph.parts:
            self._resources.callback(part.stop)
        for part in graph.parts:
            part.claim()
        for part in graph.parts:
            part.start(self.status)


def _broker(config: Config) -> list[Part]:
    if not config.local.embedded:
        return []
    return [WorkerPart(make_broker(config.local, config.gateway.data_dir))]


class _Graph:
    """The parts on one open buffer, in the order in which they start, and what they say of themselves."""

    def __init__(
        self,
        config: Config,
        clock: SteadyClock,
        budget: MemoryBudget,
        buffer: OpenBuffer,
        running: threading.Event,
        origin: ConfigOrigin,
        remote: RemoteSource | None,
    ) -> None:
        drain = Progress()
        processing = Processing(config, clock, budget, buffer, drain)
        memory = buffer.path.parent / MEMORY_FILE
        alarms = AlarmRequests(alarm_backfills(config), clock.now_ms, memory)
        republish = RepublishPart(config, clock, processing, buffer.store, buffer.path, alarms.raised)
        cloud = CloudPart(config, clock, budget, buffer, processing, alarms)
        ingest = IngestPart(config, clock, processing)
        remote_config = [*_remote_config(config, clock, remote, origin.path)]
        fetcher = config_fetcher(config, remote.offer) if remote is not None else None
        self.parts: list[Part] = [
            Writing(
                *(buffer, processing.writer, processing.pipeline, processing.trainer),
                *(republish.session, cloud.bridges, processing.history, origin),
            ),
            *([] if processing.history is None else [WorkerPart(processing.history)]),
            WorkerPart(processing.timekeeper),
            *map(WorkerPart, processing.notifiers),
            ControlPart(config.gateway.data_dir, processing),
            *_broker(config),
            republish,
            cloud,
            ingest,
            WorkerPart(processing.upkeep),
            *remote_config,
            *([] if fetcher is None else [WorkerPart(fetcher)]),
            ReportPart(config, buffer.path, republish.session, cloud.bridges[:1]),
            *_http(config),
        ]
        self.status = GatewayStatus(
            gateway_id=config.gateway.id,
            config=config,
            config_origin=origin,
            remote=remote,
            started_ms=clock.now_ms(),
            running=running,
            max_buffer_bytes=config.buffer.max_size,
            buffer_path=buffer.path,
            topics=processing.topics,
            topic_filters=ingest.topic_filters,
            window_specs=config.window_specs(),
            clock=clock,
            store=buffer.store,
            space=buffer.space,
            writer=processing.writer,
            upkeep=processing.upkeep,
            pipeline=processing.pipeline,
            certificates=processing.certificates,
            backpressure=Backpressure(
                clock,
                budget.total_bytes,
                usable_bytes(config.buffer.max_size),
                processing.admission,
                ingest.session,
                republish.session.announce,
            ),
            timekeeper=processing.timekeeper,
            ingest_link=ingest.link,
            subscriptions=ingest.subscriptions,
            links=[link for part in self.parts for link in part.links],
            bridges=cloud.bridges,
            bridge_links=cloud.bridge_links,
            auditor=cloud.auditor,
            config_inboxes=[part.inbox for part in remote_config],
            support_bundles=[part.bundles for part in remote_config if part.bundles is not None],
            config_fetcher=fetcher,
            downlink=cloud.downlink,
            confirmations=cloud.confirmations,
            backfills=cloud.backfills,
            workers=[worker for part in self.parts for worker in part.workers],
            notify_targets=[target for each in processing.notifiers for target in each.targets],
            silence_alarms=config.devices.silent_after is not None,
            drain=drain,
            history=History(),
            past=processing.history,
        )


def _remote_config(
    config: Config, clock: SteadyClock, remote: RemoteSource | None, path: Path | None
) -> Iterator[RemoteConfigPart]:
    cloud = config.cloud
    if remote is not None and cloud is not None and config.config.signed and not cloud.one_connection:
        yield RemoteConfigPart(config, cloud, clock, remote.offer, path)


def _http(config: Config) -> Iterator[Part]:
    if config.http is not None:
        yield HttpPart(config.http)
