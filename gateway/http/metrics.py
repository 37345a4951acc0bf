"""The gateway's numbers in Prometheus' form, read when they are asked for."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway import __version__
from gateway.alarms.requests import counts
from gateway.alarms.states import ON, AlarmEvent
from gateway.buffer.repair.recovery import backup_path
from gateway.buffer.retention.downsampling import REASON as DRAIN_TARGET
from gateway.core.events import Kind, Status
from gateway.flow.capacity import Action
from gateway.http.clock import clock_metrics
from gateway.status.gateway_status import GatewayStatus
from gateway.windows.counters import LEVELS, Counters

if TYPE_CHECKING:
    from gateway.cloud.config_fetcher import FetchMetrics

log = logging.getLogger(__name__)


class GatewayCollector(Collector):
    """Reads the running gateway at each scrape; nothing on the hot path knows of it."""

    def __init__(self, status: GatewayStatus) -> None:
        self._status = status

    def collect(self) -> Iterable[Metric]:
        sections = (
            *(
                self._about,
                self._buffer,
                self._upkeep,
                self._history,
                self._writer,
                self._decoding,
                self._sparkplug,
                self._windows,
                self._alarms,
            ),
            *(
                self._subscriptions,
                self._links,
                self._certificates,
                self._drain,
                self._downlink,
                self._confirmations,
                self._backfills,
                self._flow,
                partial(clock_metrics, self._status),
            ),
        )
        for section in sections:
            try:
                yield from [*section()]
            except OSError as exc:  # what the disk does not tell is absent; the rest is needed most just then
                log.warning("some metrics cannot be read: %s", exc)

    def _about(self) -> Iterator[Metric]:
        about = {"version": __version__, "id": self._status.gateway_id}
        yield InfoMetricFamily("gateway", "Name and version of the gateway.", value=about)
        origin = self._status.config_origin
        used = {"source": origin.source, "version": origin.version, "hash": origin.hash}
        yield InfoMetricFamily("gateway_config", "The configuration in use.", value=used)
        yield from self._remote_config()
        for keeper in self._status.log_lines:
            yield CounterMetricFamily(
                "gateway_log_lines_dropped", "Log lines above the rate of log.publish.", value=keeper.dropped
            )
        yield GaugeMetricFamily(
            "gateway_start_time_seconds",
            "Start of the gateway, Unix time.",
            value=self._status.started_ms / 1000,
        )

    def _buffer(self) -> Iterator[Metric]:
        counts = dict(self._status.store.counts)
        events = GaugeMetricFamily(
            "gateway_buffer_events", "Events in the buffer, by status.", labels=["status"]
        )
        for status in Status:
            events.add_metric([status.name.lower()], counts.get(("status", status.name), 0))
        yield events
        for name, label, text in (
            ("outcome", "outcome", "Messages by outcome: the sum is all that arrived."),
            ("rejected", "reason", "Messages that were rejected, by reason."),
            ("appended", "kind", "Events that were stored, by kind."),
            ("evicted", "reason", "Events that retention removed, by reason."),
        ):
            family = CounterMetricFamily(f"gateway_{_COUNTER_NAMES[name]}", text, labels=[label])
            found = {value: count for (counter, value), count in counts.items() if counter == name}
            for value, count in (dict.fromkeys(_KNOWN_LABELS[name], 0) | found).items():
                family.add_metric([value], count)
            yield family
        if (file_bytes := self._status.buffer_bytes) is not None:
            yield GaugeMetricFamily(
                "gateway_buffer_file_bytes", "Size of the buffer's files.", value=file_bytes
            )
        yield GaugeMetricFamily(
            "gateway_buffer_max_bytes",
            "Largest size of the buffer's files.",
            value=self._status.max_buffer_bytes,
        )
        space = self._status.space
        for name, text, level in (
            ("buffer_wal_bytes", "Size of the write-ahead log.", space.wal_bytes()),
            ("disk_free_bytes", "Free space on the buffer's disk.", space.free_bytes),
            ("disk_low", "1 while that is less than the gateway keeps free.", space.low),
            ("disk_ballast", "1 while the ballast for a full disk is there.", space.ballast_held),
        ):
            yield GaugeMetricFamily(f"gateway_{name}", text, value=level)

    def _upkeep(self) -> Iterator[Metric]:
        ratios = GaugeMetricFamily(
            "gateway_payload_stored_ratio", "Compressed share of a route's payloads.", labels=["route"]
        )
        for route, ratio in self._status.store.compressor.ratios().items():
            ratios.add_metric([route], ratio)
        yield ratios
        metrics = self._status.upkeep.metrics
        for name, text, value in (
            (
                "verified_events",
                "Events whose checksum was verified in the background.",
                metrics.verified_events,
            ),
            ("mismatches", "Pending events that had a wrong checksum.", metrics.mismatches),
        ):
            yield CounterMetricFamily(f"gateway_buffer_{name}", text, value=value)
        for name, text, level in (
            ("verified_share", "How far the current verification is, 0 to 1.", metrics.verified_share),
            ("damaged", "1 if the file itself was found damaged.", bool(metrics.damage)),
            (
                "failed_backups",
                "Backups that failed since the last one that was made.",
                metrics.failed_backups,
            ),
            ("backup_time_seconds", "When the backup was made, Unix time; 0: none.", self._backup_time_s()),
        ):
            yield GaugeMetricFamily(f"gateway_buffer_{name}", text, value=level)

    def _history(self) -> Iterator[Metric]:
        if self._status.past is None:
            return
        metrics = self._status.past.metrics
        for name, text, level in (
            ("results", "Results in the history.", metrics.results),
            ("bytes", "Size of what is in the history's file.", metrics.bytes),
            ("failing", "1 while the history cannot be written.", bool(metrics.error)),
        ):
            yield GaugeMetricFamily(f"gateway_history_{name}", text, value=level)
        oldest = GaugeMetricFamily(
            "gateway_history_oldest_seconds", "When the oldest result of the history arrived, Unix time."
        )
        if metrics.oldest_ms is not None:
            oldest.add_metric([], metrics.oldest_ms / 1000)
        yield oldest
        yield CounterMetricFamily(
            "gateway_history_missed",
            "Results that were gone from the buffer before they were copied.",
            value=metrics.missed,
        )
        removed = CounterMetricFamily(
            "gateway_history_removed", "Results that went from the history, by reason.", labels=["reason"]
        )
        for reason, count in metrics.removed.items():
            removed.add_metric([reason], count)
        yield removed

    def _backup_time_s(self) -> float:
        backup = backup_path(self._status.buffer_path)
        return backup.stat().st_mtime if backup.exists() else 0.0

    def _writer(self) -> Iterator[Metric]:
        metrics = self._status.writer.metrics
        yield CounterMetricFamily("gateway_commits", "Group commits.", value=metrics.groups)
        yield CounterMetricFamily(
            "gateway_commit_failures", "Groups that were rolled back.", value=metrics.failures
        )
        yield CounterMetricFamily(
            "gateway_commit_seconds", "Time spent in COMMIT, with its fsync.", value=metrics.commit_seconds
        )
        for name, text, value in (
            ("last_commit_seconds", "How long the last COMMIT took.", metrics.last_commit_s),
            ("commit_smoothed_seconds", "How long a COMMIT takes at present.", metrics.smoothed_commit_s),
            (
                "commit_stretch",
                "How much larger groups may be because the disk is slow, 1 to 10.",
                metrics.stretch,
            ),
        ):
            yield GaugeMetricFamily(f"gateway_{name}", text, value=value)
        yield GaugeMetricFamily(
            "gateway_ingest_backlog_events",
            "Messages that wait for their commit.",
            value=self._status.writer.backlog,
        )

    def _decoding(self) -> Iterator[Metric]:
        for name, label, text, source in (
            ("undecoded", "reason", "Payloads that could not be read.", self._status.undecoded),
            ("field_misses", "field", "Fields that were missing.", self._status.field_misses),
            (
                "decode_oddities",
                "what",
                "Readings that a condition filtered, and payloads that were read though they were odd.",
                self._status.oddities,
            ),
        ):
            family = CounterMetricFamily(f"gateway_{name}", text, labels=["route", label])
            for labels, count in list(source.items()):
                family.add_metric(list(labels), count)
            yield family
        yield self._field_units()
        yield GaugeMetricFamily(
            "gateway_unmatched_names",
            "Fields and parts of keys in the configuration that no message has; log, page and top name them.",
            value=len(self._status.unmatched),
        )

    def _alarms(self) -> Iterator[Metric]:
        rows = self._status.alarms
        states = GaugeMetricFamily(
            "gateway_alarms", "Alarms by state; active and acknowledged ones are on.", labels=["state"]
        )
        for state, number in counts(rows).items():
            states.add_metric([state], number)
        yield states
        on = Counter(row.window for row in rows if row.state in ON)
        windows = GaugeMetricFamily("gateway_window_alarms_on", "Alarms that are on.", labels=["window"])
        for window in sorted({*self._status.alarm_windows, *on}):
            windows.add_metric([window], on[window])
        yield windows
        changes = CounterMetricFamily(
            "gateway_alarm_changes", "What happened to alarms, by what it was.", labels=["what"]
        )
        for event in AlarmEvent:
            changes.add_metric([event.value], self._status.store.counts["alarm", event.value])
        yield changes
        counted = self._status.store.counts
        told = CounterMetricFamily(
            "gateway_notifications", "Notifications of alarms, by outcome.", labels=["outcome"]
        )
        for outcome in ("queued", "sent", "given_up"):
            told.add_metric([outcome], counted["notification", outcome])
        yield told
        yield GaugeMetricFamily(
            "gateway_notifications_waiting",
            "Notifications that wait to be sent.",
            value=self._status.waiting_notifications,
        )
        failed = counted["notification_failures", ""]
        yield CounterMetricFamily(
            "gateway_notification_failures", "Attempts to send that failed; each is repeated.", value=failed
        )
        problems = GaugeMetricFamily(
            "gateway_notify_target_failing", "1 while a target takes no notifications.", labels=["target"]
        )
        for target in self._status.notify_targets:
            problems.add_metric([target.name], bool(target.problem))
        yield problems

    def _field_units(self) -> Metric:
        units = GaugeMetricFamily(
            "gateway_field_unit",
            "Units of fields, as their routes name them; always 1.",
            labels=["route", "field", "unit"],
        )
        for route in self._status.pipeline.intake.routes.routes:
            for name, unit in route.spec.units.items():
                units.add_metric([route.spec.name, name, unit], 1)
        return units

    def _subscriptions(self) -> Iterator[Metric]:
        subscriptions = self._status.subscriptions
        refused = GaugeMetricFamily(
            "gateway_subscription_refused", "Filters that the local broker refuses.", labels=["filter"]
        )
        for name in list(subscriptions.refused):
            refused.add_metric([name], 1)
        yield refused
        for name, text, count in (
            (
                "repeated",
                "Retained messages that a broker sent again with the bytes that are stored.",
                self._status.pipeline.intake.repeated,
            ),
            (
                "copies",
                "Further copies of a message that a broker sends per subscription.",
                subscriptions.copies,
            ),
            (
                "unwanted",
                "Messages of a filter over several routes that belong to none.",
                subscriptions.unwanted,
            ),
        ):
            yield CounterMetricFamily(f"gateway_messages_{name}", text, value=count)

    def _sparkplug(self) -> Iterator[Metric]:
        family = CounterMetricFamily(
            "gateway_sparkplug", "Sparkplug's edge nodes and their metrics, by outcome.", labels=["what"]
        )
        for what, count in list(self._status.sparkplug.items()):
            family.add_metric([what], count)
        yield family

    def _windows(self) -> Iterator[Metric]:
        counters = self._status.window_counters
        for field in fields(Counters):
            level = field.name in LEVELS
            family: GaugeMetricFamily | CounterMetricFamily = (
                GaugeMetricFamily if level else CounterMetricFamily
            )(f"gateway_window_{field.name}", f"Windows: {field.name.replace('_', ' ')}.", labels=["window"])
            for window, numbers in counters.items():
                value = getattr(numbers, field.name)
                if value is not None:
                    family.add_metric([window], value)
            yield family

    def _links(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("gateway_link_up", "1 while connected.", labels=["link"])
        connects = CounterMetricFamily("gateway_link_connects", "Connections made.", labels=["link"])
        failures = CounterMetricFamily("gateway_link_failures", "Connections lost.", labels=["link"])
        too_large = CounterMetricFamily(
            "gateway_link_too_large", "Messages larger than the broker takes: not sent.", labels=["link"]
        )
        alive = GaugeMetricFamily("gateway_thread_alive", "1 while the thread runs.", labels=["thread"])
        for link in self._status.links:
            up.add_metric([link.name], link.connected)
            connects.add_metric([link.name], link.metrics.connects)
            failures.add_metric([link.name], link.metrics.failures)
            too_large.add_metric([link.name], link.metrics.too_large)
        for thread in self._status.threads:
            alive.add_metric([thread.role], not thread.problem)
        yield from (up, connects, failures, too_large, alive)
        bridges = self._status.bridges
        for name, text, value in (
            ("sent_events", "Events sent to the cloud.", sum(b.metrics.events_sent for b in bridges)),
            ("acked_events", "Events the cloud took.", sum(b.metrics.events_acked for b in bridges)),
            ("frames", "Messages sent to the cloud.", sum(b.metrics.frames for b in bridges)),
            ("payload_bytes", "Payload bytes sent.", sum(b.metrics.payload_bytes for b in bridges)),
            (
                "wire_bytes",
                "Bytes sent, with headers and TLS.",
                sum(b.metrics.wire_bytes for b in bridges),
            ),
            ("refused", "Messages the cloud refused.", sum(b.metrics.refused for b in bridges)),
            (
                "without_subscriber",
                "Messages for which the cloud broker knew no subscriber.",
                sum(b.metrics.without_subscriber for b in bridges),
            ),
        ):
            yield CounterMetricFamily(f"gateway_bridge_{name}", text, value=value)
        yield GaugeMetricFamily(
            "gateway_bridge_topics_without_subscriber",
            "Topics of the uplink whose last message found no subscriber.",
            value=sum(len(b.subscribers.missing) for b in bridges),
        )
        auditor = self._status.auditor
        if auditor is not None:
            for name, text, value in (
                ("records", "Audit records sent to the cloud.", auditor.metrics.messages),
                ("refused", "Audit records the cloud refused.", auditor.metrics.refused),
                ("sealed_events", "Events whose content was signed since the start.", auditor.sealed_events),
            ):
                yield CounterMetricFamily(f"gateway_audit_{name}", text, value=value)

    def _remote_config(self) -> Iterator[Metric]:
        remote = self._status.remote
        if remote is None or not self._status.config.config.signed:
            return
        newest = InfoMetricFamily(
            "gateway_remote_config", "The last remote configuration.", labels=["version", "hash", "state"]
        )
        if (last := remote.last) is not None:
            told = {"version": str(last.version), "hash": last.hash, "state": str(last.state)}
            newest.add_metric([], told)
        yield newest
        messages = CounterMetricFamily(
            "gateway_remote_configs", "Remote configurations, by what became of them.", labels=["outcome"]
        )
        for outcome, count in remote.counts.items():
            messages.add_metric([outcome], count)
        yield messages
        bundles = CounterMetricFamily(
            "gateway_support_requests", "Requests for a support bundle, by outcome.", labels=["outcome"]
        )
        for session in self._status.support_bundles:
            for outcome, count in dict(session.counts).items():
                bundles.add_metric([outcome], count)
        yield bundles
        if (fetcher := self._status.config_fetcher) is not None:
            yield from _pull_metrics(fetcher.metrics)

    def _certificates(self) -> Iterator[Metric]:
        left = GaugeMetricFamily(
            "gateway_certificate_expires_seconds",
            "Until a certificate file expires; negative: it has.",
            labels=["name", "file"],
        )
        for file, left_s in self._status.certificates.left_s():
            left.add_metric([file.name, str(file.path)], left_s)
        yield left

    def _drain(self) -> Iterator[Metric]:
        forecast = self._status.forecast()
        yield GaugeMetricFamily(
            "gateway_drain_rate_events",
            "Events a second that the cloud took, over the last minute.",
            value=self._status.drain.drain_rate(),
        )
        remaining = GaugeMetricFamily(
            "gateway_drain_seconds_remaining",
            "When the backlog will be gone; 0: there is none; absent: it does not shrink.",
        )
        if forecast.state in ("live", "draining"):
            remaining.add_metric([], forecast.empty_in_s or 0.0)
        yield remaining

    def _downlink(self) -> Iterator[Metric]:
        downlink = self._status.downlink
        if downlink is None:
            return
        family = CounterMetricFamily(
            "gateway_downlink_messages", "Commands from the cloud.", labels=["outcome"]
        )
        for outcome, count in {"forwarded": downlink.metrics.forwarded, **downlink.metrics.rejected}.items():
            family.add_metric([outcome], count)
        refused = GaugeMetricFamily(
            "gateway_downlink_refused",
            "Filters of commands that the cloud broker refuses.",
            labels=["filter"],
        )
        for name in list(downlink.metrics.refused_filters):
            refused.add_metric([name], 1)
        yield from (family, refused)

    def _confirmations(self) -> Iterator[Metric]:
        session = self._status.confirmations
        if session is None:
            return
        metrics = session.metrics
        yield CounterMetricFamily(
            "gateway_confirm_statements", "Statements of receivers.", value=metrics.statements
        )
        rejected = CounterMetricFamily(
            "gateway_confirm_rejected", "Statements, or streams of them, ignored.", labels=["reason"]
        )
        for reason, count in list(metrics.rejected.items()):
            rejected.add_metric([reason], count)
        yield rejected
        yield CounterMetricFamily(
            "gateway_resent_events",
            "Events sent again because a receiver misses them.",
            value=self._status.store.counts["resent", ""],
        )
        yield CounterMetricFamily(
            "gateway_confirm_gone_events",
            "Events that a receiver misses and that are not in the buffer any more.",
            value=metrics.gone,
        )
        yield GaugeMetricFamily(
            "gateway_confirm_refused_events",
            "Events that a receiver still misses though they went again often.",
            value=metrics.refused_events,
        )
        unconfirmed = GaugeMetricFamily(
            "gateway_unconfirmed_events",
            "Events that wait for a receiver, as of the last look at the buffer.",
        )
        if metrics.unconfirmed is not None:
            unconfirmed.add_metric([], metrics.unconfirmed)
        yield unconfirmed
        yield GaugeMetricFamily(
            "gateway_confirm_silent",
            "1: events wait, and no receiver has confirmed any for long.",
            value=int(metrics.silent),
        )

    def _backfills(self) -> Iterator[Metric]:
        session = self._status.backfills
        if session is None:
            return
        metrics = session.metrics
        requests, events = "Requests for what is kept at the edge.", "Kept events that went up at a request."
        yield CounterMetricFamily("gateway_backfill_requests", requests, value=metrics.requests)
        yield CounterMetricFamily("gateway_backfill_events", events, value=metrics.events)
        rejected = CounterMetricFamily(
            "gateway_backfill_rejected", "Requests that were refused.", labels=["reason"]
        )
        for reason, count in list(metrics.rejected.items()):
            rejected.add_metric([reason], count)
        rejected.add_metric(["too_many_alarms"], session.alarms.too_many)
        yield rejected

    def _flow(self) -> Iterator[Metric]:
        signal, load = self._status.signal, self._status.load
        state = GaugeMetricFamily(
            "gateway_backpressure", "1 for the current request to devices.", labels=["action"]
        )
        for action in Action:
            state.add_metric([action.value], action is signal.action)
        yield state
        for name, text, value in (
            ("level", "From 0, at ease, to 3; docs/flow.md.", signal.level),
            ("delay_seconds", "How long devices are asked to wait.", signal.delay_ms / 1000),
            ("sample_rate", "Share of messages that sampling routes keep.", signal.sample_rate),
        ):
            yield GaugeMetricFamily(f"gateway_backpressure_{name}", text, value=value)
        loads = GaugeMetricFamily("gateway_load", "Measurements behind backpressure.", labels=["load"])
        for field in fields(load):
            loads.add_metric([field.name], getattr(load, field.name))
        yield loads


_COUNTER_NAMES = {
    "outcome": "messages",
    "rejected": "messages_rejected",
    "appended": "events_appended",
    "evicted": "events_evicted",
}

_KNOWN_LABELS = {
    "outcome": ("buffered", "duplicate", "sampled", "rejected"),
    "rejected": ("own_topic", "bridged", "topic_too_long", "no_route", "retained", "overload", "poison"),
    "appended": tuple(kind.name.lower() for kind in Kind),
    "evicted": ("synced", "corrupt", "failed", "thinned", "oldest", "dropped", DRAIN_TARGET),
}
"""Exported from the start: increase() does not see the first event of a counter that begins with it."""


def _pull_metrics(metrics: FetchMetrics) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "gateway_config_pulls", "Requests for the configuration, by outcome.", labels=["outcome"]
    )
    for outcome, count in dict(metrics.outcomes).items():
        requests.add_metric([outcome], count)
    yield requests
    yield GaugeMetricFamily(
        "gateway_config_pull_failures", "Requests in a row that had no answer.", value=metrics.failures
    )
