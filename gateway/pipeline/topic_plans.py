"""Plans of topics: all that is known of their messages in advance, worked out with the first one.

Topics come from outside, so only the last ones used are remembered. A topic that comes back later gets a new
plan: that takes longer, and changes nothing else.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from gateway.core.own_topics import OwnTopics, parse_uplink_topic
from gateway.decode.plain_reader import PlainReader
from gateway.decode.presence import Heard, LastReading
from gateway.decode.routes import Route, RouteTable
from gateway.timekeeping.devices import WatchedClock
from gateway.windows.engine import Bound, WindowEngine

MOST_TOPICS = 110_000
"""Plans that are remembered: about 60 MB with one window for each, if there are so many topics."""
MOST_CHARS = 256
"""Longer topics are not remembered, so that a flood of them takes no more."""
MAX_TOPIC_CHARS = 1024  # of 65,535 that MQTT allows: every stream that is remembered costs its name


class TopicPlan:
    """Without a route, `refused` says why messages of this topic are left out. `heard`, `clock` and `last`
    are filled in by the intake, when a message is the first to need them."""

    __slots__ = (
        *("clock", "device", "heard", "keeps", "last", "levels", "priority", "read", "refused"),
        *("route", "spec", "topic", "windows"),
    )

    def __init__(self, topic: str, refused: str, route: Route | None, levels: Mapping[str, str]) -> None:
        self.topic = topic
        self.refused = refused
        self.route = route
        self.levels = levels
        self.device = levels.get("device") or topic
        self.windows: Bound | None = None
        self.heard: Heard | None = None
        self.clock: WatchedClock | None = None
        self.last: LastReading | None = None
        self.read: PlainReader | None = None
        if route is not None:
            self.read = route.read_plain
            self.spec, self.priority = route.spec, int(route.spec.priority)
            self.keeps = None if route.spec.forward.everything else route.forwarding.keeps

    def bind(self, windows: WindowEngine) -> Bound:
        """Find the windows that read this topic."""
        self.windows = bound = windows.bind(self.topic, self.spec.name, self.levels)
        return bound


class TopicPlans:
    """The plans of all topics, for one thread."""

    def __init__(self, topics: OwnTopics, routes: RouteTable) -> None:
        self._routes = routes
        self._prefix = topics.prefix
        self._all_topics = f"{topics.prefix}/"
        self._own_topics = f"{topics.root}/"
        self._own_bridged = f"/up/event/{topics.root}/"
        self._plans: OrderedDict[str, TopicPlan] = OrderedDict()
        self._windows: WindowEngine | None = None

    def __len__(self) -> int:
        return len(self._plans)

    def of(self, topic: str) -> TopicPlan:
        """Return the plan of a topic."""
        plan = self._plans.get(topic)
        if plan is None:
            plan = self._make(topic)
            self._remember(plan)
        else:
            self._plans.move_to_end(topic)
        return plan

    def bind(self, windows: WindowEngine) -> None:
        """Forget what belongs to other windows than these: after a rollback there are new ones."""
        if windows is not self._windows:
            self._windows = windows
            self._plans.clear()

    def _remember(self, plan: TopicPlan) -> None:
        if len(plan.topic) > MOST_CHARS:
            return
        if len(self._plans) >= MOST_TOPICS:
            self._plans.popitem(last=False)
        self._plans[plan.topic] = plan

    def _make(self, topic: str) -> TopicPlan:
        refused = self._echo_of(topic) or ("topic_too_long" if len(topic) > MAX_TOPIC_CHARS else "")
        found = None if refused else self._routes.find(topic)
        return TopicPlan(topic, refused or "no_route", *(found or (None, {})))

    def _echo_of(self, topic: str) -> str:
        """Return why this is output that must not come in again, or nothing: a route such as `#`, or two
        gateways that read each other's uplink, would go round for ever."""
        if topic.startswith(self._all_topics):
            if topic.startswith(self._own_topics):
                return "own_topic"
            return "" if parse_uplink_topic(self._prefix, topic) is None else "bridged"
        return "bridged" if self._own_bridged in topic else ""  # from a gateway with another prefix
