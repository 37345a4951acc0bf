"""What an operator changes by hand: retry, drop, compact; on a running or on a stopped gateway.

Invariants:
- Every step is one short transaction over a bounded stretch of ids; a running gateway goes on in between.
- What is dropped is counted per stream and reason, and announced, in the transaction that removes it.
- Nothing behind the window checkpoint is dropped: a restart still has to replay it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

import orjson

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

    def retry(self, choice: EventFilter, report: Report) -> dict[str, int]:
        """FAILED events go back to PENDING with all their attempts, and no stream waits any longer."""
        allowed = _allowed(choice, sources(DeliveryEvent.RETRY), DeliveryEvent.RETRY)

        def step(store: Store, from_id: int, to_id: int) -> int:
            ids = _chosen_ids(store, choice, allowed, from_id, to_id)
            return store.move(ids, Status.FAILED, DeliveryEvent.RETRY)

        retried = self._walk(step, self._run(Store.last_id), report)
        return {"retried": retried, "released": self._run(Store.release_held)}

    def drop(self, choice: EventFilter, report: Report) -> dict[str, int]:
        """Remove events for good. Without a status in `choice` these are FAILED and CORRUPT ones."""
        default = sources(DeliveryEvent.DROP) if choice.status is not None else _GIVEN_UP
        allowed = _allowed(choice, default, DeliveryEvent.DROP)

        def step(store: Store, from_id: int, to_id: int) -> int:
            ids = _chosen_ids(store, choice, allowed, from_id, to_id)
            removal = _drop(store, ids, allowed)
            if removal.events:
                self._announce(store, removal, (ids[0], ids[-1]))
            return removal.events

        def checkpoint(store: Store) -> int:
            self._checkpoint(store)
            return store.meta_int(CHECKPOINT_ID)

        return {"dropped": self._walk(step, self._run(checkpoint), report)}

    def compact(self, report: Report) -> dict[str, int]:
        """Give every free page back to the file system, and empty the write-ahead log."""
        before_bytes = self._run(Store.file_bytes)
        total = self._run(Store.free_pages)
        left = total
        while left:
            self._run(lambda store: store.give_back(PAGES_PER_STEP))
            # Only what is in the file itself can make it shorter; until then it is in the log.
            self._outside(Store.empty_wal)
            left, was = self._run(Store.free_pages), left
            if left >= was:
                break  # the gateway frees as fast, or a reader holds on to what is free
            report(max(0, total - left), total)
        emptied = self._outside(Store.empty_wal)
        after_bytes = self._run(Store.file_bytes)
        return {"before_bytes": before_bytes, "after_bytes": after_bytes, "log_emptied": int(emptied)}

    # --- inside ---

    def _walk(self, step: _Step, last_id: int, report: Report) -> int:
        """Take `step` over all ids up to `last_id`, each in its own transaction; returns the sum."""
        first = self._run(lambda store: store.first_from(0))
        if first is None:
            return 0
        start_id = from_id = first[0]
        changed = 0
        while from_id <= last_id:
            to_id = min(last_id, from_id + IDS_PER_STEP - 1)
            changed += self._run(partial(step, from_id=from_id, to_id=to_id))
            report(to_id - start_id + 1, last_id - start_id + 1)
            following = self._run(partial(Store.first_from, from_id=to_id + 1))
            if following is None:
                break
            from_id = following[0]
        return changed

    def _announce(self, store: Store, removal: Removal, ids: tuple[int, int]) -> None:
        what = f"{removal.events} events of {removal.whose} were dropped by hand"
        between = f"between buffer ids {ids[0]} and {ids[1]}"
        self._alert(store, "dropped", f"{what}, {between}", removal.details("dropped"))


def operations(by_hand: OperatorActions) -> dict[str, Operation]:
    """The changes by name, each of a request; `choice` has its events as `EventFilter.as_json` gives them."""

    def chosen(change: Callable[[EventFilter, Report], dict[str, int]]) -> Operation:
        return lambda request, report: change(EventFilter.from_json(request.get("choice", {})), report)

    return {
        "retry": chosen(by_hand.retry),
        "drop": chosen(by_hand.drop),
        "compact": lambda request, report: by_hand.compact(report),
    }


def _chosen_ids(
    store: Store, choice: EventFilter, statuses: Sequence[Status], from_id: int, to_id: int
) -> list[int]:
    """The ids in a range that are meant, if they are in one of those statuses."""
    where, values = choice.where()
    (ids,) = store.arrays(
        "SELECT json_group_array(id) FROM buffer_events WHERE id BETWEEN ? AND ?"  # noqa: S608 - constants
        f" AND status IN (SELECT value FROM json_each(?)) AND {where}",
        (from_id, to_id, orjson.dumps([int(status) for status in statuses]).decode(), *values),
    )
    return ids


def _drop(store: Store, ids: Sequence[int], statuses: Sequence[Status]) -> Removal:
    """Remove those of `ids` in one of those statuses."""
    chosen = orjson.dumps(list(ids)).decode()
    return Removal.together(
        store.evict("dropped", status, _THESE, (chosen, int(status))) for status in statuses if ids
    )


def _allowed(choice: EventFilter, default: Sequence[Status], happening: DeliveryEvent) -> tuple[Status, ...]:
    """The statuses that are meant. Raises DeliveryError when the state table does not allow it."""
    if choice.status is None:
        return tuple(default)
    target(choice.status, happening)
    return (choice.status,)


_THESE = "id IN (SELECT value FROM json_each(?)) AND status = ?"
