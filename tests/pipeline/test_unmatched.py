"""Fields and keys that no message has are told, with the nearest name and with what came instead."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.decode.fields import FieldSpec
from gateway.decode.presence import Presence
from gateway.decode.routes import RouteSpec, RouteTable
from gateway.pipeline.unmatched import LOOK_EVERY_MS, PATIENCE_MS, Example, UnmatchedNames
from gateway.windows.engine import WindowEngine
from gateway.windows.spec import WindowSpec
from tests.conftest import MosquittoFactory
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.publishing import publish
from tests.support.windowing import shipped

NOW_MS = 1_777_593_600_000


class Site:
    """Routes and windows, and the bookkeeping of the intake about their messages."""

    def __init__(self, reader: RouteSpec, **window: Any) -> None:
        spec = WindowSpec("w", "count", count=2, **({"route": "r"} | window))
        self.routes = RouteTable([reader])
        self.engine = WindowEngine([spec], {"w": shipped("stats")})
        self.specs = [spec]
        self.presence = Presence()
        self.misses: Counter[tuple[str, str]] = Counter()
        self.examples: dict[str, Example] = {}
        self.names = UnmatchedNames()
        self.now_ms = 0

    def take(self, topic: str, message: dict[str, Any]) -> None:
        route, levels = self.routes.match(topic)  # type: ignore[misc]
        payload = orjson.dumps(message)
        decoded = route.decode(topic, levels, payload, NOW_MS)
        name = levels.get("device", topic)
        self.presence.note(name, NOW_MS, True)
        self.presence.note_reading(name, topic, route.spec.name, decoded.samples[-1])
        for miss in decoded.misses:
            self.misses["r", miss] += 1
            self.examples["r"] = Example(topic, payload, NOW_MS)
        list(self.engine.process(topic, "r", levels, decoded.samples, NOW_MS))

    def look(self, after_ms: int = LOOK_EVERY_MS) -> tuple[str, ...]:
        self.now_ms += after_ms
        self.names.look(
            self.now_ms,
            self.routes,
            self.specs,
            self.engine.counters,
            self.misses,
            self.examples,
            self.presence,
        )
        return self.names.told


OPEN = RouteSpec("r", "hall/{device}")


def test_a_window_over_a_field_in_other_letters_is_told_with_the_right_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = Site(OPEN, fields=("temperature",), key="{device}")
    site.take("hall/a", {"Temperature": 21.5, "Humidity": 40})
    said = "window w: no message has temperature; did you mean Temperature? what came: Temperature, Humidity"
    assert site.look() == (said,)
    assert site.look() == (said,)
    assert [record.message for record in caplog.records] == [said], "once"
    site.take("hall/b", {"temperature": 20})
    assert site.look() == ()


def test_a_misspelt_part_of_a_key_is_told() -> None:
    site = Site(OPEN, fields=("t",), key="{devcie}")
    site.take("hall/a", {"t": 21.5})
    (said,) = site.look()
    assert said == "window w: no message has {devcie} of the key; did you mean device? what came: device, t"


def test_a_name_like_no_other_is_told_after_a_while_and_not_if_it_comes() -> None:
    site = Site(OPEN, fields=("power",), key="{device}")
    site.take("hall/a", {"lux": 4})
    assert site.look() == ()
    site.take("hall/b", {"power": 4})
    assert site.look(PATIENCE_MS) == ()
    site.take("hall/b", {"lux": 4})
    assert site.look() == ()
    assert site.look(PATIENCE_MS) == ("window w: no message has power; what came: lux",)


def test_each_field_of_several_is_looked_for() -> None:
    site = Site(OPEN, fields=("t", "humidty"), key="{device}")
    site.take("hall/a", {"t": 21.5, "humidity": 40})
    assert [said.partition(";")[0] for said in site.look()] == ["window w: no message has humidty"]


def test_a_field_that_is_never_a_number_is_told_with_what_it_is() -> None:
    site = Site(OPEN, fields=("t",), key="{device}")
    site.take("hall/a", {"t": "unavailable"})
    assert site.look() == ("window w: t is no number in any message; it came as text, such as 'unavailable'",)
    site.take("hall/a", {"t": 5})
    assert site.look() == ()


@pytest.mark.parametrize("path", ["env.temprature", FieldSpec("env.temprature", scale=0.1)])
def test_a_field_of_a_route_that_finds_nothing_is_told_with_the_path_that_is_there(path: Any) -> None:
    site = Site(RouteSpec("r", "hall/{device}", fields={"t": path, "lux": "lux"}), fields=("lux",))
    site.take("hall/a", {"env": {"temperature": 21.5}, "lux": 4})
    assert site.look() == (
        "route r: no message has t; did you mean env.temperature? what came: env.temperature, lux",
    )
    site.take("hall/b", {"env": {"temprature": 21.5}, "lux": 4})
    assert site.look() == ()


def test_a_window_over_topics_looks_at_those_alone() -> None:
    site = Site(OPEN, fields=("temp",), key="{device}", route=None, topic="hall/{device}")
    site.take("hall/a", {"temp1": 21.5})
    (said,) = site.look()
    assert "did you mean temp1?" in said


def test_what_matches_is_not_told() -> None:
    site = Site(OPEN, fields=("t",), key="{device}/{room}")
    site.take("hall/a", {"t": 21.5, "room": "x"})
    assert site.look() == site.look(PATIENCE_MS) == ()


@pytest.mark.slow
def test_log_api_and_metrics_of_a_running_gateway_tell_it(
    tmp_path: Path, mosquitto: MosquittoFactory
) -> None:
    broker = mosquitto()
    route = {"name": "sensors", "topic": "sensors/{device}", "fields": {"v": {"from": "v", "unit": "kWh"}}}
    with GatewayProcess(gateway_config(tmp_path, broker.url, routes=[route])) as gateway:
        gateway.wait_ready()
        publish(broker.port, [("sensors/a", json.dumps({"t": NOW_MS, "V": 4.5}))])
        wait_until(lambda: gateway.metric("gateway_unmatched_names") == 1, "the metric")
        (said,) = json.loads(gateway.get("/api/state") or "")["unmatched"]
        assert said == "route sensors: no message has v; did you mean V? what came: t, V"
        assert gateway.log().count(said) == 1
        assert gateway.metric('gateway_field_unit{field="v",route="sensors",unit="kWh"}') == 1
