"""Real edge nodes of Sparkplug B, as processes: Eclipse Tahu's sparkplug-client and pysparkplug.

`make edge-nodes` installs both under `build/edge-nodes` (or EDGE_NODES_HOME): pysparkplug needs an older paho
than the gateway, so it has an environment of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.places import ROOT

HOME = Path(os.environ.get("EDGE_NODES_HOME", ROOT / "build" / "edge-nodes"))
SCRIPTS = Path(__file__).parent
PYTHON = HOME / "venv" / "bin" / "python"
PYSPARKPLUG = next((HOME / "venv" / "lib").glob("*/site-packages/pysparkplug"), HOME / "none")
PROGRAMS = {
    "sparkplug-client": ("node", str(SCRIPTS / "tahu.js")),
    "pysparkplug": (str(PYTHON), str(SCRIPTS / "pysparkplug_node.py")),
}


def why_not(name: str) -> str:
    """Return the reason why there is no such node; empty where there is one."""
    if name == "pysparkplug":
        return "" if PYSPARKPLUG.exists() else "no pysparkplug (make edge-nodes)"
    if not shutil.which("node"):
        return "no program `node` (apt-get install nodejs npm)"
    return "" if (HOME / "node_modules" / name).exists() else f"no {name} (make edge-nodes)"


class EdgeNode:
    """A running node; `heard` is what it printed: a line `rebirth` for each command that it got."""

    def __init__(self, output: Path, process: subprocess.Popen[bytes]) -> None:
        self._output = output
        self._process = process

    @property
    def heard(self) -> list[str]:
        return self._output.read_text().split("\n")[:-1]

    @property
    def runs(self) -> bool:
        return self._process.poll() is None


@contextmanager
def edge_node(name: str, port: int, **options: object) -> Iterator[EdgeNode]:
    """Run a node of the group `plant` called `edge`, with the device `press`, until the block ends."""
    said = {"home": str(HOME), "port": port, "group": "plant", "node": "edge"} | options
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [*PROGRAMS[name], json.dumps(said)], stdout=file, stderr=subprocess.STDOUT
            )
        try:
            yield EdgeNode(output, process)
        finally:
            process.kill()
            process.wait()
