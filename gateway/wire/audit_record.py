"""The audit records that a gateway sends: what it claims to have brought to the cloud, stream by stream.

A claim is about the numbers `first` to `last` of one stream: the cloud broker has acknowledged each of them,
but for those that the claim names, one by one, as lost (evicted, by reason) or kept (failed or corrupt, still
in the buffer). So a receiver that compares its numbers with the claims knows exactly which ones are missing.
A gateway that signs adds seals over the events themselves. docs/wire-format.md specifies the JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from gateway.core.packed_json import packed
from gateway.core.sequence_sets import Run
from gateway.flow.dropped_ranges import DroppedRange
from gateway.wire.evidence import Seal, read_seal, seal_fields
from gateway.wire.json_message import JsonMessage

VERSION = 1
RECORD_BYTES = 64 * 1024  # of claims in one record: far below what any broker takes
MAX_RUNS = 500  # in one claim; more are told in several claims about parts of the stream
MAX_PIECES = 1_000_000
"""Single numbers and runs of neighbours that a record may except: some 80 MB in a receiver's memory."""
_CLAIM_PIECES = MAX_PIECES // 10  # in one claim, so that claims fill records well
MAX_RECORD_BYTES = 1024 * 1024  # what a receiver reads

_MAX_NUMBER = 2**63 - 1
_MESSAGE = JsonMessage("an audit record", "audit", VERSION, MAX_RECORD_BYTES)
_RUN_BYTES = 100  # of an exempt run as JSON, mostly less


class Exempt(NamedTuple):
    """Numbers that a claim takes out, and why: a reason of eviction, or the status in which they are kept."""

    reason: str
    run: Run
    kept: bool = False

    def within(self, first: int, last: int) -> Exempt | None:
        """The part of it from `first` to `last`, if there is one."""
        run = self.run.within(first, last)
        return self._replace(run=run) if run else None


class StreamClaim(NamedTuple):
    """A gateway's claim about the numbers `first` to `last` of one stream."""

    stream: str
    first: int
    last: int
    exempt: tuple[Exempt, ...] = ()

    @property
    def events(self) -> int:
        """Number of its events that the cloud broker has acknowledged."""
        return self.last - self.first + 1 - sum(each.run.size for each in self.exempt)

    @property
    def pieces(self) -> int:
        """Number of pieces that it excepts."""
        return sum(each.run.pieces for each in self.exempt)

    def parts(self, most_runs: int = MAX_RUNS) -> Iterator[StreamClaim]:
        """The same in claims with at most so many runs each, and not too many pieces."""
        if (len(self.exempt) <= most_runs and self.pieces <= _CLAIM_PIECES) or self.first == self.last:
            yield self
            return
        middle = (self.first + self.last) // 2
        for first, last in ((self.first, middle), (middle + 1, self.last)):
            clipped = (each.within(first, last) for each in self.exempt)
            yield from StreamClaim(self.stream, first, last, tuple(e for e in clipped if e)).parts(most_runs)


class AuditRecord(NamedTuple):
    """An audit message. `session` is new with every start of the gateway, which then claims everything anew.

    `buffer` is how many events had which status in the gateway's buffer at `time_ms`, `shed` what it has not
    taken in at all: ranges that are new or have become longer. `buffer_id` is the buffer's own: numbers are
    claimed for it, and for no other buffer of the gateway. It is empty where an older gateway does not tell.
    `confirm`: the gateway keeps events until a receiver says that it has them.
    """

    gateway_id: str
    session: str
    time_ms: int
    buffer: Mapping[str, int]
    claims: tuple[StreamClaim, ...]
    shed: tuple[DroppedRange, ...] = ()
    buffer_id: str = ""
    confirm: bool = False
    seals: tuple[Seal, ...] = ()


