"""The configuration in use as people write it, without its secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import parse_config
from gateway.config.effective import duration_text, effective, size_text
from gateway.core.units import parse_duration_ms, parse_size_bytes
from tests.support.places import DOCS

ENVIRONMENT = dict.fromkeys(
    ("MQTT_PASSWORD", "CLOUD_PASSWORD", "HTTP_TOKEN"), "a-secret-of-more-than-sixteen-letters"
)


def values_of(text: str, folder: Path) -> dict[str, str]:
    return {line.path: line.value for line in effective(parse_config(text, folder, environ=ENVIRONMENT))}


MINIMAL = """
gateway: {id: g1, data_dir: data}
local: {url: "mqtt://127.0.0.1:1883", username: u, password: hush-hush-hush}
cloud:
  url: "wss://cloud.example/mqtt"
  proxy: "http://me:hush-hush-hush@proxy.example:3128"
  headers: {Authorization: Bearer hush-hush-hush}
http: {listen: 127.0.0.1:8099, token: hush-hush-hush-hush}
flow: {memory: 128MiB}
routes:
  - {name: r, topic: "s/{device}", priority: critical, timestamp_min: "2020-01-01",
     fields: {t: {from: a, scale: 0.1}}}
windows: [{name: w, route: r, field: t, key: "{device}", window: {type: tumbling, size: 90s}}]
"""


def test_values_stand_as_people_write_them(tmp_path: Path) -> None:
    values = values_of(MINIMAL, tmp_path)
    assert values["windows.w.window.size"] == "1m30s"
    assert values["windows.w.idle_timeout"] == "auto"
    assert values["routes.r.priority"] == "critical"
    assert values["routes.r.timestamp_min"] == "2020-01-01"
    assert values["routes.r.fields.t.scale"] == "0.1"
    assert values["http.listen"] == "127.0.0.1:8099"
    assert values["flow.memory"] == "128MiB"
    assert values["buffer.max_size"].endswith("iB")


def test_no_secret_is_among_them(tmp_path: Path) -> None:
    values = values_of(MINIMAL, tmp_path)
    assert [path for path, value in values.items() if "hush" in value] == []
    assert values["local.password"] == values["http.token"] == values["cloud.headers"] == "(hidden)"
    assert values["cloud.proxy"] == "http://proxy.example:3128"


def test_what_the_file_names_is_told_from_defaults(tmp_path: Path) -> None:
    given = {line.path: line.given for line in effective(parse_config(MINIMAL, tmp_path))}
    assert given["windows.w.window.size"]
    assert not given["windows.w.allowed_lateness"]
    assert not given["buffer.max_size"]


@pytest.mark.parametrize("name", ["home.yaml", "minimal.yaml", "plant.yaml"])
def test_no_example_shows_how_code_holds_a_value(name: str) -> None:
    path = DOCS / "examples" / name
    for place, value in values_of(path.read_text(), path.parent).items():
        assert not {*"<>"} & {*value}, f"{place}: {value}"
        assert not value.startswith('{"ms"'), f"{place}: {value}"


@pytest.mark.parametrize("ms", [0, 1, 999, 60_000, 90_500, 86_400_000, 694_861_001])
def test_a_duration_reads_back_as_itself(ms: int) -> None:
    assert parse_duration_ms(duration_text(ms)) == ms


@pytest.mark.parametrize("count", [1, 1000, 1024, 64 * 1024**2, 5 * 1024**3, 1025])
def test_a_size_reads_back_as_itself(count: int) -> None:
    assert parse_size_bytes(size_text(count)) == count
