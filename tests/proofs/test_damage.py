"""Random damage to the files of a buffer at work: it starts, says what it saved, passes on no garbage (P6).

The victim is what a `kill -9` leaves: pending, settled and derived events, commits in the write-ahead log.
What a start has not found must at least be found by the verification that runs in the background.
"""

from __future__ import annotations

import logging
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import apsw
import pytest

from gateway.buffer.proof.balance import audit
from gateway.buffer.reader import Reader
from gateway.buffer.repair.damage import note_damage
from gateway.buffer.repair.recovery import check
from gateway.buffer.store import Store
from gateway.core.errors import StoreError
from tests.support.buffers import sql
from tests.support.shift import FILE, Shift, contents, number_of, what_was_sent

PAGE_BYTES = 4096
LOG = FILE + "-wal"
NEXT_MESSAGE = 1_000_000
PATIENCE_S = 60.0

log = logging.getLogger(__name__)


class Victim(NamedTuple):
    """The files as they were, and where things stand in them."""

    files: dict[str, bytes]
    messages: int
    index_pages: list[int]


Files = dict[str, bytearray]
Damage = Callable[[Files, Victim, random.Random], None]


def bytes_of_a_page(files: Files, victim: Victim, chance: random.Random) -> None:
    overwrite(
        files[FILE], any_page(files, chance) * PAGE_BYTES + chance.randrange(PAGE_BYTES - 200), 200, chance
    )


def one_bit(files: Files, victim: Victim, chance: random.Random) -> None:
    files[FILE][chance.randrange(len(files[FILE]))] ^= 1 << chance.randrange(8)


def a_whole_page(files: Files, victim: Victim, chance: random.Random) -> None:
    overwrite(files[FILE], any_page(files, chance) * PAGE_BYTES, PAGE_BYTES, chance)


def the_first_page(files: Files, victim: Victim, chance: random.Random) -> None:
    """The one that says where each table begins."""
    overwrite(files[FILE], 0, PAGE_BYTES, chance)


def five_pages(files: Files, victim: Victim, chance: random.Random) -> None:
    for _ in range(5):
        a_whole_page(files, victim, chance)


def sixteen_pages_of_zeros(files: Files, victim: Victim, chance: random.Random) -> None:
    start = any_page(files, chance) * PAGE_BYTES
    end = min(start + 16 * PAGE_BYTES, len(files[FILE]))
    files[FILE][start:end] = bytes(end - start)


def an_index_page(files: Files, victim: Victim, chance: random.Random) -> None:
    page = chance.choice(victim.index_pages)
    overwrite(files[FILE], page * PAGE_BYTES + chance.randrange(PAGE_BYTES - 50), 50, chance)


