"""Is anything missing? What was received, compared with what the gateways claim to have sent.

Every number of a stream is received, declared (lost or kept, by the gateway, with a reason), missing (the
gateway says that it is in the cloud, but it is not here), unproven (no claim about it has arrived, though
there are claims about later ones), or open: beyond the last claim, so the next audit will tell.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from gateway.core.sequence_sets import Run, Stretch, Stretches, size_of, without
from gateway.receiver.ledger import Gap, GatewayWord, Ledger, Series, StreamLedger


class StreamVerdict(NamedTuple):
    """The faults of one stream, and how many of its numbers are in which state."""

    received: int
    missing: tuple[Stretch, ...]
    unproven: tuple[Stretch, ...]
    declared: dict[str, int]  # by reason or status; only what did not arrive all the same
    open: int
    unaudited: int  # received, but behind the last claim


class Completeness(NamedTuple):
    """All streams together. `duplicates` are events that stand twice in the output."""

    gateways: dict[str, GatewayWord]
    silent: tuple[str, ...]  # gateways with events, but without any audit record
    streams: int
    received: int
    duplicates: int
    declared: dict[str, int]
    shed: dict[str, int]  # messages that were never taken in, by reason; they have no numbers
    open: int
    missing: tuple[Gap, ...]
    unproven: tuple[Gap, ...]
    replaced: dict[str, int]  # by gateway: how often its buffer was replaced by another one
    unaudited: int  # events that came after the last claim about their stream
    stale: tuple[str, ...]  # gateways whose last audit record is older than asked for

    @property
    def complete(self) -> bool:
        """True if everything that the gateways claim is here, once, and nothing is open. Nobody can claim
        anything for the last events of a lost buffer."""
        wrong = self.missing or self.unproven or self.silent or self.duplicates or self.replaced
        undecided = self.open or self.unaudited or self.stale
        return not wrong and not undecided and bool(self.gateways)

    @property
    def wrong(self) -> bool:
        """True if no later audit record alone can make it complete."""
        return bool(self.missing or self.unproven or self.duplicates or self.replaced)

    @property
    def as_of_ms(self) -> int | None:
        """Oldest of the gateways' last audits: nothing newer is known of some gateway."""
        return min((word.time_ms for word in self.gateways.values()), default=None)


def judge(ledger: Ledger, not_before_ms: int = 0) -> Completeness:
    """Compare what a ledger has seen with what it was told; audits before `not_before_ms` are too old."""
    declared: Counter[str] = Counter()
    missing: list[Gap] = []
    unproven: list[Gap] = []
    received = still_open = unaudited = 0
    for series, stream in ledger.of_gateways:
        found = judge_stream(stream)
        received += found.received
        still_open += found.open
        unaudited += found.unaudited
        declared.update(found.declared)
        missing += _gaps(series, found.missing)
        unproven += _gaps(series, found.unproven)
    shed: Counter[str] = Counter()
    for one in chain.from_iterable(ledger.shed.values()):
        shed[one.reason] += one.messages
    silent = sorted({series.gateway_id for series, _ in ledger.of_gateways} - ledger.words.keys())
    return Completeness(
        ledger.words,
        tuple(silent),
        ledger.streams,
        received,
        ledger.duplicates,
        dict(declared),
        dict(shed),
        still_open,
        tuple(missing),
        tuple(unproven),
        _replaced(ledger),
        unaudited,
        tuple(sorted(name for name, word in ledger.words.items() if word.time_ms < not_before_ms)),
    )


def _replaced(ledger: Ledger) -> dict[str, int]:
    found = {gateway_id: len(buffers) - 1 for gateway_id, buffers in ledger.buffers.items()}
    for gateway_id in ledger.counting_anew:
        found[gateway_id] = max(1, found.get(gateway_id, 0))
    return {gateway_id: times for gateway_id, times in found.items() if times > 0}


def judge_stream(stream: StreamLedger) -> StreamVerdict:
    """The verdict on one stream whose `seen` holds only what has really arrived."""
    seen, claimed = stream.seen, stream.claimed
    exempt = [each.run.stretches() for each in stream.exempt]
    missing = tuple(without(claimed, seen, *exempt))
    end = claimed.last or 0
    unproven = tuple(without([(1, end)], claimed, seen)) if end else ()
    newest = seen.last or 0
    still_open = size_of(without([(end + 1, newest)], seen)) if newest > end else 0
    unaudited = newest - end - still_open if newest > end else 0
    return StreamVerdict(size_of(seen), missing, unproven, _declared(stream), still_open, unaudited)


def _declared(stream: StreamLedger) -> dict[str, int]:
    runs: defaultdict[str, list[Run]] = defaultdict(list)
    for each in stream.exempt:
        runs[each.reason].append(each.run)
    found = {reason: Stretches().united(*(run.stretches() for run in some)) for reason, some in runs.items()}
    counts = {reason: size_of(without(numbers, stream.seen)) for reason, numbers in found.items()}
    return {reason: count for reason, count in counts.items() if count}


def _gaps(series: Series, stretches: Iterable[Stretch]) -> Iterator[Gap]:
    gateway_id, name, buffer_id = series
    return (Gap(gateway_id, name, first, last, buffer_id) for first, last in stretches)
