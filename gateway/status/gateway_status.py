"""The one object that page, API, metrics, control socket and `gateway top` see of a running gateway.

It reads plain numbers of the parts and changes nothing; everything here may be called from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.alarms.notifier import TargetState, waiting_notifications
from gateway.alarms.states import SILENT
from gateway.buffer.alarm_table import AlarmRow
from gateway.buffer.history.keeper import HistoryKeeper
from gateway.buffer.repair.upkeep import Upkeep
from gateway.buffer.retention.disk_space import DiskSpace
from gateway.buffer.store import Store
from gateway.buffer.writer import Writer
from gateway.cloud.auditor import Auditor
from gateway.cloud.backfills import Backfills
from gateway.cloud.bridge import Bridge
from gateway.cloud.config_inbox import ConfigInbox
from gateway.cloud.confirmations import Confirmations
from gateway.cloud.downlink import CloudSide
from gateway.cloud.support_bundles import SupportBundles
from gateway.config.models import Config
from gateway.config.origin import ConfigOrigin, RemoteSource
from gateway.core.clock import Clock
from gateway.core.events import Status
from gateway.core.own_topics import OwnTopics
from gateway.core.threads import HasThread, RoleThread
from gateway.decode.presence import Presence
from gateway.delivery.forecast import Forecast, Progress, Totals
from gateway.flow.capacity import Load, Signal
from gateway.host.certificates import CertificateWatch
from gateway.host.files import size_of
from gateway.host.log_lines import LogLines
from gateway.local.subscriptions import Subscriptions
from gateway.mqtt.link import Link
from gateway.pipeline.backpressure import Backpressure
from gateway.pipeline.pipeline import Pipeline
from gateway.status.history import History
from gateway.timekeeping.devices import DeviceClocks
from gateway.timekeeping.sources.keeper import Timekeeper
from gateway.windows.counters import Counters
from gateway.windows.spec import WindowSpec

if TYPE_CHECKING:
    from gateway.cloud.config_fetcher import ConfigFetcher

WRITER_STALLED_AFTER_S = 10.0  # it ticks four times a second
CLOUD_STALLED_AFTER_S = 60.0
ALARM_PLUGINS = frozenset({"threshold"})
"""Included plugins that raise alarms; of others it is known once they do."""


@dataclass(frozen=True, kw_only=True)
class GatewayStatus:
    """The parts of one running gateway, to be read."""

    gateway_id: str
    config: Config
    """The configuration in use."""
    config_origin: ConfigOrigin
    remote: RemoteSource | None
    started_ms: int
    running: threading.Event
    """Set between the end of the start and the beginning of the stop."""
    max_buffer_bytes: int
    buffer_path: Path
    topics: OwnTopics
    """Its own ones: where its results are."""
    topic_filters: Sequence[str]
    window_specs: Sequence[WindowSpec]
    clock: Clock
    store: Store
    space: DiskSpace
    writer: Writer
    upkeep: Upkeep
    pipeline: Pipeline
    backpressure: Backpressure
    certificates: CertificateWatch
    timekeeper: Timekeeper
    ingest_link: Link
    subscriptions: Subscriptions
    links: Sequence[Link]
    """All MQTT connections."""
    bridges: Sequence[Bridge]
    bridge_links: Sequence[Link]
    auditor: Auditor | None
    config_inboxes: Sequence[ConfigInbox]
    """Subscriptions for signed configurations: one, or none."""
    support_bundles: Sequence[SupportBundles]
    """Answers to requests for support bundles: one, or none."""
    config_fetcher: ConfigFetcher | None
    """The one that pulls signed configurations, where that is configured."""
    downlink: CloudSide | None
    confirmations: Confirmations | None
    backfills: Backfills | None
    workers: Sequence[HasThread]
    """Everything that has a thread of its own."""
    notify_targets: Sequence[TargetState]
    """The targets of notifications, and whether they take them."""
    silence_alarms: bool
    """True where silent devices raise alarms."""
    drain: Progress
    history: History
    past: HistoryKeeper | None
    """Keeper of the results beyond the buffer."""
    log_lines: list[LogLines] = field(default_factory=list)
    """Keepers of the last log lines; none before the part that keeps them has started."""

    # --- how it is ---

    @property
    def threads(self) -> list[RoleThread]:
        return [worker.thread for worker in self.workers if worker.thread is not None]

    def health(self) -> list[str]:
        """Return what only a restart would mend; empty when all is well."""
        problems = [thread.problem for thread in self.threads if thread.problem]
        if self.upkeep.metrics.damage:
            problems.append(f"the buffer's file is damaged: {self.upkeep.metrics.damage}")
        return problems

    def readiness(self) -> list[str]:
        """Return why the gateway does not do its work right now; empty when it does.

        Judged by progress: a socket may look connected for long after its peer is gone.
        """
        return [*self.health(), *self._obstacles()]

    def _obstacles(self) -> Iterator[str]:
        if not self.running.is_set():
            yield "the gateway is starting or stopping"
        if self.config_origin.source == "last_good":
            yield self.config_origin.problem
        if not self.ingest_link.connected:
            yield f"not connected to the local broker: {self.ingest_link.metrics.last_error}"
        elif awaited := self.subscriptions.awaited:
            yield f"the local broker has not answered the subscription to {', '.join(awaited)} yet"
        yield from self.subscriptions.problems
        if self.writer.metrics.storage_error:
            yield f"the buffer cannot be written: {self.writer.metrics.storage_error}"
        elif (silent_s := self.since_commit_s) > WRITER_STALLED_AFTER_S:
            yield f"nothing was committed for {silent_s:.0f} s, not even a tick"
        for link in self.bridge_links:
            if link.metrics.silent and not link.connected:
                yield f"the cloud broker does not answer: {link.metrics.last_error}"
                break
        stalled_s = self.drain.stalled_s()
        # As true between two connections that bring nothing as during them; an outage is no reason.
        if stalled_s > CLOUD_STALLED_AFTER_S and any(link.metrics.accepted for link in self.bridge_links):
            yield f"the cloud accepts connections, but has acknowledged nothing for {stalled_s:.0f} s"
        if self.config_fetcher is not None and self.config_fetcher.problem:
            yield self.config_fetcher.problem
        if self.confirmations is not None and self.confirmations.metrics.silent:
            yield f"{self.unconfirmed:,} events wait for a receiver, and none has confirmed any for long"

    def configuration(self) -> dict[str, str]:
        """Return which configuration is in use, and what became of the last remote one."""
        told = self.config_origin.describe()
        if self.remote is not None and self.remote.outcome:
            told["outcome"] = self.remote.outcome
        if self.remote is not None and (last := self.remote.last) is not None:
            told |= {
                "remote_version": str(last.version),
                "remote_hash": last.hash,
                "remote_state": last.state,
            }
        return told

    @property
    def broken(self) -> str:
        """Reason why nothing can be stored until a new start has mended the file, which is noted; else
        empty."""
        return self.upkeep.metrics.damage if self.writer.metrics.damage else ""

    @property
    def displaced(self) -> str:
        """Message that the buffer's file was deleted or replaced, once a new start can go on with what it
        held; else empty."""
        return self.writer.metrics.displaced

    @property
    def progress(self) -> int:
        """A number that grows while the writer works: with each commit, and each that the disk refused."""
        return self.writer.metrics.groups + self.writer.metrics.failures

    @property
    def since_commit_s(self) -> float:
        """Seconds since the last commit; before the first, since the writer began."""
        return self.clock.monotonic_s() - self.writer.metrics.last_commit_at_s

    @property
    def bridge_connected(self) -> bool:
        return any(link.connected for link in self.bridge_links)

    @property
    def awaits_configurations(self) -> bool:
        """True while a signed configuration would reach the gateway."""
        pulled = self.config_fetcher is not None and self.config_fetcher.reached
        return pulled or any(inbox.awaits for inbox in self.config_inboxes)

    @property
    def unconfirmed(self) -> int | None:
        """Events that were sent and wait for a receiver; None where they do not, or nothing is known yet."""
        return None if self.confirmations is None else self.confirmations.metrics.unconfirmed

    # --- what came in and went out ---

    @property
    def undecoded(self) -> Mapping[tuple[str, str], int]:
        """Payloads that could not be decoded since the start, by (route, reason)."""
        return self.pipeline.intake.problems

    @property
    def field_misses(self) -> Mapping[tuple[str, str], int]:
        """Fields that were not there since the start, by (route, field)."""
        return self.pipeline.intake.misses

    @property
    def unmatched(self) -> tuple[str, ...]:
        """A sentence for each name in the configuration that no message has."""
        return self.pipeline.unmatched.told

    @property
    def oddities(self) -> Mapping[tuple[str, str], int]:
        """Filtered readings and odd payloads since the start, by (route, what)."""
        return self.pipeline.intake.oddities

    @property
    def clock_skew(self) -> Mapping[tuple[str, str], int]:
        """Device times that were not believed since the start, by (route, kind)."""
        return self.pipeline.intake.skew

    @property
    def sparkplug(self) -> Mapping[str, int]:
        """Counts of Sparkplug's edge nodes since the start, by kind."""
        return self.pipeline.intake.edge_nodes.counts

    @property
    def window_counters(self) -> Mapping[str, Counters]:
        """The numbers of each window, by its name."""
        return self.pipeline.windows.counters

    @property
    def alarms(self) -> list[AlarmRow]:
        """All alarms as of the last commit, also those that are over."""
        return self.store.alarms.all()

    @property
    def alarm_windows(self) -> list[str]:
        """Windows that raise alarms."""
        names = [spec.name for spec in self.window_specs if spec.plugin in ALARM_PLUGINS]
        return [*names, SILENT] if self.silence_alarms else names

    @property
    def waiting_notifications(self) -> int:
        return waiting_notifications(self.store)

    @property
    def presence(self) -> Presence:
        return self.pipeline.intake.presence

    @property
    def device_clocks(self) -> DeviceClocks:
        return self.pipeline.intake.devices

    @property
    def signal(self) -> Signal:
        """Current request of flow control to devices, acknowledgements and intake."""
        return self.backpressure.signal

    @property
    def load(self) -> Load:
        """Load at the last look of flow control."""
        return self.backpressure.load

    @property
    def buffer_bytes(self) -> int | None:
        """Size of the buffer's files on the disk; None when the disk does not tell."""
        path = self.buffer_path
        try:
            return sum(size_of(path.with_name(path.name + suffix)) for suffix in ("", "-wal", "-shm"))
        except OSError:
            return None

    def sample_drain(self) -> None:
        """Keep the numbers of this second for the forecast; on the writer's thread."""
        if self.drain.is_due(self.clock.monotonic_s()):
            self.drain.add(self.totals())

    def sample_history(self) -> None:
        """Keep the numbers of this second for the charts; also while the writer waits for the disk."""
        self.history.add(self.clock.now_ms(), self.totals())

    def totals(self) -> Totals:
        """Return what has been counted by now."""
        counts = dict(self.store.counts)
        stored = sum(count for (name, _), count in counts.items() if name == "status")
        waiting = sum(counts.get(("status", status.name), 0) for status in (Status.PENDING, Status.SYNCING))
        return Totals(
            self.clock.monotonic_s(),
            taken_in=sum(count for (name, _), count in counts.items() if name == "outcome"),
            acked=sum(bridge.metrics.events_acked for bridge in self.bridges),
            derived=sum(n for (name, kind), n in counts.items() if name == "appended" and kind != "raw"),
            waiting=waiting,
            # What is sent makes room for what waits, so only what waits can fill the buffer.
            waiting_bytes=(self.buffer_bytes or 0) * waiting // max(stored, 1),
            stored=sum(count for (name, _), count in counts.items() if name == "appended"),
            connected=self.bridge_connected,
        )

    def forecast(self) -> Forecast:
        """Return what becomes of the backlog, if it goes on as in the last minute."""
        return self.drain.forecast(
            has_cloud=bool(self.bridges),
            connected=self.bridge_connected,
            max_bytes=self.max_buffer_bytes,
        )

    def course(self) -> dict[str, Any]:
        """Return the forecast as plain values, for the commands on the control socket."""
        return {
            **self.forecast()._asdict(),
            "drain_per_s": round(self.drain.drain_rate(), 1),
            "verified_share": self.upkeep.metrics.verified_share,
        }
