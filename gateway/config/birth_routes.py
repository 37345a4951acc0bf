"""Routes for Sparkplug's births and deaths that the file does not name: aliases mean nothing without them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gateway.config.route_model import RouteModel
from gateway.core.topics import TopicTemplate, covers
from gateway.decode.sparkplug_births import birth_topics


def birth_routes(routes: Sequence[RouteModel]) -> Iterator[RouteModel]:
    """Yield a route for each topic of births that the routes depend on and none of them reads."""
    known = [TopicTemplate(route.topic).filter for route in routes]
    for route in routes:
        if not route.reader.remembers:
            continue
        for kind, topic in birth_topics(route.topic):
            topic_filter = TopicTemplate(topic).filter
            if not any(covers(other, topic_filter) for other in known):
                known.append(topic_filter)
                yield route.at(topic, kind.lower())
