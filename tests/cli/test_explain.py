"""`gateway explain`, and `gateway check --against`: what becomes of messages, in words."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from gateway.cli import explain as explain_command
from gateway.cli.check import check

CONFIG = """\
gateway: {id: g}
routes:
  - {preset: tasmota, timestamp_timezone: Europe/Berlin}
  - name: hall
    topic: hall/{device}
    fields: {temperature: temperature, open: {from: door, map: {OPEN: 1, CLOSED: 0}}}
    where: "temperature < 90"
    timestamp_path: at
    timestamp_format: unix
windows:
  - {name: air, route: tasmota, field: Temperature, key: "{sensor}", window: {type: tumbling, size: 1m}}
  - {name: hot, route: hall, field: temperature, key: "{device}", window: {type: tumbling, size: 1m}}
  - {name: doors, route: hall, field: open, key: "{device}", window: {type: tumbling, size: 1h}}
"""
ARRIVAL = "2026-05-01T00:00:10Z"
AT = 1_777_593_609  # a second before


def apps() -> typer.Typer:
    app = typer.Typer()
    app.add_typer(explain_command.app)
    app.command("check")(check)
    return app


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(CONFIG)
    return path


def run(*arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(apps(), [str(argument) for argument in arguments], input=stdin)


def explained(config: Path, topic: str, payload: str, *more: str) -> Result:
    return run("explain", topic, payload, "-c", config, "--time", ARRIVAL, *more)


@pytest.mark.parametrize("payload", ["-3.9", "-1e3", "-.5", "-7"])
def test_a_negative_number_is_a_payload_and_no_option(tmp_path: Path, payload: str) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("gateway: {id: g}\nroutes: [{name: r, topic: t, decoder: number}]\n")
    for arguments in (
        ("t", payload, "-c", path),
        ("-c", path, "t", payload),
        ("-c", path, "t", "--", payload),
    ):
        result = run("explain", "--json", *arguments)
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["readings"][0]["fields"] == {"value": float(payload)}
    assert run("explain", "t", "--jsn").exit_code == 2


def test_a_message_is_shown_from_its_route_to_the_windows_and_keys_that_it_falls_into(config: Path) -> None:
    result = explained(config, "hall/x7", json.dumps({"temperature": 21.5, "door": "OPEN", "at": AT}))
    assert result.exit_code == 0
    for line in (
        "route    hall (device=x7)",
        "  temperature = 21.5 (number)",
        "  open = 1 (whole number)",
        "time     2026-05-01T00:00:09.000Z: the device said 2026-05-01T00:00:09.000Z, 1.0s from the arrival",
        "window   hot of x7, 2026-05-01T00:00:00.000Z to 2026-05-01T00:01:00.000Z: ",
        "window   doors of x7, 2026-05-01T00:00:00.000Z to 2026-05-01T01:00:00.000Z: ",
    ):
        assert line in result.stdout


def test_a_field_is_shown_with_its_unit(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    fields = "{energy: {from: e, scale: 0.5, unit: kWh}, plain: p}"
    path.write_text(f"gateway: {{id: g}}\nroutes: [{{name: r, topic: t, fields: {fields}}}]\n")
    shown = run("explain", "t", '{"e": 43, "p": 1}', "-c", path).stdout
    assert "  energy = 21.5 kWh (number)" in shown
    assert "  plain = 1 (whole number)" in shown
    told = json.loads(run("explain", "t", '{"e": 43, "p": 1}', "-c", path, "--json").stdout)
    assert told["readings"][0]["units"] == {"energy": "kWh"}


def test_a_field_that_is_called_differently_is_told_with_the_name_that_came(config: Path) -> None:
    result = explained(config, "hall/x7", '{"temprature": 21.5, "door": "ajar"}')
    assert "miss     temperature: did you mean temprature?" in result.stdout
    assert "came     temprature, door" in result.stdout
    assert "the arrival, because there is no usable time at at" in result.stdout


def test_what_is_filtered_unreadable_or_on_no_route_is_said_and_the_exit_code_is_1(config: Path) -> None:
    for topic, payload, told in (
        ("hall/x7", '{"temperature": 95}', "filtered 1 readings"),
        ("hall/x7", "{", "problem  json"),
        ("attic", "1", "route    none: no route takes this topic"),
    ):
        result = explained(config, topic, payload)
        assert (result.exit_code, told in result.stdout) == (1, True)


def test_a_window_says_why_it_does_not_count_a_message(config: Path) -> None:
    result = explained(config, "tele/x/SENSOR", '{"BME": {"Humidity": 40}}')
    assert "window   air: no number in Temperature" in result.stdout


def test_a_corrected_time_is_explained(config: Path) -> None:
    result = explained(config, "hall/x7", json.dumps({"temperature": 21.5, "at": AT - 7200}))
    assert "which is more than `time` lets pass: moved (clock_skew, corrected)" in result.stdout


def test_bytes_of_a_file_stdin_and_base64_are_taken_and_json_is_given(config: Path, tmp_path: Path) -> None:
    file = tmp_path / "payload"
    file.write_bytes(b'{"temperature": 21.5}')
    for payload, more in ((f"@{file}", []), ("eyJ0ZW1wZXJhdHVyZSI6IDIxLjV9", ["--base64"])):
        found = json.loads(explained(config, "hall/x7", payload, "--json", *more).stdout)
        assert found["readings"][0]["fields"] == {"temperature": 21.5}
        assert found["readings"][0]["types"] == {"temperature": "number"}
        assert [share["window"] for share in found["windows"]] == ["hot", "doors"]
    from_stdin = run("explain", "hall/x7", "-", "-c", config, stdin='{"temperature": 7}')
    assert "temperature = 7 (whole number)" in from_stdin.stdout


def test_samples_show_the_readings_that_each_gives_and_what_no_sample_has(
    config: Path, tmp_path: Path
) -> None:
    samples = tmp_path / "samples.ndjson"
    lines = [
        {
            "topic": "hall/x7",
            "payload": {"Temperature": 21.5, "door": "OPEN", "at": AT},
            "time_ms": AT * 1000 + 500,
        },
        {"topic": "tele/x/SENSOR", "payload": {"BME": {"temperature": 20}}},
        {"topic": "attic", "payload": "1"},
        {"topic": "hall/x7", "payload": "{"},
    ]
    samples.write_text("\n".join(map(json.dumps, lines)))
    result = run("check", "-c", config, "--against", samples)
    assert result.exit_code == 0
    for line in (
        "1 hall/x7 (hall): misses temperature, @where",
        '2 tele/x/SENSOR (tasmota): {"sensor": "BME", "temperature": 20} on arrival',
        "3 attic: no route takes it",
        "4 hall/x7 (hall): cannot be read (json)",
        "warning: route hall: no sample has temperature; did you mean Temperature?",
        "warning: window air: no sample has the field Temperature; did you mean temperature?",
    ):
        assert line in result.stdout
    found = json.loads(run("check", "-c", config, "--against", samples, "--json").stdout)
    assert len(found["samples"]) == 4


def test_samples_that_cannot_be_read_are_an_error(config: Path, tmp_path: Path) -> None:
    assert run("check", "-c", config, "--against", tmp_path / "none").exit_code == 2
