"""What a gateway may claim of its buffer: nothing that is on its way, and every loss by its number."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.buffer.proof.losses import note_losses
from gateway.buffer.proof.positions import StreamPositions, lost, standing
from gateway.buffer.store import Store
from gateway.core.events import Priority, Status
from gateway.core.sequence_sets import Run
from gateway.delivery.states import DeliveryEvent
from gateway.wire.audit_record import Exempt
from tests.support.buffers import append, event, opened, reading


def stand(path: Path) -> StreamPositions:
    with reading(path) as reader, reader.snapshot():
        return standing(reader)


def losses(path: Path, stream: int = 1) -> list[Exempt]:
    with reading(path) as reader:
        return lost(reader, [(stream, 1)]).get(stream, [])


def numbers(exempt: list[Exempt]) -> list[int]:
    return sorted(n for each in exempt for n in range(each.run.first, each.run.last + 1, each.run.step))


def deliver(store: Store, ids: list[int], happening: DeliveryEvent = DeliveryEvent.PUBACK) -> None:
    with store.transaction():
        store.move(ids, Status.PENDING, DeliveryEvent.CLAIM)
        store.move(ids, Status.SYNCING, happening)


def test_a_stream_is_settled_up_to_the_first_number_that_is_on_its_way(tmp_path: Path) -> None:
    with opened(tmp_path / "b.db") as store:
        append(store, [event("t/a") for _ in range(10)] + [event("t/b")] * 3)
        with store.transaction():
            store.checkpoint([])
        assert stand(store.path).settled == {1: 0, 2: 0}
        deliver(store, [1, 2, 3, 5, 11, 12, 13])
        assert stand(store.path).settled == {1: 3, 2: 3}
        with store.transaction():
            store.move([4], Status.PENDING, DeliveryEvent.CLAIM)
        assert stand(store.path).settled[1] == 3
        assert stand(store.path).statuses == {
            "pending": 5,
            "syncing": 1,
            "synced": 7,
            "failed": 0,
            "corrupt": 0,
            "kept": 0,
        }


def test_numbers_behind_the_checkpoint_are_not_claimed_yet(tmp_path: Path) -> None:
    with opened(tmp_path / "b.db") as store:
        append(store, [event("t/a")] * 3)
        deliver(store, [1, 2, 3])
        assert stand(store.path).settled == {}


def test_what_failed_is_kept_and_does_not_stop_the_stream(tmp_path: Path) -> None:
    with opened(tmp_path / "b.db") as store:
        append(store, [event("t/a")] * 6)
        with store.transaction():
            store.checkpoint([])
        deliver(store, [1, 4, 5, 6])
        deliver(store, [2, 3], DeliveryEvent.EXHAUSTED)
        found = stand(store.path)
        assert found.settled == {1: 6}
        assert found.kept == {1: (Exempt("failed", Run(2, 3), kept=True),)}


def test_thinning_in_passes_is_declared_number_by_number_in_a_few_runs(tmp_path: Path) -> None:
    with opened(tmp_path / "b.db") as store:
        append(store, [event("t/a") for _ in range(1000)])
        for keep_one_in in (2, 4, 8):
            for start in range(1, 600, 100):
                with store.transaction():
                    store.removals.thin(start, start + 99, keep_one_in, Priority.NORMAL)
        with store.transaction():
            store.removals.drop_pending([*range(700, 720)])
        found = losses(store.path)
        gone = {n for n in range(1, 601) if n % 8} | {*range(700, 720)}
        assert numbers(found) == sorted(gone)
        assert len(found) == 4


@given(seed=st.integers(0, 10_000))
def test_whatever_is_removed_in_whatever_steps_is_declared_exactly_once(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    chance = random.Random(seed)
    with opened(tmp_path_factory.mktemp("b") / "b.db") as store:
        append(store, [event(f"t/{number % 3}") for number in range(60)])
        left, gone = [*range(1, 61)], []
        while left:
            some = sorted(chance.sample(left, chance.randint(1, len(left))))
            with store.transaction():
                store.removals.drop_pending(some)
            gone += some
            left = [each for each in left if each not in some]
            for stream in (1, 2, 3):
                expected = sorted((each + 2) // 3 for each in gone if (each - 1) % 3 == stream - 1)
                assert numbers(losses(store.path, stream)) == expected


def test_losing_nothing_notes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path / "b.db") as store:
        with store.transaction():
            note_losses(store._connection, "oldest", "id < ?", (0,))
        assert losses(store.path) == []
