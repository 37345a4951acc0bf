"""Lines of a journal: what one write brings, column by column, so that an event costs next to nothing.

Only the output that wrote a journal reads it, after a crash. Journals of earlier versions have a line for
each event.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

import orjson

from gateway.core.errors import DecodeError
from gateway.core.events import WireEvent
from gateway.receiver.event_lines import event_of_line
from gateway.receiver.sinks.sink import Received

_START = b'{"ids":'
_PLAIN = (
    *("streams", "sequence_nums", "event_times_ms", "ingest_times_ms", "device_times_ms"),
    *("priorities", "kinds", "flags"),
)
"""Columns that are written as they are: a WireEvent's fields between its id and its payload."""


def journal_line(events: Sequence[Received]) -> bytes:
    """Return events, at least one, as a line with its newline."""
    gateways, bare, buffers = zip(*events, strict=True)
    ids, *plain, payloads = zip(*bare, strict=True)
    fields = {
        "ids": b"".join(ids).hex(),
        "gateways": gateways,
        "buffers": buffers,
        **dict(zip(_PLAIN, plain, strict=True)),
        "sizes": list(map(len, payloads)),
        "payloads": b64encode(b"".join(payloads)).decode(),
    }
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)


def events_of_journal_line(line: bytes) -> Iterator[Received]:
    """Yield the events of a line. Raises DecodeError for a line that no version wrote."""
    if not line.startswith(_START):
        yield Received(*event_of_line(line))
        return
    try:
        fields = orjson.loads(line)
        ids, payloads = bytes.fromhex(fields["ids"]), b64decode(fields["payloads"], validate=True)
        places = pairwise(accumulate(fields["sizes"], initial=0))
        columns = (
            [ids[at : at + 16] for at in range(0, len(ids), 16)],
            *(fields[name] for name in _PLAIN),
            [payloads[start:stop] for start, stop in places],
        )
        bare = map(WireEvent._make, zip(*columns, strict=True))
        rows = zip(fields["gateways"], bare, fields["buffers"], strict=True)
        found = list(map(Received._make, rows))
    except (ValueError, KeyError, TypeError) as exc:
        raise DecodeError("not a line of a journal", reason="line") from exc
    yield from found
