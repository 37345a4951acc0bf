"""Reading one message with a table of routes, as the pipeline does."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.decode.routes import Decoded, Route, RouteTable


def matched(table: RouteTable, topic: str) -> tuple[Route, Mapping[str, str]]:
    """Return the route that takes a topic, and the levels that it names. There must be one."""
    found = table.match(topic)
    assert found is not None, topic
    return found


def decode_with(table: RouteTable, topic: str, payload: bytes, arrival_ms: int) -> Decoded:
    """Decode a message whose topic some route must cover."""
    route, levels = matched(table, topic)
    return route.decode(topic, levels, payload, arrival_ms)
