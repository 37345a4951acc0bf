"""What a command does not import: it must not wait for parts of the gateway that it has no use for."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from gateway import __version__
from gateway.cli import app
from tests.support.buffers import append, event, opened
from tests.support.gateways import gateway_config

TABLES = ("peewee", "playhouse.apsw_ext", "psycopg")
DATABASE = ("apsw", *TABLES)
BROKERS = ("amqtt",)
MQTT = ("paho", *BROKERS)
WEB = ("uvicorn", "starlette", "prometheus_client")
MODELS = ("gateway.config", "yaml", "jmespath")
GRAPH = ("gateway.app", "gateway.http", "gateway.status", "gateway.cloud", "gateway.local.ingest", "psutil")
PICTURES = ("rich.console", "rich.markdown", "rich.progress")
EVERYTHING = (*DATABASE, *MQTT, *WEB, *MODELS, *GRAPH)


def run(*arguments: str, folder: Path | None = None) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """Run `gateway …` in `folder`; return the process and the names of the modules that it imported."""
    command = [sys.executable, "-X", "importtime", "-m", "gateway", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=folder)
    return done, {*re.findall(r"^import time:.*\| +(\S+)$", done.stderr, re.MULTILINE)}


@pytest.mark.parametrize(
    ("arguments", "unused"),
    [
        ("--help", (*EVERYTHING, *PICTURES)),
        ("--version", (*EVERYTHING, *PICTURES)),
        ("-V", (*EVERYTHING, *PICTURES)),
        ("check --help", (*DATABASE, *MQTT, *WEB, *GRAPH)),
        ("top --help", EVERYTHING),
        ("clock --help", (*EVERYTHING, *PICTURES)),
        ("clock status --help", (*EVERYTHING, *PICTURES)),
        ("plugin list", (*DATABASE, *MQTT, *WEB, *GRAPH, "gateway.config")),
        ("buffer --help", (*EVERYTHING, *PICTURES)),
        ("config --help", (*EVERYTHING, *PICTURES)),
        ("keys --help", (*EVERYTHING, *PICTURES)),
        ("buffer stats --help", (*TABLES, *MQTT, *WEB, *MODELS, *GRAPH, *PICTURES)),
        (
            "buffer drop --help",
            (*MQTT, *WEB, "gateway.app", "gateway.http", "gateway.cloud", "gateway.config", *PICTURES),
        ),
        ("replay --help", (*DATABASE, *MQTT, *WEB, *GRAPH, "gateway.config")),
        ("receive --help", ("peewee", "amqtt", *WEB, *GRAPH, "gateway.config")),
        ("simulate --help", (*DATABASE, "amqtt", *WEB, *GRAPH, "gateway.config")),
        ("bench --help", (*DATABASE, "amqtt", *WEB, *GRAPH, "gateway.config")),
    ],
)
def test_a_command_imports_what_it_uses(arguments: str, unused: tuple[str, ...]) -> None:
    done, imported = run(*arguments.split())
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(imported) > 50
    assert imported & {*unused} == set()


@pytest.mark.parametrize(
    ("arguments", "unused"),
    [
        ("check", (*DATABASE, *PICTURES)),
        ("buffer stats --json", (*TABLES, *PICTURES)),
        ("buffer list", (*TABLES, *PICTURES)),
        ("buffer audit", (*TABLES, *PICTURES)),
        ("buffer verify", (*TABLES, *PICTURES)),
    ],
)
def test_a_command_reads_a_buffer_without_what_writes_one(
    tmp_path: Path, arguments: str, unused: tuple[str, ...]
) -> None:
    gateway_config(tmp_path, "mqtt://127.0.0.1:1")
    (tmp_path / "data").mkdir()
    with opened(tmp_path / "data" / "events.db") as store:
        append(store, [event("sensors/1", b'{"v": 1}')])
    done, imported = run(*arguments.split(), folder=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert imported & {*unused, *MQTT, *WEB, *GRAPH} == set()


def test_the_help_of_every_command_is_plain_text() -> None:
    """In boxes it would look unlike that of `gateway` itself, and take another tenth of a second."""
    root: Any = get_command(app)
    modes = {name: root.get_command(None, name).rich_markup_mode for name in root.listed}
    assert {name for name, mode in modes.items() if mode is not None} == set()


def commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Each command with its words, groups left out."""
    if not hasattr(command, "list_commands"):
        yield path, command
        return
    for name in command.list_commands(None):
        yield from commands(command.get_command(None, name), f"{path} {name}")


def test_the_help_says_in_words_what_is_typed_behind_an_option() -> None:
    """`--for DURATION`, not `--for <str>`."""
    found = dict(commands(get_command(app), "gateway"))
    assert len(found) > 30
    for path, command in found.items():
        text = command.get_help(command.context_class(command, info_name=path))
        assert re.findall(r"<[\w\[\] ]+>", text) == [], path
    help_of_init = found["gateway init"].get_help(found["gateway init"].context_class(found["gateway init"]))
    assert "--for DURATION" in help_of_init
    assert "--config FILE" in help_of_init


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_the_version_needs_no_command(option: str) -> None:
    done, _ = run(option)
    assert (done.returncode, done.stdout) == (0, f"{__version__}\n")


UNUSED_BY_A_GATEWAY = (*BROKERS, *WEB, *PICTURES, "psycopg", "asyncio")
"""Parts that are loaded when the configuration names them, or when somebody needs them."""

STARTED = """
import sys
from pathlib import Path
import gateway.cli.run
from gateway.app.gateway import Gateway
from gateway.config import load_config
started = Gateway(load_config(Path(sys.argv[1])))
started.start()
print(*sys.modules)
started.stop()
"""


def test_a_started_gateway_has_loaded_only_what_its_configuration_needs(tmp_path: Path) -> None:
    config = gateway_config(tmp_path, "mqtt://127.0.0.1:9")
    command = [sys.executable, "-c", STARTED, str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert {*UNUSED_BY_A_GATEWAY} & {*done.stdout.split()} == set()


def test_a_database_driver_can_be_imported_once_peewee_was() -> None:
    code = (
        "import gateway.buffer.schema, psycopg, peewee as p; print(vars(p).get('psycopg'), psycopg.__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["None", "psycopg"]
