"""Interface of every output of `gateway receive`.

The state is what the receiver knows besides the events: it is saved now and then, and after a crash the
events that were written behind it tell the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from gateway.core.errors import DecodeError, GatewayError
from gateway.core.events import Message, WireEvent
from gateway.receiver.ledger import Identity, Ledger

IN_USE_HINT = "stop it first, or verify a copy of its output and of the files beside it"


class OutputError(GatewayError):
    """Raised when an output cannot be used as it is."""


@contextmanager
def errors_of(driver: type[Exception] | tuple[type[Exception], ...], place: str) -> Iterator[None]:
    """Raise the driver's errors as OutputErrors that name the place."""
    try:
        yield
    except driver as exc:
        raise OutputError(f"{place}: {str(exc).strip()}") from exc


class Received(NamedTuple):
    """An event with its gateway and its buffer."""

    gateway_id: str
    event: WireEvent
    buffer_id: str = ""


class Sink(Protocol):
    """An output, for one thread. All but `name` raise OutputError or OSError."""

    @property
    def name(self) -> str:
        """Name for people, without passwords."""

    def open(self) -> bytes | None:
        """Open it, locked against a second receiver; returns the state that was saved last, if it still fits
        what is there."""

    def behind_state(self) -> Iterator[Identity]:
        """The events that were written after that state was saved; all of them where there was none."""

    def everything(self) -> Iterator[Identity]:
        """Yield all events, in the order in which they were written."""

    def claims(self) -> bytes | None:
        """A state of which only the gateways' claims are still good, where `open` gave none."""

    def write(self, events: Sequence[Received]) -> int:
        """Write events durably, each id once; returns how many were not there yet."""

    def save(self, state: bytes) -> None:
        """Keep what the receiver knows, as of everything that was written."""

    def reject(self, message: Message, error: DecodeError) -> None:
        """Keep a message that could not be read."""

    def keep_records(self, payloads: Sequence[bytes]) -> None:
        """Keep signed audit records as they came, durably."""

    def records(self) -> Iterator[bytes]:
        """The signed audit records, in the order in which they came; some may come twice."""

    def close(self) -> None:
        """Without effect when it is not open."""


def resume(sink: Sink) -> Ledger:
    """Open `sink` and know what an earlier run knew. Raises OutputError or OSError."""
    state = sink.open()
    ledger = _read(sink, state)
    for known in sink.behind_state():
        ledger.take(known)
    ledger.duplicates = ledger.reordered = ledger.renumbered = 0  # of this run
    return ledger


def reread(sink: Sink, told: Ledger | None = None) -> Ledger:
    """Rebuild the ledger from the rows themselves, with the claims that were kept, or with those that `told`
    has heard. Raises OutputError or OSError."""
    state = sink.open()
    ledger = Ledger()
    ledger.adopt_claims(told or _read(sink, state))
    for found in sink.everything():
        ledger.take(found)
    return ledger


def rebuild(sink: Sink) -> Ledger:
    """Like `resume`, but by the rows themselves: what is not there any more may come again."""
    ledger = reread(sink)
    for _, stream in ledger:
        stream.see_lost()
    ledger.duplicates = ledger.reordered = ledger.renumbered = 0  # of this run
    return ledger


def _read(sink: Sink, state: bytes | None) -> Ledger:
    ledger, told = Ledger(), Ledger()
    try:
        if state is not None:
            ledger.load(state)
        elif (claims := sink.claims()) is not None:
            told.load(claims)
            ledger.adopt_claims(told)
    except ValueError as exc:
        hint = "remove what the receiver keeps beside its events, and it is made anew from them"
        raise OutputError(f"the state beside {sink.name} is damaged: {exc}", hint=hint) from exc
    return ledger
