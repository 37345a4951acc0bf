"""Several sessions on one connection: what comes reaches the one that has subscribed to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from gateway.core.events import Message
from gateway.mqtt.link import Link, Session
from gateway.mqtt.shared_session import SharedSession

LINK = cast(Link, None)


class Reader(Session):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def subscribed(self, link: Link, codes: dict[str, int]) -> None:
        self.told.append(codes)

    def unsubscribed(self, link: Link, filters: Sequence[str]) -> None:
        self.told.append(list(filters))

    def received(self, link: Link, messages: list[Message]) -> None:
        self.told += [message.topic for message in messages]


def message(topic: str) -> Message:
    return Message(topic, b"", 1, False, False, 1, 1, 1)


def test_each_reader_is_told_of_its_own_subscriptions_only() -> None:
    commands, confirmations = Reader(), Reader()
    shared = SharedSession([commands, confirmations], commands, {"g/down/confirm": confirmations})
    shared.subscribed(LINK, {"commands/#": 1, "g/down/confirm": 135})
    shared.received(LINK, [message("g/down/confirm"), message("commands/a"), message("commands/b")])
    shared.unsubscribed(LINK, ["commands/#"])
    assert commands.told == [{"commands/#": 1}, "commands/a", "commands/b", ["commands/#"]]
    assert confirmations.told == [{"g/down/confirm": 135}, "g/down/confirm"]


def test_what_nobody_reads_is_left_out() -> None:
    confirmations = Reader()
    shared = SharedSession([confirmations], None, {"g/down/confirm": confirmations})
    shared.received(LINK, [message("other"), message("g/down/confirm")])
    assert confirmations.told == ["g/down/confirm"]
