"""Topics of one's own: what each template is filled with, what is switched off, what check says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.config import parse_config, warnings_of
from gateway.core.errors import ConfigError
from gateway.core.own_topics import OwnTopics
from gateway.wire.uplink_topics import UplinkTopics
from tests.conftest import MosquittoFactory
from tests.support.gateways import GatewayProcess, gateway_config, wait_until
from tests.support.publishing import publish
from tests.support.stub_broker import CONNECT, PUBLISH, StubBroker


def topics(**templates: str) -> UplinkTopics:
    return UplinkTopics(OwnTopics("gateway", "g1"), "thing", routes=["tele/{device}/SENSOR"], **templates)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("template", "stream", "topic"),
    [
        ("plants/{id}/{topic}", "tele/d1/SENSOR", "plants/g1/tele/d1/SENSOR"),
        ("{client_id}/feeds/{stream}", "tele/Dö 1/SENSOR", "thing/feeds/tele-D-1-SENSOR"),
        ("plants/{device}/now", "tele/d1/SENSOR", "plants/d1/now"),
        ("plants/dev-{device}", "tele/d1/SENSOR", "plants/dev-d1"),
        ("plants/{device}", "gateway/g1/aggregates/w/k", "plants/_"),
    ],
)
def test_a_template_is_filled_with_what_is_known_of_the_event(template: str, stream: str, topic: str) -> None:
    assert topics(event_template=template).event(stream) == topic


def test_what_is_not_named_stays_where_it_was() -> None:
    plain = topics()
    assert (plain.batch(2), plain.event("a/b"), plain.audit, plain.status) == (
        "gateway/g1/up/batch/2",
        "gateway/g1/up/event/a/b",
        "gateway/g1/audit",
        "gateway/g1/status",
    )
    assert topics(batch_template="x/{n}").batch(3) == "x/3"


def parse(**cloud: Any) -> Any:
    base = {"gateway": {"id": "g1"}, "routes": [{"name": "r", "topic": "t/{device}"}]}
    return parse_config(json.dumps({**base, "cloud": {"url": "mqtt://c", **cloud}}))


@pytest.mark.parametrize(
    ("cloud", "problem"),
    [
        ({"topics": {"event": "a/{devise}"}}, "nothing is called devise (did you mean 'device'?)"),
        ({"topics": {"batch": "a/{topic}"}}, "nothing is called topic"),
        ({"topics": {"batch": "off"}}, "format: batch needs this topic"),
        ({"topics": {"event": False}, "format": "event"}, "format: event needs this topic"),
        ({"topics": {"event": "a/#"}}, "wildcard"),
        ({"topics": {"audit": "a/{id"}}, "a brace has no partner"),
    ],
)
def test_what_cannot_be_filled_or_published_is_refused(cloud: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(**cloud)
    assert problem in "\n".join(caught.value.problems)


def test_check_says_what_topics_of_ones_own_cost() -> None:
    said = warnings_of(parse(topics={"event": "a/{topic}"}, format="event"))
    assert any("gateway receive does not read topics of your own (event)" in each for each in said)
    assert not any("gateway receive" in each for each in warnings_of(parse(topics={"audit": "off"})))


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_events_go_to_their_topics_with_their_identity_and_nothing_else_goes(
    mosquitto: MosquittoFactory, tmp_path: Path, protocol: str
) -> None:
    local, cloud = mosquitto(), StubBroker()
    own = {"event": "plants/{id}/{device}", "audit": "off", "status": "off"}
    section = {"url": cloud.url, "format": "event", "topics": own, "protocol": protocol, "audit": "1s"}
    with (
        cloud.running(),
        GatewayProcess(gateway_config(tmp_path, local.url, cloud=section, windows=[])) as gateway,
    ):
        gateway.wait_ready()
        publish(local.port, [(f"sensors/d{n % 3}", json.dumps({"v": n})) for n in range(30)])
        wait_until(lambda: len(cloud.of(PUBLISH)) >= 30, "the events")
        assert gateway.stop() == 0
    sent = cloud.of(PUBLISH)
    assert {each.topic for each in sent} == {f"plants/g1/d{n}" for n in range(3)}
    assert all(each.will_topic is None for each in cloud.of(CONNECT))
    if protocol == "5":
        streams = {dict(each.user_properties)["stream"] for each in sent}
    else:
        streams = {json.loads(each.payload)["stream"] for each in sent}
    assert streams == {f"sensors/d{n}" for n in range(3)}


def test_frames_and_audit_go_to_topics_of_their_own(mosquitto: MosquittoFactory, tmp_path: Path) -> None:
    local, cloud = mosquitto(), StubBroker()
    own = {"batch": "up/{id}/{n}", "audit": "proof/{id}", "status": "state/{client_id}"}
    section = {"url": cloud.url, "client_id": "thing", "topics": own, "audit": "1s"}
    with (
        cloud.running(),
        GatewayProcess(gateway_config(tmp_path, local.url, cloud=section, windows=[])) as gateway,
    ):
        gateway.wait_ready()
        publish(local.port, [("sensors/d", json.dumps({"v": n})) for n in range(30)])
        wait_until(lambda: cloud.of(PUBLISH, "up/g1/0"), "a frame")
        wait_until(lambda: cloud.of(PUBLISH, "proof/g1"), "an audit record")
    assert cloud.of(CONNECT)[0].will_topic == "state/thing"
    assert {each.topic for each in cloud.of(PUBLISH)} == {"up/g1/0", "proof/g1", "state/thing"}
