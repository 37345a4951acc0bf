"""Routes and windows of a configuration, ready to run for one gateway after the other."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from gateway.config import Config, load_config
from gateway.core.topics import TopicTemplate, filter_matches, placeholders
from gateway.decode.routes import RouteSpec, RouteTable
from gateway.pipeline.plugins_loader import WindowPlugins, load_plugins
from gateway.pipeline.replay import Replay
from gateway.windows.engine import WindowEngine
from gateway.windows.spec import WindowSpec


@dataclass(frozen=True)
class Rules:
    """Everything that a fold needs to know of a configuration."""

    routes: tuple[RouteSpec, ...]
    windows: tuple[WindowSpec, ...]
    plugins: WindowPlugins

    @classmethod
    def of(cls, settings: Config) -> Rules:
        """Raises PluginError."""
        windows = settings.window_specs()
        return cls(settings.route_specs(), windows, load_plugins(windows, settings.plugins.directory))

    @classmethod
    def load(cls, path: Path) -> Rules:
        """Read a configuration file. Raises ConfigError or PluginError."""
        return cls.of(load_config(path))

    @property
    def own(self) -> tuple[WindowSpec, ...]:
        """The windows of each gateway by itself."""
        return tuple(one for one in self.windows if one.scope == "gateway")

    @property
    def common(self) -> tuple[WindowSpec, ...]:
        """The windows over all gateways. Their watermark waits for each gateway that is not idle."""
        return tuple(replace(one, watermark="shared") for one in self.windows if one.scope == "fleet")

    def replay(self) -> Replay:
        """Return the routes and empty windows of one gateway."""
        return Replay(RouteTable(self.routes), self.engine(self.own))

    @property
    def with_quality(self) -> frozenset[str]:
        """The windows whose results say how good they are."""
        return frozenset(one.name for one in self.windows if one.quality)

    def engine(self, windows: tuple[WindowSpec, ...]) -> WindowEngine:
        """Return empty windows. All of them note the numbers of their readings, to know about holes."""
        windows = tuple(replace(one, quality=True) for one in windows)
        return WindowEngine(windows, self.plugins.plugins, self.plugins.fingerprints)

    def merging(self) -> Rules:
        """Return the same with the windows alone that merge the results of others."""
        return replace(self, windows=tuple(one for one in self.common if one.merge))

    def stored_engine(self, fetch: Callable[[str, bytes], bytes | None], hot_keys: int) -> WindowEngine:
        """Return empty windows whose state is stored, and read back with `fetch`."""
        codes = self.plugins.fingerprints
        return WindowEngine(self.windows, self.plugins.plugins, codes, fetch=fetch, hot_keys=hot_keys)

    def table(self, known: RouteTable) -> RouteTable:
        """Return the routes for one more gateway: the same, unless they remember what was said before."""
        return RouteTable(self.routes) if self._remember else known

    @property
    def _remember(self) -> bool:
        return any(route.decoder == "sparkplug_b" or route.custom is not None for route in self.routes)

    def common_streams(self) -> Callable[[str], bool] | None:
        """Return a test of streams: is it read by a window over all gateways? None where no window is."""
        if not self.common:
            return None
        routes = RouteTable(self.routes)
        names = {one.route for one in self.common if one.route is not None}
        filters = [TopicTemplate(one.topic).filter for one in self.common if one.topic is not None]

        def reads(stream: str) -> bool:
            found = routes.match(stream)
            is_routed = found is not None and found[0].spec.name in names
            return is_routed or any(filter_matches(one, stream) for one in filters)

        return reads

    @property
    def streams_are_independent(self) -> bool:
        """True if no result depends on more than one stream, so that each may be folded on a machine of its
        own, given how time passed."""
        return not self._remember and all(self._is_by_stream(window) for window in self.own)

    def _is_by_stream(self, window: WindowSpec) -> bool:
        """True if each key of the window is fed by one stream and has a clock of its own."""
        if window.watermark != "per_key" or window.max_keys is not None:
            return False
        topics = [window.topic] if window.topic else [r.topic for r in self.routes if r.name == window.route]
        return len(topics) == 1 and _names_each(window.key, TopicTemplate(topics[0]))


def _names_each(key: str, topic: TopicTemplate) -> bool:
    """True if no two topics give the same key: it names every level, with a slash between any two."""
    return (
        "#" not in topic.text
        and "+" not in topic.text
        and set(placeholders(key)) == topic.names
        and all("/" in between for between in re.findall(r"(?<=\})[^{]*(?=\{)", key))
    )
