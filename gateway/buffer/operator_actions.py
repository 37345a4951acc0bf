"""Changes by the operator (retry, drop, compact), on a running or a stopped gateway.

Invariants:
- Every step is one short transaction over a bounded stretch of ids; a running gateway goes on in between.
- What is dropped is counted per stream and reason, and announced, in the transaction that removes it.
- Nothing behind the window checkpoint is dropped: a restart still has to replay it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from gateway.buffer.alerts import Alert
from gateway.buffer.event_filter import EventFilter
from gateway.buffer.proof.losses import Removal
from gateway.buffer.store import CHECKPOINT_ID, Store
from gateway.core.events import Status
from gateway.delivery.states import DeliveryEvent, sources, target

IDS_PER_STEP = 10_000
PAGES_PER_STEP = 1024  # 4 MiB
_GIVEN_UP = (Status.FAILED, Status.CORRUPT)  # what a drop takes that names no status

T = TypeVar("T")
Report = Callable[[int, int], None]
"""Gets what is done and all there is to do. What it raises ends the work between two steps."""

Operation = Callable[[Mapping[str, Any], Report], Mapping[str, Any]]


class RunCommand(Protocol):
    """Runs a function of the store in a transaction of its own."""

    def __call__(self, change: Callable[[Store], T], /) -> T: ...


class _Step(Protocol):
    """Changes what is meant in a range of ids; returns how many events that were."""

    def __call__(self, store: Store, from_id: int, to_id: int) -> int: ...


class OperatorActions:
    """The changes of one buffer. `outside` runs a function of the store without a transaction; `checkpoint`
    brings the window checkpoint up to date, where there are windows."""

    def __init__(
        self,
        run: RunCommand,
        outside: RunCommand,
        alert: Alert,
        checkpoint: Callable[[Store], object] = lambda store: None,
    ) -> None:
        self._run = run
        self._outside = outside
        self._alert = alert
        self._checkpoint = checkpoint

    def retry(self, wanted: EventFilter, report: Report) -> dict[str, int]:
        """FAILED events go back to PENDING with all their attempts, and no stream waits any longer."""
        allowed = _allowed(wanted, sources(DeliveryEvent.RETRY), DeliveryEvent.RETRY)

        def step(store: Store, from_id: int, to_id: int) -> int:
            ids = store.search.chosen(wanted, allowed, from_id, to_id)
            return store.move(ids, Status.FAILED, DeliveryEvent.RETRY)

        retried = self._walk(step, self._run(Store.last_id), report)
        return {"retried": retried, "released": self._run(Store.release_held)}

    def drop(self, wanted: EventFilter, report: Report) -> dict[str, int]:
        """Remove events for good. Without a status in `wanted` these are FAILED and CORRUPT ones."""
        default = sources(DeliveryEvent.DROP) if wanted.status is not None else _GIVEN_UP
        allowed = _allowed(wanted, default, DeliveryEvent.DROP)

        def step(store: Store, from_id: int, to_id: int) -> int:
            ids = store.search.chosen(wanted, allowed, from_id, to_id)
            removal = store.removals.drop(ids, allowed)
            if removal.events:
                self._announce(store, removal, (ids[0], ids[-1]))
            return removal.events

        def checkpoint(store: Store) -> int:
            self._checkpoint(store)
            return store.meta_int(CHECKPOINT_ID)

        return {"dropped": self._walk(step, self._run(checkpoint), report)}

    def forward(self, wanted: EventFilter, report: Report) -> dict[str, int]:
        """KEPT events go to the cloud after all: they become PENDING."""
        allowed = _allowed(wanted, sources(DeliveryEvent.FORWARD), DeliveryEvent.FORWARD)

        def step(store: Store, from_id: int, to_id: int) -> int:
            return store.forward(store.search.chosen(wanted, allowed, from_id, to_id))

        return {"forwarded": self._walk(step, self._run(Store.last_id), report)}

    def compact(self, report: Report) -> dict[str, int]:
        """Give every free page back to the file system, and empty the write-ahead log."""
        before_bytes = self._run(lambda store: store.file.size_bytes())
        total = self._run(lambda store: store.file.free_pages())
        left = total
        while left:
            self._run(lambda store: store.file.give_back(PAGES_PER_STEP))
            # Only what is in the file itself can make it shorter; until then it is in the log.
            self._outside(lambda store: store.file.empty_wal())
            left, was = self._run(lambda store: store.file.free_pages()), left
            if left >= was:
                break  # the gateway frees as fast, or a reader holds on to what is free
            report(max(0, total - left), total)
        emptied = self._outside(lambda store: store.file.empty_wal())
        after_bytes = self._run(lambda store: store.file.size_bytes())
        return {"before_bytes": before_bytes, "after_bytes": after_bytes, "log_emptied": int(emptied)}

    # --- inside ---

    def _walk(self, step: _Step, last_id: int, report: Report) -> int:
        """Take `step` over all ids up to `last_id`, each in its own transaction; returns the sum."""
        first = self._run(lambda store: store.search.first_from(0))
        if first is None:
            return 0
        start_id = from_id = first[0]
        changed = 0
        while from_id <= last_id:
            to_id = min(last_id, from_id + IDS_PER_STEP - 1)
            changed += self._run(partial(step, from_id=from_id, to_id=to_id))
            report(to_id - start_id + 1, last_id - start_id + 1)
            following = self._run(partial(_first_from, from_id=to_id + 1))
            if following is None:
                break
            from_id = following[0]
        return changed

    def _announce(self, store: Store, removal: Removal, ids: tuple[int, int]) -> None:
        what = f"{removal.events} events of {removal.whose} were dropped by hand"
        between = f"between buffer ids {ids[0]} and {ids[1]}"
        self._alert(store, "dropped", f"{what}, {between}", removal.details("dropped"))


def operations(actions: OperatorActions) -> dict[str, Operation]:
    """The changes by name, each of a request; `choice` has its events as `EventFilter.as_json` gives them."""

    def chosen(change: Callable[[EventFilter, Report], dict[str, int]]) -> Operation:
        return lambda request, report: change(EventFilter.from_json(request.get("choice", {})), report)

    return {
        "retry": chosen(actions.retry),
        "drop": chosen(actions.drop),
        "forward": chosen(actions.forward),
        "compact": lambda request, report: actions.compact(report),
    }


def _first_from(store: Store, from_id: int) -> tuple[int, int] | None:
    return store.search.first_from(from_id)


def _allowed(wanted: EventFilter, default: Sequence[Status], happening: DeliveryEvent) -> tuple[Status, ...]:
    """The statuses that are meant. Raises DeliveryError when the state table does not allow it."""
    if wanted.status is None:
        return tuple(default)
    target(wanted.status, happening)
    return (wanted.status,)
