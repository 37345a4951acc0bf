"""A trial that is taken back leaves the windows as if it had never been, whatever it had done to them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.app.gateway import Gateway
from gateway.config import load_config
from gateway.config.origin import ConfigOrigin
from tests.conftest import MosquittoFactory
from tests.support.brokers import Broker
from tests.support.buffers import EPOCH_MS, opened, reading, sql
from tests.support.gateways import gateway_config, wait_until
from tests.support.publishing import publish

PROVEN = ConfigOrigin(hash="a1")
TRIAL = ConfigOrigin(source="signed", hash="b2", on_trial=True)
LATER = replace(TRIAL, hash="c3")
HOUR_MS = 3_600_000


class Site:
    """A gateway with a window of an hour and an alarm, run with one configuration after the other."""

    def __init__(self, folder: Path, local: Broker) -> None:
        self._local = local
        window = {"route": "sensors", "field": "v", "key": "{device}"}
        hour = window | {"name": "hour", "window": {"type": "tumbling", "size": "1h"}}
        each = {"type": "count", "count": 1}
        hot = hour | {"name": "hot", "window": each, "plugin": "threshold", "options": {"above": 50}}
        sections: dict[str, Any] = {"windows": [hour, hot], "http": "off"}
        self._file = gateway_config(folder, local.url, **sections)
        self._settings = yaml.safe_load(self._file.read_text())
        self.buffer = folder / "data" / "events.db"
        self.sent = 0

    @contextmanager
    def running(self, origin: ConfigOrigin, **sections: Any) -> Iterator[Gateway]:
        self._file.write_text(yaml.safe_dump(self._settings | sections))
        gateway = Gateway(load_config(self._file), origin)
        gateway.start()
        try:
            wait_until(lambda: not gateway.status.readiness(), "it is ready")
            yield gateway
        finally:
            gateway.stop()

    def publish(self, *values: float, at_ms: int = 1000, device: str = "d1") -> None:
        readings = [
            (f"sensors/{device}", json.dumps({"t": EPOCH_MS + at_ms, "v": value})) for value in values
        ]
        publish(self._local.port, readings)
        self.sent += len(values)
        wait_until(lambda: self._stored() >= self.sent, "it is stored")

    def results(self, window: str) -> list[dict[str, Any]]:
        """The aggregates of the first device, newest last."""
        with reading(self.buffer) as reader:
            found = [
                json.loads(payload)
                for events in [reader.derived_after(0, 1000)]
                for payload in reader.payloads(events)
            ]
        return [one for one in found if (one.get("window"), one.get("key")) == (window, "d1")]

    def _stored(self) -> int:
        ((count,),) = sql(self.buffer, "SELECT count(*) FROM buffer_events WHERE kind = 0")
        return int(count)


@pytest.fixture
def site(tmp_path: Path, mosquitto: MosquittoFactory) -> Site:
    return Site(tmp_path, mosquitto())


def only(site: Site, name: str) -> list[dict[str, Any]]:
    return [window for window in site._settings["windows"] if window["name"] == name]


@pytest.mark.parametrize("trials", [[TRIAL], [TRIAL, TRIAL], [TRIAL, LATER]])
def test_windows_that_a_trial_left_out_have_every_reading_once_it_is_taken_back(
    site: Site, trials: list[ConfigOrigin]
) -> None:
    with site.running(PROVEN):
        site.publish(1, 2, 3)
        site.publish(99, device="d2")
        wait_until(lambda: sql(site.buffer, "SELECT 1 FROM alarms"), "the alarm")
    for origin in trials:
        with site.running(origin, windows=[]):
            site.publish(3)
    with site.running(PROVEN):
        site.publish(4)
        site.publish(5, at_ms=2 * HOUR_MS)  # closes the hour
        wait_until(lambda: site.results("hour"), "the result")
    (result,) = site.results("hour")
    assert result["count"] == 4 + len(trials)
    assert sql(site.buffer, "SELECT state FROM alarms") == [("active",)]
    with opened(site.buffer) as store:
        assert store.windows_aside.owner is None


def test_one_that_proved_itself_goes_on_with_its_own_windows(site: Site) -> None:
    with site.running(PROVEN):
        site.publish(1, 2)
    with site.running(TRIAL, windows=only(site, "hour")) as gateway:
        site.publish(3)
        gateway.end_trial()
        wait_until(
            lambda: not sql(site.buffer, "SELECT 1 FROM meta WHERE name = 'trial_owner'"), "it is over"
        )
    with site.running(replace(TRIAL, on_trial=False), windows=only(site, "hour")):
        site.publish(5, at_ms=2 * HOUR_MS)
        wait_until(lambda: site.results("hour"), "the result")
    assert site.results("hour")[0]["count"] == 3


def test_events_since_the_beginning_of_a_trial_are_not_evicted(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        with store.transaction():
            store.set_windows_aside(7)
        assert store.windows_aside.oldest_needed(100) == 0
        with store.transaction():
            store.windows_aside.forget()
        assert store.windows_aside.oldest_needed(100) == 100
