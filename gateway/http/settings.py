"""The configuration over HTTP: values in use, changes that a reload brings, plugins, warnings of `check`."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from gateway import __version__
from gateway.config import Config, load_config, warnings_of
from gateway.config.differences import changed_keys
from gateway.config.effective import Setting, effective
from gateway.core.errors import ConfigError, PluginError, plain_reason
from gateway.http.answers import json_answer
from gateway.pipeline.decoder_plugins import find_decoders
from gateway.pipeline.encoder_plugins import find_encoders
from gateway.pipeline.plugins_loader import find_plugins
from gateway.status.gateway_status import GatewayStatus
from gateway.windows.engine import fingerprint


class SettingsApi:
    """`/api/configuration`. The file is read and checked on a thread of its own: that takes a while."""

    def __init__(self, status: GatewayStatus) -> None:
        self._status = status
        self._looking = asyncio.Lock()

    async def configuration(self, _request: Request) -> Response:
        """Return everything about the configuration; secrets are hidden."""
        async with self._looking:
            after = await asyncio.to_thread(self._after_a_reload)
            plugins = await asyncio.to_thread(lambda: [*self._plugins()])
        origin = self._status.config_origin
        return json_answer(
            {
                "time_ms": self._status.clock.now_ms(),
                "version": __version__,
                "python": platform.python_version(),
                "file": None if origin.path is None else str(origin.path),
                "origin": self._status.configuration(),
                "warnings": [*warnings_of(self._status.config)],
                "values": [line._asdict() for line in effective(self._status.config)],
                "reload": after,
                "plugins": plugins,
            }
        )

    def _after_a_reload(self) -> dict[str, Any]:
        """Return what SIGHUP would do: `state` is `same`, `changed`, `refused` or `unknown`."""
        path, running = self._status.config_origin.path, self._status.config
        if path is None:
            return {"state": "unknown", "problems": ["this gateway was started without a file"]}
        try:
            found = load_config(path)
        except ConfigError as exc:
            return {"state": "refused", "problems": [*exc.problems] or [str(exc)]}
        except Exception as exc:  # noqa: BLE001 - a plugin of the file may raise anything
            return {"state": "refused", "problems": [plain_reason(exc)]}
        changed = changed_keys(running, found)
        if not changed:
            return {"state": "same", "problems": []}
        before, after = _by_path(running), _by_path(found)
        names = [*dict.fromkeys([*before, *after])]
        return {
            "state": "changed",
            "problems": [],
            "signed_stays": self._status.config_origin.source == "signed",
            "keys": changed,
            "values": [
                {"path": name, "before": before.get(name), "after": after.get(name)}
                for name in names
                if before.get(name) != after.get(name)
            ],
            "warnings": [*warnings_of(found)],
        }

    def _plugins(self) -> Iterator[dict[str, Any]]:
        """The plugin of each window as it runs and as a reload would find it, then those for payloads."""
        folder = self._status.config.plugins.directory
        try:
            found = find_plugins(folder)
        except PluginError as exc:
            yield {
                "kind": "window",
                "name": str(folder),
                "used_by": "",
                "origin": str(exc),
                "state": "unreadable",
            }
            return
        running = self._status.pipeline.windows.operators
        for name, operator in running.items():
            plugin = found.get(operator.spec.plugin)
            state = "gone" if plugin is None else "in use"
            if plugin is not None and fingerprint(operator.spec, plugin.code) != operator.fingerprint:
                state = "changed: a reload takes it up"
            yield {
                "kind": "window",
                "name": operator.spec.plugin,
                "used_by": name,
                "origin": "" if plugin is None else plugin.origin,
                "code": "" if plugin is None else plugin.code[:12],
                "state": state,
            }
        for kind, others in (("decoder", find_decoders(folder)), ("encoder", find_encoders(folder))):
            for other in others.values():
                yield {"kind": kind, "name": other.name, "used_by": "", "origin": other.origin, "state": ""}


def _by_path(config: Config) -> dict[str, str]:
    lines: list[Setting] = effective(config)
    return {line.path: line.value for line in lines}
