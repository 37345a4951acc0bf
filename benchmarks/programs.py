"""The programs that benchmarks run: Mosquitto, and a gateway of this checkout or another, for ratios."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.support.brokers import BrokerSetup, ProgramBroker
from tests.support.ports import free_port

ROOT = Path(__file__).parents[1]
"""This checkout."""
HOST = "127.0.0.1"
_LINES = ("max_queued_messages 0", "max_inflight_messages 1000", "set_tcp_nodelay true")
_STOP_S = 20.0


@contextmanager
def running_broker() -> Iterator[ProgramBroker]:
    """A Mosquitto that queues whatever comes and remembers nothing."""
    with tempfile.TemporaryDirectory() as folder:
        broker = ProgramBroker(BrokerSetup(free_port(), (), _LINES, Path(folder), persistent=False))
        broker.start()
        try:
            yield broker
        finally:
            broker.close()


@contextmanager
def running_gateway(root: Path, config: dict[str, Any]) -> Iterator[psutil.Process]:
    """`gateway run` with the code at `root` and the packages of this environment."""
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w") as log:
        file = Path(folder) / "gateway.yaml"
        file.write_text(yaml.safe_dump(config))
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "gateway", "run", "-c", str(file)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(root)},
            stdout=log,
            stderr=log,
        )
        try:
            yield psutil.Process(process.pid)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
