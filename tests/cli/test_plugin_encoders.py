"""`gateway plugin`: encoders are listed, checked and begun like decoders."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from gateway.cli import app


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["plugin", *arguments])
    return result.exit_code, result.output


def test_a_new_encoder_works_and_is_listed_as_one(tmp_path: Path) -> None:
    folder = ["--plugins", str(tmp_path)]
    assert run("new", "rows", "--kind", "encoder", *folder)[0] == 0
    assert run("check", "rows", *folder) == (0, f"rows is an encoder ({tmp_path}/rows.py)\n")
    assert run("check", str(tmp_path / "rows.py"), *folder)[0] == 0
    listed = json.loads(run("list", "--json", *folder)[1])
    assert [each["kind"] for each in listed if each["name"] == "rows"] == ["encoder"]


def test_an_encoder_that_leaves_an_event_out_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "half.py").write_text(
        "class Encoder:\n    def encode(self, events, topics):\n        yield 'a/b', b'', [0]\n"
    )
    result = CliRunner().invoke(app, ["plugin", "check", "half", "--plugins", str(tmp_path)])
    assert result.exit_code == 1
    assert "an event has to be in exactly one message" in str(result.exception) + result.output
