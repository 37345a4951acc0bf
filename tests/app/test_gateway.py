"""The graph of the running gateway: which threads it has, and that health names each one that ends."""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.app.gateway import Gateway
from gateway.app.signed_configs import SignedConfigs
from gateway.buffer.compression import Training
from gateway.config import load_config
from gateway.core.errors import GatewayError
from gateway.host.control import SOCKET_FILE, ask
from gateway.wire.signatures import new_key
from tests.conftest import MosquittoFactory
from tests.support.gateways import HOST, gateway_config, wait_until
from tests.support.places import DOCS
from tests.support.ports import free_port

NOBODY = f"mqtt://{HOST}:9"
NAMED_WITHIN_S = 10.0


class InjectedError(Exception):
    """The fault that is injected."""


def fail(*_: object, **__: object) -> Any:
    raise InjectedError("injected")


class Running:
    """A gateway in this process with every part that there is."""

    def __init__(self, folder: Path) -> None:
        local = {"url": "embedded", "broker": "amqtt", "listen": f"{HOST}:{free_port()}"}
        cloud = {"url": NOBODY, "downlink": [{"topic": "a", "to": "b"}]}
        (folder / "fleet.pub").write_bytes(new_key()[1])
        pull = {"url": f"https://{HOST}:9/", "every": "200ms"}
        far = {"accept": "signed", "public_key_file": "fleet.pub", "pull": pull}
        notify = [{"url": f"json://{HOST}:9"}]
        config = gateway_config(
            folder, NOBODY, local=local, cloud=cloud, config=far, history={}, notify=notify
        )
        self.settings = load_config(config)
        self.gateway = Gateway(self.settings, remote=SignedConfigs.of(self.settings, config))

    def healthz(self) -> tuple[int, list[str]]:
        assert self.settings.http is not None
        try:
            with urllib.request.urlopen(f"http://{self.settings.http.listen}/healthz", timeout=5) as answer:
                return answer.status, json.load(answer)["problems"]
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, json.load(exc)["problems"]

    def asked(self) -> list[str]:
        """What is wrong, as the control socket says it."""
        path = self.settings.gateway.data_dir / SOCKET_FILE
        problems: list[str] = ask(path, {"do": "health"}, lambda *_: None)["problems"]
        return problems


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    made = Running(tmp_path)
    made.gateway.start()
    yield made
    made.gateway.stop()


def test_every_thread_of_the_gateway_is_watched_and_in_the_docs_in_the_order_of_the_start(
    running: Running,
) -> None:
    watched = running.gateway.status.threads
    alive = {thread.ident for thread in threading.enumerate() if thread.name.startswith("gateway.")}
    assert {thread.ident for thread in watched} >= alive
    assert all(thread.is_alive() for thread in watched)
    named = re.findall(r"^\| `gateway\.([\w-]+)` \|", (DOCS / "architecture.md").read_text(), re.MULTILINE)
    started = [re.sub(r"-\d+$", "-N", thread.role) for thread in watched]
    assert started == [role for role in named if role != "dictionaries"], "which lives only for moments"


