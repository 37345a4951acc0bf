"""A page in Chromium with an eye on it: its faults, what it loads, how long it blocks, what it keeps."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

PATIENCE_MS = 60_000
expect.set_options(timeout=PATIENCE_MS)
_LONG_TASKS = """
window.longTasks = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) window.longTasks.push(Math.round(entry.duration));
}).observe({ type: "longtask", buffered: true });
"""


@contextmanager
def chromium_of_this_machine() -> Iterator[Browser]:
    """The system's Chromium; skips where there is none, fails in CI."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        reason = "there is no chromium; on Debian: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


class WatchedPage:
    """A page and what went wrong on it or left this machine."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.faults: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda said: self.faults.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("request", lambda request: self._check(request.url, address))

    def _check(self, url: str, address: str) -> None:
        if not url.startswith((f"http://{address}/", "data:", f"blob:http://{address}/")):
            self.faults.append(f"asked for {url}")

    def go(self, room: str) -> None:
        """Go to another room by its link."""
        self.page.get_by_role("navigation").get_by_role("link", name=room, exact=True).click()
        expect(self.page.locator("nav [aria-current=page]")).to_have_text(room)

    def shows(self, selector: str, text: str) -> None:
        """Wait until this text is there."""
        expect(self.page.locator(selector)).to_contain_text(text, timeout=PATIENCE_MS)


class MeasuredPage(WatchedPage):
    """It also counts the bytes that come in, the tasks that block it, and what it keeps in memory."""

    def __init__(self, page: Page, address: str) -> None:
        super().__init__(page, address)
        page.add_init_script(_LONG_TASKS)
        self.received_bytes = 0
        self.file_bytes = 0
        """Those of the page itself, without its data."""
        self._files: set[str] = set()
        self._tools = page.context.new_cdp_session(page)
        for domain in ("Network", "Performance", "HeapProfiler"):
            self._tools.send(f"{domain}.enable")
        self._tools.on("Network.requestWillBeSent", self._note)
        self._tools.on("Network.dataReceived", self._count)

    def _note(self, event: dict[str, Any]) -> None:
        if "/api/" not in event["request"]["url"]:
            self._files.add(event["requestId"])

    def _count(self, event: dict[str, Any]) -> None:
        self.received_bytes += event["dataLength"]
        if event["requestId"] in self._files:
            self.file_bytes += event["dataLength"]

    def bytes_in(self, seconds: float) -> float:
        """Return the bytes a second that come in while nothing is done."""
        before = self.received_bytes
        self.page.wait_for_timeout(seconds * 1000)
        return (self.received_bytes - before) / seconds

    def longest_task_ms(self) -> int:
        """Return the longest time for which the page was blocked since it was asked for the last time."""
        found: list[int] = self.page.evaluate("window.longTasks.splice(0)")
        return max(found, default=0)

    def heap_bytes(self) -> int:
        """Return what JavaScript keeps, once it has thrown away what it does not need."""
        self._tools.send("HeapProfiler.collectGarbage")
        metrics = self._tools.send("Performance.getMetrics")["metrics"]
        return int(next(one["value"] for one in metrics if one["name"] == "JSHeapUsedSize"))
