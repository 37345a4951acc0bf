"""Effects of the passing of processing time on a window: silence, pulses, keys to forget."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from typing import Generic, Protocol, TypeVar

from gateway.core.events import Emission
from gateway.windows.corrections import OwedCorrections
from gateway.windows.counters import Counters
from gateway.windows.emission import MANY
from gateway.windows.expiry import Expiry
from gateway.windows.keyspace import Keyspace
from gateway.windows.plugin_runner import Key
from gateway.windows.spec import WindowSpec
from gateway.windows.watermark import ENDLESS, IdleTimeout, KeyClock, SharedClock, SilentKeys

K = TypeVar("K", bound=Key)


class Ticked(Protocol[K]):
    """The part of an operator that is needed here."""

    spec: WindowSpec
    uses_watermark: bool
    shared: SharedClock | None
    keys: Keyspace[K]
    counters: Counters
    owed: OwedCorrections | None

    def fire(self, out: list[Emission]) -> Iterator[None]: ...
    def fire_keys(self, names: Iterable[str], out: list[Emission]) -> Iterator[None]: ...
    def close_all(self, key: K, out: list[Emission]) -> None: ...
    def pulse_key(self, key: K, out: list[Emission]) -> bool: ...
    def settle(self, now_ms: int, out: list[Emission]) -> Generator[None, None, bool]: ...


class ProcessingTimeTimers(Generic[K]):
    """Looks after one window's idle timeout, its `every`, and its time to live."""

    def __init__(self, operator: Ticked[K]) -> None:
        spec = operator.spec
        self.progressed = False
        """True if the last `advance` changed any state."""
        self._operator = operator
        self._every_ms = spec.trigger_every_ms if spec.type == "global" else spec.early_every_ms
        self._pulse_number: int | None = None
        self._expiry: Expiry[K] | None = None if spec.ttl_ms is None else Expiry(spec.ttl_ms)
        self._silent: SilentKeys | None = None
        timeout = idle_timeout(spec)
        if operator.uses_watermark and operator.shared is None and timeout is not None:
            self._silent = SilentKeys(timeout)

    @property
    def has_pulses(self) -> bool:
        """True if the window gives results as time passes."""
        return self._every_ms is not None

    @property
    def awaits_time(self) -> bool:
        """True if silence, a pulse or a due correction may produce a result."""
        if not len(self._operator.keys):
            return False
        return self._every_ms is not None or self._operator.spec.idle_timeout_ms is not None

    def watch_key(self, key: K) -> None:
        """Mind that the key may have to be forgotten one day."""
        if self._expiry is not None:
            self._expiry.watch(key.name, key.heard_ms)

    def watch_clock(self, clock: KeyClock) -> None:
        """Mind that the key may fall silent while windows wait for its watermark."""
        if self._silent is not None:
            self._silent.watch(clock)

    def advance(self, now_ms: int, out: list[Emission]) -> Iterator[None]:
        """Let processing time pass. Pauses where `out` is full, as `Operator.fire` does."""
        operator = self._operator
        self.progressed = False
        if self._every_ms is not None:
            yield from self._pulse(now_ms // self._every_ms, out)
        self.progressed |= yield from operator.settle(now_ms, out)
        if operator.shared is not None:
            self.progressed |= operator.shared.tick(now_ms)
            yield from operator.fire(out)
            operator.counters.sources = len(operator.shared.sources)
        elif self._silent is not None:
            yield from self._fire_silent(self._silent, now_ms, out)
        self.progressed |= self._expire(now_ms, out)

    def resume(self, now_ms: int) -> None:
        """The silence until now was the gateway's, not the sources': judge idleness from now on."""
        for watcher in (self._operator.shared, self._silent, self._expiry, self._operator.owed):
            if watcher is not None:
                watcher.resume(now_ms)

    def _fire_silent(self, silent: SilentKeys, now_ms: int, out: list[Emission]) -> Iterator[None]:
        keys = self._operator.keys
        moved = sorted(clock.owner for clock in silent.tick(now_ms, self._clock_of))
        for name in moved:  # before the first pause: their watermarks are not to be lost
            keys.touch(keys.hot[name])
        yield from self._operator.fire_keys(moved, out)
        for clock in filter(None, map(self._clock_of, moved)):
            if clock.next_due_ms < ENDLESS:
                silent.watch(clock, now_ms)
        self.progressed |= bool(moved)

    def _clock_of(self, name: str) -> KeyClock | None:
        key = self._operator.keys.find(name)
        return None if key is None else key.clock

    def _expire(self, now_ms: int, out: list[Emission]) -> bool:
        forgotten = False
        if self._expiry is None:
            return forgotten
        operator = self._operator
        for key in self._expiry.tick(now_ms, operator.keys.find):
            if operator.shared is not None and key.window_count():
                self._expiry.watch(key.name, now_ms)  # the shared watermark will close its windows
                continue
            forgotten = True
            operator.counters.keys_forgotten += 1
            operator.close_all(key, out)
            operator.keys.remove(key)
        return forgotten

    def _pulse(self, number: int, out: list[Emission]) -> Iterator[None]:
        """Pulses are aligned to the epoch, so that they need no state: a first tick only notes its own."""
        is_due = self._pulse_number is not None and number > self._pulse_number
        self._pulse_number = number
        for key in self._operator.keys.each() if is_due else ():
            if self._operator.pulse_key(key, out):
                self._operator.keys.touch(key)
                self.progressed = True
                if len(out) >= MANY:
                    yield


def idle_timeout(spec: WindowSpec) -> IdleTimeout | None:
    """Return the silence after which a source of the window is idle; None: never."""
    if spec.idle_timeout_ms is None:
        return None
    return IdleTimeout(spec.idle_timeout_ms, learns=spec.idle_learns)
