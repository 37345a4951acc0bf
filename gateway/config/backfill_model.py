"""The keys `cloud.backfill` and `windows[].backfill`: what was kept at the edge goes up when it is needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gateway.config.document import Problem
from gateway.decode.forwarding import ForwardSpec
from gateway.delivery.alarm_backfill import AlarmBackfill

if TYPE_CHECKING:
    from gateway.config.models import Config


def keeps_something(config: Config) -> bool:
    """Return True if anything is kept at the edge, so that somebody may ask for it."""
    routes = any(spec.forward != ForwardSpec() for spec in config.route_specs())
    return routes or not all(window.forward for window in config.windows)


def alarm_backfills(config: Config) -> dict[str, AlarmBackfill]:
    """Return what an alarm of each window fetches."""
    topics = {route.name: route.topic for route in config.all_routes}
    return {
        window.name: AlarmBackfill(
            window.topic or topics.get(window.route or "", "#"),
            window.key,
            window.backfill.before,
            window.backfill.after,
        )
        for window in config.windows
        if window.backfill is not None
    }


def backfill_problems(config: Config) -> Iterator[Problem]:
    """Yield windows that want to send what no connection sends."""
    if config.cloud is not None and config.cloud.backfill is not None:
        return
    for position, window in enumerate(config.windows):
        if window.backfill is not None:
            missing = "cloud" if config.cloud is None else "cloud.backfill, which is off"
            yield Problem(("windows", position, "backfill"), f"needs {missing}")


def backfill_warnings(config: Config) -> Iterator[str]:
    """Yield windows whose raw events go up anyway."""
    if any(window.backfill for window in config.windows) and not keeps_something(config):
        yield "windows[].backfill: everything is forwarded already; set forward: false on the route"
