"""The pipeline that the configuration describes and the gateway's time, ready for the writer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from gateway.alarms.notices import NoticeQueue
from gateway.alarms.notifier import Notifier, waiting_notifications
from gateway.alarms.register import AlarmRegister
from gateway.alarms.states import SILENT
from gateway.app.storage import OpenBuffer, make_writer
from gateway.buffer.dictionaries import DictionaryTrainer
from gateway.buffer.history.keeper import HistoryKeeper
from gateway.buffer.repair.upkeep import Upkeep
from gateway.buffer.retention.downsampling import Downsampling
from gateway.buffer.retention.policy import without_history
from gateway.buffer.store import Store
from gateway.buffer.writer import Do
from gateway.config import Config
from gateway.config.specs import backup_plan, history_policy
from gateway.core.clock import SteadyClock, processor_ns, uptime_ns
from gateway.core.own_topics import OwnTopics
from gateway.decode.presence import Presence
from gateway.decode.routes import RouteTable
from gateway.delivery.forecast import Progress
from gateway.flow.admission import Admission
from gateway.flow.memory import MemoryBudget
from gateway.host.certificates import CertificateWatch
from gateway.host.machine import boot_id
from gateway.pipeline.checkpointer import KNOWN_MS
from gateway.pipeline.pipeline import Pipeline
from gateway.pipeline.plugins_loader import load_plugins
from gateway.timekeeping.devices import DeviceClocks
from gateway.timekeeping.hold import Hold
from gateway.timekeeping.sources.keeper import Timekeeper
from gateway.timekeeping.sources.make_sources import make_sources
from gateway.windows.engine import WindowEngine
from gateway.windows.spec import WindowSpec


class Processing:
    """Pipeline, writer, time and upkeep on one open buffer; nothing runs yet. Raises PluginError."""

    def __init__(
        self, config: Config, clock: SteadyClock, budget: MemoryBudget, buffer: OpenBuffer, drain: Progress
    ) -> None:
        self._config = config
        self._clock = clock
        policy = history_policy(config)
        self.history = (
            None if policy is None else HistoryKeeper(buffer.path, policy, clock, buffer.space, self.alert)
        )
        """Keeper of the results beyond the buffer; None where they are not kept."""
        self.admission = Admission()
        self.topics = OwnTopics(config.gateway.topic_prefix, config.gateway.id)
        self.pipeline = self._make_pipeline(budget, buffer, drain)
        self.timekeeper = Timekeeper(
            clock,
            partial(make_sources, config.time.sources()),
            lambda change: self.alert(change.alert, change.message),
            buffer.store.meta_int(KNOWN_MS),
        )
        self.writer = make_writer(buffer, config.buffer, budget, self.pipeline)
        self.notifiers = self._notifiers(buffer.store)
        self.trainer = DictionaryTrainer(buffer.store, self.writer, clock)
        self.certificates = CertificateWatch(config.certificates, self.alert, clock.now_ms)
        self.upkeep = Upkeep(
            *(buffer.path, self.writer, self.alert, clock, backup_plan(config.buffer)), self.certificates.look
        )

    def alert(self, name: str, message: str) -> None:
        """Store an alert; from any thread."""
        self.writer.submit(Do(lambda store: self.pipeline.alert(store, name, message)))

    def _make_pipeline(self, budget: MemoryBudget, buffer: OpenBuffer, drain: Progress) -> Pipeline:
        config = self._config
        specs = bounded(config.window_specs(), budget)
        plugins = load_plugins(specs, config.plugins.directory)
        priorities: dict[str, int] = {spec.name: spec.priority for spec in specs}
        priorities[SILENT] = config.devices.priority
        queue = NoticeQueue(config.notify_targets)
        alarms = AlarmRegister(self.topics, self._clock.now_ms, priorities, frozenset(priorities), queue)
        return Pipeline(
            self.topics,
            RouteTable(config.route_specs()),
            partial(
                WindowEngine,
                specs,
                plugins.plugins,
                plugins.fingerprints,
                stopwatch_ns=processor_ns,
                fetch=buffer.store.windows.state,
                hot_keys=budget.hot_keys(len(specs)),
            ),
            self._clock,
            checkpoint_interval_ms=config.buffer.checkpoint_interval,
            keep_synced_ms=config.buffer.keep_synced,
            max_size_bytes=config.buffer.max_size,
            space=buffer.space,
            window_priorities=priorities,
            kept_windows=frozenset(spec.name for spec in specs if not spec.forward),
            admission=self.admission,
            devices=DeviceClocks(wrong_ms=config.time.future_tolerance),
            is_certain=lambda: self.timekeeper.certain,
            downsampling=self._downsampling(),
            backlog_rate=drain.backlog_rate,
            hold=self._hold(),
            copied_to=without_history if self.history is None else self.history.floor,
            alarms=alarms,
            presence=Presence(config.devices.silent_after_ms),
            silence_alarms=config.devices.silent_after is not None,
            until_confirmed=config.cloud is not None and config.cloud.confirm == "receiver",
        )

    def _notifiers(self, store: Store) -> list[Notifier]:
        """Return the notifier, where there is somebody to notify."""
        targets = self._config.notify_targets
        waiting = partial(waiting_notifications, store)
        about = (targets, self._config.gateway.id, self.writer, waiting, self._clock.now_ms)
        return [Notifier(*about)] if targets else []

    def _downsampling(self) -> Downsampling | None:
        cloud = self._config.cloud
        return Downsampling(cloud.drain_target) if cloud and cloud.drain_target else None

    def _hold(self) -> Hold:
        clock = self._clock
        until_s = clock.monotonic_s() + self._config.time.hold_s
        return Hold(
            lambda: self.timekeeper.unset and clock.monotonic_s() < until_s,
            lambda: uptime_ns() // 1_000_000,
            boot_id(),
        )


def bounded(specs: Sequence[WindowSpec], budget: MemoryBudget) -> list[WindowSpec]:
    """Return windows none of which is without a limit: where none is set, the one that the memory sets."""
    most = budget.most_keys(len(specs))
    return [spec if spec.max_keys else replace(spec, max_keys=most) for spec in specs]
