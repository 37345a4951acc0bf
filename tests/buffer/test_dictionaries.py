"""Dictionaries follow what devices send: trained anew when it changes, not in vain, kept while needed."""

from __future__ import annotations

import json
import random
from pathlib import Path

from typer.testing import CliRunner

from gateway.buffer.compression import FIRST_DICTIONARY, SPARE_DICTIONARIES, Training, learn
from gateway.buffer.dictionaries import Take
from gateway.buffer.ratio import LOOK_EVERY, TRAINING_SAMPLES, WORSE, Ratio
from gateway.buffer.repair.salvage import salvage
from gateway.buffer.repair.upkeep import Upkeep
from gateway.buffer.repair.verification import Verification
from gateway.buffer.store import Store
from gateway.buffer.writer import Writer
from gateway.cli import app
from gateway.core.clock import SystemClock
from gateway.core.events import Status
from gateway.delivery.states import DeliveryEvent
from tests.support.buffers import all_payloads, append, event, opened, reading, sql
from tests.support.gateways import gateway_config

SHAPES = (
    '{"temperature": %d.%d, "unit": "C", "sensor": "BME280"}',
    "<reading><humidity>%d.%d</humidity><quality>good</quality></reading>",
    "pressure=%d.%d;station=roof;altitude=above sea level",
)


def payloads(shape: int, count: int) -> list[bytes]:
    chance = random.Random(shape * count)
    return [(SHAPES[shape] % (chance.randrange(100), chance.randrange(10))).encode() for _ in range(count)]


def noise(count: int) -> list[bytes]:
    chance = random.Random(count)
    return [chance.randbytes(50) for _ in range(count)]


def take_in(store: Store, contents: list[bytes]) -> list[Training]:
    """Append and let be trained what the trainer would train; returns what that was."""
    trained = []
    for start in range(0, len(contents), 500):
        append(store, [event(payload=content) for content in contents[start : start + 500]])
        for training in store.compressor.take_trainable():
            trained.append(training)
            with store.transaction():
                Take(training, learn(training), 0).apply(store)
    return trained


ENOUGH = 2 * LOOK_EVERY + TRAINING_SAMPLES


