"""`gateway plugin check` with the options and fields of a window."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from tests.support.gateways import gateway_config

# It needs two fields, and a limit.
PLUGIN = '''"""The share of readings whose fields differ by more than `limit`."""


class Plugin:
    def setup(self, options):
        if "limit" not in options:
            raise ValueError("limit is missing")
        self._fields = options["fields"]
        if len(self._fields) != 2:
            raise ValueError("it compares two fields")

    def create_accumulator(self):
        return [0]

    def add_input(self, acc, reading):
        first, second = (reading.fields.get(name) for name in self._fields)
        return [acc[0] + (first != second)]

    def merge_accumulators(self, accumulators):
        return [sum(acc[0] for acc in accumulators)]

    def extract_output(self, acc):
        return {"differ": acc[0]}
'''


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "differ.py").write_text(PLUGIN)
    window = {"type": "tumbling", "size": "1m"}
    windows: list[dict[str, object]] = [
        {"name": "ab", "route": "r", "fields": ["a", "b"], "plugin": "differ", "options": {"limit": 3}},
        {"name": "mean", "route": "r", "field": "a"},
    ]
    return gateway_config(
        tmp_path,
        "mqtt://127.0.0.1:9",
        plugins={"path": "plugins"},
        routes=[{"name": "r", "topic": "t/{device}"}],
        windows=[{**one, "window": window} for one in windows],
    )


def check(config: Path, *options: str) -> tuple[int, str]:
    folder = str(config.parent / "plugins")
    done = CliRunner().invoke(app, ["plugin", "check", "differ", "-p", folder, *options])
    return done.exit_code, f"{done.output}{done.exception or ''}"


def test_the_window_says_options_and_fields(config: Path) -> None:
    assert check(config, "-c", "nowhere.yaml")[0] == 1
    for options in (["--window", "ab"], []):  # it is the only window with this plugin
        code, text = check(config, "-c", str(config), *options)
        assert (code, "differ keeps the contract" in text) == (0, True), text
    assert check(config, "-c", str(config), "--field", "a")[0] == 1


@pytest.mark.parametrize(
    ("window", "complaint"), [("ba", "has no window ba; there is ab, mean"), ("mean", "mean uses stats")]
)
def test_another_window_is_refused_in_words(config: Path, window: str, complaint: str) -> None:
    code, text = check(config, "-c", str(config), "--window", window)
    assert code == 2
    assert complaint in " ".join(text.replace("│", " ").split())


def test_the_list_of_plugins_fits_80_columns() -> None:
    done = CliRunner().invoke(app, ["plugin", "list"])
    lines = [line for line in done.output.splitlines() if not line.strip().startswith("/")]
    assert any("time_weighted" in line for line in lines)
    assert max(map(len, lines)) <= 80
