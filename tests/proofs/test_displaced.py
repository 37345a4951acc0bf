"""The buffer's file or folder goes away under a running gateway: nothing acknowledged is lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest
from peewee import PeeweeException

from gateway.buffer.reader import Reader
from gateway.core.errors import StoreError
from tests.conftest import MosquittoFactory
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.publishing import publish


def messages(first: int, last: int) -> list[tuple[str, str]]:
    return [("sensors/a", f'{{"t": {number}, "v": {number}}}') for number in range(first, last)]


def stored(gateway: GatewayProcess) -> list[int]:
    try:
        return sorted(int(str(found["v"])) for found in gateway.raw_payloads())
    except (apsw.Error, PeeweeException, StoreError):
        return []  # there is no file, or another one, for the moment


def alerts(path: Path) -> str:
    reader = Reader(path)
    try:
        return b" ".join(reader.payloads(reader.derived_after(0, 1000))).decode()
    finally:
        reader.close()


def delete_folder(buffer: Path) -> None:
    shutil.rmtree(buffer.parent)


def delete_file(buffer: Path) -> None:
    buffer.unlink()


def replace_by_another(buffer: Path) -> None:
    other = buffer.with_name("other")
    other.write_bytes(b"not a database")
    other.replace(buffer)


@pytest.mark.parametrize("displace", [delete_folder, delete_file, replace_by_another])
def test_a_buffer_deleted_under_a_running_gateway_is_written_again_and_nothing_is_lost(
    tmp_path: Path, mosquitto: MosquittoFactory, displace: Callable[[Path], None]
) -> None:
    broker = mosquitto()
    with GatewayProcess(gateway_config(tmp_path, broker.url)) as gateway:
        gateway.wait_ready()
        publish(broker.port, messages(0, 100))
        wait_until(lambda: len(stored(gateway)) == 100, "the first half is stored")
        pid = gateway.pid
        displace(gateway.buffer_path)
        publish(broker.port, messages(100, 200))
        wait_until(lambda: "starts anew with what it held" in gateway.log(), "the gateway notices")
        wait_until(lambda: stored(gateway) == list(range(200)), "all of them are in the file at its path")
        gateway.wait_ready()
        assert gateway.pid == pid
        assert "was deleted or replaced" in alerts(gateway.buffer_path)
        publish(broker.port, messages(200, 210))
        wait_until(lambda: stored(gateway) == list(range(210)), "it goes on")
        assert gateway.stop() == 0
        assert gateway.audit().problems == ()


def test_where_the_folder_cannot_be_made_again_nothing_is_acknowledged_and_health_says_why(
    tmp_path: Path, mosquitto: MosquittoFactory
) -> None:
    broker = mosquitto()
    with GatewayProcess(gateway_config(tmp_path, broker.url)) as gateway:
        gateway.wait_ready()
        publish(broker.port, messages(0, 100))
        wait_until(lambda: len(stored(gateway)) == 100, "the first half is stored")
        folder = gateway.buffer_path.parent
        shutil.rmtree(folder)
        folder.write_text("in the way")
        publish(broker.port, messages(100, 200))
        wait_until(lambda: "cannot be written again" in gateway.said("/readyz"), "health says why")
        folder.unlink()
        wait_until(lambda: stored(gateway) == list(range(200)), "all of them are stored")
        assert gateway.stop() == 0
        assert gateway.audit().problems == ()