def test_payloads_that_change_get_a_new_dictionary_and_all_stay_readable(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    sent: list[bytes] = []
    with opened(path) as store:
        for shape in range(3):
            sent += (contents := payloads(shape, ENOUGH))
            assert len(take_in(store, contents)) == 1
        last = sql(
            path, "SELECT codec, sum(length(payload)) FROM buffer_events WHERE id > ?", len(sent) - 500
        )
    assert last[0][0] == FIRST_DICTIONARY + 2
    assert float(str(last[0][1])) < 0.5 * sum(map(len, sent[-500:]))
    assert all_payloads(path) == sent


def test_an_export_needs_no_dictionary(tmp_path: Path) -> None:
    config = gateway_config(tmp_path, "mqtt://127.0.0.1:9")
    path = tmp_path / "data" / "events.db"
    path.parent.mkdir()
    sent: list[bytes] = []
    with opened(path) as store:
        for shape in (0, 1):
            sent += (contents := payloads(shape, ENOUGH))
            take_in(store, contents)
    out = tmp_path / "export.ndjson"
    assert CliRunner().invoke(app, ["buffer", "export", "-c", str(config), "-o", str(out)]).exit_code == 0
    lines = out.read_text().splitlines()
    assert [json.loads(line)["payload"] for line in lines] == [json_or_text(one) for one in sent]


def json_or_text(payload: bytes) -> object:
    text = payload.decode()
    return json.loads(text) if text.startswith("{") else text


def test_payloads_that_do_not_compress_are_tried_once_also_across_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with opened(path) as store:
        take_in(store, payloads(0, 1500))
        first = take_in(store, noise(ENOUGH))
        assert [training.family for training in first] == ["f"]
        assert take_in(store, noise(3 * ENOUGH)) == []
    with opened(path) as store:
        assert take_in(store, noise(ENOUGH)) == []
    assert len(sql(path, "SELECT codec FROM dictionaries")) == 1


def test_a_steady_family_is_not_trained_again(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        assert len(take_in(store, payloads(0, 1500))) == 1
        assert take_in(store, payloads(0, 4 * ENOUGH)) == []
        assert 0 < store.compressor.ratios()["f"] < 0.5


def test_a_dictionary_goes_when_no_event_needs_it_any_more_and_no_earlier(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with opened(path) as store:
        for shape in range(3):
            take_in(store, payloads(shape, ENOUGH))
        first, second, third = FIRST_DICTIONARY + 0, FIRST_DICTIONARY + 1, FIRST_DICTIONARY + 2
        clean_up(store)
        assert codecs(path) == [first, second, third]
        with store.transaction():
            evict(store, f"codec = {first}")
        clean_up(store)
        assert codecs(path) == [second, third]
        with store.transaction():
            evict(store, "true")
        clean_up(store)
        assert codecs(path) == [third]
        take_in(store, [one.replace(b"p", b"q") for one in payloads(2, 100)])
    with opened(path) as store:
        assert store.compressor.superseded == set()
        assert len(all_payloads(path)) == 100


def codecs(path: Path) -> list[object]:
    return [codec for (codec,) in sql(path, "SELECT codec FROM dictionaries ORDER BY codec")]


def evict(store: Store, where: str) -> None:
    ids = [int(str(i)) for (i,) in store._connection.execute(f"SELECT id FROM buffer_events WHERE {where}")]  # noqa: S608
    store.claim(10**6)
    store.move(ids, Status.SYNCING, DeliveryEvent.PUBACK)
    store.removals.evict_synced(ids[0], ids[-1], 2**60)
    store.release_all()


def clean_up(store: Store) -> None:
    """What the upkeep does with what a walk has found."""
    writer = Writer(store)
    upkeep = Upkeep(store.path, writer, lambda *_: None, SystemClock())
    writer.start()
    while upkeep._next_walk_s == 0.0:
        upkeep._work(1.0)
    assert writer.stop()


def test_a_dictionary_that_is_superseded_during_a_walk_is_not_judged_by_it(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with opened(path) as store:
        take_in(store, payloads(0, 1000))  # trained, and no event has it yet
        with reading(path) as reader:
            verification = Verification(reader)
            take_in(store, payloads(1, ENOUGH))
            while not verification.finished:
                verification.step()
            assert verification.unused_codecs == set()


def test_no_more_dictionaries_are_trained_while_too_many_old_ones_are_needed(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        trained = sum(len(take_in(store, payloads(n % 3, ENOUGH))) for n in range(SPARE_DICTIONARIES + 4))
        assert trained == SPARE_DICTIONARIES + 1
        assert len(store.compressor.superseded) == SPARE_DICTIONARIES


def test_the_number_of_a_dictionary_that_damage_took_is_not_given_again(tmp_path: Path) -> None:
    path, fresh = tmp_path / "events.db", tmp_path / "fresh.db"
    with opened(path) as store:
        take_in(store, payloads(0, 1500))
    sql(path, "DELETE FROM dictionaries")
    sql(path, "DELETE FROM sqlite_sequence WHERE name = 'dictionaries'")
    assert salvage(path, fresh).events == 1500
    with opened(fresh) as store:
        take_in(store, payloads(1, 1500))
    assert codecs(fresh) == [FIRST_DICTIONARY + 1]
    with reading(fresh) as reader:
        good, lost = reader.without_corrupt(reader.all_after(1000, 1000))
        assert len(lost) == 500  # they are told apart, not read as something else
        reader.payloads(good)


def test_a_ratio_is_judged_by_enough_payloads_and_against_what_was_expected() -> None:
    ratio = Ratio(0.4)
    ratio.note([bytes(100)] * (LOOK_EVERY - 1), 99 * LOOK_EVERY)
    assert not ratio.look()
    ratio.note([bytes(100)], 0)
    assert ratio.look()
    assert ratio.take_samples() is None
    ratio.note([bytes(100)] * TRAINING_SAMPLES, 0)
    assert ratio.take_samples() == [bytes(100)] * TRAINING_SAMPLES
    unknown = Ratio(None)
    for stored, worse in ((50, False), (int(50 * WORSE), False), (int(50 * WORSE) + 2, True)):
        unknown.note([bytes(100)] * LOOK_EVERY, stored * LOOK_EVERY)
        assert unknown.look() is worse
