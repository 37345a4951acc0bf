"""The commands of docs/getting-started.md, run as they stand there, in one shell and in their order."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.places import ROOT
from tests.support.ports import free_port

PAGE = (ROOT / "docs" / "getting-started.md").read_text()
# `make demo` is tests/cli/test_demo.py's, `gateway init` test_init.py's; and there is no Grafana here.
ELSEWHERE = ("make demo", "/api/dashboards/db", "gateway init")


def blocks() -> list[str]:
    return re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)


def script() -> str:
    """The page's commands with free ports and windows of two seconds."""
    text = "\n".join(block for block in blocks() if not any(words in block for words in ELSEWHERE))
    # Both at once: a free port may hold the digits of the other.
    ports = {"1883": free_port()}
    ports["8080"] = free_port()
    text = re.sub(r"\b(1883|8080)\b", lambda match: str(ports[match[1]]), text)
    text = text.replace("size: 10s", "size: 2s").replace("idle_timeout: 5s", "idle_timeout: 1s")
    # An error ends it, and whatever still runs then.
    return "set -e; trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n" + text


def test_the_page_has_the_blocks_that_are_left_out_here() -> None:
    assert all(any(words in block for block in blocks()) for words in ELSEWHERE)
    assert len(blocks()) >= 9


def test_a_newcomers_commands_lead_to_an_aggregate_an_alert_metrics_and_a_dashboard(tmp_path: Path) -> None:
    for name in ("curl", "mosquitto_pub", "promtool"):
        if not shutil.which(name) and not os.environ.get("CI"):
            pytest.skip(f"the page's commands need {name}")
    (tmp_path / "docker").symlink_to(ROOT / "docker")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "gateway").symlink_to(Path(sys.executable).parent / "gateway")
    with (tmp_path / "errors").open("w") as errors:
        done = subprocess.run(
            ["bash", "-xc", script()],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            check=False,
            timeout=120,
        )
    logs = [file for name in ("errors", "mosquitto.log", "gateway.log") if (file := tmp_path / name).exists()]
    assert done.returncode == 0, done.stdout + "\n".join(file.read_text() for file in logs)
    results = dict(
        line.split(" ", 1) for line in done.stdout.splitlines() if line.startswith("gateway/first/")
    )
    aggregate = json.loads(results["gateway/first/aggregates/temp_10s/boiler/DS18B20"])
    assert aggregate["result"]["mean"] == 21.5
    assert json.loads(results["gateway/first/alerts"])["result"]["alert"] == "raised"
    assert re.search(r'^gateway_messages_total\{.*outcome="buffered".*\} 2\.0', done.stdout, re.MULTILINE)
    assert "SUCCESS" in done.stdout
    assert yaml.safe_load((tmp_path / "import.json").read_text())["dashboard"]["uid"] == "mqtt-edge-gateway"
