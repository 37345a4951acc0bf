"""Raw events to fetch around an alarm: of which streams, how long before and after."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from gateway.core.topics import TopicTemplate

_NAME = re.compile(r"\\\{([A-Za-z_][A-Za-z0-9_]*)\\\}")


@dataclass(frozen=True)
class AlarmBackfill:
    """Of one window: `topic` is the template that it reads, `key` that of its keys."""

    topic: str
    key: str
    before_ms: int
    after_ms: int

    def streams(self, key: str) -> str:
        """Return the topic filter of the streams whose readings are behind `key`: all of the window's, where
        the key does not say."""
        found = self._pattern.fullmatch(key)
        levels = found.groupdict() if found else {}
        template = TopicTemplate(self.topic)
        filled = [
            levels.get(name[1:-1], plain) if name.startswith("{") else plain
            for name, plain in zip(self.topic.split("/"), template.filter.split("/"), strict=True)
        ]
        return "/".join(filled)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        """Keys as their template has them; a level of a topic has no slash."""
        seen: set[str] = set()

        def group(match: re.Match[str]) -> str:
            again = match[1] in seen
            seen.add(match[1])
            return f"(?P={match[1]})" if again else f"(?P<{match[1]}>[^/+#]+)"

        return re.compile(_NAME.sub(group, re.escape(self.key)))
