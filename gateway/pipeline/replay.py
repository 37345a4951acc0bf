"""Runs windows over a recorded stream of messages: no broker, no buffer, and no clock but the recording's.

Processing time is the highest `time_ms` so far, so that idle timeouts and time triggers work as they did
live, and the same input always gives the same output. Messages that a gateway stored carry its flags: those
that it kept out of its windows stay out, and time passes in the steps in which a gateway looks at it.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, TypeGuard

import orjson

from gateway.core.errors import DecodeError, GatewayError
from gateway.core.events import Emission, FieldValue, Flag, Sample
from gateway.decode.routes import RouteTable
from gateway.pipeline.freshness import judge_age, out_of_windows
from gateway.timekeeping.devices import DeviceClocks
from gateway.timekeeping.normalize import SkewPolicy
from gateway.windows.emission import emission_json
from gateway.windows.engine import WindowEngine, gathered

MAX_LINE_BYTES = 16 * 1024 * 1024
"""A line longer than this is a wrong file rather than an event: it is refused before it is parsed."""


STEP_MS = 250
"""Interval at which a running gateway looks at the time."""
# Quicker than flags.
_SKEWED, _OLD, _HISTORICAL = int(Flag.CLOCK_SKEW), int(Flag.OLD), int(Flag.HISTORICAL)
_RETAINED = int(Flag.RETAINED)

MAX_TIME_MS = 253_402_300_799_999
"""The end of the year 9999, as for the timestamps of routes."""


class ReplayError(GatewayError):
    """Raised when a line of the input is no event. The message names file and line number."""


class Recorded(NamedTuple):
    """A line of the input. `time_ms` is its arrival time, and its event time unless its route finds one."""

    topic: str
    payload: bytes
    time_ms: int
    flags: int | None = None
    """Flags that the gateway stored with the message; None if no gateway stored it."""
    sequence_num: int = 0
    """Its number in its stream; 0 if no gateway gave it one."""


def read_events(lines: Iterable[bytes], name: str) -> Iterator[Recorded]:
    """The events of an NDJSON file called `name`. Raises ReplayError at the first bad line."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield read_event(line)
            except DecodeError as exc:
                raise ReplayError(f"{name}, line {number}: {exc}", hint=exc.hint) from exc


def read_event(line: bytes) -> Recorded:
    """Read one line as an event. Raises DecodeError."""
    hint = 'write {"topic": "a/b", "payload": 21.5, "time_ms": 1700000000000}'
    if len(line) > MAX_LINE_BYTES:
        raise DecodeError(f"more than {MAX_LINE_BYTES} bytes", reason="too_large", hint=hint)
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError as exc:
        raise DecodeError(f"not JSON: {exc}", reason="json", hint=hint) from exc
    if not isinstance(found, dict) or found.keys().isdisjoint(("payload", "payload_b64")):
        raise DecodeError("not an object with topic, payload and time_ms", reason="shape", hint=hint)
    topic, time_ms = found.get("topic"), found.get("time_ms")
    if not isinstance(topic, str) or not topic:
        raise DecodeError("topic is not a text", reason="topic", hint=hint)
    if not _is_time(time_ms):
        raise DecodeError("time_ms is not a whole number of milliseconds", reason="time", hint=hint)
    return Recorded(topic, _payload(found, hint), int(time_ms))


def _payload(found: Mapping[str, object], hint: str) -> bytes:
    """`payload` as text or JSON; bytes that are neither stand in `payload_b64`."""
    if "payload" in found:
        payload = found["payload"]
        return payload.encode() if isinstance(payload, str) else orjson.dumps(payload)
    try:
        return b64decode(str(found["payload_b64"]), validate=True)
    except ValueError as exc:
        raise DecodeError(f"payload_b64 is not Base64: {exc}", reason="base64", hint=hint) from exc


def _is_time(value: object) -> TypeGuard[int | float]:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return abs(value) <= MAX_TIME_MS and value == int(value)


