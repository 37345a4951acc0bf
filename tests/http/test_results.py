"""What the page shows as current: the last point of each series."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.core.events import Kind
from gateway.http import results
from gateway.http.results import Results
from tests.support.buffers import append, event, opened


def result(
    minute: int, value: float, kind: str = "on_time", revision: int = 0, window: str = "w", key: str = "a"
) -> dict[str, Any]:
    bounds = {"start_ms": minute * 60_000, "end_ms": (minute + 1) * 60_000}
    return {"window": window, "key": key, "kind": kind, "revision": revision, "result": value} | bounds


def shown(path: Path, *told: dict[str, Any]) -> list[float]:
    with opened(path) as store:
        topic = "gateway/g1/aggregates/w/a"
        append(store, [event(topic, orjson.dumps(one), kind=Kind.AGGREGATE) for one in told])
    looked = Results(path)
    looked.refresh()
    ((series),) = looked.series()
    looked.close()
    return [point["result"] for point in orjson.loads(orjson.dumps(series["points"]))]


def test_a_correction_of_a_window_that_is_not_shown_any_more_is_not_the_current_value(tmp_path: Path) -> None:
    told = [result(5, 1), result(6, 2), result(1, 9, "correction", 1)]
    assert shown(tmp_path / "events.db", *told) == [9, 1, 2]


def test_an_on_time_result_behind_an_early_one_of_the_next_window(tmp_path: Path) -> None:
    told = [result(2, 24, "early"), result(1, 23)]
    assert shown(tmp_path / "events.db", *told) == [23, 24]


def test_when_full_the_oldest_goes_and_the_newest_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "KEPT_POINTS", 2)
    told = [result(5, 1), result(7, 2), result(6, 3), result(1, 9)]
    assert shown(tmp_path / "events.db", *told) == [3, 2]


def test_a_window_with_many_keys_takes_no_room_from_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "KEPT_KEYS", 20)
    monkeypatch.setattr(results, "POINTS_OF_WINDOW", 40)
    few = [result(minute, minute, window="few") for minute in range(4)]
    many = [result(minute, 1, window="many", key=f"k{key}") for minute in range(4) for key in range(30)]
    with opened(tmp_path / "events.db") as store:
        topic = "gateway/g1/aggregates/w/a"
        append(store, [event(topic, orjson.dumps(one), kind=Kind.AGGREGATE) for one in few + many])
    looked = Results(tmp_path / "events.db")
    looked.refresh()
    assert [len(series["points"]) for series in looked.series("few")] == [4]
    assert len(looked.series("many")) == len(looked.last_of("many")) == 20
    assert {len(series["points"]) for series in looked.series("many")} <= {1, 2}
    assert looked.left_out_of("many") > 0
    assert looked.left_out_of("few") == 0
    looked.close()
