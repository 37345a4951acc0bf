"""Checks across sections: names that must exist elsewhere, or be unique."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from gateway.config.backfill_model import backfill_warnings
from gateway.config.document import Path, Problem
from gateway.config.downlink_model import downlink_warnings
from gateway.config.encoder_model import format_warnings
from gateway.config.models import Config
from gateway.config.problems import suggestion
from gateway.config.reading_warnings import reading_warnings
from gateway.config.route_model import RouteModel
from gateway.config.service_models import Plugins
from gateway.config.topics_model import topics_warnings
from gateway.config.window_model import Window
from gateway.core.errors import ConfigError, PluginError
from gateway.core.expressions import compile_expression
from gateway.core.own_topics import OwnTopics
from gateway.core.topics import (
    TopicTemplate,
    covers,
    disjoint,
    filter_matches,
    has_loose_braces,
    placeholders,
)
from gateway.decode.routes import field_names
from gateway.pipeline.plugins_loader import find_plugins

_THIS_HOST = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Parts:
    """Routes and windows by their position in the file; `broken_routes` are names that stand there too.

    An entry of `routes` may stand for several.
    """

    routes: Mapping[int, RouteModel]
    windows: Mapping[int, Window]
    plugins: Plugins | None
    broken_routes: frozenset[str] = frozenset()

    @classmethod
    def of(cls, config: Config) -> Parts:
        """Collect all parts of a valid configuration."""
        return cls(dict(enumerate(config.routes)), dict(enumerate(config.windows)), config.plugins)

    @property
    def all_routes(self) -> list[RouteModel]:
        """The sound routes, with those that presets bring."""
        return [route for entry in self.routes.values() for route in entry.routes]

    def route(self, name: str | None) -> RouteModel | None:
        """The route called `name`, if it is sound."""
        return next((route for route in self.all_routes if route.name == name), None)


def cross_check(parts: Parts) -> Iterator[Problem]:
    """Yield every problem between sections."""
    yield from _repeated_names(
        "routes", ((at, route.name) for at, entry in parts.routes.items() for route in entry.routes)
    )
    yield from _repeated_names("windows", ((at, window.name) for at, window in parts.windows.items()))
    for position, route in parts.routes.items():
        yield from _route_levels(("routes", position), route)
    for position, window in parts.windows.items():
        yield from _window_source(("windows", position), window, parts)
    if parts.plugins is not None:
        yield from _plugin_names(parts.plugins, parts.windows)


def _plugin_names(plugins: Plugins, windows: Mapping[int, Window]) -> Iterator[Problem]:
    try:
        names = list(find_plugins(plugins.directory))
    except PluginError as exc:
        yield Problem(("plugins", "path"), f"{exc}; {exc.hint}")
        return
    for position, window in windows.items():
        if window.plugin not in names:
            near = _known(window.plugin, names)
            yield Problem(("windows", position, "plugin"), f"there is no plugin {window.plugin}{near}")


def _repeated_names(section: str, names: Iterable[tuple[int, str]]) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for position, name in names:
        if first.setdefault(name, position) != position:
            yield Problem((section, position, "name"), f"{name} is also the name of {section}[{first[name]}]")


def _route_levels(path: Path, route: RouteModel) -> Iterator[Problem]:
    """`{level}` expressions, which only the route's topic can judge."""
    levels = TopicTemplate(route.topic).names
    places = chain(
        (
            (("fields", name), entry if isinstance(entry, str) else entry.from_ or "@")
            for name, entry in route.fields.items()
        ),
        ((("timestamp_path",), text) for text in [route.timestamp_path] if text),
    )
    for inner, text in places:
        try:
            compile_expression(text, levels)
        except ConfigError as exc:
            yield Problem((*path, *inner), f"{exc}; {exc.hint}")


def _window_source(path: Path, window: Window, parts: Parts) -> Iterator[Problem]:
    if has_loose_braces(window.key):
        yield Problem((*path, "key"), "a brace has no partner, or no name inside; write {device}")
    route = parts.route(window.route)
    if route is not None:
        yield from _names_of(path, window, {*TopicTemplate(route.topic).names}, known_fields([route]))
        if route.decoder == "raw":
            yield Problem((*path, "route"), f"{route.name} reads raw bytes, so it has no fields to gather")
    elif window.topic is not None:
        topic_filter = TopicTemplate(window.topic).filter
        sources = [r for r in parts.all_routes if covers(TopicTemplate(r.topic).filter, topic_filter)]
        fields = None if parts.broken_routes or not sources else known_fields(sources)
        yield from _names_of(path, window, {*TopicTemplate(window.topic).names}, fields)
    elif window.route not in parts.broken_routes:
        names = [route.name for route in parts.all_routes]
        yield Problem((*path, "route"), f"there is no route {window.route}" + suggestion(window.route, names))


def known_fields(routes: list[RouteModel]) -> set[str] | None:
    """The fields that these routes can give, or None where only the messages tell."""
    known: set[str] = set()
    for route in routes:
        names = field_names(route.reader, route.fields)
        if names is None:
            return None
        known |= names
    return known


