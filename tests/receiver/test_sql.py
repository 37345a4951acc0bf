"""The queries of docs/sql.md, on the tables and files that the receiver writes."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from gateway.core.events import Kind, WireEvent
from gateway.receiver.device_names import DeviceNames
from gateway.receiver.sinks.choice import sink_of
from gateway.receiver.sinks.sink import Received, Sink, resume
from tests.support.postgres import new_database

HOUR_MS, MINUTE_MS = 3_600_000, 60_000
START_MS = 1_700_000_000_000 // HOUR_MS * HOUR_MS
DEVICES = DeviceNames(["tele/{device}/SENSOR"])
PAGE = (Path(__file__).parents[2] / "docs" / "sql.md").read_text()
QUERIES = {
    (title, engine): sql
    for title, section in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    for engine, sql in re.findall(r"^(PostgreSQL|SQLite|DuckDB):\n\n```sql\n(.*?)```", section, re.M | re.S)
}
Ask = Callable[[str], list[tuple[Any, ...]]]


def event(stream: str, number: int, at_ms: int, payload: bytes, kind: Kind = Kind.RAW) -> Received:
    id_ = uuid.uuid4().bytes
    return Received(
        "plant-7", WireEvent(id_, stream, number, at_ms, at_ms, None, 1, int(kind), 0, payload), "b"
    )


def result(
    number: int,
    start: int,
    end: int,
    revision: int,
    mean: float,
    *replaces: list[int],
    sources: dict[str, list[int]] | None = None,
) -> Received:
    quality = {"readings": 3, "late": 0, "dropped": 0, "misses": 0, "sources": sources}
    told: dict[str, Any] = ({} if sources is None else {"quality": quality}) | {
        **{"window": "w", "key": "a", "start_ms": start, "end_ms": end, "kind": "correction"},
        **{"revision": revision, "count": 3, "result": {"mean": mean}, "replaces": replaces, "unit": "°C"},
    }
    return event("gateway/g/aggregates/w/a", number, end, json.dumps(told).encode(), Kind.AGGREGATE)


EVENTS = [
    event("tele/a/SENSOR", 1, START_MS, b'{"T": 20}'),
    event("tele/a/SENSOR", 2, START_MS + MINUTE_MS, b"offline"),
    event("tele/a/SENSOR", 3, START_MS + 2 * MINUTE_MS, b'{"T": 22}'),
    event("tele/a/SENSOR", 4, START_MS + 3 * MINUTE_MS, b"\xff\x00"),
    event("tele/a/SENSOR", 5, START_MS + HOUR_MS, b'{"T": 30}'),
    event("tele/b/SENSOR", 1, START_MS + MINUTE_MS, b'{"T": 7.5}'),
    event("other", 1, START_MS, b'{"H": 1}'),
    *(event("holey/d", number, START_MS, b"") for number in (1, 4, 5, 7, 12)),
    result(1, START_MS, START_MS + HOUR_MS, 0, 20.0),
    result(2, START_MS, START_MS + HOUR_MS, 1, 21.0, sources={"tele/a/SENSOR": [1, 5], "holey/d": [2, 8]}),
    result(3, 1, 2, 0, 1.0),
    result(4, 1, 5, 1, 2.0, [1, 2], [3, 5]),
    result(5, 3, 5, 0, 3.0),
]


def fill(sink: Sink) -> None:
    resume(sink)
    sink.write(EVENTS)
    sink.close()


@pytest.fixture(scope="module")
def postgres(postgres_url: str) -> Iterator[Ask]:
    psycopg = pytest.importorskip("psycopg")
    url = new_database(postgres_url)
    fill(sink_of(url, DEVICES))
    with psycopg.connect(url) as connection:
        yield lambda sql: connection.execute(sql).fetchall()


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    path = tmp_path_factory.mktemp("sql") / "events.db"
    fill(sink_of(f"sqlite:///{path}", DEVICES))
    connection = apsw.Connection(str(path))
    yield lambda sql: connection.execute(sql).fetchall()
    connection.close()


@pytest.fixture(scope="module")
def duck(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    duckdb = pytest.importorskip("duckdb")
    folder = tmp_path_factory.mktemp("parquet")
    fill(sink_of(f"parquet:{folder}/events", DEVICES))
    with duckdb.connect() as connection:
        yield lambda sql: connection.execute(sql.replace("'events/", f"'{folder}/events/")).fetchall()


@pytest.fixture(params=["PostgreSQL", "SQLite", "DuckDB"])
def engine(request: pytest.FixtureRequest) -> tuple[str, Ask]:
    name = {"PostgreSQL": "postgres", "SQLite": "sqlite", "DuckDB": "duck"}[request.param]
    return request.param, request.getfixturevalue(name)


def answer(engine: tuple[str, Ask], title: str) -> list[tuple[Any, ...]]:
    name, ask = engine
    return ask(QUERIES[title, name])


def test_the_last_value_of_each_device(engine: tuple[str, Ask]) -> None:
    rows = answer(engine, "The last value of each device")
    assert [(row[0], float(row[2])) for row in rows] == [("a", 30.0), ("b", 7.5)]


def test_the_hourly_mean(engine: tuple[str, Ask]) -> None:
    rows = answer(engine, "Hourly mean")
    found = [(device, float(mean), count) for device, _, mean, count in rows]
    assert found == [("a", 21.0, 2), ("a", 30.0, 1), ("b", 7.5, 1)]


def test_the_silences(engine: tuple[str, Ask]) -> None:
    ((stream, *_),) = answer(engine, "Gaps")
    assert stream == "tele/a/SENSOR"


def test_late_corrections_beside_what_was_told_first(engine: tuple[str, Ask]) -> None:
    rows = answer(engine, "Late corrections")
    found = [row[3:] for row in rows if "21" in str(row[4])]
    ((first, newest, revision),) = found
    assert [json.loads(one) if isinstance(one, str) else one for one in (first, newest)] == [
        {"mean": 20.0},
        {"mean": 21.0},
    ]
    assert revision == 1


def test_windows_with_holes_and_their_missing_numbers(engine: tuple[str, Ask]) -> None:
    rows = answer(engine, "Windows with holes")
    assert [row[:4] for row in rows] == [("w", "a", START_MS, "holey/d")] * 3
    assert [row[4:] for row in rows] == [(2, 3), (6, 6), (8, 8)]


@pytest.mark.parametrize("tables", ["postgres", "sqlite"])
def test_the_view_shows_the_newest_revision_and_nothing_that_was_replaced(
    tables: str, request: pytest.FixtureRequest
) -> None:
    rows = request.getfixturevalue(tables)(
        "SELECT start_ms, end_ms, revision FROM gateway_aggregates ORDER BY start_ms"
    )
    assert rows == [(1, 5, 1), (START_MS, START_MS + HOUR_MS, 1)]


def test_the_view_has_the_unit_of_a_result(engine: tuple[str, Ask]) -> None:
    name, ask = engine
    if name == "DuckDB":
        pytest.skip("it has no views of ours")
    assert {unit for (unit,) in ask("SELECT unit FROM gateway_aggregates")} == {"°C"}


def test_the_index_is_used(sqlite: Ask) -> None:
    plan = sqlite(
        "EXPLAIN QUERY PLAN SELECT json FROM gateway_readings WHERE stream = 'a' AND event_time_ms > 5"
    )
    assert "gateway_events_time (stream=? AND event_time_ms>?)" in str(plan)


def test_each_recipe_is_there_for_each_engine() -> None:
    assert len(QUERIES) == 15


def test_a_route_needs_a_device() -> None:
    with pytest.raises(ValueError, match=r"no level \{device\}"):
        DeviceNames(["tele/{name}/SENSOR"])
