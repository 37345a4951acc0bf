"""The text of a proposed configuration: YAML with the reasons as comments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import yaml

from gateway.config.proposal.heard import BrokerTraffic
from gateway.config.proposal.routes import ProposedRoute, Routes
from gateway.config.proposal.windows import ProposedWindow, propose_windows

_WIDTH = 100
_SHOWN_TOPICS = 3
_SHOWN_UNREAD = 10


@dataclass(frozen=True)
class LocalBroker:
    """The broker that was listened to, as `local` names it."""

    url: str
    settings: Mapping[str, object] = field(default_factory=dict)


class Proposal(NamedTuple):
    """A configuration as text, and what it is made of."""

    text: str
    routes: Routes
    windows: list[ProposedWindow]


def propose(
    heard: BrokerTraffic, routes: Routes, broker: LocalBroker, gateway_id: str, listened: str
) -> Proposal:
    """Return a configuration for what was heard."""
    windows = [*_named_apart(window for route in routes.proposed for window in propose_windows(route))]
    lines = [
        "# Written by `gateway init` from "
        f"{heard.messages:,} messages on {len(heard.topics):,} topics, heard in {listened}.",
        "# Check it after each change:  gateway check       All settings: docs/configuration.md",
        "",
        *_section(
            "gateway", {"id": gateway_id, "data_dir": "./data"}, "its name stands in all of its topics"
        ),
        *_section("local", {"url": broker.url, **broker.settings}),
        "",
        "routes:",
        *(line for route in routes.proposed for line in _route_lines(route)),
        *_unread_lines(routes.unread),
        *_windows_lines(windows),
        "",
        "# Results are kept for charts over weeks, in a file of their own.",
        *_section("history", {"aggregates": "90d", "max_size": "512MiB"}),
        *_section(
            "http", {"listen": "127.0.0.1:8080"}, "the page, metrics and health, for this machine only"
        ),
    ]
    if heard.announces_to_home_assistant:
        lines += [
            "# Home Assistant's discovery is in use on this broker: results appear there by themselves."
        ]
        lines += _section("home_assistant", {"discovery_prefix": "homeassistant"})
    lines += [
        "",
        "# Send everything to a broker in the cloud, through outages (docs/bridge.md):",
        "# cloud: {url: mqtts://cloud.example:8883, username: me, password_file: cloud.password}",
        "",
    ]
    return Proposal("\n".join(lines), routes, windows)


def _named_apart(windows: Iterable[ProposedWindow]) -> Iterator[ProposedWindow]:
    """Yield the windows; of a name that another one has there is a second, `NAME_2`."""
    taken: set[object] = set()
    for window in windows:
        name = first = window.entry["name"]
        number = 2
        while name in taken:
            name, number = f"{first}_{number}", number + 1
        taken.add(name)
        yield ProposedWindow({**window.entry, "name": name}, window.reasons)


def _section(name: str, values: Mapping[str, object], comment: str = "") -> list[str]:
    return [f"{name}: {_flow(values)}" + (f"    # {comment}" if comment else "")]


def _route_lines(route: ProposedRoute) -> Iterator[str]:
    names = [topic.name for topic in route.topics]
    shown = ", ".join(_shown(name) for name in names[:_SHOWN_TOPICS])
    more = f" and {len(names) - _SHOWN_TOPICS} more" if len(names) > _SHOWN_TOPICS else ""
    yield from _comments([f"{route.title}: {shown}{more}", *route.reasons], "  ")
    yield from _entry_lines({key: value for key, value in route.entry.items() if key != "fields"})
    fields = route.entry.get("fields")
    if isinstance(fields, dict):
        yield "    fields:"
        for name, expression in fields.items():
            series = route.series(name)
            seen = f"    # seen: {min(series.values):.6g} to {max(series.values):.6g}" if series else ""
            yield f"      {_scalar(name)}: {_flow(expression)}{seen}"
        for name, expression in route.rare_fields.items():
            yield f"      # {_scalar(name)}: {_flow(expression)}    # only some of them have it"


def _windows_lines(windows: Sequence[ProposedWindow]) -> Iterator[str]:
    yield ""
    if not windows:
        yield "# No window is proposed: nothing was heard that says what it measures. An example:"
        yield "# windows:"
        yield "#   - {name: mean, route: NAME, field: F, key: '{device}', window: {type: tumbling, size: 5m}}"
        return
    yield "windows:"
    for window in windows:
        yield from _comments(window.reasons, "  ")
        yield from _entry_lines(window.entry)


def _unread_lines(unread: Sequence[str]) -> Iterator[str]:
    if not unread:
        return
    yield f"  # {len(unread):,} topics are read by none of these, because no number was found in them:"
    yield from (f"  #   {_shown(name)}" for name in unread[:_SHOWN_UNREAD])
    if len(unread) > _SHOWN_UNREAD:
        yield f"  #   and {len(unread) - _SHOWN_UNREAD:,} more"


def _entry_lines(entry: Mapping[str, object]) -> Iterator[str]:
    for number, (key, value) in enumerate(entry.items()):
        yield f"  {'- ' if not number else '  '}{key}: {_flow(value)}"


def _comments(texts: Iterable[str], indent: str) -> Iterator[str]:
    yield from (f"{indent}# {text}" for text in texts)


def _shown(name: str) -> str:
    """A topic on one line of a comment: what cannot be printed is replaced."""
    return "".join(c if c.isprintable() else "�" for c in name)[:_WIDTH]


def _scalar(value: object) -> str:
    return _flow(value)


def _flow(value: object) -> str:
    text = yaml.safe_dump(
        value, default_flow_style=True, allow_unicode=True, width=10**6, sort_keys=False
    ).strip()
    return text.removesuffix("\n...").strip().replace("$", "$$")
