"""The shipped Prometheus rules, the Grafana dashboard and the docs name only what a gateway has."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from gateway.wire.signatures import new_key
from tests.support.gateways import GatewayProcess, gateway_config
from tests.support.places import ROOT
from tests.support.ports import free_port

MONITORING = ROOT / "docker" / "monitoring"
# What in a query is no metric: PromQL's own words, and the labels and values between braces, which go first.
WORDS = {
    *("sum", "max", "min", "count", "topk", "by", "on", "and", "or", "unless", "rate", "increase", "deriv"),
    *("predict_linear", "max_over_time", "vector", "time"),
}
TABLES = {  # of a receiver, and what is made of them
    *("gateway_events", "gateway_receiver", "gateway_rejected", "gateway_records"),
    *("gateway_readings", "gateway_aggregates", "gateway_json"),
}
LABELS = {
    *(
        "site",
        "version",
        "name",
        "source",
        "state",
        "instance",
        "window",
        "route",
        "reason",
        "status",
        "link",
    ),
    *("thread", "outcome"),
}


RULES = ("alerts.yml", "fleet-alerts.yml")
DASHBOARDS = ("grafana-dashboard.json", "grafana-fleet.json")


def rules(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load((MONITORING / name).read_text())["groups"][0]["rules"])


def panels(name: str) -> list[dict[str, Any]]:
    return list(json.loads((MONITORING / name).read_text())["panels"])


def queries() -> set[str]:
    found = {rule["expr"] for name in RULES for rule in rules(name)}
    return found | {
        target["expr"] for name in DASHBOARDS for one in panels(name) for target in one["targets"]
    }


def metrics_of(query: str) -> set[str]:
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\"[^\"]*\"", " ", query)
    return set(re.findall(r"[a-zA-Z_][a-zA-Z0-9_]+", bare)) - WORDS - LABELS


def metrics_in_docs() -> set[str]:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    names = (
        re.findall(r"\bgateway_[a-z0-9_]+[a-z0-9]\b(?![*/.])", page.read_text("utf-8")) for page in pages
    )
    return set().union(*names) - TABLES


def test_every_query_and_every_page_names_metrics_that_exist(tmp_path: Path) -> None:
    local = {"url": "embedded", "listen": f"127.0.0.1:{free_port()}"}
    cloud = {
        "url": "mqtt://127.0.0.1:9",
        "confirm": "receiver",
        "downlink": [{"topic": "cmnd/{rest...}", "qos": 1}],
    }
    route = {"name": "kept", "topic": "kept/{device}", "forward": False}
    (tmp_path / "fleet.pub").write_bytes(new_key()[1])
    pull = {"url": "https://127.0.0.1:9/"}
    far = {"accept": "signed", "public_key_file": "fleet.pub", "pull": pull}
    sections: dict[str, Any] = {"local": local, "cloud": cloud, "routes": [route], "windows": []}
    config = gateway_config(tmp_path, "embedded", config=far, history={}, **sections)
    with GatewayProcess(config) as gateway:
        gateway.wait_ready()
        families = [*text_string_to_metric_families(gateway.get("/metrics") or "")]
    known = {f"{f.name}_total" if f.type == "counter" else f.name for f in families} | {"up"}
    asked = set().union(*map(metrics_of, queries()))
    assert len(asked) > 20
    assert asked - known == set()
    assert metrics_in_docs() - known == set()


def test_every_rule_says_what_to_do_and_every_panel_has_a_place() -> None:
    for rule in (one for name in RULES for one in rules(name)):
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
    for name in DASHBOARDS:
        places = [tuple(panel["gridPos"].values()) for panel in panels(name)]
        assert len({*places}) == len(places)
        assert len({panel["id"] for panel in panels(name)}) == len(places)


def test_rules_and_panels_of_a_fleet_tell_the_sites_apart() -> None:
    for rule in rules("fleet-alerts.yml"):
        assert "site" in rule["expr"] or "version" in rule["expr"]
    for panel in panels("grafana-fleet.json"):
        assert all('site=~"$site"' in target["expr"] for target in panel["targets"])


@pytest.mark.parametrize(
    "arguments",
    [
        *(("check", "alerts.yml"), ("check", "fleet-alerts.yml")),
        *(("test", "fleet-alerts-test.yml"), ("test", "fleet-alerts-week-test.yml")),
    ],
    ids=" ".join,
)
def test_promtool_takes_the_rules_and_they_fire_when_they_should(arguments: tuple[str, str]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("there is no promtool; on Debian: apt-get install prometheus")
    done = subprocess.run(
        [promtool, arguments[0], "rules", arguments[1]],
        cwd=MONITORING,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
