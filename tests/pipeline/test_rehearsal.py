"""`gateway replay --what-if` says what two runs of `gateway replay` say, and its advice comes true."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import yaml
from typer.testing import CliRunner

from gateway.cli import app
from gateway.pipeline.limits import Limits
from plugins.threshold import Plugin as ThresholdPlugin

MESSAGES = 2000
START_MS = 1_780_000_000_000
ROUTE = {"name": "r", "topic": "s/{device}", "timestamp_path": "t", "timestamp_format": "unix_ms"}


class Site:
    """A recording with late readings, and configurations to run over it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recording = folder / "past.ndjson"
        chance = random.Random(3)
        lines = []
        for number in range(MESSAGES):
            now_ms = START_MS + 50 * number
            late_ms = chance.choice([0, 0, 0, 0, chance.randrange(2000), chance.randrange(30_000)])
            payload = {"t": now_ms - late_ms, "v": chance.randrange(800) / 8, "w": chance.choice([1, None])}
            lines.append({"topic": f"s/d{chance.randrange(4)}", "payload": payload, "time_ms": now_ms})
        self.recording.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def config(self, name: str, windows: list[dict[str, Any]]) -> Path:
        path = self.folder / f"{name}.yaml"
        routes = [ROUTE | {"timestamp": "trusted"}]
        text = {"gateway": {"id": "g", "data_dir": "d"}, "routes": routes, "windows": windows}
        path.write_text(yaml.safe_dump(text))
        return path

    def run(self, *given: str) -> str:
        done = CliRunner().invoke(app, ["replay", "--input", str(self.recording), *given])
        assert done.exit_code == 0, (done.output, done.exception)
        return done.stdout

    def results(self, config: Path) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.run("-c", str(config)).splitlines()]

    def what_if(self, before: Path, after: Path) -> dict[str, Any]:
        found = json.loads(self.run("-c", str(before), "--what-if", str(after), "--json"))
        return {one["window"]: one for one in found["windows"]}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"))


def window(**more: Any) -> dict[str, Any]:
    fixed = {"name": "a", "route": "r", "field": "v", "key": "{device}", "plugin": "stats"}
    return fixed | {"window": {"type": "tumbling", "size": "10s"}, "allowed_lateness": "5s"} | more


def changed(chance: random.Random) -> dict[str, Any]:
    """A window with one to three other settings."""
    choices: list[dict[str, Any]] = [
        {"out_of_orderness": chance.choice(["0s", "500ms", "2s", "15s"])},
        {"allowed_lateness": chance.choice(["0s", "1s", "20s"])},
        {"window": {"type": "tumbling", "size": chance.choice(["5s", "10s", "20s"])}},
        {"window": {"type": "session", "gap": chance.choice(["300ms", "1s"])}},
        {"window": {"type": "hopping", "size": "20s", "slide": "10s"}},
        {"window": {"type": "count", "count": 50}},
        {"plugin": "percentiles"},
        {"field": "w"},
        {"key": "all"},
        {"watermark": "shared", "idle_timeout": "1s"},
        {"name": "b"},
    ]
    picked = chance.sample(choices, chance.randrange(1, 4))
    return window(**{name: value for one in picked for name, value in one.items()})


def finals(results: list[dict[str, Any]]) -> dict[tuple[Any, ...], tuple[Any, int]]:
    """The last result of each window and key, as a consumer of the topic would keep them."""
    found: dict[tuple[Any, ...], tuple[Any, int]] = {}
    firings: dict[tuple[str, str], int] = {}
    for one in results:
        if one["kind"] in ("dropped", "early"):
            continue
        place = (one["window"], one["key"])
        bounds = (one["start_ms"], one["end_ms"])
        if one["start_ms"] is None:
            firings[place] = firings.get(place, 0) + 1
            bounds = (firings[place], None)
        for replaced in one["replaces"]:
            found.pop((*place, *replaced), None)
        found[*place, *bounds] = (one["result"], one["count"])
    return found


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 10))])
def test_the_differences_are_those_of_two_runs(site: Site, seed: int) -> None:
    chance = random.Random(seed)
    before = site.config(f"before{seed}", [window()])
    after = site.config(f"after{seed}", [changed(chance)])
    old, new = site.results(before), site.results(after)
    told = site.what_if(before, after)
    for name, one in told.items():
        of = [[each for each in results if each["window"] == name] for results in (old, new)]
        was, will = map(finals, of)
        assert one["added"] == len(will.keys() - was.keys())
        assert one["gone"] == len(was.keys() - will.keys())
        assert one["changed"] == sum(was[each] != will[each] for each in was.keys() & will.keys())
        assert one["results"] == {"before": len(was), "after": len(will)}
        for side, results in zip(("before", "after"), of, strict=True):
            corrections = sum(each["kind"] == "correction" for each in results)
            assert one["corrections"][side] == corrections
            assert one["messages"][side] == len(results)
        for each in one["largest"]:
            place = (name, each["key"], each["start_ms"], each["end_ms"])
            if each["start_ms"] is not None:
                assert [was[place][0], will[place][0]] == each["result"]
        sizes = [each["size"] for each in one["largest"]]
        assert sizes == sorted(sizes, reverse=True)
    assert {each["window"] for each in old + new} <= {*told}


