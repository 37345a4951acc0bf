"""The dashboard in a real Chromium: it shows what the gateway has, live, without anything from elsewhere."""

from __future__ import annotations

import json
import os
import re
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright.sync_api import Browser, Page, Route, expect

from gateway.core.events import Priority
from gateway.flow.capacity import Action, Load, Signal
from gateway.pipeline.backpressure import pressure_values
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.places import ROOT
from tests.support.ports import free_port
from tests.support.publishing import publish
from tests.support.watched_page import WatchedPage

PAGE = ROOT / "gateway" / "http" / "page"
PHONE = {"width": 390, "height": 844}
ROOMS = {
    "Devices": "No device has been heard yet",
    "Windows": "No reading has come yet",
    "Alarms": "No alarm is on",
    "Buffer and cloud": "Events stay on this machine",
    "Messages": "No message of this filter",
    "Configuration": "windows.minute.window.size",
}


def opened(browser: Browser, address: str, **options: Any) -> WatchedPage:
    page = browser.new_context(**options).new_page()
    watched = WatchedPage(page, address)
    page.goto(f"http://{address}/")
    return watched


def test_the_page_from_empty_to_live_and_through_a_restart(chromium: Browser, tmp_path: Path) -> None:
    port, address = free_port(), f"127.0.0.1:{free_port()}"
    config = gateway_config(
        tmp_path,
        "embedded",
        local={"url": "embedded", "listen": f"127.0.0.1:{port}"},
        http={"listen": address},
    )
    with GatewayProcess(config) as gateway:
        gateway.wait_ready()
        watched = opened(chromium, address)
        page = watched.page
        watched.shows("h1", "g1")
        watched.shows("#status", "all is well")
        watched.shows(".tip", "Nothing has come in yet")
        watched.shows(".tip pre", f"mosquitto_pub -p {port} -q 1 -t 'sensors/test'")
        watched.shows("#windows", "No reading has come yet")

        hostile = "sensors/<img src=x onerror=alert(1)>"
        publish(port, [(hostile, b"{"), *((f"sensors/{d}", b'{"v": 1, "t": 1700000000000}') for d in "ab")])
        publish(port, [(f"sensors/{d}", b'{"v": 1, "t": 1700000090000}') for d in "ab"])
        watched.shows("#devices", "<img src=x onerror=alert(1)>")
        expect(page.locator(".tip")).to_be_hidden()
        watched.shows("#buffer", "Events stay on this machine")
        watched.shows("#windows", "1 window has given 2 results")
        watched.go("Windows")
        watched.shows("#windows", "stats of v, every 1 min")
        watched.shows("#windows", "2 results")
        watched.go("Overview")
        assert watched.faults == []

        gateway.kill()
        watched.shows("#status", "no answer")
        watched.shows("#notices", "does not answer")
        gateway.start()
        watched.shows("#status", "all is well")
        expect(page.locator("html.stale")).to_have_count(0)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a gateway to which nobody publishes."""
    address = f"127.0.0.1:{free_port()}"
    local = {"url": "embedded", "listen": f"127.0.0.1:{free_port()}"}
    config = gateway_config(
        tmp_path_factory.mktemp("quiet"), "embedded", local=local, http={"listen": address}
    )
    with GatewayProcess(config) as gateway:
        gateway.wait_ready()
        yield address


def test_on_a_phone_in_the_dark_and_by_keyboard(chromium: Browser, quiet: str) -> None:
    watched = opened(chromium, quiet, viewport=PHONE, color_scheme="dark", reduced_motion="reduce")
    page = watched.page
    watched.shows("h1", "g1")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"

    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("#theme")).to_be_focused()
    page.keyboard.press("Enter")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    for room, shown in ROOMS.items():
        watched.go(room)
        watched.shows("#room", shown)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], room
    watched.go("Overview")
    page.locator("#theme").focus()
    for _ in range(3):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    watched.shows("nav [aria-current=page]", "Windows")
    expect(page.locator("main")).to_be_focused()
    page.go_back()
    watched.shows("nav [aria-current=page]", "Overview")
    page.reload()
    watched.shows("h1", "g1")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    assert watched.faults == []


CLOCK = {"certain": True, "system_offset_s": 0.0, "steps": 0, "jumps": {}, "held_events": 0}
NTP = {"name": "ntp a", "role": "chosen", "offset_s": -0.00012, "uncertainty_s": 0.004, "problem": ""}
GPS = {"name": "gps", "role": "silent", "problem": "gpsd does not answer"}
FULL = Signal(Action.REJECT_LOW_PRIORITY, priority_threshold=Priority.LOW, reasons=("buffer",))
SLOW = Signal(Action.SLOW_DOWN, 0.5, 500, 1.0, None, ("cpu",))
OVERLOAD = Signal(Action.SLOW_DOWN, 1.5, 1000, 0.32, None, ("cpu",))
SECTIONS: list[tuple[str, dict[str, Any], list[str], str]] = [
    (
        "backpressure",
        pressure_values(Signal(), Load()),
        ["Backpressure", "none", "All messages are taken in without delay"],
        "",
    ),
    (
        "backpressure",
        pressure_values(SLOW, Load(cpu=0.97)),
        ["slow down", "wait 500 ms", "Too much: processor.", "97 %"],
        "it asks devices to slow down. Nothing is lost",
    ),
    (
        "backpressure",
        pressure_values(OVERLOAD, Load(cpu=0.97)),
        ["slow down", "wait 1 s", "keep 32 % of their messages. Too much: processor.", "97 %"],
        "The gateway is overloaded",
    ),
    (
        "backpressure",
        pressure_values(FULL, Load()),
        ["reject", "of priority low and below", "Too much: buffer."],
        "The buffer is nearly full",
    ),
    (
        "clock",
        CLOCK
        | {"state": "synchronised", "source": "ntp a", "uncertainty_s": 0.0042, "drift_ppm": -12.34}
        | {"jumps": {"forward": 2}, "sources": [NTP, GPS]},
        ["It follows ntp a", "± 4.2 ms", "−12.34 ppm", "clock: forward", "−120 µs", "gpsd does not answer"],
        "",
    ),
    (
        "clock",
        CLOCK | {"state": "free", "source": None, "uncertainty_s": None, "drift_ppm": None, "sources": []},
        ["system clock", "no source of time is configured"],
        "",
    ),
    (
        "other_part",
        {"size_bytes": 2048, "rate_per_s": 12.5, "nested": {"lag_ms": 1500}, "on": True, "none": None},
        ["Other part", "2.0 KiB", "13 /s", "nested lag", "1.5 s", "yes"],
        "",
    ),
]


@pytest.mark.parametrize(("name", "section", "texts", "notice"), SECTIONS)
def test_what_parts_of_the_gateway_tell_is_said_with_units(
    chromium: Browser, quiet: str, name: str, section: dict[str, Any], texts: list[str], notice: str
) -> None:
    parts = page_parts(quiet) | {"sections": {name: section}}

    def answer(route: Route) -> None:
        route.fulfill(content_type="text/event-stream", body=f"event: page\ndata: {json.dumps(parts)}\n\n")

    page = chromium.new_page()
    watched = WatchedPage(page, quiet)
    page.route("**/api/page", answer)
    page.goto(f"http://{quiet}/buffer")
    for text in texts:
        watched.shows(".room > .cards", text)
    assert "undefined" not in page.locator(".room").inner_text()
    expect(page.locator("#notices", has_text=notice or "no notice")).to_have_count(int(bool(notice)))
    page.close()


def page_parts(address: str) -> dict[str, Any]:
    """The first frame that a page is sent."""
    with urllib.request.urlopen(f"http://{address}/api/page", timeout=10) as stream:
        for line in stream:
            if line.startswith(b"data: "):
                found: dict[str, Any] = json.loads(line[6:])
                return found
    raise AssertionError("no frame came")


def test_a_gateway_with_a_token_lets_nobody_in_without_it(chromium: Browser, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    http = {"listen": address, "token": "sixteen-letters-and-more"}
    with GatewayProcess(gateway_config(tmp_path, "mqtt://127.0.0.1:9", http=http)) as gateway:
        wait_until(lambda: gateway.get("/healthz"), gateway.log())
        watched = opened(chromium, address)
        watched.page.fill("#token", "not the token")
        watched.page.keyboard.press("Enter")
        watched.shows("#wrong", "That is not the token")
        watched.page.fill("#token", "sixteen-letters-and-more")
        watched.page.keyboard.press("Enter")
        watched.shows("#status", "needs attention")
        watched.shows("#notices", "Not connected to the local broker")
        assert watched.faults == []


@pytest.mark.parametrize("theme", [":root {", ':root[data-theme="dark"] {'])
def test_text_stands_out_from_what_is_behind_it(theme: str) -> None:
    colours = _colours((PAGE / "style.css").read_text(), theme)
    for behind in ("--card", "--ground"):
        for text in ("--text", "--quiet", "--accent", "--ok", "--warn", "--bad"):
            assert _contrast(colours[text], colours[behind]) >= 4.5, (text, behind)
    for kind in ("--ok", "--warn", "--bad"):
        assert _contrast(colours[kind], colours[f"{kind}-soft"]) >= 4.5, kind


def _colours(css: str, selector: str) -> dict[str, str]:
    block = css.split(selector, 1)[1].split("}", 1)[0]
    pairs = (part.split(":", 1) for part in block.split(";") if ": #" in part)
    return {name.strip(): value.strip() for name, value in pairs}


def _contrast(first: str, second: str) -> float:
    """As WCAG 2.2 defines it; 4.5 is its bound for text."""
    high, low = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


TOO_HIGH = {
    "name": "too_high",
    "route": "sensors",
    "field": "v",
    "key": "{device}",
    "watermark": "shared",
    "plugin": "threshold",
    "options": {"above": 50},
    "window": {"type": "tumbling", "size": "1m"},
}


def test_a_device_is_found_its_chart_read_an_alarm_acknowledged(chromium: Browser, tmp_path: Path) -> None:
    port, address = free_port(), f"127.0.0.1:{free_port()}"
    local = {"url": "embedded", "listen": f"127.0.0.1:{port}"}
    config = gateway_config(tmp_path, "embedded", local=local, http={"listen": address})
    settings = yaml.safe_load(config.read_text())
    settings["windows"].append(TOO_HIGH)
    config.write_text(yaml.safe_dump(settings))
    newest_ms = round(time.time() * 1000)
    times = range(newest_ms - 40 * 60_000, newest_ms, 20_000)
    readings = [
        (f"sensors/{d}", b'{"v": %d, "t": %d}' % (at % 7, t))
        for at, t in enumerate(times)
        for d in ("boiler-12", "b")
    ]
    others = [(f"sensors/hall-{n}", b'{"v": 3, "t": %d}' % newest_ms) for n in range(80)]
    hot = [("sensors/hall-7", b'{"v": 70, "t": %d}' % (newest_ms - 40 * 60_000))]
    with GatewayProcess(config) as gateway:
        gateway.wait_ready()
        publish(port, hot + readings + others)
        watched = opened(chromium, address)
        page = watched.page
        watched.go("Devices")
        watched.shows("#found", "1–50 of 82 devices")
        page.get_by_label("Find").fill("ler-1")
        watched.shows("#found", "1–1 of 1 device")
        last_values = page.locator("#table tbody td").first
        expect(last_values).to_have_text(re.compile(r"^v \d, t .+ (now|ago)$"))
        page.get_by_role("link", name="boiler-12").click()
        watched.shows("#title", "boiler-12")
        watched.shows(".messages", "sensors/boiler-12")
        picture_of(page, "device")
        course = page.get_by_role("article", name="minute")
        chart = course.locator(".u-over")
        chart.hover(position={"x": 300, "y": 50})
        expect(course.locator(".read")).to_contain_text(" to ")  # mean (min to max)

        box = chart.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 60, box["y"] + 40)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 40, steps=5)
        page.mouse.up()
        course.get_by_role("button", name="Whole range").click()

        with page.expect_download() as download:
            course.get_by_role("link", name="CSV").click()
        lines = Path(download.value.path()).read_text().splitlines()
        assert len(lines) > 30
        assert "result.mean" in lines[0]
        with page.expect_download() as picture:
            course.get_by_role("button", name="PNG").click()
        assert Path(picture.value.path()).read_bytes().startswith(b"\x89PNG")
        page.get_by_role("link", name="All devices").click()
        watched.shows("#found", "1–1 of 1 device")

        watched.go("Alarms")
        page.get_by_label("Your name").fill("anna")
        expect(page.locator(".alarms").get_by_role("link", name="hall-7")).to_be_visible()
        page.get_by_role("button", name="Chart of too_high hall-7").click()
        expect(page.locator(".alarms canvas")).to_be_visible()
        page.get_by_role("button", name="Acknowledge too_high hall-7").click()
        watched.shows(".alarms", "by anna")
        watched.shows("#alarms [role=status]", "0 active, 1 acknowledged")
        page.get_by_role("button", name="Clear too_high hall-7").click()
        watched.shows(".alarms", "No alarm is on")
        assert watched.faults == []


@pytest.mark.slow
def test_messages_are_followed_stopped_by_a_key_and_explained(chromium: Browser, tmp_path: Path) -> None:
    port, address = free_port(), f"127.0.0.1:{free_port()}"
    local = {"url": "embedded", "listen": f"127.0.0.1:{port}"}
    config = gateway_config(tmp_path, "embedded", local=local, http={"listen": address})
    with GatewayProcess(config) as gateway:
        gateway.wait_ready()
        publish(port, [("sensors/a", b'{"v": 21.5, "t": 1700000000000}'), ("sensors/b", b"{")])
        watched = opened(chromium, address)
        page = watched.page
        watched.go("Messages")
        watched.shows(".messages", "v 21.5")
        watched.shows(".messages", "cannot be read")
        page.get_by_label("Topic filter").fill("sensors/a")
        page.keyboard.press("Enter")
        expect(page.locator(".messages > li")).to_have_count(1)
        page.get_by_role("button", name="explain").click()
        watched.shows(".explained", "minute key a")

        page.keyboard.press("Escape")
        watched.shows("main [role=status]", "Stopped")
        publish(port, [("sensors/a", b'{"v": 30, "t": 1700000001000}')])
        watched.shows("main [role=status]", "Stopped; 1 message came since")
        expect(page.locator(".messages > li")).to_have_count(1)
        page.keyboard.press("Escape")
        watched.shows(".messages", "v 30")

        config.write_text(config.read_text().replace("1m", "2m"))
        watched.go("Configuration")
        watched.shows("#reload", "windows.minute.window.size")
        watched.shows("#values", "windows.minute.window.size")
        watched.shows("#plugins", "window minute")
        assert watched.faults == []


def picture_of(page: Page, name: str) -> None:
    """Keep a picture where somebody wants to look."""
    if folder := os.environ.get("PICTURES"):
        page.wait_for_timeout(1500)
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)
