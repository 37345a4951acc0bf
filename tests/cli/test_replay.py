"""`gateway replay`: recorded events in, the windows' results out."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from gateway.cli.replay import replay
from gateway.core.errors import ConfigError, PluginError
from gateway.pipeline.replay import ReplayError, plain_samples

app = typer.Typer()
app.command()(replay)

ROUTE = {"name": "r", "topic": "in/{device}", "decoder": "json", "fields": {"key": "key", "value": "value"}}


class Recording:
    """A configuration with one window, and a file of events."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: list[str] = []

    def config(self, window: dict[str, Any], **more: Any) -> None:
        given = {"name": "w", "route": "r", "field": "value", "key": "{key}", "window": window} | more
        text = {"gateway": {"id": "x", "data_dir": "d"}, "routes": [ROUTE], "windows": [given]}
        (self.folder / "gateway.yaml").write_text(json.dumps(text))

    def event(self, time_ms: Any, payload: Any, topic: str = "in/d") -> None:
        self.lines.append(json.dumps({"topic": topic, "payload": payload, "time_ms": time_ms}))

    def value(self, time_ms: int, value: Any = 1, key: str = "k") -> None:
        self.event(time_ms, {"key": key, "value": value})

    def run(self, *args: str) -> Any:
        (self.folder / "in.ndjson").write_text("\n".join(self.lines) + "\n")
        given = ["-c", str(self.folder / "gateway.yaml"), "--input", str(self.folder / "in.ndjson"), *args]
        return CliRunner().invoke(app, given)

    def results(self, *args: str) -> list[dict[str, Any]]:
        result = self.run(*args)
        assert result.exit_code == 0, (result.output, result.exception)
        return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    return Recording(tmp_path)


TUMBLING = {"type": "tumbling", "size": "10ms"}


def test_results_are_lines_of_the_aggregate_payload(recording: Recording) -> None:
    recording.config(TUMBLING)
    recording.value(1, 20)
    recording.value(2, 22)
    (result,) = recording.results()
    assert {**result, "result": result["result"]["sum"]} == {
        "window": "w",
        "key": "k",
        "start_ms": 0,
        "end_ms": 10,
        "kind": "on_time",
        "revision": 0,
        "count": 2,
        "result": 42.0,
        "replaces": [],
    }


def test_late_events_are_lines_of_their_own_in_order(recording: Recording) -> None:
    recording.config(TUMBLING, allowed_lateness="5ms", watermark="shared")
    for time_ms in (1, 12, 3, 15, 4):
        recording.value(time_ms)
    results = recording.results("--no-flush")
    assert [(one["kind"], one.get("revision")) for one in results[:2]] == [("on_time", 0), ("correction", 1)]
    assert results[2:] == [{"window": "w", "key": "k", "kind": "dropped", "event_time_ms": 4}]


def test_an_event_that_is_late_for_several_windows_is_one_line(recording: Recording) -> None:
    recording.config({"type": "sliding", "size": "30ms", "slide": "10ms"})
    recording.value(100)
    recording.value(25)
    assert [one["event_time_ms"] for one in recording.results("--no-flush")] == [25]


def test_the_end_of_input_closes_what_is_open_unless_told_not_to(recording: Recording) -> None:
    recording.config(TUMBLING)
    recording.value(1)
    assert len(recording.results()) == 1
    assert recording.results("--no-flush") == []


def test_a_payload_may_be_text_or_json(recording: Recording) -> None:
    recording.config(TUMBLING)
    recording.event(1, '{"key": "k", "value": 1}')
    recording.event(2, {"key": "k", "value": 2})
    recording.event(3, "not json {")
    (result,) = recording.results()
    assert result["result"]["sum"] == 3.0
    assert "1 payloads not decoded" in recording.run().stderr


