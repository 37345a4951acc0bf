"""The flow for Node-RED: its expression, run by the JSONata of Node-RED, shows whatever a plugin gives."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest

from tests.support.places import DOCS, ROOT

JSONATA = ROOT / "build" / "edge-nodes" / "node_modules" / "jsonata"
PROGRAM = """
const jsonata = require(process.argv[1]);
const {expression, messages} = JSON.parse(require('fs').readFileSync(0));
Promise.all(messages.map(each => jsonata(expression).evaluate(each)))
  .then(found => console.log(JSON.stringify(found)));
"""


def flow() -> dict[str, Any]:
    return {node["id"]: node for node in json.loads((DOCS / "examples" / "node-red.json").read_text())}


def test_the_flow_leads_from_the_broker_to_the_screen() -> None:
    nodes = flow()
    assert nodes["gateway-aggregates"]["wires"] == [["gateway-text"]]
    assert nodes["gateway-text"]["wires"] == [["gateway-show"]]


@pytest.mark.skipif(
    not JSONATA.exists() or shutil.which("node") is None, reason="no JSONata: make edge-nodes installs it"
)
def test_it_shows_the_fields_of_every_plugin() -> None:
    results: dict[str, Any] = {
        "count 3, mean 20.5": {"count": 3, "mean": 20.5},
        "7": 7,
        "t.mean 1.333, h.mean 40, dew 8": {"t": {"mean": 4 / 3}, "h": {"mean": 40}, "dew": 8},
        "open_s 12, closed_s 48, last open": {"open_s": 12, "closed_s": 48, "last": "open"},
        "mean null": {"mean": None},
        "inside true": {"inside": True},
    }
    messages = [{"payload": {"window": "w", "key": "a/b", "result": result}} for result in results.values()]
    messages.append({"payload": {"window": "w", "key": "", "result": 1, "superseded": True}})
    asked = {"expression": flow()["gateway-text"]["rules"][0]["to"], "messages": messages}
    done = subprocess.run(
        ["node", "-e", PROGRAM, str(JSONATA)],
        input=json.dumps(asked), capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    wanted = [f"w a/b: {text}" for text in results]
    assert json.loads(done.stdout) == [*wanted, "w : 1 (of an older window)"]
