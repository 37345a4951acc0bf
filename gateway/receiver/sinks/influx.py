"""Line protocol over HTTP: InfluxDB, and what takes the same (VictoriaMetrics, QuestDB).

A point is one event: its tags are gateway, stream, kind and device, its fields the members of the payload.
Its time is the event's, to which the sequence number adds nanoseconds: two events of one millisecond stay
two points, and an event that is written twice is one. So the database needs no key, and what the receiver
knows besides is in a file on this machine.

A field has one type for ever there, so numbers and truths are floats, and texts have names of their own. A
point that is refused all the same is kept with the rejected messages, and the others are written.
"""

from __future__ import annotations

import fcntl
import http.client
import io
import logging
import os
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

import orjson

from gateway.core.errors import DecodeError
from gateway.core.events import Message
from gateway.host.files import write_whole
from gateway.receiver.device_names import DeviceNames
from gateway.receiver.event_lines import kind_name
from gateway.receiver.ledger import Identity
from gateway.receiver.sinks.ndjson import EventFile
from gateway.receiver.sinks.sink import IN_USE_HINT, OutputError, Received

log = logging.getLogger(__name__)

_PREFIX = "influx+"
_TIMEOUT_S = 30.0
_PATIENCE_S = 60.0  # a database that is restarted comes back by then
_PAUSE_S = 1.0
_PER_REQUEST = 5_000  # points
_MAX_FIELDS = 100  # of one payload
_NS_PER_MS = 1_000_000
_LONGEST_TEXT = 60_000  # bytes; InfluxDB takes 64 KiB


