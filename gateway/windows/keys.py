"""Keys of a window: a template such as `{room}/{device}` over named topic levels and sample fields."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gateway.core.events import FieldValue
from gateway.core.topics import placeholders
from gateway.windows.values import word

ONLY_KEY = "all"
"""The key of a window that has no key template."""

_SPLIT = re.compile(r"(\{[A-Za-z_][A-Za-z0-9_.\-]*\})")


class KeyTemplate:
    """A parsed key template. A name that is both a topic level and a field is the topic level."""

    def __init__(self, text: str) -> None:
        self.text = text or ONLY_KEY
        self.names = frozenset(placeholders(self.text))
        self._only_name = self.text[1:-1] if _SPLIT.fullmatch(self.text) else None
        self._parts = tuple(part for part in _SPLIT.split(self.text) if part)

    def needs_fields(self, levels: Mapping[str, str]) -> bool:
        """Return True if the key differs between samples of one topic."""
        return any(name not in levels for name in self.names)

    def render(self, levels: Mapping[str, str], fields: Mapping[str, FieldValue]) -> str | None:
        """The key of a sample, or None when a part of it is missing."""
        only = self._only_name
        if only is not None:  # as most templates are
            return word(levels[only] if only in levels else fields.get(only))
        parts = []
        for part in self._parts:
            name = part[1:-1] if part[0] == "{" and part[-1] == "}" else None
            found = part if name is None else word(levels[name] if name in levels else fields.get(name))
            if found is None:
                return None
            parts.append(found)
        return "".join(parts)
