"""The pages about windows and plugins say what is there."""

from __future__ import annotations

import pytest

from gateway.pipeline.plugins_loader import find_plugins
from tests.support.places import DOCS


@pytest.mark.parametrize("name", sorted(find_plugins()))
def test_every_shipped_plugin_has_a_section_and_a_line_in_the_table(name: str) -> None:
    page = (DOCS / "plugins.md").read_text(encoding="utf-8")
    assert f"\n## {name}\n" in page
    assert f"| `{name}` |" in page
