"""Each room of the page, and the sign-in, judged by axe-core (WCAG 2.2 AA), in both themes and sizes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.ports import free_port
from tests.support.publishing import publish

pytestmark = pytest.mark.slow

RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
ROOMS = [
    "",
    "devices",
    "devices#a",
    "windows",
    "windows#minute",
    "alarms",
    "buffer",
    "messages",
    "configuration",
]
FOCUSED = "document.activeElement"
PHONE = {"width": 390, "height": 844}
TOKEN = "sixteen-letters-and-more"  # noqa: S105
HIGH = {"plugin": "threshold", "options": {"above": 1}, "window": {"type": "tumbling", "size": "1m"}}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway with something in every room: readings, results, an alarm, a payload that cannot be read."""
    port, address = free_port(), f"127.0.0.1:{free_port()}"
    local = {"url": "embedded", "listen": f"127.0.0.1:{port}"}
    config = gateway_config(
        tmp_path_factory.mktemp("access"), "embedded", local=local, http={"listen": address, "token": TOKEN}
    )
    settings = yaml.safe_load(config.read_text())
    settings["windows"].append({**settings["windows"][0], "name": "high", **HIGH})
    config.write_text(yaml.safe_dump(settings))
    began_ms = round(time.time() * 1000) - 40 * 60_000
    messages = [("sensors/a", b'{"v": %d, "t": %d}' % (n % 5, began_ms + n * 30_000)) for n in range(78)]
    with GatewayProcess(config) as gateway:
        wait_until(lambda: gateway.get("/readyz"), "the start")
        publish(port, [*messages, ("sensors/b", b"{")])
        yield address


def signed_in(chromium: Browser, address: str, room: str) -> Page:
    page = chromium.new_context().new_page()
    page.goto(f"http://{address}/login")
    page.keyboard.type(TOKEN)
    page.keyboard.press("Enter")
    expect(page.locator("#id")).to_have_text("g1")
    page.goto(f"http://{address}/{room}")
    return page


def violations(page: Page) -> list[str]:
    found: dict[str, Any] = Axe().run(page, options=RULES).response
    return [
        f"{one['id']} ({one['impact']}): {node['target']} {node['failureSummary']}"
        for one in found["violations"]
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_room_can_be_used_by_everyone(chromium: Browser, address: str, theme: Any) -> None:
    context = chromium.new_context(color_scheme=theme)
    page = context.new_page()
    page.goto(f"http://{address}/login?wrong")
    assert violations(page) == []
    page.fill("#token", TOKEN)
    page.keyboard.press("Enter")
    expect(page.locator("#id")).to_have_text("g1")
    wrong: list[str] = []
    for size in ({"width": 1280, "height": 900}, PHONE):
        page.set_viewport_size(size)  # type: ignore[arg-type]
        for room in ROOMS:
            page.goto(f"http://{address}/{room}")
            expect(page.locator("#id")).to_have_text("g1")
            page.wait_for_timeout(1500)
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= size["width"], f"{room} is {wide} wide"
            wrong += [f"/{room} {size['width']}: {each}" for each in violations(page)]
    assert not wrong, "\n".join(wrong)
    context.close()


def test_all_that_answers_is_reached_with_the_tab_key_in_the_order_of_reading(
    chromium: Browser, address: str
) -> None:
    page = signed_in(chromium, address, "alarms")
    expect(page.get_by_role("button", name="Acknowledge high a")).to_be_visible()
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.append(page.evaluate(f"{FOCUSED}.getAttribute('aria-label') ?? {FOCUSED}.textContent"))
    wanted = ["Skip to the content", "Overview", "Acknowledge high a", "Clear high a", "Chart of high a"]
    places = [seen.index(name) for name in wanted]
    assert places == sorted(places)
    page.context.close()


def test_a_chart_is_read_and_zoomed_by_keyboard(chromium: Browser, address: str) -> None:
    page = signed_in(chromium, address, "windows#minute")
    page.locator(".uplot").focus()
    read = page.locator(".course .read")
    page.keyboard.press("Home")
    expect(read).to_contain_text(" to ")  # from the least to the most
    first = read.inner_text()
    page.keyboard.press("ArrowRight")
    expect(read).not_to_have_text(first)
    expect(page.get_by_role("button", name="Whole range")).to_be_hidden()
    page.keyboard.press("+")
    expect(page.get_by_role("button", name="Whole range")).to_be_visible()
    expect(page.locator(".uplot")).to_be_focused()
    page.context.close()
