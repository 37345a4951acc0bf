"""`gateway keys`: keys for one gateway or for all, and their replacement."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from gateway.cli import app
from gateway.wire.signatures import PublicKeys


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["keys", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_a_key_is_for_the_gateways_that_it_names_and_so_is_the_one_that_replaces_it(tmp_path: Path) -> None:
    file = str(tmp_path / "plant.key")
    run("new", file, "--gateway", "plant-7", "--gateway", "plant-8")
    run("new", file, "--replace")
    keys = PublicKeys((tmp_path / "plant.key.pub").read_bytes())
    first, second = keys.ids
    assert run("show", file) == f"{first} plant-7 plant-8\n{second} plant-7 plant-8\n"
    run("new", file, "--replace", "--gateway", "plant-9")
    keys = PublicKeys((tmp_path / "plant.key.pub").read_bytes())
    third = keys.ids[2]
    assert [keys.belongs(third, one) for one in ("plant-7", "plant-9")] == [False, True]
    assert keys.belongs(first, "plant-8")


def test_a_key_that_names_no_gateway_signs_for_any(tmp_path: Path) -> None:
    file = str(tmp_path / "any.key")
    run("new", file)
    (only,) = PublicKeys((tmp_path / "any.key.pub").read_bytes()).ids
    assert run("show", file) == f"{only}\n"
    assert PublicKeys((tmp_path / "any.key.pub").read_bytes()).belongs(only, "plant-7")
