"""`--output influx+http://…`: points in a real InfluxDB; an event that comes twice is one point."""

from __future__ import annotations

import json
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.core.events import WireEvent
from gateway.receiver.device_names import DeviceNames
from gateway.receiver.sinks.choice import is_there, place_of, sink_of
from gateway.receiver.sinks.sink import OutputError, Received, reread, resume
from tests.support.gateways import wait_until
from tests.support.ports import free_port

INFLUXD = Path("/usr/bin/influxd")
CONFIG = """
reporting-disabled = true
bind-address = "127.0.0.1:{rpc}"
[meta]
dir = "{folder}/meta"
[data]
dir = "{folder}/data"
wal-dir = "{folder}/wal"
[http]
bind-address = "127.0.0.1:{port}"
log-enabled = false
[monitor]
store-enabled = false
"""


class Influx:
    """A server of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        file = self._folder / "influxdb.conf"
        file.write_text(CONFIG.format(folder=self._folder, port=self.port, rpc=free_port()))
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen([INFLUXD, "-config", file], stdout=log, stderr=log)
        wait_until(self._answers, "InfluxDB")
        self.ask("CREATE DATABASE fleet", post=True)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def ask(self, query: str, *, post: bool = False) -> list[dict[str, Any]]:
        """The rows of an answer, by column."""
        text = urllib.parse.urlencode({"db": "fleet", "q": query})
        url = f"http://127.0.0.1:{self.port}/query?{text}"
        request = urllib.request.Request(url, method="POST" if post else "GET")
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            (result,) = json.load(answer)["results"]
        return [
            dict(zip(series["columns"], values, strict=True)) | series.get("tags", {})
            for series in result.get("series", ())
            for values in series["values"]
        ]

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ping", timeout=1).close()
        except OSError:
            return False
        return True


@pytest.fixture(scope="module")
def influx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Influx]:
    if not INFLUXD.exists():
        pytest.skip("there is no /usr/bin/influxd (Debian's package influxdb)")
    server = Influx(tmp_path_factory.mktemp("influx"))
    server.start()
    yield server
    server.kill()


def event(number: int, payload: bytes, stream: str = "tele/a b,c=d/SENSOR") -> Received:
    told = WireEvent(
        bytes(15) + bytes([number]), stream, number, 1_700_000_000_000, 1, None, 1, 0, 0, payload
    )
    return Received("plant-7", told, "b")


def test_an_event_is_a_point_also_when_it_comes_twice(influx: Influx, tmp_path: Path) -> None:
    output = f"influx+http://127.0.0.1:{influx.port}/write?db=fleet#{tmp_path}/influx"
    sink = sink_of(output, DeviceNames(["tele/{device}/SENSOR"]))
    assert resume(sink).events == 0
    some = [
        event(
            1, b'{"T": 21, "ok": true, "in": {"h": 1.5, "x": [1, 2]}, "n": null, "name": "a \\"b\\" \\\\ c"}'
        ),
        event(2, b'{"T": 21.5}'),  # of the same millisecond
        event(3, b"offline"),
        event(4, b"\xff\x00"),
        event(5, b'{"line\\nbreak": 1, "": 2, "a,b": "x\\ny"}'),
    ]
    assert sink.write(some) == 5
    assert sink.write(some) == 5
    sink.save(b"{}")
    sink.close()
    rows = influx.ask("SELECT * FROM gateway_events")
    assert [row["sequence_num"] for row in rows] == [1, 2, 3, 4, 5]
    assert {row["device"] for row in rows} == {"a b,c=d"}
    first = rows[0]
    assert (first["T"], first["ok"], first["in.h"], first["in.x_text"]) == (21.0, 1.0, 1.5, "[1,2]")
    assert first["name_text"] == 'a "b" \\ c'
    assert (rows[2]["value_text"], rows[3]["payload_b64"]) == ("offline", "/wA=")
    assert (rows[4]["a,b_text"], rows[4]["line break"]) == ("x\ny", 1.0)
    assert (tmp_path / "influx.state").read_bytes() == b"{}"


def test_a_refused_point_is_kept_beside_and_the_others_are_written(influx: Influx, tmp_path: Path) -> None:
    sink = sink_of(f"influx+http://127.0.0.1:{influx.port}/write?db=fleet&measurement=m#{tmp_path}/influx")
    resume(sink)
    sink.write([event(1, b'{"x": "text", "y": 1}')])
    batch = [event(n, b'{"y": 2}') for n in range(2, 9)]
    assert sink.write([*batch, event(9, b'{"x_text": 5}'), event(10, b'{"y": 3}')]) == 9
    sink.close()
    assert len(influx.ask("SELECT * FROM m")) == 9
    (line,) = (tmp_path / "influx.rejected").read_text().splitlines()
    assert "conflict" in json.loads(line)["error"]


def test_a_database_that_is_away_is_waited_for(tmp_path: Path) -> None:
    if not INFLUXD.exists():
        pytest.skip("there is no /usr/bin/influxd (Debian's package influxdb)")
    server = Influx(tmp_path)
    server.start()
    sink = sink_of(f"influx+http://127.0.0.1:{server.port}/write?db=fleet#{tmp_path}/influx")
    try:
        resume(sink)
        sink.write([event(1, b"1")])
        server.kill()
        server.start()
        sink.write([event(2, b"2")])
        assert len(server.ask("SELECT * FROM gateway_events")) == 2
    finally:
        sink.close()
        server.kill()


def test_what_it_refuses_ends_the_receiver(influx: Influx, tmp_path: Path) -> None:
    sink = sink_of(f"influx+http://127.0.0.1:{influx.port}/write?db=none#{tmp_path}/influx")
    resume(sink)
    with pytest.raises(OutputError, match="404"):
        sink.write([event(1, b"1")])
    sink.close()


def test_it_says_what_it_cannot_do_and_its_place_has_no_password(tmp_path: Path) -> None:
    output = f"influx+http://me:secret@db:8086/write?db=fleet#{tmp_path}/influx"
    sink = sink_of(output)
    assert "secret" not in sink.name + place_of(output)
    assert is_there(output)
    with pytest.raises(OutputError, match="cannot be verified"):
        reread(sink)
    sink.close()
    with pytest.raises(OutputError, match="no address"):
        sink_of("influx+ftp://db")
