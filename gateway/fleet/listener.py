"""Listens to the status and audit records of all gateways on a cloud broker, and to nothing else."""

from __future__ import annotations

import threading
import time

from gateway.core.errors import DecodeError
from gateway.core.events import Message
from gateway.core.own_topics import OwnTopics, parse_uplink_topic
from gateway.fleet.board import Board
from gateway.mqtt.link import Link, Session
from gateway.wire.audit_record import read_audit


class FleetListener(Session):
    """The session of `gateway.fleet`: fills a board. `lock` is held while it does."""

    def __init__(self, board: Board, prefix: str) -> None:
        self.lock = threading.Lock()
        self.heard = threading.Event()
        """Set whenever something has arrived."""
        self.subscribed_once = threading.Event()
        self.unreadable = 0
        self._board = board
        self._prefix = prefix
        self._status = f"{prefix}/"

    def connected(self, link: Link, session_present: bool) -> None:
        topics = OwnTopics(self._prefix, "+")
        link.subscribe([(topics.status, 0), (topics.audit, 0)])

    def subscribed(self, link: Link, codes: dict[str, int]) -> None:
        super().subscribed(link, codes)
        self.subscribed_once.set()

    def received(self, link: Link, messages: list[Message]) -> None:
        now_ms = time.time_ns() // 1_000_000
        with self.lock:
            for message in messages:
                self._take(message, now_ms)
        self.heard.set()

    def _take(self, message: Message, now_ms: int) -> None:
        topic = parse_uplink_topic(self._prefix, message.topic)
        if topic is None:
            gateway = message.topic.removeprefix(self._status).removesuffix("/status")
            self._board.take_status(gateway, message.payload)
            return
        try:
            record = read_audit(message.payload)
        except DecodeError:
            self.unreadable += 1
            return
        self._board.take_audit(record, now_ms)