def test_the_same_configuration_differs_in_nothing(site: Site) -> None:
    config = site.config("same", [window(out_of_orderness="1s")])
    (one,) = site.what_if(config, config).values()
    assert (one["added"], one["gone"], one["changed"], one["largest"]) == (0, 0, 0, [])
    assert "the same" in site.run("-c", str(config), "--what-if", str(config))


@pytest.mark.parametrize(
    "more",
    [
        {},
        pytest.param({"watermark": "shared", "key": "all", "idle_timeout": "1h"}, marks=pytest.mark.slow),
    ],
)
def test_the_curve_says_what_a_setting_really_costs(site: Site, more: dict[str, Any]) -> None:
    before = site.config("before", [window(**more, out_of_orderness="0s")])
    curve = site.what_if(before, before)["a"]["advice"]["curve"]
    assert len(curve) > 10
    for point in curve[:: len(curve) // 3]:
        setting = f"{point['out_of_orderness_ms']}ms"
        after = site.config("after", [window(**more, out_of_orderness=setting)])
        one = site.what_if(before, after)["a"]
        assert one["dropped_readings"]["after"] == pytest.approx(point["dropped"], abs=2)


def test_with_the_suggested_settings_nothing_is_dropped_and_few_are_late(site: Site) -> None:
    before = site.config("before", [window(out_of_orderness="0s", allowed_lateness="0s")])
    advice = site.what_if(before, before)["a"]["advice"]
    names = ("out_of_orderness", "allowed_lateness", "idle_timeout")
    after = site.config("after", [window(**{name: advice[name] for name in names})])
    one = site.what_if(before, after)["a"]
    assert one["dropped_readings"]["before"] > 100
    assert one["dropped_readings"]["after"] == 0
    assert one["corrections"]["after"] <= MESSAGES // 100


def test_alarms_that_a_limit_raises_are_counted(site: Site) -> None:
    configs = [
        site.config(f"limit{limit}", [window(plugin="threshold", options={"above": limit})])
        for limit in (50, 1000)
    ]
    one = site.what_if(*configs)["a"]
    assert one["alarms"]["before"] > 0
    assert one["alarms"]["after"] == 0


@pytest.mark.parametrize(
    "options",
    [
        {"above": 50},
        {"above": 50, "clear": 45, "for": "10s"},
        {"below": 45, "of": "min", "repeat": "10s"},
    ],
)
def test_the_curve_of_limits_says_how_many_alarms_each_really_raises(
    site: Site, options: dict[str, Any]
) -> None:
    def limited(name: str, options: dict[str, Any]) -> Path:
        return site.config(name, [window(plugin="threshold", options=options)])

    (side,) = {"above", "below"} & options.keys()
    before = limited("limit", options)
    advice = site.what_if(before, before)["a"]["limit_advice"]
    assert (advice["option"], advice["configured"]) == (side, options[side])
    points = {point["limit"]: point for point in advice["curve"]}
    assert len(points) > 5
    assert points[advice["recommended"]]["alarms"] == 0  # fewer than a thousand windows
    for limit in [options[side], *[*points][1::3]]:
        moved = {"clear": limit + options["clear"] - 50} if "clear" in options else {}
        results = site.results(limited("moved", options | moved | {side: limit}))
        told = [one["result"] for one in results if one["kind"] == "on_time"]
        raised = [one for one in told if one["alert"] == "raised" and "repeated" not in one]
        assert points[limit]["alarms"] == len(raised), limit


def test_of_many_values_the_suggested_limit_lets_one_in_a_thousand_be_beyond() -> None:
    limits = Limits(ThresholdPlugin(), {"above": 5, "fields": ["v"]}, "above")
    for number in range(1, 5001):
        limits.observe(f"k{number % 3}", {"value": number / 1000, "time_ms": number})
    limits.observe("k0", {"value": math.nan, "time_ms": 1})
    limits.observe("k0", None)
    assert limits.values == 5000
    assert limits.recommended == 5.0  # 4.995, rounded up
    assert limits.cost(4.9901)["alarms"] == 3
    below = Limits(ThresholdPlugin(), {"below": 5, "fields": ["v"]}, "below")
    for number in range(1, 5001):
        below.observe("k", {"value": -number / 1000, "time_ms": number})
    assert below.recommended == -5.0


def test_the_report_for_people_and_the_plot_show_the_limits(site: Site, tmp_path: Path) -> None:
    config = site.config("shown", [window(plugin="threshold", options={"above": 50})])
    plot = tmp_path / "limits.svg"
    text = site.run("-c", str(config), "--what-if", str(config), "--plot", str(plot))
    assert "what each limit costs (it is 50 now):" in text
    assert " alarms  " in text
    texts = [one.text for one in ET.parse(plot).getroot().iter("{http://www.w3.org/2000/svg}text")]  # noqa: S314
    assert "a: limit" in texts


def test_the_plot_is_a_picture_with_a_curve_per_window(site: Site, tmp_path: Path) -> None:
    config = site.config("plotted", [window(), window(name="second", out_of_orderness="1s")])
    site.run("-c", str(config), "--what-if", str(config), "--plot", str(tmp_path / "cost.svg"))
    picture = ET.parse(tmp_path / "cost.svg").getroot()  # noqa: S314 - our own
    assert len(picture.findall(".//{*}polyline")) == 4
    assert "second" in [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
