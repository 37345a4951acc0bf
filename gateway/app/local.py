"""The side of the devices: the embedded broker, what is read from the broker, and what is published on it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from gateway import __version__
from gateway.alarms.states import SILENT
from gateway.app.part import Part
from gateway.app.processing import Processing
from gateway.buffer.store import REPUBLISHED_ID, Store
from gateway.config import Config
from gateway.config.models import Local
from gateway.config.shown_windows import shown_windows
from gateway.config.specs import endpoint, ingest_endpoint
from gateway.core.clock import Clock
from gateway.core.own_topics import OwnTopics
from gateway.local import leftovers
from gateway.local.ingest import Ingest
from gateway.local.leftovers import Leftovers
from gateway.local.republish import Republish, status_payload
from gateway.local.subscriptions import MEMORY_FILE, Memory, Report, Subscriptions, session_name
from gateway.mqtt.endpoint import Will
from gateway.mqtt.link import Link, stop_links
from gateway.mqtt.loopback import check_loopback
from gateway.mqtt.mosquitto_child import MosquittoChild, embedded_program
from gateway.pipeline.commands import AppendBatch
from gateway.status.gateway_status import GatewayStatus
from gateway.wire.alarms import AlarmState, alarm_state
from gateway.wire.home_assistant import Discovery

if TYPE_CHECKING:
    from gateway.mqtt.embedded import EmbeddedBroker

log = logging.getLogger(__name__)


def make_broker(local: Local, data_dir: Path) -> EmbeddedBroker | MosquittoChild:
    """Return the broker that the gateway brings along. Raises BrokerError when it is not installed."""
    secret = local.password
    password = secret.get_secret_value() if isinstance(secret, SecretStr) else None
    program = embedded_program(local.broker)
    where = local.places[0].address
    if program is None:
        from gateway.mqtt.embedded import EmbeddedBroker  # noqa: PLC0415 - amqtt takes long to import

        log.info("the embedded broker is amqtt, in memory")
        return EmbeddedBroker(*where, username=local.username, password=password)
    if local.username is None:
        check_loopback(where[0])
    return MosquittoChild(program, data_dir / "mosquitto", *where, username=local.username, password=password)


class RepublishPart(Part):
    """`gateway.republish`: publishes results, status and backpressure for the devices' side."""

    def __init__(
        self,
        config: Config,
        clock: Clock,
        processing: Processing,
        store: Store,
        buffer_path: Path,
        on_alarm: Callable[[bytes, bytes], object] = lambda _alert, _state: None,
    ) -> None:
        topics, discovery = processing.topics, _discovery(config, processing.topics)
        prefixes = _retained_prefixes(config, topics)
        self._leftovers = Leftovers(
            Path(config.gateway.data_dir) / leftovers.MEMORY_FILE,
            {topics.root: _retained_filters(topics, prefixes, discovery)},
        )
        self.session = Republish(
            buffer_path,
            processing.writer,
            topics.status,
            topics.backpressure,
            partial(_begins_with, prefixes),
            store.meta_int(REPUBLISHED_ID),
            discovery,
            _told(partial(alarm_state, topics), on_alarm),
            frozenset(spec.name for spec in config.window_specs() if not spec.has_order),
            self._leftovers,
        )
        will = Will(topics.status, status_payload("offline"))
        self._link = Link(
            "republish", endpoint(config.local, "-republish", will=will), self.session, clock.now_ms
        )

    def start(self, status: GatewayStatus) -> None:
        self._leftovers.prepare()
        self._link.start()

    def stop(self) -> None:
        stop_links([self._link])
        self.session.finish()

    @property
    def links(self) -> Sequence[Link]:
        return (self._link,)


def _told(
    state_of: Callable[[str, bytes, int], AlarmState | None], on_alarm: Callable[[bytes, bytes], object]
) -> Callable[[str, bytes, int], AlarmState | None]:
    """`state_of`, which also tells `on_alarm` the alert and the state that it brings."""

    def state(topic: str, payload: bytes, time_ms: int) -> AlarmState | None:
        found = state_of(topic, payload, time_ms)
        if found is not None:
            on_alarm(payload, found.payload)
        return found

    return state


class IngestPart(Part):
    """`gateway.ingest`: reads what devices publish; acknowledges it once it is committed."""

    def __init__(self, config: Config, clock: Clock, processing: Processing) -> None:
        local = config.local
        self.topic_filters = list(processing.pipeline.intake.subscriptions())
        self.subscriptions = _subscriptions(config, clock, processing)
        self.session = Ingest(
            self.subscriptions,
            partial(AppendBatch, processing.pipeline),
            processing.writer,
            local.receive_maximum if local.protocol == "5" else None,
            processing.pipeline.intake.presence,
        )
        self.link = Link("ingest", ingest_endpoint(local), self.session, clock.now_ms)

    def start(self, status: GatewayStatus) -> None:
        self.link.start()

    def stop(self) -> None:
        stop_links([self.link])

    @property
    def links(self) -> Sequence[Link]:
        return (self.link,)


def _subscriptions(config: Config, clock: Clock, processing: Processing) -> Subscriptions:
    local = config.local
    path = Path(config.gateway.data_dir) / MEMORY_FILE
    return Subscriptions(
        # QoS 2 is taken at QoS 1: the receipts already make broker → buffer exactly once.
        {name: min(qos, 1) for name, qos in processing.pipeline.intake.subscriptions().items()},
        Memory.read(path),
        Report(lambda memory: memory.write(path), processing.alert, clock.now_ms),
        session=session_name(local.client_id, local.url),
        as_asked=local.subscription,
        kept=not local.embedded or embedded_program(local.broker) is not None,
    )


def _retained_prefixes(config: Config, topics: OwnTopics) -> tuple[str, ...]:
    """Return what the topics of results begin with that are retained."""
    specs = config.window_specs()
    silence = [] if config.devices.silent_after is None else [topics.alarms(SILENT)]
    alarms = [*(topics.alarms(spec.name) for spec in specs), *silence]
    aggregates = (topics.aggregates(spec.name) for spec in specs if spec.retain)
    return (*alarms, *aggregates)


def _retained_filters(topics: OwnTopics, prefixes: tuple[str, ...], discovery: Discovery | None) -> list[str]:
    """Return filters for everything that is retained, the status first."""
    announcements = [] if discovery is None else discovery.retained_filters
    return [topics.status, topics.backpressure, *(f"{prefix}#" for prefix in prefixes), *announcements]


def _begins_with(prefixes: tuple[str, ...], topic: str) -> bool:
    return topic.startswith(prefixes)


def _discovery(config: Config, topics: OwnTopics) -> Discovery | None:
    if config.home_assistant is None:
        return None
    specs = config.window_specs()
    silence = [] if config.devices.silent_after is None else [SILENT]
    alarms = [*(spec.name for spec in specs), *silence]
    prefix = config.home_assistant.discovery_prefix
    return Discovery(prefix, topics, __version__, shown_windows(config), alarms)
