"""A window engine with one window, driven by short calls, for tests that draw timelines."""

from __future__ import annotations

from typing import Any

from gateway.core.events import Emission, FieldValue, Reading, Sample
from gateway.pipeline.plugins_loader import load_file, shipped_directory
from gateway.windows.engine import WindowEngine, gathered
from gateway.windows.plugin import CombineFn
from gateway.windows.spec import WindowSpec

Row = tuple[str, bytes, bytes]


def shipped(name: str, **options: object) -> CombineFn:
    """A plugin that ships, set up."""
    plugin: Any = load_file(shipped_directory() / f"{name}.py")
    if hasattr(plugin, "setup"):
        plugin.setup({"fields": ["value"], **options})
    return plugin  # type: ignore[no-any-return]


def spec(type: str = "tumbling", **more: Any) -> WindowSpec:  # noqa: A002 - the word of the configuration
    """A window called w with the key in the payload; topics `t/...` are its sources."""
    given: dict[str, Any] = {"name": "w", "type": type, "key": "{key}", "topic": "t/#"} | more
    return WindowSpec(**given)


class FailsOnNegative:
    """A plugin that adds up, and fails on negative readings."""

    def create_accumulator(self) -> Any:
        return 0.0

    def add_input(self, acc: Any, reading: Reading) -> Any:
        if reading.value < 0:
            raise ValueError("negative")
        return acc + reading.value

    def merge_accumulators(self, accumulators: Any) -> Any:
        return sum(accumulators)

    def extract_output(self, acc: Any) -> Any:
        return acc


class Timeline:
    """Feeds events by hand. Arrival time is the highest event time so far, unless `at` says otherwise."""

    def __init__(self, window: WindowSpec, plugin: CombineFn | None = None) -> None:
        self.window = window
        self.plugin = plugin or shipped("stats")
        self.engine = WindowEngine([window], {"w": self.plugin})
        self.now_ms = -(1 << 40)
        self.rows: dict[tuple[str, bytes], bytes | None] = {}

    @property
    def counters(self) -> Any:
        return self.engine.counters["w"]

    def event(
        self,
        time_ms: int,
        value: FieldValue = 1.0,
        *,
        key: str = "k",
        source: str = "s",
        at: int | None = None,
    ) -> list[Emission]:
        return self.sample(time_ms, {"key": key, "value": value}, source=source, at=at)

    def sample(
        self, time_ms: int, fields: dict[str, FieldValue], *, source: str = "s", at: int | None = None
    ) -> list[Emission]:
        self.now_ms = max(self.now_ms, time_ms) if at is None else at
        return gathered(self.engine.process(f"t/{source}", None, {}, [Sample(time_ms, fields)], self.now_ms))

    def tick(self, now_ms: int) -> list[Emission]:
        self.now_ms = now_ms
        return gathered(self.engine.advance(now_ms))

    def end(self) -> list[Emission]:
        return self.engine.flush()

    def restarted(self) -> Timeline:
        """The same timeline in a new engine, out of a checkpoint."""
        self.rows.update({(window, row): state for window, row, state in self.engine.take_changes()})
        fresh = Timeline(self.window, self.plugin)
        fresh.now_ms, fresh.rows = self.now_ms, dict(self.rows)
        notes = fresh.engine.restore([(*at, state) for at, state in self.rows.items() if state is not None])
        assert notes == []
        return fresh


def seen(emissions: list[Emission]) -> list[tuple[object, ...]]:
    """(kind, start, end, sum) of results, (kind, time) of what is dropped; first the key, if it is not k."""
    return [_row(one) if one.key == "k" else (one.key, *_row(one)) for one in emissions]


def _row(one: Emission) -> tuple[object, ...]:
    if one.kind == "dropped":
        return one.kind, one.event_time_ms
    result: Any = one.result
    total = result["sum"] if isinstance(result, dict) and "sum" in result else result
    return one.kind, one.start_ms, one.end_ms, total
