"""What a receiver misses again and again goes ever less often, and every part of a long list goes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from gateway.buffer.store import Store
from gateway.buffer.writer import Writer
from gateway.cloud.confirmations import Confirmations
from gateway.cloud.resends import AT_ONCE, MOST_TIMES, Resends
from gateway.core.events import Message, Status
from gateway.core.own_topics import OwnTopics
from gateway.core.sequence_sets import Stretch, Stretches
from gateway.delivery.states import DeliveryEvent
from gateway.mqtt.link import Link
from gateway.wire.confirmation import Confirmation, StreamConfirmation, confirmation_messages
from tests.support.buffers import append, events
from tests.support.gateways import wait_until

MINUTE_MS = 60_000
DAY_MS = 24 * 60 * MINUTE_MS


class Wire:
    """A link that counts what is acknowledged on it."""

    def __init__(self) -> None:
        self.acknowledged = 0

    def ack(self, message: Message) -> None:
        self.acknowledged += 1

    def wake(self) -> None:
        """Do nothing: the test calls `work` itself."""

    def subscribe(self, filters: Sequence[tuple[str, int]]) -> None:
        """Do nothing: the statements come from the test."""


class Site:
    """A buffer of which everything is delivered, and what hears a receiver's statements about it."""

    def __init__(self, store: Store, writer: Writer, path: Path) -> None:
        self._store, self._writer = store, writer
        self.time_ms = 1
        self.alerts: list[str] = []
        topics = OwnTopics("gateway", "g1")
        self.confirmations = Confirmations(
            topics, path, writer, lambda: self.time_ms, lambda name, _text: self.alerts.append(name)
        )
        self._topic = topics.confirm
        self._wire = Wire()
        self._link = cast(Link, self._wire)
        self.confirmations.connected(self._link, False)

    def deliver(self) -> None:
        def take(store: Store) -> None:
            store.checkpoint([])
            store.move(store.claim(100_000), Status.SYNCING, DeliveryEvent.PUBACK)

        self._writer.call(take, 10)

    def hear(self, audit_ms: int, missing: Sequence[Stretch] = (), have: Sequence[Stretch] = ()) -> int:
        """Take a statement about t/a; returns how many events go again, and delivers them."""
        before = self._store.counts["resent", ""]
        told = StreamConfirmation("t/a", tuple(have), tuple(missing))
        for payload in confirmation_messages(
            Confirmation("g1", self._store.identity.buffer_id, audit_ms, (told,))
        ):
            goal = self._wire.acknowledged + 1
            message = Message(self._topic, payload, 1, False, False, 1, 1, 1)
            self.confirmations.received(self._link, [message])
            wait_until(lambda goal=goal: self._has_settled(goal), "the statement is taken")
        self.deliver()
        return self._store.counts["resent", ""] - before

    def _has_settled(self, goal: int) -> bool:
        while self.confirmations.work(self._link) == 0.0:
            pass
        return self._wire.acknowledged >= goal


@contextmanager
def site(path: Path, count: int) -> Iterator[Site]:
    store = Store(path)
    store.open()
    append(store, events(count))
    writer = Writer(store)
    writer.start()
    made = Site(store, writer, path)
    made.deliver()
    try:
        yield made
    finally:
        made.confirmations.finish()
        writer.stop()
        store.close()


def test_what_a_receiver_cannot_read_goes_ever_less_often_with_an_alert(tmp_path: Path) -> None:
    with site(tmp_path / "events.db", 3) as gateway:
        went = []
        for minute in range(1, 31):  # an audit each minute
            gateway.time_ms = minute * MINUTE_MS
            if gateway.hear(gateway.time_ms - 1, missing=[(2, 2)]):
                went.append(minute)
        assert went == [1, 2, 3, 4, AT_ONCE, 7, 10, 15, 24]
        assert gateway.confirmations.metrics.refused_events == 1
        assert set(gateway.alerts) == {"confirm_refused"}
        gateway.hear(gateway.time_ms, have=[(1, 3)])
        assert gateway.confirmations.metrics.refused_events == 0


def test_all_parts_of_a_list_that_took_several_messages_go(tmp_path: Path) -> None:
    missing = [(number, number) for number in range(1, 8000, 2)]
    with site(tmp_path / "events.db", 8000) as gateway:
        gateway.time_ms = 10
        assert gateway.hear(9, missing=missing) == len(missing)
        gateway.time_ms = 20
        assert gateway.hear(9, missing=missing) == 0  # they may be on their way
        assert gateway.hear(11, missing=missing) == len(missing)


def test_others_that_went_often_do_not_hold_up_what_is_missing_for_the_first_time() -> None:
    resends = Resends()
    for time_ms in range(0, 20 * DAY_MS, DAY_MS):
        assert resends.due([(5, 9)], time_ms + DAY_MS) == [(5, 9)]
        resends.sent(Stretches([(5, 9)]), time_ms)
    assert resends.due([(1, 12)], 19 * DAY_MS + 1) == [(1, 4), (10, 12)]
    assert resends.refused == 5
    resends.forget([(1, 7)])
    assert resends.refused == 2
    resends.forget([(8, 9)])
    assert not resends


def test_what_no_receiver_can_ever_read_goes_a_limited_number_of_times(tmp_path: Path) -> None:
    with site(tmp_path / "events.db", 3) as gateway:
        went = 0
        for day in range(1, 2 * MOST_TIMES):
            gateway.time_ms = day * DAY_MS
            went += gateway.hear(gateway.time_ms - 1, missing=[(2, 2)])
        assert went == MOST_TIMES
        assert gateway.confirmations.metrics.refused_events == 1
        assert gateway.hear(gateway.time_ms, missing=[(2, 3)]) == 1  # the other one goes
