"""An edge node of pysparkplug: births, then a value every 20 ms; asked for a birth, its device comes anew."""

from __future__ import annotations

import itertools
import json
import sys
import threading

import pysparkplug as spb

OPTIONS = json.loads(sys.argv[1])
ASKED = threading.Event()


def metrics(sent: int) -> list[spb.Metric]:
    now_ms = spb.get_current_timestamp()
    return [
        spb.Metric(now_ms, "depth", spb.DataType.INT32, value=-sent, alias=11),
        spb.Metric(now_ms, "strokes", spb.DataType.UINT64, value=2**40 + sent, alias=12),
        spb.Metric(now_ms, "force", spb.DataType.FLOAT, value=sent / 4, alias=13),
    ]


def on_command(_node: spb.EdgeNode, _message: spb.Message) -> None:
    sys.stdout.write("rebirth\n")
    sys.stdout.flush()
    ASKED.set()


def main() -> None:
    load = spb.Metric(spb.get_current_timestamp(), "load", spb.DataType.DOUBLE, value=0.5)
    node = spb.EdgeNode(OPTIONS["group"], OPTIONS["node"], [load], cmd_callback=on_command)
    node.register(spb.Device("press", metrics(0)))
    node.connect("127.0.0.1", port=OPTIONS["port"])
    for sent in itertools.count(1):
        if ASKED.wait(0.02):
            ASKED.clear()
            node.deregister("press")
            node.register(spb.Device("press", metrics(sent)))
        node.update_device("press", metrics(sent))


main()
