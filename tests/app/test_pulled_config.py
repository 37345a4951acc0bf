"""Whole gateways that a centre reaches by an HTTPS server, or asks for a bundle: every part at its place."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from gateway.wire.signed_config import SignedConfig
from gateway.wire.support_request import SupportRequest
from tests.app.test_remote_config import NOBODY, changed, with_key
from tests.cloud.test_support_bundles import Answers
from tests.conftest import MosquittoFactory
from tests.support.certificates import make_authority, make_certificate
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.https_server import Asked, HttpsServer, Reply
from tests.support.publishing import publish

pytestmark = pytest.mark.slow


def told(gateway: GatewayProcess) -> dict[str, Any]:
    state = gateway.get("/api/state")
    return dict(json.loads(state)["gateway"]) if state else {"config": {}, "problems": []}


def test_a_gateway_without_a_cloud_takes_what_it_pulls_and_says_when_it_cannot(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    make_authority(tmp_path)
    make_certificate(tmp_path, "server")
    answer = Reply(204)

    def reply(asked: Asked) -> Reply:
        return answer

    server = HttpsServer(tmp_path / "server.pem", tmp_path / "server.key", reply)
    _, private = with_key(tmp_path, NOBODY)
    pull = {"url": f"{server.url}/{{id}}.json", "ca_file": "ca.pem", "every": "500ms"}
    far = {"accept": "signed", "public_key_file": "fleet.pub", "watch": "3s", "pull": pull}
    config = gateway_config(tmp_path, mosquitto().url, config=far)
    with GatewayProcess(config) as gateway:
        with server.running():
            gateway.wait_ready()
            good = changed(config, buffer={"checkpoint_interval": "700ms"})
            answer = Reply(200, SignedConfig("g1", 1, good).sign(private), {"ETag": '"1"'})
            wait_until(lambda: told(gateway)["config"].get("outcome") == "1 in use", "it has proven itself")
            assert {asked.path for asked in server.asked} == {"/g1.json"}
            assert gateway.metric('gateway_config_pulls_total{outcome="new"}') >= 1
        wait_until(lambda: any("cannot be fetched" in one for one in told(gateway)["problems"]), "it says so")
        assert gateway.get("/healthz")
        assert told(gateway)["config"]["version"] == "1"


def test_a_bundle_that_is_asked_for_has_the_configuration_in_use(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    local, cloud = mosquitto(), mosquitto()
    config, private = with_key(tmp_path, local.url, cloud.url)
    with Answers(cloud) as answers, GatewayProcess(config) as gateway:
        gateway.wait_ready()
        other = changed(config, buffer={"checkpoint_interval": "777ms"})
        publish(cloud.port, [("gateway/g1/down/config", SignedConfig("g1", 1, other).sign(private))])
        wait_until(lambda: told(gateway)["config"].get("outcome") == "1 in use", "it has proven itself")
        publish(cloud.port, [("gateway/g1/down/support", SupportRequest("g1", 5).sign(private))])
        with tarfile.open(fileobj=io.BytesIO(answers.next())) as archive:
            member = archive.extractfile("gateway-support/config_in_use.json")
            assert member is not None
            assert json.load(member)["buffer"]["checkpoint_interval"] == 777
        sent = 'gateway_support_requests_total{outcome="sent"}'
        wait_until(lambda: gateway.metric(sent) == 1, "it is counted")