def _names_of(path: Path, window: Window, levels: set[str], fields: set[str] | None) -> Iterator[Problem]:
    if fields is None:
        return
    for name in window.read_names:
        if name not in fields:
            known = sorted(fields)
            where = "field" if window.fields is None else "fields"
            yield Problem((*path, where), f"no such field: {name}" + _known(name, known))
    for name in placeholders(window.key):
        if name not in fields | levels:
            known = sorted(fields | levels)
            yield Problem((*path, "key"), f"no level or field is called {name}" + _known(name, known))


def _known(name: str, known: list[str]) -> str:
    return suggestion(name, known) or (f"; there is {', '.join(known)}" if known else "")


def warnings_of(config: Config) -> tuple[str, ...]:
    """Return warnings about settings that are allowed, but are seldom intended or weaken a guarantee."""
    return (
        *_route_warnings(config),
        *reading_warnings(config),
        *_id_warnings(config),
        *_link_warnings(config),
        *(filter(None, (file.warning(time.time()) for file in config.certificates))),
        *_share_warnings(config),
        *downlink_warnings(config),
        *topics_warnings(config),
        *format_warnings(config),
        *backfill_warnings(config),
        *_storage_warnings(config),
        *_time_warnings(config),
    )


def _route_warnings(config: Config) -> Iterator[str]:
    own_topic = OwnTopics(config.gateway.topic_prefix, config.gateway.id).status
    seen: dict[str, str] = {}
    for route in config.all_routes:
        topic_filter = TopicTemplate(route.topic).filter
        if topic_filter in seen:
            yield f"route {route.name} is never used: {seen[topic_filter]} takes the same topics before it"
        seen.setdefault(topic_filter, route.name)
        if filter_matches(topic_filter, own_topic):
            own = "what this gateway itself publishes; that is rejected"
            yield f"route {route.name} ({route.topic}) also takes {own}"
        if route.qos == 0:
            yield f"route {route.name} subscribes with QoS 0: messages in flight at a crash are lost"
    if config.local.protocol != "5":
        yield from _overlap_warnings({name: TopicTemplate(text).filter for text, name in seen.items()})


def _overlap_warnings(routes: Mapping[str, str]) -> Iterator[str]:
    """Filters by route, where brokers may send a message once per filter that matches it."""
    apart = disjoint(dict.fromkeys(routes.values(), 0))
    for topic_filter in apart:
        if topic_filter in routes.values():
            continue  # a route's own, or one that covers others
        names = [name for name, own in routes.items() if covers(topic_filter, own)]
        yield (
            f"routes {' and '.join(names)} overlap: for each message to come once, the gateway subscribes to "
            f"{topic_filter} and leaves out what no route wants; with MQTT 5 it can tell the copies apart"
        )


def _id_warnings(config: Config) -> Iterator[str]:
    if "." in config.gateway.id:
        yield (
            f"gateway.id ({config.gateway.id}): RabbitMQ turns . in topics into /, so a receiver "
            "behind it cannot read them; use - or _ instead"
        )


def _link_warnings(config: Config) -> Iterator[str]:
    for name, broker in (("local", config.local), ("cloud", config.cloud)):
        if broker is None:
            continue
        if broker.tls.insecure:
            yield f"{name}: tls.insecure accepts any certificate for any host"
        if broker.password and not broker.uses_tls and broker.address.host not in _THIS_HOST:
            yield f"{name}: the password travels unencrypted; use mqtts://"
    if config.cloud and config.cloud.protocol == "3.1.1":
        yield "cloud: with MQTT 3.1.1 a broker acknowledges also what it refuses; prefer protocol 5"


def _share_warnings(config: Config) -> Iterator[str]:
    if config.local.share is None:
        return
    group = f"local.share ({config.local.share})"
    parted = [window.name for window in config.windows if not window.publish.partial]
    if parted:
        yield (
            f"{group}: each window sees only the messages that this gateway gets, a part of each stream: "
            f"{', '.join(parted)}; set publish: {{partial: true}} and merge the parts in a window with "
            "merge: true, at one more gateway or with `gateway receive --merge` (docs/scale.md), "
            "or give each gateway topics of its own"
        )
    if any(route.decoder == "sparkplug_b" for route in config.routes):
        yield f"{group}: sparkplug_b needs all messages of a node in their order; give each gateway its own"


def _storage_warnings(config: Config) -> Iterator[str]:
    if config.buffer.synchronous == "normal":
        yield "buffer: SYNCHRONOUS NORMAL LOSES ACKNOWLEDGED MESSAGES ON POWER LOSS; full keeps them"
    if config.history is not None and config.history.aggregates <= config.buffer.keep_synced:
        yield (
            "history.aggregates is no longer than buffer.keep_synced: the buffer keeps these results as long"
        )
    if config.history is not None and not config.windows:
        yield "history keeps the results of windows, and there is no window"


def _time_warnings(config: Config) -> Iterator[str]:
    if config.time.ntp and config.time.min_poll < 64_000:
        yield "time.min_poll: public NTP servers refuse clients that ask more often than every 64s"
    if len(config.time.ntp) == 2:
        yield "time.ntp: when two servers disagree, it is unknown which is right; name three, or one"
