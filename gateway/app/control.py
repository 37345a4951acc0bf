"""The socket by which commands of the same machine look at the gateway and change its buffer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from gateway.alarms.requests import alarm_operations
from gateway.app.part import Part
from gateway.app.processing import Processing
from gateway.buffer.operator_actions import OperatorActions, operations
from gateway.core.threads import HasThread
from gateway.host.control import SOCKET_FILE, ControlServer
from gateway.status.gateway_status import GatewayStatus

log = logging.getLogger(__name__)

_LOG_BYTES = 1024 * 1024


class ControlPart(Part):
    """`gateway.control`: the socket for commands of the same machine. It can be done without."""

    def __init__(self, data_dir: Path, processing: Processing) -> None:
        self._server = ControlServer(data_dir / SOCKET_FILE)
        self._actions = OperatorActions(
            processing.writer.call,
            processing.writer.call_outside,
            processing.pipeline.alert,
            processing.pipeline.checkpoint,
        )
        self._alarm_operations = alarm_operations(processing.pipeline.alarms, processing.writer.call)
        self._listens = False

    def start(self, status: GatewayStatus) -> None:
        asked = {
            **operations(self._actions),
            **self._alarm_operations,
            "forecast": lambda _request, _report: status.course(),
            "config": lambda _request, _report: status.config.model_dump(mode="json"),
            "log": lambda _request, _report: {"lines": _last_lines(status)},
            "health": lambda _request, _report: _health(status),
        }
        try:
            self._server.start(asked)
        except OSError as exc:
            log.warning(
                "no control socket, `gateway buffer retry`, `drop` and `compact` need a stop: %s", exc
            )
        else:
            self._listens = True

    def stop(self) -> None:
        if self._listens:
            self._server.stop()

    @property
    def workers(self) -> Sequence[HasThread]:
        return (self._server,)


def _health(status: GatewayStatus) -> dict[str, object]:
    counters = status.window_counters.values()
    return {
        "problems": status.readiness(),
        "started_ms": status.started_ms,
        "configuration": status.config_origin.hash,
        "readings": sum(each.events for each in counters),
        "plugin_errors": sum(each.plugin_errors + each.skipped for each in counters),
    }


def _last_lines(status: GatewayStatus) -> list[str]:
    return [line for keeper in status.log_lines for line in keeper.newest(_LOG_BYTES)]
