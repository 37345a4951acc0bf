"""Which redelivered messages are recognised, across restarts, and when a receipt must not count any more."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.buffer.receipts import KEPT, Receipts, fingerprint
from gateway.buffer.store import Store
from tests.support.buffers import opened, sql


def take_in(
    store: Store, packet_id: int, payload: bytes = b"20.5", *, dup: bool = False, qos: int = 1
) -> bool:
    """Whether the message was recognised as stored already."""
    with store.transaction():
        return store.receipts.seen(packet_id, dup, "t", payload, qos)


def release(store: Store, packet_id: int) -> None:
    """The broker's PUBREL came."""
    with store.transaction():
        store.receipts.release(packet_id)


def test_a_redelivered_message_is_recognised(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        assert not take_in(store, 5)
        assert take_in(store, 5, dup=True)
        assert take_in(store, 5, dup=True)


def test_a_redelivered_message_is_recognised_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with opened(path) as store:
        assert not take_in(store, 5)
        assert not take_in(store, 65_535, b"other")
    with opened(path) as store:
        assert take_in(store, 5, dup=True)
        assert take_in(store, 65_535, b"other", dup=True)


def test_a_redelivery_of_what_was_never_stored_is_new(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        assert not take_in(store, 5, dup=True)
        assert take_in(store, 5, dup=True)


@pytest.mark.parametrize("topic, payload", [("t", b"x"), ("u", b"20.5"), ("t2", b"0.5"), ("t", b"")])
def test_a_redelivery_with_other_content_is_new(topic: str, payload: bytes) -> None:
    receipts = Receipts()
    assert not receipts.seen(5, False, "t", b"20.5")
    assert not receipts.seen(5, True, topic, payload)


def test_topic_and_payload_do_not_run_into_each_other() -> None:
    assert fingerprint("ab", b"c") != fingerprint("a", b"bc")


def test_a_packet_id_that_is_used_again_voids_its_receipt(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with opened(path) as store:
        assert not take_in(store, 5, b"first")
        assert not take_in(store, 5, b"second")
    with opened(path) as store:
        assert not take_in(store, 5, b"first", dup=True), "a new message that looks like the first one"
        assert take_in(store, 5, b"first", dup=True)


def test_the_same_content_without_dup_is_a_new_message(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        assert not take_in(store, 5)
        assert not take_in(store, 5)


def test_a_new_session_voids_all_receipts(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with opened(path) as store:
        take_in(store, 5)
        with store.transaction():
            store.forget_receipts()
        assert not take_in(store, 5, dup=True)
        with store.transaction():
            store.forget_receipts()
    with opened(path) as store:
        assert not take_in(store, 5, dup=True)


def test_a_receipt_that_was_rolled_back_does_not_count(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        with pytest.raises(ZeroDivisionError), store.transaction():
            store.receipts.seen(5, False, "t", b"20.5")
            raise ZeroDivisionError
        with store.transaction():
            store.reload()
        assert not take_in(store, 5, dup=True)


def test_forgetting_that_was_rolled_back_did_not_happen(tmp_path: Path) -> None:
    with opened(tmp_path / "events.db") as store:
        take_in(store, 5)
        with pytest.raises(ZeroDivisionError), store.transaction():
            store.forget_receipts()
            raise ZeroDivisionError
        with store.transaction():
            store.reload()
        assert take_in(store, 5, dup=True)


@pytest.mark.parametrize("restarts", [False, True])
def test_only_the_newest_receipts_count(tmp_path: Path, restarts: bool) -> None:
    """A packet id comes round again behind them, so an older receipt may be that of another message."""
    path = tmp_path / "events.db"
    with opened(path) as store:
        with store.transaction():
            for packet_id in range(1, KEPT + 3):
                assert not store.receipts.seen(packet_id, False, "t", b"on")
        if restarts:
            store.close()
            store.open()
        assert not take_in(store, 1, b"on", dup=True)
        assert take_in(store, KEPT, b"on", dup=True)


def test_the_table_keeps_the_newest_receipts_and_does_not_grow(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    group, packet_id = KEPT // 8, 0
    with opened(path) as store:
        for _ in range(40):  # without any checkpoint: messages may all be rejected
            with store.transaction():
                for _ in range(group):
                    packet_id += 1
                    store.receipts.seen(packet_id & 0xFFFF, False, "t", b"on")
            ((stored,),) = sql(path, "SELECT sum(count) FROM receipts")
            assert min(packet_id, KEPT) <= stored <= 2 * KEPT + group
    with opened(path) as store:
        for newest in range(packet_id, packet_id - KEPT, -group):
            assert take_in(store, newest & 0xFFFF, b"on", dup=True)


def test_a_message_of_qos_2_is_recognised_without_dup_until_it_is_released(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with opened(path) as store:
        assert not take_in(store, 5, qos=2)
        assert take_in(store, 5, qos=2)
        assert not take_in(store, 6, qos=2)
    with opened(path) as store:
        assert take_in(store, 5, qos=2)
        assert take_in(store, 6, qos=2)
        release(store, 6)
        assert not take_in(store, 6, qos=2), "another message that looks like the first one"


def test_a_release_survives_a_restart_and_one_that_was_rolled_back_never_was(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with opened(path) as store:
        assert not take_in(store, 5, qos=2)
        assert not take_in(store, 6, qos=2)
        release(store, 5)
        release(store, 7)  # of an earlier life
        with pytest.raises(RuntimeError), store.transaction():
            store.receipts.release(6)
            raise RuntimeError
        with store.transaction():
            store.reload()
        assert take_in(store, 6, qos=2)
    with opened(path) as store:
        assert take_in(store, 6, qos=2)
        assert not take_in(store, 5, qos=2)
        assert take_in(store, 5, dup=True, qos=2)


def test_two_messages_under_one_packet_id_are_told_apart_until_both_are_released(tmp_path: Path) -> None:
    """Aedes begins each connection with a packet id by chance, which may be in use."""
    path = tmp_path / "events.db"
    with opened(path) as store:
        assert not take_in(store, 5, b"first", qos=2)
        assert not take_in(store, 5, b"second", qos=2)
    for _ in range(2):
        with opened(path) as store:
            assert take_in(store, 5, b"first", qos=2)
            assert take_in(store, 5, b"second", qos=2)
    with opened(path) as store:
        release(store, 5)
        assert take_in(store, 5, b"second", qos=2)
    with opened(path) as store:
        assert take_in(store, 5, b"second", qos=2)
        assert not take_in(store, 5, b"first", qos=2)