def test_a_window_over_topics_reads_what_no_route_takes(recording: Recording) -> None:
    recording.config(TUMBLING, route=None, topic="plain/{room}", key="{room}")
    recording.event(1, "21.5", topic="plain/hall")
    recording.event(2, 22.5, topic="plain/hall")
    recording.event(3, {"value": 24.0}, topic="plain/hall")
    recording.event(4, "text", topic="plain/hall")
    (result,) = recording.results()
    assert (result["key"], result["count"], result["result"]["sum"]) == ("hall", 3, 68.0)


def test_the_arrival_time_is_the_event_time_where_the_route_finds_none(recording: Recording) -> None:
    recording.config(TUMBLING, out_of_orderness="100ms")
    for time_ms in (30, 1, 12):
        recording.value(time_ms)
    assert [one["start_ms"] for one in recording.results()] == [0, 10, 30]


def test_processing_time_is_the_highest_time_so_far(recording: Recording) -> None:
    recording.config(TUMBLING, key="", idle_timeout="50ms", watermark="shared")
    recording.value(1)
    recording.event(40, "", topic="elsewhere")
    recording.event(20, "", topic="elsewhere")
    recording.event(51, "", topic="elsewhere")
    assert len(recording.results("--no-flush")) == 1


def test_the_same_input_gives_the_same_output(recording: Recording, tmp_path: Path) -> None:
    recording.config({"type": "session", "gap": "20ms"}, allowed_lateness="40ms", early={"count": 3})
    for number in range(500):
        recording.value(number * 7 % 301 + number, number, key=f"k{number % 5}")
    outputs = []
    for name in ("one", "two"):
        assert recording.run("--output", str(tmp_path / name)).exit_code == 0
        outputs.append((tmp_path / name).read_bytes())
    assert outputs[0] == outputs[1]
    assert outputs[0].count(b"\n") > 100


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "not JSON"),
        ("[]", "not an object"),
        ('{"topic": "a", "time_ms": 1}', "not an object with"),
        ('{"topic": 1, "payload": 1, "time_ms": 1}', "topic"),
        ('{"topic": "a", "payload": 1, "time_ms": "1"}', "time_ms"),
        ('{"topic": "a", "payload": 1, "time_ms": 1.5}', "time_ms"),
        ('{"topic": "a", "payload": 1, "time_ms": true}', "time_ms"),
        ('{"topic": "a", "payload": 1, "time_ms": 1e300}', "time_ms"),
    ],
)
def test_a_bad_line_is_named_with_file_and_number(recording: Recording, line: str, complaint: str) -> None:
    recording.config(TUMBLING)
    recording.value(1)
    recording.lines += ["", line]
    error = recording.run().exception
    assert isinstance(error, ReplayError)
    assert f"in.ndjson, line 3: {complaint}" in str(error)
    assert error.hint


def test_a_missing_file_is_named(recording: Recording) -> None:
    recording.config(TUMBLING)
    result = CliRunner().invoke(app, ["-c", str(recording.folder / "gateway.yaml"), "--input", "/no/such"])
    assert result.exit_code == 2
    assert "/no/such" in result.stderr


def test_a_plugin_that_is_not_there_is_named(recording: Recording) -> None:
    recording.config(TUMBLING, plugin="stat")
    error = recording.run().exception
    assert isinstance(error, ConfigError)
    assert "stats" in error.problems[0]


def test_options_that_a_plugin_does_not_take_are_named(recording: Recording) -> None:
    recording.config(TUMBLING, options={"x": 1})
    error = recording.run().exception
    assert isinstance(error, PluginError)
    assert "window 'w'" in str(error)


def test_the_summary_counts_what_was_left_out(recording: Recording) -> None:
    recording.config(TUMBLING)
    recording.value(1)
    recording.value(2, None)
    recording.value(3, "text")
    assert "1 readings, 1 results, 2 misses" in recording.run().stderr


def test_what_no_route_takes_and_is_no_object_or_value_is_no_sample() -> None:
    assert plain_samples(b"[1]", 5) == ()
    assert plain_samples(b"\xff", 5) == ()
    assert plain_samples(b"21.5", 5)[0].fields == {"value": 21.5}


