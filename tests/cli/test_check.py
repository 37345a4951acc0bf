"""`gateway check` as people and scripts call it."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from gateway.cli.check import check
from gateway.local.subscriptions import MEMORY_FILE, Memory

APP = typer.Typer()
APP.command()(check)

SOUND = """\
gateway: {id: g}
routes: [{name: r, topic: "a/{device}", fields: {t: x}}]
windows: [{name: w, route: r, field: t, key: "{device}", window: {type: hopping, size: 5m, slide: 1m}}]
cloud: {url: "mqtts://cloud.example", password: s3cret}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(SOUND)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(APP, [str(argument) for argument in arguments])


def test_a_sound_file_is_summed_up(file: Path) -> None:
    result = run("-c", file)
    assert result.exit_code == 0
    assert "r: a/{device} as json, t" in result.stdout
    assert "window w: stats of t by {device}, hopping size 5m slide 1m" in result.stdout
    assert "mqtts://cloud.example (MQTT 5), format batch" in result.stdout


def test_a_file_with_problems_exits_with_1_and_tells_them_on_stderr(file: Path) -> None:
    file.write_text(SOUND.replace("field: t", "field: temp") + "clod: 1\n")
    result = run("-c", file)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "gateway.yaml:3: windows[0].field: no such field: temp" in result.stderr
    assert "gateway.yaml:5: clod: unknown key (did you mean 'cloud'?)" in result.stderr


def test_a_plugin_of_ones_own_is_loaded_with_its_options(file: Path) -> None:
    (file.parent / "plugins").mkdir()
    plugin = file.parent / "plugins" / "mine.py"
    plugin.write_text(
        "class Plugin:\n    def setup(self, options):\n        raise ValueError('no such option')\n"
    )
    file.write_text(SOUND.replace("field: t", "field: t, plugin: mine,\n  options: {depth: 3}"))
    result = run("-c", file)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "gateway.yaml:4: windows[0].options: " in result.stderr
    assert "no such option" in result.stderr


@pytest.mark.parametrize("arguments", [[], ["-c", "no-such-file.yaml"], ["-c", "."], ["--nonsense"]])
def test_a_wrong_call_exits_with_2(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_json_has_the_values_without_the_secrets(file: Path) -> None:
    result = run("-c", file, "--json")
    told = json.loads(result.stdout)
    assert (result.exit_code, told["ok"], told["warnings"]) == (0, True, [])
    assert told["config"]["windows"][0]["window"]["size"] == 300_000
    assert told["config"]["routes"][0]["priority"] == "normal"
    assert "s3cret" not in result.stdout


def test_json_lists_the_problems(file: Path) -> None:
    file.write_text("gateway: {}\n")
    result = run("-c", file, "--json")
    told = json.loads(result.stdout)
    assert (result.exit_code, told["ok"]) == (1, False)
    assert told["problems"] == [
        "gateway.yaml:1: gateway.id: is required",
    ]


def test_the_schema_needs_no_file() -> None:
    result = run("--schema")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["required"] == ["gateway"]


@pytest.mark.parametrize(
    ("broker", "program", "said"),
    [
        ("amqtt", None, "amqtt, in memory"),
        ("auto", None, "amqtt, in memory"),
        ("auto", "/usr/sbin/mosquitto", "/usr/sbin/mosquitto, data in "),
    ],
)
def test_the_program_of_the_embedded_broker_is_named(
    file: Path, broker: str, program: str | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.mqtt.mosquitto_child.find_mosquitto", lambda: program and Path(program))
    file.write_text(f"{SOUND}local: {{url: embedded, broker: {broker}}}\n")
    result = run("-c", file)
    assert f"devices  embedded broker on 127.0.0.1:1883: {said}" in result.stdout


def test_since_when_the_broker_keeps_messages_is_told(file: Path) -> None:
    file.write_text(f"{SOUND}local: {{url: 'mqtt://edge:1883'}}\n")
    file.write_text(file.read_text().replace("{id: g}", f"{{id: g, data_dir: {file.parent}}}"))
    assert "session none yet: what the broker acknowledges before the first start" in run("-c", file).stdout
    known = Memory("gateway-g at mqtt://edge:1883", ["a/+"], 1_700_000_000_000)
    known.write(file.parent / MEMORY_FILE)
    assert "session gateway-g, subscribed since 2023-11-14T22:13:20" in run("-c", file).stdout
