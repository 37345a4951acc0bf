"""Report at the end of `gateway receive`: what arrived, and whether anything is missing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

from gateway.receiver.completeness import Completeness
from gateway.receiver.evidence import EventName, Evidence, Findings
from gateway.receiver.incomplete import Incomplete
from gateway.receiver.ledger import Gap, Ledger
from gateway.receiver.session import Receiver

if TYPE_CHECKING:
    from gateway.fleet.merging import PartMerger

_SHOWN_GAPS = 10
_LISTED_GAPS = 1000  # in the JSON; the numbers beside it count all


def summary(receiver: Receiver, ledger: Ledger) -> dict[str, object]:
    """Return the result of a run, for `--json`."""
    gaps = [] if receiver.is_shared else [*ledger.gaps()]
    return {
        "messages": receiver.messages,
        "events": receiver.written,
        "events_in_file": ledger.events,
        "duplicates": ledger.duplicates,
        "reordered": ledger.reordered,
        "renumbered": ledger.renumbered,
        "rejected": receiver.rejected,
        "unreadable_topics": receiver.unreadable,
        "audits": receiver.audits,
        "gateways": ledger.gateways,
        "streams": ledger.streams,
        "missing": None if receiver.is_shared else _size(gaps),
        "gaps": [
            _gap_fields(gap, len(ledger.buffers.get(gap.gateway_id, ())) > 1) for gap in gaps[:_LISTED_GAPS]
        ],
    }


def summary_text(receiver: Receiver, ledger: Ledger, output: str) -> str:
    """The same for people."""
    if receiver.is_shared:
        return "\n".join(_shared_lines(receiver, ledger, output))
    gaps = list(ledger.gaps())
    lines = [
        f"received    {receiver.written:,} new events in {receiver.messages:,} messages",
        f"output      {output} holds {ledger.events:,} events "
        f"({ledger.streams:,} streams, gateways: {ledger.gateways:,})",
        f"duplicates  {ledger.duplicates:,} left out, {ledger.reordered:,} events out of order",
        f"gaps        {_size(gaps):,} sequence numbers missing" if gaps else "gaps        none",
        *_listed(gaps),
    ]
    if ledger.renumbered:
        lines.append(f"renumbered  {ledger.renumbered:,} streams count anew: a gateway lost its buffer")
    if receiver.rejected:
        lines.append(f"rejected    {receiver.rejected:,} messages, kept beside the events")
    return "\n".join(lines)


def _shared_lines(receiver: Receiver, ledger: Ledger, output: str) -> Iterator[str]:
    """Yield the report of one of several receivers. It knows no gaps: the others have a part of each
    stream."""
    yield f"received    {receiver.written:,} new events in {receiver.messages:,} messages"
    yield f"output      {output}, shared with the other members of the group"
    yield f"duplicates  {ledger.duplicates:,} left out"
    if receiver.rejected:
        yield f"rejected    {receiver.rejected:,} messages, kept beside the events"


def merged_fields(merger: PartMerger | None) -> dict[str, object]:
    """Return what merging gave, for `--json`."""
    if merger is None:
        return {}
    told = {"results": merger.results, "late_parts": merger.late, "refused_parts": merger.refused}
    return {"merged": told}


def merged_lines(merger: PartMerger | None) -> Iterator[str]:
    """Yield the same for people."""
    if merger is not None:
        yield f"merged      {merger.results:,} results"
        if merger.late:
            yield f"late        {merger.late:,} parts; `gateway fleet run` merges them"
        if merger.refused:
            yield f"refused     {merger.refused:,} parts: they are of another plugin"


def verdict_fields(verdict: Completeness) -> dict[str, object]:
    """The verdict for `--json`."""
    return {
        "complete": verdict.complete,
        "as_of_ms": verdict.as_of_ms,
        "stale_gateways": verdict.stale,
        "gateways": {
            name: {"audited_ms": word.time_ms, "buffer": word.buffer}
            for name, word in verdict.gateways.items()
        },
        "silent_gateways": verdict.silent,
        "streams": verdict.streams,
        "received": verdict.received,
        "duplicates": verdict.duplicates,
        "declared": verdict.declared,
        "shed": verdict.shed,
        "open": verdict.open,
        "unaudited": verdict.unaudited,
        "missing": _size(verdict.missing),
        "missing_gaps": [
            _gap_fields(gap, gap.gateway_id in verdict.replaced) for gap in verdict.missing[:_LISTED_GAPS]
        ],
        "unproven": _size(verdict.unproven),
        "replaced_buffers": verdict.replaced,
        "unproven_gaps": [
            _gap_fields(gap, gap.gateway_id in verdict.replaced) for gap in verdict.unproven[:_LISTED_GAPS]
        ],
    }


def verdict_text(verdict: Completeness) -> str:
    """The verdict for people."""
    lines = [_headline(verdict), f"            {verdict.received:,} events of {verdict.streams:,} streams"]
    for name, word in verdict.gateways.items():
        waiting = word.buffer.get("pending", 0) + word.buffer.get("syncing", 0)
        still = f", {waiting:,} events were still on their way" if waiting else ""
        lines.append(f"audit       {name}: {_time(word.time_ms)} ({_age(word.time_ms)}){still}")
    lines += [f"declared    {count:,} {reason}" for reason, count in verdict.declared.items()]
    lines += [f"shed        {count:,} messages not taken in: {why}" for why, count in verdict.shed.items()]
    if verdict.open:
        lines.append(f"open        {verdict.open:,} numbers behind the last audit; the next one will tell")
    if verdict.unaudited:
        lines.append(
            f"open        {verdict.unaudited:,} events came after the last audit; the next one will tell"
        )
    lines += [f"old         the last audit of {name} is older than --max-age" for name in verdict.stale]
    if verdict.missing:
        lines += [f"missing     {_size(verdict.missing):,} events", *_listed(verdict.missing)]
    if verdict.unproven:
        lines += [f"unproven    {_size(verdict.unproven):,} numbers", *_listed(verdict.unproven)]
    for name, times in verdict.replaced.items():
        lines.append(f"replaced    {name}: its buffer was replaced, {_times(times)}; what the earlier one")
        lines.append("            had taken in and not sent by then is lost, and the amount is unknown")
    if verdict.duplicates:
        lines.append(f"twice       {verdict.duplicates:,} events stand twice in the output")
    lines += [f"no audit    {name} has sent nothing to compare with" for name in verdict.silent]
    return "\n".join(lines)


def incomplete_fields(found: Sequence[Incomplete]) -> dict[str, object]:
    """Return the results whose events are not all here, for `--json`."""
    listed = [one._asdict() | {"events": one.events} for one in found[:_LISTED_GAPS]]
    return {"incomplete": len(found), "incomplete_results": listed}


def incomplete_lines(found: Sequence[Incomplete]) -> Iterator[str]:
    """Yield the same for people; nothing if there are none."""
    if found:
        yield f"windows     {len(found):,} results were made of events that are not all here"
    for one in found[:_SHOWN_GAPS]:
        span = f"{_time(one.start_ms // 1000 * 1000)} – {_time(one.end_ms // 1000 * 1000)}"
        yield f"            {one.gateway_id} {one.window} {one.key} {span}: {one.events:,} events"
    if len(found) > _SHOWN_GAPS:
        yield f"            and {len(found) - _SHOWN_GAPS:,} more results"


def evidence_fields(evidence: Evidence) -> dict[str, object]:
    """The verdict on what was signed, for `--json`."""
    fields: dict[str, object] = {
        "sound": evidence.sound,
        "records": evidence.records,
        "faults": evidence.faults[:_LISTED_GAPS],
        "proven": evidence.proven,
        "unsealed": evidence.unsealed,
    }
    for name, found in _kinds(evidence):
        fields[name] = found.total
        fields[f"{name}_events"] = [one._asdict() for one in found]
    return fields


def evidence_text(evidence: Evidence) -> str:
    """The same for people."""
    if not evidence.records and not evidence.faults:
        return "UNSIGNED    no signed audit record has arrived"
    verdict = "signed    " if evidence.sound else "NOT AS SIGNED"
    lines = [f"{verdict}  {evidence.proven:,} events are as {evidence.records:,} signed records say"]
    if evidence.unsealed:
        lines.append(
            f"unsealed    {evidence.unsealed:,} events were delivered, but their content is not signed"
        )
    for name, found in _kinds(evidence):
        if found.total:
            lines.append(f"{name:<11} {found.total:,} events")
            lines += [f"            {_event(one)}" for one in found[:_SHOWN_GAPS]]
    lines += [f"record      {fault}" for fault in evidence.faults[:_SHOWN_GAPS]]
    if len(evidence.faults) > _SHOWN_GAPS:
        lines.append(f"            and {len(evidence.faults) - _SHOWN_GAPS:,} more faults of records")
    return "\n".join(lines)


def _kinds(evidence: Evidence) -> Iterable[tuple[str, Findings]]:
    return (
        ("changed", evidence.changed),
        ("added", evidence.added),
        ("absent", evidence.missing),
    )


def _event(one: EventName) -> str:
    event_id = f" {UUID(one.event_id)}" if one.event_id else ""
    which = f"{one.number}" if one.number == one.last else f"one of {one.number}–{one.last}"
    return f"{one.gateway_id} {one.stream} {which}{event_id}"


def _headline(verdict: Completeness) -> str:
    if verdict.as_of_ms is None:
        return "UNPROVEN    no audit record has arrived"
    as_of = f"as of {_time(verdict.as_of_ms)} ({_age(verdict.as_of_ms)})"
    if verdict.complete:
        return f"complete    {as_of} everything that the gateways have sent is here, once"
    return f"INCOMPLETE  {as_of}" if verdict.wrong else f"OPEN        {as_of}: not known to be complete"


def unreadable_text(topics: Mapping[str, int]) -> str:
    """Return advice about topics that cannot be read."""
    named = ", ".join(list(topics)[:_SHOWN_GAPS])
    return (
        f"{sum(topics.values()):,} messages on topics that no gateway sends to: {named}. A broker that "
        "rewrites topics (RabbitMQ: . becomes /) needs a gateway.id and a prefix without what it rewrites"
    )


def _age(time_ms: int) -> str:
    seconds = max(0, round(time.time() - time_ms / 1000))
    if seconds < 60:
        return f"{seconds} s ago"
    minutes = seconds // 60
    return f"{minutes} min ago" if minutes < 120 else f"{minutes // 60} h ago"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number:,} times"


def _time(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(sep=" ", timespec="seconds")


def _listed(gaps: Sequence[Gap]) -> list[str]:
    lines = [f"            {_gap(gap)}" for gap in gaps[:_SHOWN_GAPS]]
    if len(gaps) > _SHOWN_GAPS:
        lines.append(f"            and {len(gaps) - _SHOWN_GAPS:,} more gaps")
    return lines


def _size(gaps: Iterable[Gap]) -> int:
    return sum(gap.last - gap.first + 1 for gap in gaps)


def _gap_fields(gap: Gap, several_buffers: bool) -> dict[str, object]:
    """The buffer is told where the gateway has had several."""
    fields = gap._asdict()
    if not several_buffers:
        del fields["buffer_id"]
    return fields


def _gap(gap: Gap) -> str:
    span = f"{gap.first}" if gap.first == gap.last else f"{gap.first}–{gap.last}"
    return f"{gap.gateway_id} {gap.stream} {span}"