def the_file_cut_short(files: Files, victim: Victim, chance: random.Random) -> None:
    del files[FILE][chance.randrange(len(files[FILE]) // 4, len(files[FILE])) :]


def one_bit_of_the_log(files: Files, victim: Victim, chance: random.Random) -> None:
    files[LOG][chance.randrange(len(files[LOG]))] ^= 1 << chance.randrange(8)


def the_log_cut_short(files: Files, victim: Victim, chance: random.Random) -> None:
    del files[LOG][chance.randrange(len(files[LOG])) :]


def the_log_deleted(files: Files, victim: Victim, chance: random.Random) -> None:
    del files[LOG]


def overwrite(content: bytearray, start: int, size: int, chance: random.Random) -> None:
    content[start : start + size] = chance.randbytes(min(size, len(content) - start))


def any_page(files: Files, chance: random.Random) -> int:
    return chance.randrange(len(files[FILE]) // PAGE_BYTES)


DAMAGES: tuple[Damage, ...] = (
    *(
        bytes_of_a_page,
        one_bit,
        a_whole_page,
        the_first_page,
        five_pages,
        sixteen_pages_of_zeros,
    ),
    *(an_index_page, the_file_cut_short, one_bit_of_the_log, the_log_cut_short, the_log_deleted),
)


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Victim:
    folder = tmp_path_factory.mktemp("victim")
    shift = Shift(folder, "full", log_pages=250)
    with shift.running() as writer:
        shift.work(random.Random(1), 150)
        writer.call(lambda _: None)
        files = {name: (folder / name).read_bytes() for name in (FILE, LOG)}
        messages = len(contents(shift.reader))
    pages = sql(shift.path, "SELECT pageno FROM dbstat WHERE name LIKE '%index%' OR name LIKE '%unsettled%'")
    in_the_file = range(len(files[FILE]) // PAGE_BYTES)  # others are in the log still
    index_pages = [page - 1 for (page,) in pages if isinstance(page, int) and page - 1 in in_the_file]
    return Victim(files, messages, index_pages)


class Found(NamedTuple):
    """What a start on damaged files came to."""

    how: str
    saved: int
    alert: str
    unnoticed: tuple[str, ...]  # what neither the start nor a verification of the file reports


def start_on(files: Files, folder: Path) -> Found:
    """Start and work; where the damage shows only then, start again, as a gateway that is unhealthy does."""
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    try:
        return work_on(folder)
    except (StoreError, apsw.CorruptError, apsw.SQLError):
        problem = check(folder / FILE, thorough=True)
        assert problem, "the file cannot be used, and its verification does not say why"
        note_damage(folder / FILE, problem)
        return work_on(folder)


def count_and_claim(store: Store) -> tuple[int, int]:
    """In one transaction: an alert of the start may come at any time."""
    ((pending,),) = store._connection.execute(
        "SELECT count(*) FROM buffer_events NOT INDEXED WHERE status = 0"
    )
    return int(str(pending)), len(store.claim(1_000_000))


def work_on(folder: Path) -> Found:
    """Start, look at every message, send everything, take in more."""
    shift = Shift(folder, "full")
    with shift.running() as writer:
        saved, problems = readable(shift.reader, nameless="streams" in shift.recovery.alert)
        if shift.recovery.kind == "salvaged":
            problems += audit(shift.reader).problems
        pending, claimed = writer.call(count_and_claim, PATIENCE_S)
        if pending != claimed:
            problems.append(f"{claimed} can be claimed of {pending} pending ones")
        writer.submit(shift.take_in([NEXT_MESSAGE]))
        writer.call(lambda _: None, PATIENCE_S)
        assert NEXT_MESSAGE in readable(shift.reader)[0]
    if problems and check(shift.path, thorough=True):
        problems = []  # the background verification says so, and the next start mends it
    return Found(shift.recovery.kind, len(saved), shift.recovery.alert, tuple(problems))


def readable(reader: Reader, *, nameless: bool = False) -> tuple[set[int], list[str]]:
    """The numbers of the messages whose checksum is right, and what is wrong with these all the same.

    `nameless`: it was said that names of streams are lost; such a stream is called by its number.
    """
    saved, problems = set[int](), list[str]()
    for events in reader.raw_after(0):
        good, _ = reader.without_corrupt(events)
        for sent in zip(reader.names(good.stream_ids), reader.payloads(good), strict=True):
            number = number_of(sent[1])
            if number in saved:
                problems.append(f"message {number} is there twice")
            topic, payload = sent
            if nameless and topic.startswith("lost/"):
                topic = what_was_sent(number)[0]
            if number != NEXT_MESSAGE and (topic, payload) != what_was_sent(number):
                problems.append(f"{sent} was never sent")
            saved.add(number)
    return saved, problems


def summary(name: str, found: list[Found], messages: int) -> str:
    hows = ", ".join(f"{how} {count}" for how, count in Counter(f.how for f in found).most_common())
    saved = [f.saved / messages for f in found]
    return f"{name:24} {sum(saved) / len(saved):7.2%} saved, {min(saved):7.2%} at worst; {hows}"


@pytest.mark.parametrize("rounds", [pytest.param(2, id="short"), pytest.param(30, marks=pytest.mark.slow)])
def test_a_damaged_buffer_starts_saves_what_it_can_and_passes_on_nothing_wrong(
    tmp_path: Path, victim: Victim, rounds: int
) -> None:
    chance = seeded(victim)
    for damage in DAMAGES:
        found = []
        for number in range(rounds):
            files = {name: bytearray(content) for name, content in victim.files.items()}
            damage(files, victim, chance)
            folder = tmp_path / f"{damage.__name__}-{number}"
            found.append(start_on(files, folder))
            shutil.rmtree(folder)
        expect_all_noticed(damage.__name__, found, victim)


@pytest.mark.parametrize("rounds", [pytest.param(1, id="short"), pytest.param(25, marks=pytest.mark.slow)])
def test_a_damaged_name_counter_or_schema_costs_no_message(
    tmp_path: Path, victim: Victim, rounds: int
) -> None:
    chance = seeded(victim)
    whole, pages = without_log(victim, tmp_path / "whole")
    for name, numbers in pages.items():
        found = []
        for number in range(rounds):
            content = bytearray(whole)
            bytes_in_use(content, chance.choice(numbers), chance)
            folder = tmp_path / f"{name}-{number}"
            found.append(start_on({FILE: content}, folder))
            shutil.rmtree(folder)
        expect_all_noticed(name, found, victim)
        assert [one.saved for one in found if one.saved != victim.messages] == []


def test_destroyed_pages_between_the_root_and_the_events_cost_no_message(
    tmp_path: Path, victim: Victim
) -> None:
    """Neither does the root, through which every event is reached."""
    chance = seeded(victim)
    whole, _ = without_log(victim, tmp_path / "whole")
    inner = sql(
        tmp_path / "whole" / FILE,
        "SELECT pageno FROM dbstat WHERE name = 'buffer_events' AND pagetype = 'internal'",
    )
    assert inner
    content = bytearray(whole)
    for (page,) in inner:
        overwrite(content, (int(str(page)) - 1) * PAGE_BYTES, PAGE_BYTES, chance)
    found = start_on({FILE: content}, tmp_path / "damaged")
    expect_all_noticed("all inner pages", [found], victim)
    assert (found.how, found.saved) == ("salvaged", victim.messages)


def seeded(victim: Victim) -> random.Random:
    seed = random.SystemRandom().randrange(2**32)
    log.warning("seed %d, %d messages in the buffer", seed, victim.messages)
    return random.Random(seed)


def without_log(victim: Victim, folder: Path) -> tuple[bytes, dict[str, list[int]]]:
    """The file with its log moved into it, and the pages of the small tables and of the schema in it."""
    folder.mkdir()
    for name, content in victim.files.items():
        (folder / name).write_bytes(content)
    sql(folder / FILE, "PRAGMA wal_checkpoint(TRUNCATE)")
    pages: dict[str, list[int]] = {}
    for name, page in sql(
        folder / FILE, "SELECT name, pageno FROM dbstat WHERE name NOT LIKE 'buffer_events%'"
    ):
        assert isinstance(page, int)
        pages.setdefault(str(name), []).append(page - 1)
    return (folder / FILE).read_bytes(), pages


def bytes_in_use(content: bytearray, page: int, chance: random.Random) -> None:
    """Overwrite one to ten bytes of a page, where it is not empty."""
    start, end = page * PAGE_BYTES, (page + 1) * PAGE_BYTES
    at = chance.choice([place for place in range(start, end) if content[place]])
    overwrite(content, at, min(chance.choice((1, 1, 10)), end - at), chance)


def expect_all_noticed(name: str, found: list[Found], victim: Victim) -> None:
    log.warning("%s", summary(name, found, victim.messages))
    assert not [one for one in found if one.unnoticed]
    assert all(one.alert for one in found if one.how in ("salvaged", "empty"))
    assert not [one for one in found if one.how == "empty" and one.saved]
