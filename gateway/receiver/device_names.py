"""The device of a stream, by topic templates such as those of a gateway's routes."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.core.topics import TopicTemplate

_REMEMBERED = 100_000  # streams
DEVICE = "device"


class DeviceNames:
    """Finds the level `{device}` of a topic. The first template that fits decides."""

    def __init__(self, templates: Sequence[str] = ()) -> None:
        """Raises ValueError for what is no template, or has no level of that name."""
        self._templates = [TopicTemplate(each) for each in templates]
        for template, text in zip(self._templates, templates, strict=True):
            if DEVICE not in template.names:
                raise ValueError(f"{text} has no level {{{DEVICE}}}")
        self._known: dict[str, str | None] = {}

    def of(self, stream: str) -> str | None:
        """Return the device, or None where no template fits."""
        if not self._templates:
            return None
        if stream not in self._known:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[stream] = self._find(stream)
        return self._known[stream]

    def _find(self, stream: str) -> str | None:
        for template in self._templates:
            levels = template.match(stream)
            if levels is not None:
                return levels[DEVICE]
        return None
