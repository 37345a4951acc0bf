"""Power cuts at every moment, under the real store, writer and pipeline: what was acknowledged is there (P1).

A recording disk (`power.py`) notes each write and sync of a shift of work, and in between what was
acknowledged. Then it is rebuilt as a power cut would have left it, and a gateway starts on it.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from gateway.buffer.proof.balance import audit
from gateway.buffer.repair.commit_marker import CommitMarker
from gateway.buffer.repair.recovery import WHOLE
from gateway.pipeline.commands import Tick
from tests.support.power import TEARS, Content, Disk, Note, Operation, recorded, restore
from tests.support.shift import FILE, Marked, Shift, Synchronous, contents, missing, what_was_sent

NEXT_MESSAGE = 1_000_000
LOG_PAGES = 40  # so that a short shift has many checkpoints of the log

log = logging.getLogger(__name__)


def noting(operations: list[Operation]) -> Callable[[object], None]:
    """Notes go between the operations of the disk, where they happened."""
    return lambda what: operations.append(Note(what))


def recorded_shift(
    folder: Path, synchronous: Synchronous, chance: random.Random, rounds: int
) -> tuple[list[Operation], Path]:
    """What a new buffer wrote, synced and acknowledged in two runs; and a folder for what is left of it."""
    operations: list[Operation] = []
    (left := folder / "left").mkdir()
    with recorded(operations):
        shift = Shift(folder, synchronous, noting(operations), LOG_PAGES)
        with shift.running():
            sent = shift.work(chance, rounds)
        with shift.running() as writer:  # a clean stop removed the log; it is made anew
            writer.submit(shift.take_in(range(sent, sent + 20)))
    return operations, left


class Outcome(NamedTuple):
    """What a start after a power cut found."""

    missing: frozenset[int]  # acknowledged messages that are neither there nor in the cloud
    problems: tuple[str, ...]


def start_after_cut(
    files: Content, folder: Path, notes: Sequence[object], synchronous: Synchronous = "full"
) -> Outcome:
    """Start a gateway on what is left, and compare with what was acknowledged before the cut."""
    restore(files, folder)
    marks = [note.last_id for note in notes if isinstance(note, Marked)]
    if marks:
        CommitMarker(folder / FILE).write(marks[-1])  # at its worst it is on the disk at once
    shift = Shift(folder, synchronous)
    with shift.running() as writer:
        here = contents(shift.reader)
        writer.submit(shift.take_in([NEXT_MESSAGE]))  # and it goes on
        writer.submit(Tick(shift.pipeline, lambda: None))
        writer.call(lambda _: None)
        problems = audit(shift.reader).problems
        went_on = NEXT_MESSAGE in contents(shift.reader)
    if shift.recovery != WHOLE:
        problems += (f"a power cut was taken for damage: {shift.recovery}",)
    if shift.opening.lost:
        problems += (f"a power cut was taken for a loss: {shift.opening.lost}",)
    if not went_on:
        problems += ("what came after the start is not there",)
    problems += tuple(f"{sent} was never sent" for n, sent in here.items() if sent != what_was_sent(n))
    return Outcome(missing(notes, here), problems)


def cut_and_start(
    operations: Sequence[Operation],
    folder: Path,
    chance: random.Random,
    share: float,
    synchronous: Synchronous = "full",
) -> dict[str, list[Outcome]]:
    """Cut the power before that share of the operations, in each way; what the starts found, by way."""
    disk, notes = Disk({}), list[object]()
    found: dict[str, list[Outcome]] = {tear.__name__: [] for tear in TEARS}
    for operation in operations:
        if chance.random() < share:
            for tear in TEARS:
                left = disk.after_power_cut(tear, chance)
                found[tear.__name__].append(start_after_cut(left, folder, notes, synchronous))
        if isinstance(operation, Note):
            notes.append(operation.what)
        disk.apply(operation)
    return found


def cut_the_start(
    left: Content, folder: Path, notes: Sequence[object], chance: random.Random
) -> list[Outcome]:
    """Start on what a power cut has left, and cut the power at every moment of that start too."""
    restore(left, folder)
    operations: list[Operation] = []
    with recorded(operations):
        shift = Shift(folder, "full", noting(operations), LOG_PAGES)
        with shift.running() as writer:
            writer.submit(shift.take_in(range(2 * NEXT_MESSAGE, 2 * NEXT_MESSAGE + 5)))
    disk, notes, found = Disk(left), list(notes), []
    for operation in operations:
        found.append(start_after_cut(disk.after_power_cut(chance.choice(TEARS), chance), folder, notes))
        if isinstance(operation, Note):
            notes.append(operation.what)
        disk.apply(operation)
    return found


def summary(found: dict[str, list[Outcome]]) -> str:
    return "; ".join(
        f"{way}: {len(outcomes)} cuts, {sum(bool(o.missing) for o in outcomes)} of them lost acknowledged"
        f" messages, {max(len(o.missing) for o in outcomes)} at worst"
        for way, outcomes in found.items()
    )


@pytest.fixture
def seed() -> int:
    seed = random.SystemRandom().randrange(2**32)
    log.warning("seed %d", seed)  # pytest shows it when a test fails
    return seed


@pytest.mark.parametrize(
    ("rounds", "share"),
    [pytest.param(25, 0.03, id="short"), pytest.param(60, 1.0, id="long", marks=pytest.mark.slow)],
)
def test_no_power_cut_loses_an_acknowledged_message(
    tmp_path: Path, seed: int, rounds: int, share: float
) -> None:
    chance = random.Random(seed)
    found = cut_and_start(*recorded_shift(tmp_path, "full", chance, rounds), chance, share)
    log.warning("FULL: %s", summary(found))
    for outcomes in found.values():
        assert len(outcomes) > 5
        assert {*outcomes} == {Outcome(frozenset(), ())}


def test_the_same_power_cuts_show_the_losses_of_synchronous_normal(tmp_path: Path, seed: int) -> None:
    """The negative control: a harness that finds nothing here would find nothing at all."""
    chance = random.Random(seed)
    found = cut_and_start(*recorded_shift(tmp_path, "normal", chance, 25), chance, 0.03, "normal")
    log.warning("NORMAL: %s", summary(found))
    for way, outcomes in found.items():
        assert any(outcome.missing for outcome in outcomes), way
        assert not any(outcome.problems for outcome in outcomes), "less is there, but all of it is right"


@pytest.mark.parametrize("cuts", [pytest.param(2, id="short"), pytest.param(60, marks=pytest.mark.slow)])
def test_a_second_power_cut_during_the_start_loses_nothing_either(
    tmp_path: Path, seed: int, cuts: int
) -> None:
    chance = random.Random(seed)
    operations, folder = recorded_shift(tmp_path, "full", chance, 25)
    disk, notes, found = Disk({}), list[object](), list[Outcome]()
    first_cuts = {*chance.sample(range(len(operations)), cuts)}
    for at, operation in enumerate(operations):
        if at in first_cuts:
            found += cut_the_start(disk.after_power_cut(chance.choice(TEARS), chance), folder, notes, chance)
        if isinstance(operation, Note):
            notes.append(operation.what)
        disk.apply(operation)
    log.warning("%d first cuts, %d second ones", cuts, len(found))
    assert len(found) > cuts
    assert {*found} == {Outcome(frozenset(), ())}
