"""A signed configuration over the cloud broker: taken, watched, and taken back by the gateway itself."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from gateway.app.configuration import Configuration, Loaded
from gateway.app.signed_configs import SIGNED_FILE, SignedConfigs
from gateway.cloud import own_subscription
from gateway.cloud.config_inbox import ConfigInbox
from gateway.config import load_config
from gateway.core.errors import ConfigError, DecodeError
from gateway.host.last_good import LAST_GOOD_FILE
from gateway.mqtt.endpoint import Endpoint
from gateway.mqtt.link import Link
from gateway.status.gateway_status import GatewayStatus
from gateway.wire.signatures import new_key
from gateway.wire.signed_config import SignedConfig, read_signed_config
from gateway.wire.signed_message import EVERY_GATEWAY
from tests.conftest import MosquittoFactory
from tests.support.gateways import HOST, GatewayProcess, gateway_config, wait_until
from tests.support.ports import free_port
from tests.support.publishing import publish
from tests.support.stub_broker import SUBSCRIBE, Answer, Packet, StubBroker, suback

NOBODY = f"mqtt://{HOST}:9"


def with_key(
    folder: Path, local_url: str, cloud_url: str = NOBODY, watch: str = "1s", rehearse: object = False
) -> tuple[Path, bytes]:
    private, public = new_key()
    (folder / "fleet.pub").write_bytes(public)
    far = {"accept": "signed", "public_key_file": "fleet.pub", "watch": watch, "rehearse": rehearse}
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
        assert (told()["remote_version"], told()["remote_state"]) == ("1", "in_use")
        labels = f'hash="{told()["hash"]}",state="in_use",version="1"'
        wait_until(lambda: gateway.metric(f"gateway_remote_config_info{{{labels}}}") == 1, "the metric")
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
    arrived = kept.take()
    assert arrived is not None
    kept.begin(arrived)
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
    kept.confirm(taken)
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


def test_keys_can_be_changed_while_old_and_new_ones_are_both_in_the_file() -> None:
    (old, old_public), (new, new_public), (stranger, _) = new_key(), new_key(), new_key()
    both = old_public + new_public
    for private in (old, new):
        assert read_signed_config(SignedConfig("g1", 1, "text").sign(private), "g1", both).version == 1
    with pytest.raises(DecodeError):
        read_signed_config(SignedConfig("g1", 1, "text").sign(stranger), "g1", both)
    with pytest.raises(DecodeError):
        read_signed_config(SignedConfig("g1", 1, "text").sign(old), "g1", new_public)


def test_one_for_another_gateway_is_refused() -> None:
    private, public = new_key()
    with pytest.raises(DecodeError, match="for the gateway 'g2'"):
        read_signed_config(SignedConfig("g2", 1, "text").sign(private), "g1", public)


@dataclass
class Seen:
    """What a running gateway says of itself, as far as a trial is judged by it."""

    bridge_connected: bool = True
    awaits_configurations: bool = True
    obstacles: list[str] = field(default_factory=list)

    def health(self) -> list[str]:
        return []

    def readiness(self) -> list[str]:
        return self.obstacles


class Site:
    """The configurations of a gateway, without the gateway."""

    def __init__(self, folder: Path, rehearse: object = False) -> None:
        self.file, self._private = with_key(folder, NOBODY, watch="1ms", rehearse=rehearse)
        (folder / "data").mkdir()
        self.state = folder / "data" / SIGNED_FILE
        self.boot()

    def boot(self) -> None:
        """A new process."""
        self.configuration = Configuration(self.file)
        self.running = self.configuration.first()
        self.configuration.started(self.running)

    def message(self, version: int, **sections: Any) -> bytes:
        text = changed(self.file, log={"level": "debug"}, **sections)
        return SignedConfig("g1", version, text).sign(self._private)

    def look(self, seen: Seen) -> Loaded | None:
        """One turn of the main loop."""
        found = self.configuration.news(self.running, cast("GatewayStatus", seen))
        if found is not None:
            self.running = found
            self.configuration.started(found)
        return found

    def tries(self, version: int, seen: Seen | None = None, **sections: Any) -> None:
        self.configuration.offer(self.message(version, **sections))
        assert self.look(seen or Seen()) is not None
        assert self.running.origin.version == str(version)

    def judged(self, seen: Seen) -> str:
        """The outcome at the end of the watch."""
        before = self.configuration.outcome

        def changes() -> bool:
            self.look(seen)
            return self.configuration.outcome != before

        wait_until(changes, "the watch is over")
        return self.configuration.outcome


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("missing", ["bridge_connected", "awaits_configurations"])
def test_one_that_cannot_be_replaced_over_the_cloud_is_taken_back(
    site: Site, missing: str, restart: bool
) -> None:
    site.tries(12, Seen(bridge_connected=False))  # the bridge was just away when it came
    if restart:
        site.boot()
    assert site.judged(Seen(**{missing: False})).startswith("12 taken back: it ")  # type: ignore[arg-type]
    assert site.running.origin.source == "file"


def test_one_after_which_the_gateway_is_not_ready_is_taken_back_after_a_restart_too(site: Site) -> None:
    site.tries(12)
    site.boot()
    assert site.judged(Seen(obstacles=["no broker"])) == "12 taken back: no broker"


def test_a_gateway_that_was_not_ready_need_not_be_after_a_restart(site: Site) -> None:
    site.tries(12, Seen(obstacles=["no broker"]))
    site.boot()
    assert site.judged(Seen(obstacles=["no broker"])) == "12 in use"


def test_one_that_cannot_be_written_is_taken_when_it_comes_again(site: Site) -> None:
    in_the_way = site.state.with_name(f"{site.state.name}.new")
    in_the_way.mkdir()  # as a full disk: nothing can be written
    with pytest.raises(OSError):
        site.configuration.offer(site.message(12))
    assert site.look(Seen()) is None
    in_the_way.rmdir()
    site.tries(12)


def test_a_full_disk_at_the_start_of_a_trial_does_not_keep_the_gateway_down(site: Site) -> None:
    site.tries(12)
    site.state.with_name(f"{site.state.name}.new").mkdir()
    site.boot()
    assert site.running.origin.source == "file"


def test_a_broken_file_is_repaired_from_afar(site: Site) -> None:
    repair = site.message(12)
    site.file.write_text("colour: blue\n")
    site.boot()
    assert site.running.origin.source == "last_good"
    site.configuration.offer(repair)
    site.look(Seen())
    assert site.running.origin.version == "12"
    site.boot()
    assert site.running.origin.version == "12"  # its trial goes on
    assert site.judged(Seen()) == "12 in use"
    site.boot()
    assert site.running.config.log.level == "debug"
    assert "gateway.yaml is not in use" in site.running.origin.problem


def test_a_good_one_that_cannot_be_used_at_one_start_is_used_at_the_next(site: Site, tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("secret")
    site.tries(12, local={"url": NOBODY, "username": "gateway", "password_file": "token"})
    assert site.judged(Seen()) == "12 in use"
    secret.unlink()  # not mounted yet
    site.boot()
    assert site.running.origin.source == "file"
    assert "12 cannot be used now" in site.running.origin.problem
    assert "12 cannot be used now" in site.configuration.outcome
    assert "debug" in (site.state.parent / LAST_GOOD_FILE).read_text()
    secret.write_text("secret")
    site.boot()
    assert site.running.origin.version == "12"
    assert site.configuration.outcome == "12 in use"


def test_where_one_on_trial_cannot_be_used_the_good_one_runs_not_the_file(site: Site, tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("secret")
    site.tries(12)
    assert site.judged(Seen()) == "12 in use"
    site.tries(13, local={"url": NOBODY, "username": "gateway", "password_file": "token"})
    secret.unlink()
    site.boot()
    assert site.running.origin.version == "12"
    assert site.configuration.outcome.startswith("13 taken back")


@pytest.mark.parametrize("starts", [True, False])
def test_behind_two_trials_in_a_row_is_what_ran_before_both(site: Site, starts: bool) -> None:
    site.tries(12, buffer={"checkpoint_interval": "700ms"})
    proven = site.running
    if starts:
        site.tries(13)
        site.judged(Seen(bridge_connected=False))
    else:
        site.configuration.offer(site.message(13))
        failed = site.configuration.news(site.running, cast("GatewayStatus", Seen()))
        assert failed is not None
        before = site.configuration.instead_of(failed, OSError("no"), proven)
        assert before is not None
        site.running = before
    assert site.configuration.outcome.startswith("13 taken back")
    assert site.running.origin.source == "file"


def test_a_damaged_state_is_no_lost_one(site: Site) -> None:
    old = site.message(12)
    site.tries(12)
    assert site.judged(Seen()) == "12 in use"
    site.state.write_text('{"good": ')
    with pytest.raises(ConfigError, match=r"signed-config\.json"):
        SignedConfigs.of(load_config(site.file), site.file)
    site.boot()
    assert site.running.origin.source == "last_good"
    assert SIGNED_FILE in site.running.origin.problem
    with pytest.raises(OSError):
        site.configuration.offer(old)


def test_configurations_are_awaited_only_on_a_subscription_that_is_granted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(own_subscription, "RETRY_S", 0.3)
    code = 0x87

    def rule(packet: Packet) -> Answer | None:
        return suback(packet, code) if packet.kind == SUBSCRIBE else None

    cloud, inbox = StubBroker(rule), ConfigInbox("gateway/g1/down/config", lambda _: None)
    link = Link("config", Endpoint(HOST, cloud.port, "g1-config"), inbox)
    try:
        with cloud.running():
            link.start()
            wait_until(lambda: len(cloud.of(SUBSCRIBE)) > 1, "it is asked for again")
            assert not inbox.awaits
            code = 1
            wait_until(lambda: inbox.awaits, "it is granted")
        wait_until(lambda: not inbox.awaits, "the connection is gone")
    finally:
        link.stop()