def break_writer(gateway: Gateway, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(gateway.status.writer, "_take_group", fail)


def break_timekeeper(gateway: Gateway, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(gateway.status.timekeeper, "_wait", fail)


def break_upkeep(gateway: Gateway, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(gateway.status.upkeep, "_work", fail)


def break_dictionaries(gateway: Gateway, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("gateway.buffer.dictionaries.learn", fail)
    training = Training("family", [b"{}"], None)
    patch.setattr(gateway.status.store.compressor, "take_trainable", lambda: [training])


def break_control(gateway: Gateway, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("gateway.host.control.ControlServer._serve_next", fail)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(gateway.config.gateway.data_dir / SOCKET_FILE))


def break_broker(gateway: Gateway, patch: pytest.MonkeyPatch) -> None:
    served = next(w for w in gateway.status.workers if w.thread and w.thread.role == "broker")
    loop: Any = served._thread._loop  # type: ignore[attr-defined]
    loop.call_soon_threadsafe(sys.exit, "injected")  # any other error asyncio keeps to itself


def break_reports(gateway: Gateway, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("gateway.app.reports.ReportPart._look", fail)


def break_config_pull(gateway: Gateway, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("gateway.cloud.config_fetcher.ConfigFetcher._ask", fail)


def break_history(gateway: Gateway, patch: pytest.MonkeyPatch) -> None:
    keeper = gateway.status.past
    assert keeper is not None
    patch.setattr(keeper, "_turn", fail)
    keeper.wake()


def break_notify(gateway: Gateway, patch: pytest.MonkeyPatch) -> None:
    notifier: Any = next(w for w in gateway.status.workers if w.thread and w.thread.role == "notify")
    patch.setattr(notifier, "_waiting", fail)


def break_link(role: str) -> Callable[[Gateway, pytest.MonkeyPatch], None]:
    def break_it(gateway: Gateway, patch: pytest.MonkeyPatch) -> None:
        link = next(link for link in gateway.status.links if link.name == role)
        patch.setattr(link, "_end_connection", fail)
        patch.setattr(link, "_check_progress", fail)
        link.wake()
        link.retry_now()

    return break_it


BREAKS: dict[str, Callable[[Gateway, pytest.MonkeyPatch], None]] = {
    "writer": break_writer,
    "timekeeper": break_timekeeper,
    "upkeep": break_upkeep,
    "dictionaries": break_dictionaries,
    "control": break_control,
    "broker": break_broker,
    "reports": break_reports,
    "config-pull": break_config_pull,
    "history": break_history,
    "notify": break_notify,
    **{
        role: break_link(role)
        for role in ("republish", "ingest", "bridge-0", "audit", "downlink-local", "downlink", "config")
    },
}


@pytest.mark.parametrize("role", BREAKS)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # what a thread held that ended by a fault
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_thread_that_ends_by_a_fault_is_named_by_health(
    running: Running, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert running.healthz() == (200, [])
    with monkeypatch.context() as patch:
        BREAKS[role](running.gateway, patch)
        named = f"the thread gateway.{role} has ended"
        wait_until(
            lambda: any(problem.startswith(named) for problem in running.healthz()[1]),
            f"health names {role}",
            NAMED_WITHIN_S,
        )
        assert running.healthz()[0] == 503
        thread = next(t for t in running.gateway.status.threads if t.role == role)
        assert "injected" in thread.problem


def test_the_end_of_the_http_server_is_said_on_the_control_socket(running: Running) -> None:
    assert running.healthz() == (200, [])
    assert not any("thread" in problem for problem in running.asked())
    server: Any = next(w for w in running.gateway.status.workers if w.thread and w.thread.role == "http")
    server._site._server.on_tick = fail
    wait_until(
        lambda: any(
            p.startswith("the thread gateway.http has ended: InjectedError") for p in running.asked()
        ),
        "the control socket says it",
        NAMED_WITHIN_S,
    )


def test_no_thread_is_left_out_of_these_tests(running: Running) -> None:
    watched = {thread.role for thread in running.gateway.status.threads}
    assert watched | {"dictionaries"} == {*BREAKS, "http"}


def test_a_start_that_fails_half_way_leaves_nothing_running(tmp_path: Path) -> None:
    first = Running(tmp_path)
    first.gateway.start()
    try:
        (tmp_path / "other").mkdir()
        second = Running(tmp_path / "other")
        assert second.settings.http is not None
        assert first.settings.http is not None
        http = second.settings.http.model_copy(update={"listen": first.settings.http.listen})
        failing = Gateway(second.settings.model_copy(update={"http": http}))
        before = {thread.ident for thread in threading.enumerate()}
        with pytest.raises(Exception, match=r"http\.listen"):
            failing.start()
        left = [
            t.name for t in threading.enumerate() if t.ident not in before and t.name.startswith("gateway.")
        ]
        assert left == []
    finally:
        first.gateway.stop()


def test_a_second_start_on_a_taken_port_leaves_the_brokers_session_to_the_first(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    local = mosquitto()
    config = gateway_config(tmp_path, local.url)
    first = Gateway(load_config(config))
    first.start()
    try:
        link = first.status.ingest_link
        wait_until(lambda: link.connected, "the first gateway's connection")
        config.write_text(config.read_text().replace("data_dir: data", "data_dir: other"))
        with pytest.raises(GatewayError, match=r"http\.listen"):
            Gateway(load_config(config)).start()
        assert local.log().count("as gateway-g1 (") == 1
        assert link.connected
    finally:
        first.stop()
