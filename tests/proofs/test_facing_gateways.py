"""Two gateways whose routes take everything, each reading what the other sends up: no message goes round."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tests.conftest import MosquittoFactory
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.publishing import publish

READINGS = 20
BRIDGED = 'gateway_messages_rejected_total{reason="bridged"}'


def facing(folder: Path, name: str, prefix: str, local_url: str, cloud_url: str) -> Path:
    folder = folder / name
    folder.mkdir()
    return gateway_config(
        folder,
        local_url,
        gateway={"id": name, "data_dir": str(folder / "data"), "topic_prefix": prefix},
        cloud={"url": cloud_url, "format": "event"},
        routes=[{"name": "all", "topic": "{all...}"}],
        windows=[],
    )


@pytest.mark.parametrize(
    ("brokers", "prefixes"),
    [
        pytest.param(1, ("gateway", "gateway"), id="one broker", marks=pytest.mark.slow),
        pytest.param(2, ("gateway", "gateway"), id="two brokers"),
        pytest.param(2, ("gateway", "other"), id="two prefixes", marks=pytest.mark.slow),
    ],
)
def test_what_another_gateway_has_bridged_is_refused_and_counted(
    mosquitto: MosquittoFactory, tmp_path: Path, brokers: int, prefixes: tuple[str, str]
) -> None:
    first = mosquitto()
    second = mosquitto() if brokers == 2 else first
    configs = (
        facing(tmp_path, "g1", prefixes[0], first.url, second.url),
        facing(tmp_path, "g2", prefixes[1], second.url, first.url),
    )
    with GatewayProcess(configs[0]) as one, GatewayProcess(configs[1]) as two:
        one.wait_ready()
        two.wait_ready()
        for number in range(READINGS):
            publish(first.port, [(f"sensors/d{number}", b'{"v": 1}')])
        wait_until(
            lambda: one.metric(BRIDGED) + two.metric(BRIDGED) >= READINGS,
            "all of it came back and was refused",
        )
        one.stop()
        two.stop()
        for each in (one, two):
            found = each.audit()
            assert not found.problems
            # Beyond the readings: status, audits and the like of the other gateway, each once.
            assert found.messages["buffered"] < 3 * READINGS


def test_files_of_a_running_gateway_are_for_their_owner_only(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    config = gateway_config(tmp_path, mosquitto().url)
    with GatewayProcess(config) as gateway:
        gateway.wait_ready()
        data = tmp_path / "data"
        open_to_others = [
            path.name for path in [data, *data.rglob("*")] if stat.S_IMODE(path.lstat().st_mode) & 0o077
        ]
        assert open_to_others == []
        gateway.stop()