class InfluxDatabase:
    """A sink: the database that takes lines at a URL. See `gateway.receiver.sinks.sink` for each method.

    `output` is `influx+http://HOST:8086/write?db=NAME#FILE`; FILE.state, FILE.rejected and FILE.records are
    beside this process, FILE being `influx-HOST` by default.
    """

    def __init__(self, output: str, devices: DeviceNames | None = None) -> None:
        self._url = urlsplit(output.removeprefix(_PREFIX))
        self._devices = devices or DeviceNames()
        self.measurement, self._target = _target_of(self._url)
        self.path = Path(unquote(self._url.fragment) or f"influx-{self._url.hostname}")
        self._state_path = self.path.with_name(self.path.name + ".state")
        self._beside = EventFile(self.path)
        self._lock: io.FileIO | None = None
        self._connection: http.client.HTTPConnection | None = None

    @property
    def name(self) -> str:
        return f"{self._url.scheme}://{self._url.hostname}:{self._port}{self._url.path}"

    @property
    def _port(self) -> int:
        return self._url.port or (443 if self._url.scheme == "https" else 8086)

    def open(self) -> bytes | None:
        lock = self.path.with_name(self.path.name + ".lock").open("ab", buffering=0)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            lock.close()
            raise OutputError(f"another process uses {self._state_path}", hint=IN_USE_HINT) from exc
        self._lock = lock
        return self._state_path.read_bytes() if self._state_path.exists() else None

    def behind_state(self) -> Iterator[Identity]:
        """None: what was written behind the state and comes again is the same points."""
        return iter(())

    def everything(self) -> Iterator[Identity]:
        raise OutputError(
            f"{self.name} cannot be verified: points do not keep all of an event",
            hint="let a second receiver write to a file or a database",
        )

    def claims(self) -> bytes | None:
        return None

    def write(self, events: Sequence[Received]) -> int:
        for start in range(0, len(events), _PER_REQUEST):
            self._write(events[start : start + _PER_REQUEST])
        return len(events)

    def _write(self, events: Sequence[Received]) -> None:
        problem = self._post(b"\n".join(map(self._line, events)))
        if problem and len(events) > 1:
            middle = len(events) // 2
            self._write(events[:middle])
            self._write(events[middle:])
        elif problem:
            self._keep_refused(events[0], problem)

    def _keep_refused(self, received: Received, problem: str) -> None:
        event = received.event
        log.warning("%s refuses an event of %s: %s", self.name, event.stream, problem)
        message = Message(event.stream, event.payload, 1, False, False, 0, 0, event.ingest_time_ms)
        self._beside.reject(message, DecodeError(f"refused by the database: {problem}", reason="refused"))

    def save(self, state: bytes) -> None:
        write_whole(self._state_path, state)

    def reject(self, message: Message, error: DecodeError) -> None:
        self._beside.reject(message, error)

    def keep_records(self, payloads: Sequence[bytes]) -> None:
        self._beside.keep_records(payloads)

    def records(self) -> Iterator[bytes]:
        return self._beside.records()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._lock is not None:
            self._lock.close()
        self._connection = self._lock = None

    # --- inside ---

    def _line(self, received: Received) -> bytes:
        gateway_id, event, _ = received
        tags = {"gateway": gateway_id, "stream": event.stream, "kind": str(kind_name(event.kind))}
        if (device := self._devices.of(event.stream)) is not None:
            tags["device"] = device
        fields = {"sequence_num": f"{event.sequence_num}i", **_fields(event.payload)}
        at_ns = event.event_time_ms * _NS_PER_MS + event.sequence_num % _NS_PER_MS
        named = "".join(f",{name}={_tag(value)}" for name, value in tags.items() if value)
        return f"{self.measurement}{named} {','.join(f'{k}={v}' for k, v in fields.items())} {at_ns}".encode(
            "utf-8", "replace"
        )

    def _post(self, lines: bytes) -> str:
        """Write some points; returns what the database has against one of them. One that is away is waited
        for; one that refuses everything ends the receiver."""
        give_up_s = time.monotonic() + _PATIENCE_S
        while True:
            try:
                status, answer = self._request(lines)
            except (OSError, http.client.HTTPException) as exc:
                self._drop_connection()
                problem = str(exc)
            else:
                if status < 300:
                    return ""
                problem = f"{status} {answer.decode('utf-8', 'replace').strip()}"
                if status in (400, 413, 422):
                    return problem
                if status < 500 and status != 429:
                    raise OutputError(f"{self.name} refuses what was received: {problem}")
            if time.monotonic() > give_up_s:
                raise OutputError(f"{self.name}: {problem}")
            time.sleep(_PAUSE_S)

    def _request(self, lines: bytes) -> tuple[int, bytes]:
        if self._connection is None:
            kind = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
            self._connection = kind(str(self._url.hostname), self._port, timeout=_TIMEOUT_S)
        headers = {"Content-Type": "text/plain; charset=utf-8", **self._authorization}
        self._connection.request("POST", self._target, lines, headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def _drop_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def _authorization(self) -> Mapping[str, str]:
        if token := os.environ.get("INFLUX_TOKEN"):
            return {"Authorization": f"Token {token}"}
        if self._url.username is None:
            return {}
        pair = f"{unquote(self._url.username)}:{unquote(self._url.password or '')}"
        return {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}


def _target_of(url: SplitResult) -> tuple[str, str]:
    """The measurement, and the path to post to."""
    if url.scheme not in ("http", "https") or not url.hostname:
        raise OutputError("is no address of a database", hint="influx+http://HOST:8086/write?db=NAME")
    query = dict(parse_qsl(url.query))
    measurement = query.pop("measurement", "gateway_events")
    return _tag(measurement), f"{url.path or '/write'}?{urlencode({'precision': 'ns'} | query)}"


def _fields(payload: bytes) -> dict[str, str]:
    """The members of a payload; one without names is `value`."""
    try:
        found: Any = orjson.loads(payload)
    except orjson.JSONDecodeError:
        try:
            found = payload.decode()
        except UnicodeDecodeError:
            return {"payload_b64": _text(b64encode(payload).decode())}
    fields: dict[str, str] = {}
    _add(fields, "", found)
    return fields


def _add(fields: dict[str, str], name: str, value: Any) -> None:
    if isinstance(value, dict):
        for key, each in value.items():
            _add(fields, f"{name}.{key}" if name else key, each)
    elif isinstance(value, list):
        _add(fields, name, orjson.dumps(value).decode())
    elif value is not None and len(fields) < _MAX_FIELDS:
        name = name or "value"
        fields[_tag(f"{name}_text" if isinstance(value, str) else name)] = _value(value)


def _value(value: str | float) -> str:
    return repr(float(value)) if isinstance(value, (int, float)) else _text(value)


def _text(value: str) -> str:
    short = value.encode()[:_LONGEST_TEXT].decode("utf-8", "ignore")
    return '"' + short.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _tag(value: str) -> str:
    """A name or value outside of quotes. A line break would end the point."""
    plain = value.replace("\n", " ").replace("\r", " ").rstrip("\\")
    return plain.replace(",", r"\,").replace("=", r"\=").replace(" ", r"\ ") or "_"
