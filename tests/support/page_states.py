"""The rooms of the page in the states that its gateway can be in, as images to look at.

Run `.venv/bin/python -m tests.support.page_states FOLDER`: a real gateway between two real brokers is empty,
live, cut off from the cloud, draining, flooded, and has 5,000 devices. The rooms are taken in both themes,
and on a phone.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from tests.support.broker_kinds import best_broker_kind
from tests.support.brokers import BrokerSetup, make_broker
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.ports import free_port

ROUTES = [{"preset": "tasmota", "timestamp_timezone": "UTC", "sampling": "allow"}]
WINDOWS = [
    {
        "name": "temp_5s",
        "route": "tasmota",
        "field": "Temperature",
        "key": "{device}",
        "window": {"type": "tumbling", "size": "5s"},
        "idle_timeout": "5s",
    },
    {
        "name": "too_warm",
        "route": "tasmota",
        "field": "Temperature",
        "key": "{device}",
        "plugin": "threshold",
        "options": {"above": 24.5, "clear": 24},
        "window": {"type": "tumbling", "size": "5s"},
        "idle_timeout": "5s",
        "priority": "critical",
    },
]


@contextmanager
def fleet(port: int, devices: int, rate: int, name: str = "fleet") -> Iterator[None]:
    """Simulated Tasmota devices."""
    command = [sys.executable, "-m", "gateway", "simulate", "--url", f"mqtt://127.0.0.1:{port}"]
    command += ["--devices", str(devices), "--rate", str(rate), "--seconds", "3600", "--client-id", name]
    process = subprocess.Popen([*command, "--qos", "1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


ROOMS = {
    "overview": "",
    "devices": "devices",
    "device": "devices#sensor-026",
    "windows": "windows",
    "window": "windows#temp_5s",
    "alarms": "alarms",
    "buffer": "buffer",
    "messages": "messages",
    "configuration": "configuration",
}
LOOKS: list[tuple[str, Any, Any]] = [
    ("light", "light", {"width": 1280, "height": 900}),
    ("dark", "dark", {"width": 1280, "height": 900}),
    ("phone", "light", {"width": 390, "height": 844}),
]


def take(browser: Browser, address: str, folder: Path, state: str, rooms: Iterable[str] = ROOMS) -> None:
    """The rooms as they are now."""
    for look, theme, size in LOOKS:
        page = browser.new_page(viewport=size, color_scheme=theme)
        for room in rooms:
            page.goto(f"http://{address}/{ROOMS[room]}")
            page.wait_for_timeout(2_500)
            chart = page.get_by_role("button", name="Chart of ").first
            if room == "alarms" and chart.count():
                chart.click()
                page.wait_for_timeout(1_500)
            if look != "phone" and room not in {"messages", "configuration", "devices", "window"}:
                # As high as the room is: charts are drawn once they can be seen.
                height = page.evaluate("document.documentElement.scrollHeight")
                page.set_viewport_size({"width": size["width"], "height": height})
                page.wait_for_timeout(1_500)
            whole = room not in {"messages", "configuration", "devices", "window"} or look == "phone"
            name = f"{room}-{state}-{look}.jpg"
            page.screenshot(path=folder / name, full_page=whole and room != "messages", quality=80)
            page.set_viewport_size(size)
        page.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--live", type=float, default=90.0, help="seconds before the live page is taken")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    kind = best_broker_kind()
    assert kind is not None, "there is no Mosquitto"
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory()))
        brokers = []
        for name in ("local", "cloud"):
            (folder / name).mkdir()
            setup = BrokerSetup(free_port(), (), ("max_queued_messages 0",), folder / name, False)
            broker = make_broker(kind, setup)
            cleanup.callback(broker.close)
            brokers.append(broker)
        local, cloud = brokers
        address = f"127.0.0.1:{free_port()}"
        config = gateway_config(
            folder,
            f"mqtt://127.0.0.1:{local.port}",
            f"mqtt://127.0.0.1:{cloud.port}",
            routes=ROUTES,
            windows=WINDOWS,
            http={"listen": address},
            flow={"memory": "256MiB"},
        )
        settings = config.read_text()
        playwright = cleanup.enter_context(sync_playwright())
        program = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        gateway = cleanup.enter_context(GatewayProcess(config))
        gateway.wait_ready()
        take(browser, address, given.folder, "empty")
        with fleet(local.port, 40, 200):
            time.sleep(given.live)
            take(browser, address, given.folder, "live")
            cloud.stop()
            time.sleep(given.live / 2)
            take(browser, address, given.folder, "outage", ("overview", "buffer", "devices"))
            # So that the drain can be seen: a slow line.
            gateway.stop()
            config.write_text(settings.replace("cloud:\n", "cloud:\n  bandwidth: 40KiB/s\n"))
            cloud.start()
            gateway.start()
            wait_until(lambda: gateway.get("/readyz") is not None, "the restart")
            time.sleep(15)
            take(browser, address, given.folder, "drain", ("overview", "buffer"))
        with fleet(local.port, 5000, 500, "many"):
            time.sleep(30)
            take(
                browser, address, given.folder, "5000", ("overview", "devices", "windows", "window", "buffer")
            )
        with fleet(local.port, 200, 30_000, "flood-1"), fleet(local.port, 200, 30_000, "flood-2"):
            time.sleep(20)
            take(browser, address, given.folder, "overload")
        browser.close()


if __name__ == "__main__":
    main()
