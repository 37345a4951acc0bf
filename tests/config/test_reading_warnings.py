"""`check` warns of fields that are only comparisons, of settings without effect, and of misspelt names."""

from typing import Any

import pytest

from gateway.config import parse_config, warnings_of
from gateway.core.errors import ConfigError

SPAN = "window: {type: tumbling, size: 1m}"


def warnings(routes: str, windows: str = "[]") -> list[str]:
    return list(warnings_of(parse_config(f"gateway: {{id: g}}\nroutes: [{routes}]\nwindows: {windows}")))


@pytest.mark.parametrize(("name", "count"), [("site.1", 1), ("site-1", 0)])
def test_a_point_in_the_gateways_id_is_a_warning(name: str, count: int) -> None:
    config = parse_config(f"gateway: {{id: {name}}}\nroutes: [{{name: r, topic: a}}]\nwindows: []")
    assert len([one for one in warnings_of(config) if one.startswith("gateway.id")]) == count


@pytest.mark.parametrize("path", ["burner == 'on'", "!off", "a == 'x' || b == 'y'", "a > `3` && !b"])
def test_a_field_that_is_only_a_comparison_is_a_warning(path: str) -> None:
    (warning,) = warnings(f'{{name: r, topic: a, fields: {{f: "{path}"}}}}')
    assert "the field f is only a comparison" in warning
    assert "map" in warning


@pytest.mark.parametrize("path", ["a || b", "a.b", "{x}", "sum(a)", "@", "a[?b=='c'].d | [0]"])
def test_other_expressions_are_none(path: str) -> None:
    assert warnings(f'{{name: r, topic: "t/{{x}}", fields: {{f: "{path}"}}}}') == []


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("timestamp_format: unix", "timestamp_format has no effect"),
        ("timestamp_timezone: Europe/Rome", "timestamp_timezone has no effect"),
        ("timestamp: trusted", "timestamp has no effect"),
        ("timestamp_min: 1h", "timestamp_min has no effect"),
        ("timestamp_path: t, timestamp_format: unix, timestamp_timezone: Europe/Rome", "unix_local"),
        (
            "timestamp_path: t, timestamp_format: '%H %z', timestamp_timezone: Asia/Tokyo",
            "%H %z says its zone",
        ),
    ],
)
def test_a_setting_without_effect_is_a_warning(settings: str, told: str) -> None:
    (warning,) = warnings(f"{{name: r, topic: a, {settings}}}")
    assert told in warning


@pytest.mark.parametrize(
    "route",
    [
        "{name: r, topic: a, timestamp_path: t, timestamp_timezone: Europe/Rome}",
        "{name: r, topic: a, timestamp: ingest}",
        "{name: r, topic: a, decoder: influx, timestamp: trusted, timestamp_format: unix}",
        "{preset: tasmota, timestamp_timezone: Europe/Rome}",
        "{name: r, topic: a, timestamp_path: t, timestamp_format: unix_local, timestamp_timezone: UTC}",
    ],
)
def test_a_setting_with_an_effect_is_none(route: str) -> None:
    assert warnings(route) == []


@pytest.mark.parametrize(
    ("window", "told"),
    [
        ("{name: w, route: tasmota, field: temperature, " + SPAN + "}", "did you mean Temperature?"),
        ("{name: w, route: tasmota, field: Temprature, " + SPAN + "}", "did you mean Temperature?"),
        ("{name: w, route: tasmota, field: Power, key: '{devcie}', " + SPAN + "}", "did you mean {device}?"),
    ],
)
def test_a_name_that_is_nearly_one_of_the_preset_is_a_warning(window: str, told: str) -> None:
    (warning,) = warnings("{preset: tasmota}", f"[{window}]")
    assert told in warning


def test_a_name_of_a_sensor_of_ones_own_is_none() -> None:
    window = "{name: w, route: tasmota, field: SoilMoisture7, key: '{device}/{Id}', " + SPAN + "}"
    assert warnings("{preset: tasmota}", f"[{window}]") == []


@pytest.mark.parametrize("key", ["{device", "device}", "{{device}}", "{}", "{a b}"])
def test_a_brace_without_a_partner_is_a_problem(key: Any) -> None:
    with pytest.raises(ConfigError) as raised:
        warnings("{preset: tasmota}", f"[{{name: w, route: tasmota, field: Power, key: '{key}', {SPAN}}}]")
    assert "a brace has no partner" in raised.value.problems[0]