# --- cases of other engines, with the watermark driven by a clock key ---

LAG_MS = 10**9


def drive(
    recording: Recording, window: dict[str, Any], steps: list[tuple[Any, ...]], late: str = "0"
) -> list[Any]:
    """Steps are (time, key, value), or (watermark,). The results, without those of the clock."""
    recording.config(window, out_of_orderness=f"{LAG_MS}ms", allowed_lateness=late, watermark="shared")
    for step in steps:
        if len(step) == 1:
            recording.value(step[0] + LAG_MS, 0, "clock")
        else:
            recording.value(step[0], step[2], step[1])
    found = [one for one in recording.results("--no-flush") if one["key"] != "clock"]
    return [
        (one["kind"], one["key"], one.get("start_ms"), one.get("end_ms"), one.get("result", {}).get("sum"))
        for one in found
    ]


def test_a_score_that_is_late_but_allowed_corrects_and_one_that_is_not_is_dropped(
    recording: Recording,
) -> None:
    minute = 60_000
    steps = [
        (0,),
        (26_000, "x", 5),
        (144_000, "x", 7),
        (2 * minute,),
        (219_000, "x", 3),
        (259_000, "x", 4),
        (53_000, "x", 6),
        (186_000, "x", 8),
        (399_000, "x", 3),
        (4 * minute,),
        (6 * minute,),
        (85_000, "x", 9),
        (446_000, "x", 8),
        (466_000, "x", 1),
        (510_000,),
    ]
    assert drive(recording, {"type": "tumbling", "size": "2m"}, steps, "2m") == [
        ("on_time", "x", 0, 120_000, 5.0),
        ("correction", "x", 0, 120_000, 11.0),
        ("on_time", "x", 120_000, 240_000, 18.0),
        ("on_time", "x", 240_000, 360_000, 4.0),
        ("dropped", "x", None, None, None),
        ("on_time", "x", 360_000, 480_000, 12.0),
    ]


def test_a_watermark_over_empty_windows_gives_nothing(recording: Recording) -> None:
    steps = [(3_999, "b", 1), (3_000, "b", 1), (20, "a", 1), (0, "a", 1), (999, "a", 1), (1_998, "b", 1)]
    steps += [(wm_ms,) for wm_ms in range(1_000, 9_000, 1_000)]  # type: ignore[misc]
    assert drive(recording, {"type": "tumbling", "size": "3s"}, steps) == [
        ("on_time", "a", 0, 3_000, 3.0),
        ("on_time", "b", 0, 3_000, 1.0),
        ("on_time", "b", 3_000, 6_000, 2.0),
    ]


def test_a_bounded_watermark_closes_at_the_boundary(recording: Recording) -> None:
    recording.config({"type": "tumbling", "size": "1s"}, out_of_orderness="1s")
    start_ms = 1_541_152_486_000
    for offset_ms in (0, 1_000, 2_000, 2_500, 3_000, 3_500):
        recording.value(start_ms + offset_ms, 26 + offset_ms / 1_000)
    results = recording.results("--no-flush")
    assert [(one["start_ms"] - start_ms, one["result"]["sum"]) for one in results] == [
        (0, 26.0),
        (1_000, 27.0),
    ]


def test_stats_of_a_long_recording_are_those_of_an_offline_computation(recording: Recording) -> None:
    recording.config({"type": "tumbling", "size": "1m"}, out_of_orderness="10s")
    values: dict[int, list[float]] = {}
    for number in range(3_000):
        time_ms = 1_000 * number - (number * 37 % 10) * 900
        value = 20 + math.sin(number / 50) * 5
        values.setdefault(time_ms // 60_000 * 60_000, []).append(value)
        recording.value(time_ms, value)
    results = {one["start_ms"]: one for one in recording.results()}
    assert results.keys() == values.keys()
    for start_ms, found in results.items():
        assert found["count"] == len(values[start_ms])
        assert math.isclose(found["result"]["sum"], math.fsum(values[start_ms]), rel_tol=1e-12)