class Replay:
    """Feeds recorded events to routes and windows. `events` and `undecoded` count what came by."""

    def __init__(self, routes: RouteTable, engine: WindowEngine) -> None:
        self.events = 0
        self.undecoded = 0
        self.old = 0
        """Messages that were left out because their readings are old."""
        self.unrouted = 0
        """Stored messages that no route of this configuration takes."""
        self._devices = DeviceClocks(wrong_ms=SkewPolicy().future_tolerance_ms)
        self._routes = routes
        self._engine = engine
        self._now_ms: int | None = None
        self._look_ms = -MAX_TIME_MS  # the windows need not look at the time before that

    def feed(self, event: Recorded) -> list[Emission]:
        """Return what the windows emit because of one event, and because of the time that passed before
        it."""
        self.events += 1
        flags = event.flags
        if flags is not None:
            if event.time_ms < self._look_ms:
                return self.take_stored(event, flags)
            return self.pass_time(event.time_ms) + self.take_stored(event, flags)
        out: list[Emission] = []
        if self._now_ms is None or event.time_ms > self._now_ms:
            self._now_ms = event.time_ms
            out = gathered(self._engine.advance(event.time_ms))
        found = self._routes.match(event.topic)
        if found is None:
            samples = plain_samples(event.payload, event.time_ms)
            self.undecoded += not samples
            return out + gathered(self._engine.process(event.topic, None, {}, samples, self._now_ms))
        route, levels = found
        decoded = route.decode(event.topic, levels, event.payload, event.time_ms)
        if decoded.problem is not None:
            self.undecoded += 1
            return out
        if decoded.flags & _SKEWED:
            decoded = judge_age(self._devices, event.topic, decoded, route.spec, event.time_ms)
        if decoded.flags & _OLD:
            self.old += 1
            return out
        if decoded.device_time_ms is not None and not decoded.flags & _HISTORICAL:
            self._devices.observe(event.topic, decoded.device_time_ms, event.time_ms)
        name = route.spec.name
        return out + gathered(self._engine.process(event.topic, name, levels, decoded.samples, self._now_ms))

    def pass_time(self, time_ms: int) -> list[Emission]:
        """Return what the windows emit because it has become `time_ms`, in the steps of a running gateway."""
        looked_ms = time_ms - time_ms % STEP_MS
        self._look_ms = looked_ms + STEP_MS
        if self._now_ms is None:
            self._engine.resume(looked_ms)
            self._now_ms = looked_ms
        elif looked_ms > self._now_ms:
            self._now_ms = looked_ms
            return gathered(self._engine.advance(looked_ms))
        return []

    def take_stored(self, event: Recorded, flags: int) -> list[Emission]:
        """Return what the windows emit because of a stored message, at the time to which it has passed."""
        topic, payload, time_ms, _, sequence_num = event
        found = self._routes.match(topic)
        if found is None:
            self.unrouted += 1
            return []
        route, levels = found
        decoded = route.decode(topic, levels, payload, time_ms, bool(flags & _RETAINED))
        if decoded.problem is not None:
            self.undecoded += 1
        elif flags and out_of_windows(flags, route.spec):
            self.old += 1
        elif decoded.samples:
            chunks = self._engine.process(
                topic, route.spec.name, levels, decoded.samples, time_ms, sequence_num
            )
            return gathered(chunks) if chunks else []
        return []

    def finish(self) -> list[Emission]:
        """End of input: close what is open."""
        return self._engine.flush()


def plain_samples(payload: bytes, time_ms: int) -> tuple[Sample, ...]:
    """A payload that no route decodes: a JSON object's members, or a single value as the field `value`."""
    try:
        found = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return ()
    if isinstance(found, list):
        return ()
    fields: Mapping[str, FieldValue] = found if isinstance(found, dict) else {"value": found}
    return (Sample(time_ms, fields),)


def line_of(emission: Emission) -> bytes | None:
    """The output line of an emission; None for what is dropped for another reason than being late."""
    if emission.kind != "dropped":
        return emission_json(emission) + b"\n"
    if emission.reason != "late":
        return None
    report = {
        "window": emission.window,
        "key": emission.key,
        "kind": "dropped",
        "event_time_ms": emission.event_time_ms,
    }
    return orjson.dumps(report, option=orjson.OPT_APPEND_NEWLINE)
