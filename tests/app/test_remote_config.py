"""A signed configuration over the cloud broker: taken, watched, and taken back by the gateway itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.app.signed_configs import SIGNED_FILE, SignedConfigs
from gateway.config import load_config
from gateway.core.errors import DecodeError
from gateway.wire.signatures import new_key
from gateway.wire.signed_config import EVERY_GATEWAY, SignedConfig, read_signed_config
from tests.conftest import MosquittoFactory
from tests.support.gateways import HOST, GatewayProcess, gateway_config, wait_until
from tests.support.ports import free_port
from tests.support.publishing import publish

NOBODY = f"mqtt://{HOST}:9"


def with_key(folder: Path, local_url: str, cloud_url: str = NOBODY, watch: str = "1s") -> tuple[Path, bytes]:
    private, public = new_key()
    (folder / "fleet.pub").write_bytes(public)
    far = {"accept": "signed", "public_key_file": "fleet.pub", "watch": watch}
    return gateway_config(folder, local_url, cloud_url, config=far, metrics={"status": "1s"}), private


def changed(file: Path, **sections: Any) -> str:
    return yaml.safe_dump(yaml.safe_load(file.read_text()) | sections)


@pytest.mark.slow
def test_one_that_works_is_taken_up_and_one_that_does_not_is_taken_back(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    local, cloud = mosquitto(), mosquitto()
    config, private = with_key(tmp_path, local.url, cloud.url)
    topic = "gateway/g1/down/config"
    count = 0

    def sends() -> None:
        """A device sends on, whatever happens to the configuration."""
        nonlocal count
        publish(
            local.port, [(f"sensors/d{count % 3}", json.dumps({"t": count, "v": count})) for _ in range(5)]
        )
        count += 5

    with GatewayProcess(config) as gateway:

        def told() -> dict[str, str]:
            state = gateway.get("/api/state")
            return json.loads(state)["gateway"]["config"] if state else {}

        gateway.wait_ready()
        good = changed(config, buffer={"checkpoint_interval": "700ms"})
        publish(cloud.port, [(topic, SignedConfig("g1", 1, good).sign(private))], retain=True)
        sends()
        wait_until(lambda: told().get("outcome") == "1 in use", "the first is proven")
        assert (told()["source"], told()["version"]) == ("signed", "1")
        wait_until(lambda: gateway.get("/readyz"), "it works")

        bad = changed(config, cloud={"url": f"mqtt://{HOST}:{free_port()}"})  # nobody is there
        publish(cloud.port, [(topic, SignedConfig(EVERY_GATEWAY, 2, bad).sign(private))], retain=True)
        sends()
        wait_until(lambda: told().get("outcome", "").startswith("2 taken back"), "the second is taken back")
        wait_until(lambda: told().get("version") == "1", "the first is in use again")
        assert "does not reach the cloud" in told()["problem"]
        wait_until(lambda: gateway.get("/readyz"), "it works again")

        stranger, _ = new_key()
        publish(cloud.port, [(topic, SignedConfig("g1", 3, good).sign(stranger))], retain=True)
        wait_until(lambda: "signature" in told().get("outcome", ""), "the stranger is refused")
        sends()
        gateway.kill()
        gateway.start()
        wait_until(lambda: told().get("version") == "1", "the good one survives a kill")
        wait_until(lambda: len(gateway.raw_payloads()) == count, "nothing of the devices is lost")


def test_a_configuration_that_never_comes_up_is_given_up_at_the_third_start(tmp_path: Path) -> None:
    config, private = with_key(tmp_path, NOBODY)
    settings = load_config(config)
    settings.gateway.data_dir.mkdir()
    kept = SignedConfigs.of(settings, config)
    assert kept is not None
    kept.offer(SignedConfig("g1", 5, changed(config, log={"level": "debug"})).sign(private))
    for starts in (2, None):  # the first was when it came
        kept = SignedConfigs.of(settings, config)
        assert kept is not None
        trial = kept.to_start()
        assert (trial.starts if trial else None) == starts
    assert kept.outcome.startswith("5 taken back: the gateway ended 2 times")
    assert (tmp_path / "data" / SIGNED_FILE).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("sections", "why"),
    [
        ({"gateway": {"id": "g2", "data_dir": "data"}}, "gateway.id is not as in gateway.yaml"),
        ({"config": {"accept": "no"}}, "config.accept is not as in gateway.yaml"),
        ({"colour": "blue"}, "colour"),
        ({"routes": []}, "route"),
    ],
)
def test_what_would_break_the_way_back_is_refused(tmp_path: Path, sections: dict[str, Any], why: str) -> None:
    config, private = with_key(tmp_path, NOBODY)
    settings = load_config(config)
    settings.gateway.data_dir.mkdir()
    kept = SignedConfigs.of(settings, config)
    assert kept is not None
    kept.offer(SignedConfig("g1", 1, changed(config, **sections)).sign(private))
    assert kept.take() is None
    assert kept.outcome.startswith("1 refused: ")
    assert why in kept.outcome


def test_an_older_version_that_is_played_again_changes_nothing(tmp_path: Path) -> None:
    config, private = with_key(tmp_path, NOBODY)
    settings = load_config(config)
    settings.gateway.data_dir.mkdir()
    kept = SignedConfigs.of(settings, config)
    assert kept is not None
    newer, older = (SignedConfig("g1", n, changed(config, log={"level": "debug"})) for n in (9, 8))
    kept.offer(newer.sign(private))
    taken = kept.take()
    assert taken is not None
    assert taken.version == 9
    kept.confirm()
    for message in (older, newer):
        kept.offer(message.sign(private))
        assert kept.take() is None
    assert kept.outcome == "9 in use"


@pytest.mark.parametrize("field", ["gateway", "version", "config", "signature"])
def test_a_message_that_was_changed_has_no_signature(field: str) -> None:
    private, public = new_key()
    message = json.loads(SignedConfig("g1", 1, "text").sign(private))
    assert read_signed_config(json.dumps(message).encode(), "g1", public) == SignedConfig("g1", 1, "text")
    message[field] = {"gateway": "*", "version": 2, "config": "txet", "signature": "AAAA"}[field]
    with pytest.raises(DecodeError) as caught:
        read_signed_config(json.dumps(message).encode(), "g1", public)
    assert caught.value.reason == "signature"


def test_one_for_another_gateway_is_refused() -> None:
    private, public = new_key()
    with pytest.raises(DecodeError, match="for the gateway 'g2'"):
        read_signed_config(SignedConfig("g2", 1, "text").sign(private), "g1", public)
