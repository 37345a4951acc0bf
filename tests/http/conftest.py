"""What the tests of the page share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The system's Chromium."""
    from tests.support.watched_page import chromium_of_this_machine  # noqa: PLC0415 - most tests need no browser

    with chromium_of_this_machine() as browser:
        yield browser
