"""Live data of the page: everything once, then each second the parts that have changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import orjson


class PageFeed:
    """Frames for all open pages, made once. `turn` once a second, while there are pages."""

    def __init__(self, parts: Callable[[], Mapping[str, object]]) -> None:
        self.number = 0
        self.changes = b""
        """The frame `number`: the parts that have changed since the one before it."""
        self._parts_now = parts
        self._parts: dict[str, bytes] = {}

    def turn(self) -> None:
        """Make the next frame."""
        parts = {name: orjson.dumps(part) for name, part in self._parts_now().items()}
        changed = [name for name, part in parts.items() if part != self._parts.get(name)]
        self._parts = parts
        self.number += 1
        self.changes = self._frame(changed)

    def whole(self) -> bytes:
        """The frame `number` for a page that has none, or has missed one."""
        return self._frame(self._parts)

    def _frame(self, names: Iterable[str]) -> bytes:
        parts = b",".join(b'"%b":%b' % (name.encode(), self._parts[name]) for name in names)
        return b"id: %d\nevent: page\ndata: {%b}\n\n" % (self.number, parts)
