"""What a command does not import: it must not wait for parts of the gateway that it has no use for."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from gateway import __version__

DATABASE = ("apsw", "peewee")
MQTT = ("paho", "amqtt")
WEB = ("uvicorn", "starlette", "prometheus_client")
MODELS = ("gateway.config", "yaml", "jmespath")
GRAPH = ("gateway.app", "gateway.http", "gateway.status", "gateway.cloud", "gateway.local.ingest", "psutil")
EVERYTHING = (*DATABASE, *MQTT, *WEB, *MODELS, *GRAPH)


def run(*arguments: str) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """Run `gateway …`; what it imported, by name."""
    command = [sys.executable, "-X", "importtime", "-m", "gateway", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done, {*re.findall(r"^import time:.*\| +(\S+)$", done.stderr, re.MULTILINE)}


@pytest.mark.parametrize(
    ("arguments", "unused"),
    [
        ("--help", EVERYTHING),
        ("--version", EVERYTHING),
        ("-V", EVERYTHING),
        ("check --help", (*DATABASE, *MQTT, *WEB, *GRAPH)),
        ("top --help", EVERYTHING),
        ("clock --help", EVERYTHING),
        ("clock status --help", EVERYTHING),
        ("plugin list", (*DATABASE, *MQTT, *WEB, *GRAPH, "gateway.config")),
        ("buffer stats --help", (*MQTT, *WEB, *GRAPH, "gateway.config", "yaml")),
        (
            "buffer drop --help",
            (*MQTT, *WEB, "gateway.app", "gateway.http", "gateway.cloud", "gateway.config"),
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


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_the_version_needs_no_command(option: str) -> None:
    done, _ = run(option)
    assert (done.returncode, done.stdout) == (0, f"{__version__}\n")
