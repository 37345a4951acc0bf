"""The pages about windows and plugins say what is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.plugins_loader import find_plugins

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize("name", sorted(find_plugins()))
def test_every_shipped_plugin_has_a_section_and_a_line_in_the_table(name: str) -> None:
    page = (DOCS / "plugins.md").read_text(encoding="utf-8")
    assert f"\n## {name}\n" in page
    assert f"| `{name}` |" in page