def audit_messages(record: AuditRecord, limit_bytes: int = RECORD_BYTES) -> Iterator[bytes]:
    """The payloads of a record, in as many messages as it takes; at least one. `limit_bytes`: of a payload.
    Only a claim that does not fit alone, for its stream's name, is in one that is larger."""
    limit_bytes = max(1, min(limit_bytes, RECORD_BYTES) - len(_message(record, [])))
    most_runs = max(1, min(MAX_RUNS, limit_bytes // _RUN_BYTES))
    parts = [
        _Part("streams", packed(_claim_fields(part)), part.pieces)
        for each in record.claims
        for part in each.parts(most_runs)
    ]
    parts += [_Part("shed", packed(one._asdict())) for one in record.shed]
    parts += [_Part("seals", packed(seal_fields(one))) for one in record.seals]
    return (_message(record, batch) for batch in _batches(parts, limit_bytes))


class _Part(NamedTuple):
    """An entry as JSON, the list that it belongs to, and the pieces that it excepts."""

    list_name: str
    entry: bytes
    pieces: int = 0


def _batches(parts: Iterable[_Part], limit_bytes: int) -> Iterator[list[_Part]]:
    """Yield batches of at most `limit_bytes`, or with one part that is larger; at least one."""
    batch: list[_Part] = []
    batch_bytes = pieces = 0
    for one in parts:
        part_bytes = len(one.entry) + 1  # and a comma
        if batch and (batch_bytes + part_bytes > limit_bytes or pieces + one.pieces > MAX_PIECES):
            yield batch
            batch, batch_bytes, pieces = [], 0, 0
        batch.append(one)
        batch_bytes += part_bytes
        pieces += one.pieces
    yield batch


def _message(record: AuditRecord, parts: Iterable[_Part]) -> bytes:
    entries: dict[str, list[orjson.Fragment]] = {"streams": [], "shed": [], "seals": []}
    for part in parts:
        entries[part.list_name].append(orjson.Fragment(part.entry))
    fields: dict[str, object] = {
        "version": VERSION,
        "gateway": record.gateway_id,
        "session": record.session,
        "time_ms": record.time_ms,
        "buffer": dict(record.buffer),
        "streams": entries["streams"],
        "shed": entries["shed"],
    }
    if entries["seals"]:
        fields["seals"] = entries["seals"]
    if record.buffer_id:
        fields["buffer_id"] = record.buffer_id
    if record.confirm:
        fields["confirm"] = True
    return orjson.dumps(fields)


def _claim_fields(claim: StreamClaim) -> dict[str, object]:
    lost = [_exempt_fields("reason", each) for each in claim.exempt if not each.kept]
    kept = [_exempt_fields("status", each) for each in claim.exempt if each.kept]
    found: dict[str, object] = {"stream": claim.stream, "first": claim.first, "last": claim.last}
    found["count"] = claim.events
    return found | ({"lost": lost} if lost else {}) | ({"kept": kept} if kept else {})


def _exempt_fields(label: str, exempt: Exempt) -> dict[str, object]:
    return {label: exempt.reason, **exempt.run._asdict()}


def read_audit(payload: bytes) -> AuditRecord:
    """Read one message. Raises DecodeError with the reason `audit`."""
    fields = _MESSAGE.read(payload)
    streams, buffer = fields.get("streams"), fields.get("buffer")
    if not isinstance(streams, list) or not isinstance(buffer, dict):
        raise _MESSAGE.refusal("it lacks streams or buffer")
    claims = tuple(_claim(each) for each in streams)
    pieces = sum(claim.pieces for claim in claims)
    if pieces > MAX_PIECES:
        raise _MESSAGE.refusal(f"it excepts {pieces} single numbers and runs, more than {MAX_PIECES}")
    return AuditRecord(
        _MESSAGE.text(fields, "gateway"),
        _MESSAGE.text(fields, "session"),
        _number(fields, "time_ms", -_MAX_NUMBER),
        {name: _number(buffer, name, 0) for name in buffer},
        claims,
        tuple(map(_shed_range, _objects(fields, "shed"))),
        _MESSAGE.text(fields, "buffer_id") if "buffer_id" in fields else "",
        fields.get("confirm") is True,
        tuple(map(_seal, _objects(fields, "seals"))),
    )


def _seal(fields: dict[str, Any]) -> Seal:
    try:
        return read_seal(fields)
    except ValueError as exc:
        raise _MESSAGE.refusal(str(exc)) from exc


def _shed_range(fields: dict[str, Any]) -> DroppedRange:
    stream = fields.get("stream")
    if not isinstance(stream, str):  # empty: several streams
        raise _MESSAGE.refusal("stream is no text")
    found = DroppedRange(
        _MESSAGE.text(fields, "reason"),
        stream,
        _number(fields, "first_ms", -_MAX_NUMBER),
        _number(fields, "last_ms", -_MAX_NUMBER),
        _number(fields, "messages"),
    )
    if found.first_ms > found.last_ms:
        raise _MESSAGE.refusal(f"a range of {stream!r} ends before it begins")
    return found


def _claim(fields: Any) -> StreamClaim:
    if not isinstance(fields, dict):
        raise _MESSAGE.refusal("a claim is no object")
    first, last = _number(fields, "first"), _number(fields, "last")
    exempt = [
        Exempt(_MESSAGE.text(each, label), _run(each, first, last), kept)
        for name, label, kept in (("lost", "reason", False), ("kept", "status", True))
        for each in _objects(fields, name)
    ]
    claim = StreamClaim(_MESSAGE.text(fields, "stream"), first, last, tuple(exempt))
    if first > last or claim.events != _number(fields, "count", 0):
        raise _MESSAGE.refusal(f"the numbers of {claim.stream!r} do not add up")
    return claim


def _run(fields: dict[str, Any], claim_first: int, claim_last: int) -> Run:
    run = Run(_number(fields, "first"), _number(fields, "last"), _number(fields, "step"))
    if not claim_first <= run.first <= run.last <= claim_last or (run.last - run.first) % run.step:
        raise _MESSAGE.refusal(f"{run} is no part of {claim_first} to {claim_last}")
    return run


def _objects(fields: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = fields.get(name, [])
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise _MESSAGE.refusal(f"{name} is no list of objects")
    return found


def _number(fields: dict[str, Any], name: str, least: int = 1) -> int:
    value = fields.get(name)
    if type(value) is not int or not least <= value <= _MAX_NUMBER:
        raise _MESSAGE.refusal(f"{name} is no number from {least}")
    return value
