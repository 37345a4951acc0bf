"""Routes that read Sparkplug's data read the births too, whether the file names them or not."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from gateway.config import Config, parse_config
from gateway.config.checks import warnings_of
from gateway.core.events import Priority


def config_of(*routes: Mapping[str, object]) -> Config:
    return parse_config(json.dumps({"gateway": {"id": "g"}, "routes": list(routes)}))


def filters(config: Config) -> set[str]:
    return {route.topic.removeprefix("spBv1.0/") for route in config.birth_routes}


@pytest.mark.parametrize(
    ("topic", "added"),
    [
        ("spBv1.0/east/{type}/{node}/{device}", {"east/NBIRTH/{node}", "east/NDEATH/{node}"}),
        ("spBv1.0/east/NDATA/{node}", {"east/NBIRTH/{node}", "east/NDEATH/{node}"}),
        (
            "spBv1.0/{group}/DDATA/press/+",
            {
                *("{group}/NBIRTH/press", "{group}/NDEATH/press"),
                *("{group}/DBIRTH/press/+", "{group}/DDEATH/press/+"),
            },
        ),
        (
            "spBv1.0/east/DDATA/{path...}",
            {
                *("east/NBIRTH/+", "east/NDEATH/+", "east/DBIRTH/{path...}", "east/DDEATH/{path...}"),
            },
        ),
        ("spBv1.0/east/{type}/{node}", set()),
        ("spBv1.0/#", set()),
        ("plant/{type}/{node}/{device}/x", set()),
    ],
)
def test_births_and_deaths_that_no_route_reads_are_subscribed_to(topic: str, added: set[str]) -> None:
    config = config_of({"name": "plant", "topic": topic, "decoder": "sparkplug_b", "priority": "high"})
    assert filters(config) == added
    assert {route.priority for route in config.birth_routes} <= {Priority.HIGH}
    specs = config.route_specs()
    assert len({spec.name for spec in specs}) == len(specs) == 1 + len(added)
    assert warnings_of(config) == ()


def test_a_preset_with_the_topic_of_one_group_reads_the_births_of_its_nodes() -> None:
    config = config_of({"preset": "sparkplug", "topic": "spBv1.0/east/{type}/{node}/{device}"})
    assert filters(config) == {"east/NBIRTH/{node}", "east/NDEATH/{node}"}
    assert filters(config_of({"preset": "sparkplug"})) == set()


def test_births_that_another_entry_reads_are_not_read_twice() -> None:
    data = {"name": "data", "topic": "spBv1.0/{group}/DDATA/{node}/{device}", "decoder": "sparkplug_b"}
    births = [
        {"name": kind, "topic": f"spBv1.0/+/{kind}/{levels}", "decoder": "sparkplug_b"}
        for kind, levels in (("NBIRTH", "+"), ("NDEATH", "+"), ("DBIRTH", "+/+"))
    ]
    assert filters(config_of(data, *births)) == {"{group}/DDEATH/{node}/{device}"}
    other = data | {"name": "more", "topic": "spBv1.0/{g}/DDATA/{n}/{d}"}
    assert len(filters(config_of(data, other))) == 4


@pytest.mark.parametrize(("said", "asks"), [("off", False), (False, False), ("auto", True), (None, True)])
def test_nodes_may_be_left_in_peace(said: object, asks: bool) -> None:
    entry = {"preset": "sparkplug"} | ({} if said is None else {"rebirth": said})
    assert [spec.rebirth for spec in config_of(entry).route_specs()] == [asks, asks]
