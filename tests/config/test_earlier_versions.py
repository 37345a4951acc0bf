"""`gateway check --for-version`: what a released version does not know, and what its buffer needs."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.buffer.migration import SCHEMA_VERSION, copy_path
from gateway.cli import app
from gateway.config.earlier_versions import earlier_version, version_names
from tests.support.buffers import opened
from tests.support.places import ROOT

OLD = """\
gateway: {id: g1}
local: {url: embedded}
routes:
  - {preset: tasmota}
  - {name: own, topic: "t/{d}", fields: {a: b}, decoder: json}
windows:
  - {name: m, route: own, field: a, window: {type: tumbling, size: 1m}}
  - {name: mine, route: own, field: a, plugin: mine, window: {type: session, gap: 30s}}
buffer: {backup: off}
"""


def check(folder: Path, text: str, version: str = "0.1.0") -> tuple[int, str]:
    (folder / "plugins").mkdir(exist_ok=True)
    (folder / "plugins" / "mine.py").write_text((ROOT / "plugins" / "stats.py").read_text())
    path = folder / "gateway.yaml"
    path.write_text(text)
    done = CliRunner().invoke(app, ["check", "-c", str(path), "--for-version", version])
    return done.exit_code, f"{done.output}{done.exception or ''}"


def test_a_configuration_of_old_keys_can_go_back(tmp_path: Path) -> None:
    code, text = check(tmp_path, OLD)
    assert (code, "version 0.1.0 can use this configuration" in text) == (0, True), text


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("buffer: {backup: off}", "history: {aggregates: 30d}"), "history: version 0.1.0 does not have"),
        (("preset: tasmota", "preset: statestream"), "version 0.1.0 has no preset statestream"),
        (("field: a, window", "field: a, publish: {partial: true}, window"), "windows[0].publish.partial"),
    ],
)
def test_what_a_version_does_not_know_is_named_with_its_line(
    tmp_path: Path, change: tuple[str, str], complaint: str
) -> None:
    code, text = check(tmp_path, OLD.replace(*change))
    assert code == 1
    assert complaint in text
    assert "gateway.yaml:" in text


def test_the_buffer_of_a_newer_version_needs_its_copy(tmp_path: Path) -> None:
    found = earlier_version("0.1.0")
    assert found is not None
    assert found.buffer_schema < SCHEMA_VERSION
    (tmp_path / "data").mkdir()
    with opened(tmp_path / "data" / "events.db") as store:
        path = store.path
    assert "no copy of it is here" in check(tmp_path, OLD)[1]
    copy_path(path, found.buffer_schema).touch()
    assert f"events.db.v{found.buffer_schema} in its place" in check(tmp_path, OLD)[1]


def test_a_version_that_is_not_known_is_refused(tmp_path: Path) -> None:
    code, text = check(tmp_path, OLD, "9.9")
    assert code == 2
    assert "0.1.0" in text


def test_every_known_version_can_be_read() -> None:
    assert version_names() == ["0.1.0"]
    assert all(earlier_version(name) for name in version_names())
