"""Decoders of one's own: found in the folder of plugins, named by routes, and never able to stop anything."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli import plugin as plugin_command
from gateway.config import parse_config
from gateway.core.errors import ConfigError
from gateway.decode.routes import RouteTable
from gateway.pipeline.decoder_plugins import find_decoders
from gateway.pipeline.plugins_loader import find_plugins
from tests.support.decoding import decode_with

NOW_MS = 1_777_593_600_000
CONFIG = 'gateway: {id: g}\nroutes: [{name: r, topic: "d/{device}", decoder: meter_x, qos: 1}]\n'
DECODER = '''"""Reads the two bytes of meter X."""

class Decoder:
    readings = "rows"
    fields = {"w": "watt"}
    timestamp_path = "at"
    timestamp_format = "unix_ms"

    def decode(self, payload):
        if payload == b"boom":
            raise RuntimeError("no such message")
        return {"rows": [{"watt": byte} for byte in payload], "at": 1777593599000}
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "meter_x.py").write_text(DECODER)
    return plugins


def test_a_route_reads_with_a_decoder_of_the_plugins_folder(folder: Path) -> None:
    config = parse_config(CONFIG, folder.parent)
    decoded = decode_with(RouteTable(config.route_specs()), "d/x", b"\x07\x09", NOW_MS)
    assert [dict(sample.fields) for sample in decoded.samples] == [{"w": 7}, {"w": 9}]
    assert decoded.event_time_ms == NOW_MS - 1000


def test_another_folder_can_be_named(folder: Path) -> None:
    elsewhere = folder.rename(folder.parent / "mine")
    config = parse_config(CONFIG + "plugins: {path: mine}\n", elsewhere.parent)
    assert config.routes[0].decoder == "meter_x"


def test_what_a_decoder_raises_is_a_payload_that_cannot_be_read(folder: Path) -> None:
    table = RouteTable(parse_config(CONFIG, folder.parent).route_specs())
    decoded = decode_with(table, "d/x", b"boom", NOW_MS)
    assert (decoded.problem, decoded.samples) == ("plugin", ())


def test_a_window_over_a_field_that_the_decoder_does_not_name_is_a_problem(folder: Path) -> None:
    window = "windows: [{name: w, route: r, field: watts, window: {type: count, count: 1}}]"
    with pytest.raises(ConfigError) as raised:
        parse_config(CONFIG + window, folder.parent)
    assert "no such field: watts" in raised.value.problems[0]


def test_an_unknown_decoder_is_told_with_the_nearest_name_and_a_broken_one_with_the_reason(
    folder: Path,
) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_config(CONFIG.replace("meter_x", "meter_y"), folder.parent)
    assert "did you mean 'meter_x'?" in raised.value.problems[0]
    (folder / "meter_x.py").write_text(
        "class Decoder:\n    readings = 'foo(@)'\n    def decode(self, payload): ...\n"
    )
    with pytest.raises(ConfigError) as raised:
        parse_config(CONFIG, folder.parent)
    assert "no function foo()" in raised.value.problems[0]
    (folder / "meter_x.py").write_text("class Decoder:\n    pass\n")
    with pytest.raises(ConfigError) as raised:
        parse_config(CONFIG, folder.parent)
    assert "no method decode(payload)" in raised.value.problems[0]


def test_a_decoder_is_no_plugin_for_windows_and_cannot_hide_one_of_the_gateway(folder: Path) -> None:
    (folder / "json.py").write_text(DECODER)
    assert "meter_x" in find_decoders(folder)
    assert "json" not in find_decoders(folder)
    assert "meter_x" not in find_plugins(folder)


def test_a_decoder_is_written_listed_and_checked_by_the_command(tmp_path: Path) -> None:
    plugins = str(tmp_path / "p")
    runner = CliRunner()
    made = runner.invoke(plugin_command.app, ["new", "probe", "--kind", "decoder", "-p", plugins])
    assert made.exit_code == 0
    listed = runner.invoke(plugin_command.app, ["list", "-p", plugins])
    assert "decoder: probe: which payloads it reads" in listed.stdout
    for named in ("probe", str(tmp_path / "p" / "probe.py")):
        checked = runner.invoke(plugin_command.app, ["check", named, "-p", plugins])
        assert (checked.exit_code, "probe is a decoder" in checked.stdout) == (0, True)
    config = parse_config(CONFIG.replace("meter_x", "probe") + "plugins: {path: p}\n", tmp_path)
    decoded = decode_with(RouteTable(config.route_specs()), "d/x", b"\x00\xd7\x28", NOW_MS)
    assert dict(decoded.samples[0].fields) == {"temperature": 21.5, "humidity": 40}
