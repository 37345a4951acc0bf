"""Work that follows each tick of the writer: flow control, samples for rates, and wake-ups for other
parts."""

from __future__ import annotations

from gateway.buffer.dictionaries import DictionaryTrainer
from gateway.decode import sparkplug_births as sparkplug
from gateway.local.republish import Republish
from gateway.status.gateway_status import GatewayStatus


class Heartbeat:
    """`beat` runs on the writer's thread, after the commit; it blocks nowhere."""

    def __init__(self, status: GatewayStatus, trainer: DictionaryTrainer, republish: Republish) -> None:
        self._status = status
        self._trainer = trainer
        self._republish = republish

    def beat(self) -> None:
        """Do what is due."""
        status = self._status
        status.backpressure.check(status.writer, status.store.file.used_bytes)
        self._trainer.poll()
        status.sample_drain()
        self._ask_for_rebirths()

    def _ask_for_rebirths(self) -> None:
        """Ask Sparkplug's edge nodes whose metrics are not known, or of which a message was missed."""
        pipeline = self._status.pipeline
        asked, pipeline.rebirths = pipeline.rebirths, {}
        if asked:
            from gateway.decode.decoders.sparkplug import rebirth_payload  # noqa: PLC0415 - needs an extra

            payload = rebirth_payload(self._status.clock.now_ms())
            for node in asked:
                group, name = node.split("/")
                self._republish.command(f"{sparkplug.NAMESPACE}/{group}/NCMD/{name}", payload)
